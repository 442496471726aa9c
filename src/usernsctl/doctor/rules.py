"""When a cause holds: for each one, a pure function of facts and probes that returns the evidence.

Most causes are named by the core itself, in the probe that failed
(csrc/explain/diagnose.c). A rule of its own has a cause that facts show, so that a second cause is
found behind the first one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import partial

from usernsctl._lean import dataclass
from usernsctl.doctor.facts import NO_LIMIT, Facts
from usernsctl.doctor.probes import LATE, PROFILES
from usernsctl.explain.model import Probe
from usernsctl.gvisor.runsc.releases import Release
from usernsctl.profiles import is_own_profile

#: What the kernel, or a module of it, refuses with.
_REFUSALS = (errno.EPERM, errno.EACCES)

Evidence = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to judge by."""

    facts: Facts
    probes: Mapping[str, Probe]

    def failed(self, *names: str, errnos: tuple[int, ...] = ()) -> Probe | None:
        """The first of these probes that failed, with one of these errors if any are named."""
        for name in names:
            probe = self.probes.get(name)
            if probe and probe.outcome == "failed" and (not errnos or probe.errno in errnos):
                return probe
        return None

    def unsettled(self, name: str) -> Probe | None:
        """The probe, if it failed, or had not ended in time."""
        probe = self.probes.get(name)
        return probe if probe and (probe.outcome == "failed" or probe.cause == LATE) else None

    def named(self, cause_id: str) -> Evidence:
        """What the probes said for which the core itself names this cause."""
        return tuple(told(p) for p in self.probes.values() if p.cause == cause_id)

    def unprivileged(self) -> bool:
        """Whether it takes helpers to map a range."""
        return not self.facts.privileges.holds("setuid", "setgid")

    def without_profile(self) -> tuple[str, ...]:
        """Our programs that no profile of AppArmor's applies to, as far as that is known."""
        return without_profile(self.probes)

    def said(self, name: str, *texts: str) -> Evidence:
        """What a failed probe said, if one of the texts is in it."""
        probe = self.failed(name)
        if probe and any(text in probe.detail for text in texts):
            return (told(probe),)
        return ()


def without_profile(probes: Mapping[str, Probe]) -> tuple[str, ...]:
    """The paths of programs of ours that no profile of AppArmor's applies to."""
    probe = probes.get(PROFILES)
    lines = probe.detail.split("\n") if probe and probe.outcome == "ok" else []
    pairs = (line.partition("\t") for line in lines)
    return tuple(path for label, _, path in pairs if path and not is_own_profile(label, path))


def told(probe: Probe) -> str:
    """What a probe said, as evidence."""
    return f"{probe.name}: {probe.detail}"


_Rule = Callable[[Seen], Evidence]


@dataclass(frozen=True, slots=True)
class Rule:
    """:ivar explains: the probes whose failure needs no other cause if this one holds.

    :ivar warns: whether it never blocks.
    :ivar always: whether it is told whatever the purpose.
    :ivar guessed: whether it only holds where nothing else explains that the sandbox failed.
    :ivar eclipses: whether nothing else that is found means anything beside it.
    """

    id: str
    holds: _Rule
    explains: tuple[str, ...] = ()
    warns: bool = False
    always: bool = False
    guessed: bool = False
    eclipses: bool = False

    def evidence(self, seen: Seen) -> Evidence:
        """What speaks for it, each once; nothing: it does not hold."""
        return tuple(dict.fromkeys(self.holds(seen) + seen.named(self.id)))


# ---- making a namespace ------------------------------------------------------------------------


def in_gvisor(seen: Seen) -> Evidence:
    return ("/proc/version is gVisor's",) if seen.facts.kernel.gvisor else ()


def no_proc(seen: Seen) -> Evidence:
    return () if seen.facts.has_proc else ("/proc/self/status can't be read",)


def not_supported(seen: Seen) -> Evidence:
    return ("there is no /proc/self/ns/user",) if seen.facts.supported is False else ()


def filtered(seen: Seen) -> Evidence:
    probe, mode = seen.failed("unshare-nothing"), seen.facts.privileges.seccomp
    shown = () if mode is None else (f"Seccomp is {mode} in /proc/self/status",)
    if probe is not None:
        return (told(probe), "the kernel itself never refuses unshare(0)", *shown)
    return shown if seen.named("seccomp-denies-userns") else ()


def clone_off(seen: Seen) -> Evidence:
    off = seen.facts.sysctls.get("kernel/unprivileged_userns_clone") == 0
    if off and not seen.facts.privileges.holds("sys_admin") and seen.failed("unshare-user"):
        return ("kernel.unprivileged_userns_clone is 0",)
    return ()


