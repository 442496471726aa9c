"""Trying the steps of the set-up, each in a throw-away child.

The children are a native program (csrc/programs/probe/main.c), so that a probe costs a
millisecond and nothing of an interpreter is in the way. What a probe makes lies in namespaces that
end with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from usernsctl import _programs
from usernsctl._system import isolated
from usernsctl.doctor.facts import Facts
from usernsctl.explain.model import Probe

PROGRAM = _programs.path_of("usernsctl-probe")

#: The probe that fails where no child can be started at all; then the others are skipped.
START = "start"

#: How long all probes may take together, in seconds.
DEADLINE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something to try.

    :ivar name: of the probe.
    :ivar words: of the command.
    :ivar needs: the probes that must be ok, else this one is skipped.
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()


def steps(facts: Facts) -> tuple[Step, ...]:
    """What there is to try here; each step comes after those it needs."""
    named: list[tuple[str, tuple[str, ...]]] = [
        ("unshare-nothing", ()),
        ("unshare-user", ()),
        ("ranges", ()),
        ("setgroups", ("unshare-user",)),
        ("one-id-map", ("unshare-user",)),
        ("range-map", ("unshare-user", "ranges")),
        ("nested-user", ("one-id-map",)),
        ("namespaces", ("one-id-map",)),
        ("mount", ("one-id-map",)),
        ("mount-bind", ("mount",)),
        ("mount-proc", ("one-id-map",)),
        ("pivot-root", ("mount",)),
        ("ptrace", ("one-id-map",)),
    ]
    found = [Step(name=name, words=(PROGRAM, name), needs=needs) for name, needs in named]
    for name, path in (("tun", "/dev/net/tun"), ("kvm", "/dev/kvm")):
        found.append(Step(name=name, words=(PROGRAM, "device", path)))
    if facts.cgroup.directory is not None:
        found.append(Step(name="cgroup", words=(PROGRAM, "cgroup", facts.cgroup.directory)))
    return tuple(found)


def try_steps(wanted: Iterable[Step], deadline: float) -> dict[str, Probe]:
    """Try them, at the same time those of which none needs another.

    :param deadline: as :func:`time.monotonic` counts. What has not ended by then is killed.
    :raises CommandError: the program that tries them is missing.
    """
    results: dict[str, Probe] = {}
    left = list(wanted)
    while left:
        wave = [step for step in left if all(name in results for name in step.needs)]
        left = [step for step in left if step not in wave]
        ready = []
        for step in wave:
            needs = (START, *step.needs) if START in results else step.needs
            broken = [name for name in needs if results[name].outcome != "ok"]
            if broken:
                detail = f"{broken[0]} must work first"
                results[step.name] = Probe(name=step.name, outcome="skipped", detail=detail)
            else:
                ready.append(step)
        results.update(_try_together(ready, deadline))
    return results


@dataclass(slots=True)
class _Child:
    step: Step
    process: subprocess.Popen[bytes]
    started: float
    output: bytes = b""


def _try_together(wave: Iterable[Step], deadline: float) -> dict[str, Probe]:
    results: dict[str, Probe] = {}
    # Not /dev/null: it would be opened for writing, which is what may be forbidden here.
    nothing, end = os.pipe()
    os.close(end)
    with selectors.DefaultSelector() as selector:
        try:
            for step in wave:
                child = _start(step, nothing)
                if isinstance(child, Probe):
                    results[START] = child
                    detail = f"{START} must work first"
                    results[step.name] = Probe(name=step.name, outcome="skipped", detail=detail)
                else:
                    assert child.process.stdout is not None
                    selector.register(child.process.stdout, selectors.EVENT_READ, child)
            while selector.get_map():
                events = selector.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    break
                for key, _ in events:
                    if _read(key.data):
                        selector.unregister(key.fileobj)
                        results[key.data.step.name] = _finish(key.data, deadline)
        finally:
            os.close(nothing)
            for key in list(selector.get_map().values()):
                results[key.data.step.name] = _finish(key.data, 0.0)
    return results


def _read(child: _Child) -> bool:
    """Take what there is; whether that was the end."""
    assert child.process.stdout is not None
    chunk = os.read(child.process.stdout.fileno(), 65536)
    child.output += chunk
    return not chunk


def _start(step: Step, nothing: int) -> _Child | Probe:
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            step.words,
            stdin=nothing,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # So that all it starts can be killed with it.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _programs.missing("usernsctl-probe", "tries the steps") from error
    except OSError as error:
        return Probe(
            name=START,
            outcome="failed",
            errno=error.errno or 0,
            detail=f"a child can't be started: {error.strerror}",
            cause="process-limit" if isinstance(error, BlockingIOError) else None,
        )
    return _Child(step, process, started)


def _finish(child: _Child, deadline: float) -> Probe:
    """Wait for the end of a child, which has none after the deadline."""
    process = child.process
    timed_out = False
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        timed_out = True
        # Not collected yet, so the number is still that of its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
    return judge(
        child.step.name,
        process.returncode,
        os.fsdecode(child.output),
        time.monotonic() - child.started,
        timed_out=timed_out,
    )


def judge(name: str, status: int, output: str, seconds: float, *, timed_out: bool) -> Probe:
    """What the end of a probe says.

    :param status: its exit status, or -N if signal N killed it.
    :param output: what it wrote: csrc/programs/probe/main.c says in which form.
    """
    text = output.strip()
    if timed_out:
        detail = "it had not ended in time, and was killed"
        return Probe(name=name, outcome="failed", detail=detail, seconds=seconds)
    if status == 0:
        return Probe(name=name, outcome="ok", detail=text, seconds=seconds)
    if status < 0:
        detail = f"killed by signal {-status}"
        return Probe(name=name, outcome="failed", detail=detail, seconds=seconds)
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
    deadline = time.monotonic() + seconds
    wanted = steps(facts)
    tried = try_steps(wanted, deadline)
    results = {name: tried[name] for name in (START, *(s.name for s in wanted)) if name in tried}
    if runsc and START not in results:
        results[NAME] = try_runsc(deadline)
    return results


NAME = "runsc"

# How our commands name a cause: "  why: ... [id]" or "  cause: id".
_CAUSE = re.compile(r"^  (?:why: .*\[([a-z0-9-]+)\]|cause: ([a-z0-9-]+))$", re.MULTILINE)

# The end of what is said is where the reason is.
_SAID_MAX = 2000


def try_runsc(deadline: float) -> Probe:
    """Run a trivial program as ``usernsctl run`` does, which says itself why runsc fails.

    :param deadline: as :func:`time.monotonic` counts.
    """
    command = isolated.command("usernsctl", "run", "--no-terminal", "--", "true")
    probe = try_steps([Step(name=NAME, words=tuple(command))], deadline)[NAME]
    if probe.outcome == "ok":
        return dataclasses.replace(probe, detail="")
    named = _CAUSE.findall(probe.detail)
    # The rest is what we say of that cause ourselves.
    said = "\n".join(line for line in probe.detail.split("\n") if not line.startswith("  "))
    return dataclasses.replace(
        probe, detail=said[-_SAID_MAX:], cause="".join(named[-1]) if named else None
    )
