"""Trying the steps of the set-up, each in a throw-away child, one after the other.

At the same time they would use up a limit together that each alone stays below. The children are a
native program (csrc/programs/probe/main.c), so that a probe costs a millisecond and nothing of an
interpreter is in the way. What a probe makes lies in namespaces that end with it; all that it has
started is gone when it ends (within.c).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Container, Iterable, Mapping

from usernsctl._core.values import missing_program, program_path
from usernsctl._lean import dataclass
from usernsctl._system.python_child import command
from usernsctl.doctor.facts import DEFAULT_PATH, Facts
from usernsctl.explain.model import Probe
from usernsctl.profiles import host_programs

PROGRAM = program_path("usernsctl-probe")

#: The probe that fails where no child can be started at all; then the others are skipped.
START = "start"

#: The probe that says which profile of AppArmor's each of our programs has.
PROFILES = "profiles"

#: How long all probes may take together, in seconds.
DEADLINE = 30.0

#: The cause of a probe that is skipped since it had not ended in time.
LATE = "no-answer-in-time"

# Of what is left of the time: so nothing that hangs keeps the others from being tried.
_SHARE = 0.5
_LATE_STATUS = 124  # UN_PROBE_LATE
_FAILED_STATUS = 125
_GRACE = 3.0

_FULL = (errno.ENOSPC, errno.EUSERS)
_FULL_TEXTS = ("no space left on device",)
# The steps that make a namespace of each kind, whatever else is so.
_MAKERS = {
    "user": ("unshare-user", "runsc"),
    "mnt": ("namespaces", "mount", "mount-proc", "runsc"),
    **dict.fromkeys(("net", "pid", "ipc", "uts"), ("namespaces", "runsc")),
}
_PAUSES = (0.05, 0.2, 0.8, 2.0)  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something to try.

    :ivar name: of the probe.
    :ivar words: a step of the program that tries them, or ``--`` and a command.
    :ivar needs: the probes that must be ok, else this one is skipped.
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()


def steps(facts: Facts, *, runsc: bool) -> tuple[Step, ...]:
    """What there is to try here; each step comes after those it needs.

    Those that ask the user database, which may not answer, come last.
    """
    found = [
        Step(name=name, words=(name,), needs=needs)
        for name, needs in (
            ("unshare-nothing", ()),
            ("unshare-user", ()),
            ("setgroups", ("unshare-user",)),
            ("one-id-map", ("unshare-user",)),
            ("nested-user", ("one-id-map",)),
            ("namespaces", ("one-id-map",)),
            ("mount", ("one-id-map",)),
            ("mount-bind", ("mount",)),
            ("mount-proc", ("one-id-map",)),
            ("pivot-root", ("mount",)),
            ("ptrace", ("one-id-map",)),
        )
    ]
    for name, path in (("null", "/dev/null"), ("tun", "/dev/net/tun"), ("kvm", "/dev/kvm")):
        found.append(Step(name=name, words=("device", path)))
    if facts.cgroup.directory is not None:
        found.append(Step(name="cgroup", words=("cgroup", facts.cgroup.directory)))
    if facts.security.has_apparmor:
        programs = host_programs(facts.runsc.path if facts.runsc else None)
        found.append(Step(name=PROFILES, words=(PROFILES, *programs)))
    if runsc:
        # As `usernsctl run` does it, which says itself why runsc fails.
        path = ":".join(filter(None, (os.environ.get("PATH"), DEFAULT_PATH)))
        run = ("run", "--no-terminal", "--env", f"PATH={path}", "--", "true")
        words = command("usernsctl", *run)
        found.append(Step(name=RUNSC, words=("--", *words)))
    found.append(Step(name="ranges", words=("ranges",)))
    found.append(Step(name="range-map", words=("range-map",), needs=("unshare-user", "ranges")))
    found.append(
        Step(name="range-mount", words=("range-mount",), needs=("range-map", "mount-bind"))
    )
    return tuple(found)


def try_steps(
    wanted: Iterable[Step], deadline: float, vain: Mapping[str, Container[str]] | None = None
) -> dict[str, Probe]:
    """Try them, one after the other.

    :param deadline: as :func:`time.monotonic` counts. What has not ended by then is killed, with
        all that it has started.
    :param vain: by cause, the steps that can't succeed a little later if it is why they fail.
    :raises CommandError: the program that tries them is missing.
    """
    results: dict[str, Probe] = {}
    for step in wanted:
        needs = (START, *step.needs) if START in results else step.needs
        broken = [name for name in needs if results[name].outcome != "ok"]
        if broken:
            detail = f"{broken[0]} must work first"
            results[step.name] = Probe(name=step.name, outcome="skipped", detail=detail)
            continue
        probe = _try_often(step, deadline, vain or {})
        if probe.name == START:
            results[START] = probe
            probe = Probe(name=step.name, outcome="skipped", detail=f"{START} must work first")
        results[step.name] = probe
    return results


def _try_often(step: Step, deadline: float, vain: Mapping[str, Container[str]]) -> Probe:
    """Try one, and again if a limit was hit.

    The kernel removes namespaces some time after their end: those of earlier probes may count. A
    limit of 0 has none of them to wait for.
    """
    for pause in (*_PAUSES, None):
        probe = _try(step, max(0.0, deadline - time.monotonic()) * _SHARE)
        full = probe.errno in _FULL or any(text in probe.detail for text in _FULL_TEXTS)
        is_vain = not full or step.name in vain.get(probe.cause or "", ())
        if pause is None or is_vain or time.monotonic() + pause > deadline:
            break
        time.sleep(pause)
    return probe


def _try(step: Step, seconds: float) -> Probe:
    """Try one; the probe that is named START: no child can be started."""
    # Not /dev/null: it would be opened for writing, which is what may be forbidden here.
    nothing, end = os.pipe()
    os.close(end)
    started = time.monotonic()
    words = [PROGRAM, "--within", str(int(seconds * 1000)), *step.words]
    try:
        # In a session of its own, so that it can be killed with what it starts.
        process = subprocess.Popen(
            words,
            stdin=nothing,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise missing_program("usernsctl-probe", "tries the steps") from error
    except OSError as error:
        return Probe(
            name=START,
            outcome="failed",
            errno=error.errno or 0,
            detail=f"a child can't be started: {error.strerror}",
            cause="process-limit" if isinstance(error, BlockingIOError) else None,
        )
    finally:
        os.close(nothing)
    output, status = _told_status(*_wait(process, seconds + _GRACE))
    return judge(step.name, status, os.fsdecode(output), time.monotonic() - started)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, int]:
    """What it writes, and its status; it keeps the time itself, if nothing keeps it from that."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as late:
        # Not collected yet, so the number is still that of its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        return late.output or b"", _LATE_STATUS
    return output, process.returncode


