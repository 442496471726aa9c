"""Remedies for doctor's findings: commands for root, with names and numbers of this host."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from usernsctl._text import operand, quoted, shown
from usernsctl.doctor.facts import CAPABILITIES
from usernsctl.explain.model import Cause, Place, Report

#: Names of commands that have an effect only in the shell that starts the sandboxed command.
FOR_SHELL = ("ulimit", "export")
# The comment that remedies for this host append to commands that only root can run.
_AS_ROOT = "    # as root"

_Facts = Mapping[str, Any]

_BY_STARTER = "a parent process must be changed, and doctor can't find out which one"
_BY_CALLER = "the program that made this request must be changed, or its arguments"
_BY_LOOKING = "the remedy depends on the output of these commands"

#: Causes that no script can remedy, each with the reason: root or the user must decide or act.
BY_HAND: Mapping[str, str] = {
    "no-config-user-ns": "only another kernel has user namespaces",
    "already-in-gvisor": "no command in a sandbox can change the kernel of the sandbox",
    "cgroup-not-delegated": "a process can get a delegated control group only at its start",
    "child-missing": "doctor does not know how usernsctl was installed",
    "proc-masked": "the container engine masked /proc at the start of the container",
    "path-closed-inside": "an administrator must decide which users may search a directory",
    "ranges-shared": "an administrator must decide which user gives up a range",
    **dict.fromkeys(
        (
            "seccomp-denies-userns",
            "seccomp-denies-call",
            "seccomp-denies-helper",
            "mount-denied",
            "mount-by-descriptor-missing",
            "ptrace-denied",
            "memory-deny-write-execute",
            "no-new-privs",
            "bounding-set",
            "securebits-noroot",
            "needs-setfcap",
            "landlock",
            "landlock-denies-mount",
            "lsm-denies-userns",
            "in-chroot",
            "nesting-too-deep",
            "caller-id-unmapped",
        ),
        _BY_STARTER,
    ),
    **dict.fromkeys(
        (
            "join-denied",
            "setgroups-denied-on-join",
            "setgroups-order",
            "multithreaded",
            "target-gone",
            "outside-parent-map",
            "map-invalid",
            "mount-without-owned-ns",
            "range-not-granted",
            "range-overlap",
            "helper-status-lost",
            "not-runsc",
        ),
        _BY_CALLER,
    ),
    **dict.fromkeys(
        (
            "helper-failed",
            "helper-hung",
            "helper-killed",
            "helper-stopped",
            "map-not-written",
            "no-answer-in-time",
            "runsc-hung",
            "runsc-killed",
            "runsc-ran-nothing",
            "selinux-nested",
        ),
        _BY_LOOKING,
    ),
}


def is_sentence(cause: Cause, text: str) -> bool:
    """Return whether `text` is a remedy in prose, not a shell command."""
    return cause.prose and text == cause.remedies["host"]


def by_hand(cause: Cause, text: str) -> str | None:
    """Return the reason why a script can't apply the remedy `text`, or None if a script can."""
    is_general = text == cause.remedies["host"]
    return BY_HAND.get(cause.id) if is_general else None


def typed(text: str) -> list[str]:
    """Return the lines of a remedy that are shell commands, without the comment "as root"."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [line.removesuffix(_AS_ROOT) for line in lines]


def remedy(report: Report, cause: Cause, where: Place) -> str:
    """Return the remedy for a cause at the place `where`, a container engine or the host."""
    if where == "host":
        return commands(report, cause) or cause.remedies["host"]
    return cause.remedies.get(where) or cause.remedies["host"]


def commands(report: Report, cause: Cause) -> str:
    """Return the commands that remedy a cause on this host; empty if needed values are unknown.

    Root must run the commands, as a comment in each line says, except ``ulimit`` and ``export``,
    which only the shell that starts the sandboxed command can run. If users other than root can
    replace a file, the result contains comments instead of commands that would give the file
    privileges.
    """
    known = _KNOWN.get(cause.id)
    lines = known(report.facts) if known else []
    return "\n".join(map(_for_root, dict.fromkeys(lines)))


def _for_root(line: str) -> str:
    """Return the line of a remedy, with the comment "as root" if only root can run its command."""
    return line if line.startswith(("#", *FOR_SHELL)) else f"{line}{_AS_ROOT}"


def _user(facts: _Facts) -> str | None:
    """Return the user's name; None if it is unknown, or not safe as an argument of a command."""
    user = facts.get("subordinate", {}).get("user")
    return user if user and not user.startswith("-") and user.isprintable() else None


