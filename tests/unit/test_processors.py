"""Tests that a build for an unsupported processor fails with an explanation."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from processes import capture

TREE = Path(__file__).parents[2]
SUPPORTED = "usernsctl supports x86-64 and AArch64 only"

COMPILER = """#!/bin/sh
echo s390x-linux-gnu
"""


def test_setup_fails_for_another_processor(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(TREE / name, tmp_path / name)
    shutil.copytree(TREE / "csrc", tmp_path / "csrc")
    compiler = tmp_path / "cc"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    done = capture(
        [sys.executable, "setup.py", "build_ext"],
        cwd=tmp_path,
        env=os.environ | {"CC": str(compiler)},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (f"error: {SUPPORTED}; {compiler} compiles for s390x")


@pytest.mark.parametrize("option", ["-U__x86_64__", "-U__AARCH64EL__", "-U__LP64__"])
def test_core_does_not_compile_for_another_processor(option: str) -> None:
    """Check that the core does not compile without the predefined macros of this processor.

    For example, ``gcc -mx32`` does not define ``__LP64__``.
    """
    is_of_another = (
        option
        not in {
            "x86_64": "-U__AARCH64EL__",
            "aarch64": "-U__x86_64__",
        }[os.uname().machine]
    )
    done = capture(
        ["cc", f"-I{TREE}/csrc", option, "-fsyntax-only", "-x", "c", "-"],
        input='#include "include/usernsctl.h"\n',
    )
    assert (SUPPORTED in done.stderr) == is_of_another
