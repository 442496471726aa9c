"""Tests of commands in a running sandbox: process attributes, exit status and cleanup."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tally
from callers import MAP_OF_SEVERAL, several_ids
from conftest import EXIT_SECONDS, children, open_descriptors, settled_descriptors
from interrupts import alarm
from limits import descriptors_left
from processes import capture, check_output, processes_with, wait_for_threads
from sampling import tries

import usernsctl as un
from usernsctl._core import SANDBOX_FILES_MAX
from usernsctl.gvisor.agent import start

PATIENCE = 20
FOREVER = ["sleep", "1000"]
PYTHON = ["/usr/bin/python3", "-c"]


def output_of(box: un.Sandbox, *command: str, **options: Any) -> str:
    return box.check_output(command, text=True, stderr=un.STDOUT, **options)


def python(box: un.Sandbox, code: str, **options: Any) -> str:
    return output_of(box, *PYTHON, code, **options).strip()


def process_list(box: un.Sandbox) -> str:
    return output_of(box, "ps", "-eo", "args")


def agents(box: un.Sandbox) -> int:
    """Return the number of agents that runsc has started in the sandbox (their parent pid is 0)."""
    lines = output_of(box, "ps", "-eo", "ppid,args").splitlines()
    return [line.split() for line in lines].count(["0", "/.usernsctl-agent"])


def wait_until_gone(box: un.Sandbox, word: str) -> None:
    deadline = time.monotonic() + EXIT_SECONDS
    while word in process_list(box):
        assert time.monotonic() < deadline, process_list(box)


# Tests of the attributes of a command: ids, environment, limits, descriptors.


def test_commands_run_with_requested_user_and_groups(box: un.Sandbox) -> None:
    assert output_of(box, "id", "-u") == "0\n"
    show = ["sh", "-c", "id -u; id -g; id -G"]
    assert output_of(box, *show, user=(5, 6), groups=[7, 8]) == "5\n6\n6 7 8\n"
    assert output_of(box, "id", "-G", groups=[]) == "0\n"


@pytest.mark.also_root
@several_ids
def test_root_has_the_capabilities_of_the_first_command() -> None:
    # Don't compare the inheritable and ambient sets, which commands don't need: only newer releases
    # of runsc set ambient capabilities.
    show = ["grep", "Cap[PEB]", "/proc/self/status"]
    with un.SandboxHost(MAP_OF_SEVERAL) as many:
        with many.start(show, stdout=un.PIPE) as first:
            wanted = first.stdout.read()
        with many.start(FOREVER) as box:
            assert box.check_output(show) == wanted
            other = box.check_output(show, user=(5, 5)).decode()
            assert "CapEff:\t0000000000000000" in other


def test_commands_have_the_privileges_of_the_first_command(host: un.SandboxHost) -> None:
    show = ["grep", "-E", "Cap|NoNewPrivs|Seccomp|Groups", "/proc/self/status"]
    with host.start(show, stdout=un.PIPE) as first:
        wanted = first.stdout.read()
    with host.start(FOREVER) as box:
        assert box.check_output(show) == wanted


def test_commands_inherit_rlimits_of_the_sandbox_or_set_their_own() -> None:
    show = ["sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c"]
    with un.SandboxHost(rlimits=["nofile=100:200"]) as host, host.start(FOREVER) as box:
        assert output_of(box, *show) == "100\n200\nunlimited\n"
        assert (
            output_of(box, *show, rlimits=["nofile=50", un.Rlimit("RLIMIT_CORE", 0, 0)])
            == "50\n50\n0\n"
        )


@pytest.mark.parametrize("first", [None, FOREVER])
def test_nofile_of_a_command_may_exceed_nofile_of_gvisor(
    host: un.SandboxHost, first: list[str] | None
) -> None:
    show = ["sh", "-c", "ulimit -n"]
    with host.start(show, stdout=un.PIPE) as single:
        usual = single.stdout.read().decode()
    assert int(usual) <= SANDBOX_FILES_MAX
    with host.start(first) as box:
        assert output_of(box, *show) == usual
        assert output_of(box, *show, rlimits=[f"nofile={2 * SANDBOX_FILES_MAX}"]) == "32768\n"


def test_umask_session_and_process_group_are_set(box: un.Sandbox) -> None:
    assert output_of(box, "sh", "-c", "umask", umask=0o27) == "0027\n"
    ids = "import os; print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())"
    assert python(box, ids, start_new_session=True) == "True True"
    assert python(box, ids, process_group=0) == "False True"


def test_commands_start_with_default_signal_handling(box: un.Sandbox) -> None:
    assert python(box, "import signal; print(signal.pthread_sigmask(0, []))") == "set()"
    code = "import signal as s; print([n for n in range(1, 65) if s.getsignal(n) == s.SIG_IGN])"
    # CPython itself ignores SIGPIPE (13) and SIGXFSZ (25) at startup. No other signal may be
    # ignored.
    assert python(box, code) == "[13, 25]"


def test_commands_inherit_only_standard_streams(box: un.Sandbox) -> None:
    assert python(box, "import os; print(os.listdir('/proc/self/fd'))") == "['0', '1', '2', '3']"


def test_long_argument_lists_are_passed(box: un.Sandbox) -> None:
    words = ["x" * 1000] * 1900
    assert box.check_output(["echo", *words]) == b" ".join([b"x" * 1000] * 1900) + b"\n"
    assert output_of(box, "sh", "-c", "echo ${#A}", env={"A": "y" * 100_000}) == "100000\n"


def test_arguments_and_environment_may_be_bytes(box: un.Sandbox) -> None:
    assert box.check_output([b"printf", b"%s", b"\xff\xfe"]) == b"\xff\xfe"
    assert box.check_output(["printenv", "A"], env={"A": os.fsdecode(b"\xff")}) == b"\xff\n"


def test_missing_commands_raise(box: un.Sandbox) -> None:
    for command, kind in (
        (["no-such"], FileNotFoundError),
        (["/etc/passwd"], PermissionError),
        (["/usr"], PermissionError),
    ):
        with pytest.raises(kind) as caught:
            box.run(command)
        assert isinstance(caught.value, un.CommandError)
        assert caught.value.filename == command[0]
    assert caught.value.exit_status == 126


def test_output_is_appended_to_a_file(box: un.Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with target.open("wb", buffering=0) as file:
        for word in ("one", "two"):
            box.run(["echo", word], stdout=file)
        box.run(["sh", "-c", "echo out; echo err >&2"], stdout=file, stderr=un.STDOUT)
        assert os.get_blocking(file.fileno())
    assert target.read_text().split() == ["one", "two", "out", "err"]


def test_stderr_may_join_discarded_stdout(
    box: un.Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    box.run(["sh", "-c", "echo out; echo err >&2"], stdout=un.DEVNULL, stderr=un.STDOUT, check=True)
    assert capfd.readouterr() == ("", "")


def test_commands_share_one_input_pipe(box: un.Sandbox) -> None:
    shut, held = os.pipe()
    started = [box.popen(["cat"], stdin=shut, stdout=un.PIPE, stderr=un.PIPE) for _ in range(12)]
    assert os.get_blocking(shut)
    os.close(shut)
    for _ in range(100):
        os.write(held, b"line\n")
    os.close(held)
    told = [process.communicate(timeout=PATIENCE) for process in started]
    assert [process.returncode for process in started] == [0] * 12
    assert b"".join(out for out, _ in told) == b"line\n" * 100
    assert {err for _, err in told} == {b""}


# Tests of commands with a terminal.


def test_a_terminal_has_the_requested_size(box: un.Sandbox) -> None:
    script = ["sh", "-c", "tty; stty size; read line; echo got $line"]
    with box.popen(script, terminal=(70, 20), stdin=un.PIPE, stdout=un.PIPE) as process:
        out, _ = process.communicate(b"word\n", timeout=PATIENCE)
    assert process.returncode == 0
    lines = out.decode().split("\r\n")
    assert any(line.startswith("/dev/pts/") for line in lines)
    assert "20 70" in lines
    assert "got word" in lines


def test_popen_resizes_its_terminal(box: un.Sandbox) -> None:
    code = (
        "import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH]);"
        "print('ready', flush=True); signal.sigwait([signal.SIGWINCH]);"
        "print(os.get_terminal_size(0))"
    )
    with box.popen([*PYTHON, code], terminal=True, stdin=un.PIPE, stdout=un.PIPE) as process:
        assert process.stdout.readline() == b"ready\r\n"
        process.resize_terminal(123, 45)
        assert b"columns=123, lines=45" in process.stdout.read()
    with box.popen(["true"]) as process, pytest.raises(ValueError, match="no terminal"):
        process.resize_terminal(1, 1)


def test_terminal_input_ends_and_timeouts_apply(box: un.Sandbox) -> None:
    done = box.run(["cat"], terminal=True, input=b"x\n", stdout=un.PIPE, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, b"x\r\nx\r\n")
    with pytest.raises(un.TimeoutExpired):
        box.run(["sleep", "1010"], terminal=True, stdin=un.DEVNULL, timeout=0.5)
    wait_until_gone(box, "sleep 1010")


# Tests of commands that exit by themselves or are killed by signals.


def test_signals_end_a_command(box: un.Sandbox) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP):
        with box.popen(FOREVER) as process:
            process.send_signal(number)
            assert process.wait(PATIENCE) == -number
        process.send_signal(number)
    assert box.run(["sh", "-c", "kill -SEGV $$"]).returncode == -signal.SIGSEGV
    with box.popen(FOREVER) as process:
        for wrong in (-1, 65, 1000):
            with pytest.raises(OSError, match="Invalid argument"):
                process.send_signal(wrong)
        process.kill()
    assert process.rusage.maxrss > 0


def test_a_signal_reaches_the_process_group(box: un.Sandbox) -> None:
    script = ["sh", "-c", "sleep 1001 & sleep 1001"]
    with box.popen(script, process_group=0) as process:
        while process_list(box).splitlines().count("sleep 1001") < 2:
            pass
        process.send_signal_to_group(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM
    wait_until_gone(box, "sleep 1001")


def test_a_signal_reaches_the_process_group_without_proc(tmp_path: Path) -> None:
    with un.SandboxHost(binds=[f"{tmp_path}:/proc"]) as host, host.start(None) as box:
        script = ["sh", "-c", "sleep 1000 & echo; wait"]
        with box.popen(script, stdout=un.PIPE) as process:
            assert process.stdout.readline() == b"\n"
            process.send_signal_to_group(signal.SIGTERM)
            try:
                assert process.communicate(timeout=PATIENCE) == (b"", None)
                assert process.returncode == -signal.SIGTERM
            finally:
                process.kill_tree()


# Program that joins the process group of its keeper, which is the leader of the session. Prints the
# numbers of the signals that it receives.
JOINING = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.setpgid(0, os.getsid(0))
print(flush=True)
print(int(signal.sigwait([signal.SIGUSR1])), flush=True)
signal.pause()
"""


