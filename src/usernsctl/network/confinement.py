"""Restrictions of the proxy process, applied before the proxy answers the first request.

The proxy parses data from hostile programs. A program that takes control of the proxy, through a
bug in Python, can still open IP connections, and read files that the user may read. It can't gain
privileges, execute another program, change a file, signal or trace another process, or connect to
the user's services at Unix sockets, such as D-Bus and Docker.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import struct

# Constants of linux/prctl.h, linux/seccomp.h and linux/capability.h.
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

_RET_KILL = 0x80000000
_RET_ERRNO = 0x00050000
_RET_ALLOW = 0x7FFF0000

# Offsets of fields in struct seccomp_data.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

# Instructions of linux/filter.h: load a word, jump if equal, jump if any bit is set, return.
_LOAD, _IF_EQUAL, _IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06

_CLONE_THREAD = 0x00010000
_X32 = 0x40000000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_TMPFILE & ~os.O_DIRECTORY

# The supported architectures, in the order of the tables below, with their AUDIT_ARCH numbers.
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Denied system calls, with their numbers on x86_64 and on aarch64 (asm/unistd_64.h,
# asm-generic/unistd.h).
_DENIED = """
execve 59 221    execveat 322 281    fork 57 -         vfork 58 -          ptrace 101 117
kill 62 129      tkill 200 130       tgkill 234 131    pidfd_open 434 434  pidfd_getfd 438 438
rt_sigqueueinfo 129 138    rt_tgsigqueueinfo 297 240   pidfd_send_signal 424 424
process_vm_readv 310 270   process_vm_writev 311 271   process_madvise 440 440
unshare 272 97   setns 308 268       chroot 161 51     pivot_root 155 41   mount 165 40
umount2 166 39   open_tree 428 428   move_mount 429 429      fsopen 430 430
fsconfig 431 431 fsmount 432 432     fspick 433 433    mount_setattr 442 442
bpf 321 280      perf_event_open 298 241     userfaultfd 323 282   io_uring_setup 425 425
add_key 248 217  request_key 249 218 keyctl 250 219    init_module 175 105 finit_module 313 273
open_by_handle_at 304 265  creat 85 -        truncate 76 45     setxattr 188 5     lsetxattr 189 6
rename 82 -      renameat 264 38     renameat2 316 276 mkdir 83 -          mkdirat 258 34
rmdir 84 -       unlink 87 -         unlinkat 263 35   link 86 -           linkat 265 37
symlink 88 -     symlinkat 266 36    mknod 133 -       mknodat 259 33      chmod 90 -
fchmodat 268 53  fchmodat2 452 452   chown 92 -        lchown 94 -         fchownat 260 54
utime 132 -      utimes 235 -        futimesat 261 -   utimensat 280 88
fchmod 91 52     fchown 93 55        fsetxattr 190 7   setxattrat 463 463  removexattr 197 14
lremovexattr 198 15        fremovexattr 199 16         removexattrat 466 466
open_tree_attr 467 467     file_setattr 469 469       socketpair 53 199
"""
# System calls whose flags are in memory, where a filter can't read them. They fail with ENOSYS, so
# that the C library falls back to older system calls.
_MISSING = "clone3 435 435  openat2 437 437"
# System calls that open files, each with the index of its flags argument.
_OPEN = (("open 2 -", 1), ("openat 257 56", 2))
_CLONE = "clone 56 220"
# Allow the families IPv4 and IPv6, and netlink: glibc reads this host's addresses, and the proxy
# queries routes, by netlink sockets.
_SOCKET = "socket 41 198"
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
# Deny the ioctl(2) commands that insert input into a terminal, because standard error may be a
# terminal. The kernel reads only the lower 32 bits of a command.
_IOCTL = "ioctl 16 29"
_TYPING = (0x5412, 0x541C)  # The commands TIOCSTI and TIOCLINUX.


def confine() -> None:
    """Restrict this process and its future threads.

    :raises OSError: a system call failed.
    """
    limit = 1024
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(libc)
    _prctl(libc, _PR_SET_DUMPABLE, 0)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    program = _filter(os.uname().machine)
    if program:
        code = ctypes.create_string_buffer(program, len(program))
        description = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
        _prctl(libc, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, description)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        _raise("capset")


def _prctl(libc: ctypes.CDLL, option: int, value: int, more: bytes | None = None) -> None:
    unsigned_long = ctypes.c_ulong
    if libc.prctl(option, unsigned_long(value), more, unsigned_long(0), unsigned_long(0)) != 0:
        _raise(f"prctl {option}")


def _raise(call: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")


def _filter(machine: str) -> bytes:
    """Return a seccomp filter, an array of struct sock_filter; empty on unsupported processors."""
    if machine not in _AUDIT:
        return b""
    denied = _RET_ERRNO | errno.EPERM
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _RET_KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        # Kill callers of the x32 ABI, whose system calls have other numbers but the AUDIT_ARCH of
        # x86_64.
        lines += [(_IF_SET, 0, 1, _X32), (_RETURN, 0, 0, _RET_KILL)]
    for listed, error in ((_DENIED, errno.EPERM), (_MISSING, errno.ENOSYS)):
        for number in _numbers(listed, machine):
            lines += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _RET_ERRNO | error)]
    lines += [
        (_IF_EQUAL, 0, 4, _numbers(_CLONE, machine)[0]),
        (_LOAD, 0, 0, _ARGUMENTS),
        (_IF_SET, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, denied),
        (_RETURN, 0, 0, _RET_ALLOW),
    ]
    for table, index in _OPEN:
        for number in _numbers(table, machine):
            lines += [
                (_IF_EQUAL, 0, 4, number),
                (_LOAD, 0, 0, _ARGUMENTS + 8 * index),
                (_IF_SET, 0, 1, _WRITES),
                (_RETURN, 0, 0, denied),
                (_RETURN, 0, 0, _RET_ALLOW),
            ]
    lines += _among(
        _numbers(_SOCKET, machine)[0], 0, _FAMILIES, errno.EAFNOSUPPORT, is_allowed=True
    )
    lines += _among(_numbers(_IOCTL, machine)[0], 1, _TYPING, errno.EPERM, is_allowed=False)
    lines.append((_RETURN, 0, 0, _RET_ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _among(
    call: int, index: int, values: tuple[int, ...], error: int, *, is_allowed: bool
) -> list[tuple[int, int, int, int]]:
    """Return filter code that allows or denies a system call by the value of one argument.

    :param index: the index of the argument. Only the lower 32 bits of the argument are compared,
        because the kernel ignores the upper 32.
    :param error: the error number with which a denied call fails.
    """
    refused = _RET_ERRNO | error
    among, others = (_RET_ALLOW, refused) if is_allowed else (refused, _RET_ALLOW)
    count = len(values)
    return [
        (_IF_EQUAL, 0, count + 3, call),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * index),
        *((_IF_EQUAL, count - at, 0, value) for at, value in enumerate(values)),
        (_RETURN, 0, 0, others),
        (_RETURN, 0, 0, among),
    ]


def _numbers(table: str, machine: str) -> list[int]:
    """Return the numbers of system calls on the architecture `machine`.

    :param table: lines with the name of a call, and its number on each architecture of `_AUDIT`.
    """
    words = table.split()
    column = 1 + list(_AUDIT).index(machine)
    return [int(number) for number in words[column::3] if number != "-"]
