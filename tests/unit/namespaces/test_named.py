"""Tests of namespace names and of untrusted state files, which create no namespace."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from callers import as_root, unprivileged

import usernsctl as un
from usernsctl._system.paths import uid_outside
from usernsctl.cli import main
from usernsctl.namespaces import named
from usernsctl.namespaces.named import NamedNamespace
from usernsctl.namespaces.namespace import Namespace

pytestmark = pytest.mark.also_root


@pytest.fixture
def state(runtime: Path) -> Path:
    """Return the path of the test's state directory, which does not exist yet."""
    return runtime / "usernsctl"


@pytest.fixture
def records(state: Path) -> Path:
    """Return the path of the directory for namespace records, which does not exist yet."""
    return state / "namespaces"


def write_record(records: Path, name: str, content: bytes | str) -> Path:
    """Write a namespace's record, as any process of the user could; return the file's path."""
    file = records / name / "record.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    records.parent.chmod(0o700)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def state_of(pid: int, /, **changed: Any) -> dict[str, Any]:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {
        "pid": pid,
        "start_time": start_time(pid),
        "boot_id": boot_id,
        "pid_namespace": os.stat("/proc/self/ns/pid").st_ino,
        "created": 1.5,
        "namespaces": ["user"],
        "uid": [[0, 1000, 1]],
        "gid": [[0, 1000, 1]],
        "notice": "",
    } | changed


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/a", "../a", ".a", "-a", "a b", "a\n", "ä", "a\0", "x" * 65, "x" * 300],
)
@pytest.mark.parametrize(
    "use",
    [
        Namespace.open,
        named.remove_named,
        Namespace.open_or_create,
        lambda name: named.create_named(name, []),
    ],
)
def test_invalid_name_is_refused(state: Path, name: str, use: Callable[[str], object]) -> None:
    with pytest.raises(
        un.NamespaceError, match="can't be the name of a namespace: only 1 to 64"
    ) as caught:
        use(name)
    assert caught.value.cause == "name-invalid"
    assert len(str(caught.value)) < 300
    assert not state.exists()


@pytest.mark.parametrize("name", ["a", "A9_.-", "0", "_", "x" * 64, "a..b", "web.json"])
def test_unknown_name_raises_no_such_namespace(records: Path, name: str) -> None:
    for use in (Namespace.open, named.remove_named):
        with pytest.raises(un.NamespaceError, match=f"there is no namespace '{name}'") as caught:
            use(name)
        assert caught.value.cause == "no-such-namespace"
    assert list(records.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exec", "nobody", "--", "true"], "there is no namespace 'nobody'"),
        (["remove", "nobody"], "there is no namespace 'nobody'"),
        (["create", "a/b"], "'a/b' can't be the name"),
        (["create"], "NAME"),
        (["exec", "nobody"], "COMMAND"),
        (["list", "--bogus"], "--bogus"),
    ],
)
def test_wrong_arguments_of_ns_are_one_message(
    state: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["ns", *arguments]) == 125
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert "Traceback" not in output.err


