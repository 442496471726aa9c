"""Shell completion of verbs, options, values, names of namespaces and templates, and ids of causes.

``model`` collects the words from the parsers of the verbs, and from ``usernsctl-exec --help``. A
module for each shell generates a script from them, so that completion starts no program, except for
``usernsctl completion --names``, which imports no parser.
"""
