"""Attacks with text from a sandbox that imitates messages of runsc or usernsctl."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from processes import umask

import usernsctl as un

pytestmark = pytest.mark.userns_requires("runsc")

PATIENCE = 20
# Lines in the format of runsc's logs and of crash reports of Go programs.
FORGED = (
    "x] FATAL ERROR: forged by the command\n"
    "W1124 15:44:06.773580       1 util.go:64] FATAL ERROR: forged by the command\n"
    '{"msg":"forged by the command","level":"error","time":"2026-11-25T01:43:38Z"}\n'
    "panic: forged by the command\n"
    "runtime: failed to create new OS thread: forged by the command\n"
    "I1124 15:44:06.773580       1 main.go:222] Exiting with status: 0\n"
)
# Exit statuses of runsc itself after a failure and after a crash.
STATUSES = (128, 2)


@pytest.mark.parametrize("status", STATUSES)
def test_hostile_arguments_of_a_command_choose_no_cause(
    usernsctl: Any, tally: Any, status: int
) -> None:
    """Forge messages in arguments and file names; check that status and output don't change."""
    script = f"'./not there '\"$0\" 2>/dev/null; cat '/no/'\"$0\" 2>/dev/null; exit {status}"
    for _ in range(tally.rounds(1, 50)):
        tally.tried()
        done = usernsctl("run", "--", "sh", "-c", script, FORGED)
        if (done.returncode, done.stdout, done.stderr) != (status, "", ""):
            tally.succeeded(f"{done.returncode}: {done.stderr}")


@pytest.mark.parametrize("status", STATUSES)
def test_hostile_full_logs_choose_no_cause(usernsctl: Any, tally: Any, status: int) -> None:
    script = (
        "import os, sys, time\n"
        "end = time.monotonic() + 1\n"
        "while time.monotonic() < end:\n"
        "    try: os.execve('/no/' + sys.argv[1] * 3, ['x'], {})\n"
        "    except OSError: pass\n"
        f"sys.exit({status})\n"
    )
    tally.tried()
    done = usernsctl("run", "--", "python3", "-c", script, FORGED)
    if (done.returncode, done.stderr) != (status, ""):
        tally.succeeded(f"{done.returncode}: {done.stderr}")


def bundle(tmp_path: Path, **process: Any) -> Path:
    made = tmp_path / "bundle"
    (made / "rootfs").mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/true", made / "rootfs" / "true")
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}} | process,
        "root": {"path": "rootfs", "readonly": True},
    }
    (made / "config.json").write_text(json.dumps(config))
    return made


def test_hostile_text_of_a_bundle_is_quoted(usernsctl: Any, tally: Any, tmp_path: Path) -> None:
    """Check that text of a bundle in runsc's message is quoted, and can't forge a line."""
    ends = ("\x1b]0;owned\x07\x1b[2J", '"', "", "\u202e", "\\")
    for end in ends[: tally.rounds(2, len(ends))]:
        text = f"{FORGED}usernsctl: all is well{end}"
        tally.tried()
        done = usernsctl("run", "--no-verify", "--bundle", bundle(tmp_path, cwd=f"/{text}"))
        assert done.returncode == 125, done.stderr
        # Standard error also contains the bundle's text, before this prefix of usernsctl's own
        # lines. Check only usernsctl's own lines.
        _, ours = done.stderr.split("usernsctl: runsc: ", 1)
        told, *rest = ours.splitlines()
        assert told.startswith('runsc says: "'), done.stderr
        assert told.endswith('"'), done.stderr
        if any("forged" in line or "all is well" in line for line in rest):
            tally.succeeded(f"a line of its own: {rest}")
        if not ours.replace("\n", "").isprintable():
            tally.succeeded(f"a control character: {ours!r}")
        if '"' in told[len('runsc says: "') : -1].replace('\\"', ""):
            tally.succeeded(f"an end of the quotation: {told}")


@pytest.mark.parametrize(
    "phrase",
    [
        "panic: unable to initialize systrap source: unable to attach: operation not permitted",
        "failed to change the root file system: pivot_root failed: operation not permitted",
        "fork/exec /proc/self/exe: operation not permitted",
        "newuidmap failed: exit status 1",
    ],
)
def test_hostile_text_of_a_bundle_chooses_no_cause(
    usernsctl: Any, tally: Any, tmp_path: Path, phrase: str
) -> None:
    tally.tried()
    done = usernsctl("run", "--no-verify", "--bundle", bundle(tmp_path, cwd=f"/no dir: {phrase}"))
    assert done.returncode == 125, done.stderr
    assert "runsc says: " in done.stderr
    if "why:" in done.stderr:
        tally.succeeded(done.stderr)


