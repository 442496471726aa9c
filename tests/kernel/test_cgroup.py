"""Tests of starting a command in a control group, and of the errors of unusable control groups."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broken_machine import run_broken
from callers import as_root, unprivileged
from inside import PATIENCE
from processes import capture

import usernsctl as un

pytestmark = pytest.mark.also_root

ROOT = os.geteuid() == 0
WIDE = un.IdMap.extents(["0:100000:10"], ["0:100000:10"])


def group_of(told: str) -> str:
    """Return the path in cgroups v2 from the text of /proc/PID/cgroup."""
    return next(line[3:] for line in told.splitlines() if line.startswith("0::"))


def unified() -> Path:
    """Return the mount point of the cgroup2 filesystem."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, kind = line.split(" - ")
        if kind.startswith("cgroup2 "):
            return Path(fields.split()[4])
    pytest.skip("cgroup2 is not mounted here")


@pytest.fixture
def group() -> Iterator[Path]:
    """Yield a new control group in which the caller may start commands; then remove the group."""
    own = unified() / group_of(Path("/proc/self/cgroup").read_text()).lstrip("/")
    procs = own / "cgroup.procs"
    if not os.access(procs, os.W_OK):
        pytest.skip(f"no control group is delegated to this user: {procs} can't be written")
    made = own / f"usernsctl-test-{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        for directory, _, _ in os.walk(made, topdown=False):
            os.rmdir(directory)


SHOW = ["cat", "/proc/self/cgroup"]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"pid": True},
        {"pid": True, "mount": True, "net": True},
        {"pdeathsig": signal.SIGKILL},
        pytest.param({"idmap": WIDE}, marks=as_root),
        pytest.param({"idmap": WIDE, "pid": True}, marks=as_root),
    ],
)
def test_a_command_starts_in_the_group(group: Path, arguments: dict[str, Any]) -> None:
    shown = un.check_output(SHOW, in_cgroup=group, text=True, **arguments)
    assert group_of(shown).endswith(f"/{group.name}")


@pytest.mark.parametrize("arguments", [{}, {"pid": True}, {"time": True}])
def test_a_command_in_a_kept_namespace_starts_in_the_group(
    group: Path, arguments: dict[str, Any]
) -> None:
    with un.Namespace.create() as ns:
        shown = ns.check_output(SHOW, in_cgroup=group, text=True, **arguments)
        assert group_of(shown).endswith(f"/{group.name}")


@as_root
def test_a_command_with_a_wide_map_starts_in_the_group(group: Path) -> None:
    with un.Namespace.create(WIDE, time=True) as ns:
        shown = ns.check_output(SHOW, in_cgroup=group, text=True)
        assert group_of(shown).endswith(f"/{group.name}")


@pytest.mark.parametrize("convert", [str, os.fsencode, Path])
def test_the_group_can_be_a_path_of_any_kind(group: Path, convert: Callable[[Path], Any]) -> None:
    shown = un.check_output(SHOW, in_cgroup=convert(group), text=True)
    assert group_of(shown).endswith(f"/{group.name}")


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH], ids=["readable", "path"])
def test_the_group_can_be_a_descriptor_which_stays_ours(group: Path, flags: int) -> None:
    fd = os.open(group, flags | os.O_DIRECTORY)
    try:
        child = un.spawn(["true"], in_cgroup=fd)
        assert os.waitpid(child.pid, 0)[1] == 0
        os.close(child.pidfd)
        shown = un.check_output(SHOW, in_cgroup=fd, text=True)
        assert group_of(shown).endswith(f"/{group.name}")
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_create_subprocess_exec_starts_in_the_group(group: Path) -> None:
    async def main() -> str:
        process = await un.create_subprocess_exec(*SHOW, stdout=un.PIPE, in_cgroup=group)
        told, _ = await process.communicate()
        return told.decode()

    assert group_of(asyncio.run(main())).endswith(f"/{group.name}")


@pytest.mark.parametrize("kept", [False, True])
def test_a_new_cgroup_namespace_has_the_group_as_its_root(group: Path, kept: bool) -> None:
    arguments: dict[str, Any] = {"in_cgroup": group, "cgroup": True, "text": True}
    if kept:
        with un.Namespace.create() as ns:
            shown = ns.check_output(SHOW, **arguments)
    else:
        shown = un.check_output(SHOW, **arguments)
    assert group_of(shown) == "/"


def failure(in_cgroup: Any, **arguments: Any) -> un.NamespaceError:
    with pytest.raises(un.NamespaceError) as caught:
        un.run(["true"], in_cgroup=in_cgroup, stdin=un.PIPE, **arguments)
    assert caught.value.step == "cgroup"
    return caught.value


