"""Tests of the images' entrypoint: options and environment variables that it accepts or rejects."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SCRIPTS, Program, children
from processes import capture, children_of, status_of

ENTRYPOINT = SCRIPTS / "usernsctl-entrypoint"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def in_gvisor(tmp_path: Path) -> Program:
    program = tmp_path / "in-gvisor"
    program.symlink_to(ENTRYPOINT)
    return Program(program)


@pytest.fixture
def command_line(tmp_path: Path) -> Program:
    program = tmp_path / "usernsctl"
    program.symlink_to(ENTRYPOINT)
    return Program(program)


def test_the_entrypoint_is_static() -> None:
    """Check that the entrypoint is static: a dynamic program would load a tenant's LD_PRELOAD.

    A dynamic program has a PT_INTERP header (elf(5)).
    """
    done = capture(["readelf", "--program-headers", ENTRYPOINT])
    assert "LOAD" in done.stdout
    assert "INTERP" not in done.stdout


def test_the_command_has_the_whole_environment(in_gvisor: Program) -> None:
    given = {
        "PATH": "/nowhere:/usr/bin",
        "LINES": "one\ntwo\n",
        "EMPTY": "",
        "LONG": "x" * 100_000,
        "LD_PRELOAD": "/nowhere.so",
        "USERNSCTL_RUNSC": "/nowhere",
    }
    done = in_gvisor("--", "/usr/bin/env", "-0", env=given, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    found = dict(entry.split("=", 1) for entry in done.stdout.rstrip("\0").split("\0"))
    assert {name: found.get(name) for name in given} == given


def test_a_variable_that_is_not_utf8_is_refused(in_gvisor: Program) -> None:
    """Check that environment variables must be UTF-8, because config.json must be UTF-8."""
    done = in_gvisor("--", "true", env={"BYTES": os.fsdecode(b"caf\xe9")}, cwd=Path("/"))
    assert (done.returncode, done.stdout) == (125, "")
    assert "UTF-8" in done.stderr


@pytest.mark.parametrize("name", ["in-gvisor", "usernsctl"])
def test_outer_processes_do_not_hold_the_environment(name: str, tmp_path: Path) -> None:
    program = tmp_path / name
    program.symlink_to(ENTRYPOINT)
    args = ["run", "--env-all"] if name == "usernsctl" else []
    with subprocess.Popen(
        [program, *args, "--", "sh", "-c", "echo ready; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"SECRET": "of the tenant", "PATH": "/usr/bin", "TERM": "xterm"},
        cwd="/",
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert process.pid in children()
        assert Path(f"/proc/{process.pid}/environ").read_text() == f"PATH={PATH}\0"
        opened = [os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert not [one for one in opened if "memfd" in one]
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0


READY = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done"


def test_process_1_of_a_user_namespace_stays_outside(in_gvisor: Program, prelude: Program) -> None:
    """Check that PID 1 stays in the container's namespaces, in which Docker runs health checks."""
    container = [prelude.path, "-rmpf", "--mount-proc", "--"]
    with subprocess.Popen(
        [*container, in_gvisor.path, "--network=none", "--", "sh", "-c", READY],
        stdout=subprocess.PIPE,
        env={"SECRET": "of the tenant", "PATH": "/usr/bin"},
        cwd="/",
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (first,) = children_of(process.pid)
        (second,) = children_of(first)
        assert status_of(first)["NSpid"].split()[-1] == "1"
        assert Path(f"/proc/{first}/environ").read_text().strip("\0") == ""
        assert os.readlink(f"/proc/{first}/ns/mnt") != os.readlink(f"/proc/{second}/ns/mnt")
        os.kill(first, signal.SIGTERM)
        assert process.wait(60) == 9
        assert process.stdout.read() == b"caught\n"


def test_host_name_and_cwd_of_the_container_are_kept(in_gvisor: Program) -> None:
    done = in_gvisor("--", "sh", "-c", "hostname; pwd", cwd=Path("/usr/share"))
    assert done.stdout == f"{socket.gethostname()}\n/usr/share\n", done.stderr


def test_options_after_the_command_are_passed_to_it(in_gvisor: Program) -> None:
    done = in_gvisor("--network=none", "echo", "--network=host", "--", "-h", cwd=Path("/"))
    assert (done.returncode, done.stdout) == (0, "--network=host -- -h\n"), done.stderr


@pytest.mark.parametrize(("options", "status"), [([], 143), (["--reraise-signal"], -15)])
def test_reraise_signal_kills_the_entrypoint_too(
    in_gvisor: Program, options: list[str], status: int
) -> None:
    done = in_gvisor(*options, "--", "sh", "-c", "kill -TERM $$", cwd=Path("/"))
    assert (done.returncode, done.stderr) == (status, "")


def test_network_none_leaves_only_loopback(in_gvisor: Program) -> None:
    done = in_gvisor("--network=none", "--", "cat", "/proc/net/dev", cwd=Path("/"))
    devices = [line.split(":")[0].strip() for line in done.stdout.splitlines() if ":" in line]
    assert devices == ["lo"], done.stderr


@pytest.mark.parametrize(
    ("user", "ids"),
    [("1000:1001", "1000 1001"), ("7", "7 7"), ("games", "5 60"), ("games:tty", "5 5")],
)
def test_user_option_sets_uid_and_gid(in_gvisor: Program, user: str, ids: str) -> None:
    done = in_gvisor(f"--user={user}", "--", "sh", "-c", 'echo "$(id -u) $(id -g)"', cwd=Path("/"))
    assert (done.stdout, done.stderr) == (f"{ids}\n", "")


@pytest.mark.parametrize(
    "name", ["x" * 100_000, "a\nb", "a\x1b[2Jb", "\N{RIGHT-TO-LEFT OVERRIDE}a"]
)
def test_hostile_user_names_are_refused_in_one_line(in_gvisor: Program, name: str) -> None:
    done = in_gvisor(f"--user={name}", "--", "true", cwd=Path("/"))
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("usernsctl: in-gvisor: --user=")
    assert done.stderr.endswith(
        ": the value must be UID[:GID] or NAME[:GROUP], ids from 0 to 4294967294\n"
    )
    assert done.stderr[:-1].isprintable()
    assert len(done.stderr) < 400


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (
            ["--network=some", "--", "true"],
            "--network=some: the value must be host, none or private",
        ),
        (["--ids=two", "--", "true"], "--ids=two: the value must be one or all"),
        *(
            ([f"--user={user}", "--", "true"], f"--user={user}: the value must be UID[:GID]")
            for user in (
                "-1",
                "4294967295",
                "1:-1",
                "",
                ":",
                "1:",
                "00000000001",
                "1:2:3",
                "+app",
                "a b",
                "a/b",
            )
        ),
        (["--runsc=runsc", "--", "true"], "--runsc=runsc: the value must be an absolute path"),
        (["--runsc=/nowhere", "--", "true"], "/nowhere does not exist"),
        (["--expose", "--", "true"], "--expose is not an option"),
        ([f"--{'x' * 600}"], "x... is not an option, or lacks its value: in-gvisor --help"),
        (["--network"], "--network is not an option, or lacks its value"),
        (["-x", "true"], "-x is not an option"),
        (["-xV"], "in-gvisor: -x is not an option"),
        (["--network=none", "-xV", "true"], "in-gvisor: -x is not an option"),
        (["-nV"], "in-gvisor: -n is not an option"),
        (["-\u20acV"], "in-gvisor: -? is not an option"),
        (["--help=x"], "in-gvisor: --help=x is not an option"),
        (["--check", "--runsc=/usr/bin/runsc"], "--check with --runsc: the launch that --check"),
        (["--check"], "/etc/usernsctl/launch: No such file"),
        (["--"], "no command"),
        ([], "no command"),
    ],
)
def test_invalid_options_are_refused(args: list[str], told: str, in_gvisor: Program) -> None:
    done = in_gvisor(*args, cwd=Path("/"))
    assert (done.returncode, done.stdout) == (125, "")
    assert told in done.stderr


