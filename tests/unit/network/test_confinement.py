"""Tests of the system calls that are denied to a proxy's process."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from processes import capture

from usernsctl.network import confinement

ATTEMPTS = {
    "fork": "os.fork()",
    "exec": "os.execv('/bin/true', ['true'])",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "kill": "os.kill(os.getppid(), 0)",
    "pidfd": "os.pidfd_open(os.getppid())",
    "write": "open(file, 'w')",
    "append": "open(file, 'a')",
    "create": "os.open(file + 'x', os.O_RDONLY | os.O_CREAT)",
    "truncate": "os.truncate(file, 0)",
    "temporary": "os.open('/tmp', os.O_RDWR | os.O_TMPFILE)",
    "remove": "os.unlink(file)",
    "rename": "os.rename(file, file + 'x')",
    "link": "os.link(file, file + 'x')",
    "symlink": "os.symlink(file, file + 'x')",
    "mode": "os.chmod(file, 0o666)",
    "owner": "os.chown(file, -1, -1)",
    "times": "os.utime(file)",
    "attribute": "os.setxattr(file, 'user.x', b'y')",
    "directory": "os.mkdir(file + 'x')",
    "device": "os.mknod(file + 'x')",
    "chroot": "os.chroot('/')",
    "unshare": "call(libc.unshare, 0x10000000)",
    "join": "call(libc.setns, 0, 0)",
    "trace": "call(libc.ptrace, 0, 0, 0, 0)",
    "mount": "call(libc.mount, 0, 0, 0, 0, 0)",
    "mode by descriptor": "os.fchmod(opened, 0o666)",
    "owner by descriptor": "os.fchown(opened, -1, -1)",
    "attribute by descriptor": "os.setxattr(opened, 'user.x', b'y')",
    "attribute at": "syscall(463, -100, file, 0, b'user.x', 0, 0)",
    "remove attribute": "os.removexattr(file, 'user.x')",
    "remove attribute of a link": "os.removexattr(file, 'user.x', follow_symlinks=False)",
    "remove attribute by descriptor": "os.removexattr(opened, 'user.x')",
    "remove attribute at": "syscall(466, -100, file, 0, b'user.x')",
    "attributes of a tree": "syscall(467, -100, file, 0, 0, 0)",
    "file attributes": "syscall(469, -100, file, 0, 0, 0)",
    "type": "fcntl.ioctl(terminal, 0x5412, b'x')",
    "type with high bits": "syscall(ioctl, terminal, ctypes.c_ulong(0x100005412), b'x')",
    "paste": "fcntl.ioctl(terminal, 0x541C, b'x')",
    # socketpair() is denied, too: its datagram sockets could also send to other Unix sockets.
    "socket pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "gain": "call(libc.prctl, 38, 0, 0, 0, 0)",
}

SCRIPT = """
import ctypes, fcntl, os, socket, sys
from usernsctl.network.confinement import confine
file = sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *args):
    if function(*args) == -1:
        raise OSError(ctypes.get_errno(), "call")
def syscall(number, *args):
    args = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    call(libc.syscall, ctypes.c_long(number), *args)
ioctl = {"x86_64": 16, "aarch64": 29}.get(os.uname().machine)
opened = os.open(file, os.O_RDONLY)
_, terminal = os.openpty()
confine()
try:
    exec(sys.argv[1])
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_confined_process_is_denied(attempt: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    done = capture([sys.executable, "-c", SCRIPT, ATTEMPTS[attempt], file])
    # The expected errno is 1 (EPERM), or 22 (EINVAL) for a process attribute that can't be cleared.
    assert (done.stdout.strip(), done.returncode) in [("1", 0), ("22", 0)], done.stderr
    assert sorted(os.listdir(tmp_path)) == ["file"]
    assert file.read_text() == "text"


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.socket(socket.AF_UNIX)",
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_VSOCK)",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    ],
)
def test_confined_process_can_open_only_ip_sockets(attempt: str, tmp_path: Path) -> None:
    """Check that Unix sockets are denied: services such as D-Bus and Docker listen on them."""
    file = tmp_path / "file"
    file.touch()
    done = capture([sys.executable, "-c", SCRIPT, attempt, file])
    assert (done.stdout, done.returncode) == (f"{errno.EAFNOSUPPORT}\n", 0), done.stderr


WORKS = """
import threading
from usernsctl.network.addresses import is_own
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    socket.socket(family, socket.SOCK_DGRAM).close()
print(is_own(socket.AF_INET, "127.0.0.1"), is_own(socket.AF_INET6, "3fff::1"))
thread = threading.Thread(target=lambda: print(socket.getaddrinfo("127.0.0.1", 80)[0][4][0]))
thread.start()
thread.join()
print(open(file).read())
print(os.pread(os.memfd_create("x"), 1, 0))
print("dumpable", libc.prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
"""


def test_confined_process_can_do_the_work_of_a_proxy(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    done = capture([sys.executable, "-c", SCRIPT, WORKS, file])
    assert done.stdout == "True False\n127.0.0.1\ntext\nb''\ndumpable 0\n", done.stderr


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_has_numbers_for_all_syscalls(machine: str) -> None:
    program = confinement._filter(machine)
    assert len(program) % 8 == 0
    assert 100 < len(program) // 8 < 4096
    # Each entry consists of a name and one number per architecture. A missing number would shift
    # all later numbers to the wrong architecture.
    words = f"{confinement._DENIED} {confinement._MISSING}".split()
    assert len(words) % 3 == 0
    assert all(name.replace("_", "").isalnum() and not name.isdigit() for name in words[::3])
    assert all(number == "-" or number.isdigit() for at, number in enumerate(words) if at % 3)


def test_unknown_machine_has_no_filter() -> None:
    assert confinement._filter("riscv64") == b""
