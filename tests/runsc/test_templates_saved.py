"""Tests of Template.save and Template.load with intact, outdated, damaged and untrusted files."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import gvisor
import pytest
from callers import MAP_OF_SEVERAL, as_root, several_ids
from conftest import open_descriptors
from processes import umask

import usernsctl as un

SCRIPT = ["sh", "-c", "echo READY; read line; echo $line $NAME; cat /etc/hostname 2>/dev/null"]


@pytest.fixture(scope="module")
def saved(host: un.SandboxHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("templates") / "saved"
    with host.template(SCRIPT, ready="READY", env={"NAME": "x"}) as made:
        made.save(path)
    return path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def answer(template: un.Template) -> bytes:
    with template.start(stdin=un.PIPE, stdout=un.PIPE, stderr=un.DEVNULL) as box:
        out, _ = box.communicate(b"word\n", 60)
    assert isinstance(out, bytes)
    return out.splitlines()[0]


def change(directory: Path, **fields: Any) -> None:
    record = directory / "record.json"
    given = json.loads(record.read_text())
    record.write_text(json.dumps({**given, **fields}))


def load_error(directory: Path, cause: str, **options: Any) -> un.RunscError:
    """Check that Template.load() fails with `cause` and leaks nothing; return the error."""
    before = open_descriptors()
    with pytest.raises(un.RunscError) as caught:
        un.Template.load(directory, **options)
    assert caught.value.cause == cause
    assert caught.value.remedy
    assert open_descriptors() == before
    return caught.value


def test_loaded_template_creates_its_own_host(saved: Path) -> None:
    with un.Template.load(saved) as found:
        assert answer(found) == b"word x"
        assert answer(found) == b"word x"
        assert found.args == tuple(SCRIPT)


@pytest.mark.also_root
def test_loaded_template_starts_in_another_host(saved: Path) -> None:
    with un.SandboxHost() as other, un.Template.load(saved, host=other) as found:
        assert answer(found) == b"word x"


@pytest.mark.also_root
def test_saved_template_is_private(saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o700
    for file in saved.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_template_of_a_ray_cluster_is_loaded_with_any_umask(
    saved: Path, host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch, mask: int
) -> None:
    # Replace Ray with an empty module, because template_files does not use Ray itself.
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    template_files = importlib.import_module("usernsctl.contrib.ray.template_files")
    files = template_files.TemplateFiles.read(saved)
    with umask(mask), files.load(host) as found:
        assert answer(found) == b"word x"


def test_load_needs_the_host_options_of_save(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("shown")
    options: dict[str, Any] = {
        "binds": [f"{tmp_path}/data:/data"],
        "hostname": "named",
        "rlimits": ["nofile=100:200"],
    }
    script = "echo READY; read line; ulimit -n; uname -n; cat /data/file"
    command = ["sh", "-c", script]
    with un.SandboxHost(**options) as host, host.template(command, ready="READY") as made:
        made.save(tmp_path / "saved")
    with (
        un.SandboxHost(**options) as host,
        un.Template.load(tmp_path / "saved", host=host) as found,
        found.start(stdin=un.PIPE, stdout=un.PIPE) as box,
    ):
        assert box.communicate(b"\n", 60)[0].split() == [b"100", b"named", b"shown"]
    with un.SandboxHost(**(options | {"hostname": "other"})) as host:
        error = load_error(tmp_path / "saved", "template-host-differs", host=host)
        told = "the template was created with other options: --hostname 'named' (now 'other')"
        assert error.reason == told
    error = load_error(tmp_path / "saved", "template-host-differs", remedy="make it")
    assert error.reason == (
        "the template was created with other options: "
        f"--bind '{tmp_path}/data:/data:ro' (now left out); "
        "--hostname 'named' (now left out); "
        "--rlimit 'RLIMIT_NOFILE=100:200' (now left out)"
    )
    assert error.remedy.endswith("; or make it")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"network": "host"}, "--network left out (now 'host')"),
        ({"platform": "ptrace"}, "--platform left out (now 'ptrace')"),
        ({"no_new_privs": False}, "--no-new-privs left out (now 'off')"),
    ],
)
def test_load_with_additional_host_options_raises(
    saved: Path, options: dict[str, Any], told: str
) -> None:
    with un.SandboxHost(**options) as host:
        assert told in load_error(saved, "template-host-differs", host=host).reason


@pytest.mark.also_root
@several_ids
def test_load_with_another_id_map_raises(saved: Path) -> None:
    with un.SandboxHost(MAP_OF_SEVERAL) as host:
        error = load_error(saved, "template-host-differs", host=host)
        assert "--map-users, --map-groups, --map-auto" in error.reason
        assert "(now 'map_" in error.reason


def test_load_accepts_debug_log_and_runsc_options(saved: Path, tmp_path: Path) -> None:
    with (
        un.SandboxHost(debug_log=tmp_path / "logs", runsc=gvisor.path()) as host,
        un.Template.load(saved, host=host) as found,
    ):
        assert answer(found) == b"word x"


def test_template_without_a_command_is_saved_and_loaded(
    host: un.SandboxHost, tmp_path: Path
) -> None:
    with host.template(ready=lambda box: box.run(["touch", "/tmp/file"], check=True)) as made:
        made.save(tmp_path / "saved")
    with un.Template.load(tmp_path / "saved") as found, found.start() as box:
        assert box.check_output(["ls", "/tmp"]) == b"file\n"


def test_four_threads_save_complete_templates(host: un.SandboxHost, tmp_path: Path) -> None:
    with host.template() as made:
        made.save(tmp_path / "alone")
        names = set(os.listdir(tmp_path / "alone"))

        def save(number: int) -> bool:
            made.save(tmp_path / str(number))
            return set(os.listdir(tmp_path / str(number))) == names

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(save, range(100)))


def test_save_above_the_record_limit_leaves_nothing(host: un.SandboxHost, tmp_path: Path) -> None:
    # JSON encodes each \1 with six characters (\u0001), so the record exceeds its size limit.
    env = {f"NAME{number}": "\1" * 100_000 for number in range(8)}
    with host.template(env=env) as made:
        with pytest.raises(un.NamespaceError, match="the limit is") as caught:
            made.save(tmp_path / "large")
        assert caught.value.remedy is not None
    assert os.listdir(tmp_path) == []


@pytest.mark.also_root
def test_save_to_an_unsuitable_path_writes_no_file(host: un.SandboxHost, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir(mode=0o755)
    with host.template(SCRIPT, ready="READY") as made:
        with pytest.raises(un.NamespaceError, match="is not empty"):
            made.save(tmp_path)
        with pytest.raises(un.UsernsError):
            made.save(tmp_path / "none" / "saved")
        with pytest.raises(un.UsernsError):
            made.save(tmp_path / "file")
        with pytest.raises(un.RunscError, match="other users have access"):
            made.save(tmp_path / "open")
    assert sorted(os.listdir(tmp_path)) == ["file", "open"]


@pytest.mark.also_root
def test_template_of_an_unnamed_namespace_is_loaded_there(tmp_path: Path) -> None:
    with un.Namespace.create() as ns:
        with un.SandboxHost(namespace=ns) as host, host.template(SCRIPT, ready="READY") as made:
            made.save(tmp_path / "saved")
        with (
            un.SandboxHost(namespace=ns) as host,
            un.Template.load(tmp_path / "saved", host=host) as found,
        ):
            assert answer(found) == b"word"


# Tests of saved templates that Template.load rejects.


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"version": "0.0.1"}, "usernsctl 0.0.1 created the template"),
        ({"runsc": ["release-20200101.0", 5, 6]}, "was release-20200101.0 when the template was"),
        ({"flags": ["host", "default"]}, "created with network host and platform default"),
        ({"files": [["/usr/bin/sh", 1, 2]]}, "/usr/bin/sh in the root filesystem has changed"),
        ({"files": [["/usr/none", 1, 2]]}, "/usr/none in the root filesystem has changed"),
    ],
)
def test_load_of_an_outdated_template_raises(copy: Path, fields: dict[str, Any], told: str) -> None:
    change(copy, **fields)
    error = load_error(copy, "template-outdated", remedy="make it")
    assert told in error.reason
    assert error.remedy == "make it"


def test_load_of_a_template_with_other_mounts_raises(copy: Path) -> None:
    config = json.loads((copy / "record.json").read_text())["config"]
    bind = {"destination": "/data", "source": "/etc", "type": "bind", "options": ["bind"]}
    config["mounts"] = [*config["mounts"], bind]
    change(copy, config=config)
    assert "'mounts'" in load_error(copy, "template-outdated").reason


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"format": 2}, "is invalid"),
        ({"kind": "other"}, "is invalid"),
        ({"args": None}, "is invalid"),
        ({"config": {}}, "is invalid"),
        ({"config": {"process": {"args": []}, "root": {}}}, "is invalid"),
        ({"files": 7}, "is invalid"),
        ({"images": None}, "is invalid"),
        ({"images": {}}, "is invalid"),
        ({"images": {"../../etc/passwd": [1, "x"]}}, "is invalid"),
        ({"images": {"checkpoint.img": [-1, "x"]}}, "is invalid"),
        ({"args": []}, "is invalid"),
        ({"options": None}, "is invalid"),
        ({"options": [1]}, "is invalid"),
    ],
)
def test_load_with_an_invalid_record_raises(copy: Path, fields: dict[str, Any], told: str) -> None:
    change(copy, **fields)
    assert told in load_error(copy, "template-damaged").reason


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "[" * 100_000, '{"format": 1}'])
def test_load_with_a_malformed_record_raises(copy: Path, text: str) -> None:
    (copy / "record.json").write_text(text)
    load_error(copy, "template-damaged")


def images(directory: Path) -> list[Path]:
    return [file for file in sorted(directory.iterdir()) if file.name != "record.json"]


def damage(file: Path, do: str) -> None:
    content = file.read_bytes()
    if do == "cut off":
        file.write_bytes(content[: len(content) // 2])
    elif do == "changed":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        file.unlink()
        if do == "a link":
            file.symlink_to("/etc/passwd")
        elif do == "a pipe":
            os.mkfifo(file)


@pytest.mark.parametrize("do", ["cut off", "changed", "missing", "a link", "a pipe"])
def test_load_with_a_damaged_image_raises(saved: Path, tmp_path: Path, do: str) -> None:
    for number, one in enumerate(images(saved)):
        directory = Path(shutil.copytree(saved, tmp_path / str(number)))
        damage(directory / one.name, do)
        assert one.name in load_error(directory, "template-damaged").reason


def test_load_without_a_record_raises(copy: Path) -> None:
    (copy / "record.json").unlink()
    load_error(copy, "template-damaged")


def test_load_of_a_missing_directory_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("none", "none/none", "file"):
        load_error(tmp_path / name, "no-such-template")


@pytest.mark.also_root
@pytest.mark.parametrize(
    "change_mode",
    [
        lambda path: path.chmod(0o755),
        lambda path: path.chmod(0o720),
        lambda path: (path / "record.json").chmod(0o666),
        lambda path: images(path)[0].chmod(0o620),
        lambda path: path.parent.chmod(0o777),
    ],
)
def test_load_of_a_template_writable_by_others_raises(
    copy: Path, change_mode: Callable[[Path], None]
) -> None:
    change_mode(copy)
    try:
        load_error(copy, "template-untrusted")
    finally:
        copy.parent.chmod(0o700)


@as_root
def test_load_of_a_template_of_another_user_raises(copy: Path) -> None:
    os.chown(copy, 65534, 65534)
    load_error(copy, "template-untrusted")
    os.chown(copy, 0, 0)
    os.chown(images(copy)[0], 65534, 65534)
    load_error(copy, "template-untrusted")