@pytest.mark.parametrize("name", ["USERNSCTL_NETWORK", "USERNSCTL_IDS"])
def test_obsolete_variables_are_refused(name: str, in_gvisor: Program) -> None:
    """Check that an obsolete environment variable, which denied the network, is rejected."""
    done = in_gvisor("--", "true", env={name: "none"}, cwd=Path("/"))
    assert (done.returncode, done.stdout) == (125, "")
    assert f"{name} is set, but has no effect" in done.stderr


def test_help_and_version_are_printed(in_gvisor: Program) -> None:
    done = in_gvisor("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: in-gvisor [OPTIONS]")
    assert in_gvisor("--version").stdout.startswith("in-gvisor ")
    with open("/dev/full", "w") as full:
        done = subprocess.run([in_gvisor.path, "--help"], stdout=full, timeout=60)
    assert done.returncode == 125


def test_entrypoint_named_usernsctl_is_the_command_line(command_line: Program) -> None:
    assert command_line("--version").stdout.startswith("usernsctl")
    done = command_line("exec", "-r", "--", "/usr/bin/env", env={"SOME": "thing"})
    assert done.stdout == "SOME=thing\n", done.stderr
    done = command_line("run", "--env", "SOME", "--", "printenv", "SOME", env={"SOME": "thing"})
    assert done.stdout == "thing\n", done.stderr


