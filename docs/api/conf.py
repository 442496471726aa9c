"""The settings of Sphinx for the reference, which comes from docstrings of what is installed."""

from importlib import metadata

project = "usernsctl"
release = metadata.version("usernsctl")
extensions = ["sphinx.ext.autodoc"]
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_use_type_comments = False
# A parameter a line, where they don't fit into one.
maximum_signature_line_length = 80
add_module_names = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {"nosidebar": True, "page_width": "60rem"}
