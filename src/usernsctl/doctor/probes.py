"""Probes: the steps of starting a sandbox, each tried in a child process, one after the other.

The steps are not tried in parallel, because together they could exceed a limit that no single step
exceeds. Each child executes a native program, usernsctl-probe (csrc/programs/probe/main.c), so that
a probe takes a millisecond and does not depend on an interpreter. usernsctl-probe also kills
processes that its probe leaves behind (csrc/programs/probe/within.c).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import time
from collections.abc import Container, Iterable, Mapping

from usernsctl import _core
from usernsctl._core.values import missing_program, program_path
from usernsctl._lean import dataclass, replace
from usernsctl._system.descriptors import empty_input
from usernsctl._system.python_child import command
from usernsctl._system.target import OwnNamespaces
from usernsctl.commands.popen import PIPE, STDOUT, Popen, TimeoutExpired
from usernsctl.doctor.facts import DEFAULT_PATH, Facts
from usernsctl.errors import UsernsError
from usernsctl.explain.model import Probe
from usernsctl.profiles import host_programs

PROGRAM = program_path("usernsctl-probe")

#: The probe that fails if no child process can be started. All other probes are then skipped.
START = "start"

#: The probe that prints the AppArmor profile of each program of usernsctl.
PROFILES = "profiles"

#: Default timeout of all probes together, in seconds.
DEADLINE = 30.0

#: The cause id of a probe that timed out, except for the probe "runsc".
LATE = "no-answer-in-time"

#: The cause id of the probe "runsc" if it timed out.
HUNG = "runsc-hung"

# Maximum share of the remaining time for one probe, so that a hanging probe leaves time for the
# others.
_SHARE = 0.5
_LATE_STATUS = 124  # The exit status after a timeout, UN_PROBE_LATE in csrc/programs/probe.
# The exit status to assume for usernsctl-probe if its output contains no status, and Popen reports
# 0.
_FAILED_STATUS = 125
# In seconds: the time by which the timeout of usernsctl-probe exceeds the timeout of its step, and
# the timeout for a killed usernsctl-probe to exit.
_GRACE = 3.0

_FULL = (errno.ENOSPC, errno.EUSERS)
_FULL_TEXTS = ("no space left on device",)
# For each kind of namespace, the steps that always create such a namespace.
_MAKERS = {
    "user": ("unshare-user", "runsc"),
    "mnt": ("namespaces", "mount", "mount-proc", "runsc"),
    **dict.fromkeys(("net", "pid", "ipc", "uts"), ("namespaces", "runsc")),
}
# The Debian packages of the programs that --network private needs, keyed by program.
_PACKAGES = {"pasta": "passt", "nft": "nftables"}

_PAUSES = (0.05, 0.2, 0.8, 2.0)  # The delays, in seconds, before each retry of a step.


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step to try.

    :ivar name: the name of the step and of its probe.
    :ivar words: the arguments of usernsctl-probe that select the step, or ``--`` and a command.
    :ivar needs: the names of the probes that must be ok before this step is tried; otherwise the
        step is skipped.
    :ivar package: the Debian package of the optional program that the step executes; empty for
        other steps.
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    package: str = ""


def steps(facts: Facts, *, runsc: bool) -> tuple[Step, ...]:
    """Return the steps to try on this host, each after the steps that must succeed first.

    Steps that query the user database come last, because the query may hang.
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
    for name, package in _PACKAGES.items():
        program = facts.programs.get(name)
        version = () if program is None else ("--", program, "--version")
        found.append(Step(name=name, words=version, package=package))
    if facts.cgroup.directory is not None:
        found.append(Step(name="cgroup", words=("cgroup", facts.cgroup.directory)))
    if facts.security.has_apparmor:
        programs = host_programs(facts.runsc.path if facts.runsc else None)
        found.append(Step(name=PROFILES, words=(PROFILES, *programs)))
    if runsc:
        # Run `usernsctl run` instead of runsc, because its output explains why runsc failed.
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
    """Try steps one after the other; return their probes, keyed by name.

    :param deadline: the time of :func:`time.monotonic` at which a running step is killed, with all
        processes that the step has started.
    :param vain: for each cause, the steps that are not retried after a failure with this cause.
    :raises CommandError: usernsctl-probe is missing.
    """
    results: dict[str, Probe] = {}
    for step in wanted:
        needs = (START, *step.needs) if START in results else step.needs
        broken = [name for name in needs if results[name].outcome != "ok"]
        if broken:
            results[step.name] = _skipped(step, broken[0])
            continue
        if not step.words:
            results[step.name] = _not_installed(step)
            continue
        probe = _try_often(step, deadline, vain or {})
        if probe.name == START:
            results[START] = probe
            probe = _skipped(step, START)
        if step.package and probe.outcome == "ok":
            # Expect an empty output, too: pasta releases of 2025 print no version into a pipe.
            version = probe.detail.split("\n")[0] or f"{step.words[1]}, of unknown version"
            probe = replace(probe, detail=version)
        results[step.name] = probe
    return results


