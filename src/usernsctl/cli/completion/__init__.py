"""Shell completion of verbs, options, values, names of namespaces and templates, and ids of causes.

``model`` collects the words from the parsers of the verbs, and from ``usernsctl-exec --help``. A
module for each shell generates a script with these words. So completion starts no program except
``usernsctl completion --names``, which imports no parser.
"""
