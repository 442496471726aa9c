"""Remedies for this very machine: commands as root types them, filled in from facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from usernsctl import _core
from usernsctl._text import operand, quoted
from usernsctl.explain.model import Cause, Place, Report

#: How commands begin that are for the shell that starts the command.
FOR_SHELL = ("ulimit", "export")

_Facts = Mapping[str, Any]


def remedy(report: Report, cause: Cause, where: Place) -> str:
    """What mends a cause there."""
    if where == "host":
        return commands(report, cause) or cause.remedies["host"]
    return cause.remedies.get(where) or cause.remedies["host"]


def commands(report: Report, cause: Cause) -> str:
    """The commands that mend a cause on this machine; empty where facts don't tell them.

    They are for root, except for those that begin with ``ulimit`` or ``export``: these are for the
    shell that starts the command. Where others than root could change what root would give power
    to, they are comments.
    """
    known = _KNOWN.get(cause.id)
    lines = known(report.facts) if known else []
    return "\n".join(lines)


def _grant(facts: _Facts) -> list[str]:
    ranges = facts.get("subordinate", {})
    user, first = ranges.get("user"), ranges.get("free")
    if not user or first is None or user.startswith("-") or not user.isprintable():
        return []
    span = f"{first}-{first + _core.GRANT_COUNT - 1}"
    return [f"usermod --add-subuids {span} --add-subgids {span} {quoted(user)}"]


def _name(facts: _Facts) -> list[str]:
    ids = facts.get("ids", {})
    if "/etc/passwd" in facts.get("subordinate", {}).get("unreadable", ()):
        return ["chmod a+r /etc/passwd"]
    uid, gid = ids.get("uid"), ids.get("gid")
    if not uid:
        return []
    # newuidmap serves nobody whose group is another one.
    return [
        f"getent group {gid} || groupadd --gid {gid} user{uid}",
        f"useradd --uid {uid} --gid {gid} --no-create-home user{uid}",
    ]


def _group(facts: _Facts) -> list[str]:
    """The group of the user is the caller's: newuidmap serves nobody who has another one."""
    user, gid = facts.get("subordinate", {}).get("user"), facts.get("ids", {}).get("gid")
    if not user or gid is None or user.startswith("-") or not user.isprintable():
        return []
    return [f"usermod --gid {gid} {quoted(user)}"]


def _helpers(*lines: str, which: Callable[[_Facts], bool]) -> Callable[[_Facts], list[str]]:
    def fill(facts: _Facts) -> list[str]:
        found = [one for one in facts.get("helpers", {}).values() if one["path"] and which(one)]
        return [line for one in found for line in _mend_helper(one, lines)]

    return fill


def _mend_helper(helper: _Facts, lines: tuple[str, ...]) -> list[str]:
    """What root may type: nothing that gives power to a file which others can change."""
    file, point = helper["system"], helper["nosuid"] or "/"
    if not file or not (file + point).isprintable():
        return [
            "# Root must not make this privileged, which others may have made:",
            f"# {quoted(helper['path'])}",
            "# Take its directory out of PATH, or have the package put it there",
            "# anew: apt-get install --reinstall uidmap",
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
    return [f"# only if it is a runsc, and as its owner: chmod a+rx {quoted(operand(path))}"]


def _executable_mount(facts: _Facts, point: str, file: str | None) -> list[str]:
    """A variable can name a file on any mount, such as that of what all users write."""
    if file and point.isprintable():
        return [f"mount -o remount,bind,exec {quoted(point)}"]
    return _other_runsc(facts) or [
        "# Others than root may write there, so that nothing is executed from there.",
        "# Install runsc where systems have their programs, such as in /usr/local/bin",
    ]


def _other_runsc(facts: _Facts) -> list[str]:
    other = (facts.get("runsc") or {}).get("other")
    return [f"export USERNSCTL_RUNSC={quoted(other)}"] if other else []


# What is always enough, where a hard limit has to be raised.
_ENOUGH = {"nofile": 4096, "nproc": 4096}

# By the names of the facts: the option of ulimit, and that of prlimit(1).
_LIMITS = {
    "open_files": ("n", "nofile"),
    "processes": ("u", "nproc"),
    "file_size": ("f", "fsize"),
    "address_space": ("v", "as"),
    "data": ("d", "data"),
}


def _limits(*names: str) -> Callable[[_Facts], list[str]]:
    def fill(facts: _Facts) -> list[str]:
        limits, parent = facts.get("limits", {}), facts.get("parent")
        lines = []
        for name in names:
            soft, hard = limits.get(name), limits.get("hard", {}).get(name)
            option, long = _LIMITS[name]
            if soft is not None and soft == hard and parent:
                most = _ENOUGH.get(long, "unlimited")
                lines.append(f"prlimit --pid {parent} --{long}={most}:{most}")
            elif name == "processes":
                # Not even the start of a $(...) may be allowed; dash has another letter for it.
                most = "unlimited" if hard is None else hard
                lines.append(f"ulimit -S -u {most} 2>&- || ulimit -S -p {most}")
            elif soft is not None or len(names) == 1:
                # The hard limit is as far as a user may go.
                lines.append(f"ulimit -S -{option} $(ulimit -H -{option})")
        return lines

    return fill


_KNOWN: Mapping[str, Callable[[_Facts], list[str]]] = {
    "no-subordinate-range": _grant,
    "no-passwd-entry": _name,
    "helper-not-setuid": _helpers("chmod 4755 {file}", which=lambda one: not one["privileged"]),
    "helper-not-executable": _helpers("chmod 4755 {file}", which=lambda one: not one["executable"]),
    "helper-caps-other-userns": _helpers(
        "setcap -r {file}", "chmod 4755 {file}", which=lambda one: one["file_capabilities"]
    ),
    "helper-on-nosuid": _helpers(
        "mount -o remount,bind,suid {point}", which=lambda one: one["nosuid"] is not None
    ),
    "not-dumpable": _runsc,
    "runsc-not-executable": _runsc,
    "gid-differs-from-passwd": _group,
    "subgid-by-gid": _grant,
    "nss-subid": lambda _facts: ["sed -i 's/^subid:.*/subid: files/' /etc/nsswitch.conf"],
    "proc-read-only": lambda _facts: ["mount -o remount,bind,rw /proc"],
    "descriptor-limit": _limits("open_files"),
    "process-limit": _limits("processes"),
    "file-size-limit": _limits("file_size"),
    "address-space-limit": _limits("address_space", "data"),
    **dict.fromkeys(
        ("not-runsc", "wrong-architecture", "runsc-missing", "runsc-ran-nothing", "runsc-killed"),
        _other_runsc,
    ),
}
