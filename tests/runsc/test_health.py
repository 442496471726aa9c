"""Tests of in-gvisor --health, which checks whether a container's sandbox answers.

The check searches all visible processes for sandboxes, so each test runs in a separate PID
namespace, as in a container.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SCRIPTS
from frozen import freeze

from usernsctl._core.values import program_path

#: Shell functions. `begin NAME [COMMAND...]` starts a sandbox, and returns when the sandbox's first
#: program runs. `sandbox NAME` prints the pid of the sandbox process.
FUNCTIONS = """
begin() {
    name=$1; shift
    mkfifo $name
    $bin/usernsctl-exec --launch $launch -- sh -c 'echo ready; exec "$@"' sh "${@:-sleep}" 600 \
        >$name &
    read ready <$name
}
sandbox() {
    for process in /proc/[0-9]*; do
        case $(tr '\\0' ' ' <$process/cmdline) in
            "runsc-sandbox "*) echo ${process#/proc/} ;;
        esac
    done | sort -n | sed -n $1p
}
health() {
    status=0
    $bin/in-gvisor --health "$@" || status=$?
    echo "status $status"
}
"""

Script = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Return a function that runs FUNCTIONS and a shell script in a new PID namespace."""
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copy(SCRIPTS / "usernsctl-entrypoint", programs / "in-gvisor")
    shutil.copy(SCRIPTS / "usernsctl-exec", programs)
    shutil.copy(program_path("usernsctl-watch"), programs)
    launch = freeze(tmp_path / "launch", "--wd", "/", "--env", "PATH=/usr/bin:/bin")

    def run(text: str) -> subprocess.CompletedProcess[str]:
        inside = ["-r", "-p", "--mount-proc", "--", "sh", "-eu", "-c"]
        return subprocess.run(
            [
                SCRIPTS / "usernsctl-exec",
                *inside,
                f"bin={programs} launch={launch}\n{FUNCTIONS}{text}",
            ],
            capture_output=True,
            text=True,
            timeout=100,
            cwd=tmp_path,
        )

    return run


def test_health_of_a_running_sandbox_succeeds(script: Script) -> None:
    done = script(
        "begin one; health; health -- sh -c 'cat /proc/version'; health -- sh -c 'exit 0'"
    )
    first, version, *rest = done.stdout.splitlines()
    assert (first, rest, done.stderr) == ("status 0", ["status 0", "status 0"], "")
    assert "Jan 10 15:06:54 PST 2016" in version


def test_health_without_a_sandbox_fails(script: Script) -> None:
    done = script("health; health -- true")
    assert done.stdout == "status 1\nstatus 1\n"
    assert done.stderr.count("unhealthy: no sandbox runs in this container") == 2
    assert "[no-sandbox]" in done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("sh -c 'echo bad >&2; exit 3'", "ended with status 3"),
        ("sh -c 'kill -9 $$'", "ended with status 137"),
        ("/nowhere", "ended with status 127"),
        ("/etc", "ended with status 126"),
        pytest.param("sleep 300", "took longer than 10 s", marks=pytest.mark.thorough),
    ],
)
def test_health_with_a_failing_command_fails(script: Script, command: str, says: str) -> None:
    """Run health checks whose command fails or hangs; check that no such command remains."""
    done = script(f"begin one; health -- {command}; health -- sh -c 'cat /proc/[0-9]*/cmdline'")
    first, rest = done.stdout.split("\n", 1)
    assert first == "status 1"
    assert rest.endswith("status 0\n")
    assert "sleep\x00300\x00" not in rest
    assert f"the command in the sandbox {says}" in done.stderr
    assert "[health-command-failed]" in done.stderr


def test_health_of_a_stopped_sandbox_fails(script: Script) -> None:
    """Stop gVisor, so that it doesn't answer. The check must fail, and leave no process behind."""
    done = script(
        "begin one; stopped=$(sandbox 1)\n"
        "kill -STOP $stopped; health; kill -CONT $stopped; health\n"
        "for process in /proc/[0-9]*; do tr '\\0' ' ' <$process/cmdline; echo; done"
    )
    first, second, *processes = done.stdout.splitlines()
    assert (first, second) == ("status 1", "status 0")
    assert "no answer from the sandbox within 12 s" in done.stderr
    assert "[sandbox-unresponsive]" in done.stderr
    # Ignore usernsctl-watch: its arguments contain the `runsc exec` command that forwards signals.
    ours = [one for one in processes if "usernsctl-watch" not in one]
    assert not [one for one in ours if " exec " in one and "runsc" in one]


def test_health_checks_the_first_sandbox_only(script: Script) -> None:
    """Start two sandboxes and stop the second; a health check uses only the oldest sandbox."""
    done = script("begin one; begin two; kill -STOP $(sandbox 2); health")
    assert (done.stdout, done.stderr) == ("status 0\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        "a b c d -- kill -- raise -- run",
        "a b c d -- kill -- raise -- run --root=/nowhere id",
        "a b c d -- -- -- --root=",
        "-- --",
        "",
        '"$(head -c 50000 /dev/zero | tr "\\0" x)"',
        "$(seq 300)",
    ],
)
def test_health_is_not_fooled_by_a_fake_watcher(
    script: Script, tmp_path: Path, arguments: str
) -> None:
    """Start only a process with the watcher's name; check that the health check fails.

    The health check need not ignore this process, which has the same uid and could change the
    health check's memory anyway.
    """
    decoy = tmp_path / "decoy"
    decoy.write_text("echo begun; sleep 600\n")
    begin = f"(exec -a /x/usernsctl-watch bash {decoy} {arguments}) >begun &"
    done = script(f"mkfifo begun; bash -c {shlex.quote(begin)}; read line <begun; health")
    assert done.stdout == "status 1\n"
    assert "unhealthy: " in done.stderr


def test_health_with_check_is_refused(script: Script) -> None:
    done = script("$bin/in-gvisor --health --check || echo $?")
    assert done.stdout == "125\n"
    assert "--health with --check" in done.stderr
