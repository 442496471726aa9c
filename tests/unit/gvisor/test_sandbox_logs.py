"""Tests of what the watcher concludes from runsc's log files, and of forged ones."""

from __future__ import annotations

import json
import os
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
    """Return the watcher's exit status and output after runsc has ended with `status`."""
    files = (written.errors, written.crash, written.debug, str(directory))
    command = [str(WATCHER), "/bin/sh", *files, "--", "--", "--", "sh", "-c", f"exit {status}"]
    done = capture(command)
    assert done.stdout == ""
    return done.returncode, done.stderr


def told(directory: Path, status: int, *messages: str, run: str = "", crash: str = "") -> str:
    """Return the watcher's message for a failure."""
    ended, text = end_of(directory, write(directory, *messages, run=run, crash=crash), status)
    assert ended == 125
    return text


@pytest.mark.parametrize("status", [FAILED, CRASHED])
def test_a_run_that_ended_in_order_did_not_fail(tmp_path: Path, status: int) -> None:
    for messages, run in (((), f"] FATAL ERROR: x\n{END}"), (("some error",), END)):
        assert end_of(tmp_path, write(tmp_path, *messages, run=run), status) == (status, "")


@pytest.mark.parametrize("status", [0, 3, 125, 143])
def test_a_status_is_the_commands_only_if_the_log_says_so(tmp_path: Path, status: int) -> None:
    assert end_of(tmp_path, write(tmp_path, GOFER, run=END), status) == (status, "")
    assert f'runsc says: "{GOFER}"' in told(tmp_path, status, GOFER)


def test_an_end_without_a_word_is_told_with_what_is_known(tmp_path: Path) -> None:
    for status, said, cause in (
        (0, "runsc ended with status 0,", "runsc-ran-nothing"),
        (1, "runsc ended with status 1,", "runsc-ran-nothing"),
        (139, "runsc ended by signal 11 (", "runsc-killed"),
        (159, "runsc ended by signal 31 (", "runsc-killed"),
    ):
        text = told(tmp_path, status)
        assert text.startswith(f"usernsctl: runsc: {said}")
        assert f"[{cause}]\n  remedy:" in text


def test_the_first_error_is_behind_the_others(tmp_path: Path) -> None:
    text = told(tmp_path, FAILED, GOFER, EOF, run="started")
    assert text.startswith(f'usernsctl: runsc: runsc says: "{GOFER}"\n')
    assert "[rootfs-missing]" in text
    assert EOF not in text


def test_a_crash_is_behind_what_the_caller_saw(tmp_path: Path) -> None:
    line = PANIC.split("\n")[0]
    # If the sandbox crashes after the start, runsc logs the sandbox's exit status as if it were
    # the command's.
    for messages, run in (((EOF,), "started"), ((), END)):
        text = told(tmp_path, CRASHED, *messages, run=run, crash=PANIC)
        assert f'runsc says: "{line}"' in text


def test_runsc_itself_may_crash(tmp_path: Path) -> None:
    assert "runsc crashed" in told(tmp_path, CRASHED, run="started")


def test_runsc_may_refuse_before_it_writes_anything(tmp_path: Path) -> None:
    assert "[runsc-refused-call]" in told(tmp_path, FAILED, run="")


def test_more_is_quoted_where_no_cause_is_known(tmp_path: Path) -> None:
    others = [f"error {number}" for number in range(20)]
    text = told(tmp_path, FAILED, "something new", *others, crash="panic: \x1b[2J")
    lines = text.splitlines()
    assert lines[0] == 'usernsctl: runsc: runsc says: "something new"'
    quoted_lines = [*(f'  runsc also says: "error {number}"' for number in range(15, 20))]
    assert lines[1:7] == [*quoted_lines, '  runsc also says: "panic: \\u001b[2J"']
    assert lines[7] == "  remedy: usernsctl doctor"
    assert lines[8].startswith("  more: usernsctl run --debug-log DIR")
    assert len(lines) == 9


def test_the_end_must_be_the_last_line(tmp_path: Path) -> None:
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


def test_nothing_to_read(tmp_path: Path) -> None:
    written = private_log_paths(str(tmp_path), "/nonexistent")
    os.mkfifo(written.errors)
    (tmp_path / "run.txt").symlink_to("/dev/zero")
    assert end_of(tmp_path, written, FAILED)[0] == 125
    assert logs.read_failure(written) is None


def test_without_a_config_nothing_is_runscs_own(tmp_path: Path) -> None:
    written = write(tmp_path, GOFER)
    (tmp_path / "config.json").unlink()
    ended, text = end_of(tmp_path, written, FAILED)
    assert ended == 125
    assert "why:" not in text
    assert GOFER in text


def test_kept_logs_are_new_and_ours(tmp_path: Path) -> None:
    both = [create_debug_logs(str(tmp_path), "/own") for _ in range(2)]
    assert both[0].debug != both[1].debug
    assert len(list(tmp_path.iterdir())) == 8
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


@given(st.text(max_size=500))
def test_a_quotation_is_one_line_and_has_one_end(text: str) -> None:
    told = quoted(text)
    assert told.isprintable()
    assert told[0] == told[-1] == '"'
    assert json.loads(told.replace("\\x", "\\u00").replace("\\U", "\\\\U")) is not None
    assert '"' not in told[1:-1].replace("\\\\", "").replace('\\"', "")


@given(st.binary(max_size=500))
def test_any_errors_will_do(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        written = private_log_paths(directory, f"{directory}/crash")
        Path(written.errors).write_bytes(data)
        found = logs.read_failure(written)
    assert found is None or found.strip()


def test_words_of_the_bundle_are_not_runscs() -> None:
    words = "unable to attach: operation not permitted"
    assert explain_runsc(f"panic: {words}").cause == "ptrace-denied"
    for phrase in (
        f"x: {words}\n", f'"\x1b{words}', f"\xe9{words}\u202e", f"{words} ", f"\\n{words}\\",
        f"<{words}>", f"\a'{words}'\x7f",
    ):  # fmt: skip
        config = json.dumps({"process": {"cwd": phrase}}, ensure_ascii=False)
        # Quoted as by Go, as by JSON, and not quoted.
        for form in (go_quoted(phrase), json.dumps(phrase), phrase):
            said = f"true: {form.strip()}: failed"
            assert explain_runsc(said, config=config).cause is None, (said, config)
            assert explain_runsc(said, config="{}").cause == "ptrace-denied"
    config = json.dumps({words: "a: b"})
    assert explain_runsc(f"true: {words}", config=config).cause is None


def test_a_path_or_a_word_of_the_bundle_hides_nothing() -> None:
    config = json.dumps(
        {"args": ["permitted", "operation", "/to/attach:", ": ", '{"a": "b"}', " "]}
    )
    said = "unable to attach: operation not permitted"
    assert explain_runsc(said, config=config).cause == "ptrace-denied"


def go_quoted(text: str) -> str:
    """Quote a text as Go's strconv.Quote does."""
    named = dict(zip('"\\\a\b\f\n\r\t\v', '"\\abfnrtv', strict=True))
    return "".join(
        f"\\{named[char]}" if char in named else char if char.isprintable() else ascii(char)[1:-1]
        for char in text
    )