def _full(seen: Seen) -> Probe | None:
    """The run of a sandbox, if one of its namespaces could not be had and there is a low limit."""
    low = (seen.facts.sysctls.get("user/max_user_namespaces") or NO_LIMIT) < _NEEDED
    return seen.failed("runsc") if low and seen.said("runsc", "no space left on device") else None


#: How many a sandbox takes: ours, and those that runsc makes in it.
_NEEDED = 3
_EXHAUSTED = (errno.ENOSPC, errno.EUSERS)
_MAKING = ("unshare-user", "one-id-map", "nested-user")


def limited(seen: Seen) -> Evidence:
    limit = seen.facts.sysctls.get("user/max_user_namespaces")
    probe = seen.failed(*_MAKING, errnos=(errno.ENOSPC,)) or _full(seen)
    if limit == 0:
        return ("user.max_user_namespaces is 0", *((told(probe),) if probe else ()))
    if probe and limit is not None and (seen.facts.initial or limit < NO_LIMIT):
        return (told(probe), f"user.max_user_namespaces is {limit}, and they are used up")
    return ()


def forbidden(kind: str, seen: Seen) -> Evidence:
    probe = seen.failed("namespaces", "mount", errnos=(errno.ENOSPC,)) or seen.failed("runsc")
    if probe is not None and seen.facts.sysctls.get(f"user/max_{kind}_namespaces") == 0:
        return (f"user.max_{kind}_namespaces is 0", told(probe))
    return ()


def nested(seen: Seen) -> Evidence:
    limit = seen.facts.sysctls.get("user/max_user_namespaces")
    probe = seen.failed(*_MAKING, errnos=_EXHAUSTED)
    if probe is None or seen.facts.initial is not False or limit is None or limited(seen):
        return ()
    return (
        told(probe),
        f"user.max_user_namespaces is {limit} here, so it isn't that; a limit of a namespace "
        "around this one can't be seen from inside",
    )


def chrooted(seen: Seen) -> Evidence:
    if seen.facts.container.chroot and seen.failed("unshare-user"):
        return ("/proc/self/mountinfo has no mount at /",)
    return ()


def unmapped(seen: Seen) -> Evidence:
    ids, found = seen.facts.ids, []
    for kind, own, extents in (("uid", ids.uid, ids.uid_map), ("gid", ids.gid, ids.gid_map)):
        if extents is not None and not any(e.has(own) for e in extents):
            found.append(f"our {kind}, {own}, is not in /proc/self/{kind}_map")
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
        else f"no profile applies to us: {label or 'there is no label'}",
        told(probe),
    )


def denied_by_module(seen: Seen) -> Evidence:
    security = seen.facts.security
    # A profile may allow namespaces, and refuse the capabilities in them.
    confined = (security.label or "").endswith("(enforce)")
    names = ("unshare-user", "setgroups", "one-id-map") if confined else ("unshare-user",)
    probe = seen.failed(*names, errnos=(errno.EACCES,))
    if probe is None or apparmor_restricted(seen):
        return ()
    modules = ", ".join(security.names) if security.names else "not known"
    return (
        told(probe),
        f"security modules: {modules}",
        f"label: {security.label or 'none'}",
    )


def too_many_processes(seen: Seen) -> Evidence:
    failed = [p for p in seen.probes.values() if p.errno == errno.EAGAIN]
    if not failed:
        return ()
    limits = seen.facts.limits
    shown = [told(failed[0])]
    if limits.processes is not None:
        shown.append(f"RLIMIT_NPROC is {limits.processes}")
    if limits.pids is not None:
        shown.append(f"pids.max is {limits.pids}, pids.current is {limits.pids_current}")
    return tuple(shown)


def too_many_files(seen: Seen) -> Evidence:
    failed = next((p for p in seen.probes.values() if p.errno == errno.EMFILE), None)
    most = seen.facts.limits.open_files
    shown = () if most is None else (f"RLIMIT_NOFILE is {most}",)
    return (told(failed), *shown) if failed else ()


def threaded(seen: Seen) -> Evidence:
    count = seen.facts.threads
    return (f"this process has {count} threads",) if count > 1 else ()


# ---- writing the maps --------------------------------------------------------------------------


def read_only_proc(seen: Seen) -> Evidence:
    probe = seen.failed("setgroups", "one-id-map", errnos=(errno.EROFS,))
    return (told(probe),) if probe else ()


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
        return f"{helper.path}: mode {helper.mode:04o}, owner {helper.owner}: not for us to execute"

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


def helper_caps_elsewhere(seen: Seen) -> Evidence:
    return seen.said("range-map", "Value too large")