def _try_often(step: Step, deadline: float, vain: Mapping[str, Container[str]]) -> Probe:
    """Try a step, and retry while a limit on namespaces makes it fail; return the last probe.

    Namespaces of earlier probes may still count against the limit, because the kernel removes a
    namespace only some time after its last process has exited. A step is not retried if the limit
    is 0 (`vain`).
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
    """Try a step; return a failed probe named START if no child can be started or waited for."""
    started = time.monotonic()
    words = [PROGRAM, "--within", str(int(seconds * 1000)), *step.words]
    try:
        output, status = _split_status(*_run(words, seconds + _GRACE))
    except FileNotFoundError as error:
        raise missing_program("usernsctl-probe", "runs the probes") from error
    except OSError as error:
        return Probe(
            name=START,
            outcome="failed",
            errno=error.errno or 0,
            detail=f"can't start a child process and wait for it: {error.strerror}",
            cause="process-limit" if error.errno == errno.EAGAIN else None,
        )
    if status == -signal.SIGSYS:
        # A seccomp filter has killed usernsctl-probe itself. If a filter kills only the process
        # that tries the step, usernsctl-probe reports that and exits normally.
        return Probe(
            name=step.name,
            outcome="failed",
            detail="usernsctl-probe was killed by a seccomp filter",
            cause="seccomp-denies-call",
            seconds=time.monotonic() - started,
        )
    return judge(step.name, status, os.fsdecode(output), time.monotonic() - started)


def _run(words: list[str], seconds: float) -> tuple[bytes, int]:
    """Run usernsctl-probe with a timeout; return its output and exit status."""
    with empty_input() as nothing:
        # Start the program in a new session, so that _wait() can kill its whole process group.
        process: Popen[bytes] = Popen(
            words,
            namespace=OwnNamespaces(),
            stdin=nothing,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
    return _wait(process, seconds)


def _wait(process: Popen[bytes], seconds: float) -> tuple[bytes, int]:
    """Return the output and the exit status of a program; kill the program after `seconds`."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except TimeoutExpired as late:
        # The process has not been reaped, so its pid still identifies its process group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()
        with contextlib.suppress(TimeoutExpired):
            process.wait(_GRACE)
        return late.output or b"", _LATE_STATUS
    return output, process.returncode


def _split_status(output: bytes, status: int) -> tuple[bytes, int]:
    """Split the exit status off the end of the output of usernsctl-probe; return output and status.

    The output contains the exit status, because Popen reports 0 before Linux 6.15 if this process
    ignores SIGCHLD.
    """
    text, mark, number = output.rpartition(b"\0")
    return (text, int(number)) if mark and number.isdigit() else (output, status or _FAILED_STATUS)


