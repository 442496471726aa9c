"""Tests of `usernsctl run --dry-run`, which prints the plan of a run and changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import Program


@pytest.mark.each_user
def test_dry_run_prints_json_and_creates_nothing(usernsctl: Program, tmp_path: Path) -> None:
    state, logs = tmp_path / "state", tmp_path / "a b" / "logs"
    source = tmp_path / "source"
    source.mkdir()
    done = usernsctl(
        *("run", "--dry-run", "--json", "--env", "A=1", "--bind", f"{source}:/x:rw"),
        *("--root", state, "--debug-log", logs, "--", "no-such-command", "word"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert not state.exists()
    assert not logs.exists()
    assert [one["outside"] for one in found["ids"]["uid"]] == [os.geteuid()]
    assert f"--root={state}" in found["runsc"]
    assert {"do": "debug-log", "source": str(logs)} in found["files"]
    assert found["config"]["process"]["args"][-2:] == ["no-such-command", "word"]
    assert "A=1" in found["config"]["process"]["env"]
    assert os.path.basename(found["runsc"][0]) == "runsc"


@pytest.mark.each_user
def test_dry_run_prints_plain_text(usernsctl: Program) -> None:
    done = usernsctl("run", "--dry-run", "--network", "host", "--", "cat", "/proc/version")
    assert (done.returncode, done.stderr) == (0, "")
    assert "show this machine's /usr, read-only" in done.stdout
    assert "--network=host" in done.stdout
    copied = "copy the files of /etc that everybody may read" in done.stdout
    assert copied == (os.geteuid() == 0)


def test_dry_run_shows_a_bundle(usernsctl: Program, tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    made = usernsctl("bundle", "init", bundle, "--rootfs", "/usr", "--", "id")
    assert made.returncode == 0, made.stderr
    refused = usernsctl("run", "--dry-run", "--bundle", bundle)
    assert refused.returncode == 125
    assert "--trust-bundle" in refused.stderr
    done = usernsctl("run", "--dry-run", "--json", "--trust-bundle", "--bundle", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["steps"][0] == {"do": "tree", "source": "/usr"}
    assert found["config"]["process"]["args"][-1] == "id"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--json", "--", "true"], "--json needs --dry-run"),
        (["--dry-run"], "no command: give a command"),
        (["--dry-run", "--bind", "/nonexistent", "--", "true"], "/nonexistent does not exist"),
        (["--dry-run", "--no-verify", "--user", "5", "--", "true"], "uid 5 is not mapped"),
        (["--dry-run", "--in", "no-such-name", "--", "true"], "no-such-name"),
        (["--dry-run", "--env", "A=\udcff", "--", "true"], "UTF-8"),
    ],
)
def test_dry_run_refuses_invalid_options(usernsctl: Program, options: list[str], says: str) -> None:
    done = usernsctl("run", *options)
    assert done.returncode == 125
    assert done.stdout == ""
    assert says in done.stderr
