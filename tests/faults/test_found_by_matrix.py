"""Regression tests of defects that tests/faults/matrix.py has found, each with one fault."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from callers import unprivileged
from conftest import open_descriptors
from interrupts import interrupt_each, run_interrupted
from processes import kill_and_wait

import usernsctl as un
from usernsctl._system import processes, records
from usernsctl._system.descriptors import empty_input
from usernsctl._system.paths import open_program
from usernsctl._system.processes import ProcessIdentity
from usernsctl.commands import arguments
from usernsctl.doctor import reading
from usernsctl.gvisor.launch import freeze
from usernsctl.gvisor.runsc import releases
from usernsctl.gvisor.sandbox import attached, detached
from usernsctl.gvisor.sandbox import records as sandbox_records
from usernsctl.gvisor.template import image
from usernsctl.namespaces import named, tree
from usernsctl.network import refusals

# Ignore the warnings of objects that are dropped without close(). pytest would report these
# warnings as errors.
pytestmark = [
    pytest.mark.usefixtures("runtime"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


PATIENCE = 60


@pytest.fixture
def removed() -> Iterator[None]:
    """Remove the namespace "web" after the test if the test has left it behind."""
    yield
    if any(one.name == "web" for one in named.list_named()):
        named.remove_named("web")


def failing(number: int) -> Callable[..., Any]:
    return raising(OSError(number, os.strerror(number)))


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.usefixtures("removed")
def test_a_namespace_that_its_creator_cannot_open_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression test: after an error, the namespace remained, with its holder and its record."""
    with monkeypatch.context() as patch:
        patch.setattr(un.Namespace, "of_holder", failing(errno.EMFILE))
        with pytest.raises(OSError, match="Too many open files"):
            un.Namespace.open_or_create("web")
    assert named.list_named() == []


@pytest.mark.usefixtures("removed")
def test_a_namespace_whose_holder_is_killed_after_its_publication_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression test: the error of the message to the dead holder left the record behind."""
    publish = records.Entry.publish

    def publish_and_kill(entry: records.Entry[named.NamedNamespace]) -> None:
        publish(entry)
        kill_and_wait(entry.record.pid)

    monkeypatch.setattr(records.Entry, "publish", publish_and_kill)
    with pytest.raises(un.NamespaceError, match="the holder of the namespace 'web'"):
        un.Namespace.open_or_create("web")
    directory = Path(os.environ["XDG_RUNTIME_DIR"]) / "usernsctl" / "namespaces"
    assert os.listdir(directory) == []


@unprivileged
@pytest.mark.usefixtures("removed")
def test_lack_of_descriptors_is_an_error_of_the_package() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    un.Namespace.open_or_create("web").close()
    named.remove_named("web")
    used = len(os.listdir("/proc/self/fd"))
    kinds = set()
    for room in range(16):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + room, hard))
        try:
            un.Namespace.open_or_create("web").close()
        except OSError as error:
            kinds.add(type(error))
            assert isinstance(error, un.UsernsError), f"with {room}: {error!r}"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        directory = Path(os.environ["XDG_RUNTIME_DIR"]) / "usernsctl" / "namespaces"
        assert [name for name in os.listdir(directory) if name != "web"] == []
    assert kinds


def test_a_draft_is_removed_without_further_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    store = records.Store("a name", named.NamedNamespace, lambda _: records.open_state("drafts"))
    with store.draft("web"):
        monkeypatch.setattr("shutil.rmtree", failing(errno.EMFILE))
    assert os.listdir(Path(os.environ["XDG_RUNTIME_DIR"]) / "usernsctl" / "drafts") == []


def test_a_draft_that_can_not_be_opened_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression test: a new directory that could not be opened remained until the next call."""
    store = records.Store("a name", named.NamedNamespace, lambda _: records.open_state("drafts"))
    real_open, tried = records.Directory.open, list[str]()

    def fail_once(directory: records.Directory, name: str) -> records.Directory:
        tried.append(name)
        if tried.count(".web") == 1 and name == ".web":
            raise un.NamespaceError("no memory", step="state", errno=errno.ENOMEM)
        return real_open(directory, name)

    monkeypatch.setattr(records.Directory, "open", fail_once)
    with pytest.raises(un.NamespaceError, match="no memory"):
        store.draft("web")
    assert ".web" in tried
    assert os.listdir(Path(os.environ["XDG_RUNTIME_DIR"]) / "usernsctl" / "drafts") == []


