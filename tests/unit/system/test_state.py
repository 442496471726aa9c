"""Tests of the state directory: permissions, invalid records and locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from callers import as_root
from conftest import settled_descriptors
from processes import umask

import usernsctl as un
from usernsctl._system.paths import id_outside, open_trusted, state_directory
from usernsctl._system.records import RECORD, open_state
from usernsctl.gvisor.sandbox.records import draft_detached, find_detached, list_detached
from usernsctl.namespaces import named

pytestmark = pytest.mark.also_root

# Timeout in seconds for calls that must not wait for a lock or a file.
AT_MOST = 20


@pytest.fixture
def state(runtime: Path) -> Path:
    """Return the path of the test's state directory, which does not exist yet."""
    return runtime / "usernsctl"


@pytest.fixture
def no_umask() -> Iterator[None]:
    with umask(0o777):
        yield


def state_error() -> un.NamespaceError:
    with pytest.raises(un.NamespaceError) as caught:
        open_state("sandboxes")
    assert caught.value.cause == "state-directory-unusable"
    return caught.value


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
@pytest.mark.parametrize("depth", [0, 1])
def test_parent_directory_writable_by_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, depth: int
) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True, mode=0o755)
    open_one = [below, below.parent][depth]
    open_one.chmod(mode)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(below))
    error = state_error()
    assert f"{open_one} can be written to by others (mode {mode:o})" in error.reason
    assert error.remedy is not None
    assert f"chmod go-w {open_one}" in error.remedy
    assert list(below.iterdir()) == []


def test_sticky_parent_directory_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "link").symlink_to("../real/./../real")
    (tmp_path / "real").mkdir(mode=0o755)
    for path in (shared, shared / "link"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
        with open_state("sandboxes") as directory:
            assert directory.path == f"{state_directory()}/sandboxes"
    assert sorted(os.listdir(shared)) == ["link", "usernsctl"]
    assert os.listdir(tmp_path / "real") == ["usernsctl"]


@as_root
@pytest.mark.parametrize("what", ["directory", "link", "above"])
def test_path_component_of_another_owner_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    theirs = shared / "theirs"
    if what == "link":
        theirs.symlink_to(tmp_path)
    else:
        theirs.mkdir(mode=0o755)
    os.chown(theirs, 12345, 12345, follow_symlinks=False)
    inside = theirs
    if what == "above":
        inside = theirs / "ours"
        inside.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(inside))
    assert f"{theirs} belongs to uid 12345" in state_error().reason


@pytest.mark.parametrize(
    ("text", "outside"),
    [
        ("         0          0 4294967295\n", 7),
        ("         7       1000          1\n", 1000),
        ("         0     100000          1\n         5     200000         10\n", 200002),
        ("         0       1000          1\n", 7),
        ("", 7),
    ],
)
def test_id_outside_follows_the_id_map(text: str, outside: int) -> None:
    """Check that mapped ids are translated, and that unmapped ids are returned unchanged."""
    assert id_outside(7, text) == outside


def test_broken_symlinks_raise_and_leak_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "file").touch()
    before = settled_descriptors()
    for name, number in (("a", errno.ELOOP), ("file", errno.ENOTDIR), ("none", errno.ENOENT)):
        with pytest.raises(OSError, match=name) as caught:
            open_trusted(f"{tmp_path}/{name}")
        assert caught.value.errno == number
    assert settled_descriptors() == before


@pytest.mark.usefixtures("no_umask")
def test_modes_do_not_depend_on_the_umask(state: Path) -> None:
    with open_state("dir") as directory:
        directory.make("sub").close()
        directory.write("record", {"a": 1})
        assert directory.read("record") == {"a": 1}
        assert directory.names() == ["record", "sub"]
    assert state.stat().st_mode & 0o7777 == 0o700
    assert (state / "dir").stat().st_mode & 0o7777 == 0o700
    assert (state / "dir" / "sub").stat().st_mode & 0o7777 == 0o700
    assert (state / "dir" / "record").stat().st_mode & 0o7777 == 0o600


def make_entries(state: Path) -> None:
    for entry in ("namespaces/name", "sandboxes/box"):
        (state / entry).mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)


def make_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def make_socket(path: Path) -> None:
    # Bind a short path, below the directory's descriptor, because sun_path has only 108 bytes
    # (unix(7)).
    here = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def make_hard_link(path: Path) -> None:
    other = path.parent.parent / f"other-{path.name}"
    other.write_text("{}")
    other.hardlink_to(path) if path.exists() else path.hardlink_to(other)


def make_open_to_others(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0o666)


NO_RECORDS: list[Callable[[Path], None]] = [
    make_fifo,
    make_socket,
    make_large,
    make_hard_link,
    make_open_to_others,
    lambda path: path.mkdir(),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to("/etc/passwd"),
]


