"""Tests that commands of usernsctl import only the modules listed here, because imports take long.

The lists contain top-level packages and submodules of usernsctl, but no private modules of the
standard library, since public modules import them. Before you add a name to a list, consider
importing the module only where it is needed.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Program
from processes import capture

import usernsctl as un


def names(text: str) -> set[str]:
    return set(text.split())


# Packages that almost every Python program imports.
COMMON = names(
    "__future__ collections contextlib encodings enum errno functools gc importlib itertools "
    "keyword math operator reprlib signal string types warnings"
)
# Packages that `usernsctl run` needs. argparse imports gettext to translate its messages.
USED = names("argparse array codecs fcntl gettext grp locale pwd re select struct time")
VERSION = names(
    "_cffi_backend usernsctl usernsctl.__main__ usernsctl._core "
    "usernsctl._native usernsctl._lean usernsctl._system usernsctl._text usernsctl.cli "
    "usernsctl.errors usernsctl.explain"
)
RUN = VERSION | names("usernsctl.commands usernsctl.gvisor usernsctl.maps")

# Program that prints all imported modules, and separately those imported after it has entered a
# mount namespace. The program prints both lists before the core executes another program, or at
# exit.
TOLD = """
import json, os, sys

before = set(sys.modules)
late = []
home = os.stat("/proc/self/ns/mnt").st_ino

def tell():
    os.write(2, json.dumps([sorted(set(sys.modules) - before), late]).encode())
    os._exit(0)

def hook(event, arguments):
    if event == "import" and os.stat("/proc/self/ns/mnt").st_ino != home:
        late.append(arguments[0])

def follow(frame, event, argument):
    if event == "call" and frame.f_code.co_qualname == "NativeLaunch.exec":
        tell()

sys.addaudithook(hook)
sys.setprofile(follow)
sys.argv = ["usernsctl", *sys.argv[1:]]
"""


def imports_of(
    code: str, *words: str, environ: dict[str, str] | None = None
) -> tuple[set[str], Any]:
    """Return a program's imported packages, and the modules imported in a new mount namespace."""
    done = capture([sys.executable, "-c", f"{TOLD}\n{code}\ntell()", *words], env=environ)
    try:
        modules, late = json.loads(done.stderr.splitlines()[-1])
    except (ValueError, IndexError):
        pytest.fail(f"status {done.returncode}: {done.stdout}{done.stderr}")
    return set(filter(None, map(root, modules))), late


def root(module: str) -> str | None:
    """Return the top-level package of `module`, or the submodule if the package is usernsctl.

    Return None for private modules of the standard library.
    """
    first, _, rest = module.partition(".")
    if first == "usernsctl" and rest:
        return f"{first}.{rest.partition('.')[0]}"
    is_private = first.startswith("_") and first in sys.stdlib_module_names
    return None if is_private and first != "__future__" else first


CALL = "from usernsctl.__main__ import main; main()"


def test_import_usernsctl_imports_importlib_only() -> None:
    found, _ = imports_of("import usernsctl")
    # Allow the module warnings, which importlib imports until Python 3.12.
    theirs = {"warnings"} if sys.version_info < (3, 13) else set()
    assert found - theirs <= {"usernsctl", "__future__", "importlib"}


def test_version_imports_neither_parser_nor_metadata() -> None:
    found, _ = imports_of(CALL, "--version")
    assert found - COMMON <= VERSION


@pytest.fixture
def runsc(tmp_path: Path) -> dict[str, str]:
    """Return environment variables in which USERNSCTL_RUNSC names a fake runsc."""
    path = tmp_path / "runsc"
    own = struct.unpack_from("<H", Path("/proc/self/exe").read_bytes(), 18)[0]
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, own, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    note = struct.pack("<III", 4, 0, 4) + b"Go\0\0"
    path.write_bytes(header + struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, 16, 16, 4) + note)
    path.chmod(0o755)
    return {**os.environ, "USERNSCTL_RUNSC": str(path)}


@pytest.mark.parametrize(
    "options",
    [
        ["--"],
        ["--bind", "/usr", "--env", "HOME", "--network=host", "--wd", "/", "--hostname", "box"],
        ["--user", "0", "--rootfs", "/", "--no-verify"],
    ],
)
def test_run_imports_nothing_inside_its_namespace(
    runsc: dict[str, str], options: list[str]
) -> None:
    found, late = imports_of(CALL, "run", *options, "true", environ=runsc)
    assert found - COMMON - USED <= RUN
    assert late == []


def test_run_in_a_named_namespace_imports_nothing_inside(
    runsc: dict[str, str], tmp_path: Path, usernsctl: Program
) -> None:
    environ = {**runsc, "XDG_RUNTIME_DIR": str(tmp_path)}
    made = usernsctl("ns", "create", "box", "-r", "-m", env=environ)
    assert made.returncode == 0, made.stderr
    try:
        _, late = imports_of(CALL, "run", "--in", "box", "true", environ=environ)
        assert late == []
        # Check that reporting an error after the process has entered the namespace imports no
        # modules, either.
        for wrong in (["--wd", "/nonsense", "true"], ["nonsense"]):
            _, late = imports_of(CALL, "run", "--in", "box", *wrong, environ=environ)
            assert late == []
    finally:
        usernsctl("ns", "remove", "box", env=environ)


# Packages with slow imports. Only the command line, event loops, bundles and templates need them.
LARGE = names("argparse asyncio dataclasses inspect msgspec random rich ssl tempfile")


def test_names_of_the_package_do_not_import_asyncio() -> None:
    found, _ = imports_of("import usernsctl; usernsctl.run; usernsctl.Namespace")
    assert not found & LARGE
    assert un.run.__module__ == "usernsctl.commands.popen"


def test_sandbox_host_does_not_import_asyncio() -> None:
    found, _ = imports_of("import usernsctl; usernsctl.SandboxHost; usernsctl.Sandbox")
    assert not found & (LARGE | names("concurrent hashlib logging pathlib"))