def test_an_invalid_group_below_a_threaded_one_is_refused(group: Path) -> None:
    """Check that a control group of type "domain invalid" is rejected (cgroups(7))."""
    threaded, invalid = group / "threaded", group / "threaded" / "invalid"
    threaded.mkdir()
    (threaded / "cgroup.type").write_text("threaded")
    invalid.mkdir()
    assert (invalid / "cgroup.type").read_text() == "domain invalid\n"
    error = failure(invalid)
    assert (error.errno, error.cause) == (errno.EOPNOTSUPP, "cgroup-takes-no-process")
    assert error.filename == str(invalid)


def test_a_group_with_controllers_for_its_children_is_refused(group: Path) -> None:
    controllers = (group / "cgroup.controllers").read_text().split()
    if not controllers:
        pytest.skip("no controller is enabled for the groups here")
    (group / "cgroup.subtree_control").write_text(f"+{controllers[0]}")
    error = failure(group)
    assert (error.errno, error.cause) == (errno.EBUSY, "cgroup-takes-no-process")


def test_a_removed_group_is_refused(group: Path) -> None:
    gone = group / "gone"
    gone.mkdir()
    fd = os.open(gone, os.O_RDONLY)
    gone.rmdir()
    try:
        assert failure(fd).errno in (errno.ENOENT, errno.ENODEV)
    finally:
        os.close(fd)


@pytest.mark.parametrize("arguments", [{}, {"pid": True, "mount": True}])
def test_paths_and_descriptors_of_other_files_are_refused(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    error = failure(tmp_path, **arguments)
    assert (error.errno, error.cause) == (errno.EBADF, "cgroup-not-unified")
    assert error.filename == str(tmp_path)
    assert error.remedy is not None
    missing = failure(tmp_path / "missing", **arguments)
    assert (missing.errno, missing.filename) == (errno.ENOENT, f"{tmp_path}/missing")
    assert failure(__file__, **arguments).errno == errno.ENOTDIR
    assert failure(999, **arguments).errno == errno.EBADF
    with pytest.raises(ValueError, match=r"in_cgroup: '/a\\x00b' can't be a path"):
        failure("/a\0b", **arguments)
    with un.Namespace.create() as ns:
        assert failure(tmp_path, namespace=ns, **arguments).cause == "cgroup-not-unified"
    with pytest.raises(ValueError, match="in_cgroup"):
        un.run(["true"], in_cgroup=-1)


@unprivileged
def test_a_group_of_another_user_is_refused() -> None:
    top = unified()
    error = failure(top)
    assert (error.errno, error.cause) == (errno.EACCES, "cgroup-not-delegated")
    assert error.filename == f"{top}/cgroup.procs"


def test_in_cgroup_fails_where_clone3_is_filtered() -> None:
    script = (
        "import usernsctl as un\n"
        "try: un.run(['true'], in_cgroup='/proc/self')\n"
        "except un.NamespaceError as error: print(error.step, error.errno, error.cause)"
    )
    output = run_broken(["seccomp-engine"], [sys.executable, "-c", script])
    assert output.stdout.split() == ["cgroup", str(errno.ENOSYS), "clone-into-cgroup-missing"]


# Program that tries to start commands in each control group, and prints the results.
TRY = """
import sys
import usernsctl as un
for group in sys.argv[1:]:
    for arguments in ({}, {"pid": True}, {"kept": True}, {"kept": True, "pid": True}):
        with un.Namespace.create() as ns:
            if arguments.pop("kept", False):
                arguments["namespace"] = ns
            try:
                un.run(["true"], in_cgroup=group, **arguments)
            except OSError as error:
                print(error.cause, error.filename)
            else:
                print("started in", group)
"""


def tried(own: Path, groups: list[Path], user: int) -> set[str]:
    """Run TRY as `user` in the control group `own`; return the results for `groups`."""
    script = 'echo 0 >"$1/cgroup.procs" && shift && exec "$@"'
    become = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--"]
    done = capture(
        ["sh", "-c", script, "sh", own, *become, sys.executable, "-c", TRY, *groups],
        cwd="/",
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.splitlines())


@as_root
def test_a_user_starts_commands_in_a_delegated_subtree(group: Path) -> None:
    """Start commands in a delegated subtree; check that a process outside can't enter it.

    The kernel requires write access to cgroup.procs of the common ancestor (cgroups(7)).
    """
    user = 12345
    given, leaf, other = group / "given", group / "given" / "leaf", group / "other"
    for made in (given, leaf, other):
        made.mkdir()
    for file in (given, given / "cgroup.procs", leaf, leaf / "cgroup.procs"):
        os.chown(file, user, user)
    assert tried(given, [leaf, given], user) == {f"started in {leaf}", f"started in {given}"}
    assert tried(given, [other], user) == {f"cgroup-not-delegated {other}/cgroup.procs"}
    assert tried(other, [leaf], user) == {f"cgroup-not-delegated {group}/cgroup.procs"}
