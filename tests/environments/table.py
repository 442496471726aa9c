"""Table of environments: which commands work in each, and which causes failing commands report."""

from __future__ import annotations

import errno
import platform
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import ways as w
from broken import NOBODY, few_ids, landlock, nest
from calls import CLONE_NEWUSER, MS_NOSUID, MS_RDONLY

#: Commands to run: `usernsctl run`, `usernsctl run --map-auto`, doctor for a run, and doctor for a
#: map of more than one id.
COMMANDS = ("run", "auto", "doctor", "range")
#: Commands to run in an environment that breaks only maps of more than one id.
RANGE = ("auto", "range")

#: Placeholder for a cause that the catalogue lacks. The command must then report the failed step.
STEP = "unknown"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An environment in which the commands run, with the expected results.

    :ivar kind: one of KINDS.
    :ivar root: misconfigurations that root applies; a string is the name of a misconfiguration in
        broken.py.
    :ivar early: misconfigurations that root applies to a command's process before the process
        changes its user.
    :ivar late: misconfigurations that are applied to a command's process after it has changed its
        user.
    :ivar user: the user who runs the commands, ``"nobody"`` or ``"root"``.
    :ivar uid: the uid of `user`.
    :ivar run: the cause that `usernsctl run` must report; or several causes, any of which is
        correct; or ``None`` if the command must work.
    :ivar auto: the cause or causes that `usernsctl run --map-auto` must report, as for `run`.
    :ivar range_: the cause or causes for a map of more than one id; by default those of `auto`, or
        ``None`` if they prevent only sandboxes (judging.SANDBOX_ONLY).
    :ivar status: the exit status of a command that works.
    :ivar sometimes: whether the commands may either fail with these causes or work, depending on a
        program's release.
    :ivar tried: the COMMANDS to run in this environment.
    :ivar apart: whether each command needs a new environment, because the kernel counts a namespace
        for some time after its last process has exited.
    :ivar silent: whether no message can be printed, so that only the exit status is checked.
    :ivar quiet: whether the output can't be read, so that only the exit status is checked.
    :ivar within: doctor's timeout in seconds, or ``None`` for its default.
    :ivar seconds: the timeout of each command, in seconds.
    """

    name: str
    kind: str
    root: Sequence[str | w.Way] = ()
    early: Sequence[str | w.Way] = ()
    late: Sequence[str | w.Way] = ()
    user: str = "nobody"
    uid: int = NOBODY
    gid: int = NOBODY
    groups: Sequence[int] = ()
    run: str | tuple[str, ...] | None = None
    auto: str | tuple[str, ...] | None = None
    range_: object = NotImplemented
    quiet: bool = False
    status: int = 0
    sometimes: bool = False
    tried: Sequence[str] = COMMANDS
    apart: bool = False
    silent: bool = False
    within: int | None = None
    seconds: float = 60


ENVIRONMENTS: dict[str, Environment] = {}
#: Kinds of environments; each section of this table appends one.
KINDS: list[str] = []


def add(
    name: str,
    *,
    both: str | tuple[str, ...] | None = None,
    auto: str | tuple[str, ...] | None = None,
    **more: object,
) -> None:
    """Add an environment to the table.

    :param both: the cause that both `run` and `run --map-auto` must report.
    """
    assert name not in ENVIRONMENTS, name
    ENVIRONMENTS[name] = Environment(
        name=name,
        kind=KINDS[-1],
        run=more.pop("run", both),  # type: ignore[arg-type]
        auto=auto or both,
        **more,  # type: ignore[arg-type]
    )


def add_range(name: str, **more: object) -> None:
    """Add an environment that breaks only maps of more than one id; run only RANGE in it."""
    add(name, tried=RANGE, **more)  # type: ignore[arg-type]


def add_counted(name: str, uid: int, **more: object) -> None:
    """Add an environment with its own user, since RLIMIT_NPROC counts all of a user's processes."""
    add(name, root=[w.another_user(uid)], uid=uid, gid=uid, **more)  # type: ignore[arg-type]


def filter_of(name: str, *calls: str, **more: object) -> None:
    """Add an environment with a seccomp filter that denies the system calls `calls` with EPERM."""
    add(name, early=[w.denied(*calls)], **more)  # type: ignore[arg-type]


# ---- working environments, ordinary and unusual ------------------------------------------------

KINDS.append("ordinary and unusual")
add("healthy")
add("root", user="root", auto="no-subordinate-range")
add("root-with-ranges", user="root", root=[w.ranges("root:100000:65536\n")])
add("extra-groups", groups=tuple(range(1000, 1040)))
add("umask-0777", late=[w.umask(0o777)])
add("umask-0700", late=[w.umask(0o700)])
add("umask-0", late=[w.umask(0)])
add("sigchld-ignored", late=[w.ignored(signal.SIGCHLD)])
add("sigpipe-ignored", late=[w.ignored(signal.SIGPIPE)])
add("term-ignored", late=[w.ignored(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)])
add("signals-blocked", late=[w.blocked])
add("stdin-closed", late=[w.closed(0)])
add("stdin-socket", late=[w.socket_input])
add("no-variables", late=[w.no_variables])
add("home-missing", late=[w.variables(HOME=w.NO_FILE, TMPDIR=w.NO_FILE)])
add(
    "home-file",
    late=[w.variables(HOME="/etc/passwd", TMPDIR="/etc/passwd", XDG_RUNTIME_DIR="/etc/passwd")],
)
add("locale-wrong", late=[w.variables(LANG="xx_YY", LC_ALL="nowhere", PYTHONUTF8="0")])
add("path-unset", late=[w.variables(PATH=None)])
add("cwd-gone", root=[w.gone_directory])
add("cwd-closed", root=[w.closed_directory])
add("many-descriptors", late=[w.ten_descriptors])
add("mdwe", late=[w.mdwe], both="memory-deny-write-execute")
add("read-only", root=["read-only"])
add("tmp-read-only", root=[w.remounted("/tmp", MS_RDONLY)])
add("tmp-noexec", root=[w.remounted("/tmp", w.MS_NOEXEC)])
add("no-sys", root=[w.empty("/sys")])
add("sys-read-only", root=[w.remounted("/sys", MS_RDONLY)])
add("no-proc-sys", root=["no-proc-sys"], both=("no-proc", STEP), range_=None)
add("no-run", root=[w.empty("/run")])
add("no-home", root=[w.empty("/home")])
add("no-root-home", root=[w.empty("/root")])
add("no-var", root=[w.empty("/var/tmp")])
add("dev-minimal", root=[w.devices("null", "zero", "full", "random", "urandom", "tty")])
add("dev-null-only", root=[w.devices("null")])
for hidden in ("noaccess", "invisible", "ptraceable"):
    add(f"hidepid-{hidden}", root=[w.proc(f"hidepid={hidden}")])
