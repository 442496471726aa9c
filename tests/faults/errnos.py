"""Table of the errors that each system call can return according to its manual page.

Only errors that can occur in usernsctl's calls are listed: EINTR for each call that may sleep,
ENOMEM and EPERM (from a seccomp filter or a security module) for nearly every call. EBADF is not
listed, since programs use only descriptors that they have opened. EPIPE is not listed either: other
tests cover the exit of a peer.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

#: System calls into which no errors are injected, with the reasons.
EXCEPTIONS = {
    "exit": "never returns",
    "exit_group": "never returns",
    "rt_sigreturn": "restores a context and returns no error",
    "restart_syscall": "is made by the kernel",
    "arch_prctl": "is made by libc before main(), which ends the program if the call fails",
    "brk": "returns no errno; libc then calls mmap",
    "set_tid_address": "always succeeds",
    "set_robust_list": "is made by libc, which ignores its result",
    "rseq": "is made by libc, which ignores its result",
    "sched_yield": "always succeeds on Linux",
    "getpid": "always succeeds",
    "getppid": "always succeeds",
    "gettid": "always succeeds",
    "getuid": "always succeeds",
    "geteuid": "always succeeds",
    "getgid": "always succeeds",
    "getegid": "always succeeds",
    "getpgrp": "always succeeds",
    "umask": "always succeeds",
    "close": "closes the descriptor also if it fails, and fails for remote files alone",
    "futex": "is made by libc's locks, which end the process if the call fails",
    "rt_sigaction": "fails only with a wrong number or address, which are constants",
    "rt_sigprocmask": "fails only with a wrong number or address, which are constants",
    "mprotect": "is made by libc before main() and for new threads",
    "munmap": "fails only with a wrong address; libc ignores the result",
    "madvise": "is advice of libc, which ignores the result",
    "sigaltstack": "is made by Python and libc for their own stacks",
    "clock_gettime": "fails only with a wrong clock, which is a constant",
}

_PATH = "EACCES ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR"
_FD = "EINTR EIO"
_SOCKET = "EINTR ENOMEM ENOBUFS EPERM"
NAMED = {
    "access": f"{_PATH} EROFS EIO",
    "accept4": "EINTR EMFILE ENFILE ENOMEM ECONNABORTED EPERM",
    "bind": "EACCES EADDRINUSE ENOMEM EROFS",
    "capget": "EPERM EINVAL",
    "capset": "EPERM EINVAL",
    "chdir": f"{_PATH} EIO",
    "chroot": f"{_PATH} EPERM EIO",
    "clone": "EAGAIN ENOMEM EPERM ENOSPC",
    "clone3": "EAGAIN ENOMEM EPERM ENOSPC EBUSY EOPNOTSUPP",
    "close_range": "EMFILE ENOMEM EINVAL ENOSYS",
    "connect": "EACCES EAGAIN ECONNREFUSED EINTR ENOENT ETIMEDOUT",
    "dup": "EMFILE",
    "dup2": "EBUSY EINTR EMFILE",
    "dup3": "EBUSY EINTR EMFILE",
    "epoll_create1": "EMFILE ENFILE ENOMEM",
    "epoll_ctl": "ENOMEM ENOSPC",
    "epoll_wait": "EINTR",
    "epoll_pwait": "EINTR",
    "execve": f"{_PATH} E2BIG EIO EISDIR EMFILE ENFILE ENOEXEC EPERM ETXTBSY EAGAIN",
    "execveat": f"{_PATH} E2BIG EIO EMFILE ENFILE ENOEXEC EPERM ETXTBSY",
    "faccessat2": f"{_PATH} EROFS ENOSYS",
    "fchmod": "EIO ENOMEM EPERM EROFS",
    "fchmodat": f"{_PATH} EIO EPERM EROFS",
    "fchown": "EIO EPERM EROFS",
    "fcntl": "EINTR EMFILE EPERM",
    "flock": "EINTR ENOLCK EWOULDBLOCK",
    "fork": "EAGAIN ENOMEM",
    "fsconfig": "EPERM EINVAL ENOMEM EBUSY",
    "fsmount": "EPERM EMFILE ENOMEM EINVAL",
    "fsopen": "EPERM EMFILE ENOMEM ENODEV",
    "fstat": "ENOMEM EOVERFLOW",
    "ftruncate": "EINTR EIO ENOSPC EPERM",
    "getcwd": "ENOENT ENOMEM EACCES",
    "getdents64": "ENOENT ENOMEM EIO",
    "getgroups": "EINVAL EPERM",
    "getpgid": "EPERM ESRCH",
    "getrandom": "EINTR EAGAIN ENOSYS",
    "getresgid": "EFAULT",
    "getresuid": "EFAULT",
    "getsid": "EPERM",
    "getsockopt": "ENOMEM",
    "getxattr": "ENODATA ENOTSUP EACCES",
    "inotify_add_watch": "EACCES ENOENT ENOMEM ENOSPC",
    "inotify_init1": "EMFILE ENFILE ENOMEM",
    "ioctl": "ENOTTY EPERM EINVAL",
    "kill": "EPERM ESRCH",
    "landlock_create_ruleset": "ENOSYS EOPNOTSUPP ENOMEM",
    "link": f"{_PATH} EDQUOT EEXIST EMLINK ENOSPC EPERM EROFS",
    "linkat": f"{_PATH} EDQUOT EEXIST EMLINK ENOSPC EPERM EROFS",
    "listen": "EADDRINUSE",
    "lseek": "ESPIPE",
    "lstat": _PATH,
    "membarrier": "ENOSYS EPERM",
    "memfd_create": "EMFILE ENFILE ENOMEM EPERM",
    "mkdir": f"{_PATH} EDQUOT EEXIST EMLINK ENOSPC EPERM EROFS",
    "mkdirat": f"{_PATH} EDQUOT EEXIST EMLINK ENOSPC EPERM EROFS",
    "mknodat": f"{_PATH} EDQUOT EEXIST ENOSPC EPERM EROFS",
    "mmap": "EAGAIN ENFILE ENOMEM EPERM",
    "mremap": "ENOMEM EAGAIN",
    "mount": f"{_PATH} EBUSY EINVAL EMFILE ENODEV EPERM EROFS ENOSPC",
    "mount_setattr": f"{_PATH} EBUSY EINVAL EPERM ENOSYS",
    "move_mount": f"{_PATH} EBUSY EINVAL EPERM",
    "nanosleep": "EINTR",
    "clock_nanosleep": "EINTR",
    "newfstatat": _PATH,
    "open": f"{_PATH} EDQUOT EEXIST EINTR EMFILE ENFILE ENOSPC EPERM EROFS ETXTBSY",
    "open_tree": f"{_PATH} EMFILE ENFILE EPERM EINVAL",
    "openat": f"{_PATH} EDQUOT EEXIST EINTR EMFILE ENFILE ENOSPC EPERM EROFS ETXTBSY",
    "openat2": f"{_PATH} EAGAIN EINTR EMFILE ENFILE ENOSYS EPERM EXDEV",
    "pidfd_getfd": "EMFILE EPERM ESRCH",
    "pidfd_open": "EMFILE ENFILE ENODEV ENOMEM ESRCH ENOSYS",
    "pidfd_send_signal": "EPERM ESRCH ENOSYS",
    "pipe": "EMFILE ENFILE",
    "pipe2": "EMFILE ENFILE",
    "pivot_root": "EBUSY EINVAL EPERM",
    "poll": "EINTR ENOMEM",
    "ppoll": "EINTR ENOMEM",
    "prctl": "EPERM EINVAL EACCES",
    "pread64": "EINTR EIO EAGAIN",
    "prlimit64": "EPERM EINVAL",
    "pwrite64": "EDQUOT EFBIG EINTR EIO ENOSPC",
    "read": _FD,
    "readlink": f"{_PATH} EINVAL EIO",
    "readlinkat": f"{_PATH} EINVAL EIO",
    "recvfrom": "EAGAIN ECONNREFUSED EINTR ENOMEM",
    # No ENOMEM: recvmsg(2) on a Unix socket allocates no memory (unix_dgram_recvmsg in
    # net/unix/af_unix.c).
    "recvmsg": "EAGAIN ECONNREFUSED EINTR",
    "rename": f"{_PATH} EBUSY EDQUOT ENOSPC EPERM EROFS",
    "renameat": f"{_PATH} EBUSY EDQUOT ENOSPC EPERM EROFS",
    "renameat2": f"{_PATH} EBUSY EDQUOT ENOSPC EPERM EROFS EEXIST",
    "rmdir": f"{_PATH} EBUSY ENOTEMPTY EPERM EROFS",
    "rt_sigtimedwait": "EAGAIN EINTR",
    "sched_getaffinity": "EPERM EINVAL",
    "sched_setaffinity": "EPERM EINVAL",
    "seccomp": "EACCES EINVAL ENOMEM ENOSYS",
    "select": "EINTR ENOMEM",
    "sendfile": "EAGAIN EIO ENOMEM",
    "sendmsg": f"{_SOCKET} ECONNRESET ETOOMANYREFS EAGAIN",
    "sendto": f"{_SOCKET} ECONNRESET EAGAIN",
    "setgroups": "EPERM ENOMEM EINVAL",
    "setns": "EPERM EINVAL ENOMEM EUSERS",
    "setpgid": "EACCES EPERM ESRCH",
    "setresgid": "EPERM EINVAL EAGAIN",
    "setresuid": "EPERM EINVAL EAGAIN",
    "setsid": "EPERM",
    "setsockopt": "EPERM ENOMEM",
    "shutdown": "ENOTCONN",
    "signalfd4": "EMFILE ENFILE ENOMEM ENODEV",
    "socket": "EACCES EMFILE ENFILE ENOBUFS ENOMEM",
    "socketpair": "EMFILE ENFILE ENOMEM EOPNOTSUPP",
    "stat": _PATH,
    "statfs": f"{_PATH} EINTR EIO ENOSYS",
    "fstatfs": "EINTR EIO ENOMEM",
    "statx": f"{_PATH} ENOSYS",
    "symlinkat": f"{_PATH} EDQUOT EEXIST ENOSPC EPERM EROFS",
    "sysinfo": "EPERM",
    "tgkill": "EAGAIN EPERM ESRCH",
    "timerfd_create": "EMFILE ENFILE ENOMEM",
    "umount2": f"{_PATH} EAGAIN EBUSY EINVAL EPERM",
    "uname": "EPERM",
    "unlink": f"{_PATH} EBUSY EPERM EROFS EIO",
    "unlinkat": f"{_PATH} EBUSY EPERM EROFS EIO ENOTEMPTY",
    "unshare": "EINVAL ENOMEM ENOSPC EPERM EUSERS",
    "utimensat": f"{_PATH} EPERM EROFS",
    "vfork": "EAGAIN ENOMEM",
    # No EINTR: wait4(2) fails with EINTR only if called without WNOHANG.
    "wait4": "ECHILD",
    "waitid": "ECHILD EINTR",
    "write": f"{_FD} EDQUOT EFBIG ENOSPC EPERM",
    "writev": f"{_FD} EAGAIN EDQUOT EFBIG ENOSPC EPERM",
}
#: Errors of each system call that the table above does not list.
ELSE = "EPERM ENOMEM"
#: System calls that may transfer fewer bytes than their third argument requests.
SHORT = ("read", "write", "pread64", "pwrite64", "recvfrom", "sendto")


def errors_of(call: str) -> list[str]:
    """Return the names of the errors to inject into `call`: none for :data:`EXCEPTIONS`."""
    return [] if call in EXCEPTIONS else NAMED.get(call, ELSE).split()


@cache
def names() -> dict[int, str]:
    """Return the names of x86-64's system calls by number."""
    header = next(Path("/usr/include").glob("x86_64-linux-gnu/asm/unistd_64.h"))
    found = re.findall(r"^#define __NR_(\w+) (\d+)", header.read_text(), re.MULTILINE)
    return {int(number): name for name, number in found}
