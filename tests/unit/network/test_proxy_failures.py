"""Tests that proxies leak no descriptor if they fail to start or can't be killed."""

from __future__ import annotations

import errno
import os

import pytest

from usernsctl.commands.popen import TimeoutExpired
from usernsctl.network import proxy_process
from usernsctl.network.names import parse_rules


@pytest.mark.parametrize("failing", ["usernsctl-refusals", "usernsctl-rules", "start"])
def test_failed_proxy_start_leaves_no_descriptor(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = os.memfd_create

    def create_or_fail(name: str, flags: int = os.MFD_CLOEXEC) -> int:
        if name == failing:
            raise OSError(errno.EMFILE, "memfd_create")
        return create(name, flags)

    def fail(*_: object) -> None:
        raise OSError(errno.EAGAIN, "fork")

    monkeypatch.setattr(os, "memfd_create", create_or_fail)
    monkeypatch.setattr(proxy_process, "_start", fail)
    before = os.listdir("/proc/self/fd")
    # `caught` keeps the traceback and so the failed object alive. Otherwise the garbage collector
    # could close the sockets before the check.
    with pytest.raises(OSError, match=r"memfd_create|fork") as caught:
        proxy_process.ProxyProcess(parse_rules(["a.example"]))
    assert os.listdir("/proc/self/fd") == before
    del caught


class Unkillable:
    """Fake process that survives SIGKILL."""

    pid = 1
    is_disowned = False

    def kill(self) -> None:
        """Ignore the signal."""

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None
        raise TimeoutExpired("proxy", timeout)

    def _disown(self) -> None:
        self.is_disowned = True


def test_close_leaves_a_proxy_that_can_not_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Unkillable()
    monkeypatch.setattr(proxy_process, "_start", lambda *_: process)
    before = os.listdir("/proc/self/fd")
    proxy_process.ProxyProcess(parse_rules(["a.example"])).close()
    assert process.is_disowned
    assert os.listdir("/proc/self/fd") == before
