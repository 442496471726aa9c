"""Tests of finding the failures in runsc's debug logs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from usernsctl.explain.explanation import explain_failures
from usernsctl.explain.logs import Failure, failures, root_failure

EOF = "creating container: cannot create sandbox: waiting for sandbox to start: EOF"
MESSAGES = {
    "gofer": "Error setting up root FS: mounting root on root err: no such file",
    "boot": "Error reading mounts file: unexpected end of JSON input",
    "run": EOF,
}


def fatal(message: str) -> str:
    return f"W1124 15:44:06.773580       1 util.go:64] FATAL ERROR: {message}"


def write_logs(directory: Path, time: str, **logs: str) -> None:
    for command, line in logs.items():
        text = f"I1124 15:44:06.734153 1 main.go:201] started\n{line}\n"
        (directory / f"runsc.log.20261124-{time}.000001.{command}.txt").write_text(text)


def test_failure_of_the_gofer_is_the_root_failure(tmp_path: Path) -> None:
    write_logs(tmp_path, "154406", **{name: fatal(message) for name, message in MESSAGES.items()})
    assert root_failure(tmp_path) == MESSAGES["gofer"]
    assert [failure.process for failure in failures(tmp_path)] == ["gofer", "sandbox", "runsc"]


def test_newest_failed_call_of_runsc_counts(tmp_path: Path) -> None:
    write_logs(tmp_path, "154406", gofer=fatal("old"))
    write_logs(tmp_path, "154407", gofer=fatal("new"), run=fatal(EOF))
    write_logs(tmp_path, "154408", gofer="nothing", boot="nothing", delete="nothing")
    assert root_failure(tmp_path) == "new"


def test_go_panic_is_a_failure(tmp_path: Path) -> None:
    stack = "\ngoroutine 1 [running]:\nmain.main()\n" * 1000
    write_logs(tmp_path, "154406", boot=f"panic: unable to attach: x{stack}", run=fatal(EOF))
    assert root_failure(tmp_path) == "panic: unable to attach: x"


def test_newuidmap_message_is_the_root_failure(tmp_path: Path) -> None:
    message = "newuidmap: uid range [0-9) -> [0-9) not allowed"
    log = f"D1124 1 sandbox.go:1841] newuidmap: []string\n{message}\n{fatal('newuidmap failed: x')}"
    write_logs(tmp_path, "154406", run=log)
    assert root_failure(tmp_path) == message


def test_newuidmap_failure_precedes_that_of_the_gofer(tmp_path: Path) -> None:
    """Check that newuidmap's failure precedes the error of the gofer, which runsc then kills."""
    message = "newuidmap: uid range [0-4294967295) -> [0-4294967295) not allowed"
    failed = "cannot create gofer process: newuidmap failed: exit status 1"
    gofer = fatal("failed to set UID: invalid argument")
    write_logs(tmp_path, "154406", gofer=gofer, run=f"D1124\n{message}\n{fatal(failed)}")
    assert [(one.process, one.message) for one in failures(tmp_path)] == [
        ("runsc", message),
        ("gofer", "failed to set UID: invalid argument"),
    ]
    write_logs(tmp_path, "154407", gofer=gofer, run=fatal(failed))
    assert root_failure(tmp_path) == failed


def test_sandbox_log_is_not_taken_for_a_helper(tmp_path: Path) -> None:
    write_logs(
        tmp_path, "154406", gofer=fatal("mine"), boot=fatal("newuidmap failed"), run=fatal(EOF)
    )
    assert [one.process for one in failures(tmp_path)] == ["gofer", "sandbox", "runsc"]


def test_json_logs_with_custom_names_are_read(tmp_path: Path) -> None:
    for name, message in MESSAGES.items():
        entry = {"msg": f"util.go:64] FATAL ERROR: {message}\nmore", "level": "warning"}
        (tmp_path / f"my-{name}.log").write_text(json.dumps(entry))
    assert root_failure(tmp_path) == MESSAGES["gofer"]


def test_logs_without_a_failure_have_no_explanation(tmp_path: Path) -> None:
    assert root_failure(tmp_path) is None
    write_logs(tmp_path, "154406", gofer="Exiting with status: 0", boot="", run="")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "gofer").mkdir()
    assert root_failure(tmp_path) is None
    assert explain_failures(()).empty


def test_first_known_failure_is_explained() -> None:
    crash = Failure(process="sandbox", filename="b", message="panic: nil pointer")
    called = Failure(process="runsc", filename="r", message=EOF)
    explanation = explain_failures((crash, called))
    assert explanation.candidates[0].seen == (EOF,)
    assert not explain_failures((crash,)).recognised


@given(st.binary(max_size=500))
def test_any_bytes_in_a_log_are_accepted(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "runsc.log.20261124-154406.000001.gofer.txt").write_bytes(data)
        found = root_failure(directory)
    assert found is None or found.isprintable()


def test_output_of_the_sandboxed_program_is_not_a_failure(tmp_path: Path) -> None:
    strace = 'D1124 strace.go:567] [   1:   1] sh X write(0x1 host:[2], "FATAL ERROR: mine")'
    write_logs(tmp_path, "154406", boot=strace, run="main.go:222] Exiting with status: 0")
    assert root_failure(tmp_path) is None


def test_go_message_before_a_fatal_error_is_the_root_failure(tmp_path: Path) -> None:
    crash = "runtime: failed to create new OS thread (have 6 already; errno=11)"
    text = f"{crash}\nruntime: may need to increase max user processes\nfatal error: newosproc"
    write_logs(tmp_path, "154406", boot=text, run=fatal(EOF))
    assert root_failure(tmp_path) == crash
    (candidate,) = explain_failures(failures(tmp_path)).candidates
    assert candidate.cause.id == "process-limit"
