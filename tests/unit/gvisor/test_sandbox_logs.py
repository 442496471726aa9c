"""What runsc's own files are believed to say of a run, and what they are not."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernsctl.explain.logs import quoted
from usernsctl.gvisor import failure, logs, runsc

END = "I1125 01:43:37.998166   66184 main.go:222] Exiting with status: 512\n"
EOF = "running container: creating container: waiting for sandbox to start: EOF"
GOFER = "Error setting up root FS: mounting root on root err: no such file or directory"
PANIC = "panic: unable to attach: operation not permitted\n\ngoroutine 1 [running]:\n"


def write(directory: Path, *messages: str, run: str = "", crash: str = "") -> runsc.Logs:
    written = logs.quiet(str(directory), f"{directory}/crash")
    errors = [json.dumps({"msg": message, "level": "error"}) for message in messages]
    Path(written.errors).write_text("".join(errors))
    Path(written.crash).write_text(crash)
    (directory / "run.txt").write_text(run)
    (directory / "config.json").write_text("{}")
    return written


def status_of(directory: Path, status: int, *messages: str, run: str = "", crash: str = "") -> int:
    return failure.main(
        write(directory, *messages, run=run, crash=crash), str(directory), status, ""
    )


@pytest.mark.parametrize("status", [runsc.FAILED, runsc.CRASHED])
def test_a_run_that_ended_in_order_did_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    assert status_of(tmp_path, status, run=f"] FATAL ERROR: x\n{END}") == status
    assert status_of(tmp_path, status, "some error", run=END) == status
    assert capsys.readouterr() == ("", "")


def test_the_first_error_is_behind_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(tmp_path, runsc.FAILED, GOFER, EOF, run="started") == 125
    told = capsys.readouterr().err
    assert told.startswith(f'usernsctl: runsc: runsc says: "{GOFER}"\n')


def test_a_crash_is_behind_what_the_caller_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = PANIC.split("\n")[0]
    # The status of a sandbox that crashes later is told as if it were the command's.
    for messages, run in (((EOF,), "started"), ((), END)):
        assert status_of(tmp_path, runsc.CRASHED, *messages, run=run, crash=PANIC) == 125
        assert f'runsc says: "{line}"' in capsys.readouterr().err


def test_runsc_itself_may_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(tmp_path, runsc.CRASHED, run="started") == 125
    assert "runsc crashed" in capsys.readouterr().err


def test_runsc_may_refuse_before_it_writes_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(tmp_path, runsc.FAILED, run="") == 125
    assert "[runsc-refused-call]" in capsys.readouterr().err


def test_the_end_must_be_the_last_line(tmp_path: Path) -> None:
    for run, expected in (
        (END, True),
        (END.replace("main.go", "cli.go"), True),
        (END + "W1125 01:43:38.0 1 util.go:64] FATAL ERROR: x\n", False),
        (f"x {END}", False),
        ("", False),
    ):
        assert logs.has_ended(write(tmp_path, run=run)) is expected, run


def test_nothing_to_read(tmp_path: Path) -> None:
    written = logs.quiet(str(tmp_path), "/nonexistent")
    os.mkfifo(written.errors)
    (tmp_path / "run.txt").symlink_to("/dev/zero")
    assert not logs.has_ended(written)
    assert logs.reason(written) is None


def test_kept_logs_are_new_and_ours(tmp_path: Path) -> None:
    both = [logs.kept(str(tmp_path), "/own") for _ in range(2)]
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
        written = logs.quiet(directory, f"{directory}/crash")
        Path(written.errors).write_bytes(data)
        found = logs.reason(written)
    assert found is None or found.strip()


def test_words_of_the_bundle_are_not_runscs() -> None:
    phrase = "x: unable to attach: operation not permitted\n"
    config = json.dumps({"process": {"cwd": phrase, "args": ["true"]}, "mounts": [{"a b c": 1}]})
    said = f"true: {phrase!r}: {phrase}: a b c: failed"
    assert logs.own_words(said, config) == "true: '...': ...: ...: failed"
    assert logs.own_words(said, "no JSON") == said
