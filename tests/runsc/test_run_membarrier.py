"""Tests of the seccomp filter in csrc/sys/membarrier_filter.c, which must not affect the command.

The filter prevents runsc's own processes from registering for expedited barriers (membarrier(2)).
"""

from __future__ import annotations

import os
import sys

import pytest
from conftest import Program
from processes import status_of

import usernsctl as un

# Program that prints the results of four membarrier(2) commands: query, global barrier,
# registration for private expedited barriers, and private expedited barrier.
ASK = """
import ctypes, errno, platform, sys
call = ctypes.CDLL(None, use_errno=True).syscall
number = {"x86_64": 324}.get(platform.machine(), 283)
for command in (0, 1, 16, 8):
    print(call(number, command, 0, 0), errno.errorcode.get(ctypes.get_errno()))
"""


@pytest.mark.parametrize("options", [[], ["--platform=ptrace"]])
def test_membarrier_works_inside_as_without_the_filter(
    usernsctl: Program, options: list[str]
) -> None:
    python = os.path.realpath(sys.executable)
    shown = [] if python.startswith("/usr/") else ["--bind", sys.base_prefix]
    with_it, without = (
        usernsctl("run", *options, *shown, *more, "--", python, "-I", "-S", "-c", ASK)
        for more in ([], ["--new-privs"])
    )
    assert (with_it.returncode, with_it.stderr) == (0, "")
    assert with_it.stdout == without.stdout
    assert len(with_it.stdout.splitlines()) == 4


def test_filter_is_installed_only_with_no_new_privs() -> None:
    ours = status_of(os.getpid())["Seccomp"]
    for no_new_privs, filtered in ((True, "2"), (False, ours)):
        with (
            un.SandboxHost(no_new_privs=no_new_privs) as host,
            host.start(["sleep", "60"]) as box,
        ):
            assert status_of(box.init.pid)["Seccomp"] == filtered
