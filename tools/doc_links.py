"""Check the links in README.md, docs/ and other pages as code hosting sites resolve them.

Sphinx checks the same links, but also accepts its own names of headings. Here, a target must be a
file of the tree, and a fragment a heading of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"^(```+|:::+).*?^\1$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(`+).+?\1")
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def slug(heading: str) -> str:
    """Return the fragment of a heading."""
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def _without_code(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def slugs(page: Path) -> set[str]:
    """Return the fragments of a page's headings; a repeated heading gets a number."""
    found: set[str] = set()
    for heading in _HEADING.findall(_without_code(page)):
        name, number = slug(heading), 0
        while (wanted := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(wanted)
    return found


def faults(page: Path) -> Iterator[str]:
    """Yield the broken links of a page."""
    for target, fragment in _LINK.findall(_SPAN.sub("", _without_code(page))):
        path = page.parent / target if target else page
        if not path.exists():
            yield f"{target}: there is no such file"
        elif fragment and path.suffix == ".md" and fragment not in slugs(path):
            yield f"{target}#{fragment}: there is no such heading"


def pages() -> list[Path]:
    """Return the pages that are written by hand."""
    made = {TREE / "docs" / "project", TREE / "docs" / "manual" / "verbs"}
    below = (path for path in (TREE / "docs").rglob("*.md") if path.parent not in made)
    return sorted([*TREE.glob("*.md"), *below])


def main() -> int:
    """Print the broken links, and return the exit status."""
    wrong = [f"{page.relative_to(TREE)}: {fault}" for page in pages() for fault in faults(page)]
    print("".join(f"{line}\n" for line in wrong), end="", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
