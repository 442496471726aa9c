"""Helper functions for tests of launch files, which `usernsctl freeze` writes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from conftest import SCRIPTS, Program

from usernsctl.gvisor.launch.steps import VERBS, Record, record

#: Default command of the launches in the tests.
COMMAND = ("sh", "-c", "echo ran")


def freeze(file: Path, *options: str, command: tuple[str, ...] = COMMAND) -> Path:
    """Write the launch file `file` by `usernsctl freeze`.

    :returns: `file`.
    """
    usernsctl = Program(SCRIPTS / "usernsctl")
    assert usernsctl.check_output("freeze", *options, "-o", file, "--", *command) == ""
    return file


def assert_refused(
    done: subprocess.CompletedProcess[str], *says: str, cause: str | None = None
) -> None:
    """Check that `usernsctl-exec --launch` failed with status 125 and one message.

    The command must not have run.
    """
    assert (done.returncode, done.stdout) == (125, ""), done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("usernsctl-exec: "), done.stderr
    assert all(line.startswith(("  why: ", "  remedy:", "    ")) for line in rest), done.stderr
    for text in says:
        assert text in done.stderr
    assert cause is None or f"[{cause}]" in done.stderr, done.stderr


def assert_ran(done: subprocess.CompletedProcess[str], output: str = "ran\n") -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def decoded(text: bytes) -> tuple[list[str], list[Record]]:
    """Return the header and the records of a launch file with the content `text`."""
    assert text.endswith(b"\0")
    words = [os.fsdecode(word) for word in text[:-1].split(b"\0")]
    header, rest = words[:3], words[3:]
    found = []
    while rest:
        count = len(VERBS[rest[0]][0])
        found.append(Record(rest[0], tuple(rest[1 : count + 1])))
        assert len(found[-1].words) == count
        rest = rest[count + 1 :]
    return header, found


def without_sandbox(launch: Path, *command: str) -> None:
    """Change a launch file to run a command on the host instead of in a sandbox."""
    header, records = decoded(launch.read_bytes())
    kept = [one for one in records if one.verb not in ("watch", "runsc-env", "end")]
    ends = [*(record("watch", word) for word in command), record("end")]
    launch.write_bytes(encoded(header, [*kept, *ends]))


def encoded(header: Iterable[str], records: Iterable[Record]) -> bytes:
    words = [*header, *(word for one in records for word in (one.verb, *one.words))]
    return b"".join(os.fsencode(word) + b"\0" for word in words)
