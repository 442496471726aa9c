"""Tests of the agent's keepers, each of which starts and watches one command at a time.

A reused keeper must not pass any state of an earlier command on to the next command.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Iterator

import pytest
from callers import MAP_OF_SEVERAL, several_ids
from conftest import EXIT_SECONDS
from sampling import tries
from tally import Tally

import usernsctl as un

PATIENCE = 20
# Number of processes of an idle agent: the agent, the listening keeper, and three waiting keepers
# (csrc/programs/agent/agent.h).
AT_REST = 2 + 3
PYTHON = ["/usr/bin/python3", "-c"]


@pytest.fixture
def box() -> Iterator[un.Sandbox]:
    with un.SandboxHost() as host, host.start(None) as made:
        yield made


def agents(box: un.Sandbox) -> set[int]:
    told = box.check_output(["ps", "-eo", "pid,args"], text=True)
    return {int(pid) for pid in re.findall(r"(\d+) /\.usernsctl-agent", told)}


def wait_for_surplus_to_exit(box: un.Sandbox) -> bool:
    """Wait until the agent has only AT_REST processes; return False after EXIT_SECONDS."""
    deadline = time.monotonic() + EXIT_SECONDS
    # The command that lists the processes has a keeper, too, so add 1.
    while len(agents(box)) > AT_REST + 1:
        if time.monotonic() > deadline:
            return False
    return True


@tries(20, 60)
def test_consecutive_commands_reuse_keepers(count: int, box: un.Sandbox) -> None:
    show = ["sh", "-c", "umask; pwd; ulimit -n; echo $A"]
    wanted = box.check_output(show)
    seen = agents(box)
    for number in range(count):
        assert box.run(["sh", "-c", f"exit {number}"]).returncode == number
        # Set attributes that a reused keeper could pass on to the next command by mistake.
        if number % 10 == 0:
            box.run(["true"], start_new_session=True, umask=0o77, cwd="/usr", user=(0, 0))
            box.run(["true"], rlimits=["nofile=9"], env={"A": "x" * 100_000})
        seen |= agents(box)
    assert len(seen) <= AT_REST + 2, seen
    assert box.check_output(show) == wanted


def test_surplus_keepers_exit(box: un.Sandbox) -> None:
    started = [box.popen(["cat"], stdin=un.PIPE) for _ in range(40)]
    assert len(agents(box)) > 40
    for process in started:
        process.communicate(timeout=PATIENCE)
    assert wait_for_surplus_to_exit(box), agents(box)
    assert box.run(["true"]).returncode == 0


@pytest.mark.parametrize("size", [0, 100_000])
def test_keepers_close_descriptors_of_ended_commands(box: un.Sandbox, size: int) -> None:
    for command in (["true"], ["sh", "-c", "cat >/dev/null & kill -KILL $$"], ["no-such"]):
        for _ in range(10):
            shut, held = os.pipe()
            try:
                with box.popen(command, stdin=shut, stdout=un.PIPE, env={"A": "x" * size}) as one:
                    assert select.select([one.stdout], [], [], PATIENCE)[0]
                    one.kill_tree()
            except FileNotFoundError:
                pass
            os.close(shut)
            poll = select.poll()
            poll.register(held, 0)
            # Wait for POLLERR, which shows that no process can read from the pipe any more.
            assert poll.poll(PATIENCE * 1000), command
            os.close(held)


@tries(8, 20)
def test_a_keeper_with_background_processes_is_not_reused(count: int, box: un.Sandbox) -> None:
    for _ in range(count):
        box.run(["sh", "-c", "setsid sleep 1020 >/dev/null 2>&1 </dev/null &"], check=True)
    for _ in range(count):
        with box.popen(["sleep", "1021"]) as process:
            process.kill_tree()
            process.wait(PATIENCE)
    told = box.check_output(["ps", "-eo", "args"], text=True)
    assert (told.count("sleep 1020"), told.count("sleep 1021")) == (count, 0)


STOPPING = """
import os, signal
print(flush=True)
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except OSError:
        pass
"""


def test_a_command_stopped_before_exec_is_killed_by_its_timeout(
    box: un.Sandbox, tally: Tally
) -> None:
    """Run commands beside a process that stops all other processes of its user.

    SIGSTOP can reach a new command between the change of its ids and execve(2). The command's
    timeout must then kill the command.
    """
    with box.popen([*PYTHON, STOPPING], user=(0, 0), stdout=un.PIPE) as neighbour:
        assert neighbour.stdout.readline() == b"\n"
        for _ in range(Tally.rounds(5, 200)):
            tally.tried()
            try:
                box.run(["true"], stdin=un.DEVNULL, timeout=0.3)
            except un.TimeoutExpired:
                pass
            except un.RunscError as error:
                tally.succeeded(repr(error))
        neighbour.kill()
    deadline = time.monotonic() + EXIT_SECONDS
    while b"true" in box.check_output(["ps", "-eo", "args"]):
        assert time.monotonic() < deadline
    if not wait_for_surplus_to_exit(box):
        tally.succeeded(f"there are {len(agents(box))} agents")


@several_ids
def test_the_next_command_runs_after_a_keeper_is_killed(tally: Tally) -> None:
    with un.SandboxHost(MAP_OF_SEVERAL) as host, host.start(None) as box:
        for _ in range(Tally.rounds(5, 300)):
            for one in agents(box) - {1}:
                tally.tried()
                box.run(["kill", "-KILL", str(one)], timeout=PATIENCE)
                if box.run(["sh", "-c", "exit 7"], timeout=PATIENCE).returncode != 7:
                    tally.succeeded("a command was not kept")


# Script that kills every agent that runsc has started, but not the agent's keepers. Then the script
# sleeps, so that it can't exit before it is killed.
KILLING = """
for path in /proc/[0-9]*; do
    read -r pid name state parent rest <$path/stat
    [ "$name $parent" != "(.usernsctl-agen) 0" ] || kill -KILL $pid
done
exec sleep 1000
"""


@several_ids
@pytest.mark.parametrize("terminal", [False, True])
def test_commands_are_killed_with_the_agent(terminal: bool) -> None:
    with un.SandboxHost(MAP_OF_SEVERAL) as host, host.start(["sleep", "1000"]) as box:
        process = box.popen(["sleep", "1000"], terminal=terminal, stdout=un.PIPE)
        with box.popen(["sh", "-c", KILLING]) as killer:
            assert killer.wait(PATIENCE) == -signal.SIGKILL
        try:
            assert process.wait(PATIENCE) == -signal.SIGKILL
        finally:
            process.kill()
            process.stdout.close()