add("proc-masked", root=["proc-masked"])
add("core-0", late=[w.limit("CORE", 0)])
add("memlock-0", late=[w.limit("MEMLOCK", 0)])
add("sigpending-0", late=[w.limit("SIGPENDING", 0)])
add("nice-0", late=[w.limit("NICE", 0)])
add("data-unlimited-stack", late=[w.limit("STACK", -1)])
add("stack-128k", late=[w.limit("STACK", 128 << 10)])
add("stack-256k", late=[w.limit("STACK", 256 << 10)])
add("stack-1m", late=[w.limit("STACK", 1 << 20)])
add("nofile-64", late=[w.limit("NOFILE", 64, 64)], both="descriptor-limit", range_=None)
add("nofile-256", late=[w.limit("NOFILE", 256, 256)], both="descriptor-limit", range_=None)
# A low soft limit is harmless, because runsc raises it to the hard limit, as every Go program does.
add("nofile-64-soft", late=[w.limit("NOFILE", 64)])
add("as-64g", late=[w.limit("AS", 512 << 30)])

# The mounts that container engines and units of systemd set up, and the other attributes that
# programs inherit on hosts.
add("engine-masks", root=[w.engine_masks])
add("proc-sys-read-only", root=[w.remounted("/proc/sys", MS_RDONLY)])
add("cgroup-read-only", root=[w.remounted("/sys/fs/cgroup", MS_RDONLY)])
add("cgroup-hidden", root=[w.empty("/sys/fs/cgroup")])
add("mounts-shared", root=[w.shared])
add("tmp-closed", root=[w.covered_mode("/tmp", 0o700), w.covered_mode("/var/tmp", 0o700)])
add("time-namespace", root=[w.time_namespace])
add("no-network", root=[w.no_network])
add("no-hostname", root=[w.no_hostname])
add("no-getent", root=[w.programs_missing("getent", "getsubids")])
add("path-odd", root=[w.path_first("/nonexistent", "/mnt/c/Program Files", "", ".", "/root")])
add("ld-preload-missing", late=[w.variables(LD_PRELOAD=w.NO_FILE)])
add("go-variables", late=[w.variables(GODEBUG="inittrace=1", GOMAXPROCS="1", GOTRACEBACK="crash")])
add("one-processor", late=[w.one_processor])
add("most-open-files", late=[w.most_open_files])
# PER_LINUX32 makes uname(2) return i686; UNAME26 makes it return a release 2.6 (personality(2)).
add("linux32", late=[w.personality(0x8)])
add("uname26", late=[w.personality(0x20000)])
# SECBIT_NO_CAP_AMBIENT_RAISE and its lock.
add("securebits-no-ambient", early=[w.securebits(0xC0)])
add("landlock-network", early=[w.landlock_apart_from_files(3, 0)])
add("landlock-scopes", early=[w.landlock_apart_from_files(0, 3)])

# ---- harmless seccomp filters ------------------------------------------------------------------

KINDS.append("filters of single calls")
REFUSED = ("seccomp-denies-call", "seccomp-denies-userns")
for one in ("fchdir", "clone3", "close_range", "keyctl", "bpf", "personality", "sethostname",
            "membarrier", "mknodat", "process_vm_writev"):  # fmt: skip
    filter_of(f"no-{one}", one)
# newuidmap fails only in releases that call openat2(2), such as Debian's since shadow
# 1:4.17.4-2+deb13u1.
filter_of("no-openat2", "openat2", auto="seccomp-denies-helper", sometimes=True)
add("no-clone3-enosys", early=[w.denied("clone3", number=errno.ENOSYS)])
add("no-setns", early=[w.denied("setns")], both="seccomp-denies-userns")
add("no-kill", early=[w.denied("kill")], both=REFUSED, range_=None)
add("no-socketpair", early=[w.denied("socketpair")], both=REFUSED, range_=REFUSED)

# ---- seccomp filters and other denials of namespaces -------------------------------------------

KINDS.append("filters of namespaces, mounts and tracing")
for name in ("seccomp-engine", "seccomp-flags"):
    add(name, early=[name], both="seccomp-denies-userns")
add(
    "unshare-enosys", early=[w.denied("unshare", number=errno.ENOSYS)], both="seccomp-denies-userns"
)
add("unshare-only", early=[w.denied("unshare")], both="seccomp-denies-userns")
add(
    "newuser-unshare-only",
    early=[w.filtered(("unshare", CLONE_NEWUSER, errno.EPERM))],
    both="seccomp-denies-userns",
)
add(
    "newuser-clone-only",
    early=[w.filtered(("clone", CLONE_NEWUSER, errno.EPERM), ("clone3", 0, errno.ENOSYS))],
    both=REFUSED,
    range_=None,
)
add(
    "newuser-acces",
    early=[w.filtered(("unshare", CLONE_NEWUSER, errno.EACCES))],
    both=("lsm-denies-userns", "seccomp-denies-userns"),
)
add("unshare-killed", early=[w.killed("unshare")], both=REFUSED, range_=REFUSED)
add("seccomp-mount", early=["seccomp-mount"], both="mount-denied")
add("mount-enosys", early=[w.denied("mount", number=errno.ENOSYS)], both="mount-denied")
add("mount-killed", early=[w.killed("mount")], both="mount-denied")
for one in ("open_tree", "move_mount", "mount_setattr"):
    add(f"{one}-killed", early=[w.killed(one)], both="mount-by-descriptor-missing")
