"""Tests of creating named namespaces, of running commands in them, and of removing them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from callers import unprivileged
from conftest import Program, children, open_descriptors
from inside import PATIENCE, WAITER, namespace, read_ready
from kept import LINK, MAP_WITHOUT_US, WHO, in_python, without_us
from processes import capture, check_output

import usernsctl as un
from usernsctl._system.records import Entry
from usernsctl.namespaces import named
from usernsctl.namespaces.named import NamedNamespace
from usernsctl.namespaces.namespace import Namespace

pytestmark = pytest.mark.each_user

UID, GID = os.geteuid(), os.getegid()


@pytest.fixture(autouse=True)
def state(runtime: Path) -> Iterator[Path]:
    """Yield the directory of records; afterwards, remove the namespaces that the test has left."""
    yield runtime / "usernsctl" / "namespaces"
    for left in named.list_named():
        named.remove_named(left.name)


def ns(usernsctl: Program, *arguments: str, status: int = 0) -> str:
    """Run `usernsctl ns`; return standard output, or standard error if `status` is not 0."""
    done = usernsctl("ns", *arguments, env=dict(os.environ))
    assert done.returncode == status, done.stderr
    assert (done.stdout if status else done.stderr) == ""
    return done.stderr if status else done.stdout


def only_one() -> NamedNamespace:
    (found,) = named.list_named()
    return found


@pytest.mark.parametrize("inside", [0, 7])
def test_state_in_tmp_is_named_by_the_uid_outside(
    prelude: Program, usernsctl: Program, tmp_path: Path, inside: int
) -> None:
    """Check that the name of the state directory contains the uid outside, not the uid inside."""
    ids = (f"--map-user={inside}", f"--map-group={inside}")
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    prelude.check_output(*ids, "--", usernsctl.path, "ns", "list", env=env)
    assert [made.name for made in tmp_path.iterdir()] == [f"usernsctl-{UID}"]


def test_a_named_namespace_lives_from_create_to_remove(usernsctl: Program, state: Path) -> None:
    assert ns(usernsctl, "create", "web", "-r", "--mount", "-u") == ""
    holder = only_one()
    (row,) = json.loads(ns(usernsctl, "list", "--json"))
    assert row["name"] == "web"
    assert row["pid"] == holder.pid
    assert row["namespaces"] == ["user", "mount", "uts"]
    assert row["uid"] == [{"inside": 0, "outside": UID, "count": 1}]
    assert row["gid"] == [{"inside": 0, "outside": GID, "count": 1}]
    assert row["processes"] == 0
    heading, line = ns(usernsctl, "list").splitlines()
    assert heading.split()[:4] == ["NAME", "HOLDER", "AGE", "PROCESSES"]
    assert line.split()[:2] == ["web", str(holder.pid)]
    assert line.split()[-2:] == ["user,mount,uts", f"0:{UID}:1"]

    inside = ns(usernsctl, "exec", "web", "--", *LINK).strip()
    assert inside == namespace("user", holder.pid)
    ns(usernsctl, "exec", "web", "--", "mount", "-t", "tmpfs", "kept", "/mnt")
    ns(usernsctl, "exec", "web", "touch", "/mnt/file")
    assert ns(usernsctl, "exec", "web", "--", "ls", "/mnt") == "file\n"

    said = ns(usernsctl, "remove", "absent", "web", status=125)
    assert "there is no namespace 'absent'" in said
    assert ns(usernsctl, "list", "--json") == "[]\n"
    assert list(state.iterdir()) == []
    assert "no namespace 'web'" in ns(usernsctl, "exec", "web", "--", "true", status=125)


def test_the_other_namespaces_are_removed_if_standard_error_is_full(usernsctl: Program) -> None:
    ns(usernsctl, "create", "web", "-r")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([usernsctl.path, "ns", "remove", "absent", "web"], stderr=full)
    assert done.returncode == 125
    assert ns(usernsctl, "list") == ""


@pytest.mark.parametrize("length", [1, 59, 60, 64])
@pytest.mark.sampled(2)
def test_names_of_any_length_are_listed(usernsctl: Program, length: int) -> None:
    name = "n" * length
    assert usernsctl("ns", "create", name, "-r").returncode == 0
    try:
        output = json.loads(usernsctl("ns", "list", "--json").stdout)
    finally:
        usernsctl("ns", "remove", name)
    assert [one["name"] for one in output] == [name]


def test_a_name_is_taken_only_once(usernsctl: Program) -> None:
    ns(usernsctl, "create", "web")
    before = only_one()
    told = ns(usernsctl, "create", "web", status=125)
    assert "a namespace 'web' exists already" in told
    assert "remedy: usernsctl ns remove web" in told
    assert only_one() == before


@pytest.mark.parametrize(
    ("options", "who"),
    [
        (["-r"], [0, 0]),
        (["-c"], [UID, GID]),
        (["--map-user=7", "--map-group=8"], [7, 8]),
        ([], [0, 0]),
    ],
)
def test_commands_get_their_ids_from_the_map(
    usernsctl: Program, options: list[str], who: list[int]
) -> None:
    ns(usernsctl, "create", "web", *options)
    told = ns(usernsctl, "exec", "web", "--", *WHO).split()
    assert told[:2] == [str(number) for number in who]
    with Namespace.open("web") as kept:
        assert kept.check_output(WHO, text=True).split() == told


@without_us
def test_commands_of_an_unmapped_creator_are_root_without_groups(usernsctl: Program) -> None:
    idmap = MAP_WITHOUT_US
    with Namespace.open_or_create("web", idmap) as kept:
        assert kept.check_output(WHO, text=True).split() == ["0", "0", "0"]
    assert ns(usernsctl, "exec", "web", "--", *WHO).split() == ["0", "0", "0"]
    assert only_one().uid == un.plan(idmap).uid


def test_a_named_namespace_outlives_its_creator() -> None:
    inside = in_python(
        "from usernsctl.namespaces.namespace import Namespace\n"
        "with Namespace.open_or_create('web', mount=True) as ns:\n"
        f"    ns.run({LINK!r})\n"
    )
    with Namespace.open("web") as kept:
        assert kept.has("mount")
        assert kept.check_output(LINK, text=True) == inside
    # Check that open_or_create() returns the existing namespace unchanged, whichever options are
    # passed.
    with Namespace.open_or_create("web", un.IdMap.current(), uts=True) as kept:
        assert not kept.has("uts")
        assert kept.check_output(LINK, text=True) == inside


# Program that creates a namespace and kills itself. The program has then sent the holder the order
# to keep running ("+"), but the holder has not read it.
KILLED_EARLY = """
import os, signal
from usernsctl.namespaces import named
from usernsctl.namespaces.named import NamedNamespace