def test_a_signal_to_the_process_group_spares_the_keeper(box: un.Sandbox) -> None:
    with box.popen([*PYTHON, JOINING], stdout=un.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        process.send_signal_to_group(signal.SIGUSR1)
        assert process.stdout.readline() == b"%d\n" % signal.SIGUSR1
        process.send_signal_to_group(signal.SIGKILL)
        assert process.wait(PATIENCE) == -signal.SIGKILL


FLEEING = """
import os, signal, sys, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
for depth in range(3):
    if os.fork():
        if depth:
            os._exit(0)
        break
    os.setsid()
    os.closerange(0, 3)
sys.argv = ["fled"]
while True:
    time.sleep(1)
"""


def test_timeout_kills_daemons_that_ignore_signals(box: un.Sandbox) -> None:
    with pytest.raises(un.TimeoutExpired) as caught:
        box.run([*PYTHON, FLEEING], timeout=0.7, capture_output=True)
    assert caught.value.timeout == 0.7
    wait_until_gone(box, "SIG_IGN")


def test_timeout_kills_a_daemon_that_holds_a_pipe(box: un.Sandbox) -> None:
    with pytest.raises(un.TimeoutExpired):
        box.run(["sh", "-c", "setsid sleep 1002 & echo x"], timeout=0.5, stdout=un.PIPE)
    wait_until_gone(box, "sleep 1002")


def test_background_processes_outlive_their_command(box: un.Sandbox) -> None:
    box.run(["sh", "-c", "sleep 1003 >/dev/null 2>&1 </dev/null &"], check=True)
    assert "sleep 1003" in process_list(box)
    box.run(["pkill", "-f", "sleep 1003"])


def test_kill_tree_kills_other_sessions_too(box: un.Sandbox) -> None:
    with box.popen(["sh", "-c", "sleep 1004 & setsid sleep 1004"], stdout=un.PIPE) as process:
        while process_list(box).splitlines().count("sleep 1004") < 2:
            pass
        assert process.kill_tree()
        assert "sleep 1004" not in process_list(box)
        assert process.wait(PATIENCE) == -signal.SIGKILL
    assert process.kill_tree()


# Limit on processes, without which a fork bomb would take all CPU time of the host.
BOUND = ["nproc=60"]
BOMBS = {
    "one group": "echo; f() { f | f & }; f; sleep 1000",
    "sessions": "echo; f() { while :; do setsid sh -c 'trap \"\" TERM HUP; sleep 1' & done; }; f",
}


@pytest.mark.parametrize("script", BOMBS.values(), ids=BOMBS)
def test_kill_tree_ends_a_fork_bomb_or_its_sandbox(host: un.SandboxHost, script: str) -> None:
    with host.start(None) as box:
        bomb = box.popen(["sh", "-c", script], rlimits=BOUND, stdout=un.PIPE, stderr=un.DEVNULL)
        with bomb:
            assert bomb.stdout.readline() == b"\n"
            goes_on = bomb.kill_tree()
            assert select.select([bomb.stdout], [], [], PATIENCE)[0]
            assert bomb.stdout.read() == b""
        assert bomb.returncode == -signal.SIGKILL
        assert goes_on == (box.poll() is None)


def check_pid_is_unused(pid: int) -> None:
    """Check that the pid of a SandboxPopen is not the pid of any process on the host."""
    for act in (
        os.getpgid,
        os.pidfd_open,
        lambda pid: os.kill(pid, 0),
        lambda pid: os.kill(-pid, 0),
    ):
        with pytest.raises(ProcessLookupError):
            act(pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_popen_pid_names_no_process_of_the_host(box: un.Sandbox) -> None:
    with (
        box.popen(FOREVER) as process,
        box.popen(FOREVER) as other,
        contextlib.ExitStack() as killed,
    ):
        killed.callback(process.kill)
        killed.callback(other.kill)
        assert process.pid != other.pid
        check_pid_is_unused(process.pid)
        box.run(["kill", "-TERM", str(process.pid_inside)], check=True)
        assert process.wait(PATIENCE) == -signal.SIGTERM
        assert other.poll() is None
    check_pid_is_unused(process.pid)


def test_pidfd_is_readable_when_the_command_exits(box: un.Sandbox) -> None:
    with box.popen(["sh", "-c", "read x"], stdin=un.PIPE) as process:
        assert select.select([process.pidfd], [], [], 0)[0] == []
        process.stdin.close()
        assert select.select([process.pidfd], [], [], PATIENCE)[0] == [process.pidfd]
        assert process.poll() == 1
        assert process.pidfd == -1


def test_commands_are_killed_with_their_sandbox(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as box:
        process = box.popen(FOREVER, stdout=un.PIPE)
    assert process.communicate(timeout=PATIENCE) == (b"", None)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(un.CommandError, match="has ended"):
        box.run(["true"])


def test_commands_are_killed_when_their_handle_is_released(
    host: un.SandboxHost, runtime: Path
) -> None:
    with host.start(FOREVER, detach=True) as box:
        with un.Sandbox.attach(box.id) as other:
            process = other.popen(["sleep", "1005"])
            assert "sleep 1005" in process_list(box)
            assert agents(box) == 2
            other.release()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        wait_until_gone(box, "sleep 1005")
        deadline = time.monotonic() + EXIT_SECONDS
        while agents(box) > 1:
            assert time.monotonic() < deadline
        assert box.run(["true"]).returncode == 0


# Tests of commands started from threads, event loops, forked children and signal handlers.


def test_a_command_needs_no_process_or_thread_of_the_caller(box: un.Sandbox) -> None:
    before = children(), threading.active_count()
    outside = processes_with(box.id)
    with box.popen(["cat"], stdin=un.PIPE):
        assert (children(), threading.active_count()) == before
        assert processes_with(box.id) == outside


def test_eight_threads_share_one_agent(host: un.SandboxHost) -> None:
    """Run commands from eight threads at the same time; check that all use one agent."""
    with host.start(FOREVER) as box:
        begin = threading.Barrier(8)

        def run(number: int) -> int:
            begin.wait()
            return box.run(["sh", "-c", f"exit {number}"]).returncode

        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                assert list(pool.map(run, range(8))) == list(range(8))
        assert agents(box) == 1


@pytest.mark.thorough
@tries(2, 5)
def test_eight_asyncio_tasks_run_commands_at_once(host: un.SandboxHost, count: int) -> None:
    async def main() -> None:
        async with await host.start_async(FOREVER) as box:

            async def one(number: int) -> None:
                process = await box.create_subprocess_exec(
                    "sh", "-c", f"cat; exit {number}", stdin=un.PIPE, stdout=un.PIPE
                )
                assert await process.communicate(b"%d" % number) == (b"%d" % number, None)
                assert process.returncode == number

            for _ in range(count):
                await asyncio.gather(*map(one, range(8)))

    before = open_descriptors()
    asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE))
    assert open_descriptors() == before


TWO_GROUPS = ["sh", "-c", "trap 'exit 7' USR1; sleep 1011 & setsid sleep 1011 & wait"]


async def start_two_groups(box: un.Sandbox) -> un.SandboxProcess:
    process = await box.create_subprocess_exec(*TWO_GROUPS, process_group=0, stdout=un.DEVNULL)
    while process_list(box).splitlines().count("sleep 1011") < 2:
        await asyncio.sleep(0.01)
    return process


def test_asyncio_process_has_the_methods_of_popen(box: un.Sandbox) -> None:
    async def main() -> None:
        process = await start_two_groups(box)
        assert isinstance(process, un.SandboxProcess)
        check_pid_is_unused(process.pid)
        box.run(["kill", "-0", str(process.pid_inside)], check=True)
        process.send_signal_to_group(0)
        with pytest.raises(OSError, match="Invalid argument"):
            process.send_signal_to_group(999)
        process.send_signal_to_group(signal.SIGUSR1)
        assert await process.wait() == 7
        # Check that the signal killed only the `sleep 1011` in the command's process group, not the
        # `sleep 1011` that setsid(1) started. After the command has exited, send_signal_to_group()
        # has no effect.
        assert process_list(box).splitlines().count("sleep 1011") == 1
        process.send_signal_to_group(signal.SIGUSR1)
        assert await process.kill_tree()
        assert process.rusage.maxrss > 0
        box.run(["pkill", "-f", "sleep 1011"])
        process = await start_two_groups(box)
        assert await process.kill_tree()
        assert "sleep 1011" not in process_list(box)
        assert await process.wait() == -signal.SIGKILL
        with pytest.raises(ValueError, match="no terminal"):
            process.resize_terminal(1, 1)

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE))


