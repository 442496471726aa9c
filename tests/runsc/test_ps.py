"""Tests of ``usernsctl ps``, which lists detached sandboxes."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from conftest import Program

import usernsctl as un

pytestmark = [
    pytest.mark.usefixtures("runtime"),
]

HOSTILE = "a\x1b[2J\nb\u202e"


def test_ps_lists_detached_sandboxes(usernsctl: Program, host: un.SandboxHost) -> None:
    done = usernsctl("ps")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(usernsctl("ps", "--json").stdout) == []
    with (
        host.start(["sleep", "1000"], id="first", detach=True) as first,
        host.start(["sh", "-c", "sleep 1000", HOSTILE], id="second", detach=True),
        host.start(["sleep", "1000"], id="attached"),
    ):
        done = usernsctl("ps")
        assert (done.returncode, done.stderr) == (0, "")
        header, *rows = done.stdout.splitlines()
        assert header.split() == ["ID", "PID", "STATUS", "COMMAND"]
        pid = un.Sandbox.list_detached()[0].pid
        assert re.fullmatch(rf"first +{pid} +up \d+[sm] +sleep 1000", rows[0])
        assert re.fullmatch(r"second +\d+ +up \d+[sm] +sh -c sleep 1000 a.*", rows[1])
        assert len(rows) == 2
        assert done.stdout.replace("\n", "").isprintable()
        found = json.loads(usernsctl("ps", "--json").stdout)
        assert [one["id"] for one in found] == ["first", "second"]
        assert 0 <= time.time() - found[0].pop("created") < 600
        assert found[0] == {
            "id": "first",
            "pid": pid,
            "status": "running",
            "args": ["sleep", "1000"],
        }
        assert found[1]["args"][-1] == HOSTILE
        first.kill()
        first.wait(60)
        assert [one["id"] for one in json.loads(usernsctl("ps", "--json").stdout)] == ["second"]
    assert usernsctl("ps").stdout == ""


def test_ps_refuses_a_state_directory_writable_by_others(usernsctl: Program, runtime: Path) -> None:
    (runtime / "usernsctl").mkdir(mode=0o700, exist_ok=True)
    (runtime / "usernsctl").chmod(0o777)
    done = usernsctl("ps")
    assert done.returncode == 125
    assert "Traceback" not in done.stderr
    assert "remedy" in done.stderr


def test_ps_refuses_operands(usernsctl: Program) -> None:
    done = usernsctl("ps", "x")
    assert done.returncode == 125
    assert "unexpected extra argument 'x'" in done.stderr