@pytest.mark.parametrize("make", NO_RECORDS)
def test_irregular_or_untrusted_record_file_is_refused(
    state: Path, make: Callable[[Path], None]
) -> None:
    make_entries(state)
    before = settled_descriptors()
    for file, calls in (
        (
            state / "namespaces" / "name" / RECORD,
            (named.list_named, lambda: named.find_named("name")),
        ),
        (
            state / "sandboxes" / "box" / RECORD,
            (list_detached, lambda: find_detached("box"), lambda: draft_detached("box")),
        ),
    ):
        make(file)
        for call in calls:
            begin = time.monotonic()
            with pytest.raises(un.NamespaceError) as caught:
                call()
            assert time.monotonic() - begin < AT_MOST
            assert caught.value.cause == "state-directory-unusable"
            assert str(file) in caught.value.reason
            assert caught.value.remedy == f"rm -r {file}"
            assert os.path.lexists(file)
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink()
    del caught
    assert settled_descriptors() == before


@pytest.mark.parametrize("make", [make_fifo, make_socket, make_open_to_others, *NO_RECORDS[-2:]])
def test_irregular_file_as_sandbox_entry_is_refused(
    state: Path, make: Callable[[Path], None]
) -> None:
    (state / "sandboxes").mkdir(parents=True)
    state.chmod(0o700)
    before = settled_descriptors()
    entry = state / "sandboxes" / "box"
    make(entry)
    for call in (list_detached, lambda: find_detached("box"), lambda: draft_detached("box")):
        with pytest.raises(un.NamespaceError) as caught:
            call()
        assert caught.value.cause == "state-directory-unusable"
        assert str(entry) in caught.value.reason
        assert caught.value.remedy == f"rm -r {entry}"
    del caught
    assert settled_descriptors() == before


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "1e999"])
def test_records_with_deep_json_are_deleted(state: Path, content: str) -> None:
    make_entries(state)
    (state / "namespaces" / "name" / RECORD).write_text(content)
    (state / "sandboxes" / "box" / RECORD).write_text(content)
    assert named.list_named() == []
    assert list_detached() == []
    assert os.listdir(state / "namespaces") == os.listdir(state / "sandboxes") == []


def lock_directory(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_wait_for_a_held_lock_has_a_deadline(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usernsctl._system.records._LOCK_SECONDS", 0.5)
    for path, call in (
        (state / "namespaces" / "name", lambda: named.find_named("name")),
        (state / "sandboxes" / "box", lambda: find_detached("box")),
        (state / "sandboxes" / "box", lambda: draft_detached("box")),
    ):
        make_entries(state)
        fd = lock_directory(path)
        begin = time.monotonic()
        with pytest.raises(un.UsernsError, match="has been for") as caught:
            call()
        assert named.list_named() == list_detached() == []
        assert path.exists()
        os.close(fd)
        assert time.monotonic() - begin < AT_MOST
        assert caught.value.remedy
    assert named.list_named() == []
    assert os.listdir(state / "namespaces") == []


def test_descriptor_limit_is_not_blamed_on_the_directory(state: Path) -> None:
    named.list_named()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = settled_descriptors()
    used = 1 + max(int(one.split()[0]) for one in before)
    holes = [os.open("/dev/null", os.O_RDONLY) for _ in range(used - len(before))]
    failures = set()
    for spare in range(5):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
        try:
            named.list_named()
        except un.NamespaceError as error:
            failures.add((error.errno, error.cause, error.remedy))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in holes:
        os.close(fd)
    assert failures == {(errno.EMFILE, "descriptor-limit", None)}
    assert settled_descriptors() == before


def test_failed_write_leaves_no_record(state: Path) -> None:
    with open_state("dir") as directory:
        with pytest.raises(TypeError):
            directory.write("record", {"a": object()})
        assert directory.names() == []
        directory.write("record", {"a": "b" * 10})
        with pytest.raises(un.NamespaceError, match="record: File exists"):
            directory.write("record", {})
        assert json.loads((state / "dir" / "record").read_text()) == {"a": "b" * 10}


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({}, "/tmp"),
        ({"TMPDIR": ""}, "/tmp"),
        ({"TMPDIR": "."}, "."),
        ({"TMPDIR": "directory"}, "directory"),
        ({"TMPDIR": "missing", "TMP": "directory"}, "missing"),
        ({"TEMP": "directory"}, "/tmp"),
    ],
    ids=str,
)
def test_state_directory_follows_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], where: str
) -> None:
    """Check that usernsctl uses $TMPDIR, even if that directory is missing, or else /tmp.

    tempfile would try other directories, so that a full disk would move the state.
    """
    (tmp_path / "directory").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert os.path.dirname(state_directory()) == os.path.abspath(tmp_path / where)
