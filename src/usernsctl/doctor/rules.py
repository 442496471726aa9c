"""Rules that decide which causes of failures apply to a host.

The rules are pure functions from facts about the host and results of probes to evidence.

The C core determines the causes of most failed probes itself (csrc/explain/diagnose.c). Rules that
read facts also find the causes of steps that are skipped because an earlier step fails.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import partial

from usernsctl._lean import dataclass
from usernsctl.doctor.facts import NO_LIMIT, Facts
from usernsctl.doctor.probes import HUNG, LATE, PROFILES
from usernsctl.explain.model import Probe
from usernsctl.gvisor.runsc.releases import Release
from usernsctl.profiles import is_own_profile

#: The errors with which the kernel or a security module denies a system call.
_REFUSALS = (errno.EPERM, errno.EACCES)

Evidence = tuple[str, ...]


# Names of the probes of devices and programs that are not needed to start a sandbox.
_OPTIONAL = ("tun", "kvm", "pasta", "nft", "cgroup")


@dataclass(frozen=True, slots=True)
class Seen:
    """The facts and probes that rules evaluate."""

    facts: Facts
    probes: Mapping[str, Probe]

    def failed(self, *names: str, errnos: tuple[int, ...] = ()) -> Probe | None:
        """Return the first of the named probes that failed, or None.

        :param errnos: the errors that count as failures; by default all.
        """
        for name in names:
            probe = self.probes.get(name)
            if probe and probe.outcome == "failed" and (not errnos or probe.errno in errnos):
                return probe
        return None

    def unsettled(self, name: str) -> Probe | None:
        """Return the probe with this name if it failed or timed out, else None."""
        probe = self.probes.get(name)
        is_late = probe is not None and probe.cause in (LATE, HUNG)
        return probe if probe and (probe.outcome == "failed" or is_late) else None

    def named(self, cause_id: str) -> Evidence:
        """Return the messages of the probes whose failure the core attributed to `cause_id`.

        Probes of optional devices and programs are ignored, because only their own rules evaluate
        them.
        """
        probes = (p for p in self.probes.values() if p.name not in _OPTIONAL)
        return tuple(message_of(p) for p in probes if p.cause == cause_id)

    def unprivileged(self) -> bool:
        """Return whether this process needs newuidmap and newgidmap to map a range of ids."""
        return not self.facts.privileges.holds("setuid", "setgid")

    def without_profile(self) -> tuple[str, ...]:
        """Return the paths of usernsctl's programs that are known to lack an AppArmor profile."""
        return without_profile(self.probes)

    def printed(self, name: str, *texts: str) -> Evidence:
        """Return the message of the probe `name` if it failed and printed one of `texts`."""
        probe = self.failed(name)
        if probe and any(text in probe.detail for text in texts):
            return (message_of(probe),)
        return ()


def without_profile(probes: Mapping[str, Probe]) -> tuple[str, ...]:
    """Return the paths of usernsctl's programs that have no AppArmor profile."""
    probe = probes.get(PROFILES)
    lines = probe.detail.split("\n") if probe and probe.outcome == "ok" else []
    pairs = (line.partition("\t") for line in lines)
    return tuple(path for label, _, path in pairs if path and not is_own_profile(label, path))


def message_of(probe: Probe) -> str:
    """Return the name and the message of a probe as evidence."""
    return f"{probe.name}: {probe.detail}"


_Holds = Callable[[Seen], Evidence]


def only_named(seen: Seen) -> Evidence:
    """Return no evidence; for causes that only the core, or a message of runsc, can reveal."""
    return ()


