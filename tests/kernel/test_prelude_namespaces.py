"""Tests of the namespaces that usernsctl-exec creates: only those that the options name."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from conftest import Program, mounts
from inside import namespace
from processes import capture, check_output

pytestmark = pytest.mark.also_root

# Options that create a namespace, and the namespace's name in /proc/PID/ns.
KINDS = {
    "--mount": "mnt",
    "--net": "net",
    "--ipc": "ipc",
    "--uts": "uts",
    "--cgroup": "cgroup",
    "--time": "time",
    "--pid": "pid",
}
SHORT = {"m": "mnt", "n": "net", "i": "ipc", "u": "uts", "C": "cgroup", "T": "time", "p": "pid"}


def links(prelude: Program, *options: str) -> dict[str, str]:
    """Run a command with `options`; return the links in its /proc/self/ns."""
    names = ["user", *KINDS.values()]
    done = prelude(*options, "--", "readlink", *(f"/proc/self/ns/{name}" for name in names))
    assert done.stderr == ""
    return dict(zip(names, done.stdout.split(), strict=True))


@pytest.mark.parametrize("option", [*KINDS, *(f"-{letter}" for letter in SHORT)])
def test_each_option_creates_its_namespace_only(prelude: Program, option: str) -> None:
    wanted = KINDS.get(option) or SHORT[option[1:]]
    # Use --fork: before Linux 6.1, unshare(CLONE_NEWTIME) moves only later children to the new time
    # namespace.
    inside = links(prelude, "-r", option, "--fork")
    new = {name for name, link in inside.items() if link != namespace(name)}
    assert new == {"user", wanted}


def test_all_namespaces_can_be_created_at_once(prelude: Program) -> None:
    inside = links(prelude, "-rmnpiuCT")
    assert all(link != namespace(name) for name, link in inside.items())


@pytest.fixture
def needs_new_proc() -> None:
    """Skip the test if proc can't be mounted anew, as in a container with a masked /proc."""
    tried = capture(["unshare", "-Urpf", "--mount-proc", "true"])
    if tried.returncode:
        pytest.skip(f"unshare can't mount proc either: {tried.stderr.strip()}")


@pytest.mark.usefixtures("needs_new_proc")
def test_a_new_proc_shows_the_new_processes_only(prelude: Program) -> None:
    before = mounts()
    for options in (["-rp", "--mount-proc"], ["-rp", "--mount-proc=/proc"]):
        done = prelude(*options, "--", "sh", "-c", "echo /proc/[0-9]* $$")
        assert done.stderr == ""
        assert done.stdout == "/proc/1 1\n"
    assert mounts() == before


def test_mount_proc_at_a_missing_directory_fails(prelude: Program) -> None:
    done = prelude("-rp", "--mount-proc=/no/such/dir", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "/no/such/dir: No such file or directory" in done.stderr
    assert "\n  remedy: create the directory, or name one below --root:" in done.stderr


def root_propagation(mountinfo: str) -> set[str]:
    """Return the propagation types of the root mount, without the ids of peer groups."""
    for line in mountinfo.splitlines():
        fields = line.split()
        if fields[4] == "/":
            optional = fields[6 : fields.index("-")]
            return {field.split(":")[0] for field in optional}
    raise AssertionError("nothing is mounted on /")


@pytest.mark.parametrize("mode", [None, "private", "slave", "shared", "unchanged"])
def test_mounts_propagate_as_with_unshare(prelude: Program, mode: str | None) -> None:
    # The values of --propagation differ only if the outer mount namespace has shared mounts. The
    # shell stays in that namespace, because a slave mount becomes private when its master is
    # removed.
    stay = ["sh", "-c", '"$@"; exit $?', "sh"]
    outer: list[str | Path] = [prelude.path, "-rm", "--propagation=shared", "--", *stay]
    options = ["-rm"] if mode is None else ["-rm", f"--propagation={mode}"]
    show = ["cat", "/proc/self/mountinfo"]
    ours = root_propagation(check_output([*outer, prelude.path, *options, *show]))
    theirs = root_propagation(check_output([*outer, "unshare", *options, *show]))
    assert ours == theirs
    assert ("shared" in ours) == (mode == "shared")
    assert ("master" in ours) == (mode not in (None, "private"))


def test_sethostname_inside_does_not_change_the_host(prelude: Program) -> None:
    before = socket.gethostname()
    script = "import socket; socket.sethostname('inside'); print(socket.gethostname())"
    assert prelude("-ru", "--", sys.executable, "-Ic", script).stdout == "inside\n"
    assert socket.gethostname() == before


def test_a_new_network_namespace_has_only_lo_down(prelude: Program) -> None:
    shown = prelude("-rn", "--", "cat", "/proc/net/dev", "/proc/net/route").stdout
    assert [line.split(":")[0].strip() for line in shown.splitlines() if ":" in line] == ["lo"]