add("setns-killed", early=[w.killed("setns")], both="seccomp-denies-userns")
add("clone3-killed", early=[w.killed("clone3")], both=REFUSED, range_=REFUSED)
add("pivot-root-killed", early=[w.killed("pivot_root")], both=("mount-denied", "runsc-killed"))
add("umount-killed", early=[w.killed("umount2")], both=("seccomp-denies-call", "runsc-killed"))
add("no-umount", early=[w.denied("umount2")], both="seccomp-denies-call")
add("no-pivot-root", early=[w.denied("pivot_root")], both="mount-denied")
add("no-chroot", early=[w.denied("chroot")], both="seccomp-denies-call")
add("seccomp-mount-bind", early=["seccomp-mount-bind"], both="mount-by-descriptor-missing")
add(
    "mount-bind-enosys",
    early=[w.denied("open_tree", "move_mount", "mount_setattr", number=errno.ENOSYS)],
    both="mount-by-descriptor-missing",
)
add("seccomp-ptrace", early=["seccomp-ptrace"], both="ptrace-denied")
add("ptrace-enosys", early=[w.denied("ptrace", number=errno.ENOSYS)], both="ptrace-denied")
add("ptrace-killed", early=[w.killed("ptrace")], both="ptrace-denied")
add("no-dup3", early=[w.denied("dup3")], both=REFUSED, range_=None)
add("no-seccomp", early=[w.denied("seccomp")], both="seccomp-denies-call")
add("no-capset", early=[w.denied("capset")], both="seccomp-denies-call")
add("no-memfd", early=[w.denied("memfd_create")], both="seccomp-denies-call")
add("no-pidfd", early=[w.denied("pidfd_open")], both=REFUSED, range_=REFUSED)
add(
    "pidfd_open-killed",
    early=[w.killed("pidfd_open")],
    both="seccomp-denies-call",
    range_="seccomp-denies-call",
)
for one in ("setresgid", "setresuid"):
    # An unprivileged user can load a filter only after setting no_new_privs, which disables
    # newuidmap.
    add(
        f"no-{one}",
        late=[w.denied(one)],
        run="seccomp-denies-call",
        auto="no-new-privs",
        range_="no-new-privs",
    )
    add(f"{one}-killed", late=[w.killed(one)], run="seccomp-denies-call", tried=("run", "doctor"))
if platform.machine() == "x86_64":
    # On x86-64, libc's poll(3) calls poll(2). Other architectures lack poll(2), so libc calls
    # ppoll(2) there.
    add("ppoll-killed", early=[w.killed("ppoll")], both=("seccomp-denies-call", "runsc-killed"))
add("kill-killed", early=[w.killed("kill")], both="seccomp-denies-call")
if platform.machine() == "x86_64":
    add("no-dup2", early=[w.denied("dup2")], run="seccomp-denies-call", tried=("run", "doctor"))
    add("poll-killed", early=[w.killed("poll")], run=REFUSED, tried=("run", "doctor"))
    # musl's fork(3) and Python's subprocess make these system calls. usernsctl works without them,
    # since it calls clone(2) instead.
    for one in ("fork", "vfork"):
        add(f"{one}-killed", early=[w.killed(one)])
# System calls that usernsctl or runsc makes. A process that a filter kills can't report the call.
for one in ("chdir", "mkdirat", "symlinkat", "readlinkat", "recvmsg", "sendmsg", "getpid",
            "close_range", "pidfd_send_signal", "rt_sigtimedwait", "seccomp", "bind",
            "epoll_ctl", "flock", "eventfd2", "faccessat", "dup3", "connect", "socket", "waitid",
            "wait4", "uname", "dup", "getcwd", "statx", "fallocate", "setpriority", "getpriority",
            "fgetxattr", "syslog", "clock_nanosleep", "getuid", "geteuid", "getegid"):  # fmt: skip
    add(f"{one}-killed", early=[w.killed(one)], run=REFUSED, tried=("run", "doctor"))
add("getrusage-killed", early=[w.killed("getrusage")], run=REFUSED, tried=("run", "doctor"))
# System calls that a sandbox does not need, so doctor must work without them.
for one in ("getxattr", "setpgid"):
    add(f"{one}-killed", early=[w.killed(one)], tried=("run", "doctor"))
# Without statfs(2), usernsctl can't search for subordinate ranges. Without pipe2(2), Python's
# subprocess fails.
for one, run in (("statfs", None), ("pipe2", "seccomp-denies-call")):
    cause = "seccomp-denies-call"
    add(f"{one}-killed", early=[w.killed(one)], run=run, auto=cause, range_=cause)
# Without accept4(2), wait4(2) or shutdown(2), runsc hangs.
for one in ("accept4", "wait4", "shutdown"):
    for number in (errno.EPERM, errno.ENOSYS):
        add(
            f"no-{one}-{number}",
            early=[w.denied(one, number=number)],
            run="seccomp-denies-call",
            tried=("run", "doctor"),
            within=20,
        )
for one in ("setsid", "capget", "flock", "mkdirat", "symlinkat", "readlinkat", "getrandom",
            "chdir", "bind", "epoll_ctl", "dup", "getcwd", "prlimit64", "writev"):  # fmt: skip
    add(
        f"no-{one}",
        early=[w.denied(one)],
        run="seccomp-denies-call",
        tried=("run", "doctor"),
    )
