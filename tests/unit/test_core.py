"""Tests of the cffi binding, such as the types of its results; only _core may import cffi."""

from __future__ import annotations

import ast
from importlib import resources
from pathlib import Path

import pytest

import usernsctl
from usernsctl import _core


def test_cause_is_looked_up_by_its_id() -> None:
    found = _core.cause("multithreaded")
    assert "thread" in found.why
    assert found.remedy
    assert _core.cause("no-such-cause") is None
    assert _core.cause("") is None
    assert _core.cause(None) is None


def test_error_of_a_failed_mount_has_its_path() -> None:
    with pytest.raises(usernsctl.NamespaceError) as caught:
        _core.mount("none", "/no/such/dir", "tmpfs", 0, None)
    assert caught.value.step == "mount"
    assert caught.value.errno
    assert "/no/such/dir" in str(caught.value)


@pytest.mark.parametrize("argument", ["a\0b", "\0"])
def test_nul_in_a_path_raises(argument: str) -> None:
    with pytest.raises(ValueError, match="null byte"):
        _core.mount("none", argument, "tmpfs", 0, None)


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_only_core_imports_cffi() -> None:
    package = Path(str(resources.files(usernsctl)))
    others = [file for file in package.rglob("*.py") if file.parent.name != "_core"]
    assert len(others) > 50
    for file in others:
        used = imports(ast.parse(file.read_text()))
        assert not used & {"cffi", "usernsctl._native"}, file.name
