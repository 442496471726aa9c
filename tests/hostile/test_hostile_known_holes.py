"""Attacks that use known vulnerabilities of other tools, each with a reference.

Other files test two vulnerabilities. test_hostile_terminal_payload.py tests CVE-2017-5226: a
payload inserts input into its caller's terminal. test_hostile_memory.py tests CVE-2016-9962: root
inside a namespace inspects a process that enters it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from callers import unprivileged
from conftest import Program
from tally import Tally

import usernsctl as un
from usernsctl.gvisor.runsc.find import find_runsc

# Program that drops all of the user's groups. A file's mode may deny access to such a group and
# allow access to all other users: dropping the group would then give access to the file.
DROP_GROUPS = "import os\nos.setgroups([])"


@pytest.fixture
def box(host: un.SandboxHost) -> Iterator[un.Sandbox]:
    with host.start(None) as made:
        yield made


def run_python(box: un.Sandbox, code: str) -> str:
    """Run the host's Python in a sandbox; return its output."""
    done = box.run(
        ["/usr/bin/python3", "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    return f"{done.stdout}{done.stderr}".strip()


@unprivileged
def test_hostile_drop_of_a_group(tally: Tally) -> None:
    """CVE-2014-8989: setgroups(2) in a user namespace dropped a group that denies access."""
    tally.tried()
    done = un.run(["/usr/bin/python3", "-c", DROP_GROUPS], capture_output=True, text=True)
    if done.returncode == 0:
        tally.succeeded("setgroups")
    assert "PermissionError" in done.stderr
    assert un.check_output(["cat", "/proc/self/setgroups"], text=True) == "deny\n"


@unprivileged
@pytest.mark.userns_requires("subid")
def test_hostile_drop_of_a_group_with_a_map_by_the_helper(prelude: Program, tally: Tally) -> None:
    """CVE-2018-7169: newgidmap allowed setgroups(2) in a map of only the caller's own gid."""
    tally.tried()
    done = prelude(
        "-r", "--map-users=auto", "--", "/usr/bin/python3", "-c", f"{DROP_GROUPS}\nprint('dropped')"
    )
    if "dropped" in done.stdout:
        tally.succeeded(done.stdout)
    assert "PermissionError" in done.stderr


def test_hostile_write_to_the_running_programs(box: un.Sandbox, tally: Tally) -> None:
    """CVE-2019-5736: a payload overwrote runc's program through /proc/self/exe."""
    programs = [find_runsc(os.environ), *(Path(un.__file__).parent / "_bin").iterdir()]
    before = [hashlib.sha256(Path(path).read_bytes()).digest() for path in programs]
    script = "for exe in /proc/self/exe /proc/1/exe /proc/*/exe; do : >> $exe && echo $exe; done"
    done = box.run(["sh", "-c", script], capture_output=True, text=True)
    tally.tried(len(done.stderr.splitlines()))
    assert [hashlib.sha256(Path(path).read_bytes()).digest() for path in programs] == before


def test_hostile_filesystem_context(box: un.Sandbox, tally: Tally) -> None:
    """CVE-2022-0185: fsconfig(2) overflowed a buffer in the host's kernel."""
    tally.tried()
    found = run_python(
        box,
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.syscall(430, b"ext4", 0), ctypes.get_errno())
        """,
    )
    assert found == f"-1 {errno.ENOSYS}"


def test_hostile_working_directory(box: un.Sandbox, tmp_path: Path, tally: Tally) -> None:
    """CVE-2024-21626: cwd=/proc/self/fd/N was a host directory that runc had left open."""
    marker = tmp_path / "marker"
    marker.write_text("of the host")
    path = f"{'../' * 12}{str(marker)[1:]}"
    for fd in range(24):
        tally.tried()
        try:
            done = box.run(["cat", path], cwd=f"/proc/self/fd/{fd}", capture_output=True, text=True)
        except un.UsernsError:
            continue
        if "of the host" in done.stdout:
            tally.succeeded(f"descriptor {fd}")


def test_hostile_inherited_descriptor(box: un.Sandbox, tally: Tally) -> None:
    """CVE-2024-21626 and CVE-2016-9962: a payload inherited the runtime's descriptors."""
    first, second = os.pipe()
    os.set_inheritable(first, True)
    try:
        for run in (box.run, un.run):
            tally.tried()
            done = run(["ls", "/proc/self/fd"], capture_output=True, text=True)
            # Descriptor 3 is the directory that ls(1) has opened, so only 0 to 2 are inherited.
            if done.stdout.split() != ["0", "1", "2", "3"]:
                tally.succeeded(done.stdout)
    finally:
        os.close(first)
        os.close(second)


@unprivileged
@pytest.mark.userns_requires("subid", "strace")
def test_the_helpers_get_a_pid(prelude: Program, tmp_path: Path, tally: Tally) -> None:
    """Check that newuidmap and newgidmap get a pid, not ``fd:N``.

    Debian's shadow 1:4.17.4-2+deb13u1 rejects ``fd:N``.

    A pid is safe, because the pid of a child that has not been reaped can't be reused.
    """
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=execve", "-o", trace]
    subprocess.run([*command, prelude.path, "--map-auto", "true"], capture_output=True, check=False)
    for word in re.findall(
        r'execve\("[^"]*/new[ug]idmap", \["[^"]*", "([^"]*)"', trace.read_text()
    ):
        tally.tried()
        if not word.isdigit():
            tally.succeeded(word)