def test_closed_standard_streams_do_not_become_the_environment(in_gvisor: Program) -> None:
    """Check that in-gvisor runs the command, or fails with status 125, without standard streams.

    Files that in-gvisor opens can then get the descriptors 0, 1 and 2.
    """
    close = f"exec {in_gvisor.path} -- sh -c 'exit 7' <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", close], cwd="/", timeout=60)
    assert done.returncode in (7, 125)


def test_a_missing_native_program_is_reported(tmp_path: Path) -> None:
    (tmp_path / "in-gvisor").write_bytes(ENTRYPOINT.read_bytes())
    (tmp_path / "in-gvisor").chmod(0o755)
    done = Program(tmp_path / "in-gvisor")("--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == f"usernsctl: {tmp_path}/usernsctl-exec: No such file or directory\n"


@pytest.fixture
def without_python(tmp_path: Path) -> Path:
    """Copy only the native programs, as in an image without Python; return their directory."""
    made = tmp_path / "usernsctl" / "bin"
    made.mkdir(parents=True)
    for name in ("usernsctl-entrypoint", "usernsctl-exec"):
        shutil.copy(SCRIPTS / name, made)
    for name in ("in-gvisor", "usernsctl"):
        (made / name).symlink_to("usernsctl-entrypoint")
    return made


def test_profiles_are_printed_without_python(without_python: Path) -> None:
    share = without_python.parent / "share"
    share.mkdir()
    printed = Program(without_python / "usernsctl")
    for name in ("seccomp-profile", "apparmor-profile"):
        (share / name).write_text("x" * 100_000 + name)
        done = printed(name)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (share / name).read_text()
        (share / name).unlink()
        done = printed(name)
        assert (done.returncode, done.stdout) == (125, "")
        assert f"share/{name}: No such file" in done.stderr
    for args in (["doctor"], [], ["run", "--", "true"], ["seccomp-profile", "x"]):
        done = printed(*args)
        assert (done.returncode, done.stdout) == (125, "")
        assert "this image has no Python" in done.stderr
        assert "prelude-python" in done.stderr


def test_a_launch_file_is_required_without_python(without_python: Path) -> None:
    """Check that in-gvisor fails if there is neither Python nor a launch file in /etc/usernsctl."""
    program = Program(without_python / "in-gvisor")
    for args, file in (
        (["--", "true"], "launch"),
        (["--network=none", "true"], "launch.no-network"),
        (["--network=private", "true"], "launch.private-network"),
        (["--network=private", "--ids=all", "--check"], "launch.private-network.all-ids"),
        (["--ids=all", "--check"], "launch.all-ids"),
        (["--ids=all", "--network=none", "true"], "launch.no-network.all-ids"),
    ):
        done = program(*args)
        assert (done.returncode, done.stdout) == (125, "")
        private = f"there is no /etc/usernsctl/{file}: freeze one with --network private"
        plain = f"/etc/usernsctl/{file}: No such file"
        assert (private if "private" in file else plain) in done.stderr
    done = program("--runsc=/usr/bin/runsc", "--", "true")
    assert done.returncode == 125
    assert "leave out --runsc, or freeze a launch with this --runsc" in done.stderr


def test_invalid_environ_fd_is_refused() -> None:
    args = [sys.executable, "-I", str(SCRIPTS / "usernsctl")]
    for wrong in ("99", "0", "x", "-1"):
        done = capture([*args, f"--environ-fd={wrong}", "run", "--", "true"])
        assert done.returncode == 125
        assert "--environ-fd" in done.stderr
        assert "Traceback" not in done.stderr
