"""Tests of the errors of `usernsctl-exec --launch`, which explains failures without Python."""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program

from usernsctl.explain.catalogue import get
from usernsctl.explain.explanation import explain

# Fake runsc that copies the files `errors` and `crash` from its directory to its log files, and
# exits with the status in the file `status`.
STAND_IN = """\
#!/bin/sh
[ "$1" = --version ] && echo "runsc version release-20260101.0" && exit
for word; do
    case $word in
    --log=*) cat "${0%/*}/errors" >"${word#--log=}" ;;
    --panic-log=*) cat "${0%/*}/crash" >"${word#--panic-log=}" ;;
    esac
done
exit "$(cat "${0%/*}/status")"
"""

# Messages of runsc with their causes. None: the catalogue has no cause or several causes for the
# message.
MESSAGES = [
    ("creating container: unable to run a rootless container without userns", "bundle-no-mappings"),
    ("cannot create gofer process: newuidmap failed: exit status 1", None),
    ("running container: cannot read client sync file: waiting for sandbox to start: EOF", None),
    ("error setting up chroot: error converting mounts: operation not permitted", "mount-denied"),
    (
        "pivot_root failed, make sure that the root mount has a parent: operation not permitted",
        "mount-denied",
    ),
    ("unable to attach: operation not permitted", "ptrace-denied"),
    ("gofer: fork/exec /proc/self/exe: function not implemented", None),
    ("sandbox: fork/exec /proc/self/exe: resource temporarily unavailable", "process-limit"),
    ("fork/exec /proc/self/exe: too many open files", "descriptor-limit"),
    ("error opening KVM device file (/dev/kvm): permission denied", "kvm-denied"),
    ("mounting root on root err: no such file or directory", "rootfs-missing"),
    ("something that nobody has met", None),
]

Fails = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fail_launch(prelude: Program, usernsctl: Program, tmp_path: Path) -> Fails:
    """Return a function that writes and performs a launch file with a fake runsc that fails."""
    program = tmp_path / "bin" / "runsc"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)

    def fail(
        errors: bytes, *options: str, crash: bytes = b"", status: int = 128
    ) -> subprocess.CompletedProcess[str]:
        (program.parent / "errors").write_bytes(errors)
        (program.parent / "crash").write_bytes(crash)
        (program.parent / "status").write_text(str(status))
        file = tmp_path / "launch"
        usernsctl.check_output("freeze", "--runsc", program, *options, "-o", file, "--", "true")
        done = prelude("--launch", file)
        ran = usernsctl("run", "--runsc", program, *options, "--", "true")
        assert (done.returncode, done.stdout, done.stderr) == (ran.returncode, "", ran.stderr)
        in_json = prelude("--log=json", "--launch", file)
        assert (in_json.returncode, in_json.stdout) == (done.returncode, "")
        assert as_text(in_json.stderr) == done.stderr
        return done

    return fail


def as_text(stderr: str) -> str:
    """Convert the JSON message on the last line of standard error to text; return all lines."""
    *before, line = stderr.splitlines()
    message = json.loads(line)
    text = [*before, f"{message['program']}: {message['step']}: {message['message']}"]
    if "cause" in message:
        text.append(f"  why: {message['why']} [{message['cause']}]")
    text += [f"  {one}" for one in message.get("details", "").splitlines()]
    remedy = message["remedy"].splitlines()
    if len(remedy) == 1:
        text.append(f"  remedy: {remedy[0]}")
    else:
        text += ["  remedy:", *(f"    {one}" for one in remedy)]
    if "more" in message:
        text.append(f"  more: {message['more']}")
    return "\n".join([*text, ""])


def error_log(*messages: str) -> bytes:
    return "".join(json.dumps({"msg": one, "level": "error"}) for one in messages).encode()