def overlapping(seen: Seen) -> Evidence:
    return seen.said("range-map", "Invalid argument", "overflow detected") + seen.said(
        "ranges", "overlap"
    )


def keyed_by_gid(seen: Seen) -> Evidence:
    entries, refused = seen.facts.subordinate.gid_entries, seen.named("no-subordinate-range")
    if entries and refused:
        return (f"/etc/subgid has {entries[0]!r}, which begins with our gid", *refused)
    return ()


def from_service(seen: Seen) -> Evidence:
    source = seen.facts.subordinate.source
    if source is not None and seen.failed("ranges"):
        return (f"nsswitch.conf has subid: {source}",)
    return ()


def shared(seen: Seen) -> Evidence:
    probe = seen.probes.get("ranges")
    lines = probe.detail.split("\n") if probe and probe.outcome == "ok" else []
    # So the core tells it (csrc/facts/subid.c).
    return tuple(line for line in lines if "ids that are ours too" in line)


# ---- mounts and runsc --------------------------------------------------------------------------


def mount_denied(seen: Seen) -> Evidence:
    probe = seen.failed("mount", "pivot-root", errnos=(*_REFUSALS, errno.ENOSYS))
    if probe is None or apparmor_restricted(seen):
        return ()
    label = seen.facts.security.label or ""
    if seen.facts.privileges.seccomp == 2:
        return (told(probe), "Seccomp is 2 in /proc/self/status")
    if label.endswith("(enforce)"):
        return (told(probe), f"AppArmor label: {label}")
    return ()


def masked(seen: Seen) -> Evidence:
    probe, points = seen.failed("mount-proc", errnos=_REFUSALS), seen.facts.masked_proc()
    if probe is None or not points or seen.failed("mount"):
        return ()
    return (told(probe), f"mounted below /proc: {', '.join(points[:4])}")


def selinux_nested(seen: Seen) -> Evidence:
    if seen.facts.security.selinux_enforcing:
        return seen.said("runsc", "error remounting chroot in read-only")
    return ()


def yama(seen: Seen) -> Evidence:
    scope = seen.facts.sysctls.get("kernel/yama/ptrace_scope")
    probe = seen.failed("ptrace", errnos=(errno.EPERM,))
    # Scope 2 asks for a capability that we have in a namespace of our own.
    if scope is None or scope < 3 or probe is None:
        return ()
    return (f"kernel.yama.ptrace_scope is {scope}", told(probe))


def ptrace_denied(seen: Seen) -> Evidence:
    probe = seen.failed("ptrace", errnos=(*_REFUSALS, errno.ENOSYS))
    if probe is None or yama(seen) or seen.facts.privileges.seccomp != 2:
        return ()
    return (told(probe), "Seccomp is 2 in /proc/self/status")


def not_usable(cause_id: str, seen: Seen) -> Evidence:
    found = seen.facts.runsc
    return (found.problem or "",) if found and found.cause == cause_id else ()


_NO_FLAG = "flag provided but not defined"


def other_program(seen: Seen) -> Evidence:
    found = seen.facts.runsc
    if found is not None and found.path is not None and found.release is None:
        refused = seen.said("runsc", _NO_FLAG)
        return (
            (f"{found.path} does not answer --version as runsc does", *refused) if refused else ()
        )
    return not_usable("not-runsc", seen)


def too_old(seen: Seen) -> Evidence:
    if other_program(seen):
        return ()
    found, probe = seen.facts.runsc, seen.failed("runsc")
    if probe and found and found.release and Release.parse(found.release).is_too_old():
        return (f"{found.path} is of release {found.release}", told(probe))
    return seen.said("runsc", _NO_FLAG)


def not_delegated(seen: Seen) -> Evidence:
    probe = seen.failed("cgroup", errnos=(*_REFUSALS, errno.EROFS, errno.EBUSY))
    return (told(probe),) if probe else ()


def no_null(seen: Seen) -> Evidence:
    probe = seen.failed("null")
    if probe is None:
        return ()
    # What else refuses a device that is there is named by others.
    nodev = [
        point for point in ("/dev", "/dev/null") if "nodev" in seen.facts.mounts.get(point, ())
    ]
    shown = tuple(f"the mount at {point} is nodev" for point in nodev)
    return (told(probe), *shown) if nodev or probe.errno not in _REFUSALS else ()


def short_of(limits: Mapping[str, tuple[str, int | None]], seen: Seen) -> Evidence:
    """Limits that are there, where a program in gVisor could not be run.

    :param limits: by the name of the fact, that of the limit, and what is always enough.
    """
    probe, found = seen.failed("runsc"), []
    for fact, (name, enough) in limits.items():
        most = getattr(seen.facts.limits, fact)
        if most is not None and (enough is None or most < enough):
            found.append(f"{name} is {most}")
    return (*found, told(probe)) if probe and found else ()