def test_asyncio_process_resizes_its_terminal(box: un.Sandbox) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done"

    async def main() -> None:
        streams = {"stdin": un.PIPE, "stdout": un.PIPE}
        async with await box.create_subprocess_exec(
            "sh", "-c", script, terminal=True, **streams
        ) as process:
            assert await process.stdout.readline() == b"ready\r\n"
            process.resize_terminal(123, 45)
            assert await process.stdout.readline() == b"45 123\r\n"

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_cancelled_async_with_kills_the_process_tree(box: un.Sandbox) -> None:
    async def main() -> None:
        process = await box.create_subprocess_exec(
            "sh", "-c", "setsid sleep 1006 & exit 3", stdout=un.PIPE
        )

        has_ended = asyncio.Event()

        async def work() -> None:
            async with process:
                assert await process.wait() == 3
                has_ended.set()
                await process.stdout.read()

        working = asyncio.create_task(work())
        await has_ended.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(working, 0.5)
        assert process.returncode == 3

    before = open_descriptors()
    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    wait_until_gone(box, "sleep 1006")
    assert open_descriptors() == before


def test_a_cancelled_start_leaks_nothing(box: un.Sandbox) -> None:
    """Cancel starts after 0 to 7 event loop iterations; check that no command is left.

    Each iteration lasts `seconds`, so that the agent may answer before the next iteration. If a
    start succeeds before its cancellation, the test kills the command.
    """

    async def cancel(turns: int, seconds: float) -> None:
        starting = asyncio.create_task(box.create_subprocess_exec("sleep", "1007"))
        for _ in range(turns):
            await asyncio.sleep(0)
            time.sleep(seconds)
        starting.cancel()
        (started,) = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(started, asyncio.CancelledError):
            started.kill()
            await started.wait()

    async def main() -> None:
        for turns in range(8):
            await cancel(turns, 0)
            await cancel(turns, 0.01)

    before = open_descriptors()
    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    wait_for_threads()
    wait_until_gone(box, "sleep 1007")
    assert open_descriptors() == before