def keep(self, entry):
    os.kill(self._pid, signal.SIGSTOP)
    entry.record = NamedNamespace.describe("web", self._pid, self._fds, notice=self._notice)
    entry.publish()
    self._connection.send(b"+")
    print(self._pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

named._Holder.keep = keep
named.create_named("web", ["-r"])
"""


def test_list_finds_a_holder_whose_creator_was_killed(usernsctl: Program) -> None:
    """Check that a holder is listed even if it has not yet read "+", the order to keep running.

    Users could not remove a namespace that is not listed.
    """
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EARLY], stdout=subprocess.PIPE, text=True, timeout=PATIENCE
    )
    assert done.returncode == -signal.SIGKILL
    holder = int(done.stdout)
    with subprocess.Popen(
        [usernsctl.path, "ns", "list"], stdout=subprocess.PIPE, text=True
    ) as process:
        time.sleep(0.5)
        os.kill(holder, signal.SIGCONT)
        told, _ = process.communicate(timeout=PATIENCE)
    assert "web" in told
    assert only_one().pid == holder


def test_ns_exec_exits_with_the_status_of_the_command(usernsctl: Program) -> None:
    for options in (["-r"], ["-rp"]):
        ns(usernsctl, "create", "web", *options)
        assert ns(usernsctl, "exec", "web", "--", "sh", "-c", "exit 7", status=7) == ""
        told = ns(usernsctl, "exec", "web", "--", "no-such-tool", status=127)
        assert "no-such-tool" in told
        assert "[command-not-found]" in told
        assert "[command-not-executable]" in ns(usernsctl, "exec", "web", "--", "/etc", status=126)
        ns(usernsctl, "remove", "web")


def test_ns_exec_without_a_pid_namespace_becomes_the_command(usernsctl: Program) -> None:
    ns(usernsctl, "create", "web")
    command = [usernsctl.path, "ns", "exec", "web", "--", *WAITER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert read_ready(process.stdout) == process.pid
        assert only_one().processes() == 1
        (row,) = json.loads(ns(usernsctl, "list", "--json"))
        assert row["processes"] == 1
        process.terminate()
        assert process.wait(PATIENCE) == 115


def test_removing_a_pid_namespace_kills_its_processes(usernsctl: Program) -> None:
    ns(usernsctl, "create", "web", "-r", "--pid", "--mount-proc")
    script = "echo $$; ls -d /proc/[0-9]*"
    pid, *others = ns(usernsctl, "exec", "web", "--", "sh", "-c", script).split()
    assert int(pid) > 1
    assert "/proc/1" in others
    assert len(others) < 5
    command = [usernsctl.path, "ns", "exec", "web", "--", *WAITER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        read_ready(process.stdout)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(PATIENCE) == 100 + signal.SIGUSR1
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        read_ready(process.stdout)
        ns(usernsctl, "remove", "web")
        assert process.wait(PATIENCE) == 128 + signal.SIGKILL


def test_ns_exec_passes_on_signals_during_the_start() -> None:
    script = (
        "import os, signal, sys\n"
        "import usernsctl as un\n"
        "from usernsctl.cli import waiting\n"
        "def start():\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return un.spawn(['sleep', '60']).pid\n"
        "sys.exit(waiting.supervise(start))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=PATIENCE)
    assert done.returncode == 128 + signal.SIGUSR1


def children_of(parent: int) -> list[int]:
    return [
        int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ]


def test_orphans_in_a_pid_namespace_leave_no_zombies(usernsctl: Program) -> None:
    ns(usernsctl, "create", "web", "-r", "-p")
    ns(usernsctl, "exec", "web", "--", "sh", "-c", "sleep 0.1 >/dev/null 2>&1 &")
    holder = only_one().pid
    deadline = time.monotonic() + PATIENCE
    while (orphans := children_of(holder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert orphans == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--bogus"], "there is no option --bogus"),
        (["-r", "--", "sleep", "5"], "without a command: leave out sleep"),
        (["-r", "sleep"], "without a command: leave out sleep"),
        (["--map-users=0:0"], '"0:0" is not an extent'),
        (["--map-users=0:0:1", "--map-users=0:1:1"], "overlap inside"),
        (["--root=/no/such/directory"], "/no/such/directory: No such file or directory"),
        (["--root=/usr"], "/proc/self: No such file or directory"),
        (["--setuid=1234"], "setresuid"),
    ],
)
def test_a_failed_creation_leaves_nothing(
    usernsctl: Program, state: Path, options: list[str], says: str
) -> None:
    told = ns(usernsctl, "create", "web", *options, status=125)
    assert says in told
    assert "Traceback" not in told
    assert list(state.iterdir()) == []


def test_the_environment_of_the_creator_is_hidden_inside(
    usernsctl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "a secret of the creator")
    ns(usernsctl, "create", "web", "-r")
    seen = ns(usernsctl, "exec", "web", "--", "cat", f"/proc/{only_one().pid}/environ")
    assert seen == f"PATH={os.environ['PATH']}\0"


@pytest.mark.userns_requires("subid")
def test_ns_exec_keeps_the_working_directory_as_nsenter_does(
    usernsctl: Program, tmp_path: Path
) -> None:
    """Check that a command can use a working directory whose parent it can't search."""
    public = tmp_path / "private" / "public"
    public.mkdir(parents=True)
    (public / "file").write_text("read\n")
    public.parent.chmod(0o700)
    ns(usernsctl, "create", "web", "-r", "--map-auto")
    ids = ["setpriv", "--reuid=5", "--regid=5", "--clear-groups", "--"]
    script = f"pwd; cat file; cat {public}/file 2>&1"
    by_us = [usernsctl.path, "ns", "exec", "web", "--", *ids, "sh", "-c", script]
    by_nsenter = ["nsenter", f"--user=/proc/{only_one().pid}/ns/user", *ids, "sh", "-c", script]
    output = {capture(words, cwd=public, timeout=PATIENCE).stdout for words in (by_us, by_nsenter)}
    assert output == {f"{public}\nread\ncat: {public}/file: Permission denied\n"}


def test_ns_create_warns_that_it_maps_a_single_id(usernsctl: Program) -> None:
    environment = dict(os.environ) | {"PATH": "/no/such/directory"}
    options = ["-r", "--map-users=1:4294967294:1", "--allow-single-id"]
    if UID == 0:
        # Root needs no helpers to map given ids. But root has no subordinate ranges on the test
        # host, so an automatic map is impossible.
        options = ["-r", "--map-auto", "--allow-single-id"]
    done = usernsctl("ns", "create", "web", *options, env=environment)
    assert done.returncode == 0
    assert "mapping only the caller's own id, as --allow-single-id allows" in done.stderr
    found = only_one()
    assert found.uid == (un.Extent(0, UID, 1),)
    assert found.notice == done.stderr.strip()


@unprivileged
@pytest.mark.userns_requires("subid")
def test_a_named_namespace_maps_the_whole_range(usernsctl: Program) -> None:
    ns(usernsctl, "create", "web", "-r", "--map-auto")
    plan = un.plan(un.IdMap.auto())
    assert (only_one().uid, only_one().gid) == (plan.uid, plan.gid)
    told = ns(usernsctl, "exec", "web", "--", "cat", "/proc/self/uid_map")
    assert told.split() == [str(number) for extent in plan.uid for number in extent]


def test_the_holder_is_small_and_inherits_nothing() -> None:
    read_end, write_end = os.pipe()
    Namespace.open_or_create("web", mount=True).close()
    os.close(write_end)
    with open(read_end) as output:
        assert output.read() == ""
    holder = only_one().pid
    status = Path(f"/proc/{holder}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert int(fields["VmRSS"].split()[0]) < 1024
    assert fields["Name"] == "usernsctl-hold"
    assert list(Path(f"/proc/{holder}/fd").iterdir()) == []
    assert Path(f"/proc/{holder}/cwd").readlink() == Path("/")
    session = Path(f"/proc/{holder}/stat").read_text().rpartition(")")[2].split()[3]
    assert int(session) == holder


def test_the_holder_inherits_no_ignored_or_blocked_signal(usernsctl: Program) -> None:
    """Check that SIGTERM ends a holder whose creator ignored and blocked all signals."""
    script = (
        "import signal, subprocess, sys\n"
        "for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "subprocess.run(sys.argv[1:], check=True, restore_signals=False)\n"
    )
    check_output([sys.executable, "-Ic", script, usernsctl.path, "ns", "create", "web"])
    holder = only_one().pid
    status = Path(f"/proc/{holder}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert int(fields["SigBlk"], 16) == 0
    # Omit the real-time signals, of which libc reserves some: signal(2) rejects those.
    assert int(fields["SigIgn"], 16) & 0x7FFFFFFF == 1 << signal.SIGCHLD - 1
    pidfd = os.pidfd_open(holder)
    os.kill(holder, signal.SIGTERM)
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)
    assert json.loads(ns(usernsctl, "list", "--json")) == []


def test_pipes_of_the_creator_close_at_its_exit(usernsctl: Program) -> None:
    """Check that `$(usernsctl ns create web)` does not wait until the holder exits."""
    command = ["sh", "-c", f'told=$({usernsctl.path} ns create web 2>&1); echo "<$told>"']
    done = capture(command, timeout=PATIENCE)
    assert done.stdout == "<>\n"


def kill_and_wait(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)


def test_a_dead_holder_is_noticed(usernsctl: Program, state: Path) -> None:
    for use in ("list", "open_or_create", "create"):
        with Namespace.open_or_create("web") as kept:
            first = kept.check_output(LINK)
        kill_and_wait(only_one().pid)
        if use == "list":
            assert ns(usernsctl, "list") == ""
            assert list(state.iterdir()) == []
            continue
        if use == "create":
            ns(usernsctl, "create", "web")
        with Namespace.open_or_create("web") as kept:
            assert kept.check_output(LINK) != first
        named.remove_named("web")


def test_records_with_a_reused_pid_are_ignored(state: Path) -> None:
    Namespace.open_or_create("web").close()
    holder = only_one()
    file = state / "web" / "record.json"
    true = file.read_text()
    for lie in ({"start_time": holder.start_time + 1}, {"boot_id": "another"}):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(json.loads(true) | lie))
        with pytest.raises(un.NamespaceError, match="there is no namespace 'web'"):
            Namespace.open("web")
        assert not file.exists()
    file.parent.mkdir()
    file.write_text(true)
    Namespace.open("web").close()


def test_remove_kills_only_the_holder() -> None:
    with Namespace.open_or_create("web") as kept:
        holder = only_one().pid
        named.remove_named("web")
        assert "Z" in Path(f"/proc/{holder}/stat").read_text().rpartition(")")[2].split()[0]
        # The namespace survives the holder's death, because `kept` has descriptors of it.
        kept.run(["true"], check=True)


def test_each_name_has_a_namespace_of_its_own() -> None:
    links = set()
    for number in range(5):
        with Namespace.open_or_create(f"web{number}") as kept:
            links.add(kept.check_output(LINK))
    assert len(links) == 5
    assert [found.name for found in named.list_named()] == [f"web{n}" for n in range(5)]


def test_fifty_racing_processes_get_the_same_namespace() -> None:
    output = in_python(
        "from usernsctl.namespaces.namespace import Namespace\n"
        "gate, opened = os.pipe()\n"
        "results, write_results = os.pipe()\n"
        "children = []\n"
        "for number in range(50):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.close(opened)\n"
        "        os.read(gate, 1)\n"
        "        with Namespace.open_or_create('web', mount=True) as ns:\n"
        f"            os.write(write_results, ns.check_output({LINK!r}))\n"
        "        os._exit(0)\n"
        "    children.append(child)\n"
        "os.close(gate)\n"
        "os.close(opened)\n"
        "os.close(write_results)\n"
        "print(*(os.waitpid(child, 0)[1] for child in children))\n"
        "print(open(results).read(), end='')\n"
    )
    statuses, *links = output.splitlines()
    assert statuses.split() == ["0"] * 50
    assert len(links) == 50
    assert set(links) == {namespace("user", only_one().pid)}


def test_open_and_failed_calls_leak_no_descriptors() -> None:
    Namespace.open_or_create("web").close()
    before = open_descriptors(), children()
    for _ in range(20):
        Namespace.open("web").close()
        with pytest.raises(un.NamespaceError):
            Namespace.open("other")
        with pytest.raises(un.NamespaceError):
            named.create_named("web", [])
        with pytest.raises(un.NamespaceError):
            named.create_named("other", ["--bogus"])
    assert (open_descriptors(), children()) == before


def test_unknown_kinds_of_namespaces_are_refused() -> None:
    arguments: dict[str, Any] = {"bogus": True}
    with pytest.raises(TypeError, match="bogus"):
        Namespace.open_or_create("web", **arguments)
    assert named.list_named() == []


def test_a_holder_that_is_killed_during_the_creation_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish = Entry.publish

    def publish_and_kill(entry: Entry[NamedNamespace]) -> None:
        publish(entry)
        holder = os.pidfd_open(entry.record.pid)
        try:
            signal.pidfd_send_signal(holder, signal.SIGKILL)
            assert select.select([holder], [], [], PATIENCE)[0]
        finally:
            os.close(holder)

    monkeypatch.setattr(Entry, "publish", publish_and_kill)
    with pytest.raises(un.NamespaceError, match="the holder of the namespace 'web'"):
        named.create_named("web", ["--user"])
    assert named.list_named() == []


def test_remove_reports_a_holder_that_does_not_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the error names a holder that survives SIGKILL.

    For example, PID 1 of a PID namespace exits only after a hung child has exited.
    """
    with Namespace.open_or_create("web"):
        pid = only_one().pid
    with monkeypatch.context() as patched:
        patched.setattr(named, "kill", lambda pidfd: None)
        patched.setattr(named, "_END_SECONDS", 0.1)
        with pytest.raises(un.NamespaceError, match=f"process {pid}, which holds namespace"):
            named.remove_named("web")
    assert only_one().pid == pid
