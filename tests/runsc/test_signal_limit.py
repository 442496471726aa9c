"""Tests of `usernsctl doctor` when RLIMIT_SIGPENDING is exhausted, which makes newer runsc hang."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import gvisor
import pytest
from conftest import SCRIPTS
from processes import capture


def run_with_sigpending(
    *argv: str, soft: int = 0, hard: int | None = None, status: int
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        most = resource.getrlimit(resource.RLIMIT_SIGPENDING)[1] if hard is None else hard
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, most))

    done = capture(argv, timeout=90, preexec_fn=limit)
    assert (done.returncode, done.stderr) == (status, ""), done
    return done


def signal_limit_finding(**limits: int) -> Any:
    waits = gvisor.is_of_2026()
    doctor = (f"{SCRIPTS / 'usernsctl'}", "doctor", "--json", "--within", "30" if waits else "300")
    report = json.loads(run_with_sigpending(*doctor, status=int(waits), **limits).stdout)
    found = [finding for finding in report["findings"] if finding["blocks"]]
    assert [finding["id"] for finding in found] == (["signal-limit"] if waits else [])
    return found[0] if found else None


def test_remedy_of_doctor_for_the_signal_limit_works() -> None:
    found = signal_limit_finding()
    if found is None:
        return
    assert found["evidence"][0].startswith("RLIMIT_SIGPENDING is 0, ")
    mended = f"{found['remedy']}; exec {SCRIPTS / 'usernsctl'} run -- echo ran"
    assert run_with_sigpending("sh", "-c", mended, status=0).stdout == "ran\n"
    assert run_with_sigpending("bash", "-c", mended, status=0).stdout == "ran\n"


@contextlib.contextmanager
def queue_signals(count: int) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMAX])
    try:
        for _ in range(count):
            signal.pthread_kill(threading.get_ident(), signal.SIGRTMAX)
        yield
    finally:
        while signal.sigtimedwait([signal.SIGRTMAX], 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_doctor_reports_a_full_signal_queue() -> None:
    with queue_signals(120):
        found = signal_limit_finding(soft=120)
    if found is not None:
        assert found["evidence"][0].startswith("RLIMIT_SIGPENDING is 120, and 1")


@pytest.mark.also_root
def test_remedy_for_a_hard_signal_limit_needs_root() -> None:
    found = signal_limit_finding(hard=0)
    if found is not None:
        assert "prlimit" in found["remedy"] or "Only root can raise a hard limit" in found["remedy"]
