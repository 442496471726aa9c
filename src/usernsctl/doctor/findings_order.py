"""The causes that doctor looks for, in the order in which they stand in the way."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from usernsctl.doctor.findings_rules import (
    Rule,
    apparmor_restricted,
    bounded,
    chrooted,
    clone_off,
    denied_by_module,
    filtered,
    from_service,
    helper_caps_elsewhere,
    helper_missing,
    helper_nosuid,
    helper_powerless,
    in_gvisor,
    keyed_by_gid,
    limited,
    masked,
    mount_denied,
    nested,
    new_privs_given_up,
    no_kvm,
    no_proc,
    no_tun,
    not_delegated,
    not_supported,
    not_usable,
    only_named,
    overlapping,
    ptrace_denied,
    read_only_proc,
    selinux_nested,
    shared,
    threaded,
    too_many_processes,
    too_old,
    unmapped,
    yama,
)

_MAKING = ("unshare-user", "one-id-map", "nested-user")
_USERNS = (*_MAKING, "setgroups", "namespaces", "mount", "range-map", "runsc")
_MAP = ("setgroups", "one-id-map", "nested-user", "range-map", "runsc")
_RANGE = ("ranges", "range-map")

#: In the order in which they stand in the way.
RULES: tuple[Rule, ...] = (
    Rule("already-in-gvisor", in_gvisor, eclipses=True),
    Rule("no-proc", no_proc, (*_MAP, "ranges", "namespaces", "mount")),
    Rule("process-limit", too_many_processes, ("start", *_USERNS, *_RANGE, "ptrace")),
    Rule("seccomp-denies-userns", filtered, (*_USERNS, "unshare-nothing")),
    Rule("no-config-user-ns", not_supported, _USERNS),
    Rule("unprivileged-userns-clone-off", clone_off, _USERNS),
    Rule("max-user-namespaces", limited, _USERNS),
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
    Rule("child-missing", only_named, _MAP),
    Rule("setgroups-order", only_named, _MAP),
    Rule("needs-setfcap", only_named, (*_MAP, "ranges", "namespaces", "mount")),
    Rule("unprivileged-map", only_named, _MAP),
    Rule("outside-parent-map", only_named, _MAP),
    Rule("map-invalid", only_named, (*_MAP, "ranges")),
    Rule("no-passwd-entry", only_named, _RANGE),
    Rule("subid-file-unreadable", only_named, _RANGE),
    Rule("nss-subid", from_service, _RANGE),
    Rule("subgid-by-gid", keyed_by_gid, _RANGE),
    Rule("no-subordinate-range", only_named, _RANGE),
    Rule("range-outside-parent", only_named, _RANGE),
    Rule("range-not-granted", only_named, _RANGE),
    Rule("range-overlap", overlapping, _RANGE),
    Rule("helper-missing", helper_missing, _RANGE),
    Rule("helper-not-setuid", helper_powerless, _RANGE),
    Rule("helper-on-nosuid", helper_nosuid, _RANGE),
    Rule("no-new-privs", new_privs_given_up, _RANGE),
    Rule("bounding-set", bounded, _RANGE),
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
    Rule("not-runsc", partial(not_usable, "not-runsc"), ("runsc",)),
    Rule("wrong-architecture", partial(not_usable, "wrong-architecture"), ("runsc",)),
    Rule("runsc-too-old", too_old, ("runsc",)),
    Rule("selinux-nested", selinux_nested, ("runsc",)),
    Rule("cgroup-not-delegated", not_delegated, ("cgroup",)),
    Rule("tun-missing", no_tun, ("tun",)),
    Rule("kvm-denied", no_kvm, ("kvm",)),
)

#: A cause that is but the consequence of another one, if that holds.
CONSEQUENCES: Mapping[str, tuple[str, ...]] = {
    # The core does not compare the limit with what it is unless somebody sets it.
    "nesting-too-deep": ("max-user-namespaces",),
    "no-subordinate-range": ("subgid-by-gid", "nss-subid"),
    "map-invalid": ("range-overlap",),
    "target-gone": ("no-proc",),
    # Where we are nobody, no file is root's either.
    "helper-not-setuid": ("caller-id-unmapped",),
    # All that the core can say of a helper that gave no reason of its own.
    "helper-failed": tuple(
        rule.id for rule in RULES if "range-map" in rule.explains and rule.id != "helper-failed"
    ),
}
