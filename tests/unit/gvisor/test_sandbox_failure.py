"""Which cause is named for what runsc has said, where its words alone fit several."""

from __future__ import annotations

from pathlib import Path

import pytest

from usernsctl.gvisor import failure

PIVOT_ROOT = (
    "failed to change the root file system: pivot_root failed, make sure that the root mount has "
    "a parent: operation not permitted"
)
ATTACH = "panic: unable to initialize systrap source: unable to attach: operation not permitted"


def test_a_namespace_that_was_made_is_in_no_chroot() -> None:
    error = failure.describe(PIVOT_ROOT)
    assert error.cause == "mount-denied"
    assert error.remedy is not None
    assert "--security-opt seccomp=" in error.remedy


def test_a_missing_directory_is_no_fault_of_the_machine() -> None:
    error = failure.describe(
        'Error setting up root FS: creating working directory "/nope": mkdir /proc/fs/root/nope: '
        "read-only file system"
    )
    assert error.cause is None
    assert error.remedy == "choose a working directory that there is in the sandbox"


@pytest.mark.parametrize(
    ("scope", "cause"), [(None, "ptrace-denied"), ("1\n", "ptrace-denied"), ("3\n", None)]
)
def test_yama_is_in_question_only_where_it_restricts(
    scope: str | None, cause: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ptrace_scope"
    if scope is not None:
        file.write_text(scope)
    monkeypatch.setattr(failure, "_YAMA", str(file))
    error = failure.describe(ATTACH)
    assert error.cause == cause
    assert error.remedy is not None
    assert ("yama-ptrace-scope" in error.remedy) == (cause is None)


EOF = "cannot read client sync file: waiting for sandbox to start: EOF"


def test_a_limit_that_was_hit_settles_what_a_message_leaves_open() -> None:
    assert failure.describe(EOF).cause is None
    error = failure.describe(EOF, "process-limit")
    assert error.cause == "process-limit"
    assert error.remedy is not None
    assert "--pids-limit" in error.remedy
    # Words that can come from one thing only have it.
    assert failure.describe(PIVOT_ROOT, "out-of-memory").cause == "mount-denied"