def test_list_without_namespaces_is_empty(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ns", "list"]) == 0
    assert main(["ns", "list", "--json"]) == 0
    assert capsys.readouterr() == ("[]\n", "")
    assert state.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize(
    "forge",
    [
        # The forged record names this process, which exists but holds no namespace, as after the
        # reuse of a pid.
        lambda: state_of(os.getpid()),
        lambda: state_of(os.getpid(), start_time=start_time(os.getpid()) - 1),
        lambda: state_of(os.getpid(), boot_id="00000000-0000-0000-0000-000000000000"),
        lambda: state_of(1, start_time=0),
        lambda: state_of(os.getpid(), pid=2**40),
        lambda: state_of(os.getpid(), pid=-1),
        lambda: state_of(os.getpid(), pid=1e999),
        lambda: state_of(os.getpid(), uid=[[0, 1]]),
        lambda: state_of(os.getpid(), uid=5),
        lambda: {"pid": os.getpid()},
        list,
        lambda: "text",
        lambda: None,
    ],
)
def test_stale_and_forged_records_are_deleted(records: Path, forge: Callable[[], object]) -> None:
    write_record(records, "old", json.dumps(forge()))
    with pytest.raises(un.NamespaceError, match="there is no namespace 'old'"):
        Namespace.open("old")
    assert list(records.iterdir()) == []
    write_record(records, "old", json.dumps(forge()))
    assert named.list_named() == []
    assert list(records.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\0" * 100, b"[" * 100])
def test_incomplete_records_are_deleted(records: Path, content: bytes) -> None:
    write_record(records, "half", content)
    assert named.list_named() == []
    assert list(records.iterdir()) == []


def test_removing_a_forged_record_kills_no_process(records: Path) -> None:
    write_record(records, "me", json.dumps(state_of(os.getpid())))
    with pytest.raises(un.NamespaceError):
        named.remove_named("me")
    NamedNamespace.from_json("me", state_of(os.getpid())).discard()


def test_record_survives_conversion_to_json() -> None:
    first = NamedNamespace.from_json("name", state_of(os.getpid(), notice="one id"))
    assert NamedNamespace.from_json("name", json.loads(json.dumps(first.to_json()))) == first
    assert first.uid == (un.Extent(0, 1000, 1),)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o1777])
def test_state_directory_open_to_others_is_refused(state: Path, mode: int) -> None:
    state.mkdir()
    state.chmod(mode)
    with pytest.raises(un.NamespaceError, match="is not private") as caught:
        named.list_named()
    assert caught.value.cause == "state-directory-unusable"
    assert caught.value.remedy is not None
    assert f"chmod 700 {state}" in caught.value.remedy


@as_root
def test_state_directory_of_another_owner_is_refused(state: Path) -> None:
    state.mkdir(mode=0o700)
    os.chown(state, 12345, 12345)
    with pytest.raises(un.NamespaceError, match="the owner is uid 12345") as caught:
        named.list_named()
    assert caught.value.remedy == "set XDG_RUNTIME_DIR to a directory of your own"


def test_symlink_as_state_directory_is_refused(state: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    state.symlink_to(tmp_path / "real")
    with pytest.raises(un.NamespaceError, match="usernsctl: Not a directory"):
        named.list_named()


def test_file_as_state_directory_is_refused(state: Path) -> None:
    state.touch()
    with pytest.raises(un.NamespaceError, match="usernsctl: Not a directory"):
        named.list_named()


def test_missing_runtime_directory_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/no/such/directory")
    assert main(["ns", "list"]) == 125
    output = capsys.readouterr().err
    assert "/no/such/directory/usernsctl: No such file or directory" in output
    assert "remedy: set XDG_RUNTIME_DIR" in output


@unprivileged
def test_unreadable_record_is_reported(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_record(records, "secret", "")
    file.chmod(0)
    assert main(["ns", "list"]) == 125
    output = capsys.readouterr().err
    assert output.startswith(f"usernsctl: state: {file}: Permission denied\n")


def test_state_is_in_tmpdir_without_a_runtime_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert named.list_named() == []
    (directory,) = tmp_path.iterdir()
    assert directory.name == f"usernsctl-{uid_outside()}"
    assert directory.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize(
    ("idmap", "namespaces", "options"),
    [
        (un.IdMap.root(), [], ["--user", "--map-user=0", "--map-group=0"]),
        (un.IdMap(), ["mount", "pid"], ["--user", "--mount", "--pid"]),
        (
            un.IdMap.keep_id(7, 8, allow_single_id=True),
            ["time"],
            [
                *("--user", "--time", "--map-user=7", "--map-group=8", "--map-users=auto"),
                *("--map-groups=auto", "--allow-single-id"),
            ],
        ),
        (
            un.IdMap.extents(["0:5:1", "1:9:2"], ["3:4:5"], setgroups="deny"),
            [],
            [
                *("--user", "--map-users=0:5:1", "--map-users=1:9:2", "--map-groups=3:4:5"),
                "--setgroups=deny",
            ],
        ),
    ],
)
def test_id_map_becomes_options_of_usernsctl_exec(
    idmap: un.IdMap, namespaces: list[str], options: list[str]
) -> None:
    assert named.options_of(idmap, namespaces) == options


@pytest.mark.parametrize(
    "use",
    [
        named.find_named,
        named.remove_named,
        Namespace.open,
        Namespace.open_or_create,
        lambda name: named.create_named(name, []),
    ],
)
def test_record_of_another_pid_namespace_is_kept(
    records: Path, use: Callable[[str], object]
) -> None:
    file = write_record(records, "far", json.dumps(state_of(os.getpid(), pid_namespace=1)))
    with pytest.raises(un.NamespaceError, match="in another PID namespace"):
        use("far")
    assert named.list_named() == []
    assert file.exists()


def test_record_of_another_pid_namespace_and_boot_is_deleted(records: Path) -> None:
    record = state_of(os.getpid(), pid_namespace=1, boot_id="earlier")
    file = write_record(records, "far", json.dumps(record))
    assert named.list_named() == []
    assert not file.exists()