def _grant(facts: _Facts, *files: str) -> list[str]:
    """Return the command that grants the user subordinate id ranges; empty if values are unknown.

    :param files: the files, /etc/subuid or /etc/subgid, that grant the user no range; by default
        both.
    """
    ranges = facts.get("subordinate", {})
    user, first = _user(facts), ranges.get("free")
    if user is None or first is None:
        return []
    span = f"{first}-{first + ranges['free_count'] - 1}"
    options = [
        f"--add-sub{kind}s {span}"
        for kind in ("uid", "gid")
        if not files or f"/etc/sub{kind}" in files
    ]
    return [f"usermod {' '.join(options)} {quoted(user)}"]


def _grant_others(facts: _Facts) -> list[str]:
    """Return commands that replace the user's granted ids by ids that this user namespace maps."""
    user, uid, added = _user(facts), facts.get("ids", {}).get("uid"), _grant(facts)
    if user is None or not re.fullmatch("[A-Za-z0-9_-]+", user) or not added:
        return []
    return [f"sed -i '/^{user}:/d;/^{uid}:/d' /etc/subuid /etc/subgid", *added]


def _replace(facts: _Facts) -> list[str]:
    """Return commands that replace /etc/subuid and /etc/subgid with regular files."""
    found = facts.get("subordinate", {}).get("no_files", ())
    made = [f"mv {file} {file}.old && touch {file}" for file in found]
    return [*made, *_grant(facts, *found)] if made else []


def _bounding(facts: _Facts) -> list[str]:
    """Return commands that give the helpers file capabilities instead of the setuid bit.

    A set-user-id helper also requires CAP_SYS_ADMIN in the bounding set, a helper with file
    capabilities only CAP_SETUID or CAP_SETGID.
    """
    bounding = facts.get("privileges", {}).get("bounding")
    needed = [CAPABILITIES[name] for name in ("setuid", "setgid")]
    if bounding is None or not all(int(bounding, 16) >> bit & 1 for bit in needed):
        return []
    return _capable(facts, "chmod u-s {file}")


def _capable(facts: _Facts, *before: str) -> list[str]:
    """Return commands that set file capabilities on newuidmap and newgidmap.

    :param before: templates of commands to run on each helper before setcap(8).
    """
    lines = []
    for name, capability in (("newuidmap", "setuid"), ("newgidmap", "setgid")):
        helper = facts.get("helpers", {}).get(name)
        if not helper or not helper["path"]:
            return []
        lines += _mend_helper(helper, (*before, f"setcap cap_{capability}=ep {{file}}"))
    return lines


def _name(facts: _Facts) -> list[str]:
    ids = facts.get("ids", {})
    if "/etc/passwd" in facts.get("subordinate", {}).get("unreadable", ()):
        return ["chmod a+r /etc/passwd"]
    uid, gid = ids.get("uid"), ids.get("gid")
    if not uid:
        return []
    # Create the user with this process's gid, because newuidmap denies the map if its caller's gid
    # is not the gid of the user in /etc/passwd.
    return [
        f"getent group {gid} || groupadd --gid {gid} user{uid}",
        f"useradd --uid {uid} --gid {gid} --no-create-home user{uid}",
    ]


def _group(facts: _Facts) -> list[str]:
    """Return the command that sets the user's gid in /etc/passwd to this process's gid."""
    user, gid = _user(facts), facts.get("ids", {}).get("gid")
    if user is None or gid is None:
        return []
    return [f"usermod --gid {gid} {quoted(user)}"]


def _kvm(facts: _Facts) -> list[str]:
    """Return the command that allows the user to open /dev/kvm."""
    user = _user(facts)
    if user is None:
        return []
    return [
        f"usermod --append --groups kvm {quoted(user)}",
        "# and log in again; or use the default platform, systrap, which needs no device",
    ]


def _filter(*options: str, calls: str) -> Callable[[_Facts], list[str]]:
    """Return a function that returns the remedy for a seccomp filter outside of a container.

    In a container, or without a filter, the function returns no lines.

    :param options: the options of a systemd unit that may install the filter.
    :param calls: the system calls to allow.
    """

    def fill(facts: _Facts) -> list[str]:
        if facts.get("container", {}).get("engine") or not facts.get("privileges", {}).get(
            "seccomp"
        ):
            return []
        return [
            "# A parent process has installed the filter. For a unit of systemd:",
            f"# systemctl show --property {','.join(options)} UNIT",
            f"# systemctl edit UNIT    # and allow {calls} there",
            "# Start a program such as bwrap without its filter.",
        ]

    return fill


