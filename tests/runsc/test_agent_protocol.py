"""Tests of usernsctl-agent in gVisor that send messages of the agent's protocol."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from agent_client import (
    CWD,
    EXEC,
    FAILED,
    FORK,
    IDS_STEP,
    LIMITS,
    LOOKUP,
    REFUSED,
    STRINGS,
    STRINGS_APART,
    TERMINAL,
    TO_TREE,
    Client,
    Command,
    Running,
    kill_tree,
)
from callers import MAP_OF_SEVERAL, several_ids

import usernsctl as un

AGENT = "/.usernsctl-agent"
FOREVER = ["sleep", "1000"]
IS_FIRST, IS_APART = 1, 2

# Scripts whose processes are hard to kill, such as those that ignore signals or leave the session.
# Each script prints a line when all its processes are running.
STUBBORN = {
    "plain": "echo; exec sleep 1000",
    "child": "sleep 1000 & echo; wait",
    "ignoring": "trap '' TERM HUP INT; echo; while :; do sleep 1; done",
    "daemon": "(setsid sh -c 'trap \"\" TERM HUP; echo; while :; do sleep 1; done' &); sleep 1000",
    "orphans": "(setsid sh -c '(setsid sh -c \"(setsid sleep 1000 &); echo\" &)' &); sleep 1000",
    "stopped": "sleep 1000 & echo; kill -STOP $$; sleep 1000",
    "forking": "echo; while :; do (sleep 0.01 &); done",
}
# Limit on processes, without which a fork bomb would take all CPU time of the host.
BOUND = [(resource.RLIMIT_NPROC, 60, 60)]
BOMBS = {
    "one group": "echo; f() { f | f & }; f",
    "sessions": "echo; f() { while :; do setsid sh -c 'trap \"\" TERM HUP; sleep 1' & done; }; f",
}


@contextlib.contextmanager
def start_agent_beside(box: un.Sandbox) -> Iterator[Client]:
    """Start an agent with popen() beside a sandbox's first command; yield the agent's client."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, box.popen([AGENT], stdin=theirs) as agent:
        theirs.close()
        client = Client(ours)
        yield client
        client.close()
        assert agent.wait(60) == 0


