"""System calls for broken.py that Python's standard library lacks."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_NOSUID, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 32, 4096, 16384, 1 << 18

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
SECCOMP_MODE_FILTER = 2
CAP_SETGID, CAP_SETUID = 6, 7

# Numbers of system calls (syscalls(2)); those from 424 on are the same on all processors.
CALLS = {
    "x86_64": {
        "unshare": 272, "clone": 56, "mount": 165, "ptrace": 101, "setns": 308, "kill": 62,
        "pivot_root": 155, "chroot": 161, "dup3": 292, "prctl": 157, "seccomp": 317,
        "setresuid": 117, "setgroups": 116, "umount2": 166, "capset": 126, "memfd_create": 319,
        "personality": 135, "socketpair": 53, "sethostname": 170, "membarrier": 324,
        "process_vm_writev": 311, "fchdir": 81, "mknodat": 259, "keyctl": 250, "bpf": 321,
    },
    "aarch64": {
        "unshare": 97, "clone": 220, "mount": 40, "ptrace": 117, "setns": 268, "kill": 129,
        "pivot_root": 41, "chroot": 51, "dup3": 24, "prctl": 167, "seccomp": 277,
        "setresuid": 147, "setgroups": 159, "umount2": 39, "capset": 91, "memfd_create": 279,
        "personality": 92, "socketpair": 199, "sethostname": 161, "membarrier": 283,
        "process_vm_writev": 271, "fchdir": 50, "mknodat": 33, "keyctl": 219, "bpf": 280,
    },
}[platform.machine()]  # fmt: skip
CALLS |= {"open_tree": 428, "move_mount": 429, "mount_setattr": 442, "clone3": 435}
CALLS |= {"pidfd_send_signal": 424, "pidfd_open": 434, "close_range": 436, "openat2": 437}
LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446
LANDLOCK_WRITE_FILE = 2

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def unshare(flags: int) -> None:
    check(libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    name = kind.encode() if kind else None
    check(libc.mount(source.encode(), target.encode(), name, flags, None), f"mount {target}")


def prctl(option: int, argument: int) -> None:
    check(libc.prctl(option, argument, 0, 0, 0), f"prctl {option}")


# ---- seccomp -----------------------------------------------------------------------------------

LOAD, JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
#: Stands for killing the process, in place of an errno.
KILLED = 0x80000000 - REFUSE
OFFSET_NUMBER, OFFSET_FIRST_ARGUMENT = 0, 16


def refuse(rules: list[tuple[str, int, int]]) -> None:
    """Load a seccomp filter.

    A rule has a system call, bits of its first argument (0 for any argument), and an errno or
    KILLED.
    """
    lines = [(LOAD, 0, 0, OFFSET_NUMBER)]
    for call, bits, number in rules:
        if bits:
            lines += [
                (JUMP_EQUAL, 0, 4, CALLS[call]),
                (LOAD, 0, 0, OFFSET_FIRST_ARGUMENT),
                (JUMP_ANY_BIT, 0, 1, bits),
                (RETURN, 0, 0, REFUSE + number),
                (LOAD, 0, 0, OFFSET_NUMBER),
            ]
        else:
            lines += [(JUMP_EQUAL, 0, 1, CALLS[call]), (RETURN, 0, 0, REFUSE + number)]
    lines.append((RETURN, 0, 0, ALLOW))
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(buffer))
    if os.geteuid() != 0:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")
