"""Tests of the errors of `usernsctl run`, and of the cleanup after failed runs."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from callers import as_root
from conftest import TESTS, Program
from processes import capture, causes_in, umask
from strangers import LIST_WITH_ANOTHER

import usernsctl as un

BREAK = TESTS / "kernel" / "causes" / "broken.py"

ARGUMENTS = [
    # Tuples of arguments of `usernsctl run`, the exit status, and a part of the error message.
    (
        ["--bind", "/nonexistent", "--", "true"],
        125,
        "--bind /nonexistent: /nonexistent does not exist on this machine\n  why: ",
    ),
    (
        ["--bind", "/nonexistent", "--", "true"],
        125,
        "[bind-source-missing]\n  remedy: give an existing path of this machine as SRC",
    ),
    (["--bind", "/etc:/b,rw", "--", "true"], 125, "did you mean '/etc:/b:rw'?"),
    (["--bind", "/etc:relative", "--", "true"], 125, "must be an absolute path, and SRC and"),
    (["--bind", "/etc/passwd/", "--", "true"], 125, "/etc/passwd/ is not a directory\n"),
    (["--bind", "/etc:/a:b", "--", "true"], 125, "'/etc:/a:b' is not SRC[:DST][:ro|rw]"),
    (["--bind", "/etc:/", "--", "true"], 125, "an absolute path other than /"),
    (["--bind", "/etc/passwd:/opt", "--", "true"], 125, " and can't be mounted on /opt"),
    (["--bind", "/etc:/etc/passwd/x", "--", "true"], 125, "/etc/passwd/x can't be created"),
    (["--user", "m e", "--", "true"], 125, "'m e' is not UID[:GID]"),
    (["--network", "sandbox", "--", "true"], 125, "runsc-rootless-netstack"),
    (["--network", "bridge", "--", "true"], 125, "'bridge' is not none, host or private"),
    (["--platform", "xen", "--", "true"], 125, "'xen' is not systrap, ptrace or kvm"),
    (
        ["--rootfs", "/nonexistent", "--", "true"],
        125,
        "[rootfs-missing]\n  remedy: name a directory of this machine",
    ),
    (
        ["--rootfs", "/usr/lib", "--", "sh"],
        127,
        "[command-not-found]\n  remedy: name an existing program",
    ),
    (["--rootfs", "/usr/lib", "--", "/bin/sh"], 127, "'/bin/sh' was not found in the sandbox"),
    (["--rootfs", "/etc/passwd", "--", "true"], 125, "/etc/passwd is not a directory"),
    (["--rootfs", "/usr", "--expose-root", "--", "true"], 125, "exclude each other"),
    (["--bundle", "/nonexistent"], 125, "/nonexistent"),
    (["--bundle", "/usr"], 125, "config.json"),
    (["--env", "NO_SUCH_VARIABLE", "--", "true"], 125, "NO_SUCH_VARIABLE is not set"),
    (["--env", "NAME:value", "--", "true"], 125, "in place of =; write NAME=VALUE"),
    (["--env", "=x", "--", "true"], 125, "the name before the = is missing"),
    (
        ["--env-file", "/nonexistent", "--", "true"],
        125,
        "/nonexistent: No such file or directory\n  remedy: name a file that you may read",
    ),
    (["--rlimit", "speed=1", "--", "true"], 125, "'speed' is not a resource limit"),
    (["--rlimit", "nofile=2:1", "--", "true"], 125, "the soft limit is above the hard limit"),
    (["--rlimit", "nofile=many", "--", "true"], 125, "numbers or 'unlimited'"),
    (["--wd", "/nonexistent", "--", "true"], 125, "--wd /nonexistent"),
    (["--wd", "relative", "--", "true"], 125, "path\n  remedy: give the directory's absolute path"),
    (
        ["--terminal", "--", "true"],
        125,
        "--terminal needs a terminal as standard input, output and error",
    ),
    (["--root", "/proc/nonexistent", "--", "true"], 125, "/proc/nonexistent"),
    (["--map-users", "0:0:0", "--", "true"], 125, "0:0:0"),
    (["--no-such-option", "--", "true"], 125, "--no-such-option"),
    ([], 125, "no command"),
    (["--", ""], 125, "the command is an empty string"),
    (["--", "/etc/passwd"], 126, "not executable"),
    (["--", "/etc"], 126, "exec: /etc is a directory, not a program\n"),
    (["--", "/etc"], 126, "[command-not-executable]\n  remedy: name a program, such as a file in"),
    (["--wd", "/usr", "--", "./lib"], 126, "exec: /usr/lib is a directory"),
    (["--", "/home"], 126, "exec: /home is a directory"),
    (["--", "/nonexistent"], 127, "'/nonexistent' was not found"),
    (["--", "no-such-command"], 127, "'no-such-command' was not found along PATH"),
    (["--", "/tmp/nonexistent"], 127, "not found in the sandbox"),
    # Only gVisor's /proc shows whether these files exist, so usernsctl-verify checks them in the
    # sandbox.
    (["--", "/proc/nonexistent"], 127, "/proc/nonexistent: not found in the sandbox"),
    (["--", "/proc/version"], 126, "/proc/version: not executable"),
]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set TMPDIR and XDG_RUNTIME_DIR to a new directory; return the directory.

    Failed runs must leave this directory empty.
    """
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("arguments", "status", "message"), ARGUMENTS)
@pytest.mark.sampled(15)
def test_invalid_arguments_fail_and_leave_no_file(
    usernsctl: Program, scratch: Path, arguments: list[str], status: int, message: str
) -> None:
    before = set(os.listdir("/tmp"))
    done = usernsctl("run", *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(scratch.iterdir()) == []
    assert not [n for n in set(os.listdir("/tmp")) - before if "runsc" in n]


def cause_in(said: str) -> str | None:
    """Return the id of the cause in an error message."""
    return next(iter(causes_in(said)), None)


@as_root
def test_symlink_of_another_user_is_refused(usernsctl: Program, tmp_path: Path) -> None:
    for name in ("target", "public"):
        (tmp_path / name).mkdir()
    (tmp_path / "target" / "env").write_text("A=b\n")
    link = tmp_path / "public" / "link"
    link.symlink_to(tmp_path / "target")
    os.lchown(link, 65534, 65534)
    for options in (
        ["--bind", f"{link}:/data"],
        ["--rootfs", str(link)],
        ["--env-file", f"{link}/env"],
        ["--root", f"{link}/state"],
        ["--debug-log", f"{link}/log"],
    ):
        done = usernsctl("run", *options, "--", "true")
        assert done.returncode == 125
        assert f"the symbolic link {link} belongs to uid 65534" in done.stderr
        assert cause_in(done.stderr) == "foreign-link"
    assert os.listdir(tmp_path / "target") == ["env"]


@pytest.mark.parametrize("option", ["--root", "--debug-log"])
def test_directory_writable_by_others_is_refused(
    usernsctl: Program, tmp_path: Path, option: str
) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o777)
    (public / "there").mkdir()
    for name in (".", "there", "new/below"):
        done = usernsctl("run", option, str(public / name), "--", "true")
        assert done.returncode == 125
        assert f"others may write to {public}," in done.stderr
        assert cause_in(done.stderr) == "directory-writable-by-others"
    assert os.listdir(public) == ["there"]
    # Check that the sticky bit suffices: with it, only a file's owner may rename the file
    # (inode(7)).
    public.chmod(0o1777)
    assert usernsctl("run", option, str(public / "new"), "--", "true").returncode == 0


