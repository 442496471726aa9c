"""Tests of the order and the outcomes of doctor's probes."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from callers import as_root
from processes import capture, processes_with

from usernsctl.doctor import probes
from usernsctl.doctor.facts import Cgroup, Facts
from usernsctl.doctor.probes import HUNG, LATE, PROGRAM, START, Step, judge, steps, try_steps
from usernsctl.errors import CommandError

PYTHON = sys.executable


def python(name: str, code: str, *needs: str) -> Step:
    return Step(name=name, words=("--", PYTHON, "-c", code), needs=needs)


def deadline_in(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_probe_failure_is_parsed() -> None:
    output = "1\tunshare\tin-chroot\tOperation not permitted\n"
    probe = judge("one-id-map", 1, output, 0.5)
    assert (probe.outcome, probe.errno, probe.cause) == ("failed", errno.EPERM, "in-chroot")
    assert probe.detail == "unshare: Operation not permitted"
    assert probe.seconds == 0.5


@pytest.mark.parametrize(
    ("name", "output", "detail"),
    [
        ("mount", "1\tmount\t\t/: refused", "/: refused"),
        ("setgroups", "1\tsetgroups\t\tsetgroups: refused", "setgroups: refused"),
        ("kvm", "13\tnone\t\t/dev/kvm: refused", "/dev/kvm: refused"),
    ],
)
def test_step_name_is_not_repeated_in_the_detail(name: str, output: str, detail: str) -> None:
    probe = judge(name, 1, output, 0)
    assert (probe.detail, probe.cause) == (detail, None)


@pytest.mark.parametrize(
    ("status", "output", "detail"),
    [
        (-9, "", "killed by signal 9"),
        (137, "", "killed by signal 9"),
        (2, "usage: ...", "usage: ..."),
        (1, "no tabs", "no tabs"),
        (1, "x\ty\tz\tnot a number", "x\ty\tz\tnot a number"),
        (126, "", "exit status 126"),
    ],
)
def test_detail_of_a_probe_that_reports_no_failure(status: int, output: str, detail: str) -> None:
    probe = judge("mount", status, output, 0)
    assert (probe.outcome, probe.detail, probe.cause) == ("failed", detail, None)


def test_sigsys_counts_as_a_denied_call() -> None:
    probe = judge("mount", 128 + signal.SIGSYS, "", 0)
    assert (probe.outcome, probe.errno) == ("failed", errno.EPERM)
    assert probe.cause == "seccomp-denies-call"


def test_processes_in_another_session_are_killed() -> None:
    leaves = (
        "import os, time; os.fork() or (os.setsid(), os.fork() or time.sleep(1000)); print('x')"
    )
    mark = f"left-by-{os.getpid()}"
    tried = try_steps([python("one", f"{leaves} # {mark}")], deadline_in(20))
    assert tried["one"].outcome == "ok"
    assert processes_with(mark) == []


def test_notices_of_a_successful_probe_are_kept() -> None:
    probe = judge("ranges", 0, "one\ntwo\n", 0)
    assert (probe.outcome, probe.detail) == ("ok", "one\ntwo")


def test_steps_after_a_failed_one_are_skipped() -> None:
    tried = try_steps(
        [
            python("good", "print('fine')"),
            python("bad", "raise SystemExit('so it is')"),
            python("after", "raise SystemExit('never run')", "bad"),
            python("later", "raise SystemExit('never run')", "after"),
            python("on", "pass", "good"),
        ],
        deadline_in(),
    )
    outcomes = {name: probe.outcome for name, probe in tried.items()}
    assert outcomes == {
        "good": "ok",
        "bad": "failed",
        "after": "skipped",
        "later": "skipped",
        "on": "ok",
    }
    assert tried["bad"].detail == "so it is"
    assert tried["after"].detail == "bad must work first"


def test_exit_status_is_known_with_sigchld_ignored() -> None:
    """Check that exit statuses are known if SIGCHLD is ignored; subprocess would return only 0."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        tried = try_steps(
            [
                python("good", "print('fine')"),
                python("bad", "raise SystemExit('so it is')"),
                python("killed", "import os; os.kill(os.getpid(), 9)"),
                Step(name="wrong", words=("no-such-step",)),
            ],
            deadline_in(),
        )
    finally:
        signal.signal(signal.SIGCHLD, before)
    outcomes = {name: (probe.outcome, probe.detail) for name, probe in tried.items()}
    assert outcomes.pop("wrong")[0] == "failed"
    assert outcomes == {
        "good": ("ok", "fine"),
        "bad": ("failed", "so it is"),
        "killed": ("failed", "killed by signal 9"),
    }