add(
    "no-fgetxattr",
    early=[w.denied("fgetxattr")],
    run="seccomp-denies-call",
    tried=("run", "doctor"),
)
for one in ("getppid", "munmap"):
    add(
        f"no-{one}",
        early=[w.denied(one, number=errno.ENOSYS)],
        run="seccomp-denies-call",
        tried=("run", "doctor"),
    )
# Python can't start without these calls, but usernsctl-exec must still report the cause.
for one in ("newfstatat", "openat"):
    add(
        f"no-{one}",
        early=[w.denied(one, number=errno.ENOSYS)],
        range_="seccomp-denies-call",
        tried=("exec",),
    )
# Without these calls, Python fails before doctor can report a cause.
for one in ("rt_sigaction", "rt_sigprocmask", "getpid", "geteuid", "getegid",
            "getpriority"):  # fmt: skip
    for number in (errno.EPERM, errno.ENOSYS):
        add(
            f"no-{one}-{number}",
            early=[w.denied(one, number=number)],
            run="seccomp-denies-call",
            tried=("run",),
        )
if platform.machine() == "x86_64":
    for one in ("access", "getrlimit"):
        add(f"no-{one}", early=[w.denied(one)], run="seccomp-denies-call", tried=("run",))
add("epoll_create1-killed", early=[w.killed("epoll_create1")], run=REFUSED, tried=("run", "doctor"))
# Python can't start without these calls, but usernsctl-exec must not blame newuidmap.
for one in ("lseek", "mprotect", "pread64"):
    add(
        f"no-{one}",
        early=[w.denied(one)],
        run=STEP,
        range_="seccomp-denies-helper",
        tried=("exec",),
    )
add("no-fcntl", early=[w.denied("fcntl")], run=STEP, range_="seccomp-denies-call", tried=("exec",))
AF_UNIX, PR_SET_PDEATHSIG = 1, 1
add(
    "no-unix-sockets",
    early=[
        w.denied_value("socket", AF_UNIX, errno.EAFNOSUPPORT),
        w.denied_value("socketpair", AF_UNIX, errno.EAFNOSUPPORT),
    ],
    both="seccomp-denies-call",
    range_="seccomp-denies-call",
)
add(
    "no-pdeathsig",
    early=[w.denied_value("prctl", PR_SET_PDEATHSIG)],
    both="seccomp-denies-call",
    range_="seccomp-denies-call",
)
add("setns-enosys", early=[w.denied("setns", number=errno.ENOSYS)], both="seccomp-denies-userns")
add(
    "unshare-enomem",
    early=[w.denied("unshare", number=errno.ENOMEM)],
    both="seccomp-denies-userns",
)
for one in ("open_tree", "move_mount", "mount_setattr"):
    add(
        f"{one}-einval",
        early=[w.denied(one, number=errno.EINVAL)],
        both="mount-by-descriptor-missing",
        range_=None,
    )

add("mount-acces", early=[w.denied("mount", number=errno.EACCES)], both="mount-denied")
# systemd's SystemCallFilter=@system-service, as far as it concerns usernsctl and gVisor.
UNPRIVILEGED = ("mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount",
                "mount_setattr", "ptrace", "process_vm_writev", "bpf")  # fmt: skip
add(
    "system-service",
    early=[w.denied(*UNPRIVILEGED)],
    both=("mount-denied", "ptrace-denied"),
)
add(
    "system-service-killed",
    early=[w.killed(*UNPRIVILEGED)],
    both="mount-denied",
)
# Address families that systemd's RestrictAddressFamilies=AF_UNIX denies.
AF_INET, AF_INET6, AF_NETLINK = 2, 10, 16
add(
    "only-unix-sockets",
    early=[
        w.denied_value("socket", family, errno.EAFNOSUPPORT)
        for family in (AF_INET, AF_INET6, AF_NETLINK)
    ],
)
# The system calls that Linux 4.4 lacks.
add(
    "linux-4.4",
    early=[
        w.denied(
            *("clone3", "pidfd_open", "pidfd_send_signal", "openat2", "close_range"),
            *("open_tree", "move_mount", "mount_setattr"),
            number=errno.ENOSYS,
        )
    ],
    both=("seccomp-denies-call", "mount-by-descriptor-missing"),
    range_="seccomp-denies-call",
)
# A pod with the Pod Security Standard "restricted", and one with the seccomp profile Unconfined.
POD_SECURITY = [w.engine_masks, "read-only"]
add(
    "kubernetes-restricted",
    root=POD_SECURITY,
    early=["powerless-root", "seccomp-engine"],
    late=["no-new-privs"],
    both="seccomp-denies-userns",
    range_=("seccomp-denies-userns", "no-new-privs"),
)
add(
    "kubernetes-unconfined",
    root=POD_SECURITY,
    early=["powerless-root"],
    late=["no-new-privs"],
    auto="no-new-privs",
)
add(
    "sysctl-userns-clone",
    root=[w.sysctl("unprivileged_userns_clone", "0\n")],
    early=[
        w.filtered(("unshare", CLONE_NEWUSER, errno.EPERM), ("clone", CLONE_NEWUSER, errno.EPERM))
    ],
    both="unprivileged-userns-clone-off",
)
add(
    "sysctl-yama",
    root=[w.sysctl("yama/ptrace_scope", "3\n")],
    early=["seccomp-ptrace"],
    both=("ptrace-denied", "yama-ptrace-scope"),
)

# ---- resource limits ---------------------------------------------------------------------------

KINDS.append("limits")
for most in range(5):
    add_counted(f"nproc-{most}", 64000 + most, late=[w.limit("NPROC", most)], both="process-limit")
for most in (12, 15, 20):
    add_counted(
        f"nproc-{most}",
        64000 + most,
        late=[w.limit("NPROC", most)],
        both="process-limit",
        range_=None,
    )