@as_root
@pytest.mark.parametrize("option", ["--root", "--debug-log"])
@pytest.mark.parametrize(("gid", "has_list"), [(12345, False), (12345, True), (12346, False)])
def test_directory_of_the_user_private_group_is_trusted(
    usernsctl: Program, option: str, gid: int, has_list: bool
) -> None:
    """Check who may write to the parent directory: the owner and the user private group.

    This group's gid is equal to the owner's uid.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.chown(directory, 12345, gid)
        directory.chmod(0o775)
        if has_list:
            os.setxattr(directory, *LIST_WITH_ANOTHER)
        caller = ["setpriv", "--reuid=12345", f"--regid={gid}", "--clear-groups"]
        args = ["run", option, str(directory / "new"), "--", "true"]
        done = capture([*caller, usernsctl.path, *args], env={"PATH": "/usr/bin:/bin"})
        if gid == 12345 and not has_list:
            assert (done.returncode, done.stderr) == (0, "")
        else:
            assert done.returncode == 125
            assert cause_in(done.stderr) == "directory-writable-by-others"


def test_doctor_names_a_kernel_without_open_tree(usernsctl: Program) -> None:
    """Check the cause that is reported if a seccomp filter denies open_tree(2) and move_mount(2).

    Old kernels lack these calls, and old seccomp profiles deny them.
    """
    way = "seccomp-mount-bind"
    done = capture([sys.executable, BREAK, way, "--", usernsctl.path, "run", "--", "true"])
    assert done.returncode == 125
    assert cause_in(done.stderr) == "mount-by-descriptor-missing"


@pytest.mark.parametrize("closed", [">&-", "<&- >&-"])
@pytest.mark.sampled(1)
def test_landlock_is_named_for_closed_standard_output(usernsctl: Program, closed: str) -> None:
    # The ruleset denies writing to all files, also to /dev/null in place of standard output.
    run = f"{usernsctl.path} run -- true {closed}"
    done = capture([sys.executable, BREAK, "landlock", "--", "sh", "-c", run])
    assert done.returncode == 125
    assert cause_in(done.stderr) == "landlock"


def test_run_works_with_umask_0777(usernsctl: Program, tmp_path: Path) -> None:
    state, log, data = tmp_path / "a" / "state", tmp_path / "log", tmp_path / "data"
    data.mkdir()
    options = ["--root", str(state), "--debug-log", str(log), "--bind", f"{data}:/data:rw"]
    done = capture(
        [usernsctl.path, "run", *options, "--", "sh", "-c", "echo ran >/data/file; umask"],
        umask=0o777,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0022\n", "")
    assert [path.stat().st_mode & 0o777 for path in (state.parent, state, log)] == [0o700] * 3
    assert (data / "file").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def umask_0777(tmp_path: Path) -> Iterator[None]:
    """Set the umask to 0777, after pytest has created `tmp_path`."""
    assert tmp_path.exists()
    with umask(0o777):
        yield


@pytest.mark.usefixtures("umask_0777")
def test_sandbox_and_template_work_with_umask_0777(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo R; read x"]
    with un.SandboxHost() as host, host.template(command, ready="R") as template:
        template.save(tmp_path / "saved")
        with template.start(stdin=un.PIPE) as box:
            assert box.run(["true"]).returncode == 0
    saved = un.Template.load(tmp_path / "saved")
    with saved as template, template.start(stdin=un.PIPE) as box:
        assert box.run(["true"]).returncode == 0


@pytest.mark.usefixtures("umask_0777")
def test_sandbox_with_a_terminal_works_with_umask_0777() -> None:
    with un.Sandbox(["test", "-t", "0"], terminal=True) as box:
        assert box.wait(60) == 0


@pytest.mark.parametrize("options", [["--bind", "."], ["--wd", "."], ["--bundle", "."]])
def test_removed_current_directory_is_named(
    usernsctl: Program, tmp_path: Path, options: list[str]
) -> None:
    code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    run = [usernsctl.path, "run", *options, *([] if "--bundle" in options else ["--", "true"])]
    done = capture([sys.executable, "-c", code, *run], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        "usernsctl: getcwd: the current directory was removed, so relative paths have no meaning\n"
        "  remedy: change to an existing directory: cd /\n"
    )


def test_absolute_paths_are_valid_in_a_removed_current_directory(
    usernsctl: Program, tmp_path: Path
) -> None:
    (tmp_path / "removed").mkdir()
    (tmp_path / "source").write_text("content")
    code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    options = [f"--bind={tmp_path}/source:/tmp/bound", f"--debug-log={tmp_path}/log"]
    options.append(f"--result={tmp_path}/result")
    run = [usernsctl.path, "run", *options, "--", "cat", "/tmp/bound"]
    done = capture([sys.executable, "-c", code, *run], cwd=tmp_path / "removed")
    assert (done.returncode, done.stdout, done.stderr) == (0, "content", "")
    assert json.loads((tmp_path / "result").read_text())["status"] == 0
    assert os.listdir(tmp_path / "log")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"process": {,', "line 1, column 14"),
        ('{"process": {"args": "true"}, "root": {"path": "rootfs"}}', "$.process.args"),
        ('{"process": {"args": ["true"]}}', "$.root"),
        ('{"process": {"args": ["true"]}, "root": {"path": "rootfs"}}', "rootfs-missing"),
        ("[]", "$"),
    ],
)
def test_invalid_bundle_is_refused(
    usernsctl: Program, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    done = usernsctl("run", "--bundle", str(tmp_path))
    assert done.returncode == 125
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_missing_bind_source_of_a_bundle_is_reported(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    mount = {"destination": "/a", "type": "bind", "source": "absent"}
    config = {"process": {"args": ["x"]}, "root": {"path": "rootfs"}, "mounts": [mount]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = usernsctl("run", "--bundle", str(tmp_path))
    assert done.returncode == 125
    assert "$.mounts[0].source" in done.stderr
    assert list((tmp_path / "rootfs").iterdir()) == []


def test_arguments_that_are_not_utf8_are_refused(usernsctl: Program) -> None:
    done = usernsctl("run", "--", "printf", os.fsdecode(b"a\xff"))
    assert done.returncode == 125
    first, remedy = done.stderr.splitlines()
    assert first.endswith(
        r"argument 1 of the command is not UTF-8, as gVisor's config.json must be: a\xff"
    )
    assert remedy.startswith("  remedy: usernsctl run -- sh -c ")


def test_error_suggests_a_bind_mount_for_a_missing_command(
    usernsctl: Program, tmp_path: Path
) -> None:
    tool = tmp_path / "venv" / "bin" / "tool"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\necho I ran\n")
    tool.chmod(0o755)
    env = {"PATH": f"{tool.parent}:/usr/bin:/bin"}
    refused = usernsctl("run", "--", "tool", env=env)
    assert refused.returncode == 127
    option = f"--bind {tmp_path / 'venv'}"
    assert option in refused.stderr
    assert usernsctl("run", *option.split(), "--", "tool", env=env).stdout == "I ran\n"


def test_error_suggests_a_bind_mount_for_an_interpreter(usernsctl: Program, tmp_path: Path) -> None:
    """Check that --bind is suggested for an interpreter to which a virtual environment links."""
    venv, python = tmp_path / "venv", tmp_path / "python" / "bin" / "python"
    for directory in (venv, python.parent):
        directory.mkdir(parents=True)
    python.symlink_to("/bin/sh")
    (venv / "python").symlink_to(python)
    (venv / "tool").write_text(f"#!{venv}/python\necho I ran\n")
    (venv / "tool").chmod(0o755)
    refused = usernsctl("run", "--bind", str(venv), "--", str(venv / "tool"))
    assert refused.returncode == 126
    assert f"which leads to {python}" in refused.stderr
    option = f"--bind {tmp_path / 'python'}"
    assert option in refused.stderr
    done = usernsctl("run", "--bind", str(venv), *option.split(), "--", str(venv / "tool"))
    assert done.stdout == "I ran\n"


@pytest.mark.parametrize(
    ("runsc", "cause"),
    [
        ("/nonexistent/runsc", "runsc-missing"),
        ("/etc/passwd", "runsc-not-executable"),
        ("/usr", "not-runsc"),
        ("/bin/true", "not-runsc"),
    ],
)
def test_invalid_runsc_is_refused(
    usernsctl: Program, monkeypatch: pytest.MonkeyPatch, runsc: str, cause: str
) -> None:
    monkeypatch.setenv("USERNSCTL_RUNSC", runsc)
    done = usernsctl("run", "--", "true")
    assert done.returncode == 125
    assert f"[{cause}]" in done.stderr
    assert cause == "runsc-not-executable" or "apt install runsc" in done.stderr


CRASHING_RUNSC = """#!/bin/sh
case $* in
    *--version*) echo runsc version release-0 ;;
    *) echo 'fatal error: newosproc' >&2; exit 2 ;;
