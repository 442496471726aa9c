"""Tests of the installed package: its files, imports and version."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import zipfile
from importlib import metadata, resources
from pathlib import Path

import pytest
from conftest import SCRIPTS, Program
from processes import capture

import usernsctl as usernsctl_package

VERSION = metadata.version("usernsctl")


def test_both_commands_print_the_version_of_the_package(
    usernsctl: Program, prelude: Program
) -> None:
    for program in (usernsctl, prelude):
        done = program("--version")
        assert done.returncode == 0
        assert done.stdout.split()[-1] == VERSION


def test_wheel_has_tags_of_the_stable_abi_of_python_3_11() -> None:
    wheel = metadata.distribution("usernsctl").read_text("WHEEL")
    tags = [line.split(": ")[1] for line in wheel.splitlines() if line.startswith("Tag: ")]
    assert tags
    assert all(tag.startswith("cp311-abi3-") for tag in tags)


def test_extension_uses_the_stable_abi() -> None:
    native = importlib.import_module("usernsctl._native").__file__
    assert native.endswith(".abi3.so")


def test_native_programs_are_executable() -> None:
    verify = resources.files("usernsctl") / "_bin" / "usernsctl-verify"
    for program in (SCRIPTS / "usernsctl-exec", Path(str(verify))):
        assert program.read_bytes()[:4] == b"\x7fELF"
        assert os.access(program, os.X_OK)


def test_package_has_py_typed() -> None:
    assert (resources.files("usernsctl") / "py.typed").is_file()


def test_package_is_not_imported_from_a_source_tree() -> None:
    found = capture(
        [sys.executable, "-c", "import usernsctl; print(usernsctl.__file__)"], check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(sys.prefix)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return capture([sys.executable, *arguments, "-c", code])


def test_import_usernsctl_imports_nothing_until_a_name_is_used() -> None:
    code = (
        "import sys, usernsctl as un\n"
        "ours = lambda: {name for name in sys.modules if name.startswith('usernsctl')}\n"
        "assert ours() == {'usernsctl'}, ours()\n"
        "assert {n for n in dir(un) if not n.startswith('__')} == set(un.__all__)\n"
        "un.IdMap.root()\n"
        # The first use of any name imports all modules, because the process may later be unable to
        # read the package.
        "before = ours()\n"
        "for name in {*un.__all__} - {*un._APART, *un._MODULES}: getattr(un, name)\n"
        "assert ours() == before\n"
        "assert hasattr(un, 'nonsense') is False\n"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_version_is_that_of_the_distribution() -> None:
    assert usernsctl_package.__version__ == metadata.version("usernsctl")


@pytest.mark.parametrize("name", usernsctl_package.__all__)
def test_public_names_are_those_imported_for_type_checkers(name: str) -> None:
    tree = ast.parse(Path(usernsctl_package.__file__).read_text())
    sources = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    there = importlib.import_module(sources[name])
    assert getattr(usernsctl_package, name) is getattr(there, name)


def test_import_from_an_archive_raises(tmp_path: Path) -> None:
    archive = tmp_path / "app.pyz"
    package = Path(usernsctl_package.__file__).parent
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*"):
            file.write(path, path.relative_to(package.parent))
        file.writestr("__main__.py", "import usernsctl")
    imported = python(f"import sys; sys.path.insert(0, {str(archive)!r}); import usernsctl")
    run = capture([sys.executable, archive])
    for done in (imported, run):
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith(
            f"ImportError: the programs of usernsctl can't be executed from the archive {archive}/"
        )
        assert "install usernsctl into a directory" in last