def _mounts(facts: _Facts) -> list[str]:
    """Return the remedy for mounts that an AppArmor profile or a seccomp filter denies."""
    label = facts.get("security", {}).get("label") or ""
    name = label.removesuffix(" (enforce)")
    if name == label or facts.get("container", {}).get("engine"):
        return _FILTER_OF_MOUNTS(facts)
    return [
        f"# AppArmor confines this process by the profile {shown(name)}.",
        "# Either add these rules to it: mount, umount, pivot_root, userns, capability,",
        f"# (grep -rl {quoted(name)} /etc/apparmor.d prints its file), and load it again by",
        "# apparmor_parser -r FILE. Or add the rule /PATH/OF/usernsctl Px, to the profile",
        "# (with your path of usernsctl), and load profiles for usernsctl itself:",
        "# usernsctl apparmor-profile --host >/etc/apparmor.d/usernsctl-host",
        "# apparmor_parser -r /etc/apparmor.d/usernsctl-host",
    ]


_CALL_FILTER = ("SystemCallFilter",)
_FILTER_OF_MOUNTS = _filter(*_CALL_FILTER, calls="the group @mount")


def _helpers(*lines: str, which: Callable[[_Facts], bool]) -> Callable[[_Facts], list[str]]:
    def fill(facts: _Facts) -> list[str]:
        found = [one for one in facts.get("helpers", {}).values() if one["path"] and which(one)]
        return [line for one in found for line in _mend_helper(one, lines)]

    return fill


def _mend_helper(helper: _Facts, lines: tuple[str, ...]) -> list[str]:
    """Return the commands `lines` for a helper, or comments if other users can replace its file."""
    file, point = helper["system"], helper["nosuid"] or "/"
    if not file or not (file + point).isprintable():
        return [
            "# Root must not trust this file, which other users could replace:",
            f"# {quoted(helper['path'])}",
            "# Remove its directory from PATH, or reinstall the package:",
            "# apt-get install --reinstall uidmap",
        ]
    return [line.format(file=quoted(file), point=quoted(point)) for line in lines]


def _runsc(facts: _Facts) -> list[str]:
    found = facts.get("runsc") or {}
    path, file = found.get("path") or found.get("refused"), found.get("system")
    if point := found.get("noexec"):
        return _executable_mount(facts, point, file)
    if file and file.isprintable():
        return [f"chmod a+rx {quoted(file)}"]
    if not path or found.get("other"):
        return _other_runsc(facts)
    return [f"# if this file is runsc, as its owner: chmod a+rx {quoted(operand(path))}"]


def _executable_mount(facts: _Facts, point: str, file: str | None) -> list[str]:
    """Return the remedy for a noexec mount: a remount with exec if only root can replace `file`."""
    if file and point.isprintable():
        return [f"mount -o remount,bind,exec {quoted(point)}"]
    return _other_runsc(facts) or [
        "# Other users may write to this mount, so it must stay noexec.",
        "# Install runsc elsewhere, such as in /usr/local/bin",
    ]


def _other_runsc(facts: _Facts) -> list[str]:
    other = (facts.get("runsc") or {}).get("other")
    return [f"export USERNSCTL_RUNSC={quoted(other)}"] if other else []


# The values to which remedies raise hard limits; sandboxes need less.
_ENOUGH = {"nofile": 4096, "nproc": 4096}

# The options of ulimit and of prlimit(1) for each limit in the facts.
_LIMITS = {
    "open_files": ("n", "nofile"),
    "processes": ("u", "nproc"),
    "file_size": ("f", "fsize"),
    "address_space": ("v", "as"),
    "data": ("d", "data"),
    "pending_signals": ("i", "sigpending"),
}


def _limits(*names: str) -> Callable[[_Facts], list[str]]:
    def fill(facts: _Facts) -> list[str]:
        limits, hard = facts.get("limits", {}), facts.get("limits", {}).get("hard", {})
        low = [name for name in names if limits.get(name) is not None]
        if any(limits[name] == hard.get(name) for name in low):
            return _by_root(low, facts)
        return [_by_shell(name, hard.get(name)) for name in low or names[:1]]

    return fill


