"""Tests of the options of SandboxHost, Sandbox and gvisor.run."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_type_hints

import gvisor
import pytest
from callers import as_root
from conftest import open_descriptors
from processes import processes_with, status_of

import usernsctl as un
from usernsctl.gvisor.launch.request import Request

PATIENCE = 20
FOREVER = ["sleep", "1000"]
both_kinds = pytest.mark.parametrize("detach", [False, True], ids=["held", "detached"])


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("runtime")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


def script_output(host: un.SandboxHost, script: str, **options: Any) -> str:
    """Run a shell script in a sandbox of `host`; return the output."""
    with host.start(["sh", "-c", script], stdout=un.PIPE, **options) as box:
        return str(box.communicate(timeout=PATIENCE)[0].decode())


def test_binds_accept_texts_paths_and_bind_objects(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("shown")
    binds: list[Any] = [
        f"{tmp_path}:/writable:rw",
        f"{tmp_path}:/guarded",
        tmp_path,
        un.Bind(str(tmp_path / "file"), "/one"),
    ]
    with un.SandboxHost(binds=binds) as made:
        seen = script_output(
            made,
            f"cat /writable/file /guarded/file {tmp_path}/file /one; echo new >/writable/new;"
            "echo no >/guarded/no || echo refused",
            stderr=un.DEVNULL,
        )
    assert seen == "shown" * 4 + "refused\n"
    assert (tmp_path / "new").read_text() == "new\n"
    assert not (tmp_path / "no").exists()


def test_rlimits_accept_texts_and_rlimit_objects() -> None:
    limits: list[Any] = ["nofile=100:200", un.Rlimit("RLIMIT_AS", 1 << 28, 1 << 28)]
    with un.SandboxHost(rlimits=limits) as made:
        assert script_output(made, "ulimit -n; ulimit -Hn; ulimit -v") == f"100\n200\n{1 << 18}\n"
        grow = "python3 -c 'bytearray(1 << 29)' 2>&1 | grep -c MemoryError"
        assert script_output(made, grow) == "1\n"


def test_debug_log_has_the_logs_of_runsc(tmp_path: Path, state: Path) -> None:
    logs = tmp_path / "logs"
    with un.SandboxHost(debug_log=logs) as made:
        for detach in (False, True):
            before = set(os.listdir(logs))
            with made.start(FOREVER, detach=detach):
                pass
            new = set(os.listdir(logs)) - before
            assert {name.split(".")[-2] for name in new} == {"run", "boot", "gofer", "panic"}
            assert {(logs / name).stat().st_mode & 0o777 for name in new} == {0o600}
            boot = next(name for name in new if name.endswith(".boot.txt"))
            assert "sleep" in (logs / boot).read_text()
    with pytest.raises(un.BindError, match="can't be bind-mounted"):
        un.SandboxHost(debug_log=logs, binds=[tmp_path])


def test_debug_log_keeps_the_error_message(tmp_path: Path) -> None:
    with un.SandboxHost(debug_log=tmp_path / "logs") as made, pytest.raises(un.RunscError) as told:
        made.start(["true"], cwd="/proc/no/such")
    assert "/proc/no" in str(told.value)


@both_kinds
def test_host_may_use_an_existing_namespace(detach: bool) -> None:
    before = open_descriptors()
    with un.Namespace.create(net=True) as ns, un.SandboxHost(namespace=ns) as made:
        assert ns.run(["true"]).returncode == 0
        with made.start(FOREVER, detach=detach) as box:
            ours = os.stat(f"/proc/self/fd/{ns.fileno()}")
            with made.namespace.popen(["cat"], stdin=un.PIPE) as inside:
                assert os.path.samestat(os.stat(f"/proc/{inside.pid}/ns/user"), ours)
            assert box.check_output(["id", "-u"]) == b"0\n"
        ns.close()
        assert gvisor.is_version(script_output(made, "cat /proc/version"))
    assert open_descriptors() == before


def test_host_may_use_a_named_namespace() -> None:
    from usernsctl.namespaces.named import remove_named

    un.Namespace.open_or_create("ours").close()
    try:
        with un.SandboxHost(namespace="ours") as made:
            assert script_output(made, "id -u") == "0\n"
    finally:
        remove_named("ours")
    with pytest.raises(un.NamespaceError, match="there is no namespace 'ours'"):
        un.SandboxHost(namespace="ours")


def test_closed_or_pid_namespace_raises() -> None:
    before = open_descriptors()
    with un.Namespace.create() as ns:
        pass
    with pytest.raises(ValueError, match="the namespace is closed"):
        un.SandboxHost(namespace=ns)
    from usernsctl.namespaces.named import remove_named

    un.Namespace.open_or_create("with-pid", pid=True).close()
    try:
        with pytest.raises(ValueError, match="PID namespace"):
            un.SandboxHost(namespace="with-pid")
    finally:
        remove_named("with-pid")
    assert open_descriptors() == before


def test_runsc_option_overrides_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usernsctl.gvisor.runsc.find import find_runsc

    real = find_runsc(os.environ)
    monkeypatch.setenv("USERNSCTL_RUNSC", "/nonexistent")
    with un.SandboxHost(runsc=real) as made:
        assert gvisor.is_version(script_output(made, "cat /proc/version"))
    with pytest.raises(un.RunscError) as caught:
        un.SandboxHost(runsc=tmp_path / "absent")
    assert caught.value.cause == "runsc-missing"


def test_host_may_keep_privileges() -> None:
    with (
        un.SandboxHost(no_new_privs=False, drop_bounding=False) as made,
        made.start(FOREVER) as box,
        un.Popen(["cat"], stdin=un.PIPE) as plain,
    ):
        names = ("NoNewPrivs", "CapBnd")
        ours, theirs = status_of(plain.pid), status_of(box.init.pid)
        assert [theirs[name] for name in names] == [ours[name] for name in names]


@both_kinds
def test_start_gives_the_command_a_terminal(host: un.SandboxHost, detach: bool) -> None:
    before = open_descriptors()
    with host.start(["sh"], terminal=True, detach=detach) as box:
        box.terminal.write(b"test -t 0 && test -t 1 && test -t 2 && echo all-$((6 * 7))\n")
        assert read_until(box.terminal.fileno(), b"all-42\r\n")
        box.terminal.write(b"exit 5\n")
        assert box.wait(PATIENCE) == 5
    assert box.terminal.closed
    assert open_descriptors() == before


def test_descriptors_of_a_sandbox_are_not_inheritable() -> None:
    before = open_descriptors()
    with un.SandboxHost() as host, host.start(FOREVER, terminal=True):
        ours = [entry.split()[0] for entry in open_descriptors() - before]
        assert ours
        assert not any(os.get_inheritable(int(fd)) for fd in ours)


def read_until(fd: int, wanted: bytes) -> bool:
    """Read from `fd` for at most PATIENCE seconds; return whether `wanted` occurs in the data."""
    told = b""
    deadline = time.monotonic() + PATIENCE
    while wanted not in told and time.monotonic() < deadline:
        if select.select([fd], [], [], 1)[0]:
            told += os.read(fd, 4096)
    return wanted in told


SLOW_RUNSC = """#!/bin/sh
case $* in
    *--version*) echo runsc version release-0 ;;
    *) exec sleep 1000 ;;