def test_forked_children_share_the_sandbox_without_closing_it(box: un.Sandbox) -> None:
    with box.popen(["cat"], stdin=un.PIPE, stdout=un.PIPE) as process:
        pid = os.fork()
        if pid == 0:
            try:
                status = box.run(["sh", "-c", "exit 9"]).returncode
                box.close()
                os._exit(status)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        assert process.communicate(b"still here") == (b"still here", None)
    assert box.run(["true"]).returncode == 0


def is_interrupted(box: un.Sandbox, seconds: float) -> bool:
    """Run a command until SIGALRM raises KeyboardInterrupt; return whether it was raised here.

    Python discards an exception in a finalizer, so the signal is sent again every 5 s. pytest would
    keep such an exception, and with it the sockets in the variables of its frames.
    """
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "unraisablehook", lambda _: None)
            with alarm(signal.default_int_handler, seconds, 5):
                box.run(["sleep", "1008"])
    except KeyboardInterrupt:
        return True
    return False


# If a signal interrupts socketpair(), the garbage collector closes the sockets and emits a
# ResourceWarning.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_an_interrupted_start_leaks_nothing(box: un.Sandbox, host: un.SandboxHost) -> None:
    before = settled_descriptors(), children()
    for step in range(20):
        assert is_interrupted(box, 0.0002 + step * 0.0004)
    assert (settled_descriptors(), children()) == before
    wait_until_gone(box, "sleep 1008")
    with host.start(FOREVER) as new:
        for step in range(6):
            assert is_interrupted(new, 0.001 + step * 0.015)
        wait_until_gone(new, "sleep 1008")
    assert (settled_descriptors(), children()) == before


