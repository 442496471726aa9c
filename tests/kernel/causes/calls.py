"""System calls that broken.py needs and Python's standard library lacks."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_RDONLY, MS_NOSUID, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 32, 4096, 16384, 1 << 18

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
SECCOMP_MODE_FILTER = 2
CAP_SETGID, CAP_SETUID = 6, 7

# System call numbers (syscalls(2)). From 424 on, they are the same on all architectures.
CALLS = {
    "x86_64": {
        "unshare": 272, "clone": 56, "mount": 165, "ptrace": 101, "setns": 308, "kill": 62,
        "pivot_root": 155, "chroot": 161, "dup3": 292, "prctl": 157, "seccomp": 317,
        "setresuid": 117, "setgroups": 116, "umount2": 166, "capset": 126, "memfd_create": 319,
        "personality": 135, "socketpair": 53, "sethostname": 170, "membarrier": 324,
        "process_vm_writev": 311, "fchdir": 81, "mknodat": 259, "keyctl": 250, "bpf": 321,
        "setsid": 112, "wait4": 61, "accept4": 288, "capget": 125, "chdir": 80, "mkdirat": 258,
        "socket": 41, "bind": 49, "connect": 42, "shutdown": 48, "recvmsg": 47, "sendmsg": 46,
        "getpid": 39, "flock": 73, "readlinkat": 267, "epoll_ctl": 233, "waitid": 247,
        "symlinkat": 266, "getrandom": 318, "rt_sigtimedwait": 128, "eventfd2": 290,
        "faccessat": 269,
        "setresgid": 119, "ppoll": 271, "fork": 57, "vfork": 58, "poll": 7, "dup2": 33, "uname": 63,
        "dup": 32, "getcwd": 79, "statx": 332, "fallocate": 285, "setpriority": 141,
        "getpriority": 140, "fgetxattr": 193, "syslog": 103, "clock_nanosleep": 230,
        "prlimit64": 302, "writev": 20, "statfs": 137, "pipe2": 293, "getuid": 102,
        "geteuid": 107, "getegid": 108, "rt_sigaction": 13,
        "rt_sigprocmask": 14, "access": 21, "getrlimit": 97, "getppid": 110, "munmap": 11,
        "newfstatat": 262, "openat": 257, "getrusage": 98, "getxattr": 191, "setpgid": 109,
        "epoll_create1": 291, "lseek": 8, "fcntl": 72, "mprotect": 10, "pread64": 17,
    },
    "aarch64": {
        "unshare": 97, "clone": 220, "mount": 40, "ptrace": 117, "setns": 268, "kill": 129,
        "pivot_root": 41, "chroot": 51, "dup3": 24, "prctl": 167, "seccomp": 277,
        "setresuid": 147, "setgroups": 159, "umount2": 39, "capset": 91, "memfd_create": 279,
        "personality": 92, "socketpair": 199, "sethostname": 161, "membarrier": 283,
        "process_vm_writev": 271, "fchdir": 50, "mknodat": 33, "keyctl": 219, "bpf": 280,
        "setsid": 157, "wait4": 260, "accept4": 242, "capget": 90, "chdir": 49, "mkdirat": 34,
        "socket": 198, "bind": 200, "connect": 203, "shutdown": 210, "recvmsg": 212, "sendmsg": 211,
        "getpid": 172, "flock": 32, "readlinkat": 78, "epoll_ctl": 21, "waitid": 95,
        "symlinkat": 36, "getrandom": 278, "rt_sigtimedwait": 137, "eventfd2": 19, "faccessat": 48,
        "setresgid": 149, "ppoll": 73, "uname": 160, "dup": 23, "getcwd": 17, "statx": 291,
        "fallocate": 47, "setpriority": 140, "getpriority": 141, "fgetxattr": 10, "syslog": 116,
        "clock_nanosleep": 115, "prlimit64": 261,
        "writev": 66, "statfs": 43, "pipe2": 59, "getuid": 174, "geteuid": 175, "getegid": 177,
        "rt_sigaction": 134, "rt_sigprocmask": 135, "getppid": 173, "munmap": 215, "newfstatat": 79,
        "openat": 56, "getrusage": 165, "getxattr": 8, "setpgid": 154,
        "epoll_create1": 20, "lseek": 62, "fcntl": 25, "mprotect": 226, "pread64": 67,
    },
}[platform.machine()]  # fmt: skip
CALLS |= {"open_tree": 428, "move_mount": 429, "mount_setattr": 442, "clone3": 435}
CALLS |= {"pidfd_send_signal": 424, "pidfd_open": 434, "close_range": 436, "openat2": 437}
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_RULE_PATH_BENEATH = 1
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
#: Value in place of a rule's errno. The filter then kills the process.
KILLED = 0x80000000 - REFUSE
OFFSET_NUMBER, OFFSET_FIRST_ARGUMENT = 0, 16


def refuse(rules: list[tuple[str, int, int]]) -> None:
    """Load a seccomp filter.

    :param rules: tuples of a system call, bits of its first argument, and an errno or KILLED. A
        rule applies if any of the bits is set, or always if `bits` is 0. The filter then makes the
        call fail with the errno, or kills the process.
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
    _load_filter(lines)


def refuse_value(call: str, value: int, number: int) -> None:
    """Load a seccomp filter that denies `call` if its first argument is `value`."""
    _load_filter(
        [
            (LOAD, 0, 0, OFFSET_NUMBER),
            (JUMP_EQUAL, 0, 3, CALLS[call]),
            (LOAD, 0, 0, OFFSET_FIRST_ARGUMENT),
            (JUMP_EQUAL, 0, 1, value),
            (RETURN, 0, 0, REFUSE + number),
        ]
    )


def _load_filter(rules: list[tuple[int, int, int, int]]) -> None:
    lines = [*rules, (RETURN, 0, 0, ALLOW)]
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(buffer))
    if os.geteuid() != 0:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")