def fails(*names: str, errnos: tuple[int, ...] = ()) -> _Holds:
    """Return a function for `Rule.holds`: the rule applies if one of the probes `names` failed.

    The evidence is the message of the first such probe.

    :param errnos: the errors that count as failures; by default all.
    """

    def holds(seen: Seen) -> Evidence:
        probe = seen.failed(*names, errnos=errnos)
        return (message_of(probe),) if probe else ()

    return holds


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that decides whether the cause `id` of failures applies to this host.

    :ivar explains: the names of the probes whose failure the cause explains.
    :ivar holds: a function that returns the evidence for the cause, empty if there is none.
        :meth:`evidence` adds the messages of probes whose failure the core attributed to the cause.
    :ivar warns: whether the cause is a warning that never blocks a purpose.
    :ivar always: whether the cause is reported even if it does not concern the purpose.
    :ivar guessed: whether the cause applies only if no earlier rule explains the same probes.
    :ivar eclipses: whether this cause, if it applies, is the only one that is reported.
    """

    id: str
    explains: tuple[str, ...] = ()
    holds: _Holds = only_named
    warns: bool = False
    always: bool = False
    guessed: bool = False
    eclipses: bool = False

    def evidence(self, seen: Seen) -> Evidence:
        """Return the distinct evidence for the cause, or () if the cause does not apply."""
        return tuple(dict.fromkeys(self.holds(seen) + seen.named(self.id)))


# ---- creating a namespace ----------------------------------------------------------------------


def in_gvisor(seen: Seen) -> Evidence:
    return ("/proc/version is gVisor's",) if seen.facts.kernel.gvisor else ()


def no_proc(seen: Seen) -> Evidence:
    return () if seen.facts.has_proc else ("/proc/self/status can't be read",)


def not_supported(seen: Seen) -> Evidence:
    return ("there is no /proc/self/ns/user",) if seen.facts.supported is False else ()


def filtered(seen: Seen) -> Evidence:
    probe, mode = seen.failed("unshare-nothing"), seen.facts.privileges.seccomp
    shown = () if mode is None else (f"Seccomp is {mode} in /proc/self/status",)
    # A probe with a cause, but without an errno, did not fail in unshare(2) itself, but before or
    # after this call.
    if probe is not None and (probe.cause is None or probe.errno not in (0, errno.EAGAIN)):
        return (message_of(probe), "the kernel itself never refuses unshare(0)", *shown)
    return shown if seen.named("seccomp-denies-userns") else ()


def clone_off(seen: Seen) -> Evidence:
    off = seen.facts.sysctls.get("kernel/unprivileged_userns_clone") == 0
    if off and not seen.facts.privileges.holds("sys_admin") and seen.failed("unshare-user"):
        return ("kernel.unprivileged_userns_clone is 0",)
    return ()


def _full(seen: Seen) -> Probe | None:
    """Return the probe "runsc" if a low limit on user namespaces made it fail, else None."""
    low = (seen.facts.sysctls.get("user/max_user_namespaces") or NO_LIMIT) < _NEEDED
    return (
        seen.failed("runsc") if low and seen.printed("runsc", "no space left on device") else None
    )


#: The number of user namespaces that a sandbox needs: usernsctl's, and two that runsc creates.
_NEEDED = 3

#: The number of other namespaces that a sandbox needs: usernsctl creates a mount namespace, and
#: runsc creates namespaces for its gofer and for its sandbox process.
_NAMESPACES = {"mnt": 3, "net": 2, "pid": 1, "ipc": 2, "uts": 2}
_EXHAUSTED = (errno.ENOSPC, errno.EUSERS)
_MAKING = ("unshare-user", "one-id-map", "nested-user")


def limited(seen: Seen) -> Evidence:
    limit = seen.facts.sysctls.get("user/max_user_namespaces")
    probe = seen.failed(*_MAKING, errnos=(errno.ENOSPC,)) or _full(seen)
    if limit == 0:
        return ("user.max_user_namespaces is 0", *((message_of(probe),) if probe else ()))
    if probe and limit is not None and (seen.facts.initial or limit < NO_LIMIT):
        return (message_of(probe), f"user.max_user_namespaces is {limit}, all in use")
    return ()


def forbidden(kind: str, seen: Seen) -> Evidence:
    probe = seen.failed("namespaces", "mount", "mount-bind", errnos=(errno.ENOSPC,))
    limit = seen.facts.sysctls.get(f"user/max_{kind}_namespaces")
    probe = probe or seen.failed("runsc")
    if probe is not None and limit is not None and limit < _NAMESPACES[kind]:
        return (f"user.max_{kind}_namespaces is {limit}", message_of(probe))
    return ()


def nested(seen: Seen) -> Evidence:
    limit = seen.facts.sysctls.get("user/max_user_namespaces")
    probe = seen.failed(*_MAKING, errnos=_EXHAUSTED)
    if probe is None or seen.facts.initial is not False or limit is None or limited(seen):
        return ()
    return (
        message_of(probe),
        f"user.max_user_namespaces is {limit} here, so this limit is not reached; limits of "
        "outer namespaces are not visible from inside",
    )


def chrooted(seen: Seen) -> Evidence:
    if seen.facts.container.chroot and seen.failed("unshare-user"):
        return ("/proc/self/mountinfo has no mount at /",)
    return ()


def unmapped(seen: Seen) -> Evidence:
    ids, found = seen.facts.ids, []
    for kind, own, extents in (("uid", ids.uid, ids.uid_map), ("gid", ids.gid, ids.gid_map)):
        if extents is not None and not any(e.has(own) for e in extents):
            found.append(f"the {kind} of this process, {own}, is not in /proc/self/{kind}_map")
    return tuple(found)


def apparmor_restricted(seen: Seen) -> Evidence:
    label = seen.facts.security.label
    probe = seen.failed(
        "unshare-user", "setgroups", "one-id-map", "namespaces", "mount", errnos=_REFUSALS
    )
    restricted = seen.facts.sysctls.get("kernel/apparmor_restrict_unprivileged_userns") == 1
    if probe is None or not restricted or seen.failed("unshare-nothing"):
        return ()
    bare = seen.without_profile()
    if label not in (None, "unconfined") and not bare:
        return ()
    return (
        "kernel.apparmor_restrict_unprivileged_userns is 1",
        f"no profile applies to {', '.join(bare)}"
        if bare
        else f"no profile applies to this process: {label or 'there is no label'}",
        message_of(probe),
    )


def denied_by_module(seen: Seen) -> Evidence:
    security = seen.facts.security
    # If a profile confines this process, also consider later steps: the profile may allow the
    # creation of a user namespace, but deny the capabilities in it.
    confined = (security.label or "").endswith("(enforce)")
    names = ("unshare-user", "setgroups", "one-id-map") if confined else ("unshare-user",)
    probe = seen.failed(*names, errnos=(errno.EACCES,))
    if probe is None or apparmor_restricted(seen):
        return ()
    modules = ", ".join(security.names) if security.names else "not known"
    return (
        message_of(probe),
        f"security modules: {modules}",
        f"label: {security.label or 'none'}",
    )


def too_many_processes(seen: Seen) -> Evidence:
    failed = [p for p in seen.probes.values() if p.errno == errno.EAGAIN]
    if not failed:
        return ()
    limits = seen.facts.limits
    shown = [message_of(failed[0])]
    if limits.processes is not None:
        shown.append(f"RLIMIT_NPROC is {limits.processes}")
    if limits.pids is not None:
        shown.append(f"pids.max is {limits.pids}, pids.current is {limits.pids_current}")
    return tuple(shown)


def too_many_files(seen: Seen) -> Evidence:
    failed = next((p for p in seen.probes.values() if p.errno == errno.EMFILE), None)
    most = seen.facts.limits.open_files
    shown = () if most is None else (f"RLIMIT_NOFILE is {most}",)
    return (message_of(failed), *shown) if failed else ()


def threaded(seen: Seen) -> Evidence:
    count = seen.facts.threads
    return (f"this process has {count} threads",) if count > 1 else ()


# ---- subordinate ranges ------------------------------------------------------------------------


def _of_helpers(seen: Seen, judge: Callable[[str], str | None]) -> Evidence:
    if not seen.unprivileged():
        return ()
    found = (judge(name) for name in seen.facts.helpers)
    return tuple(text for text in found if text is not None)


def helper_missing(seen: Seen) -> Evidence:
    helpers = seen.facts.helpers
    return _of_helpers(seen, lambda name: None if helpers[name].path else f"{name}: not on PATH")


def helper_closed(seen: Seen) -> Evidence:
    def judge(name: str) -> str | None:
        helper = seen.facts.helpers[name]
        if helper.path is None or helper.executable:
            return None
        return f"{helper.path}: mode {helper.mode:04o}, owner {helper.owner}: not executable here"

    return _of_helpers(seen, judge)


def helper_powerless(seen: Seen) -> Evidence:
    def judge(name: str) -> str | None:
        helper = seen.facts.helpers[name]
        if helper.path is None or helper.privileged or helper.script or not helper.executable:
            return None
        return f"{helper.path}: mode {helper.mode:04o}, owner {helper.owner}, no file capabilities"

    return _of_helpers(seen, judge)


def helper_nosuid(seen: Seen) -> Evidence:
    def judge(name: str) -> str | None:
        helper = seen.facts.helpers[name]
        return helper.nosuid and f"{helper.path}: the mount at {helper.nosuid} is nosuid"

    return _of_helpers(seen, judge)


def new_privs_given_up(seen: Seen) -> Evidence:
    given_up = seen.facts.privileges.no_new_privs is True and seen.unprivileged()
    return ("NoNewPrivs is 1 in /proc/self/status",) if given_up else ()


def bounded(seen: Seen) -> Evidence:
    lacking = seen.facts.privileges.lacks_bounding("setuid", "setgid")
    if not lacking or not seen.unprivileged():
        return ()
    names = " and ".join(f"CAP_{name.upper()}" for name in lacking)
    return (f"CapBnd in /proc/self/status lacks {names}",)


def overlapping(seen: Seen) -> Evidence:
    return seen.printed("range-map", "Invalid argument", "overflow detected") + seen.printed(
        "ranges", "overlap"
    )


def keyed_by_gid(seen: Seen) -> Evidence:
    entries, refused = seen.facts.subordinate.gid_entries, seen.named("no-subordinate-range")
    if entries and refused:
        return (f"/etc/subgid has {entries[0]!r}, which begins with the gid of this user", *refused)
    return ()


def from_service(seen: Seen) -> Evidence:
    source = seen.facts.subordinate.source
    if source is not None and seen.failed("ranges"):
        return (f"nsswitch.conf has subid: {source}",)
    return ()


def shared(seen: Seen) -> Evidence:
    probe = seen.probes.get("ranges")
    lines = probe.detail.split("\n") if probe and probe.outcome == "ok" else []
    # The core's notice about overlapping ranges contains these words (csrc/facts/subid.c).
    return tuple(line for line in lines if "overlap a range of this user" in line)


# ---- mounts and runsc --------------------------------------------------------------------------


def mount_denied(seen: Seen) -> Evidence:
    probe = seen.failed("mount", "pivot-root", errnos=(*_REFUSALS, errno.ENOSYS))
    if probe is None or apparmor_restricted(seen):
        return ()
    label = seen.facts.security.label or ""
    if seen.facts.privileges.seccomp == 2:
        return (message_of(probe), "Seccomp is 2 in /proc/self/status")
    if label.endswith("(enforce)"):
        return (message_of(probe), f"AppArmor label: {label}")
    return ()


def masked(seen: Seen) -> Evidence:
    probe, points = seen.failed("mount-proc", errnos=_REFUSALS), seen.facts.masked_proc()
    if probe is None or not points or seen.failed("mount"):
        return ()
    return (message_of(probe), f"mounted below /proc: {', '.join(points[:4])}")


def selinux_nested(seen: Seen) -> Evidence:
    if seen.facts.security.selinux_enforcing:
        return seen.printed("runsc", "error remounting chroot in read-only")
    return ()


def yama(seen: Seen) -> Evidence:
    scope = seen.facts.sysctls.get("kernel/yama/ptrace_scope")
    probe = seen.failed("ptrace", errnos=(errno.EPERM,))
    # Report only the value 3. With the value 2, tracing requires CAP_SYS_PTRACE, which this user
    # has in a new user namespace (ptrace(2)).
    if scope is None or scope < 3 or probe is None:
        return ()
    return (f"kernel.yama.ptrace_scope is {scope}", message_of(probe))


def ptrace_denied(seen: Seen) -> Evidence:
    probe = seen.failed("ptrace", errnos=(*_REFUSALS, errno.ENOSYS))
    if probe is None or yama(seen) or seen.facts.privileges.seccomp != 2:
        return ()
    return (message_of(probe), "Seccomp is 2 in /proc/self/status")


def not_usable(cause_id: str, seen: Seen) -> Evidence:
    found = seen.facts.runsc
    return (found.problem or "",) if found and found.cause == cause_id else ()


_NO_FLAG = "flag provided but not defined"


def other_program(seen: Seen) -> Evidence:
    found = seen.facts.runsc
    if found is not None and found.path is not None and found.release is None:
        refused = seen.printed("runsc", _NO_FLAG)
        return (
            (f"{found.path} does not answer --version as runsc does", *refused) if refused else ()
        )
    return not_usable("not-runsc", seen)


def too_old(seen: Seen) -> Evidence:
    if other_program(seen):
        return ()
    found, probe = seen.facts.runsc, seen.failed("runsc")
    if probe and found and found.release and Release.parse(found.release).is_too_old():
        return (f"{found.path} is of release {found.release}", message_of(probe))
    return seen.printed("runsc", _NO_FLAG)


def no_null(seen: Seen) -> Evidence:
    probe = seen.failed("null")
    if probe is None or probe.cause is not None:
        return ()
    # Leave EPERM and EACCES to other rules if /dev/null exists and its mount is not nodev.
    nodev = [
        point for point in ("/dev", "/dev/null") if "nodev" in seen.facts.mounts.get(point, ())
    ]
    shown = [f"the mount at {point} is nodev" for point in nodev]
    device = seen.facts.devices.get("/dev/null")
    if device is not None and device.mode is not None and not device.accessible:
        shown.append(f"/dev/null has mode {device.mode:04o}")
    return (message_of(probe), *shown) if shown or probe.errno not in _REFUSALS else ()


def short_of(limits: Mapping[str, tuple[str, int | None]], seen: Seen) -> Evidence:
    """Return evidence of resource limits that may have made a program in gVisor fail.

    :param limits: for each field of :class:`Limits`, the name of the limit, and the lowest value
        that always suffices, or None if any value may be too low.
    """
    probe, found = seen.failed("runsc"), []
    for fact, (name, enough) in limits.items():
        most = getattr(seen.facts.limits, fact)
        if most is not None and (enough is None or most < enough):
            found.append(f"{name} is {most}")
    return (*found, message_of(probe)) if probe and found else ()


def signals_lost(seen: Seen) -> Evidence:
    """Return evidence that runsc hangs because RLIMIT_SIGPENDING made the kernel drop a signal."""
    probe, limits = seen.probes.get("runsc"), seen.facts.limits
    most, queued = limits.pending_signals, limits.pending_signals_current or 0
    if probe and probe.cause == HUNG and most is not None and most - queued < _SIGNALS:
        return (f"RLIMIT_SIGPENDING is {most}, and {queued} signals are queued", message_of(probe))
    return ()


# The maximum number of signals that a starting sandbox queues, one for each thread.
_SIGNALS = 100

# Resource limits that suffice to start any program in gVisor, which starts dozens of threads and
# opens dozens of files. No RLIMIT_FSIZE suffices for every program.
_PROCESSES = {"processes": ("RLIMIT_NPROC", 100)}
_OPEN_FILES = {"open_files": ("RLIMIT_NOFILE", 300)}
_FILE_SIZE = {"file_size": ("RLIMIT_FSIZE", None)}
# A limit on the address space, in bytes, that suffices for a sandbox: runsc reserves less.
_ADDRESSES = 1 << 38
_MEMORY = {"address_space": ("RLIMIT_AS", _ADDRESSES), "data": ("RLIMIT_DATA", _ADDRESSES)}


def damaged(seen: Seen) -> Evidence:
    return seen.printed("runsc", "SIGILL: illegal instruction", "unexpected fault address")


def start_refused(seen: Seen) -> Evidence:
    """Return evidence that a seccomp filter denies the system call that starts a child."""
    probe = seen.failed("start", errnos=(*_REFUSALS, errno.ENOSYS))
    if probe is None or seen.facts.privileges.seccomp != 2:
        return ()
    return (message_of(probe), "Seccomp is 2 in /proc/self/status")


def refused_call(seen: Seen) -> Evidence:
    probe = seen.failed("runsc")
    if probe is None or seen.facts.privileges.seccomp != 2:
        return ()
    return (message_of(probe), "Seccomp is 2 in /proc/self/status")


_USERNS = (*_MAKING, "setgroups", "namespaces", "mount", "range-map", "runsc")
_MAP = ("setgroups", "one-id-map", "nested-user", "range-map", "runsc")
_RANGE = ("ranges", "range-map", "range-mount")
_RUNSC = ("runsc",)

#: The rules by which doctor derives its findings from the results of the probes. Findings that make
#: a use (:class:`Purpose`) impossible are reported in the order of their rules.
RULES: tuple[Rule, ...] = (
    Rule("already-in-gvisor", holds=in_gvisor, eclipses=True),
    Rule("no-proc", (*_MAP, "ranges", "namespaces", "mount"), no_proc),
    Rule("process-limit", ("start", *_USERNS, *_RANGE, "ptrace"), too_many_processes),
    Rule("descriptor-limit", ("start", *_USERNS, *_RANGE, "ptrace"), too_many_files),
    Rule("seccomp-denies-call", ("start",), start_refused),
    Rule("seccomp-denies-userns", (*_USERNS, "unshare-nothing"), filtered),
    Rule("no-config-user-ns", _USERNS, not_supported),
    Rule("unprivileged-userns-clone-off", _USERNS, clone_off),
    Rule("max-user-namespaces", _USERNS, limited),
    *(
        Rule(
            f"max-{kind}-namespaces",
            ("namespaces", "mount", "mount-bind", *_RUNSC),
            partial(forbidden, kind),
        )
        for kind in _NAMESPACES
    ),
    Rule("max-cgroup-namespaces", ("namespaces", *_RUNSC)),
    Rule("nesting-too-deep", _USERNS, nested),
    Rule("in-chroot", _USERNS, chrooted),
    Rule("caller-id-unmapped", _USERNS, unmapped),
    Rule("lsm-denies-userns", _USERNS, denied_by_module),
    Rule("apparmor-restricts-userns", (*_USERNS, "pivot-root"), apparmor_restricted),
    Rule("join-denied", _MAP),
    Rule("setgroups-denied-on-join", _MAP),
    Rule("multithreaded", holds=threaded, warns=True, always=True),
    Rule("proc-read-only", _MAP, fails("setgroups", "one-id-map", errnos=(errno.EROFS,))),
    Rule("not-dumpable", _MAP),
    Rule("landlock", (*_MAP, "mount", "pivot-root")),
    Rule("target-gone", _MAP),
    Rule("proc-hidepid", ("ranges", "range-map", "range-mount", "ptrace")),
    Rule("child-missing", _MAP),
    Rule("setgroups-order", _MAP),
    Rule("needs-setfcap", (*_MAP, "ranges", "namespaces", "mount")),
    Rule("outside-parent-map", _MAP),
    Rule("map-invalid", (*_MAP, "ranges")),
    Rule("no-passwd-entry", _RANGE),
    Rule("subid-file-unreadable", _RANGE),
    Rule("subid-not-a-file", _RANGE),
    Rule("nss-subid", _RANGE, from_service),
    Rule("subgid-by-gid", _RANGE, keyed_by_gid),
    Rule("no-subordinate-range", _RANGE),
    Rule("range-outside-parent", _RANGE),
    Rule("range-not-granted", _RANGE),
    Rule("range-overlap", _RANGE, overlapping),
    Rule("helper-missing", _RANGE, helper_missing),
    Rule("helper-not-executable", _RANGE, helper_closed),
    Rule("helper-not-setuid", _RANGE, helper_powerless),
    Rule("helper-on-nosuid", _RANGE, helper_nosuid),
    Rule("no-new-privs", _RANGE, new_privs_given_up),
    Rule("bounding-set", _RANGE, bounded),
    Rule("securebits-noroot", _RANGE),
    Rule("helper-setuid-and-capable", _RANGE),
    Rule("seccomp-denies-helper", _RANGE),
    Rule("gid-differs-from-passwd", _RANGE),
    Rule(
        "helper-caps-other-userns",
        _RANGE,
        lambda seen: seen.printed("range-map", "Value too large"),
    ),
    Rule("helper-hung", _RANGE),
    Rule("helper-stopped", _RANGE),
    Rule("helper-killed", _RANGE),
    Rule("helper-status-lost", _RANGE),
    Rule("helper-wrong-capability", _RANGE),
    Rule("helper-not-a-program", _RANGE),
    Rule("helper-failed", _RANGE),
    Rule("map-not-written", _RANGE),
    Rule("ranges-shared", holds=shared, warns=True),
    Rule("mount-denied", ("mount", "pivot-root", "mount-proc", "runsc"), mount_denied),
    Rule("landlock-denies-mount", ("mount", "mount-bind", "mount-proc", "pivot-root", "runsc")),
    Rule("mount-by-descriptor-missing", ("mount-bind", "runsc")),
    Rule("mount-without-owned-ns", ("mount-proc",)),
    Rule("proc-masked", ("mount-proc",), masked, warns=True),
    Rule("yama-ptrace-scope", ("ptrace", "runsc"), yama),
    Rule("ptrace-denied", ("ptrace", "runsc"), ptrace_denied),
    Rule("runsc-missing", _RUNSC, partial(not_usable, "runsc-missing")),
    Rule("not-runsc", _RUNSC, other_program),
    Rule("wrong-architecture", _RUNSC, partial(not_usable, "wrong-architecture")),
    Rule("runsc-too-old", _RUNSC, too_old),
    Rule("selinux-nested", _RUNSC, selinux_nested),
    Rule("runsc-not-executable", _RUNSC, partial(not_usable, "runsc-not-executable")),
    Rule("dev-null-missing", ("null", "runsc"), no_null),
    Rule("process-limit", _RUNSC, partial(short_of, _PROCESSES), guessed=True),
    Rule("descriptor-limit", _RUNSC, partial(short_of, _OPEN_FILES), guessed=True),
    Rule("file-size-limit", _RUNSC, partial(short_of, _FILE_SIZE), guessed=True),
    Rule("address-space-limit", _RUNSC, partial(short_of, _MEMORY), guessed=True),
    Rule("signal-limit", _RUNSC, signals_lost, guessed=True),
    Rule("memory-deny-write-execute", _RUNSC),
    Rule("seccomp-denies-call", _RUNSC, refused_call, guessed=True),
    Rule("host-directory-unreadable", _RUNSC),
    Rule("path-closed-inside", _RUNSC),
    Rule("no-mount-point", _RUNSC),
    Rule("meminfo-unreadable", _RUNSC),
    Rule("runsc-damaged", _RUNSC, damaged),
    Rule("runsc-ran-nothing", _RUNSC),
    Rule(HUNG, _RUNSC),
    Rule("runsc-killed", _RUNSC),
    Rule(LATE),
    Rule(
        "cgroup-not-delegated",
        ("cgroup",),
        fails("cgroup", errnos=(*_REFUSALS, errno.EROFS, errno.EBUSY)),
    ),
    Rule("tun-missing", ("tun",), fails("tun")),
    Rule("pasta-missing", ("pasta",), fails("pasta", errnos=(errno.ENOENT,))),
    Rule("nft-missing", ("nft",), fails("nft", errnos=(errno.ENOENT,))),
    Rule("kvm-denied", ("kvm",), fails("kvm", errnos=_REFUSALS)),
)

#: Maps a cause to the causes that can produce it. If one of these other causes also applies, doctor
#: reports only that other cause.
CONSEQUENCES: Mapping[str, tuple[str, ...]] = {
    # The rule for nesting-too-deep checks only the limit on user namespaces, so any limit that the
    # core or another rule has found takes precedence.
    "nesting-too-deep": (
        "max-user-namespaces",
        *(rule.id for rule in RULES if rule.id.startswith("max-")),
    ),
    "no-subordinate-range": ("subgid-by-gid", "nss-subid"),
    "map-invalid": ("range-overlap",),
    HUNG: ("not-runsc", "signal-limit"),
    "target-gone": ("no-proc", "proc-hidepid"),
    "seccomp-denies-call": (
        "seccomp-denies-userns",
        "mount-denied",
        "mount-by-descriptor-missing",
        "ptrace-denied",
    ),
    # If the caller's id is not mapped, root's id usually is not mapped either, so the helpers seem
    # to belong to nobody.
    "helper-not-setuid": ("caller-id-unmapped",),
    # The core reports helper-failed if a helper failed with a message that is not in the catalogue.
    "helper-failed": tuple(
        rule.id for rule in RULES if "range-map" in rule.explains and rule.id != "helper-failed"
    ),
}
