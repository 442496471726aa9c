"""Tests of terminals, signals, ids and limits in containers whose program runs in gVisor."""

from __future__ import annotations

import subprocess
import uuid

import pytest
from supervisors import TELLER
from terminals import Session

from docker.conftest import PRELUDE, PRELUDE_PYTHON
from docker.engine import TREE, Engine
from docker.matrix import IN_GVISOR, NO_NEW_PRIVILEGES, NONE_LEFT

PROTECTED = [NONE_LEFT, NO_NEW_PRIVILEGES, f"--security-opt=seccomp={TREE}/docker/seccomp.json"]
RUN = ["run", "--rm", *PROTECTED, IN_GVISOR]


def test_the_program_gets_the_terminal_of_the_container(plain: Engine) -> None:
    """Check that the program has a terminal with docker run -t, and pipes without -t."""
    command = ["--network=none", "--", "bash", "--norc", "--noediting", "-i"]
    session = Session(plain.command(*RUN, "-it", PRELUDE, *command), plain.environ)
    try:
        session.type("test -t 0 && test -t 1 && test -t 2 && echo a terminal''.\n", "a terminal.")
        # gVisor may lose a signal that arrives during execve(2), so this job executes no other
        # program.
        session.type("stty size; bash -c \"echo sleeps''.; while :; do read -t 0.1; done\"\n")
        session.read_until("24 80")
        session.read_until("sleeps.")
        session.type("\x1a", "Stopped")
        session.resize(31, 99)
        # Docker forwards a new terminal size after a delay, so repeat stty.
        session.type("until test \"$(stty size)\" = '31 99'; do sleep 0.1; done; echo resized''.\n")
        session.read_until("resized.")
        session.type("exit 7\n")
        session.type("exit 7\n")
        assert session.wait() == 7
    finally:
        session.close()
    script = "test -t 0 || test -t 1 || echo pipes; cat"
    done = plain(*RUN, "-i", PRELUDE, "--network=none", "--", "sh", "-c", script, input="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "pipes\ntyped\n", "")


@pytest.mark.parametrize("terminal", [[], ["--tty"]], ids=["pipes", "terminal"])
@pytest.mark.parametrize("image", [PRELUDE_PYTHON])
def test_signals_of_docker_kill_reach_the_program(
    plain: Engine, terminal: list[str], image: str
) -> None:
    name = f"signals-{uuid.uuid4().hex}"
    command = ["--network=none", "--", "/usr/bin/python3", "-c", TELLER]
    run = plain.command(*RUN, f"--name={name}", *terminal, image, *command)
    with subprocess.Popen(
        run,
        env=plain.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip() == "ready":
                    break
            for sent, number in (
                *(("CONT", 18), ("TSTP", 20), ("WINCH", 28), ("INT", 2)),
                *(("RTMIN", 34), ("RTMIN+3", 37), ("RTMAX", 64), ("TERM", 15)),
            ):
                plain.must("kill", f"--signal={sent}", name)
                assert process.stdout.readline().strip() == str(number)
            plain.must("kill", "--signal=USR1", name)
            assert process.wait(60) == 0
        finally:
            plain("rm", "--force", name)


@pytest.mark.parametrize("engine", ["plain", "remapped"], indirect=True)
@pytest.mark.sampled(1)
def test_a_program_that_refuses_root_runs_without_privileges(engine: Engine) -> None:
    script = 'test "$(id -u)" != 0 && id -u && id -g && touch /tmp/file && stat -c %u /tmp/file'
    for user, told in (("1000:1001", "1000\n1001\n1000\n"), ("7", "7\n7\n7\n")):
        done = engine(*RUN, PRELUDE, "--network=none", f"--user={user}", "--", "sh", "-c", script)
        assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
    done = engine(*RUN, PRELUDE, "--user=app", "--", "true")
    assert done.returncode == 125
    assert "the sandbox has no user 'app'" in done.stderr


def test_the_descriptor_limit_of_the_container_applies(plain: Engine) -> None:
    done = plain(
        *[*RUN, "--ulimit=nofile=4096:8192", PRELUDE, "--network=none"],
        *["--", "sh", "-c", "ulimit -Sn; ulimit -Hn"],
    )
    assert (done.stdout, done.stderr) == ("4096\n8192\n", "")


def test_a_missing_program_has_a_remedy_for_images(plain: Engine) -> None:
    done = plain(*RUN, PRELUDE, "--", "no-such-program")
    assert (done.returncode, "--bind" in done.stderr) == (127, False)
    assert "  remedy: install the program" in done.stderr


def test_a_low_pids_limit_is_named_without_output_of_runsc(plain: Engine) -> None:
    done = plain(*RUN, "--pids-limit=4", PRELUDE, "--network=none", "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("usernsctl"), done.stderr
    assert "[process-limit]" in done.stderr
