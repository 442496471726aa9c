"""Tests of the watcher's messages about runsc's log files, which may be forged."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import capture
from supervisors import WATCHER

from usernsctl._core.messages import explain_runsc
from usernsctl.explain.logs import quoted
from usernsctl.gvisor.runsc import logs
from usernsctl.gvisor.runsc.command import (
    CRASHED,
    FAILED,
    Logs,
    create_debug_logs,
    private_log_paths,
)

END = "I1125 01:43:37.998166   66184 main.go:222] Exiting with status: 512\n"
EOF = "running container: creating container: waiting for sandbox to start: EOF"
GOFER = "Error setting up root FS: mounting root on root err: no such file or directory"
PANIC = "panic: unable to attach: operation not permitted\n\ngoroutine 1 [running]:\n"


def write(directory: Path, *messages: str, run: str = "", crash: str = "") -> Logs:
    written = private_log_paths(str(directory), f"{directory}/crash")
    errors = [json.dumps({"msg": message, "level": "error"}) for message in messages]
    Path(written.errors).write_text("".join(errors))
    Path(written.crash).write_text(crash)
    (directory / "run.txt").write_text(run)
    (directory / "config.json").write_text("{}")
    return written


def end_of(directory: Path, written: Logs, status: int) -> tuple[int, str]:
    """Run the watcher with a runsc that exits with `status`; return its status and output."""
    files = (written.errors, written.crash, written.debug, str(directory))
    command = [str(WATCHER), "/bin/sh", *files, "--", "--", "--", "sh", "-c", f"exit {status}"]
    done = capture(command)
    assert done.stdout == ""
    return done.returncode, done.stderr


def watcher_message(
    directory: Path, status: int, *messages: str, run: str = "", crash: str = ""
) -> str:
    """Run the watcher with a runsc that exits with `status`; return the watcher's error message."""
    ended, text = end_of(directory, write(directory, *messages, run=run, crash=crash), status)
    assert ended == 125
    return text


@pytest.mark.parametrize("status", [FAILED, CRASHED])
def test_orderly_end_is_not_a_failure(tmp_path: Path, status: int) -> None:
    for messages, run in (((), f"] FATAL ERROR: x\n{END}"), (("some error",), END)):
        assert end_of(tmp_path, write(tmp_path, *messages, run=run), status) == (status, "")


@pytest.mark.parametrize("status", [0, 3, 125, 143])
def test_exit_status_is_the_commands_only_if_logged(tmp_path: Path, status: int) -> None:
    assert end_of(tmp_path, write(tmp_path, GOFER, run=END), status) == (status, "")
    assert f'runsc says: "{GOFER}"' in watcher_message(tmp_path, status, GOFER)


def test_silent_end_of_runsc_is_reported_with_its_status(tmp_path: Path) -> None:
    for status, said, cause in (
        (0, "runsc ended with status 0,", "runsc-ran-nothing"),
        (1, "runsc ended with status 1,", "runsc-ran-nothing"),
        (139, "runsc was killed by signal 11 (", "runsc-killed"),
        (159, "runsc was killed by signal 31 (", "runsc-killed"),
    ):
        text = watcher_message(tmp_path, status)
        assert text.startswith(f"usernsctl: runsc: {said}")
        assert f"[{cause}]\n  remedy:" in text


def test_first_logged_error_is_reported(tmp_path: Path) -> None:
    text = watcher_message(tmp_path, FAILED, GOFER, EOF, run="started")
    assert text.startswith(f'usernsctl: runsc: runsc says: "{GOFER}"\n')
    assert "[rootfs-missing]" in text
    assert EOF not in text


def test_crash_of_the_sandbox_is_reported(tmp_path: Path) -> None:
    line = PANIC.split("\n")[0]
    # The second case is a crash after the start: runsc then logs the sandbox's exit status as if it
    # were the command's.
    for messages, run in (((EOF,), "started"), ((), END)):
        text = watcher_message(tmp_path, CRASHED, *messages, run=run, crash=PANIC)
        assert f'runsc says: "{line}"' in text


def test_crash_of_runsc_is_reported(tmp_path: Path) -> None:
    assert "runsc crashed" in watcher_message(tmp_path, CRASHED, run="started")


def test_failure_before_any_log_is_runsc_refused_call(tmp_path: Path) -> None:
    assert "[runsc-refused-call]" in watcher_message(tmp_path, FAILED, run="")