def test_leaving_a_closed_entry_raises_nothing() -> None:
    """Regression test: a ValueError for descriptor -1 replaced the original exception."""
    store = records.Store("a name", named.NamedNamespace, lambda _: records.open_state("closed"))
    with store.draft("web") as entry:
        entry.remove()
        entry.close()


def test_no_pidfd_is_lost_by_an_interrupt() -> None:
    identity = ProcessIdentity.of(os.getpid())

    def run() -> None:
        pidfd = identity.open(lambda _: True)
        assert pidfd is not None
        pidfd.close()

    interrupt_each(run)


def test_no_pipe_of_a_command_is_lost_by_an_interrupt() -> None:
    """Regression test: an interrupted Popen leaked pipes that had no file objects yet."""
    interrupt_each(lambda: un.run(["true"], capture_output=True), "open")


def test_no_null_device_of_a_command_is_lost_by_an_interrupt() -> None:
    """Regression test: an interrupt in subprocess leaked the descriptor of /dev/null."""
    interrupt_each(lambda: un.run(["true"], stdin=un.DEVNULL, stdout=un.PIPE), "open")


def test_no_pipe_of_a_command_is_lost_by_an_unknown_encoding() -> None:
    before = open_descriptors()
    with pytest.raises(LookupError, match="unknown encoding"):
        un.run(["true"], input="", capture_output=True, encoding="unknown")
    assert open_descriptors() == before


def test_no_descriptor_of_a_namespace_is_lost_by_an_interrupt() -> None:
    with un.Namespace.create() as namespace, namespace.popen(["sleep", "1000"]) as child:
        try:
            run = lambda: processes.is_in_our_namespace(child.pid)  # noqa: E731
            assert run()
            interrupt_each(run, "open", "ioctl", "un_close_fd", "samestat", "fstat", "deque")
        finally:
            child.kill()


def read_record(directory: Path) -> None:
    with records.open_state("records") as state:
        if not (Path(state.path) / "one").exists():
            state.write("one", {"a": 1})
        assert state.read("one") == {"a": 1}


def copy_image_file(directory: Path) -> None:
    target = directory / "target"
    target.mkdir(exist_ok=True)
    (directory / "image").write_bytes(b"data")
    (target / "image").unlink(missing_ok=True)
    with open_program(str(directory)) as source, open_program(str(target)) as there:
        assert image._copy("image", source.fd, there.fd)[0] == 4


def cache_label(directory: Path) -> None:
    # Both functions ignore errors.
    releases._cache_label("/runsc", [1], "label")
    releases._cached_label("/runsc", [1])


def read_end(directory: Path) -> None:
    (directory / "end").write_text("end")
    with open_program(str(directory)) as found:
        assert sandbox_records.read_report("end", found.fd) == "end"


def share_table(directory: Path) -> None:
    refusals.create().close()
    with records.open_state("tables") as state:
        (Path(state.path) / "table").unlink(missing_ok=True)
        refusals.create_file("table", state.fd).close()
        reader = refusals.Reader.open("table", state)
        assert reader is not None
        reader.close()


def open_streams(directory: Path) -> None:
    with empty_input(), arguments.stdio(stdin=un.DEVNULL), arguments.opened(directory):
        pass


def add_process(directory: Path) -> None:
    own = os.stat("/proc/self/ns/user").st_ino
    found = {own: tree.UserNamespace(inode=own, parent=None, owner=0)}
    tree._add(found, own, os.getpid(), None)
    assert found[own].processes


