"""Tests of tools/dist/glibc.py, which checks that files work with the oldest supported glibc.

`make dist` links the extension with an old glibc and checks all files. These tests check files that
were linked with the host's glibc, and so find errors before `make dist` does.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import glibc
import pytest
from test_elf import EXTENSION, PROGRAMS

NEWER_FUNCTION = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int later(const char *text, struct stat *status)
{
    return (int)strtol(text, 0, 10) + gettid() + stat(text, status) + (int)strlen(text);
}
"""


def build(directory: Path, text: str) -> Path:
    source, target = directory / "later.c", directory / "later.so"
    source.write_text(text)
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, "-shared", "-fPIC", source, "-o", target], check=True)
    return target


def test_function_newer_than_the_oldest_glibc_is_found(tmp_path: Path) -> None:
    """Check that gettid(), which glibc has had since 2.30, is found among older functions."""
    made = build(tmp_path, NEWER_FUNCTION)
    assert {"strlen", "gettid"} <= glibc.needed(made).keys()
    assert [name for name in glibc.too_new(made) if not glibc.is_renamed(name)] == ["gettid"]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_native_programs_need_no_glibc(program: Path) -> None:
    assert glibc.needed(program) == {}


def test_extension_needs_no_newer_glibc_function() -> None:
    assert "setns" in glibc.needed(EXTENSION)
    assert [name for name in glibc.too_new(EXTENSION) if not glibc.is_renamed(name)] == []