esac
"""


@pytest.fixture
def crashing_runsc(stand_in: Callable[[str], None]) -> None:
    stand_in(CRASHING_RUNSC)


@pytest.mark.usefixtures("crashing_runsc")
def test_crash_of_runsc_is_reported_as_such(usernsctl: Program) -> None:
    done = usernsctl("run", "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    said, *ours = done.stderr.splitlines()
    assert said == "fatal error: newosproc"
    why = "runsc crashed or rejected an option; the message is on standard error"
    assert ours[0] == f"usernsctl: runsc: {why}"
    assert ours[1:3] == ["  remedy:", "    usernsctl explain    # with the message as input"]


def test_option_rejected_by_runsc_is_reported(
    usernsctl: Program, stand_in: Callable[[str], None]
) -> None:
    said = "flag provided but not defined: -overlay2"
    stand_in(CRASHING_RUNSC.replace("fatal error: newosproc", said))
    done = usernsctl("run", "--", "true")
    assert done.stderr.startswith(f"{said}\nusernsctl: runsc: runsc crashed or rejected an option;")
    assert "# after a usage message, see runsc --version" in done.stderr
    explained = usernsctl("explain", input=done.stderr)
    assert "runsc-too-old" in explained.stdout


@pytest.mark.usefixtures("crashing_runsc")
def test_host_raises_if_runsc_crashes() -> None:
    with un.SandboxHost() as host, pytest.raises(un.RunscError, match="runsc crashed"):
        host.start(["true"])


@pytest.mark.parametrize("status", [2, 128])
def test_exit_status_2_or_128_of_a_command_is_kept(usernsctl: Program, status: int) -> None:
    done = usernsctl("run", "--", "sh", "-c", f"exit {status}")
    assert (done.returncode, done.stderr) == (status, "")


def test_bind_mount_of_the_state_directory_is_refused(usernsctl: Program, runtime: Path) -> None:
    with pytest.raises(un.BindError, match=f"{runtime} can't be bind-mounted") as caught:
        un.SandboxHost(binds=[un.Bind(str(runtime), "/data")])
    assert caught.value.cause == "bind-shows-state"
    done = usernsctl("run", "--bind", str(runtime), "--", "true", env=dict(os.environ))
    assert done.returncode == 125
    assert "[bind-shows-state]" in done.stderr
    (runtime / "beside").mkdir()
    bind = f"{runtime / 'beside'}:/data"
    assert usernsctl("run", "--bind", bind, "--", "true", env=dict(os.environ)).returncode == 0


@pytest.mark.parametrize("source", ["/proc", "/sys", "/proc/sys/vm", "/proc/self/mem", "/"])
def test_writable_bind_mounts_of_kernel_filesystems_are_refused(
    usernsctl: Program, source: str
) -> None:
    done = usernsctl("run", "--bind", f"{source}:/data:rw", "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    cause = "bind-writes-machine"
    assert f"[{cause}]" in done.stderr
    assert source in done.stderr


@pytest.mark.parametrize("option", ["--root", "--debug-log"])
@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_bind_mounts_of_state_or_logs_are_refused(
    usernsctl: Program, tmp_path: Path, option: str, mode: str
) -> None:
    bind = f"{tmp_path}:/data:{mode}"
    done = usernsctl("run", option, tmp_path / "own", "--bind", bind, "--", "true")
    assert done.returncode == 125
    assert "[bind-shows-state]" in done.stderr
    (tmp_path / "beside").mkdir()
    bind = f"{tmp_path / 'beside'}:/data:{mode}"
    usernsctl.check_output("run", option, tmp_path / "own", "--bind", bind, "--", "true")


@pytest.mark.parametrize(("kind", "name"), [(stat.S_IFIFO, "a FIFO"), (stat.S_IFSOCK, "a socket")])
def test_fifo_or_socket_as_mount_point_is_refused(
    usernsctl: Program, tmp_path: Path, kind: int, name: str
) -> None:
    """Check that a FIFO or socket is rejected as mount point: opening a FIFO would block runsc."""
    root, place = tmp_path / "root", tmp_path / "root" / "place"
    root.mkdir()
    os.mknod(place, kind | 0o755)
    options = ["--rootfs", str(root), "--bind", "/etc/passwd:/place", "--bind", "/bin:/bin"]
    done = usernsctl("run", *options, "--", "/bin/true")
    assert done.returncode == 125
    assert f"/place is {name}, and gVisor can't mount anything on it" in done.stderr


@pytest.mark.parametrize("target", ["/", "/.usernsctl-verify"])
def test_symlink_to_a_reserved_path_as_mount_point_is_refused(
    usernsctl: Program, tmp_path: Path, target: str
) -> None:
    """Check that a mount point that is a symbolic link to / or usernsctl-verify is rejected.

    A file mounted over usernsctl-verify would be executed in its place.
    """
    root = tmp_path / "root"
    root.mkdir()
    (root / "place").symlink_to(target)
    source = "/usr" if target == "/" else "/bin/true"
    options = ["--rootfs", str(root), "--bind", f"{source}:/place", "--bind", "/bin:/bin"]
    done = usernsctl("run", *options, "--", "/bin/true")
    assert done.returncode == 125
    assert f"/place leads to {target} in the sandbox, and nothing may be mounted" in done.stderr


@as_root
def test_device_as_mount_point_is_refused(usernsctl: Program, tmp_path: Path) -> None:
    root, place = tmp_path / "root", tmp_path / "root" / "place"
    root.mkdir()
    os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    options = ["--rootfs", str(root), "--bind", "/etc/passwd:/place", "--bind", "/bin:/bin"]
    done = usernsctl("run", *options, "--", "/bin/true")
    assert done.returncode == 125
    assert "/place is a device, and gVisor can't mount anything on it" in done.stderr


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """Return a directory with mode 0700 that belongs to another user."""
    made = tmp_path / "closed"
    (made / "inside").mkdir(parents=True)
    os.chown(made, 12345, 12345)
    made.chmod(0o700)
    return made


@as_root
@pytest.mark.parametrize("option", ["--bind", "--rootfs"])
def test_root_learns_why_a_closed_directory_can_not_be_mounted(
    usernsctl: Program, closed: Path, option: str
) -> None:
    done = usernsctl("run", option, closed / "inside", "--", "/bin/true")
    assert done.returncode == 125
    assert done.stderr.startswith(f"usernsctl: sandbox: {closed}/inside, in the new mount name")
    assert "[path-closed-inside]" in done.stderr
    with pytest.raises(un.NamespaceError) as caught:
        un.SandboxHost(binds=[f"{closed}/inside:/data"])
    assert caught.value.cause == "path-closed-inside"


@as_root
@pytest.mark.parametrize(
    "words",
    [
        ["run", "--", "true"],
        ["run", "--log", "json", "--", "true"],
        ["template", "create", "one", "--ready", "READY", "--", "true"],
        ["doctor"],
    ],
)
def test_root_learns_why_usernsctl_in_a_closed_directory_fails(
    closed: Path, words: list[str]
) -> None:
    """Check that an error names the cause if root runs usernsctl from another user's home."""
    script = 'mount --bind "$1" "$2"; at=$2; shift 2; exec "$at/bin/python" -m usernsctl "$@"'
    moved = ["unshare", "--mount", "sh", "-c", script, "sh", sys.prefix, str(closed / "inside")]
    done = capture([*moved, *words])
    assert done.returncode == (1 if words == ["doctor"] else 125)
    assert "path-closed-inside" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