add(
    "nofile-10",
    late=[w.limit("NOFILE", 10, 10)],
    both="descriptor-limit",
    range_="descriptor-limit",
)
add("nofile-5", late=[w.limit("NOFILE", 5)], both="descriptor-limit", range_="descriptor-limit")
add("nofile-20", late=[w.limit("NOFILE", 20, 20)], both="descriptor-limit", range_=None)
add("as-200m", late=[w.limit("AS", 200 << 20)], both=("address-space-limit", STEP), range_=None)
add("as-1g", late=[w.limit("AS", 1 << 30)], both="address-space-limit")
add("as-1g-hard", late=[w.limit("AS", 1 << 30, 1 << 30)], both="address-space-limit")
add("fsize-1m-hard", late=[w.limit("FSIZE", 1 << 20, 1 << 20)], both="file-size-limit")
add_counted(
    "nproc-15-hard", 64016, late=[w.limit("NPROC", 15, 15)], both="process-limit", range_=None
)
add("as-8g", late=[w.limit("AS", 8 << 30)])
add("data-64m", late=[w.limit("DATA", 64 << 20)])
add(
    "data-20m",
    late=[w.limit("DATA", 20 << 20)],
    both=("address-space-limit", STEP),
    range_=None,
)
# With this limit, even the Python interpreter can't start.
add(
    "data-8m",
    late=[w.limit("DATA", 8 << 20)],
    both=("address-space-limit", STEP),
    tried=("run", "auto"),
)
add("fsize-0", late=[w.limit("FSIZE", 0)], both="file-size-limit")
add("fsize-1m", late=[w.limit("FSIZE", 1 << 20)], both="file-size-limit")

# ---- files and mounts --------------------------------------------------------------------------

KINDS.append("files and mounts")
add("no-proc", root=["no-proc"], both="no-proc")
add("proc-of-outer-pids", root=[w.proc_of_outer_pids], both="no-proc", range_=None)
add("proc-of-other-pids", root=[w.proc_of_other_pids], both="no-proc")
add("proc-read-only", root=["proc-read-only"], both="proc-read-only")
add("proc-subset", root=[w.proc("subset=pid")], both=("no-proc", STEP), range_=None)
add("chroot", root=["chroot"], both="in-chroot")
add("chroot-into-mount-point", root=[w.chroot_into_mount_point], both="in-chroot")
add("dev-empty", root=[w.empty("/dev")], both="dev-null-missing")
add("dev-null-0600", root=[w.devices("null"), w.mode("/dev/null", 0o600)], both="dev-null-missing")
# In a control group with a memory limit, `usernsctl run` mounts its own file over /proc/meminfo, so
# the commands may also work.
for name, way in {
    "covered": w.device("/proc/meminfo", "/dev/null"),
    "closed": w.covered_mode("/proc/meminfo", 0),
}.items():
    add(f"meminfo-{name}", root=[way], both="meminfo-unreadable", sometimes=True)
add("no-mount-point", root=[w.no_mount_point], both="no-mount-point")
add("dev-nodev", root=[w.devices("null", flags=w.MS_NODEV)], both="dev-null-missing")
CLOSED = ("no-passwd-entry", "subid-file-unreadable")
UNREADABLE = "host-directory-unreadable"
for bits in (0, 0o750):
    name = f"etc-{bits:04o}" if bits else "etc-closed"
    add(name, root=[w.covered_mode("/etc", bits)], run=UNREADABLE, auto=CLOSED)
add("passwd-closed", root=[w.covered_mode("/etc/passwd", 0)], auto="no-passwd-entry")
add("passwd-empty", root=[w.file("/etc/passwd", "")], auto="no-passwd-entry")
add("group-empty", root=[w.file("/etc/group", "")])
add("nsswitch-closed", root=[w.covered_mode("/etc/nsswitch.conf", 0)])
add("nsswitch-empty", root=[w.file("/etc/nsswitch.conf", "")])
add("login-defs-empty", root=[w.file("/etc/login.defs", "")])
add("landlock", early=["landlock"], both="landlock")
for name, allowed in {"proc": "/proc", "all": "/"}.items():
    add(
        f"landlock-allows-{name}",
        early=[partial(landlock, allowed)],
        both="landlock-denies-mount",
    )
add("cap-last-cap-empty", root=[w.file("/proc/sys/kernel/cap_last_cap", "")])
add("full-output", late=[w.full_output], quiet=True, status=1)
add("stdout-closed", late=[w.closed(1)], quiet=True)
add("stderr-closed", late=[w.closed(2)], silent=True)
add("all-closed", late=[w.closed(0, 1, 2)], quiet=True, silent=True)

# ---- subordinate id ranges ---------------------------------------------------------------------

KINDS.append("subordinate ranges")
OWN = f"{NOBODY}"
for name, text in {
    "by-name": "nobody:100000:65536\n",
    "tabs": f"{OWN}:\t100000:\t65536\n",
    "spaces": "nobody: 165536: 65536\n",
    "plus": f"{OWN}:+100000:+65536\n",
    "no-line-end": f"{OWN}:100000:65536",
    "comment": f"# nobody:1:2\n\n{OWN}:100000:65536\n",
    "two": f"{OWN}:100000:65536\n{OWN}:300000:65536\n",
    "overlap": f"{OWN}:100000:65536\n{OWN}:150000:65536\n",
    "small": f"{OWN}:100000:1\n",
    "huge": f"{OWN}:100000:4000000000\n",
    "others-bad": f"somebody\n:::\nother:x:y\n{OWN}:100000:65536\n",
    "long-line": f"{'x' * 9000}:1:1\n{OWN}:100000:65536\n",
    "bad-then-good": f"{OWN}:x:y\n{OWN}:100000:65536\n",
    "other-name-first": f"nobodyelse:100000:65536\n{OWN}:300000:65536\n",
    "leading-zeros": f"{OWN}:0100000:065536\n",
    "four-fields": f"{OWN}:100000:65536:more\n{OWN}:100000:65536\n",
}.items():
    add(f"ranges-{name}", root=[w.ranges(text)], tried=RANGE)
