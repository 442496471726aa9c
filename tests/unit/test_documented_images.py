"""Tests of the Dockerfiles in the documentation, without Docker."""

from __future__ import annotations

import re
from pathlib import Path

TREE = Path(__file__).parents[2]
PAGES = [TREE / "README.md", *sorted(TREE.glob("docs/**/*.md"))]
RECIPE = re.compile(r"^```dockerfile\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A source of COPY in the build context: COPY --from= copies from an image instead.
COPIED = re.compile(r"^COPY (?!--from)(\S+) ", re.MULTILINE)
# Directories of the clone that .dockerignore does not hide from Docker.
SHOWN = re.compile(r"^!(\w+)$", re.MULTILINE)


def test_documented_dockerfiles_copy_no_file_that_dockerignore_hides() -> None:
    """Check that a path in the clone, such as examples/server.py, is visible to Docker.

    A name without a slash is a file of the directory that the reader passes to `docker build`.
    """
    shown = SHOWN.findall((TREE / ".dockerignore").read_text())
    assert "src" in shown
    recipes = [recipe for page in PAGES for recipe in RECIPE.findall(page.read_text())]
    copied = [path for recipe in recipes for path in COPIED.findall(recipe)]
    assert len(copied) > 2
    hidden = [path for path in copied if "/" in path and path.partition("/")[0] not in shown]
    assert hidden == []
