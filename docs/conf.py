"""Settings of Sphinx for the site and the manual pages (`make docs`, `make man`)."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import manuals

project = "usernsctl"
author = "the authors of usernsctl"
release = version = metadata.version("usernsctl")
extensions = ["myst_parser", "sphinx.ext.autodoc", "manuals", "root_pages"]
# smartquotes would convert the two dashes of an option to an en dash.
smartquotes = False
today_fmt = "%Y-%m-%d"

myst_enable_extensions = ["colon_fence", "deflist"]
# Generate anchors for headings up to level 4, as code-hosting sites do.
myst_heading_anchors = 4

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# Optional packages that may be missing when the documentation is built.
autodoc_mock_imports = ["ray"]
autodoc_use_type_comments = False
# Show only the names of long types that occur in many signatures. docs/api/index.rst describes the
# types.
autodoc_type_aliases = {
    name: name for name in ("AnyExtent", "AnyIdMap", "Args", "Environment", "Stream")
}
# Put each parameter of a longer signature on a line of its own.
maximum_signature_line_length = 80
add_module_names = False

man_pages = manuals.manuals()

html_theme = "furo"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_title = "usernsctl"
html_show_copyright = False
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
