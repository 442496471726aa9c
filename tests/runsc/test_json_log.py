"""Tests of JSON messages (--log=json) of usernsctl run, usernsctl-exec --launch and in-gvisor."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import SCRIPTS, Program
from frozen import freeze
from processes import capture

# File name with an escape sequence, a forged line, quotes and a bidirectional control character.
HOSTILE = '/no\x1b[2J\n{"level": "error"}\\"\u202e'
# HOSTILE, followed by bytes that are not UTF-8.
BYTES = os.fsdecode(HOSTILE.encode() + b"\xff\xc3")


def messages(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return the messages on standard error; check that each is one line of printable JSON."""
    found = []
    for line in done.stderr.removesuffix("\n").split("\n"):
        assert line.isprintable(), ascii(line)
        message = json.loads(line)
        assert isinstance(message, dict)
        assert all(isinstance(value, str) for value in message.values())
        for value in message.values():
            assert value.replace("\n", "").isprintable()
        age = datetime.now(UTC) - datetime.fromisoformat(message.pop("time"))
        assert timedelta(0) <= age + timedelta(seconds=1) < timedelta(minutes=2)
        found.append(message)
    return found


def error(done: subprocess.CompletedProcess[str], status: int) -> dict[str, Any]:
    """Return the only message on standard error; check that it is an error."""
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    (message,) = messages(done)
    assert message.pop("level") == "error"
    return message


@pytest.fixture
def in_gvisor(tmp_path: Path) -> Program:
    program = tmp_path / "in-gvisor"
    program.symlink_to(SCRIPTS / "usernsctl-entrypoint")
    return Program(program)


def test_json_errors_have_the_parts_of_the_text(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    launch = freeze(tmp_path / "launch")
    calls = (
        ("usernsctl", usernsctl, ["run", "--log", "json", "--"]),
        ("usernsctl-exec", prelude, ["--log=json", "--launch", launch, "--"]),
    )
    for program, run, words in calls:
        done = run(*words, "no-such-command")
        plain = [word for word in words if word not in ("--log", "json", "--log=json")]
        text = run(*plain, "no-such-command").stderr
        message = error(done, 127)
        assert text == (
            f"{program}: {message['step']}: {message['message']}\n"
            f"  why: {message['why']} [{message['cause']}]\n"
            f"  remedy: {message['remedy']}\n"
        )
        assert (message["program"], message["cause"]) == (program, "command-not-found")


def test_hostile_text_is_escaped(
    usernsctl: Program, prelude: Program, in_gvisor: Program, tmp_path: Path
) -> None:
    launch = freeze(tmp_path / "launch")
    for done in (
        usernsctl("run", "--log", "json", "--", HOSTILE),
        prelude("--log=json", "--launch", launch, "--", HOSTILE),
    ):
        message = error(done, 127)
        assert '{"level": "error"}' in message["message"]
    done = prelude("--log=json", "--launch", BYTES, "--", "true")
    assert '{"level": "error"}' in error(done, 125)["message"]
    done = usernsctl("run", "--log", "json", "--", BYTES)
    assert error(done, 125)["step"] == "bundle"
    done = in_gvisor("--log=json", f"--network={BYTES}", "--", "true")
    assert error(done, 125)["message"].endswith("the value must be host, none or private")


def test_usage_errors_are_json_after_the_log_option(
    usernsctl: Program, prelude: Program, in_gvisor: Program
) -> None:
    done = usernsctl("run", "--log", "json", "--json", "--", "true")
    assert error(done, 125)["message"] == "--json needs --dry-run"
    for program in (prelude, in_gvisor):
        assert "--no-such" in error(program("--log=json", "--no-such", "true"), 125)["message"]
        done = program("--log=xml", "true")
        assert done.returncode == 125
        assert "text or json" in done.stderr


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "status", "why"),
    [
        ("no-such", 127, "not found in the sandbox"),
        ("version", 126, "not executable"),
        ('\\"no such\\', 127, "not found in the sandbox"),
    ],
)
def test_errors_of_usernsctl_verify_are_json(
    usernsctl: Program, prelude: Program, tmp_path: Path, name: str, status: int, why: str
) -> None:
    """Check that usernsctl-verify reports errors as JSON.

    The errors are about commands in gVisor's /proc, which only usernsctl-verify can look up.
    """
    launch = freeze(tmp_path / "launch")
    for done in (
        usernsctl("run", "--log", "json", "--", f"/proc/{name}"),
        prelude("--log=json", "--launch", launch, "--", f"/proc/{name}"),
    ):
        message = error(done, status)
        assert message == {"program": "usernsctl", "message": f"/proc/{name}: {why}"}


def test_environment_variable_usernsctl_log_is_ignored(in_gvisor: Program) -> None:
    done = in_gvisor("--no-such", env={"USERNSCTL_LOG": "json"})
    assert done.stderr.startswith("usernsctl: in-gvisor: ")


def test_notices_are_json(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = usernsctl("run", "--log", "json", "--", "test", "!", "-e", tmp_path / "file")
    (message,) = messages(done)
    assert done.returncode == 0
    assert (message["level"], message["program"]) == ("notice", "usernsctl")
    assert str(tmp_path / "file") in message["message"]


def test_output_of_the_command_is_not_changed(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    script = ("sh", "-c", "echo out; echo err >&2; exit 3")
    launch = freeze(tmp_path / "launch", command=script)
    for done in (
        usernsctl("run", "--log", "json", "--", *script),
        prelude("--log=json", "--launch", launch),
    ):
        assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_freeze_refuses_the_log_option(usernsctl: Program, tmp_path: Path) -> None:
    done = usernsctl("freeze", "--log", "json", "-o", tmp_path / "launch", "--", "true")
    assert done.returncode == 125
    assert "--log can't be frozen" in done.stderr


def test_unwritable_stderr_does_not_change_the_exit_status(usernsctl: Program) -> None:
    with open("/dev/full", "w") as full:
        for log in ("text", "json"):
            words = ["run", "--log", log, "--", "no-such-command"]
            assert subprocess.run([usernsctl.path, *words], stderr=full).returncode == 127
    done = capture(["sh", "-c", 'exec "$@" 2>&-', "sh", usernsctl.path, "run", "--log", "json",
                    "--", "no-such-command"])  # fmt: skip
    assert done.returncode == 127


def test_errors_in_options_are_json(usernsctl: Program) -> None:
    for words, reason in (
        (["--log", "json", "--memory", "1x", "--", "true"], "--memory: '1x' is not a number of"),
        (["--no-such", "--log=json", "--", "true"], "there is no option '--no-such'"),
        (["--log=json", "--bind"], "--bind needs a value"),
        (["--log", "json"], "no command"),
        (
            ["--log=json", "--rootfs", "", "--", "true"],
            "--rootfs: the value must be a path, not an empty string",
        ),
        (["--log=json", "--network", HOSTILE, "--", "true"], "is not none, host or private"),
    ):
        message = error(usernsctl("run", *words), 125)
        assert (message["program"], message["step"]) == ("usernsctl", "usage")
        assert reason in message["message"], message
    for words in (["--memory", "1x", "--", "true", "--log=json"], ["--log", "xml", "--", "true"]):
        assert usernsctl("run", *words).stderr.startswith("Usage: usernsctl run")
    assert usernsctl("run", "--log=json", "--help").stdout.startswith("Usage: usernsctl run")