def _told_status(output: bytes, status: int) -> tuple[bytes, int]:
    """Return the output without the exit status that the program writes last, and that status.

    Where this process ignores SIGCHLD, subprocess takes every exit status for 0.
    """
    text, mark, told = output.rpartition(b"\0")
    return (text, int(told)) if mark and told.isdigit() else (output, status or _FAILED_STATUS)


def judge(name: str, status: int, output: str, seconds: float) -> Probe:
    """What the end of a probe says.

    :param status: its exit status; 128+N, or -N, if signal N killed it.
    :param output: what it wrote: csrc/programs/probe/main.c says in which form.
    """
    text = output.strip()
    if status == _LATE_STATUS:
        detail = f"it had not ended after {seconds:.1f} s, and was killed"
        return Probe(name=name, outcome="skipped", detail=detail, cause=LATE, seconds=seconds)
    if status == 0:
        detail = "" if name == RUNSC else text
        return Probe(name=name, outcome="ok", detail=detail, seconds=seconds)
    if name == RUNSC:
        return _judge_runsc(text, status, seconds)
    if status < 0 or status > 128:
        sig = -status if status < 0 else status - 128
        detail = f"killed by signal {sig}"
        by_filter = sig == signal.SIGSYS
        if by_filter:
            # Nothing but a filter has it sent: it refuses a call so.
            detail += ", as a seccomp filter does"
        return Probe(
            name=name,
            outcome="failed",
            errno=errno.EPERM if by_filter else 0,
            detail=detail,
            cause="seccomp-denies-call" if by_filter else None,
            seconds=seconds,
        )
    number, *rest = text.split("\t", 3)
    if status != 1 or len(rest) != 3 or not number.isdecimal():
        detail = text or f"exit status {status}"
        return Probe(name=name, outcome="failed", detail=detail, seconds=seconds)
    step, cause, reason = rest
    return Probe(
        name=name,
        outcome="failed",
        errno=int(number),
        detail=reason if _says_already(step, name, reason) else f"{step}: {reason}",
        cause=cause or None,
        seconds=seconds,
    )


def _says_already(step: str, name: str, reason: str) -> bool:
    """Whether the step would be no news beside the probe's name and the reason."""
    return step == "none" or name.startswith(step) or reason.startswith(step)


def try_all(facts: Facts, *, runsc: bool = True, seconds: float = DEADLINE) -> dict[str, Probe]:
    """Try all there is to try here.

    :param runsc: whether a program is run in gVisor too.
    :param seconds: how long that may take together.
    :raises CommandError: the program that tries the steps is missing.
    """
    wanted = steps(facts, runsc=runsc)
    vain = {
        f"max-{kind}-namespaces": makers
        for kind, makers in _MAKERS.items()
        if facts.sysctls.get(f"user/max_{kind}_namespaces") == 0
    }
    tried = try_steps(wanted, time.monotonic() + seconds, vain)
    return {name: tried[name] for name in (START, *(s.name for s in wanted)) if name in tried}


RUNSC = "runsc"

# How our commands name a cause: "  why: ... [id]" or "  cause: id".
_CAUSE = re.compile(r"^  (?:why: .*\[([a-z0-9-]+)\]|cause: ([a-z0-9-]+))$", re.MULTILINE)

# The end of what is said is where the reason is, but for a crash, whose stacks follow.
_SAID_MAX = 2000
_CRASH = re.compile(r"^(?:fatal error|panic): ", re.MULTILINE)


def _judge_runsc(text: str, status: int, seconds: float) -> Probe:
    """What a run says that failed."""
    named = _CAUSE.findall(text)
    # The rest is what we say of that cause ourselves.
    said = "\n".join(line for line in text.split("\n") if not line.startswith("  "))
    crash = _CRASH.search(said)
    told = said[-_SAID_MAX:] if crash is None else said[crash.start() :][:_SAID_MAX]
    return Probe(
        name=RUNSC,
        outcome="failed",
        detail=told or f"exit status {status}",
        cause="".join(named[-1]) if named else None,
        seconds=seconds,
    )
