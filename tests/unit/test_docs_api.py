"""Tests that the API reference lists all public names, and no parameters that don't exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import usernsctl

PACKAGE = Path(usernsctl.__file__).parent
REFERENCE = Path(__file__).parents[2] / "docs" / "api"


def test_reference_lists_each_public_name_once() -> None:
    # Omit ray.rst, which documents usernsctl.contrib.ray: a test in tests/on_ray checks that page.
    pages = set(REFERENCE.glob("*.rst")) - {REFERENCE / "ray.rst"}
    text = "\n".join(page.read_text() for page in pages)
    found = re.findall(
        r"^\.\. (?:auto)?(?:function|class|exception|data):: (\w+)$", text, re.MULTILINE
    )
    assert sorted(found) == sorted(usernsctl.__all__)


def test_reference_index_lists_each_page() -> None:
    table, _, hidden = (REFERENCE / "index.rst").read_text().partition("toctree::")
    for page in {path.stem for path in REFERENCE.glob("*.rst")} - {"index"}:
        assert f":doc:`{page}`" in table
        assert f"\n   {page}\n" in hidden


# Public names that this package defines, except constants and names from subprocess.
OURS = [
    name
    for name in usernsctl.__all__
    if getattr(getattr(usernsctl, name), "__module__", "").startswith("usernsctl")
]


@pytest.mark.parametrize("name", OURS)
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert getattr(usernsctl, name).__doc__


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Return the package's syntax tree nodes, each with its source file's path."""
    return [
        (path, node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
    ]


@cache
def classes() -> dict[str, ast.ClassDef]:
    return {node.name: node for _, node in nodes() if isinstance(node, ast.ClassDef)}


def names_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    every = node.args
    more = [one for one in (every.vararg, every.kwarg) if one is not None]
    found = {one.arg for one in [*every.posonlyargs, *every.args, *every.kwonlyargs, *more]}
    if every.kwarg is not None and every.kwarg.annotation is not None:
        # Matches Unpack[module.Name[...]], whose keywords are the keys of the TypedDict `Name`.
        listed = re.match(r"Unpack\[(?:\w+\.)*(\w+)", ast.unparse(every.kwarg.annotation))
        found |= keyword_lists()[listed[1]] if listed else set()
    return found


def fields_of(node: ast.ClassDef) -> set[str]:
    """Return the parameters of a class's constructor, or the fields of a dataclass.

    If a class has no constructor, return the parameters of the constructors of all its bases.
    """
    parameters = annotated_names(node)
    constructors = [
        part
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name in ("__init__", "__new__")
    ]
    for part in constructors:
        parameters |= names_of(part)
    if not constructors:
        bases = (classes().get(ast.unparse(base)) for base in node.bases)
        parameters |= {name for base in bases if base for name in fields_of(base)}
    return parameters


def annotated_names(node: ast.ClassDef) -> set[str]:
    return {
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


@cache
def keyword_lists() -> dict[str, set[str]]:
    """Return the keys of the package's TypedDicts, including inherited keys."""
    own = {
        name: (
            [ast.unparse(base).partition("[")[0] for base in node.bases],
            annotated_names(node),
        )
        for name, node in classes().items()
    }

    def of(name: str) -> set[str]:
        bases, fields = own.get(name, ([], set()))
        return fields.union(*map(of, bases))

    return {name: of(name) for name in own}


def documented_parameters() -> Iterator[tuple[str, str, set[str], set[str]]]:
    """Yield path, name, documented and actual parameters of each function and class."""
    for path, node in nodes():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where, parameters = node.name, names_of(node)
        elif isinstance(node, ast.ClassDef):
            where, parameters = node.name, fields_of(node)
        else:
            continue
        described = set(re.findall(r":param (\w+):", ast.get_docstring(node) or ""))
        if described:
            yield str(path.relative_to(PACKAGE)), where, described, parameters


def test_documented_parameters_exist() -> None:
    found = list(documented_parameters())
    assert len(found) > 50
    wrong = [
        (path, where, described - parameters)
        for path, where, described, parameters in found
        if described - parameters
    ]
    assert not wrong
