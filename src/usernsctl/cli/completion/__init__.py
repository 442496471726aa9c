"""Shell completion of subcommands, options, values, namespaces, templates and cause ids.

``model`` collects the words from the parsers of the subcommands, and from ``usernsctl-exec
--help``. A module for each shell generates a script that contains these words. The script starts
only one program, ``usernsctl completion --names``, which imports no parser.
"""