def judge(name: str, status: int, output: str, seconds: float) -> Probe:
    """Return the probe for the exit status and the output of usernsctl-probe.

    :param status: the exit status; 128+N or -N if signal N killed the program.
    :param output: the output, in the format that csrc/programs/probe/main.c describes.
    """
    text = output.strip()
    if status == _LATE_STATUS:
        detail = f"killed after {seconds:.1f} s, because the step had not ended"
        cause = HUNG if name == RUNSC else LATE
        return Probe(name=name, outcome="skipped", detail=detail, cause=cause, seconds=seconds)
    if status == 0:
        detail = "" if name == RUNSC else text
        return Probe(name=name, outcome="ok", detail=detail, seconds=seconds)
    number, *rest = text.split("\t", 3)
    is_failed_step = status == 1 and len(rest) == 3 and number.isdecimal()
    if name == RUNSC and not is_failed_step:
        return _judge_runsc(text, status, seconds)
    if status < 0 or status > 128:
        sig = -status if status < 0 else status - 128
        detail = f"killed by signal {sig}"
        by_filter = sig == signal.SIGSYS
        if by_filter:
            # Attribute SIGSYS to a seccomp filter, because nothing else sends it in practice.
            detail += ", as a seccomp filter does"
        return Probe(
            name=name,
            outcome="failed",
            errno=errno.EPERM if by_filter else 0,
            detail=detail,
            cause="seccomp-denies-call" if by_filter else None,
            seconds=seconds,
        )
    if not is_failed_step:
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
    """Return whether a message about a failed probe can omit the name of the step.

    The message can omit it if there is no step (``"none"``), or if the name of the probe or the
    reason begins with the step's name.
    """
    return step == "none" or name.startswith(step) or reason.startswith(step)


def try_all(facts: Facts, *, runsc: bool = True, seconds: float = DEADLINE) -> dict[str, Probe]:
    """Try all steps; return their probes, keyed by name.

    :param runsc: whether one of the steps runs a program in gVisor.
    :param seconds: the timeout of all steps together, in seconds.
    :raises CommandError: usernsctl-probe is missing.
    """
    wanted = steps(facts, runsc=runsc)
    vain = {
        f"max-{kind}-namespaces": makers
        for kind, makers in _MAKERS.items()
        if facts.sysctls.get(f"user/max_{kind}_namespaces") == 0
    }
    tried = try_steps(wanted, time.monotonic() + seconds, vain)
    return {name: tried[name] for name in (START, *(s.name for s in wanted)) if name in tried}


def try_own_calls() -> Probe | None:
    """Return a failed probe named START if a seccomp filter would kill doctor, else None.

    A killed process can't report anything, so a child process tries doctor's own system calls. If
    no child can be created, the probe fails, too.
    """
    try:
        _core.check_filter(of_doctor=True)
    except UsernsError as error:
        return Probe(name=START, outcome="failed", detail=error.reason, cause=error.cause)
    return None


def skip_all(facts: Facts, failed: Probe, *, runsc: bool = True) -> dict[str, Probe]:
    """Return a dict of probes by name: the probe `failed`, and a skipped probe for each step."""
    return {failed.name: failed} | {
        step.name: _skipped(step, failed.name) for step in steps(facts, runsc=runsc)
    }


def _not_installed(step: Step) -> Probe:
    needs = f"--network private needs {step.name}: install the package {step.package}"
    return Probe(
        name=step.name, outcome="failed", errno=errno.ENOENT, detail=f"not installed; {needs}"
    )


def _skipped(step: Step, needed: str) -> Probe:
    return Probe(name=step.name, outcome="skipped", detail=f"{needed} must work first")


RUNSC = "runsc"

# Matches the indented line that names the cause in the output of usernsctl's own commands: "why:
# ... [id]" or "cause: id".
_CAUSE = re.compile(r"^  (?:why: .*\[([a-z0-9-]+)\]|cause: ([a-z0-9-]+))$", re.MULTILINE)

# Maximum number of characters of runsc's output in a report. If runsc crashed, the report contains
# the beginning of the crash message, because stack traces follow the reason. Otherwise, the report
# contains the end of the output, where the reason is.
_DETAIL_MAX = 2000
_CRASH = re.compile(r"^(?:fatal error|panic): ", re.MULTILINE)


def _judge_runsc(text: str, status: int, seconds: float) -> Probe:
    """Return the probe for a failed `usernsctl run`."""
    named = _CAUSE.findall(text)
    # Drop the indented lines, in which usernsctl itself explains the cause.
    message = "\n".join(line for line in text.split("\n") if not line.startswith("  "))
    crash = _CRASH.search(message)
    detail = message[-_DETAIL_MAX:] if crash is None else message[crash.start() :][:_DETAIL_MAX]
    return Probe(
        name=RUNSC,
        outcome="failed",
        detail=detail or f"exit status {status}",
        cause="".join(named[-1]) if named else None,
        seconds=seconds,
    )
