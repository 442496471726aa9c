"""What shells complete: verbs, options and their values, and the names that there are.

``model`` reads what there is to complete from the parsers of the verbs, and from what
``usernsctl-exec --help`` prints. A module for each shell makes a script of it. So a key press
starts no program; only names are asked for, by ``names``, which imports no parser.
"""