@pytest.mark.parametrize(
    "run",
    [
        read_record,
        copy_image_file,
        cache_label,
        read_end,
        share_table,
        open_streams,
        add_process,
        lambda directory: freeze.write_file(b"data", str(directory / "file"), 0o600, "freeze"),
        lambda _: reading.Tree("").text("/proc/self/stat"),
    ],
)
def test_no_descriptor_of_a_file_is_lost_by_an_interrupt(
    run: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression test: an interrupt between open(2) and the file object leaked descriptors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    interrupt_each(lambda: run(tmp_path))


@pytest.mark.userns_requires("runsc")
class TestSandboxes:
    def test_an_interrupted_start_frees_its_id(self, host: un.SandboxHost) -> None:
        """Regression test: an interrupt after mkdir(2) left the sandbox's directory behind."""

        def start() -> None:
            host.start(["true"], id="web").close()

        start()
        for call in itertools.count(1):
            was_interrupted = run_interrupted(start, call, places=("c_return",), names=("mkdir",))
            start()
            if not was_interrupted:
                break
        assert call > 2

    def test_no_descriptor_of_a_detached_sandbox_is_lost_by_an_interrupt(
        self, host: un.SandboxHost
    ) -> None:
        """Regression test: an interrupt leaked pidfds and a namespace's descriptor."""
        host.start(None, id="web", detach=True).release()
        try:
            run = lambda: un.Sandbox.attach("web").release()  # noqa: E731
            interrupt_each(run, "un_close_fd", "close", "poll", "deque", "append", "ioctl")
        finally:
            un.Sandbox.attach("web").close()

    def test_no_descriptor_of_a_view_is_lost_by_an_interrupt(self, host: un.SandboxHost) -> None:
        """Regression test: an interrupt leaked descriptors of directories below mount points."""
        prepared = host.prepared
        names = "un_view_follow", "un_view_new", "un_view_add"
        interrupt_each(lambda: prepared.view().close(), *names)

    def test_a_failed_open_of_namespaces_does_not_hang(
        self, host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Regression test: after the error, host.start() waited for the sandbox's exit."""
        gone = un.NamespaceError("process 5 is gone", step="setns", cause="target-gone")
        monkeypatch.setattr(attached, "_EXIT_SECONDS", 0.1)
        monkeypatch.setattr(un.Namespace, "from_pid", raising(gone))
        with pytest.raises(un.NamespaceError, match="5 is gone"):
            host.start(["sleep", "1000"])

    @pytest.mark.userns_requires("strace")
    @pytest.mark.parametrize("detach", [False, True])
    def test_a_watcher_that_can_not_wait_reports_no_exit_status(
        self, host: un.SandboxHost, detach: bool
    ) -> None:
        """Regression test: after an error of wait4(2), the exit status of the command was 125."""
        with host.start(["sleep", "1000"], id="web", detach=detach) as box:
            watcher = box._get().watcher
            fault = "inject=wait4:error=ECHILD"
            tracer = ["strace", "-o", os.devnull, "-e", "trace=wait4", "-e", fault, "-p"]
            with subprocess.Popen([*tracer, str(watcher)], stderr=subprocess.PIPE) as traced:
                assert traced.stderr is not None
                assert b"attached" in traced.stderr.readline()
                # The watcher calls wait4(2) after each SIGCHLD.
                os.kill(watcher, signal.SIGCHLD)
                with pytest.raises(un.RunscError, match="not known: wait4") as caught:
                    box.wait(PATIENCE)
            assert caught.value.cause == "exit-status-unknown"
            assert box.returncode == -signal.SIGKILL

    def test_a_failed_attach_reports_its_own_error(
        self, host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.start(None, id="web", detach=True).release()
        try:
            with monkeypatch.context() as patch:
                patch.setattr(detached, "_namespace_of_runsc", failing(errno.EMFILE))
                with pytest.raises(OSError, match="Too many open files"):
                    un.Sandbox.attach("web")
        finally:
            un.Sandbox.attach("web").close()