esac
"""


@both_kinds
def test_start_raises_after_its_timeout(
    stand_in: Callable[[str], None], detach: bool, state: Path
) -> None:
    stand_in(SLOW_RUNSC)
    id = f"slow-{os.getpid()}"
    with un.SandboxHost() as made:
        before = open_descriptors(), os.listdir(made.directory)
        with pytest.raises(un.TimeoutExpired) as caught:
            made.start(["echo", "word"], id=id, timeout=0.3, detach=detach)
        assert (caught.value.cmd, caught.value.timeout) == (("echo", "word"), 0.3)
        assert (open_descriptors(), os.listdir(made.directory)) == before
    assert un.Sandbox.list_detached() == []
    assert processes_with(id) == []


@contextlib.contextmanager
def control_group() -> Iterator[Path]:
    """Yield a new cgroup (cgroups v2); skip the test if no cgroup can be created."""
    with open("/proc/self/mountinfo") as file:
        tops = [line.split()[4] for line in file if " - cgroup2 " in line]
    if not tops:
        pytest.skip("no cgroup2 file system is mounted")
    group = Path(tops[0]) / f"usernsctl-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        yield group
    finally:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)


@as_root
@both_kinds
def test_in_cgroup_moves_all_processes_into_the_group(host: un.SandboxHost, detach: bool) -> None:
    with control_group() as group, host.start(FOREVER, in_cgroup=group, detach=detach) as box:
        there = [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
        programs = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] for pid in there]
        named = sorted(os.fsdecode(word).rpartition("/")[2] for word in programs)
        ours = [] if detach else ["usernsctl-init"]
        # There may be more processes: on some platforms of gVisor, additional processes run the
        # command's code.
        assert set(named) >= {"runsc-gofer", "runsc-sandbox", *ours}
        assert len(processes_with(box.id)) <= len(there)
    assert not group.exists()


def test_communicate_behaves_like_subprocess(host: un.SandboxHost) -> None:
    pipes = {"stdin": un.PIPE, "stdout": un.PIPE, "stderr": un.PIPE}
    with host.start(["sh", "-c", "cat; echo err >&2; exit 3"], **pipes) as box:
        assert box.communicate(b"x" * 300_000, PATIENCE) == (b"x" * 300_000, b"err\n")
        assert box.returncode == 3
    shut, held = os.pipe()
    script = ["sh", "-c", "echo early; read x; echo late"]
    with host.start(script, stdin=shut, stdout=un.PIPE) as box:
        os.close(shut)
        with pytest.raises(un.TimeoutExpired) as caught:
            box.communicate(timeout=0.05)
        assert caught.value.cmd == box.args
        threading.Timer(0.2, os.close, [held]).start()
        assert box.communicate() == (b"early\nlate\n", None)


def test_communicate_works_with_a_detached_sandbox(host: un.SandboxHost) -> None:
    script = ["sh", "-c", "cat; sleep 0.5; exit 3"]
    with host.start(script, stdin=un.PIPE, stdout=un.PIPE, detach=True) as box:
        assert box.communicate(b"given", PATIENCE) == (b"given", None)
        assert box.returncode == 3
    with (
        host.start(["cat"], stdin=un.PIPE, detach=True) as box,
        un.Sandbox.attach(box.id) as found,
    ):
        threading.Timer(0.5, box.stdin.close).start()
        assert found.communicate() == (None, None)
        assert found.returncode == 0


def test_check_output_behaves_like_subprocess(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as box:
        assert box.check_output(["cat"], input="given", text=True) == "given"
        assert box.check_output(["cat"]) == b""
        with pytest.raises(un.CalledProcessError) as failed:
            box.check_output(["sh", "-c", "echo said; exit 3"])
        assert (failed.value.returncode, failed.value.output) == (3, b"said\n")
        assert failed.value.cmd == ["sh", "-c", "echo said; exit 3"]
        with pytest.raises(un.TimeoutExpired) as late:
            box.check_output(FOREVER, timeout=0.1)
        assert late.value.cmd == FOREVER
        with pytest.raises(ValueError, match="stdout"):
            box.check_output(["true"], stdout=un.DEVNULL)


def test_kill_sends_sigkill_and_terminate_sigterm(host: un.SandboxHost) -> None:
    trap = ["sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"]
    for end, status in ((un.Sandbox.terminate, 9), (un.Sandbox.kill, -9)):
        with host.start(trap, stdout=un.PIPE) as box:
            assert box.stdout.readline() == b"ready\n"
            end(box)
            assert box.wait(PATIENCE) == status
            end(box)


def test_gvisor_run_behaves_like_subprocess(host: un.SandboxHost) -> None:
    script = ["sh", "-c", "cat; echo err >&2; uname -s; pwd; echo $A; exit 3"]
    given: dict[str, Any] = {"cwd": "/usr", "env": {"A": "b"}, "host": host}
    done = un.gvisor.run(script, input="given\r\n", capture_output=True, text=True, **given)
    assert (done.args, done.returncode) == (script, 3)
    assert (done.stdout, done.stderr) == ("given\nLinux\n/usr\nb\n", "err\n")
    done = un.gvisor.run(["cat", "/proc/version"], stdout=un.PIPE, host=host)
    assert gvisor.is_version(done.stdout.decode())
    assert done.stderr is None


def test_gvisor_run_creates_a_host_from_its_options(tmp_path: Path) -> None:
    before = open_descriptors()
    (tmp_path / "file").write_text("shown")
    done = un.gvisor.run(["cat", "/data/file"], stdout=un.PIPE, binds=[f"{tmp_path}:/data"])
    assert done.stdout == b"shown"
    assert open_descriptors() == before


def test_gvisor_run_raises_like_subprocess(host: un.SandboxHost) -> None:
    with pytest.raises(un.CalledProcessError) as failed:
        un.gvisor.run(["sh", "-c", "echo said; exit 3"], check=True, stdout=un.PIPE, host=host)
    assert (failed.value.returncode, failed.value.output) == (3, b"said\n")
    with pytest.raises(un.TimeoutExpired) as late:
        un.gvisor.run(["sh", "-c", "echo said; sleep 1000"], timeout=1, stdout=un.PIPE, host=host)
    assert (late.value.cmd[-1], late.value.timeout) == ("echo said; sleep 1000", 1)
    with pytest.raises(FileNotFoundError):
        un.gvisor.run(["no-such"], host=host)
    for wrong in ({"input": b"", "stdin": un.PIPE}, {"capture_output": True, "stdout": un.PIPE}):
        with pytest.raises(ValueError, match="may not"):
            un.gvisor.run(["true"], host=host, **wrong)
    for name in ("detach", "terminal", "capure_output"):
        with pytest.raises(TypeError, match=name):
            un.gvisor.run(["true"], host=host, **{name: True})
    assert os.listdir(host.directory) == [".crash"]


@pytest.mark.thorough
def test_gvisor_run_works_in_four_threads(host: un.SandboxHost) -> None:
    def one(number: int) -> int:
        return un.gvisor.run(["sh", "-c", f"exit {number}"], host=host).returncode

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(one, range(4))) == [0, 1, 2, 3]


def test_host_options_match_the_fields_of_request() -> None:
    """Check that HostOptions, which type checkers use, has the same fields as Request."""
    fields = Request.__dataclass_fields__.values()
    known = {one.metadata["argument"].name for one in fields if one.metadata.get("argument")}
    assert set(get_type_hints(un.HostOptions)) == known
    options = [option for one in fields for option in one.metadata.get("options", ())]
    assert {name for one in fields if not one.metadata for name in [one.name]} == {
        "args",
        "groups",
        "ranges",
        "virtual_env",
    }
    assert len({flag for option in options for flag in option.flags}) >= len(options) > 20
