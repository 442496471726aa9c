"""Tests of calls during which the sandbox exits, which must report the sandbox's exit."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import EXIT_SECONDS
from processes import processes_with, wait_until_gone

import usernsctl as un
from usernsctl.gvisor.agent import commands

pytestmark = pytest.mark.usefixtures("detached_state")

PATIENCE = 20
# Seconds for which threads repeat a call. The command SHORT exits within that time.
CALL_SECONDS = 0.5
FOREVER = ["sleep", "1000"]
SHORT = ["sh", "-c", "sleep 0.15; exit 7"]
both_kinds = pytest.mark.parametrize("detach", [False, True], ids=["held", "detached"])

# Fake runsc whose subcommand WORD kills the sandbox and fails with the message SAYS. The real runsc
# fails like this if the sandbox exits during the subcommand.
ENDING_RUNSC = """#!/bin/sh
case " $* " in *" WORD "*) ;; *) exec RUNSC "$@" ;; esac
for word; do
    case $word in --log=*) log=${word#--log=} ;; ending*) id=$word ;; esac
done
[ -z "$log" ] || printf '{"msg": "%s", "level": "error"}' "SAYS" >>"$log"
echo "SAYS" >&2
# This also kills the script itself if the script is in the sandbox's PID namespace.
RUNSC "$1" kill "$id" KILL
exit 128
"""
REFUSED = "executing command: connecting to control server at PID 9: connection refused"


def real_runsc() -> str:
    runsc = shutil.which("runsc")
    assert runsc is not None
    return runsc


def fail_subcommand(word: str) -> str:
    return (
        ENDING_RUNSC.replace("WORD", word).replace("RUNSC", real_runsc()).replace("SAYS", REFUSED)
    )


def ask(box: un.Sandbox, what: str, wrong: list[object]) -> None:
    """Call the method `what` of a sandbox repeatedly, until some time after the sandbox has exited.

    `what` is "state", "kill" or "run". A result that is valid neither for a running nor for an
    exited sandbox is appended to `wrong`.
    """
    end = time.monotonic() + CALL_SECONDS
    while time.monotonic() < end:
        try:
            if what == "state":
                if box.state()["status"] not in ("running", "stopped"):
                    wrong.append(box.state())
            elif what == "kill":
                box.send_signal(signal.SIGURG)
            else:
                done = box.run(["true"], capture_output=True, text=True)
                if done.returncode not in (0, -signal.SIGKILL):
                    wrong.append(done)
        except un.CommandError as error:
            if "has ended" not in str(error):
                wrong.append(error)
        except Exception as error:
            wrong.append(error)


@both_kinds
@pytest.mark.parametrize("what", ["state", "kill", "run"])
@pytest.mark.sampled
def test_calls_on_an_ending_sandbox_report_its_end(detach: bool, what: str) -> None:
    wrong: list[object] = []
    with un.SandboxHost() as host:
        for _ in range(3):
            with host.start(SHORT, detach=detach) as box, ThreadPoolExecutor(2) as threads:
                for _ in range(2):
                    threads.submit(ask, box, what, wrong)
    assert wrong == []


@both_kinds
def test_run_in_an_ended_sandbox_raises(stand_in: Callable[[str], None], detach: bool) -> None:
    stand_in(fail_subcommand("exec"))
    for check in (False, True):
        with (
            un.Sandbox(FOREVER, id="ending", detach=detach) as box,
            pytest.raises(un.CommandError, match="has ended"),
        ):
            box.run(["true"], check=check, stderr=un.DEVNULL)


@both_kinds
def test_commands_of_an_ending_sandbox_are_killed(
    detach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    communicate = commands.communicate
    for check in (False, True):
        with un.Sandbox(FOREVER, detach=detach) as box:
            box.run(["true"], check=True)
            killer = threading.Timer(0.2, box.kill)

            def started(*arguments: Any, killer: Any = killer, **options: Any) -> Any:
                killer.start()
                return communicate(*arguments, **options)

            with contextlib.ExitStack() as caught, monkeypatch.context() as patch:
                patch.setattr(commands, "communicate", started)
                if check:
                    caught.enter_context(pytest.raises(un.SandboxEndedError, match="has ended"))
                assert box.run(FOREVER, check=check).returncode == -signal.SIGKILL
            killer.join()


@both_kinds
@pytest.mark.parametrize("what", ["state", "kill"])
def test_state_and_kill_of_an_ended_sandbox_succeed(
    stand_in: Callable[[str], None], detach: bool, what: str
) -> None:
    stand_in(fail_subcommand(what))
    with un.Sandbox(FOREVER, id="ending", detach=detach) as box:
        if what == "state":
            assert box.state() == {"id": "ending", "status": "stopped"}
        else:
            box.send_signal(signal.SIGTERM)
            assert box.state() == {"id": "ending", "status": "stopped"}


@both_kinds
def test_failure_of_runsc_in_a_running_sandbox_raises(
    stand_in: Callable[[str], None], detach: bool
) -> None:
    script = fail_subcommand("state").replace(f'{real_runsc()} "$1" kill', ": ")
    stand_in(script)
    with (
        un.Sandbox(FOREVER, id="ending", detach=detach) as box,
        pytest.raises(un.RunscError, match="connection refused"),
    ):
        box.state()


# Fake runsc that leaves a child process behind, which waits for the sandbox's exit, as
# runsc-fd-parking does (since 20260831). The child's command line does not contain the sandbox's
# id.
PARKING_RUNSC = """#!/bin/sh
case " $* " in *" --detach "*) ;; *) exec RUNSC "$@" ;; esac
RUNSC "$@" || exit
for word; do case $word in --pid-file=*) pid=$(cat "${word#*=}") ;; esac; done
PARKING -s 0.05 --pid="$pid" -f /dev/null </dev/null >/dev/null 2>&1 &
until tr '\\0' ' ' </proc/$!/cmdline | grep -q PARKING; do :; done
"""


@both_kinds
def test_fd_parking_process_does_not_delay_the_end(
    stand_in: Callable[[str], None], tmp_path: Path, detach: bool
) -> None:
    parking = tmp_path / "runsc-fd-parking"
    parking.symlink_to(str(shutil.which("tail")))
    stand_in(PARKING_RUNSC.replace("RUNSC", real_runsc()).replace("PARKING", str(parking)))
    with un.Sandbox(FOREVER, id="parked", detach=detach) as box:
        assert len(processes_with(str(parking))) == 1
        if detach:
            assert [one.id for one in un.Sandbox.list_detached()] == ["parked"]
            with un.Sandbox.attach("parked") as again:
                assert again.run(["true"]).returncode == 0
                again.release()
        assert box.run(["true"]).returncode == 0
    deadline = time.monotonic() + EXIT_SECONDS
    while processes_with(str(parking)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.filterwarnings("ignore:.*was not closed:ResourceWarning")
def test_interrupt_at_the_end_of_a_start_ends_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the sandbox ends if KeyboardInterrupt interrupts host.start() at its end.

    The sandbox has then started, but the caller has no object to close it.
    """

    def start_and_interrupt(_box: un.Sandbox, begin: Callable[[], object]) -> None:
        begin()
        raise KeyboardInterrupt

    word = "1000.0625"
    with un.SandboxHost() as host:
        monkeypatch.setattr(un.Sandbox, "_undone_unless_whole", start_and_interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            host.start(["sleep", word])
        assert wait_until_gone(word, EXIT_SECONDS) == []