def test_unknown_failure_quotes_the_last_errors(tmp_path: Path) -> None:
    others = [f"error {number}" for number in range(20)]
    text = watcher_message(tmp_path, FAILED, "something new", *others, crash="panic: \x1b[2J")
    lines = text.splitlines()
    assert lines[0] == 'usernsctl: runsc: runsc says: "something new"'
    quoted_lines = [*(f'  runsc also says: "error {number}"' for number in range(15, 20))]
    assert lines[1:7] == [*quoted_lines, '  runsc also says: "panic: \\u001b[2J"']
    assert lines[7] == "  remedy: usernsctl doctor"
    assert lines[8].startswith("  more: usernsctl run --debug-log DIR")
    assert len(lines) == 9


def test_exit_line_must_be_the_last_line(tmp_path: Path) -> None:
    for run, expected in (
        (END, True),
        (END.replace("main.go", "cli.go"), True),
        (END.removesuffix("\n"), True),
        (END + "W1125 01:43:38.0 1 util.go:64] FATAL ERROR: x\n", False),
        (f"x {END}", False),
        (END.replace("512\n", "512 \n"), False),
        (END.replace("512\n", "512\0\n"), False),
        (END + "\n", False),
        ("", False),
    ):
        ended, _ = end_of(tmp_path, write(tmp_path, run=run), FAILED)
        assert (ended == FAILED) is expected, run


def test_fifo_and_endless_logs_are_not_read(tmp_path: Path) -> None:
    written = private_log_paths(str(tmp_path), "/nonexistent")
    os.mkfifo(written.errors)
    (tmp_path / "run.txt").symlink_to("/dev/zero")
    assert end_of(tmp_path, written, FAILED)[0] == 125
    assert logs.read_failure(written) is None


def test_messages_are_not_explained_without_config_json(tmp_path: Path) -> None:
    written = write(tmp_path, GOFER)
    (tmp_path / "config.json").unlink()
    ended, text = end_of(tmp_path, written, FAILED)
    assert ended == 125
    assert "why:" not in text
    assert GOFER in text


def test_debug_logs_are_new_private_files(tmp_path: Path) -> None:
    both = [create_debug_logs(str(tmp_path), "/own") for _ in range(2)]
    assert both[0].debug != both[1].debug
    assert len(list(tmp_path.iterdir())) == 8
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


@given(st.text(max_size=500))
def test_quoted_text_is_one_printable_line(text: str) -> None:
    watcher_message = quoted(text)
    assert watcher_message.isprintable()
    assert watcher_message[0] == watcher_message[-1] == '"'
    # JSON has no escapes such as \x1b and \U0010ffff.
    escape = r'\\(?:[\\"abfnrtv]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})'
    assert re.fullmatch(rf'"(?:[^"\\]|{escape})*"', watcher_message)


@given(st.binary(max_size=500))
def test_any_bytes_in_the_error_log_are_accepted(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        written = private_log_paths(directory, f"{directory}/crash")
        Path(written.errors).write_bytes(data)
        found = logs.read_failure(written)
    assert found is None or found.strip()


def test_text_from_config_json_is_not_explained() -> None:
    words = "unable to attach: operation not permitted"
    assert explain_runsc(f"panic: {words}").cause == "ptrace-denied"
    for phrase in (
        f"x: {words}\n", f'"\x1b{words}', f"\xe9{words}\u202e", f"{words} ", f"\\n{words}\\",
        f"<{words}>", f"\a'{words}'\x7f",
    ):  # fmt: skip
        config = json.dumps({"process": {"cwd": phrase}}, ensure_ascii=False)
        # Try the text as Go quotes it, as JSON quotes it, and unquoted.
        for form in (go_quoted(phrase), json.dumps(phrase), phrase):
            said = f"true: {form.strip()}: failed"
            assert explain_runsc(said, config=config).cause is None, (said, config)
            assert explain_runsc(said, config="{}").cause == "ptrace-denied"
    config = json.dumps({words: "a: b"})
    assert explain_runsc(f"true: {words}", config=config).cause is None


def test_short_texts_in_config_json_hide_no_cause() -> None:
    config = json.dumps(
        {"args": ["permitted", "operation", "/to/attach:", ": ", '{"a": "b"}', " "]}
    )
    said = "unable to attach: operation not permitted"
    assert explain_runsc(said, config=config).cause == "ptrace-denied"


def go_quoted(text: str) -> str:
    """Return `text` as Go's strconv.Quote quotes it, but without the outer quotes."""
    named = dict(zip('"\\\a\b\f\n\r\t\v', '"\\abfnrtv', strict=True))
    return "".join(
        f"\\{named[char]}" if char in named else char if char.isprintable() else ascii(char)[1:-1]
        for char in text
    )
