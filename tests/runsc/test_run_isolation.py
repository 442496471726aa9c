"""Tests that a command can't read the host's secrets, and that a fake runsc is detected."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from callers import as_root
from conftest import Program
from processes import children_of

SECRET = "correct horse battery staple"

# Fake runsc, which runs the command on the host's kernel.
FAKE_RUNSC = """\
#!/usr/bin/python3
import json, os, sys
if sys.argv[1:] == ["--version"]:
    print("runsc version release-0")
    sys.exit()
bundle = next(word[9:] for word in sys.argv if word.startswith("--bundle="))
config = json.load(open(bundle + "/config.json"))
log = next(word[12:] for word in sys.argv if word.startswith("--debug-log="))
with open(log.replace("%COMMAND%", "run"), "w") as file:
    file.write("I1125 01:43:37.998166   66184 main.go:222] Exiting with status: 0\\n")
os.chroot(config["root"]["path"])
os.chdir("/")
args = config["process"]["args"]
os.execve(args[0], args, dict(entry.split("=", 1) for entry in config["process"]["env"]))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set HOME to a directory with a secret file in .ssh; return the directory."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_text(SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def secret_descriptor() -> Iterator[int]:
    descriptor = os.memfd_create("secret", 0)
    os.write(descriptor, SECRET.encode())
    yield descriptor
    os.close(descriptor)


@pytest.mark.also_root
def test_command_sees_no_secrets_of_the_caller(
    usernsctl: Program, home: Path, secret_descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    script = f"""
        ls -A ~ {home} /root /home/* /tmp /run /var/run /mnt /media /srv
        cat ~/.ssh/* {home}/.ssh/* /proc/*/environ /proc/*/fd/{secret_descriptor}
        ls -l /proc/self/fd
        env
    """
    done = usernsctl("run", "--", "sh", "-c", script, pass_fds=(secret_descriptor,))
    assert "/proc/" in done.stdout, done.stderr
    assert SECRET not in done.stdout
    assert "id_ed25519" not in done.stdout
    assert "memfd" not in done.stdout


def test_command_gets_only_a_minimal_environment(usernsctl: Program) -> None:
    env = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "TERM": "vt100", "HOME": "/x", "TOKEN": "t"}
    done = usernsctl("run", "--", "/usr/bin/env", env=env)
    wanted = ["HOME=/root", "LANG=C.UTF-8", "PATH=/usr/bin", "TERM=vt100"]
    assert sorted(done.stdout.splitlines()) == wanted


def test_env_and_env_file_options_add_variables(usernsctl: Program, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("# a comment\n\nFROM_FILE=two words\nTOKEN\n")
    env = {"PATH": "/usr/bin", "TOKEN": "t", "OTHER": "o"}
    options = ["--env-file", str(file), "--env", "OTHER", "--env", "NEW=a=b"]
    done = usernsctl("run", *options, "--", "/usr/bin/env", env=env)
    assert {"FROM_FILE=two words", "TOKEN=t", "OTHER=o", "NEW=a=b"} <= set(done.stdout.splitlines())


def test_env_all_passes_all_variables(usernsctl: Program) -> None:
    env = {"PATH": "/usr/bin", "TOKEN": "t", "HOME": "/x"}
    done = usernsctl("run", "--env-all", "--", "/usr/bin/env", env=env)
    assert set(done.stdout.splitlines()) >= {"TOKEN=t", "HOME=/x"}


@pytest.mark.also_root
def test_private_files_of_etc_are_empty(usernsctl: Program) -> None:
    done = usernsctl("run", "--", "sh", "-c", "ls -l /etc/shadow; cat /etc/shadow")
    assert done.returncode == 0
    assert done.stdout.split()[4] == "0", "the size of /etc/shadow"
    assert ":" not in done.stdout.partition("/etc/shadow")[2]


@pytest.mark.also_root
def test_home_below_opt_is_hidden(usernsctl: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    below = sorted(entry.path for entry in os.scandir("/opt") if entry.is_dir())
    if not below:
        pytest.skip("there is no directory in /opt")
    monkeypatch.setenv("HOME", below[0])
    assert usernsctl("run", "--", "ls", "-A", below[0]).stdout == ""


@pytest.mark.also_root
def test_processes_of_runsc_lack_the_environment_of_the_caller(usernsctl: Program) -> None:
    env = {"PATH": "/usr/bin:/bin", "SECRET": SECRET}
    with subprocess.Popen(
        [usernsctl.path, "run", "--", "sh", "-c", "echo; read line"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.read(1) == b"\n"
        runsc = children_of(process.pid)
        below = [pid for parent in runsc for pid in children_of(parent)]
        pids = [process.pid, *runsc, *below]
        environments = [Path(f"/proc/{pid}/environ") for pid in pids]
        assert (len(runsc), len(below)) == (1, 2)
        assert all(SECRET.encode() not in file.read_bytes() for file in environments)
        process.communicate(b"\n", timeout=30)


@pytest.fixture
def fake_runsc(stand_in: Callable[[str], None]) -> None:
    stand_in(FAKE_RUNSC)


@pytest.mark.usefixtures("fake_runsc")
def test_runsc_without_a_sandbox_is_detected(usernsctl: Program) -> None:
    done = usernsctl("run", "--", "echo", "I ran")
    assert done.returncode == 125
    assert done.stdout == ""
    assert "this kernel is not gVisor's" in done.stderr


@pytest.mark.usefixtures("fake_runsc")
def test_no_verify_skips_the_check_of_the_kernel(usernsctl: Program) -> None:
    """Check that --no-verify lets a fake runsc run, because no other check detects the fake."""
    done = usernsctl("run", "--no-verify", "--", "/bin/echo", "I ran")
    assert (done.returncode, done.stdout) == (0, "I ran\n")


@as_root
def test_check_of_the_kernel_works_as_any_user(usernsctl: Program) -> None:
    maps = ["--map-users", "1:100001:9", "--map-groups", "1:100001:9"]
    done = usernsctl("run", *maps, "--user", "5:7", "--", "id")
    assert "uid=5" in done.stdout, done.stderr
    assert "gid=7" in done.stdout
