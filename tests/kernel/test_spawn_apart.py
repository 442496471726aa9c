"""Tests of usernsctl-child, the separate program that sets up the process of a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from callers import MAP_OF_SEVERAL, as_root, may_map_any_id, several_ids
from conftest import SCRIPTS, Program
from processes import capture, check_output

import usernsctl as un
from usernsctl._core import calls
from usernsctl._core.calls import _CHILD

pytestmark = pytest.mark.also_root

USER = "usernsctl-test"

# Program with a thread that forks children all the time. Each child inherits the descriptors that
# are open at its fork, and keeps running.
FORKING = """
import os, signal, sys, threading, time
import usernsctl as un

over = threading.Event()
children = []

def fork():
    while not over.is_set():
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
        if len(children) > 200:
            end(children)

def end(pids):
    while pids:
        pid = pids.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

thread = threading.Thread(target=fork)
thread.start()
try:
    for turn in range(int(sys.argv[1])):
        un.run(["true"], check=True, pid=turn % 2 == 1)
        try:
            un.run(["no-such-tool"])
        except un.CommandError:
            pass
        else:
            raise AssertionError("it ran")
finally:
    over.set()
    thread.join()
    end(children)
"""


def test_a_fork_in_another_thread_does_not_delay_starts() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING, "100"]
    check_output(command)


@pytest.mark.parametrize("path", ["/no/such/usernsctl-child", "/etc/passwd"])
def test_a_missing_child_program_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_CHILD", path.encode())
    with pytest.raises(un.NamespaceError) as caught:
        un.run(["true"])
    assert (caught.value.cause, caught.value.step) == ("child-missing", "clone")
    assert path in str(caught.value)


@pytest.mark.parametrize("script", ["kill -KILL $$", "sleep 0.05; kill -KILL $$"])
def test_a_killed_child_program_is_named(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "child"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(calls, "_CHILD", os.fsencode(program))
    with pytest.raises(un.NamespaceError, match="killed by signal 9") as caught:
        un.run(["true"])
    assert (caught.value.cause, caught.value.step) == ("child-killed", "clone")


def test_the_child_program_refuses_other_callers() -> None:
    program = os.fsdecode(_CHILD)
    for words in ([], ["x", "y"], ["1,2,", "3,"], ["0," * 10, "0," * 13 + "999,"]):
        done = capture([program, *words])
        assert done.returncode == 125
        assert done.stderr == "usernsctl-child: this program is for internal use by usernsctl\n"


@several_ids
def test_helpers_work_with_sigchld_ignored() -> None:
    """Check that helpers work although SIGCHLD is ignored, and that SIGCHLD stays ignored."""
    if may_map_any_id():
        pytest.skip("root needs no helper")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with un.Namespace.create(un.IdMap.auto()) as namespace:
            done = namespace.run(["cat", "/proc/self/uid_map"], stdout=un.PIPE, text=True)
        assert len(done.stdout.splitlines()) > 1
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, before)


def in_thread_with_stack(size: int, call: object) -> object:
    result: list[object] = []
    before = threading.stack_size(size)
    try:
        thread = threading.Thread(target=lambda: result.append(call()))  # type: ignore[operator]
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return result[0]


@pytest.mark.parametrize("arguments", [{}, {"pid": True}, {"mount": True, "cwd": "/"}])
def test_a_thread_with_a_small_stack(arguments: dict[str, object]) -> None:
    done = in_thread_with_stack(64 * 1024, lambda: un.spawn(["true"], **arguments))
    assert isinstance(done, un.Child)
    os.close(done.pidfd)
    assert os.waitpid(done.pid, 0)[1] == 0


@several_ids
def test_a_map_of_several_ids_from_a_thread_with_a_small_stack() -> None:
    done = in_thread_with_stack(64 * 1024, lambda: un.spawn(["true"], idmap=MAP_OF_SEVERAL))
    assert isinstance(done, un.Child)
    os.close(done.pidfd)
    assert os.waitpid(done.pid, 0)[1] == 0


@pytest.mark.parametrize("options", ["-r", "-rmpf --mount-proc", "-r --fork"])
def test_the_prelude_with_a_small_stack(prelude: Program, options: str) -> None:
    command = f"ulimit -s 64; exec {prelude.path} {options} -- echo ran"
    assert check_output(["sh", "-c", command]) == "ran\n"


@several_ids
def test_the_prelude_with_a_small_stack_and_a_map_of_several_ids(prelude: Program) -> None:
    options = "--map-users=0:0:9 --map-groups=0:0:9" if may_map_any_id() else "-r --map-auto"
    command = f"ulimit -s 64; exec {prelude.path} {options} -- echo ran"
    assert check_output(["sh", "-c", command]) == "ran\n"


@as_root
def test_forty_thousand_groups_can_be_set() -> None:
    wanted = list(range(5, 40005))
    idmap = un.IdMap.extents(["0:0:100000"], ["0:0:100000"], setgroups="allow")
    output = un.check_output(["id", "-G"], idmap=idmap, extra_groups=wanted, group=0, text=True)
    assert {int(word) for word in output.split()} == {0, *wanted}


def test_proc_is_mounted_below_the_new_root(prelude: Program, tmp_path: Path) -> None:
    """Check that proc is mounted after chroot(2), as unshare(1) does."""
    inner = f"{prelude.path} -mpf --root={tmp_path} --mount-proc -- sh -c 'echo $$ /proc/[0-9]*'"
    script = f"mount --rbind / {tmp_path} && {inner} && ls -d /proc/{os.getpid()}"
    done = prelude("-rm", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"1 /proc/1\n/proc/{os.getpid()}\n"


@as_root
def test_the_callers_children_are_in_another_pid_namespace() -> None:
    """Check that helpers work if getppid() is 0 and /proc has pids of another PID namespace."""
    try:
        subprocess.run(["getent", "passwd", USER], check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        pytest.skip(f"there is no user {USER}: `make test` creates it")
    become = ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"]
    command = [SCRIPTS / "usernsctl-exec", "-r", "--map-auto", "--", "cat", "/proc/self/uid_map"]
    assert len(check_output(["unshare", "--pid", *become, *command], cwd="/").splitlines()) == 2


def test_an_undumpable_process_stays_undumpable_inside() -> None:
    script = (
        "import prctl, usernsctl as un\n"
        "un.enter(un.IdMap.root())\n"
        "print(prctl.get_dumpable())\n"
        "un.enter(un.IdMap.root())\n"
        "print(un.run(['true']).returncode, prctl.get_dumpable())\n"
    )
    assert check_output([sys.executable, "-c", script]).split() == ["False", "0", "False"]


def test_exec_closes_descriptors_before_it_joins_a_namespace() -> None:
    """Let setns(2) fail; check that the descriptors were closed before the call."""
    script = (
        "import os, usernsctl as un\n"
        "secret = os.open('/', os.O_RDONLY)\n"
        "passed = os.open('/', os.O_RDONLY)\n"
        "with un.Namespace.create() as ns:\n"
        "    ns.enter()\n"
        "    try:\n"
        "        ns.exec(['true'], pass_fds=[passed])\n"
        "    except un.NamespaceError as error:\n"
        "        print(error.step)\n"
        "os.fstat(passed)\n"
        "try:\n"
        "    os.fstat(secret)\n"
        "except OSError:\n"
        "    print('closed')\n"
    )
    assert check_output([sys.executable, "-c", script]).split() == ["setns", "closed"]