def test_run_without_free_descriptors_raises_and_leaves_nothing(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as new:
        for is_first in (True, False):
            failures = 0
            before = open_descriptors()
            for room in range(40 if is_first else 16):
                with descriptors_left(room):
                    try:
                        new.run(["true"], stdin=un.PIPE, stdout=un.PIPE, stderr=un.PIPE)
                        break
                    except un.UsernsError as error:
                        assert error.cause == "descriptor-limit", repr(error)
                        failures += 1
                assert open_descriptors() == before
            assert failures


# Program that opens files of the host until gVisor has no descriptor left for another file.
OPENING = """
import itertools, os, signal
try:
    for number in itertools.count():
        os.open(f"/files/{number}", os.O_WRONLY | os.O_CREAT)
except OSError as error:
    print(error.strerror, flush=True)
signal.pause()
"""


def test_run_raises_if_gvisor_has_no_free_descriptors(tmp_path: Path) -> None:
    with un.SandboxHost(binds=[f"{tmp_path}:/files:rw"]) as host, host.start(None) as box:
        limit = [f"nofile={2 * SANDBOX_FILES_MAX}"]
        with box.popen([*PYTHON, OPENING], stdout=un.PIPE, rlimits=limit) as process:
            try:
                assert process.stdout.readline() == b"Too many open files\n"
                for _ in range(10):
                    with pytest.raises(un.CommandError, match="Too many open files"):
                        box.run(["true"], timeout=PATIENCE)
            finally:
                process.kill()
        assert box.run(["true"], timeout=PATIENCE).returncode == 0


CLOSED = """
import os, sys
import usernsctl as un

with un.SandboxHost() as host, host.start(["sleep", "1000"]) as box:
    report = os.dup2(1, 50)
    for fd in map(int, sys.argv[1]):
        os.close(fd)
    for _ in range(2):
        done = box.run(["sh", "-c", "cat; echo said; echo err >&2; exit 6"], stdin=None)
        told = box.check_output(["sh", "-c", "cat; echo told"], stdin=None)
    os.write(report, b"%d %s" % (done.returncode, told))
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
@pytest.mark.sampled(3)
def test_run_works_when_standard_streams_are_closed(closed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, closed],
        input=b"in ",
        capture_output=True,
        timeout=3 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    said = b"" if "1" in closed else b"in said\nsaid\n" if "0" not in closed else b"said\nsaid\n"
    assert done.stdout == said + b"6 told\n"
    assert done.stderr == (b"" if "2" in closed else b"err\nerr\n")


# Program that starts a command with a given method, and then prints what the command has not read
# of the program's standard input.
UNNAMED = """
import asyncio, sys
import usernsctl as un

def run(box, **options):
    box.run(["cat"], **options)
    box.run(["cat"], terminal=True, **options)

def check_output(box, **options):
    print(box.check_output(["cat"], text=True, **options), end="")

def popen(box, **options):
    with box.popen(["cat"], **options) as process:
        process.wait()

def create_subprocess_exec(box, **options):
    async def main():
        async with await box.create_subprocess_exec("cat", **options):
            pass
    asyncio.run(main())

_, way, *named = sys.argv
with un.SandboxHost() as host, host.start(["sleep", "1000"]) as box:
    globals()[way](box, **({"stdin": None} if named else {}))
print("left:", sys.stdin.read())
"""


def run_cat(way: str, *named: str) -> str:
    return check_output(
        [sys.executable, "-c", UNNAMED, way, *named], input="secret", timeout=3 * PATIENCE
    )


@pytest.mark.parametrize("way", ["run", "check_output", "popen", "create_subprocess_exec"])
@pytest.mark.sampled(2)
def test_commands_read_our_stdin_only_with_stdin_none(way: str) -> None:
    said, _, left = run_cat(way).rpartition("left: ")
    assert (left, "secret" in said) == ("secret\n", False)
    assert run_cat(way, "named").endswith("left: \n")


# Tests of sandboxes without an agent.


def test_a_sandbox_without_an_agent_raises(
    host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "AGENT_INSIDE", "/.no-agent")
    before = open_descriptors(), children()
    with host.start(FOREVER) as box:
        for _ in range(2):
            with pytest.raises(un.RunscError, match=r"has no /\.no-agent") as caught:
                box.run(["true"])
            assert caught.value.cause == "sandbox-agent"
            assert "start a new one" in (caught.value.remedy or "")
    assert (open_descriptors(), children()) == before


MANY = """
import asyncio, os, resource, sys
from concurrent.futures import ThreadPoolExecutor
import usernsctl as un

count = int(sys.argv[1])

def left():
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return len(os.listdir("/proc/self/fd")), len(children)

# Returns the command lines of all processes but the agent's, and whether the agent has at most six
# processes: the agent itself, the keeper of ps, and idle keepers.
def inside(box):
    told = box.check_output(["ps", "-eo", "args"], text=True).splitlines()
    agents = [line for line in told if line.startswith("/.usernsctl-agent")]
    return sorted(set(told) - set(agents)), len(agents) <= 6

def memory():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 1024

async def in_tasks(box, count):
    async def work():
        for _ in range(count // 8):
            process = await box.create_subprocess_exec("true", stdin=un.DEVNULL, stdout=un.PIPE)
            assert await process.communicate() == (b"", None)
            assert process.returncode == 0
    await asyncio.gather(*(work() for _ in range(8)))

def in_threads(box, count):
    def work():
        for _ in range(count // 8):
            box.run(["true"], stdin=un.DEVNULL, capture_output=True, check=True)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result()

with un.SandboxHost() as host, host.start(["sleep", "1000"]) as box:
    for run in (in_threads, lambda box, count: asyncio.run(in_tasks(box, count))):
        run(box, max(count // 10, 40))
        before, size, there = left(), memory(), inside(box)
        run(box, count)
        assert left() == before, (before, left())
        assert inside(box) == there == (there[0], True), (there, inside(box))
        print(memory() - size, flush=True)
"""


@pytest.mark.thorough
@tries(24, 160)
def test_many_commands_leak_nothing(count: int) -> None:
    command = [sys.executable, "-c", MANY, str(10_000 if tally.FULL else count)]
    done = capture(command, timeout=3600)
    assert done.returncode == 0, done.stderr
    grown = [int(word) for word in done.stdout.split()]
    # The caller's memory may grow by up to 2,048 KiB, but not in proportion to the commands.
    assert max(grown) < 2048, grown
