"""Check that the links in README.md, docs/ and other pages work on code hosting sites.

Sphinx checks the same links, but also accepts its own anchors of headings. This script requires
that the target of a link is a file of the tree, and the fragment the anchor of a heading in that
file.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin

TREE = Path(__file__).resolve().parent.parent
# Sphinx copies or generates the pages in these directories of docs/.
GENERATED = ("project", "verbs")


def tokens(page: Path) -> Iterator[Token]:
    """Yield the tokens of a page, with the anchors that code hosting sites create for headings."""
    for block in (
        MarkdownIt().enable("table").use(anchors_plugin, max_level=6).parse(page.read_text())
    ):
        yield from (block, *(block.children or ()))


@functools.cache
def anchors(page: Path) -> set[object]:
    return {token.attrs.get("id") for token in tokens(page)}


def faults(page: Path) -> Iterator[str]:
    """Yield the broken links of a page."""
    for link in tokens(page):
        target, _, fragment = str(link.attrs.get("href", link.attrs.get("src", "#"))).partition("#")
        path = page.parent / target if target else page
        if ":" in target:
            continue
        if not path.exists():
            yield f"{target}: there is no such file"
        elif fragment and path.suffix == ".md" and fragment not in anchors(path):
            yield f"{target}#{fragment}: there is no such heading"


def main() -> int:
    """Print the broken links, and return the exit status."""
    below = (page for page in TREE.glob("docs/**/*.md") if page.parent.name not in GENERATED)
    pages = sorted([*TREE.glob("*.md"), *below])
    wrong = [f"{page.relative_to(TREE)}: {fault}" for page in pages for fault in faults(page)]
    print("".join(f"{line}\n" for line in wrong), end="", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