add("ranges-400", root=[w.ranges("".join(f"{OWN}:{100000 + 10 * n}:5\n" for n in range(400)))])
add("ranges-of-second-name", root=[w.two_names])
add("ranges-shared", root=["ranges-shared"])
for name, text in {
    "none": "",
    "of-another": "somebody:100000:65536\n",
    "count-0": f"{OWN}:100000:0\n",
    "negative": f"{OWN}:-1:65536\n",
    "past-the-end": f"{OWN}:4294967000:65536\n",
    "two-fields": f"{OWN}:100000\n",
    "words": f"{OWN}:many:more\n",
    "crlf": f"{OWN}:100000:65536\r\n",
    "by-gid-name": "nogroup:100000:65536\n",
    "nul": f"\0{OWN}:100000:65536\n",
    "upper-case": "NOBODY:100000:65536\n",
}.items():
    add(f"ranges-{name}", root=[w.ranges(text)], auto="no-subordinate-range", tried=RANGE)
add("subgid-empty", root=[w.ranges(f"{OWN}:100000:65536\n", "")], auto="no-subordinate-range")
add("subuid-empty", root=[w.ranges("", f"{OWN}:100000:65536\n")], auto="no-subordinate-range")
add("ranges-unreadable", root=["ranges-unreadable"], auto="subid-file-unreadable")
add("subgid-unreadable", root=[w.mode("/etc/subgid", 0)], auto="subid-file-unreadable")
add("subuid-fifo", root=[w.fifo("/etc/subuid")], auto="subid-not-a-file")
add("subgid-fifo", root=[w.fifo("/etc/subgid")], auto="subid-not-a-file")
add("subuid-device", root=[w.device("/etc/subuid", "/dev/zero")], auto="subid-not-a-file")
add("subid-missing", root=[w.etc_without("subuid", "subgid")], auto="no-subordinate-range")
add("subuid-directory", root=[w.subuid_directory], auto="subid-not-a-file")
add_range("subuid-link", root=[w.subuid_link("subuid-kept")], auto="subid-not-a-file")
add_range("subuid-link-broken", root=[w.subuid_link(w.NO_FILE)], auto="subid-not-a-file")
for name in ("nsswitch.conf", "login.defs"):
    add(f"{name}-missing", root=[w.etc_without(name)], tried=RANGE)
for name, user in {"domain": "a user@example.org", "backslash": "EXAMPLE\\user"}.items():
    add(f"user-with-{name}", root=[w.named(user)], tried=RANGE)
add("ranges-of-service", root=["ranges-of-service"], auto="nss-subid")
add("gid-entry", root=["gid-entry"], gid=1234, auto=("subgid-by-gid", "no-subordinate-range"))
add("nameless", root=["nameless"], auto="no-passwd-entry")
POD = 1000660000
add(
    "openshift",
    root=[w.ranges(f"{POD}:100000:65536\n")],
    uid=POD,
    gid=0,
    auto="no-passwd-entry",
)
add(
    "openshift-group-of-own",
    root=[w.ranges(f"{POD}:100000:65536\n")],
    uid=POD,
    gid=POD,
    auto="no-passwd-entry",
)
add(
    "openshift-groups",
    root=[w.ranges(f"{POD}:100000:65536\n")],
    uid=POD,
    gid=0,
    groups=(POD,),
    auto="no-passwd-entry",
)
add("other-group", root=["other-group"], auto="gid-differs-from-passwd")
add("slow-nss", root=[w.slow_nss], auto=("no-passwd-entry", "no-answer-in-time"), within=8)

# ---- newuidmap and newgidmap -------------------------------------------------------------------

KINDS.append("newuidmap and newgidmap")
add_range("helpers-missing", root=["helpers-missing"], auto="helper-missing")
add_range("newgidmap-missing", root=[w.only_newuidmap], auto="helper-missing")
add_range("helpers-powerless", root=["helpers-powerless"], auto="helper-not-setuid")
add_range("helpers-0755", root=[w.helpers(0o755)], auto="helper-not-setuid")
add_range("helpers-4750", root=[w.helpers(0o4750)], auto="helper-not-executable")
add_range("helpers-4644", root=[w.helpers(0o4644)], auto="helper-not-executable")
add_range("helpers-of-nobody", root=[w.helpers(0o4755, NOBODY)], auto="helper-not-setuid")
add_range("helpers-4711", root=[w.helpers(0o4711)])
add_range("helpers-nosuid", root=["helpers-nosuid"], auto="helper-on-nosuid")
add_range(
    "helpers-nosuid-system", root=[w.remounted("/usr/bin", MS_NOSUID)], auto="helper-on-nosuid"
)
add_range("helpers-0555", root=[w.helpers(0o555)], auto="helper-not-setuid")
add_range("helpers-2755", root=[w.helpers(0o2755)], auto="helper-not-setuid")
add_range("helpers-4700", root=[w.helpers(0o4700)], auto="helper-not-executable")
add_range("helpers-0", root=[w.helpers(0)], auto="helper-not-executable")
add_range("helpers-capabilities", root=[w.helper_capabilities(None)])
add_range(
    "helpers-setuid-and-capable",
    root=[w.helpers_setuid_and_capable],
    auto="helper-setuid-and-capable",
)
add_range(
    "helpers-capabilities-elsewhere",
    root=[w.helper_capabilities(100000)],
    auto="helper-caps-other-userns",
)
add_range("helpers-directories-first", root=[w.directories_first("newuidmap", "newgidmap")])
add_range(
    "helpers-unusable-first", root=[w.programs("newuidmap", "newgidmap", text="", bits=0o644)]
)
for name, text in {"empty": "", "text": "hello\n"}.items():
    for bits in (0o755, 0o4755):
        add_range(
            f"helpers-{name}-{bits:o}",
            root=[w.programs("newuidmap", "newgidmap", text=text, bits=bits)],
            auto="helper-not-a-program",
        )