def test_all_steps_share_a_deadline_that_kills_their_processes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    # Try two steps that block forever with the FIFO open. The process of the first step has a child
    # that blocks, too.
    waits = f"import signal; held = open({str(pipe)!r}, 'w'); signal.pause()"
    forks = f"import os; os.fork(); {waits}"
    started = time.monotonic()
    tried = try_steps([python("one", forks), python("runsc", waits)], deadline_in(1))
    assert time.monotonic() - started < 20
    for name, cause in (("one", LATE), ("runsc", HUNG)):
        assert (tried[name].outcome, tried[name].cause) == ("skipped", cause)
    # End of file shows that no process has the FIFO open for writing any more, so all have been
    # killed.
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


# Program that runs usernsctl-probe in an inner PID namespace without a new /proc, so that /proc
# shows pids of the outer namespace. The outer pid of the probe's child is also the inner pid of an
# unrelated process.
_OUTER = """
import subprocess, sys
open("/proc/sys/kernel/ns_last_pid", "w").write("999")
words = ["unshare", "--pid", "--fork", sys.executable, "-c", *sys.argv[1:]]
sys.exit(subprocess.run(words).returncode)
"""
_INNER = """
import os, signal, subprocess, sys
open("/proc/sys/kernel/ns_last_pid", "w").write("1009")
others = [os.fork() or signal.pause() for _ in range(50)]
assert others == list(range(1010, 1060))
subprocess.run([sys.argv[1], "--within", "10", "--", "/bin/sleep", "60"], stdout=subprocess.DEVNULL)
print([pid for pid in others if os.waitpid(pid, os.WNOHANG)[0]])
"""


@as_root
def test_pids_of_another_pid_namespace_are_not_killed() -> None:
    words = ["unshare", "--pid", "--fork", "--mount-proc", PYTHON, "-c", _OUTER, _INNER, PROGRAM]
    done = capture(words, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_steps_are_skipped_if_no_child_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(probes, "Popen", refuse)
    tried = try_steps([python("one", "pass"), python("two", "pass", "one")], deadline_in())
    assert (tried[START].errno, tried[START].cause) == (errno.EAGAIN, "process-limit")
    assert [tried[name].outcome for name in ("one", "two")] == ["skipped", "skipped"]


def test_missing_probe_program_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usernsctl.doctor.probes.PROGRAM", f"{PROGRAM}-that-is-missing")
    with pytest.raises(CommandError, match=r"usernsctl-probe, which .* is missing") as caught:
        try_steps([Step(name="one", words=("nothing",))], deadline_in())
    assert caught.value.remedy is not None


def test_steps_follow_the_steps_that_they_need() -> None:
    seen: set[str] = set()
    for step in steps(Facts(cgroup=Cgroup(directory="/sys/fs/cgroup")), runsc=True):
        assert seen.issuperset(step.needs)
        seen.add(step.name)
    assert "cgroup" in seen
    assert "cgroup" not in {step.name for step in steps(Facts(), runsc=True)}


@pytest.mark.parametrize(
    ("hopeless", "tries"),
    [({}, 3), ({"max-uts-namespaces": ("one",)}, 1), ({"max-uts-namespaces": ("two",)}, 3)],
)
def test_full_limit_is_retried_unless_listed_as_hopeless(
    hopeless: dict[str, tuple[str, ...]],
    tries: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usernsctl.doctor.probes._PAUSES", (0.0, 0.0))
    log = tmp_path / "tries"
    full = f"echo >>{log}; printf '28\\tclone\\tmax-uts-namespaces\\tfull'; exit 1"
    step = Step(name="one", words=("--", "/bin/sh", "-c", full))
    probe = try_steps([step], deadline_in(), hopeless)["one"]
    assert (probe.errno, probe.cause) == (errno.ENOSPC, "max-uts-namespaces")
    assert log.read_text().count("\n") == tries


def test_detail_of_a_crash_begins_with_its_first_line() -> None:
    begin = "fatal error: out of memory allocating heap arena map\n"
    output = f"{begin}\nruntime stack:\n{'runtime.grow()' * 300}\nusernsctl: runsc: it crashed"
    assert judge("runsc", 125, output, 1).detail.startswith(begin)