def _by_root(names: list[str], facts: _Facts) -> list[str]:
    """Return the command with which root raises the parent process's limits, or comments."""
    parent, bounding = facts.get("parent"), facts.get("privileges", {}).get("bounding")
    if bounding is not None and not int(bounding, 16) >> CAPABILITIES["sys_resource"] & 1:
        lines = ["# Without CAP_SYS_RESOURCE, not even root can raise a hard limit here."]
        if "address_space" in names:
            # Docker and podman reject --ulimit as=-1.
            lines.append("# RLIMIT_AS: LimitAS=infinity of the services docker and containerd")
        ulimits = [f"--ulimit {_LIMITS[name][1]}=-1" for name in names if name != "address_space"]
        if ulimits:
            start = " ".join(("docker run", *ulimits))
            lines.append(f"# Raise the limit where this container is started: {start}")
        return lines
    if not parent:
        return [
            "# Only root can raise a hard limit. A parent process has set it: see",
            "# Limit...= of a systemd unit, or /etc/security/limits.conf",
        ]
    options = []
    for name in names:
        _, long = _LIMITS[name]
        most = _ENOUGH.get(long, "unlimited")
        options.append(f"--{long}={most}:{most}")
    return [f"prlimit --pid {parent} {' '.join(options)}"]


def _by_shell(name: str, hard: int | None) -> str:
    """Return the shell command that raises a soft limit to its hard limit."""
    option, long = _LIMITS[name]
    most = "unlimited" if hard is None else hard
    if name == "pending_signals":
        # In dash, ulimit has no option -i.
        return f"ulimit -S -i {most} 2>&- || prlimit --pid $$ --{long}={most}:"
    if name != "processes":
        return f"ulimit -S -{option} $(ulimit -H -{option})"
    # Avoid $(...), because the process limit may prevent the shell from starting a process. The
    # option is -u in bash, and -p in dash.
    return f"ulimit -S -u {most} 2>&- || ulimit -S -p {most}"


_KNOWN: Mapping[str, Callable[[_Facts], list[str]]] = {
    "seccomp-denies-userns": _filter(
        "RestrictNamespaces", *_CALL_FILTER, calls="unshare, clone and setns"
    ),
    "mount-denied": _mounts,
    "mount-by-descriptor-missing": _filter(*_CALL_FILTER, calls="the group @mount"),
    "ptrace-denied": _filter(*_CALL_FILTER, calls="ptrace"),
    "seccomp-denies-call": _filter(*_CALL_FILTER, calls="the call that was refused"),
    "seccomp-denies-helper": _filter(*_CALL_FILTER, calls="openat2"),
    "no-subordinate-range": _grant,
    "range-outside-parent": _grant_others,
    "subid-not-a-file": _replace,
    "bounding-set": _bounding,
    "securebits-noroot": _bounding,
    "no-passwd-entry": _name,
    "helper-not-setuid": _helpers("chmod 4755 {file}", which=lambda one: not one["privileged"]),
    "helper-not-executable": _helpers("chmod 4755 {file}", which=lambda one: not one["executable"]),
    "helper-caps-other-userns": _helpers(
        "setcap -r {file}", "chmod 4755 {file}", which=lambda one: one["file_capabilities"]
    ),
    "helper-setuid-and-capable": _helpers(
        "setcap -r {file}", which=lambda one: one["file_capabilities"]
    ),
    "helper-wrong-capability": _capable,
    "helper-not-a-program": _helpers(
        "apt-get install --reinstall uidmap", which=lambda one: one["script"]
    ),
    "map-not-written": _helpers("apt-get install --reinstall uidmap", which=lambda _one: True),
    "helper-on-nosuid": _helpers(
        "mount -o remount,bind,suid {point}", which=lambda one: one["nosuid"] is not None
    ),
    "not-dumpable": _runsc,
    "runsc-not-executable": _runsc,
    "gid-differs-from-passwd": _group,
    "kvm-denied": _kvm,
    "subgid-by-gid": _grant,
    "nss-subid": lambda _facts: ["sed -i 's/^subid:.*/subid: files/' /etc/nsswitch.conf"],
    "proc-read-only": lambda _facts: ["mount -o remount,bind,rw /proc"],
    "descriptor-limit": _limits("open_files"),
    "process-limit": _limits("processes"),
    "file-size-limit": _limits("file_size"),
    "address-space-limit": _limits("address_space", "data"),
    "signal-limit": _limits("pending_signals"),
    **dict.fromkeys(
        (
            "runsc-too-old",
            "not-runsc",
            "wrong-architecture",
            "runsc-missing",
            "runsc-ran-nothing",
            "runsc-hung",
            "runsc-killed",
        ),
        _other_runsc,
    ),
}