@contextlib.contextmanager
def start_agent_first(host: un.SandboxHost) -> Iterator[tuple[Client, un.Sandbox]]:
    """Start a sandbox whose first process is an agent; yield the agent's client and the sandbox."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, host.start([AGENT], stdin=theirs) as box:
        theirs.close()
        yield Client(ours), box


@pytest.fixture
def agent(box: un.Sandbox) -> Iterator[Client]:
    with start_agent_beside(box) as made:
        yield made


def test_the_agent_refuses_to_start_outside_gvisor() -> None:
    program = str(resources.files("usernsctl") / "_bin" / "usernsctl-agent")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        done = subprocess.run([program], stdin=theirs, stderr=subprocess.PIPE, text=True)
        theirs.close()
        assert ours.recv(100) == b""
    assert done.returncode == 125
    assert done.stderr.startswith("usernsctl: usernsctl-agent: not started: this kernel is not")


def test_commands_get_environment_cwd_and_limits(agent: Client) -> None:
    script = "echo $A; pwd; ulimit -n; ls /proc/self/fd | tr '\\n' ' '"
    env = ["PATH=/usr/bin:/bin", "A=b c"]
    limits = [(resource.RLIMIT_NOFILE, 40, 50)]
    status, text = agent.run("sh", "-c", script, env=env, cwd="/usr", limits=limits)
    # The output ends with open descriptors. Descriptor 3 is the directory that ls(1) itself has
    # opened.
    assert (status, text) == (0, "b c\n/usr\n40\n0 1 2 3 ")
    assert agent.run("sh", "-c", "kill -KILL $$") == (-signal.SIGKILL, "")
    assert agent.run("sh", "-c", "exit 7") == (7, "")


def test_failures_report_errno_and_step(agent: Client) -> None:
    assert agent.failure("no-such-tool") == (errno.ENOENT, LOOKUP)
    assert agent.failure("/etc") == (errno.EACCES, EXEC)
    assert agent.failure("true", "x" * 200000, flags=STRINGS_APART) == (errno.E2BIG, EXEC)
    assert agent.failure("true", cwd="/no/such") == (errno.ENOENT, CWD)
    assert agent.failure("true", limits=[(77, 1, 1)]) == (errno.EINVAL, LIMITS)
    agent.control.send(b"nonsense")
    assert agent.control.recv(100)[:4] == bytes([FAILED, 0, 0, 0])
    assert agent.run("true") == (0, "")


def test_long_arguments_arrive_in_a_separate_message(agent: Client) -> None:
    many = ["x" * 100000] * 19
    assert agent.run("sh", "-c", "echo $# ${#1}", "sh", *many, flags=STRINGS_APART) == (
        0,
        "19 100000\n",
    )


def test_a_script_without_interpreter_fails_with_enoexec(agent: Client) -> None:
    made = "printf 'exit 3\\n' >/tmp/plain && chmod 755 /tmp/plain"
    assert agent.run("sh", "-c", made) == (0, "")
    assert agent.failure("/tmp/plain") == (errno.ENOEXEC, EXEC)


@pytest.mark.parametrize("script", STUBBORN.values(), ids=STUBBORN)
@pytest.mark.parametrize("way", ["socket", "tree", "control"])
@pytest.mark.sampled
def test_killed_commands_leave_no_process(box: un.Sandbox, script: str, way: str) -> None:
    with start_agent_beside(box) as agent:
        one = agent.ask(Command(args=["sh", "-c", script]))
        one.started()
        one.line()
        if way == "socket":
            one.socket.close()
        elif way == "tree":
            kill_tree(one)
        else:
            agent.close()
        one.rest()
        one.close()


@pytest.mark.parametrize("script", BOMBS.values(), ids=BOMBS)
def test_kill_tree_ends_a_fork_bomb(agent: Client, script: str) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    with agent.running("sh", "-c", script, limits=BOUND, stdio={2: null}) as one:
        os.close(null)
        one.started()
        one.line()
        kill_tree(one)
        one.rest()
    assert agent.run("true") == (0, "")


def test_a_daemon_outlives_its_command(agent: Client) -> None:
    with agent.running("sh", "-c", "setsid sleep 1000 & echo $!") as one:
        one.started()
        daemon = one.line().decode().strip()
        assert one.status() == 0
    assert agent.run("kill", "-0", daemon) == (0, "")
    with agent.running("sh", "-c", "setsid sleep 1000 & echo") as one:
        one.started()
        assert one.status() == 0
        kill_tree(one)
        assert one.rest() == b"\n"
    assert agent.run("kill", "-0", daemon) == (0, "")
    assert agent.run("kill", daemon) == (0, "")


@pytest.mark.thorough
def test_a_hundred_commands_run_at_once(agent: Client) -> None:
    with contextlib.ExitStack() as stack:
        all_of_them = []
        for _ in range(100):
            shut, held = os.pipe()
            all_of_them.append(stack.enter_context(agent.running("cat", stdio={0: shut})))
            os.close(shut)
            stack.callback(os.close, held)
        assert len({one.started() for one in all_of_them}) == 100
        for one in all_of_them:
            one.signal(signal.SIGTERM)
        assert [one.status() for one in all_of_them] == [-signal.SIGTERM] * 100


@contextlib.contextmanager
def terminal_command(agent: Client, script: str) -> Iterator[tuple[int, Running]]:
    """Start a command on a terminal; yield a pipe to the terminal's input, and the command."""
    keys, typed = os.pipe()
    seen, screen = os.pipe()
    stdio = {0: keys, 1: screen}
    command = Command(args=["sh", "-c", script], flags=TERMINAL, size=(24, 80), stdio=stdio)
    one = agent.ask(command)
    os.close(keys)
    os.close(screen)
    one.out = seen
    one.started()
    try:
        yield typed, one
    finally:
        with contextlib.suppress(OSError):
            os.close(typed)
        one.close()


def test_a_terminal_passes_input_size_and_interrupts(agent: Client) -> None:
    script = "test -t 0 && test -t 2 && stty size && echo own >$(tty)"
    with terminal_command(agent, script) as (_, one):
        assert one.rest() == b"24 80\r\nown\r\n"
        assert one.status() == 0
    script = "trap 'stty size; exit 3' WINCH; echo; while :; do sleep 0.01; done"
    with terminal_command(agent, script) as (_, one):
        one.line()
        one.tell(2, 0, 50 << 16 | 132)
        assert one.rest() == b"50 132\r\n"
        assert one.status() == 3
    script = "stty -echo; echo; cat; echo end"
    with terminal_command(agent, script) as (typed, one):
        one.line()
        os.write(typed, b"no line")
        os.close(typed)
        assert one.rest() == b"no lineend\r\n"
        assert one.status() == 0
    script = "trap 'exit 4' INT; echo; while :; do sleep 0.01; done"
    with terminal_command(agent, script) as (typed, one):
        one.line()
        os.write(typed, b"\3")
        assert one.status() == 4


