"""Tests of resolving paths and looking up commands as a sandbox would."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from callers import unprivileged
from conftest import open_descriptors

from usernsctl._system.paths import open_program
from usernsctl.errors import (
    CommandError,
    CommandNotADirectoryError,
    CommandNotExecutableError,
    CommandNotFoundError,
)
from usernsctl.gvisor.launch import view as command
from usernsctl.gvisor.launch.view import COMMAND_LINE, PYTHON, Remedies, View, Walk
from usernsctl.gvisor.runsc.command import DEFAULT_PATH
from usernsctl.maps import Extent, MappedIds

# Map of a namespace in which only this process's uid and gid are mapped.
OURS = MappedIds(uid=(Extent(0, os.getuid(), 1),), gid=(Extent(0, os.getgid(), 1),), become=(0, 0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    (directory / "usr" / "bin").mkdir(parents=True)
    (directory / "bin").symlink_to("usr/bin")
    (directory / "usr" / "bin" / "tool").write_text("\x7fELF")
    (directory / "usr" / "bin" / "tool").chmod(0o755)
    (directory / "usr" / "bin" / "data").write_text("")
    return directory


@pytest.fixture
def view(root: Path) -> View:
    return View.of_root(open_program(str(root)))


def outside(walk: Walk) -> str:
    return os.readlink(f"/proc/self/fd/{walk.file.fd}")


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/", "/"),
        ("//usr/./bin/", "/usr/bin"),
        ("/bin/tool", "/usr/bin/tool"),
        ("/../../usr", "/usr"),
        ("/bin/..", "/usr"),
        ("tool", "/usr/bin/tool"),
        ("../bin", "/usr/bin"),
    ],
)
def test_existing_paths_are_resolved(view: View, root: Path, path: str, inside: str) -> None:
    walk = view.walk(path, start="/usr/bin")
    assert (walk.inside, walk.missing) == (inside, ())
    assert outside(walk) == str(root / inside.lstrip("/")).rstrip("/")


def test_absolute_symlinks_stay_inside(view: View, root: Path) -> None:
    (root / "link").symlink_to("/usr/bin")
    assert outside(view.walk("/link/tool")) == f"{root}/usr/bin/tool"
    (root / "out").symlink_to("/../../../etc/passwd")
    assert view.walk("/out").wanted == "/etc/passwd"
    assert not view.walk("/out").complete


def test_missing_components_are_returned(view: View) -> None:
    walk = view.walk("/bin/absent/deep")
    assert (walk.inside, walk.missing) == ("/usr/bin", ("absent", "deep"))
    assert view.walk("/bin/tool/x").missing == ("x",)


@pytest.mark.parametrize("end", ["..", "../tool", ".", ""])
def test_path_below_a_file_raises_notadirectoryerror(view: View, root: Path, end: str) -> None:
    (root / "link").symlink_to("usr/bin/tool")
    for path in (f"/bin/tool/{end}", f"/link/{end}"):
        with pytest.raises(NotADirectoryError):
            view.walk(path)


def test_symlink_loop_raises(view: View, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        view.walk("/a")


def test_bind_mounts_are_followed(view: View, tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    for directory in (outer, inner):
        directory.mkdir()
    (inner / "file").touch()
    (outer / "link").symlink_to("/data/in/file")
    view.add_bind("/data", open_program(str(outer)))
    view.add_bind("/data/in", open_program(str(inner)))
    assert outside(view.walk("/data/link")) == f"{inner}/file"


def test_bind_mount_hides_files_below_its_mount_point(view: View, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    view.add_bind("/usr/bin/data/in", open_program(str(tmp_path)))
    view.add_bind("/usr/bin", open_program(str(tmp_path / "empty")))
    assert not view.walk("/bin/tool").complete
    assert outside(view.walk("/bin/data/in/empty")) == f"{tmp_path}/empty"


def check(
    view: View,
    name: str,
    search: str = "/bin",
    remedies: Remedies = COMMAND_LINE,
    **caller: str,
) -> None:
    command.check(name, view, search=search, cwd="/usr", caller=caller, remedies=remedies)


@pytest.mark.parametrize("name", ["tool", "/bin/tool", "bin/tool", "./bin/tool"])
def test_existing_command_is_found(view: View, name: str) -> None:
    check(view, name)


@pytest.mark.parametrize("name", ["/proc/self/exe", "/dev/fd/3"])
def test_commands_in_proc_and_dev_are_not_checked(view: View, name: str) -> None:
    check(view, name)


def test_search_skips_files_that_are_not_executable(view: View, root: Path) -> None:
    (root / "usr" / "data").write_text("\x7fELF")
    (root / "usr" / "data").chmod(0o755)
    check(view, "data", search="/bin:/usr")
    with pytest.raises(CommandNotExecutableError, match="/usr/bin/data"):
        check(view, "data")


def test_directory_is_not_a_command(view: View) -> None:
    with pytest.raises(CommandNotFoundError):
        check(view, "bin", search="/usr")


@pytest.mark.parametrize(
    ("name", "kind", "number", "cause"),
    [
        ("/bin/absent", CommandNotFoundError, errno.ENOENT, "command-not-found"),
        ("absent", CommandNotFoundError, errno.ENOENT, "command-not-found"),
        ("", CommandNotFoundError, errno.ENOENT, "command-not-found"),
        ("/bin/tool/x", CommandNotADirectoryError, errno.ENOTDIR, "command-not-found"),
        ("/bin/tool/.", CommandNotADirectoryError, errno.ENOTDIR, "command-not-found"),
        ("/bin", CommandNotExecutableError, errno.EACCES, "command-not-executable"),
        ("/fifo", CommandNotExecutableError, errno.EACCES, "command-not-executable"),
        ("/loop", CommandError, errno.ELOOP, None),
        ("/" + "x" * 300, CommandError, errno.ENAMETOOLONG, None),
        ("x" * 300, CommandNotFoundError, errno.ENOENT, "command-not-found"),
    ],
)
def test_command_errors_have_class_errno_and_cause(
    view: View, root: Path, name: str, kind: type[CommandError], number: int, cause: str | None
) -> None:
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to("loop")
    with pytest.raises(CommandError) as caught:
        check(view, name, PATH="/nonexistent")
    error = caught.value
    assert type(error) is kind
    assert (error.errno, error.filename, error.cause) == (number, name, cause)
    assert cause is None or error.remedy
    assert error.exit_status == (127 if cause == "command-not-found" else 126)


@unprivileged
@pytest.mark.parametrize("is_root_inside_able", [False, True])
def test_unsearchable_directory_is_reported_unless_root_inside(
    root: Path, is_root_inside_able: bool
) -> None:
    (root / "closed").mkdir(mode=0)
    view = View.of_root(open_program(str(root)), OURS if is_root_inside_able else None)
    check(view, "tool", search="/closed:/bin")
    if is_root_inside_able:
        check(view, "absent", search="/closed:/bin")
        check(view, "/closed/tool")
        command.check_directory(view, "/closed/x", "cwd", None)
        return
    with pytest.raises(CommandNotFoundError):
        check(view, "absent", search="/closed:/bin", PATH="/nonexistent")
    with pytest.raises(CommandNotExecutableError, match="/closed may not be searched"):
        check(view, "/closed/tool")
    with pytest.raises(CommandNotExecutableError, match="/closed may not be searched") as caught:
        command.check_directory(view, "/closed/x", "cwd", None)
    assert caught.value.cause == "cwd-not-searchable"


def test_symlinks_into_proc_are_not_checked(view: View, root: Path) -> None:
    (root / "proc").mkdir()
    (root / "self").symlink_to("/proc/self/cwd")
    check(view, "/self/tool")
    command.check_directory(view, "/self", "cwd", None)


def test_very_deep_paths_are_not_checked(view: View, root: Path) -> None:
    directory = open_program(str(root)).detach()
    for _ in range(300):
        os.mkdir("d", dir_fd=directory)
        above, directory = directory, os.open("d", os.O_PATH | os.O_DIRECTORY, dir_fd=directory)
        os.close(above)
    os.close(directory)
    check(view, "/d" * 300 + "/absent", PATH="/nonexistent")
    command.check_directory(view, "/d" * 300 + "/absent", "cwd", None)


@pytest.mark.parametrize(
    ("cwd", "kind", "number"),
    [
        ("/absent", CommandNotFoundError, errno.ENOENT),
        ("/bin/tool", CommandNotADirectoryError, errno.ENOTDIR),
        ("/bin/tool/x", CommandNotADirectoryError, errno.ENOTDIR),
        ("/bin/tool/..", CommandNotADirectoryError, errno.ENOTDIR),
        ("/loop", CommandError, errno.ELOOP),
        ("usr", CommandError, errno.EINVAL),
    ],
)
def test_invalid_working_directory_raises(
    view: View, root: Path, cwd: str, kind: type[CommandError], number: int
) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(CommandError) as caught:
        command.check_directory(view, cwd, f"cwd={cwd}", None)
    error = caught.value
    assert type(error) is kind
    assert (error.step, error.errno, error.filename) == ("chdir", number, cwd)


def test_remedies_for_python_are_arguments(
    view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job.py").touch()
    monkeypatch.chdir(tmp_path)
    for name, remedy in {
        f"{tmp_path}/job.py": f"binds=['{tmp_path}']",
        "job.py": f"binds=['{tmp_path}'], args=['{tmp_path}/job.py']",
        "tool --all": "args=['tool', '--all']",
    }.items():
        with pytest.raises(CommandNotFoundError) as caught:
            check(view, name, remedies=PYTHON, PATH="/nonexistent")
        assert caught.value.remedy.endswith(remedy)
    assert PYTHON.show("/a:rw") == "binds=[usernsctl.Bind.shown('/a:rw')]"
    assert PYTHON.show("/a", "/b") == "binds=['/a:/b']"
    assert PYTHON.search("/a") == f"env={ {'PATH': f'/a:{DEFAULT_PATH}'} }"


def test_empty_entry_of_path_is_the_current_directory(view: View, root: Path) -> None:
    (root / "usr" / "here").write_text("\x7fELF")
    (root / "usr" / "here").chmod(0o755)
    check(view, "here", search="/bin:")


def test_search_that_takes_long_is_given_up(view: View, root: Path) -> None:
    (root / "usr" / "long").symlink_to("./" * 2000)
    check(view, "absent", search=":".join(["/usr/long"] * 20_000), PATH="/nonexistent")


def test_search_along_path_leaks_no_descriptor(view: View) -> None:
    before = open_descriptors()
    with pytest.raises(CommandNotFoundError) as caught:
        check(view, "absent", search=":".join(["/usr/bin"] * 5000), PATH="/nonexistent")
    # There may be fewer descriptors than before, if the garbage collector closes files of earlier
    # tests.
    assert open_descriptors() <= before
    assert caught.value.cause == "command-not-found"


def test_remedy_binds_the_directory_of_the_command(view: View, tmp_path: Path) -> None:
    tool = tmp_path / "venv" / "bin" / "mine"
    tool.parent.mkdir(parents=True)
    tool.touch(mode=0o755)
    with pytest.raises(CommandNotFoundError) as caught:
        check(view, "mine", PATH=str(tool.parent))
    assert caught.value.remedy == f"add --bind {tmp_path}/venv"
    view.add_bind(str(tmp_path), open_program(str(tmp_path)))
    with pytest.raises(CommandNotFoundError) as caught:
        check(view, "mine", PATH=str(tool.parent))
    # Check that the remedy adds only the command's directory to PATH, not the rest of the caller's
    # PATH.
    assert caught.value.remedy == f"add --env PATH={tool.parent}:{DEFAULT_PATH}"


def test_remedy_names_the_default_path_for_a_program_of_root(view: View) -> None:
    view.add_bind("/usr", open_program("/usr"))
    view.add_bind("/sbin", open_program("/sbin"))
    with pytest.raises(CommandNotFoundError) as caught:
        check(view, "useradd", PATH="/usr/bin:/bin")
    assert caught.value.reason.startswith("'useradd' is /usr/sbin/useradd, but PATH in the sandbox")
    assert caught.value.remedy == f"add --env PATH={DEFAULT_PATH}"


def test_remedy_for_a_host_file_binds_its_directory(
    view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job.py").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("./job.py", f"{tmp_path}/job.py"):
        with pytest.raises(CommandNotFoundError) as caught:
            check(view, name, PATH="/usr/bin")
        assert "is not in the sandbox" in str(caught.value)
        assert caught.value.remedy == f"add --bind {tmp_path}"
    with pytest.raises(CommandNotFoundError) as caught:
        check(view, "job.py", PATH="/usr/bin")
    assert caught.value.remedy is not None
    assert "./job.py" in caught.value.remedy


def test_remedy_for_a_command_line_in_one_argument_is_sh(view: View) -> None:
    with pytest.raises(CommandNotFoundError) as caught:
        check(view, "tool --all; tool", PATH="/usr/bin")
    assert caught.value.remedy is not None
    assert "sh -c 'tool --all; tool'" in caught.value.remedy


def test_remedy_for_an_unexecutable_file_is_chmod(view: View) -> None:
    with pytest.raises(CommandNotExecutableError) as caught:
        check(view, "/bin/data")
    assert caught.value.remedy is not None
    assert "chmod +x" in caught.value.remedy


@pytest.mark.parametrize("line", ["#!/absent/python -I", "#! /absent/python"])
def test_missing_interpreter_raises(view: View, root: Path, line: str) -> None:
    (root / "usr" / "bin" / "tool").write_text(f"{line}\n")
    with pytest.raises(CommandNotFoundError, match="/absent/python") as caught:
        check(view, "tool")
    error = caught.value
    assert (error.errno, error.cause) == (errno.ENOENT, "interpreter-not-found")
    assert error.exit_status == 126


@pytest.mark.parametrize("text", ["", "#!", "#!\n", "exit 3\n"])
def test_file_without_interpreter_line_raises(view: View, root: Path, text: str) -> None:
    (root / "usr" / "bin" / "tool").write_text(text)
    with pytest.raises(CommandError, match="is neither a program") as caught:
        check(view, "tool")
    assert (caught.value.errno, caught.value.cause) == (errno.ENOEXEC, "command-not-executable")


@pytest.mark.parametrize("text", ["#!/bin/tool", "#! /bin/tool -x", "\x7fELF"])
def test_existing_interpreter_is_accepted(view: View, root: Path, text: str) -> None:
    (root / "usr" / "bin" / "data").write_text(text)
    (root / "usr" / "bin" / "data").chmod(0o755)
    check(view, "data")


@pytest.mark.parametrize("text", ["#!/bin/tool\0x", "#!bin/tool", "#!../usr/bin/tool"])
def test_interpreter_line_is_read_like_the_kernel(view: View, root: Path, text: str) -> None:
    (root / "usr" / "bin" / "data").write_text(text)
    (root / "usr" / "bin" / "data").chmod(0o755)
    check(view, "data")
    (root / "usr" / "bin" / "tool").unlink()
    (root / "usr" / "bin" / "tool").symlink_to("/absent")
    with pytest.raises(CommandNotFoundError, match=r"\(which leads to /absent\)"):
        check(view, "data")


UNNAMEABLE = "rename the file: --bind would misread a part of the path as DST or rw"


@pytest.mark.parametrize(
    ("path", "option"),
    [
        ("/home/me/venv/bin/tool", "add --bind /home/me/venv"),
        ("/home/me/tool", "add --bind /home/me"),
        ("/srv/bin/tool", "add --bind /srv/bin"),
        ("/home/me:rw/tool", UNNAMEABLE),
        ("/home/me:/etc:rw/bin/tool", UNNAMEABLE),
    ],
)
def test_bind_option_for_a_program(path: str, option: str) -> None:
    assert command.show_program(path) == option


@pytest.mark.parametrize(
    ("path", "cwd", "option"),
    [
        ("/home/me/data", None, "add --bind /home/me/data"),
        ("/home/me/,rw", None, "add --bind /home/me/,rw"),
        ("data:rw", None, "add --bind ."),
        ("../data", "/usr", "add --bind ../data:/data"),
        # Paths that --bind would parse as another file, or as a writable mount.
        ("/home/me:rw", None, UNNAMEABLE),
        ("/home/me:ro", None, UNNAMEABLE),
        ("/home/me:/etc", None, UNNAMEABLE),
        ("/home/me:/etc:rw", None, UNNAMEABLE),
        ("/home/me:", None, UNNAMEABLE),
        ("../data:rw", None, UNNAMEABLE),
        ("data:rw", "/usr", UNNAMEABLE),
        ("../data,rw", "/usr", UNNAMEABLE),
    ],
)
def test_bind_option_for_a_file_of_any_name(path: str, cwd: str | None, option: str) -> None:
    assert command.how_to_show(path, directory="/home/me", cwd=cwd) == option
