"""What shells complete: verbs, options and their values, and the names that there are.

``model`` reads what there is to complete where it is said: from click's commands, and from what
``usernsctl-exec --help`` tells. A module for each shell makes a script of it. So a key press starts
no program; only names are asked for, by ``names``, which takes no click.
"""
