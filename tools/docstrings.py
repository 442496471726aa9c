"""Check that docstrings begin with a verb or a noun, not with a pronoun or a clause.

D401 of ruff checks the mood of functions, but neither classes nor properties. Files that ruff.toml
exempts from D401 are exempt here.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
_BAD_START = re.compile(r"(It|Of|One|So many|Those|What|Whether|Who|Whoever|Whose)\b")


def exempt_patterns(config: str) -> list[str]:
    """Return the file patterns of `config`, the text of ruff.toml, that are exempt from D401."""
    ignores: dict[str, list[str]] = tomllib.loads(config)["lint"]["per-file-ignores"]
    return [pattern for pattern, rules in ignores.items() if {"D", "D4", "D401"} & {*rules}]


def bad_docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and first line of each docstring with a wrong first word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and _BAD_START.match(text):
                yield node.body[0].lineno, text.partition("\n")[0]


def python_files(names: list[str]) -> Iterator[Path]:
    """Yield the Python files among `names`, which are files and folders of the tree."""
    for name in names:
        path = TREE / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main(names: list[str]) -> int:
    """Print the bad docstrings in the files and folders `names`; return the exit status."""
    exempt = exempt_patterns((TREE / "ruff.toml").read_text())
    found = False
    for path in python_files(names):
        file = str(path.relative_to(TREE))
        if any(fnmatch(file, pattern) for pattern in exempt):
            continue
        for line, text in bad_docstrings(path.read_text()):
            found = True
            print(f"{file}:{line}: begin with a verb or a noun: {text}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
