"""Tests of reading and writing the config.json of a bundle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from callers import unprivileged
from oci_configs import minimal

from usernsctl.errors import BundleError
from usernsctl.gvisor.oci import Bundle, create, load, replace
from usernsctl.gvisor.oci.bundle import MAX_BYTES

pytestmark = pytest.mark.also_root

TEXT = json.dumps(minimal())


def bundle(directory: Path, text: str = TEXT) -> Path:
    (directory / "config.json").write_text(text, encoding="utf-8")
    return directory


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def load_error(directory: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        load(directory)
    assert caught.value.filename == str(directory / "config.json")
    return caught.value


def test_order_of_keys_is_kept(tmp_path: Path) -> None:
    config = {"zeta": 1, **minimal(), "alpha": [1.5]}
    assert list(load(bundle(tmp_path, json.dumps(config)))) == list(config)


def test_missing_bundle_directory_raises(tmp_path: Path) -> None:
    error = load_error(tmp_path / "b")
    assert error.reason == f"there is no bundle directory {tmp_path / 'b'}"
    assert error.remedy == f"usernsctl bundle init {tmp_path / 'b'} --rootfs ROOTFS -- COMMAND"


def test_missing_config_json_raises(tmp_path: Path) -> None:
    error = load_error(tmp_path)
    assert error.reason == f"there is no config.json in {tmp_path}"
    assert error.remedy is not None
    assert "usernsctl bundle init" in error.remedy


def test_file_as_bundle_directory_raises(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    assert "is not a directory" in load_error(tmp_path / "b").reason


def test_directory_as_config_json_raises(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert "is not a regular file" in load_error(tmp_path).reason


def test_fifo_as_config_json_raises_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert "is not a regular file" in load_error(tmp_path).reason


@unprivileged
def test_unreadable_config_json_raises(tmp_path: Path) -> None:
    (bundle(tmp_path) / "config.json").chmod(0)
    assert load_error(tmp_path).reason == f"can't read {tmp_path}/config.json: Permission denied"


def test_oversized_config_json_raises(tmp_path: Path) -> None:
    os.truncate(bundle(tmp_path) / "config.json", MAX_BYTES + 1)
    assert f"longer than {MAX_BYTES} bytes" in load_error(tmp_path).reason


@pytest.mark.parametrize(
    ("text", "message"), [("{", "line 1, column 2: broken JSON"), ("{}", "$.process: missing")]
)
def test_error_in_config_json_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    assert load_error(bundle(tmp_path, text)).reason.startswith(
        f"{tmp_path}/config.json: {message}"
    )


def test_create_makes_directory_and_config_json(tmp_path: Path) -> None:
    filename = create(tmp_path / "b", minimal())
    assert filename == tmp_path / "b/config.json"
    assert load(tmp_path / "b") == minimal()
    assert names(tmp_path / "b") == ["config.json"]


def test_create_overwrites_nothing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="exists already") as caught:
        create(bundle(tmp_path, "precious"), minimal())
    assert caught.value.remedy == f"mv {tmp_path}/config.json {tmp_path}/config.json.old"
    assert names(tmp_path) == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "precious"


def test_failed_create_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="can't write"):
        create(tmp_path / "missing/b", minimal())
    with pytest.raises(BundleError, match="can't write"):
        create(tmp_path / ("b" * 255) / "c", minimal())
    assert names(tmp_path) == []


def test_replace_keeps_the_old_file(tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / "config.json").chmod(0o640)
    original = replace(Bundle(tmp_path), minimal() | {"hostname": "new"})
    assert names(tmp_path) == ["config.json", "config.json.orig"]
    assert original.read_text() == TEXT
    assert load(tmp_path)["hostname"] == "new"
    for name in names(tmp_path):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_replace_never_overwrites_an_original(tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / "config.json.orig").write_text("precious")
    with pytest.raises(BundleError, match=r"config\.json\.orig exists already"):
        replace(Bundle(tmp_path), minimal() | {"hostname": "new"})
    assert (tmp_path / "config.json.orig").read_text() == "precious"
    assert (tmp_path / "config.json").read_text() == TEXT
    assert names(tmp_path) == ["config.json", "config.json.orig"]


def test_failed_replace_restores_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(tmp_path)

    def refuse(*names: object, **directories: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(BundleError, match="No space left on device"):
        replace(Bundle(tmp_path), minimal() | {"hostname": "new"})
    assert names(tmp_path) == ["config.json"]
    assert (tmp_path / "config.json").read_text() == TEXT