def signals_lost(seen: Seen) -> Evidence:
    """What a newer runsc waits for ever for: its threads to take signals that were not queued."""
    probe, limits = seen.probes.get("runsc"), seen.facts.limits
    most, queued = limits.pending_signals, limits.pending_signals_current or 0
    if probe and probe.cause == LATE and most is not None and most - queued < _SIGNALS:
        return (f"RLIMIT_SIGPENDING is {most}, and {queued} are queued", told(probe))
    return ()


# Always enough: one for each thread of the processes that a sandbox begins with.
_SIGNALS = 100

# gVisor starts dozens of threads, and opens dozens of files, for the smallest program.
_PROCESSES = {"processes": ("RLIMIT_NPROC", 100)}
_OPEN_FILES = {"open_files": ("RLIMIT_NOFILE", 300)}
_FILE_SIZE = {"file_size": ("RLIMIT_FSIZE", None)}
_MEMORY = {"address_space": ("RLIMIT_AS", None), "data": ("RLIMIT_DATA", None)}


def refused_call(seen: Seen) -> Evidence:
    probe = seen.failed("runsc")
    if probe is None or seen.facts.privileges.seccomp != 2:
        return ()
    return (told(probe), "Seccomp is 2 in /proc/self/status")


def no_kvm(seen: Seen) -> Evidence:
    probe = seen.failed("kvm", errnos=_REFUSALS)
    return (told(probe),) if probe else ()


def no_tun(seen: Seen) -> Evidence:
    probe = seen.failed("tun")
    return (told(probe),) if probe else ()


def only_named(seen: Seen) -> Evidence:
    """For a cause that only the core, or runsc's own words, can name."""
    return ()


_USERNS = (*_MAKING, "setgroups", "namespaces", "mount", "range-map", "runsc")
_MAP = ("setgroups", "one-id-map", "nested-user", "range-map", "runsc")
_RANGE = ("ranges", "range-map", "range-mount")
_RUNSC = ("runsc",)