add_range(
    "helpers-wrong-capability", root=[w.helper_wrong_capability], auto="helper-wrong-capability"
)
add_range("helpers-elsewhere", root=[w.helpers_elsewhere])
WRAPPER = '#!/bin/sh\nexec /usr/bin/$(basename "$0") "$@"\n'
add_range("helpers-wrapped", root=[w.programs("newuidmap", "newgidmap", text=WRAPPER)])
add_range(
    "helpers-exit-1",
    root=[
        w.programs("newuidmap", "newgidmap", text="#!/bin/sh\necho no >&2; exit 1\n", bits=0o4755)
    ],
    auto="helper-failed",
)
add_range(
    "helpers-lie",
    root=[w.programs("newuidmap", "newgidmap", text="#!/bin/sh\nexit 0\n", bits=0o4755)],
    auto="map-not-written",
)
add_range(
    "helpers-killed",
    root=[w.programs("newuidmap", "newgidmap", text="#!/bin/sh\nkill -9 $$\n", bits=0o4755)],
    auto="helper-killed",
)
add_range(
    "helpers-hang",
    root=[w.programs("newuidmap", "newgidmap", text="#!/bin/sh\nexec sleep 100\n", bits=0o4755)],
    auto=("helper-hung", "no-answer-in-time"),
    within=8,
)
add_range(
    "helpers-no-interpreter",
    root=[w.programs("newuidmap", "newgidmap", text="#!/nonexistent\n", bits=0o4755)],
    auto="helper-not-a-program",
)
add_range("no-new-privs", late=["no-new-privs"], auto="no-new-privs")
add_range("bounded", root=["bounded"], auto="bounding-set")
add_range("bounding-set-empty", early=["powerless-root"], auto="bounding-set")
add_range("bounded-setgid", early=[w.unbounded(w.CAP_SETGID)], auto="bounding-set")
add_range(
    "bounded-admin",
    root=[w.helpers(0o4755)],
    early=[w.unbounded(w.CAP_SYS_ADMIN)],
    auto="bounding-set",
)

# ---- callers: ids, capabilities and other attributes -------------------------------------------

KINDS.append("callers and containers")
add(
    "powerless-root",
    root=["powerless-root"],
    user="root",
    run="needs-setfcap",
    auto=("needs-setfcap", "no-subordinate-range"),
)
add(
    "root-without-setfcap",
    user="root",
    early=[w.unbounded(w.CAP_SETFCAP)],
    run="needs-setfcap",
    auto=("needs-setfcap", "no-subordinate-range"),
)
OTHER = 1234
for name, uids, gids, auto in (
    ("ruid", (OTHER, NOBODY, NOBODY), (NOBODY,) * 3, "no-passwd-entry"),
    ("euid", (NOBODY, OTHER, NOBODY), (NOBODY,) * 3, "no-passwd-entry"),
    ("suid", (NOBODY, NOBODY, OTHER), (NOBODY,) * 3, None),
    ("rgid", (NOBODY,) * 3, (OTHER, NOBODY, NOBODY), "gid-differs-from-passwd"),
    ("egid", (NOBODY,) * 3, (NOBODY, OTHER, NOBODY), "gid-differs-from-passwd"),
    ("sgid", (NOBODY,) * 3, (NOBODY, NOBODY, OTHER), None),
):
    late = [w.ids(uids=uids, gids=gids)]
    add(f"{name}-differs", user="root", late=late, auto=auto)
add("securebits-noroot", root=[w.helpers(0o4755)], early=[w.no_root], auto="securebits-noroot")
add("ambient-set-ids", early=[w.ambient(w.CAP_SETUID, w.CAP_SETGID)])
add("ambient-all-three", early=[w.ambient(w.CAP_SETUID, w.CAP_SETGID, w.CAP_SETFCAP)])
add("ambient-admin", early=[w.ambient(w.CAP_SYS_ADMIN)])
add("unmapped", late=["unmapped"], both="caller-id-unmapped")
add(
    "nested-deep",
    late=["nested-deep"],
    run="nesting-too-deep",
    auto=("nesting-too-deep", "no-subordinate-range"),
)
add(
    "nested-no-more",
    late=["nested-no-more"],
    run="max-user-namespaces",
    auto=("max-user-namespaces", "no-subordinate-range"),
)
# systemd's PrivateUsers=yes.
add(
    "private-users",
    root=[partial(few_ids, f"0 0 1\n{NOBODY} {NOBODY} 1")],
    auto="range-outside-parent",
)
add_counted("uid-huge", 3_000_000_000)
add("unshare-Ur", late=[nest], auto="no-subordinate-range")
add("container", root=[w.ranges(w.RANGE_INSIDE), w.container()])
add("container-range-outside", root=[w.own_etc, "few-ids"], auto="range-outside-parent")
add(
    "container-without-range",
    root=[w.ranges(""), w.own_etc, "few-ids"],
    auto="no-subordinate-range",
    tried=RANGE,
)
for most in range(11):
    add(
        f"max-user-{most}",
        root=[w.ranges(w.RANGE_INSIDE), w.container({"max_user_namespaces": most})],
        both="max-user-namespaces" if most < 3 else None,
        range_="max-user-namespaces" if most < 1 else None,
        apart=True,
    )
# Number of namespaces of each type that a sandbox needs. No sandbox has a cgroup namespace.
for kind, needed, cause in (
    ("net", 2, "max-net-namespaces"),
    ("mnt", 3, "max-mnt-namespaces"),
    ("pid", 1, "max-pid-namespaces"),
    ("ipc", 2, "max-ipc-namespaces"),
    ("uts", 2, "max-uts-namespaces"),
    ("cgroup", 0, None),
):
    for most in range(needed + 1):
        add(
            f"max-{kind}-{most}",
            root=[
                w.ranges(w.RANGE_INSIDE),
                w.container({f"max_{kind}_namespaces": most}),
            ],
            both=cause if most < needed else None,
            apart=True,
        )

