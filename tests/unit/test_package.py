"""The package as it is installed: its parts are all there, and agree on the version."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

from conftest import SCRIPTS, Program

import usernsctl as un

VERSION = metadata.version("usernsctl")


def test_both_commands_tell_the_version_of_the_package(
    usernsctl: Program, prelude: Program
) -> None:
    for program in (usernsctl, prelude):
        told = program("--version")
        assert told.returncode == 0
        assert told.stdout.split()[-1] == VERSION


def test_the_wheel_fits_every_python_from_3_11() -> None:
    wheel = metadata.distribution("usernsctl").read_text("WHEEL")
    assert wheel is not None
    tags = [line.split(": ")[1] for line in wheel.splitlines() if line.startswith("Tag: ")]
    assert tags
    assert all(tag.startswith("cp311-abi3-") for tag in tags)


def test_the_extension_uses_only_the_stable_abi() -> None:
    native = importlib.import_module("usernsctl._native").__file__
    assert native is not None
    assert native.endswith(".abi3.so")


def test_the_native_programs_are_executables() -> None:
    verify = resources.files("usernsctl") / "_bin" / "usernsctl-verify"
    for program in (SCRIPTS / "usernsctl-exec", Path(str(verify))):
        assert program.read_bytes()[:4] == b"\x7fELF"
        assert os.access(program, os.X_OK)


def test_the_types_are_shipped() -> None:
    assert (resources.files("usernsctl") / "py.typed").is_file()


def test_the_package_is_not_imported_from_a_source_tree() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import usernsctl; print(usernsctl.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(sys.prefix)


def test_dir_shows_what_is_imported_when_it_is_used() -> None:
    assert {"SandboxHost", "create_subprocess_exec", "run", "__file__"} <= set(dir(un))
    assert set(un.__all__) <= set(dir(un))
    for name in un.__all__:
        assert getattr(un, name) is not None
