"""Tests of usernsctl.Namespace, which keeps namespaces alive with open descriptors."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prctl
import pytest
from callers import unprivileged
from conftest import Program, children, open_descriptors
from inside import PATIENCE, WAITER, namespace, read_ready
from kept import LINK, MAP_WITHOUT_US, WHO, in_python, without_us

import usernsctl as un
from usernsctl.namespaces.namespace import Namespace

pytestmark = pytest.mark.each_user

UID, GID = os.geteuid(), os.getegid()
ALL_CAPABILITIES = int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1


def test_every_method_starts_commands_in_the_namespace() -> None:
    with Namespace.create() as ns:
        inside = ns.check_output(LINK, text=True)
        assert inside.strip() != namespace("user")
        assert ns.run(LINK, capture_output=True, text=True).stdout == inside
        with ns.popen(LINK, stdout=un.PIPE, text=True) as process:
            assert process.communicate()[0] == inside
        read_end, write_end = os.pipe()
        child = ns.spawn(LINK, stdout=write_end)
        os.close(write_end)
        with open(read_end) as output:
            assert output.read() == inside
        assert os.waitpid(child.pid, 0) == (child.pid, 0)
        os.close(child.pidfd)


@pytest.mark.parametrize("method", ["exec", "enter"])
def test_enter_and_exec_move_the_process_into_the_namespace(method: str) -> None:
    move = "ns.exec(command)" if method == "exec" else "ns.enter(); os.execvp('sh', command)"
    output = in_python(
        "from usernsctl.namespaces.namespace import Namespace\n"
        "links = 'id -u; readlink /proc/self/ns/user /proc/self/ns/uts'\n"
        "command = ['sh', '-c', 'echo $$; ' + links]\n"
        "ns = Namespace.create(uts=True)\n"
        "print(os.getpid(), flush=True)\n"
        "ns.run(['sh', '-c', links])\n" + move
    )
    pid, *links = output.split()[:4]
    assert output.split()[4:] == [pid, *links]


def test_create_leaves_no_child_process() -> None:
    before = children()
    with Namespace.create(mount=True, net=True, ipc=True, uts=True):
        assert children() == before


@pytest.mark.parametrize(
    ("kind", "file"),
    [("mount", "mnt"), ("net", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")],
)
def test_other_namespaces_are_created_and_pinned(kind: str, file: str) -> None:
    command = ["readlink", f"/proc/self/ns/{file}"]
    with Namespace.create(**{kind: True}) as ns:
        assert ns.has("user")
        assert ns.has(kind)
        first = ns.check_output(command, text=True)
        assert first.strip() != namespace(file)
        assert ns.check_output(command, text=True) == first
    with Namespace.create() as ns:
        assert not ns.has(kind)
        assert ns.check_output(command, text=True).strip() == namespace(file)


def test_a_time_namespace_is_joined_too() -> None:
    command = ["readlink", "/proc/self/ns/time"]
    with Namespace.create(time=True) as ns:
        first = ns.check_output(command, text=True)
        assert first.strip() != namespace("time")
        assert ns.check_output(command, text=True) == first
        assert ns.check_output(["sh", "-c", "echo $$"], pid=True, text=True) == "1\n"
        with pytest.raises(un.CommandNotFoundError):
            ns.run(["no-such-tool"])
        with pytest.raises(un.CommandNotFoundError):
            ns.run(["no-such-tool"], pid=True)


def test_a_pid_namespace_can_not_be_kept() -> None:
    with pytest.raises(TypeError, match="pid"):
        Namespace.create(pid=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("idmap", "who"),
    [
        (un.IdMap.root(), [0, 0]),
        (un.IdMap.current(), [UID, GID]),
        (un.IdMap(map_user=7, map_group=8), [7, 8]),
        (un.IdMap.extents([f"0:{UID}:1"], [f"0:{GID}:1"]), [0, 0]),
    ],
)
def test_commands_get_their_ids_from_the_map(idmap: un.IdMap, who: list[int]) -> None:
    with Namespace.create(idmap) as ns:
        output = ns.check_output(WHO, text=True).split()
        assert output[:2] == [str(number) for number in who]


@without_us
def test_an_unmapped_creator_starts_commands_as_root_without_groups() -> None:
    with Namespace.create(MAP_WITHOUT_US) as ns:
        assert ns.check_output(WHO, text=True).split() == ["0", "0", "0"]
        status = ns.check_output(["grep", "^Groups", "/proc/self/status"], text=True)
        assert status.split() == ["Groups:"]


@without_us
def test_the_caller_stays_dumpable() -> None:
    assert prctl.get_dumpable() == 1
    with Namespace.create(MAP_WITHOUT_US) as ns:
        ns.run(["true"], check=True)
    assert prctl.get_dumpable() == 1


def test_root_inside_has_all_capabilities() -> None:
    with Namespace.create() as ns:
        status = ns.check_output(["cat", "/proc/self/status"], text=True)
    sets = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Cap"))
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(sets[name], 16).bit_count() == ALL_CAPABILITIES


def test_changes_of_one_command_are_seen_by_the_next() -> None:
    with Namespace.create(mount=True, net=True, uts=True) as ns:
        script = (
            "mount -t tmpfs kept /mnt && echo x >/mnt/file && hostname kept && ip link set lo up"
        )
        ns.run(["sh", "-c", script], check=True)
        script = "cat /mnt/file; hostname; cat /sys/class/net/lo/operstate; ip -brief link show lo"
        output = ns.check_output(["sh", "-c", script], text=True)
        assert output.startswith("x\nkept\n")
        assert "LOOPBACK,UP" in output
    assert not os.path.exists("/mnt/file")


def test_the_current_directory_is_kept(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Namespace.create(mount=True) as ns:
        assert ns.check_output(["pwd"], text=True).strip() == str(tmp_path)
        assert ns.check_output(["pwd"], cwd="/usr", text=True).strip() == "/usr"
    with Namespace.create() as ns:
        assert ns.check_output(["pwd"], text=True).strip() == str(tmp_path)


def test_commands_can_have_their_own_pid_namespaces() -> None:
    with Namespace.create(mount=True) as ns:
        with ns.popen(WAITER, stdin=un.PIPE, stdout=un.PIPE, text=True, pid=True) as process:
            assert read_ready(process.stdout) == 1
            assert process.pid in children()
            process.terminate()
            assert process.wait() == 115
        child = ns.spawn(["sh", "-c", "exit $(( $$ + 6 ))"], pid=True)
        os.close(child.pidfd)
        assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 7


def test_commands_can_have_their_own_uts_namespaces() -> None:
    command = ["sh", "-c", "hostname other; hostname"]
    with Namespace.create(uts=True) as ns:
        name = ns.check_output(["hostname"], text=True)
        assert ns.check_output(command, uts=True, text=True) == "other\n"
        assert ns.check_output(["hostname"], text=True) == name


def test_close_does_not_end_running_commands() -> None:
    ns = Namespace.create()
    with ns.popen(WAITER, stdout=un.PIPE, text=True) as process:
        read_ready(process.stdout)
        inside = namespace("user", process.pid)
        ns.close()
        assert namespace("user", process.pid) == inside
        with Namespace.from_pid(process.pid) as again:
            assert again.check_output(LINK, text=True).strip() == inside
        process.terminate()


USES: dict[str, Callable[[Namespace], Any]] = {
    "run": lambda ns: ns.run(["true"]),
    "popen": lambda ns: ns.popen(["true"]),
    "spawn": lambda ns: ns.spawn(["true"]),
    "check_output": lambda ns: ns.check_output(["true"]),
    "exec": lambda ns: ns.exec(["true"]),
    "enter": lambda ns: ns.enter(),
    "fileno": lambda ns: ns.fileno(),
    "with": lambda ns: ns.__enter__(),
}


@pytest.mark.parametrize("use", USES)
def test_a_closed_namespace_can_not_be_used(use: str) -> None:
    ns = Namespace.create()
    assert not ns.closed
    assert os.readlink(f"/proc/self/fd/{ns.fileno()}").startswith("user:[")
    ns.close()
    ns.close()
    assert ns.closed
    with pytest.raises(ValueError, match="closed"):
        USES[use](ns)


def test_a_namespace_can_not_be_pickled() -> None:
    with Namespace.create() as ns, pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(ns)


def test_an_unreferenced_namespace_is_closed_with_a_warning() -> None:
    before = open_descriptors()
    with pytest.warns(ResourceWarning, match="the namespace was not closed: call close"):
        Namespace.create(uts=True)
    assert open_descriptors() == before


@pytest.mark.userns
def test_the_kernel_frees_a_closed_namespace() -> None:
    """Check that a closed namespace soon stops counting against max_user_namespaces."""
    Path("/proc/sys/user/max_user_namespaces").write_text("1")
    with Namespace.create():
        with pytest.raises(un.NamespaceError) as caught:
            Namespace.create()
        assert caught.value.errno == errno.ENOSPC
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            Namespace.create().close()
        except un.NamespaceError:
            assert time.monotonic() < deadline
        else:
            return


def test_from_fd_opens_the_namespace_of_a_descriptor() -> None:
    with Namespace.create(uts=True) as ns:
        with Namespace.from_fd(ns.fileno()) as same:
            assert same.fileno() != ns.fileno()
            assert not same.has("uts")
            assert same.check_output(LINK) == ns.check_output(LINK)
        ns.run(["true"], check=True)


def test_from_fd_refuses_descriptors_of_other_files() -> None:
    for path in ("/", "/proc/self/ns/uts", "/dev/null"):
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(un.NamespaceError, match="is not a user namespace"):
                Namespace.from_fd(fd)
        finally:
            os.close(fd)
    for fd in (99999, -1, 1 << 31):
        with pytest.raises(un.NamespaceError, match="is not a user namespace"):
            Namespace.from_fd(fd)


@pytest.mark.parametrize("pid", ["1", "1/../self", None, 1.0, True])
def test_from_pid_refuses_anything_but_numbers(pid: Any) -> None:
    with pytest.raises(TypeError, match="pid must be a number"):
        Namespace.from_pid(pid)


@pytest.mark.parametrize("options", [["-r"], ["-c"], ["--map-user=7", "--map-group=8"], ["-U"]])
def test_from_pid_opens_the_namespaces_of_a_process(prelude: Program, options: list[str]) -> None:
    command = [prelude.path, *options, "-u", "--", *WAITER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        read_ready(process.stdout)
        with Namespace.from_pid(process.pid) as ns:
            assert ns.has("uts")
            assert not ns.has("net")
            output = ns.check_output(["sh", "-c", "id -u; readlink /proc/self/ns/user"], text=True)
        wanted = {"-r": "0", "-c": str(UID), "--map-user=7": "7", "-U": "65534"}[options[0]]
        assert output.split() == [wanted, namespace("user", process.pid)]
        process.terminate()


def test_from_pid_refuses_dead_processes_and_the_own_namespace() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(un.NamespaceError, match=f"process {process.pid}: ") as caught:
        Namespace.from_pid(process.pid)
    assert caught.value.cause == "target-gone"
    with pytest.raises(un.NamespaceError, match="is in this process's own user namespace"):
        Namespace.from_pid(os.getpid())


def test_from_pid_refuses_a_zombie() -> None:
    with Namespace.create() as ns:
        child = ns.spawn(["true"])
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
        with pytest.raises(un.NamespaceError) as caught:
            Namespace.from_pid(child.pid)
        assert caught.value.cause == "target-gone"
        os.waitpid(child.pid, 0)
        os.close(child.pidfd)


@unprivileged
def test_from_pid_refuses_a_process_of_another_user() -> None:
    with pytest.raises(un.NamespaceError) as caught:
        Namespace.from_pid(1)
    assert caught.value.errno == errno.EACCES


def test_create_with_an_invalid_map_leaves_nothing() -> None:
    before = open_descriptors(), children()
    for uids in (["0:0:1", "0:1:1"], ["0:7:1", "1:7:1"]):
        with pytest.raises(un.MapError, match="overlap"):
            Namespace.create(un.IdMap.extents(uids, []))
    assert (open_descriptors(), children()) == before


def test_commands_do_not_inherit_the_namespace_descriptors() -> None:
    with Namespace.create(mount=True, uts=True) as ns:
        assert ns.check_output(["ls", "/proc/self/fd"], text=True).split() == ["0", "1", "2", "3"]
        done = subprocess.run(["ls", "/proc/self/fd"], close_fds=False, stdout=subprocess.PIPE)
        assert str(ns.fileno()).encode() not in done.stdout.split()


def test_python_itself_works_inside() -> None:
    with Namespace.create(mount=True, net=True) as ns:
        command = [sys.executable, "-c", "import os; print(os.getuid(), os.getgid())"]
        assert ns.check_output(command, text=True) == "0 0\n"


def test_namespace_has_returns_whether_a_kind_is_pinned() -> None:
    with Namespace.create(uts=True) as ns:
        assert (ns.has("user"), ns.has("uts"), ns.has("net")) == (True, True, False)
        with pytest.raises(ValueError, match=r"kind must be one of user, mount, .*, not 'mnt'"):
            ns.has("mnt")
    assert not ns.has("user")
