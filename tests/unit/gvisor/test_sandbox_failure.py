"""Tests of the causes and remedies that are found for ambiguous error messages of runsc."""

from __future__ import annotations

from pathlib import Path

import pytest

from usernsctl._core.messages import explain_runsc

PIVOT_ROOT = (
    "failed to change the root file system: pivot_root failed, make sure that the root mount has "
    "a parent: operation not permitted"
)
ATTACH = "panic: unable to initialize systrap source: unable to attach: operation not permitted"


def test_failed_pivot_root_is_not_attributed_to_a_chroot() -> None:
    error = explain_runsc(PIVOT_ROOT)
    assert error.cause == "mount-denied"
    assert error.remedy is not None
    assert "--security-opt seccomp=" in error.remedy


def test_missing_working_directory_has_a_remedy_but_no_cause() -> None:
    error = explain_runsc(
        'Error setting up root FS: creating working directory "/nope": mkdir /proc/fs/root/nope: '
        "read-only file system"
    )
    assert error.cause is None
    assert error.remedy == "choose a working directory that exists in the sandbox"


@pytest.mark.parametrize(
    ("scope", "cause"), [(None, "ptrace-denied"), ("1\n", "ptrace-denied"), ("3\n", None)]
)
def test_yama_is_suspected_only_if_ptrace_scope_restricts(
    scope: str | None, cause: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "sys" / "kernel" / "yama" / "ptrace_scope"
    file.parent.mkdir(parents=True)
    if scope is not None:
        file.write_text(scope)
    error = explain_runsc(ATTACH, proc=str(tmp_path))
    assert error.cause == cause
    assert error.remedy is not None
    assert ("yama-ptrace-scope" in error.remedy) == (cause is None)


EOF = "cannot read client sync file: waiting for sandbox to start: EOF"


def test_limit_that_was_hit_is_the_cause_of_an_ambiguous_message() -> None:
    assert explain_runsc(EOF).cause is None
    error = explain_runsc(EOF, "process-limit")
    assert error.cause == "process-limit"
    assert error.remedy is not None
    assert "--pids-limit" in error.remedy
    # Check that a message with only one cause keeps this cause, even if a limit was hit.
    assert explain_runsc(PIVOT_ROOT, "out-of-memory").cause == "mount-denied"
