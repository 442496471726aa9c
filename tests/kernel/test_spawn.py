"""Tests of Popen: the features that subprocess.Popen lacks, errors, and leaks."""

from __future__ import annotations

import errno
import os
import pickle
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import prctl
import pytest
from callers import as_root, unprivileged
from conftest import children, open_descriptors
from inside import PATIENCE, WAITER, namespace, read_ready

import usernsctl as un

pytestmark = pytest.mark.each_user

UID, GID = os.geteuid(), os.getegid()
MAPS = ["cat", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"]
WIDE = un.IdMap.extents(["0:100000:10", "20:0:1"], ["0:200000:10"])


@pytest.mark.parametrize(
    "idmap",
    [
        un.IdMap.root(),
        un.IdMap.current(),
        un.IdMap(map_user=7, map_group=8),
        un.IdMap(map_user=7),
        un.IdMap(),
        un.IdMap(map_users=(un.Extent(3, UID, 1),)),
        pytest.param(WIDE, marks=as_root),
        pytest.param(
            un.IdMap(map_user=0, map_group=0, map_groups=(un.Extent(1, 5, 2),)), marks=as_root
        ),
    ],
)
def test_the_written_map_is_as_planned(idmap: un.IdMap) -> None:
    planned = un.plan(idmap)
    numbers = [str(number) for extent in (*planned.uid, *planned.gid) for number in extent]
    setgroups = "allow" if planned.setgroups == "auto" else planned.setgroups
    assert un.check_output(MAPS, idmap=idmap, text=True).split() == [*numbers, setgroups]


@pytest.mark.parametrize(
    ("idmap", "uid", "gid"),
    [
        (None, 0, 0),
        (un.IdMap.current(), UID, GID),
        (un.IdMap(map_user=7, map_group=8), 7, 8),
        pytest.param(WIDE, 20, 0, marks=as_root),
    ],
)
def test_the_command_has_the_ids_of_the_map(idmap: un.IdMap | None, uid: int, gid: int) -> None:
    shown = un.check_output(["sh", "-c", "id -u; id -g"], idmap=idmap, text=True)
    assert shown.split() == [str(uid), str(gid)]


@as_root
def test_user_group_and_extra_groups_set_ids_inside() -> None:
    shown = un.check_output(
        ["sh", "-c", "id -u; id -g; id -G"],
        idmap=WIDE,
        user=3,
        group=4,
        extra_groups=[5, 6],
        text=True,
    )
    assert shown.split() == ["3", "4", "4", "5", "6"]


KINDS = {
    "mount": "mnt",
    "net": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "pid": "pid",
    "time": "time_for_children",
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_argument_creates_its_namespace_only(kind: str) -> None:
    names = ["user", *KINDS.values()]
    show = ["readlink", *(f"/proc/self/ns/{name}" for name in names)]
    arguments: dict[str, Any] = {kind: True}
    links = dict(zip(names, un.check_output(show, text=True, **arguments).split(), strict=True))
    new = {name for name, link in links.items() if link != namespace(name)}
    assert new == {"user", KINDS[kind]}


def test_the_command_is_the_first_process_of_a_new_pid_namespace() -> None:
    assert un.check_output(["sh", "-c", "echo $$ $PPID"], pid=True, text=True) == "1 0\n"


@as_root
def test_a_wide_map_and_a_pid_namespace_go_together() -> None:
    show = ["sh", "-c", "echo $$; id -u"]
    assert un.check_output(show, idmap=WIDE, pid=True, mount=True, text=True) == "1\n20\n"


def test_mounts_of_a_command_are_not_visible_outside() -> None:
    script = "mount -t tmpfs none /mnt && touch /mnt/inside && ls /mnt"
    assert un.check_output(["sh", "-c", script], mount=True, text=True) == "inside\n"
    assert not Path("/mnt/inside").exists()


def test_pidfd_is_valid_until_the_child_is_reaped() -> None:
    with un.Popen(WAITER, stdout=un.PIPE, text=True) as process:
        read_ready(process.stdout)
        assert not os.get_inheritable(process.pidfd)
        signal.pidfd_send_signal(process.pidfd, signal.SIGUSR1)
        ended, _, _ = select.select([process.pidfd], [], [], PATIENCE)
        assert ended == [process.pidfd]
        assert process.wait(PATIENCE) == 100 + signal.SIGUSR1
        assert process.pidfd == -1


# Program that starts a command with pdeathsig, prints the pid of the command, and exits.
SHORT_LIVED = """
import os, signal, sys
import usernsctl
process = usernsctl.Popen(["sleep", "1000"], pdeathsig=signal.SIGKILL, pid=bool(sys.argv[1:]))
print(process.pid, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("in_pid_namespace", [False, True])
def test_pdeathsig_kills_the_command(in_pid_namespace: bool) -> None:
    prctl.set_child_subreaper(True)
    arguments = ["pid"] if in_pid_namespace else []
    done = subprocess.run(
        [sys.executable, "-c", SHORT_LIVED, *arguments],
        stdout=subprocess.PIPE,
        check=True,
        timeout=PATIENCE,
    )
    _, status = os.waitpid(int(done.stdout), 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def test_unsearchable_directories_of_path_are_skipped() -> None:
    # Put /root first: outside, root of the new namespace is this user, who may be unable to search
    # /root.
    env = {"PATH": "/root:/usr/bin:/bin"}
    with pytest.raises(FileNotFoundError) as caught:
        un.run(["no-such-tool"], env=env)
    assert caught.value.cause == "command-not-found"
    assert un.call(["true"], env=env) == 0


@unprivileged
def test_an_unsearchable_cwd_is_named() -> None:
    with pytest.raises(PermissionError) as caught:
        un.run(["true"], cwd="/root")
    error = caught.value
    assert (error.step, error.cause) == ("chdir", "cwd-not-searchable")
    assert (error.errno, error.filename) == (errno.EACCES, "/root")


@pytest.mark.parametrize(
    ("arguments", "kind", "step", "number", "cause"),
    [
        (
            {"args": ["no-such-tool"]},
            FileNotFoundError,
            "lookup",
            errno.ENOENT,
            "command-not-found",
        ),
        ({"args": ["/etc"]}, PermissionError, "exec", errno.EACCES, "command-not-executable"),
        ({"cwd": "/no/such/dir"}, FileNotFoundError, "chdir", errno.ENOENT, "cwd-not-found"),
        ({"cwd": "/etc/passwd"}, NotADirectoryError, "chdir", errno.ENOTDIR, "cwd-not-found"),
        ({"process_group": 4194304}, un.CommandError, "session", None, None),
        ({"pass_fds": [999]}, un.CommandError, "descriptors", errno.EBADF, None),
        ({"user": 12345}, un.NamespaceError, "setresuid", errno.EINVAL, "inside-id-unmapped"),
        ({"group": 12345}, un.NamespaceError, "setresgid", errno.EINVAL, "inside-id-unmapped"),
        pytest.param(
            {"extra_groups": [12345], "idmap": WIDE},
            un.NamespaceError,
            "setgroups",
            errno.EINVAL,
            "inside-id-unmapped",
            marks=as_root,
        ),
        (
            {"extra_groups": [0]},
            un.NamespaceError,
            "setgroups",
            errno.EPERM,
            "setgroups-denied-on-join",
        ),
    ],
)
def test_errors_have_step_and_cause_and_can_be_pickled(
    arguments: dict[str, Any],
    kind: type[un.UsernsError],
    step: str,
    number: int | None,
    cause: str | None,
) -> None:
    with pytest.raises(kind) as caught:
        un.run(**({"args": ["true"]} | arguments))
    error = caught.value
    assert isinstance(error, un.UsernsError)
    assert (error.step, error.cause) == (step, cause)
    assert number is None or error.errno == number
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert (copy.errno, copy.filename) == (error.errno, error.filename)


def test_preexec_fn_and_shell_are_refused() -> None:
    with pytest.raises(ValueError, match="preexec_fn"):
        un.run(["true"], preexec_fn=print)
    with pytest.raises(ValueError, match="shell=True"):
        un.run("true", shell=True)
    with pytest.raises(ValueError, match="args is empty"):
        un.run([])
    with pytest.raises(ValueError, match="propagation"):
        un.run(["true"], propagation="sideways")


@pytest.mark.parametrize("call", [un.run, un.call, un.check_call, un.check_output, un.Popen])
def test_run_and_popen_refuse_unknown_arguments(call: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'moutn'"):
        call(["true"], moutn=True)


def start_one(index: int) -> None:
    """Start a command that succeeds if `index` is even, and fails otherwise."""
    failing: list[dict[str, Any]] = [
        {"args": ["no-such-tool"]},
        {"args": ["true"], "cwd": "/no/such/dir"},
        {"args": ["true"], "user": 12345},
        {"args": ["true"], "pass_fds": [999]},
        {"args": ["a\0b"]},
        {"args": ["true"], "idmap": un.IdMap.extents(["0:0:1", "0:1:1"], [])},
    ]
    if index % 2 == 0:
        assert un.run(["cat"], input=b"x", stdout=un.PIPE, pid=index % 4 == 0).stdout == b"x"
        return
    arguments = failing[index // 2 % len(failing)]
    with pytest.raises((un.UsernsError, ValueError)):
        un.run(**arguments, stdin=un.PIPE, stdout=un.PIPE, stderr=un.PIPE)


def test_200_starts_leave_nothing() -> None:
    descriptors, before = open_descriptors(), children()
    for index in range(200):
        start_one(index)
    assert open_descriptors() == descriptors
    assert children() == before


def test_16_threads_start_commands_while_signals_arrive() -> None:
    descriptors, before = open_descriptors(), children()
    main = os.getpid()
    handled_by = set()

    def handler(*_: object) -> None:
        handled_by.add(os.getpid())

    old_handler = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with ThreadPoolExecutor(16) as pool:
            for _ in pool.map(start_one, range(160)):
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old_handler)
    assert handled_by == {main}
    assert open_descriptors() == descriptors
    assert children() == before


@as_root
def test_the_caller_stays_dumpable() -> None:
    assert prctl.get_dumpable() == 1
    assert un.run(["true"], idmap=un.IdMap.extents(["0:1:1"], ["0:1:1"])).returncode == 0
    assert prctl.get_dumpable() == 1


def test_a_name_in_place_of_a_namespace_raises() -> None:
    with pytest.raises(TypeError, match=r"such as Namespace\.open\(name\), not 'web'"):
        un.run(["true"], namespace="web")  # type: ignore[call-overload]