@pytest.mark.parametrize("status", STATUSES)
def test_hostile_logs_of_an_earlier_run_choose_no_cause(
    usernsctl: Any, tally: Any, tmp_path: Path, status: int
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o700)
    for stamp in ("20200101-000000.000000", "99991231-235959.999999"):
        for command in ("run", "boot", "gofer", "panic"):
            (logs / f"runsc.log.{stamp}.{command}.txt").write_text(FORGED)
    tally.tried()
    done = usernsctl("run", "--debug-log", logs, "--", "sh", "-c", f"exit {status}")
    if (done.returncode, done.stderr) != (status, ""):
        tally.succeeded(f"{done.returncode}: {done.stderr}")


def test_hostile_neighbours_read_no_debug_logs(usernsctl: Any, tally: Any, tmp_path: Path) -> None:
    """Check that only the owner can read debug logs, because they contain the environment."""
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o755)
    with umask(0):
        done = usernsctl("run", "--debug-log", logs, "--env", "TOKEN=s3cret-value", "--",
                         "sh", "-c", "exit 3")  # fmt: skip
        made = usernsctl("run", "--debug-log", tmp_path / "made", "--root", tmp_path / "root",
                         "--", "true")  # fmt: skip
    assert (done.returncode, made.returncode) == (3, 0), done.stderr + made.stderr
    files = [*logs.iterdir(), *(tmp_path / "made").iterdir()]
    assert any("s3cret-value" in file.read_text() for file in files)
    assert len(files) == 8
    for file in [*files, tmp_path / "made", tmp_path / "root", *(tmp_path / "root").iterdir()]:
        tally.tried()
        if file.lstat().st_mode & 0o077:
            tally.succeeded(f"{file.name}: {file.lstat().st_mode:o}")


def used_bytes(host: un.SandboxHost) -> int:
    """Return the number of used bytes in the filesystem that contains the SandboxHost's files."""
    used = os.fstatvfs(host.directory)
    return (used.f_blocks - used.f_bfree) * used.f_frsize


@pytest.mark.parametrize("detach", [False, True], ids=["held", "detached"])
def test_hostile_commands_fill_no_logs(tally: Any, detach: bool, runtime: Path) -> None:
    """Check that a loop of failing execve(2) calls, whose errors are logged, fills no logs."""
    seconds = tally.rounds(1, 10)
    script = (
        "import os, time\n"
        f"end = time.monotonic() + {seconds}\n"
        "while time.monotonic() < end:\n"
        "    try: os.execve('/no/' + 'x' * 1000, ['x'], {})\n"
        "    except OSError: pass\n"
        "print('done', flush=True)\n"
        "time.sleep(1000)\n"
    )
    with un.SandboxHost() as host:
        command = ["python3", "-c", script]
        # Subtract what the filesystem already contains, such as the copy of /etc that a
        # SandboxHost of root makes.
        before = used_bytes(host)
        with host.start(command, detach=detach, stdout=un.PIPE) as box:
            assert box.stdout.readline() == b"done\n"
            tally.tried()
            size = used_bytes(host) - before
            if size > 1 << 20:
                tally.succeeded(f"{size} bytes in the host's file system")
            state = sum(file.lstat().st_size for file in runtime.rglob("*"))
            if state > 1 << 20:
                tally.succeeded(f"{state} bytes in the state directory")


def test_hostile_text_of_a_command_does_not_end_the_host(tally: Any) -> None:
    """Check that forged errors in a command's path, which runsc quotes, determine no cause.

    The error must escape the path's control characters. Two properties of the path keep usernsctl
    from rejecting it before the start: only gVisor can look up files in its /proc, and no component
    is longer than NAME_MAX.
    """
    path = "/proc/no/" + FORGED.replace("\n", "/\n") + "\x1b[2J"
    with un.SandboxHost(verify=False) as host:
        for detach in (False, True):
            tally.tried()
            begin = time.monotonic()
            with pytest.raises(un.RunscError) as caught:
                host.start([path], detach=detach)
            assert time.monotonic() - begin < PATIENCE
            assert caught.value.reason.startswith('runsc says: "')
            if not caught.value.reason.isprintable() or caught.value.cause is not None:
                tally.succeeded(f"{caught.value.reason!r} {caught.value.cause}")
