"""Print CHANGELOG.md's section about a version as release notes: release_notes.py VERSION."""

from __future__ import annotations

import re
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]

_HEADING = re.compile(r"## \[([^]]+)\](?: - \d{4}-\d\d-\d\d)?")


class NoNotes(Exception):
    """Error for a version without release notes. The message is the reason."""


def notes(changelog: str, wanted: str) -> str:
    """Return CHANGELOG.md's section about a version, with each paragraph and list item in one line.

    Code hosting sites show the line breaks of release notes, so there must be none in a paragraph.

    :raises NoNotes: the section is missing or empty.
    """
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in changelog.splitlines():
        heading = _HEADING.fullmatch(line)
        if heading:
            lines = sections.setdefault(heading[1], [])
        elif lines and lines[-1] and line.strip() and not line.startswith(("#", "- ")):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    if wanted not in sections:
        there = ", ".join(sections) or "none"
        raise NoNotes(
            f"CHANGELOG.md has no section of {wanted}, only of: {there}. "
            f'Call what is to be released "## [{wanted}] - YEAR-MONTH-DAY"'
        )
    text = "\n".join(sections[wanted]).strip()
    if not text:
        raise NoNotes(f"CHANGELOG.md says nothing of {wanted}")
    return f"{text}\n"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: release_notes.py VERSION")
    try:
        print(notes((TREE / "CHANGELOG.md").read_text(), sys.argv[1]), end="")
    except NoNotes as fault:
        sys.exit(f"release_notes.py: {fault}")


if __name__ == "__main__":
    main()
