"""Comparison of the results of usernsctl's commands with the results that table.py expects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from table import STEP, Environment

#: Causes that prevent a sandbox, but not a namespace with a map of more than one id. A string that
#: ends with a hyphen is a prefix of several causes.
SANDBOX_ONLY = (
    "mount-denied", "mount-by-descriptor-missing", "ptrace-denied", "seccomp-denies-call",
    "address-space-limit", "file-size-limit", "dev-null-missing", "runsc-", "not-runsc",
    "wrong-architecture", "max-mnt-", "max-net-", "max-pid-", "max-ipc-", "max-uts-", "max-cgroup-",
    "memory-deny-write-execute", "descriptor-limit", "landlock-denies-mount",
    "meminfo-", "no-mount-point",
)  # fmt: skip

Expected = str | Sequence[str] | None
Answer = Mapping[str, Any]

_NAMED = re.compile(r"^  (?:why: .*\[([a-z0-9-]+)\]|cause: ([a-z0-9-]+))$", re.MULTILINE)
_LISTED = re.compile(r"usernsctl doctor    # finds which cause applies: ([a-z0-9, -]+)")


def causes(expected: Expected) -> tuple[str, ...]:
    if expected is None:
        return ()
    return (expected,) if isinstance(expected, str) else tuple(expected)


def in_range(environment: Environment) -> Expected:
    """Return the causes that doctor must report for a map of more than one id."""
    if environment.range_ is not NotImplemented:
        return environment.range_
    found = causes(environment.auto)
    return None if any(cause.startswith(SANDBOX_ONLY) for cause in found) else found or None


def faults(environment: Environment, command: str, answer: Answer) -> Iterator[str]:
    """Yield each fault in a command's result: leftovers, a traceback, a wrong status or cause."""
    if answer["status"] is None:
        yield f"it had not ended after {environment.seconds} s"
        return
    if answer["left"]:
        yield f"it left {answer['left']}"
    if not answer["mounts"]:
        yield "it left a mount"
    if "Traceback" in answer["stderr"] or "trial: " in answer["stderr"]:
        yield f"a traceback: {answer['stderr'][-300:]}"
    if command == "run":
        yield from _of_run(environment, environment.run, answer)
    elif command == "auto":
        yield from _of_run(environment, environment.auto, answer)
    elif command == "exec":
        yield from _of_run(environment, in_range(environment), answer)
    else:
        expected = environment.run if command == "doctor" else in_range(environment)
        yield from _of_doctor(environment, expected, answer)


def _of_run(environment: Environment, expected: Expected, answer: Answer) -> Iterator[str]:
    status, output, errors = answer["status"], answer["stdout"], answer["stderr"]
    if environment.sometimes and status == 0:
        return
    if expected is None:
        if status != environment.status or (not environment.quiet and output != "ran\n"):
            yield f"it should work, and ended with {status}: {output[:50]!r} {errors[:400]!r}"
        return
    if status != 125 or output:
        yield f"it should end with 125, and ended with {status}: {output[:50]!r} {errors[:400]!r}"
    if not errors and not environment.silent:
        yield "it says nothing"
    named = ["".join(one) for one in _NAMED.findall(errors)]
    listed = [one for text in _LISTED.findall(errors) for one in text.split(", ")]
    wanted = causes(expected)
    if STEP not in wanted and not environment.silent and not set(wanted) & {*named, *listed}:
        yield f"it should name {wanted}, and says {errors[:400]!r}"
    if named and not set(named) & set(wanted):
        yield f"it names {named} in place of {wanted}"


def _of_doctor(environment: Environment, expected: Expected, answer: Answer) -> Iterator[str]:
    status, output = answer["status"], answer["stdout"]
    if environment.quiet:
        if status not in ((0, 125) if expected is None else (1, 125)):
            yield f"it ended with {status}: {answer['stderr'][:300]!r}"
        return
    try:
        report = json.loads(output)
    except ValueError:
        yield f"no JSON, status {status}: {output[:100]!r} {answer['stderr'][:300]!r}"
        return
    blocking = [finding["id"] for finding in report["findings"] if finding["blocks"]]
    wanted = causes(expected)
    if report["ready"] is not (status == 0) or report["ready"] is not (blocking == []):
        yield f"it contradicts itself: {status}, {report['ready']}, {blocking}"
    if environment.sometimes and not blocking:
        return
    if not wanted and blocking:
        yield f"a false alarm: {blocking}"
    elif wanted and not blocking:
        yield f"a false ready, in place of {wanted}"
    elif wanted and blocking[0] not in wanted:
        yield f"it names {blocking} in place of {wanted}"
