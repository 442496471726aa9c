"""Tests of usernsctl-child with failing system calls; Python's own calls succeed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import usernsctl as un
from usernsctl._core import calls

pytestmark = pytest.mark.userns_requires("strace")


@pytest.fixture
def fail_in_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that injects a fault into each usernsctl-child that starts later.

    The function's argument is a fault in the form of strace's ``-e inject=``.
    """

    def fail(fault: str) -> None:
        name = fault.partition(":")[0]
        # With -D, strace runs as a grandchild, so usernsctl-child has the pid that its caller
        # expects.
        tracer = ["strace", "-D", "-f", "-qq", "-o", os.devnull]
        traced = [*tracer, "-e", f"trace={name}", "-e", f"inject={fault}", os.fsdecode(child)]
        program = tmp_path / "child"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(traced)} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setattr(calls, "_CHILD", os.fsencode(program))

    child = calls._CHILD
    return fail


def test_a_command_inherits_no_descriptor_of_the_child(
    fail_in_child: Callable[[str], None],
) -> None:
    """Regression test: a command that had inherited the child's socket delayed the start."""
    fail_in_child("fcntl:error=EPERM:when=1")
    with pytest.raises(un.NamespaceError) as caught:
        un.run(["true"])
    assert (caught.value.step, caught.value.errno) == ("clone", 1)


@pytest.mark.parametrize("when", [1, 2])
def test_a_child_that_stays_dumpable_does_not_join_a_namespace(
    fail_in_child: Callable[[str], None], when: int
) -> None:
    """Check that the start fails if the child can't make itself non-dumpable.

    Processes in the namespace could read a dumpable child's memory.
    """
    with un.Namespace.create() as namespace:
        fail_in_child(f"prctl:error=EPERM:when={when}")
        with pytest.raises(un.NamespaceError, match="PR_SET_DUMPABLE") as caught:
            namespace.run(["true"])
    assert caught.value.step == "capabilities"


def test_a_child_that_stays_dumpable_does_not_create_a_namespace(
    fail_in_child: Callable[[str], None],
) -> None:
    fail_in_child("prctl:error=EPERM:when=1")
    with pytest.raises(un.NamespaceError, match="PR_SET_DUMPABLE") as caught:
        un.run(["true"])
    assert caught.value.step == "capabilities"