# ---- runsc -------------------------------------------------------------------------------------

KINDS.append("runsc")
add("runsc-missing", root=[w.runsc_missing], both="runsc-missing")
add(
    "runsc-named-missing",
    late=[w.variables(USERNSCTL_RUNSC="/nonexistent/runsc")],
    both="runsc-missing",
)
add("runsc-0644", root=[w.runsc_copy(0o644)], both="runsc-not-executable")
add("runsc-0711", root=[w.runsc_copy(0o711)], both="not-dumpable", range_=None)
add(
    "runsc-named-0644",
    root=[w.runsc_copy(0o644), w.variables(USERNSCTL_RUNSC="/mnt/runsc")],
    both="runsc-not-executable",
)
add("runsc-closed", root=[w.runsc_closed], both="runsc-not-executable")
add("runsc-noexec", root=[w.runsc_noexec], both="runsc-not-executable")
add("runsc-directory", late=[w.variables(USERNSCTL_RUNSC="/usr")], both="not-runsc")
add("runsc-directory-first", root=[w.directories_first("runsc")])
add("runsc-unusable-first", root=[w.runsc("", 0o644)])
add("runsc-empty", root=[w.runsc("")], both="not-runsc")
add("runsc-text", root=[w.runsc("hello\n")], both="not-runsc")
add("runsc-truncated", root=[w.runsc_copy(size=20 << 20)], both="runsc-killed")
add("runsc-truncated-more", root=[w.runsc_copy(size=1 << 20)], both="runsc-killed")
add("runsc-damaged", root=[w.runsc_damaged], both=("runsc-damaged", STEP))
add(
    "runsc-other-go-program", root=[w.runsc_other_go_program], both=("not-runsc", STEP), range_=None
)
add("runsc-no-interpreter", root=[w.runsc("#!/nonexistent\n")], both="not-runsc")
add(
    "runsc-other-machine",
    root=[w.runsc(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\xf3\0" + bytes(44))],
    both="wrong-architecture",
)
add("runsc-prints-version-only", root=[w.runsc(w.VERSION + "exit 0\n")], both="runsc-ran-nothing")
add("runsc-exits-1", root=[w.runsc(w.VERSION + "exit 1\n")], both="runsc-ran-nothing")
add(
    "runsc-exits-3-with-words",
    root=[w.runsc(w.VERSION + "echo cannot >&2; exit 3\n")],
    both="runsc-ran-nothing",
)
add("runsc-exits-128", root=[w.runsc(w.VERSION + "exit 128\n")], both="runsc-refused-call")
add("runsc-crashes", root=[w.runsc(w.VERSION + "kill -SEGV $$\n")], both="runsc-killed")
add("runsc-killed", root=[w.runsc(w.VERSION + "kill -KILL $$\n")], both="runsc-killed")
# This fake runsc kills itself by SIGSYS, as a seccomp filter would kill it. In a pair with a real
# filter, a command may name that filter as the cause.
add(
    "runsc-killed-by-filter",
    root=[w.runsc(w.VERSION + "kill -SYS $$\n")],
    both=("runsc-killed", "seccomp-denies-call"),
)
WRAPPED = w.runsc('#!/bin/sh\nexec /usr/bin/runsc "$@"\n')
add("runsc-wrapped", root=[WRAPPED])
# If runsc is a script, usernsctl starts `runsc --version` to learn the release, and calls getpid(2)
# for that start. usernsctl must detect the filter before the call.
add(
    "runsc-wrapped-getpid-killed",
    root=[WRAPPED],
    early=[w.killed("getpid")],
    run=REFUSED,
    tried=("run", "doctor"),
)
add("runsc-hangs", root=[w.runsc("#!/bin/sh\nexec sleep 100\n")], both="not-runsc", within=12)

#: Environments in which the commands work once doctor's remedies have been applied.
HEALED = (
    *(f"ranges-{name}" for name in ("none", "of-another", "count-0", "negative", "past-the-end")),
    *(f"ranges-{name}" for name in ("two-fields", "words", "crlf", "by-gid-name", "upper-case")),
    *("subgid-empty", "subuid-empty", "ranges-unreadable", "subgid-unreadable", "passwd-empty"),
    *("helpers-0755", "helpers-4750", "helpers-4644"),
    *("securebits-noroot", "helpers-setuid-and-capable"),
    *("helpers-capabilities-elsewhere", "dev-nodev", "dev-empty"),
    *("max-user-0", "max-user-1", "max-user-2", "max-net-0", "max-mnt-0", "max-pid-0"),
    *("max-ipc-0", "max-uts-0", "fsize-1m", "as-200m", "as-1g", "runsc-0644", "runsc-0711"),
    *("root", "no-proc", "no-proc-sys", "proc-subset", "proc-read-only", "nproc-0"),
    *("nproc-1", "nproc-15", "fsize-0", "nameless", "passwd-closed"),
    *("openshift", "openshift-group-of-own", "openshift-groups", "gid-entry", "other-group"),
    *("ranges-of-service", "helpers-nosuid-system", "helpers-0555", "helpers-2755"),
    *("helpers-4700", "helpers-0", "runsc-noexec", "runsc-named-0644", "runsc-named-missing"),
    *("runsc-closed", "runsc-directory", "runsc-empty", "runsc-text", "runsc-no-interpreter"),
    *("runsc-other-go-program", "runsc-other-machine", "runsc-prints-version-only"),
    *("runsc-exits-1", "runsc-exits-3-with-words", "runsc-crashes", "runsc-killed"),
    *("runsc-killed-by-filter", "subuid-fifo", "subgid-fifo", "bounded-admin"),
    *("container-range-outside", "container-without-range", "subuid-link", "subuid-directory"),
    *("dev-null-0600", "helpers-wrong-capability", "subuid-link-broken"),
)