#: In the order in which they stand in the way.
RULES: tuple[Rule, ...] = (
    Rule("already-in-gvisor", in_gvisor, eclipses=True),
    Rule("no-proc", no_proc, (*_MAP, "ranges", "namespaces", "mount")),
    Rule("process-limit", too_many_processes, ("start", *_USERNS, *_RANGE, "ptrace")),
    Rule("descriptor-limit", too_many_files, ("start", *_USERNS, *_RANGE, "ptrace")),
    Rule("seccomp-denies-userns", filtered, (*_USERNS, "unshare-nothing")),
    Rule("no-config-user-ns", not_supported, _USERNS),
    Rule("unprivileged-userns-clone-off", clone_off, _USERNS),
    Rule("max-user-namespaces", limited, _USERNS),
    *(
        Rule(f"max-{kind}-namespaces", partial(forbidden, kind), ("namespaces", "mount", *_RUNSC))
        for kind in ("mnt", "net", "pid", "ipc", "uts", "cgroup")
    ),
    Rule("nesting-too-deep", nested, _USERNS),
    Rule("in-chroot", chrooted, _USERNS),
    Rule("caller-id-unmapped", unmapped, _USERNS),
    Rule("lsm-denies-userns", denied_by_module, _USERNS),
    Rule("clone-flags-conflict", only_named, _USERNS),
    Rule("apparmor-restricts-userns", apparmor_restricted, (*_USERNS, "pivot-root")),
    Rule("join-denied", only_named, _MAP),
    Rule("setgroups-denied-on-join", only_named, _MAP),
    Rule("multithreaded", threaded, warns=True, always=True),
    Rule("proc-read-only", read_only_proc, _MAP),
    Rule("not-dumpable", only_named, _MAP),
    Rule("landlock", only_named, (*_MAP, "mount", "pivot-root")),
    Rule("target-gone", only_named, _MAP),
    Rule("proc-hidepid", only_named, ("ranges", "range-map", "range-mount", "ptrace")),
    Rule("child-missing", only_named, _MAP),
    Rule("setgroups-order", only_named, _MAP),
    Rule("needs-setfcap", only_named, (*_MAP, "ranges", "namespaces", "mount")),
    Rule("unprivileged-map", only_named, _MAP),
    Rule("outside-parent-map", only_named, _MAP),
    Rule("map-invalid", only_named, (*_MAP, "ranges")),
    Rule("no-passwd-entry", only_named, _RANGE),
    Rule("subid-file-unreadable", only_named, _RANGE),
    Rule("subid-not-a-file", only_named, _RANGE),
    Rule("nss-subid", from_service, _RANGE),
    Rule("subgid-by-gid", keyed_by_gid, _RANGE),
    Rule("no-subordinate-range", only_named, _RANGE),
    Rule("range-outside-parent", only_named, _RANGE),
    Rule("range-not-granted", only_named, _RANGE),
    Rule("range-overlap", overlapping, _RANGE),
    Rule("helper-missing", helper_missing, _RANGE),
    Rule("helper-not-executable", helper_closed, _RANGE),
    Rule("helper-not-setuid", helper_powerless, _RANGE),
    Rule("helper-on-nosuid", helper_nosuid, _RANGE),
    Rule("no-new-privs", new_privs_given_up, _RANGE),
    Rule("bounding-set", bounded, _RANGE),
    Rule("seccomp-denies-helper", only_named, _RANGE),
    Rule("gid-differs-from-passwd", only_named, _RANGE),
    Rule("helper-caps-other-userns", helper_caps_elsewhere, _RANGE),
    Rule("helper-hung", only_named, _RANGE),
    Rule("helper-stopped", only_named, _RANGE),
    Rule("helper-killed", only_named, _RANGE),
    Rule("helper-status-lost", only_named, _RANGE),
    Rule("helper-failed", only_named, _RANGE),
    Rule("map-not-written", only_named, _RANGE),
    Rule("ranges-shared", shared, warns=True),
    Rule("mount-denied", mount_denied, ("mount", "pivot-root", "mount-proc", "runsc")),
    Rule("mount-by-descriptor-missing", only_named, ("mount-bind", "runsc")),
    Rule("mount-without-owned-ns", only_named, ("mount-proc",)),
    Rule("proc-masked", masked, ("mount-proc",), warns=True),
    Rule("yama-ptrace-scope", yama, ("ptrace", "runsc")),
    Rule("ptrace-denied", ptrace_denied, ("ptrace", "runsc")),
    Rule("runsc-missing", partial(not_usable, "runsc-missing"), ("runsc",)),
    Rule("not-runsc", other_program, ("runsc",)),
    Rule("wrong-architecture", partial(not_usable, "wrong-architecture"), ("runsc",)),
    Rule("runsc-too-old", too_old, ("runsc",)),
    Rule("selinux-nested", selinux_nested, ("runsc",)),
    Rule("runsc-not-executable", partial(not_usable, "runsc-not-executable"), ("runsc",)),
    Rule("dev-null-missing", no_null, ("null", "runsc")),
    Rule("process-limit", partial(short_of, _PROCESSES), _RUNSC, guessed=True),
    Rule("descriptor-limit", partial(short_of, _OPEN_FILES), _RUNSC, guessed=True),
    Rule("file-size-limit", partial(short_of, _FILE_SIZE), _RUNSC, guessed=True),
    Rule("address-space-limit", partial(short_of, _MEMORY), _RUNSC, guessed=True),
    Rule("signal-limit", signals_lost, _RUNSC, guessed=True),
    Rule("memory-deny-write-execute", only_named, _RUNSC),
    Rule("seccomp-denies-call", refused_call, _RUNSC, guessed=True),
    Rule("runsc-ran-nothing", only_named, ("runsc",)),
    Rule("runsc-killed", only_named, ("runsc",)),
    Rule(LATE, only_named),
    Rule("cgroup-not-delegated", not_delegated, ("cgroup",)),
    Rule("tun-missing", no_tun, ("tun",)),
    Rule("kvm-denied", no_kvm, ("kvm",)),
)

#: A cause that is but the consequence of another one, if that holds.
CONSEQUENCES: Mapping[str, tuple[str, ...]] = {
    # The core does not compare the limit with what it is unless somebody sets it.
    "nesting-too-deep": (
        "max-user-namespaces",
        *(rule.id for rule in RULES if rule.id.startswith("max-")),
    ),
    "no-subordinate-range": ("subgid-by-gid", "nss-subid"),
    "map-invalid": ("range-overlap",),
    LATE: ("signal-limit",),
    "target-gone": ("no-proc", "proc-hidepid"),
    "seccomp-denies-call": ("seccomp-denies-userns", "mount-denied", "ptrace-denied"),
    # Where we are nobody, no file is root's either.
    "helper-not-setuid": ("caller-id-unmapped",),
    # All that the core can say of a helper that gave no reason of its own.
    "helper-failed": tuple(
        rule.id for rule in RULES if "range-map" in rule.explains and rule.id != "helper-failed"
    ),
}
