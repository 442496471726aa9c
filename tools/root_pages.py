"""A Sphinx extension that adds pages from the top directory, such as SECURITY.md, to the site.

Copies the pages to a directory in Sphinx's source directory. Changes the links in the copies, so
that they lead to the same targets, and the links in other pages, so that they lead to the copies.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

#: The directory of the copies, relative to Sphinx's source directory.
MADE = "project"
NAMES = ("README", "SECURITY", "CONTRIBUTING", "CHANGELOG")

_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s]+\))")
_ROOT = re.compile(rf"(\]\((?:\.\./)*)\.\./({'|'.join(NAMES)})\.md")


def copy_text(text: str) -> str:
    """Return the text of a page in the top directory, with links that work in its copy."""

    def moved(link: re.Match[str]) -> str:
        target = link[2]
        name = target.partition(".md")[0]
        if name in NAMES:
            return f"{link[1]}{target.replace(name, name.lower(), 1)}"
        if target.startswith("docs/"):
            return f"{link[1]}../{target.removeprefix('docs/')}"
        return f"{link[1]}../../{target}"

    return _LINK.sub(moved, text)


def link_copies(text: str) -> str:
    """Return the text of a page in docs/, with links to copies in place of the originals."""
    return _ROOT.sub(lambda link: f"{link[1]}{MADE}/{link[2].lower()}.md", text)


def write_changed(directory: Path, files: dict[str, str]) -> None:
    """Write `files` to a directory, and remove all other files there.

    A file whose content is the same keeps its modification time.
    """
    directory.mkdir(exist_ok=True)
    for path in directory.iterdir():
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        path = directory / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _write(app: Sphinx) -> None:
    docs = Path(app.srcdir)
    read = {name: (docs.parent / f"{name}.md").read_text() for name in NAMES}
    write_changed(
        docs / MADE, {f"{name.lower()}.md": copy_text(text) for name, text in read.items()}
    )


def _lead(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = link_copies(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks with Sphinx."""
    app.connect("builder-inited", _write)
    app.connect("source-read", _lead)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