def test_a_reader_that_stalls_does_not_block_other_commands(agent: Client) -> None:
    script = "i=0; while [ $i -lt 5000 ]; do echo 0123456789012345678; i=$((i+1)); done"
    with terminal_command(agent, script) as (_, slow):
        for _ in range(5):
            assert agent.run("echo", "other") == (0, "other\n")
        assert len(slow.rest()) == 5000 * 21
        assert slow.status() == 0


def test_the_agent_may_be_process_1(host: un.SandboxHost) -> None:
    with start_agent_first(host) as (agent, box):
        assert agent.flags & IS_FIRST
        assert agent.pid == 1
        # As PID 1, the agent must also reap the orphans of commands that box.run() starts.
        assert box.run(["sh", "-c", "(true &) ; sleep 0.1"]).returncode == 0
        assert agent.run("sh", "-c", "! grep -l 'State:.Z' /proc/[0-9]*/status") == (0, "")
        with agent.running(*FOREVER) as one:
            one.started()
            agent.close()
            assert box.wait(60) == 0
            assert one.hear() is None


def test_agent_forwards_sigterm_to_commands(host: un.SandboxHost) -> None:
    with start_agent_first(host) as (agent, box):
        script = "trap 'exit 5' TERM; echo; while :; do sleep 0.01; done"
        with agent.running("sh", "-c", script) as one:
            one.started()
            one.line()
            box.terminate()
            assert one.status() == 5
            with agent.running("true") as late:
                assert late.hear() == (FAILED, errno.ESHUTDOWN, FORK)
        assert box.wait(60) == -signal.SIGTERM


@several_ids
def test_commands_with_other_ids_can_not_attack_the_agent() -> None:
    attack = (
        "cd /proc; for of in 1 $PPID; do kill -KILL $of; kill -STOP $of; cat $of/mem; "
        "for fd in 0 3 4; do cat <$of/fd/$fd; echo >$of/fd/$fd; done; done 2>/dev/null; echo"
    )
    with un.SandboxHost(MAP_OF_SEVERAL) as host, start_agent_first(host) as (agent, _):
        assert agent.flags & IS_APART
        assert agent.run("sh", "-c", "id -u; id -g", ids=(5, 6)) == (0, "5\n6\n")
        caps = "grep -E 'Cap(Prm|Eff)' /proc/self/status | cut -f2 | sort -u"
        assert agent.run("sh", "-c", caps, ids=(33, 33)) == (0, f"{0:016x}\n")
        assert agent.failure("true", capabilities=1 << 21) == (errno.EPERM, IDS_STEP)
        assert agent.run("sh", "-c", attack, ids=(33, 33)) == (0, "\n")
        assert agent.run("echo", "still there") == (0, "still there\n")


def test_invalid_messages_are_refused(agent: Client) -> None:
    header, words = Command(args=["true"]).encode()
    message = header + words
    for size in range(len(message)):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            socket.send_fds(agent.control, [message[:size]], [theirs.fileno()] * 4)
            theirs.close()
            assert ours.recv(100)[:12] == bytes(
                [FAILED, 0, 0, 0, errno.EPROTO, 0, 0, 0, STRINGS, 0, 0, 0]
            )
            assert ours.recv(100) == b""
    with agent.running(*FOREVER) as one:
        one.started()
        for kind, to, value in ((9, 0, 0), (1, 3, 15), (1, 0, 65), (1, 0, -1)):
            one.tell(kind, to, value)
            answer = one.hear()
            assert answer[0] == REFUSED
        one.signal(signal.SIGTERM, TO_TREE)
        assert one.status() == -signal.SIGTERM


def test_the_agent_program_is_smaller_than_64_kib() -> None:
    program = Path(str(resources.files("usernsctl") / "_bin" / "usernsctl-agent"))
    assert program.stat().st_size < 64 * 1024
