"""Tests of `usernsctl bundle`: its output, written files and exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from oci_configs import mapping, minimal

from usernsctl.cli import main
from usernsctl.gvisor.oci import load

Output = pytest.CaptureFixture[str]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a new bundle with `"linux": {}` in config.json, which rootless runsc rejects."""
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(minimal() | {"linux": {}}))
    return tmp_path


def lines(output: Output) -> list[str]:
    return output.readouterr().out.splitlines()


def test_bundle_of_init_passes_check(tmp_path: Path, capsys: Output) -> None:
    directory = tmp_path / "b"
    rootfs = directory / "rootfs"
    rootfs.mkdir(parents=True)
    command = ["sh", "-c", "exit 7", "--rootfs"]
    words = ["--env", "A=b", "--wd", "/tmp", "--hostname", "box", "--", *command]
    assert main(["bundle", "init", str(directory), "--rootfs", str(rootfs), *words]) == 0
    config = load(directory)
    assert config["process"]["args"] == command
    assert config["process"]["cwd"] == "/tmp"
    assert "A=b" in config["process"]["env"]
    assert config["hostname"] == "box"
    assert config["root"] == {"path": "rootfs", "readonly": True}
    capsys.readouterr()
    assert main(["bundle", "check", str(directory)]) == 0
    assert lines(capsys) == [f"{directory}: no problems found; runsc can run it without root"]


def test_init_writes_the_absolute_path_of_an_outside_rootfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rootfs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["bundle", "init", "b", "--rootfs", "rootfs", "--writable", "--", "sh"]) == 0
    assert load("b")["root"] == {"path": str(tmp_path / "rootfs"), "readonly": False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rootfs", "missing", "--", "sh"], "--rootfs missing is not a directory"),
        (["--rootfs", "missing", "--", "sh"], "remedy: name the directory of a root filesystem"),
        (["--rootfs", ".", "--cwd", "x", "--", "sh"], "$.process.cwd"),
        (["--rootfs", ".", "--env", "=", "--", "sh"], "--env, number 1"),
        (["--rootfs", "."], "no command: give a command"),
        (["--", "sh"], "missing: --rootfs"),
    ],
)
def test_failed_init_creates_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bundle", "init", "b", *words]) == 125
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_check_prints_findings_with_cause_and_remedy(bundle: Path, capsys: Output) -> None:
    assert main(["bundle", "check", str(bundle)]) == 1
    printed = lines(capsys)
    assert printed[0] == "fails: $.linux.namespaces: no user namespace [bundle-no-mappings]"
    assert printed[1].startswith("  why: ")
    assert printed[2].startswith("  remedy: ")
    assert printed[3] == "note: $.process.user: missing [bundle-no-user]"
    assert printed[-1] == (f"{bundle}: 2 problems; to fix 2 of them: usernsctl bundle fix {bundle}")


def test_check_prints_json(bundle: Path, capsys: Output) -> None:
    assert main(["bundle", "check", "--json", str(bundle)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["bundle"] == str(bundle)
    assert [finding["path"] for finding in report["findings"]] == [
        "$.linux.namespaces",
        "$.process.user",
    ]
    fields = {"path", "id", "problem", "why", "remedy", "fixable", "blocks", "outside"}
    fields.add("allowed_by")
    assert all(finding.keys() == fields for finding in report["findings"])


def test_check_json_without_findings(bundle: Path, capsys: Output) -> None:
    assert main(["bundle", "fix", str(bundle)]) == 0
    capsys.readouterr()
    assert main(["bundle", "check", "--json", str(bundle)]) == 0
    assert json.loads(capsys.readouterr().out) == {"bundle": str(bundle), "findings": []}


def test_check_depends_on_the_network_option(bundle: Path, capsys: Output) -> None:
    namespaces = [{"type": "user"}, {"type": "network", "path": "/run/netns/x"}]
    config = minimal() | {"linux": {"namespaces": namespaces}}
    (bundle / "config.json").write_text(json.dumps(config))
    for network, cause in (("none", "bundle-join-ignored"), ("host", "join-denied")):
        assert main(["bundle", "check", "--network", network, str(bundle)]) == 1
        assert f"[{cause}]" in capsys.readouterr().out


def test_fix_prints_changes_and_keeps_the_old_file(bundle: Path, capsys: Output) -> None:
    old = (bundle / "config.json").read_text()
    assert main(["bundle", "fix", str(bundle)]) == 0
    assert lines(capsys) == [
        '$.process.user: added {"uid": 0, "gid": 0}',
        '$.linux.namespaces: added {"type": "user"}',
        "$.linux.uidMappings: added 0:0:1",
        "$.linux.gidMappings: added 0:0:1",
        f"{bundle}: fixed; the old file is {bundle}/config.json.orig",
    ]
    assert (bundle / "config.json.orig").read_text() == old
    assert load(bundle)["linux"]["uidMappings"] == [mapping(0, 0, 1)]


def test_fix_of_a_valid_bundle_writes_nothing(bundle: Path, capsys: Output) -> None:
    assert main(["bundle", "fix", str(bundle)]) == 0
    (bundle / "config.json.orig").unlink()
    before = (bundle / "config.json").stat()
    capsys.readouterr()
    assert main(["bundle", "fix", str(bundle)]) == 0
    assert lines(capsys) == [f"{bundle}: nothing to fix"]
    after = (bundle / "config.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(os.listdir(bundle)) == ["config.json", "rootfs"]


@pytest.mark.parametrize("verb", ["check", "fix"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no config.json in"),
        ('{"process": {"args": ["a",]}}', "line 1, column "),
        ('{"process": {"args": ["a"], "user": {"uid": "0"}}}', "$.process.user.uid: found"),
    ],
)
def test_invalid_bundle_is_refused_by_check_and_fix(
    bundle: Path, capsys: Output, verb: str, text: str | None, message: str
) -> None:
    (bundle / "config.json").unlink()
    if text is not None:
        (bundle / "config.json").write_text(text)
    before = sorted(os.listdir(bundle))
    assert main(["bundle", verb, str(bundle)]) == 125
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith("usernsctl: bundle: ")
    assert sorted(os.listdir(bundle)) == before