@pytest.mark.parametrize(("said", "cause"), MESSAGES)
@pytest.mark.sampled(4)
def test_messages_of_runsc_are_mapped_to_causes(
    fail_launch: Fails, said: str, cause: str | None
) -> None:
    done = fail_launch(error_log(said, "and more"))
    assert done.returncode == 125
    first, *rest = done.stderr.splitlines()
    assert first == f'usernsctl: runsc: runsc says: "{said}"'
    known = explain(io.BytesIO(said.encode())).candidates
    if cause is None:
        assert rest[0] == '  runsc also says: "and more"'
        # The remedy lists only possible causes. No filter is active, so seccomp filters are not
        # possible causes.
        possible = [one for one in known if not one.cause.id.startswith("seccomp-")]
        told = rest[1].removeprefix("  remedy: usernsctl doctor").split(", ")
        assert len(possible) - 1 <= (len(told) if known else 0)
        assert rest[2].startswith("  more: usernsctl run --debug-log DIR")
    else:
        assert cause in [one.cause.id for one in known]
        assert rest[0].endswith(f" [{cause}]")
        lines = get(cause).remedies["host"].split("\n")
        several = ["  remedy:", *(f"    {line}" for line in lines)]
        assert rest[1:] == ([f"  remedy: {lines[0]}"] if len(lines) == 1 else several)


def test_crashes_and_empty_logs_of_runsc_are_explained(fail_launch: Fails) -> None:
    crash = b"runtime: failed to create new OS thread (have 6 already; errno=11)\nmore\n"
    assert "[process-limit]" in fail_launch(error_log("EOF"), crash=crash, status=2).stderr
    assert "runsc crashed" in fail_launch(b"", status=2).stderr
    assert "[runsc-refused-call]" in fail_launch(b"").stderr
    # Any exit status of runsc counts as a failure of runsc, unless its log says that the command
    # exited.
    assert 'runsc says: "x"' in fail_launch(error_log("x"), status=3).stderr
    assert "[runsc-ran-nothing]" in fail_launch(b"", status=0).stderr


def test_hostile_messages_of_runsc_are_sanitized(fail_launch: Fails) -> None:
    """Check that messages of runsc are sanitized, because they may quote a hostile bundle."""
    for errors in (
        error_log("a\x1b[2J\u202e\r\nusernsctl: all is well\n\x9b\x00", "\x1b]0;owned\x07"),
        b'{"msg":"\\ud800\xff\xc3","level":"error"}',
        b'{"msg":"' + b"x" * (1 << 20),
        error_log(*["y" * 5000] * 1000),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\0\n\xff" * 1000,
        random.Random(1).randbytes(10_000),
    ):
        done = fail_launch(errors, crash=errors.replace(b"{", b"\npanic: "))
        assert done.returncode == 125
        kinds = {unicodedata.category(char) for char in done.stderr.replace("\n", "")}
        assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}, done.stderr
        assert len(done.stderr) < 10_000
        assert not any("usernsctl: all is well" in line[:20] for line in done.stderr.splitlines())


@pytest.mark.parametrize("phrase", [said for said, cause in MESSAGES if cause])
@pytest.mark.sampled(3)
def test_quoted_text_of_a_config_matches_no_cause(fail_launch: Fails, phrase: str) -> None:
    variable = f'A="\x07: {phrase}'
    for quoted in (json.dumps(variable), repr(variable), variable):
        done = fail_launch(error_log(f"bad variable {quoted}: refused"), "--env", variable)
        assert done.returncode == 125
        assert "why:" not in done.stderr


def test_denied_kvm_is_explained_as_run_does(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("this user may open /dev/kvm")
    file = tmp_path / "launch"
    options = ["--platform", "kvm", "--", "echo", "ran"]
    assert usernsctl("freeze", "-o", file, *options).returncode == 0
    done, ran = prelude("--launch", file), usernsctl("run", *options)
    assert (done.returncode, done.stdout) == (125, "")
    assert "[kvm-denied]" in done.stderr
    assert done.stderr.splitlines()[-2:] == ran.stderr.splitlines()[-2:]


@pytest.mark.userns_requires("strace")
def test_failed_launch_starts_no_python(
    fail_launch: Fails, prelude: Program, tmp_path: Path
) -> None:
    """Trace a failed launch with strace(1); check that it does not execute Python."""
    fail_launch(error_log("something new"))
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=execve", "-o", trace, prelude.path]
    done = subprocess.run([*command, "--launch", tmp_path / "launch"], capture_output=True)
    assert done.returncode == 125
    programs = re.findall(r"execve\((\S+),", trace.read_text())
    # An unprivileged strace(1) can't read the arguments of a process that is not dumpable, so
    # compare only some of the names.
    names = [os.path.basename(program.strip('"')) for program in programs]
    assert (names[0], names[2]) == ("usernsctl-exec", "runsc")
    assert set(names[3:]) == {"cat"}
