"""Limits of a sandbox, and the mechanisms that enforce them on this host."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping

from usernsctl import _core
from usernsctl._lean import Any, dataclass, field, fields
from usernsctl.errors import RunscError

# The least memory limit, in bytes. gVisor alone uses 16 to 21 MiB (runsc 20240729).
MEMORY_MIN = 24 << 20
# The least limit for the number of processes and threads. gVisor alone uses 15 to 25 (runsc
# 20240729).
PIDS_MIN = 30
# The least limit for written data, in bytes.
DISK_MIN = 1 << 20

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE_FORM = "a number of bytes, or a number with a unit such as 512M or 1.5GiB"
_TIME_FORM = "a number of seconds, or a number with a unit: 30s, 2m, 1.5h"
_CPUS_FORM = "a number of processors, such as 2 or 1.5, with at most 3 decimals"

#: The accepted values of ``--limits``.
STRICT, BEST_EFFORT = MODES = ("strict", "best-effort")


def parse_size(text: str) -> int:
    """Parse a size in Docker's format, such as ``512M``, ``1g``, ``1GiB`` or ``1048576``.

    :returns: the number of bytes; all units are powers of 1024.
    :raises ValueError: `text` is not a size, has too many digits, or is 0.
    """
    match = re.fullmatch(r"([0-9]+)(\.[0-9]{1,9})?([kmgtp]?)(?:i?b)?", text, re.ASCII | re.I)
    if match is None or (match[2] and not match[3]) or text.lower().endswith("ib") > bool(match[3]):
        raise ValueError(f"{text!r} is not {_SIZE_FORM}")
    whole, part, unit = match.groups()
    _check_digits(text, whole, 19)
    bytes_ = int(float(f"0{part or ''}") * 2 ** _UNITS[unit.lower()])
    size = (int(whole) << _UNITS[unit.lower()]) + bytes_
    _check_above_zero(text, size)
    return size


def shown_size(size: int) -> str:
    """Format a size in the largest unit of which it is a multiple, such as ``10M``."""
    if not size:
        return "0 bytes"
    unit, power = max(
        ((unit, power) for unit, power in _UNITS.items() if size % (1 << power) == 0),
        key=lambda one: one[1],
    )
    return f"{size >> power}{unit.upper()}" if unit else f"{size} bytes"


def shown(name: str, limit: float) -> str:
    """Format a limit with its unit, for messages."""
    if name in ("memory", "disk"):
        return shown_size(int(limit))
    unit = {"pids": " processes and threads", "timeout": " s", "idle_timeout": " s"}
    return f"{limit:.16g}{unit.get(name, '')}"


def parse_count(text: str) -> int:
    """Parse a limit for the number of processes and threads.

    :raises ValueError: `text` is not an integer, has too many digits, or is 0.
    """
    if not re.fullmatch("[0-9]+", text):
        raise ValueError(f"{text!r} is not a whole number")
    _check_digits(text, text, 19)
    _check_above_zero(text, int(text))
    return int(text)


def parse_cpus(text: str) -> float:
    """Parse a number of processors, which need not be an integer.

    :raises ValueError: `text` is not a number of processors, has too many digits, or is 0.
    """
    match = re.fullmatch(r"([0-9]+)(?:\.[0-9]{1,3})?", text)
    if match is None:
        raise ValueError(f"{text!r} is not {_CPUS_FORM}")
    _check_digits(text, match[1], 9)
    _check_above_zero(text, float(text))
    return float(text)


def parse_duration(text: str) -> float:
    """Parse a duration in the format of timeout(1), such as ``30s``, ``2m`` or ``1.5``.

    :returns: the duration, in seconds.
    :raises ValueError: `text` is not a duration, has too many digits, or is less than a
        millisecond.
    """
    match = re.fullmatch(r"([0-9]+)(\.[0-9]{1,9})?([smhd]?)", text)
    if match is None:
        raise ValueError(f"{text!r} is not {_TIME_FORM}")
    whole, part, unit = match.groups()
    _check_digits(text, whole, 9)
    seconds = float(whole + (part or "")) * _SECONDS[unit]
    if seconds < 0.001:
        raise ValueError(f"{text!r} must be at least a millisecond")
    return seconds


def _check_digits(text: str, whole: str, most: int) -> None:
    """Check that `whole`, the integer part of `text`, has at most `most` digits."""
    if len(whole) > most:
        raise ValueError(f"{text!r} is too large: at most {most} digits are allowed")


def _check_above_zero(text: str, number: float) -> None:
    if not number:
        raise ValueError(f"{text!r} must be more than 0; leave the limit out to have none")


def _check_number(
    name: str, given: Any, parse: Callable[[str], Any], types: tuple[type, ...], form: str
) -> Any:
    """Check the argument `name`, and convert it with `parse`; return None unchanged."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (str, *types)):
        raise TypeError(f"{name} must be {form}, not {given!r}")
    # str() of a float may contain an exponent, or more decimals than `parse` accepts.
    text = str(given)
    if isinstance(given, float):
        text = f"{given:.3f}" if given >= 0.001 else f"{given:.9f}"
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def check_size(name: str, given: Any) -> int | None:
    """Convert an argument to a size in bytes; parse text with :func:`parse_size`.

    :raises TypeError: `given` has the wrong type.
    :raises ValueError: `given` is not a size, or is 0.
    """
    size: int | None = _check_number(name, given, parse_size, (int,), _SIZE_FORM)
    return size


def check_count(name: str, given: Any) -> int | None:
    """Convert an argument to a limit for the number of processes and threads.

    :raises TypeError: `given` is neither an int nor text.
    :raises ValueError: `given` is less than 1.
    """
    count: int | None = _check_number(name, given, parse_count, (int,), "a whole number")
    return count


def check_cpus(name: str, given: Any) -> float | None:
    """Convert an argument to a number of processors.

    :raises TypeError: `given` is not a number.
    :raises ValueError: `given` is not a positive number.
    """
    cpus: float | None = _check_number(name, given, parse_cpus, (int, float), _CPUS_FORM)
    return cpus


def check_duration(name: str, given: Any) -> float | None:
    """Convert an argument to seconds; parse text with :func:`parse_duration`.

    :raises TypeError: `given` has the wrong type.
    :raises ValueError: `given` is not a duration, or is less than a millisecond.
    """
    form = "a number of seconds, or a text such as '30s'"
    seconds: float | None = _check_number(name, given, parse_duration, (int, float), form)
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The requested limits of a sandbox; ``None`` for no limit.

    :ivar memory: the memory of the whole sandbox, including gVisor's own memory and files in
        memory, in bytes.
    :ivar pids: the number of the sandbox's processes and threads on the host.
    :ivar cpus: the number of processors.
    :ivar disk: the size of the data that the sandbox may write to the root filesystem, and to each
        tmpfs in config.json, in bytes.
    :ivar timeout: the time limit of the run, in seconds.
    :ivar idle_timeout: the time without a running command, in seconds, after which a sandbox
        without a first command is killed.
    """

    memory: int | None = None
    pids: int | None = None
    cpus: float | None = None
    disk: int | None = None
    timeout: float | None = None
    idle_timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts about this host, or about the cgroup of this process, for :func:`enforce`.

    :ivar memory: the memory of the host or the cgroup, in bytes.
    :ivar processors: the number of processors that this process may use.
    :ivar pids: the number of processes and threads that this user may have.
    :ivar is_root: whether the caller is root, and may be root of the initial user namespace, too.
        RLIMIT_NPROC does not limit that user.
    :ivar writable: the source of one writable bind mount, or ``None`` if there is none.
    :ivar counts_by_namespace: whether RLIMIT_NPROC counts the processes of each user namespace
        separately.
    :ivar groups: the limits that a cgroup can enforce for a sandbox on this host, each with the
        cgroup version (1 or 2).
    """

    memory: int
    processors: int
    pids: int
    is_root: bool = False
    counts_by_namespace: bool = True
    writable: str | None = None
    groups: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def here(cls, writable: Iterable[str], *, groups: bool = True) -> Machine:
        """Return the facts about this host.

        :param writable: the sources of the writable bind mounts.
        :param groups: whether the sandbox may get its own cgroups.
        """
        import resource

        memory, processors = _core.seen_limits()
        most = [limit for limit in resource.getrlimit(resource.RLIMIT_NPROC) if limit >= 0]
        with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
            most.append(int(file.read()))
        release = tuple(map(int, re.findall("[0-9]+", os.uname().release)[:2]))
        return cls(
            memory=memory,
            processors=processors,
            pids=min(most),
            is_root=_is_machine_root(),
            counts_by_namespace=release >= (5, 14),
            writable=min(writable, default=None),
            groups={
                name: version
                for name, version in zip(_GROUPS, _core.group_versions(), strict=True)
                if version and groups
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPart:
    """A limit of a sandbox, and the mechanism that enforces it.

    :ivar name: ``"memory"``, ``"pids"``, ``"cpus"``, ``"disk"``, ``"timeout"`` or
        ``"idle_timeout"``.
    :ivar limit: the limit, a number of bytes, of processes and threads, of processors, or of
        seconds.
    :ivar means: the mechanism that enforces the limit, or ``None`` if the limit is not enforced
        (best effort).
    :ivar is_grouped: whether a cgroup of the sandbox enforces the limit.
    """

    name: str
    limit: float
    means: str | None
    is_grouped: bool = False

    def __str__(self) -> str:
        return f"{self.name} {shown(self.name, self.limit)}: {self.means or 'not enforced'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnforcedLimits:
    """The limits of a sandbox, each with the mechanism that enforces it.

    :ivar parts: the requested limits, including those that are not enforced (best effort).
    """

    parts: tuple[LimitPart, ...] = ()

    def without(self, name: str) -> EnforcedLimits:
        """Return a copy of this object without the limit `name`."""
        return EnforcedLimits(parts=tuple(part for part in self.parts if part.name != name))

    def get(self, name: str) -> LimitPart | None:
        """Return the limit `name`, or ``None`` if it was not requested."""
        return next((part for part in self.parts if part.name == name), None)

    def _enforced(self, name: str) -> float:
        part = self.get(name)
        return part.limit if part is not None and part.means is not None else 0

    @property
    def memory(self) -> int:
        """The memory size that gVisor shows to programs, in bytes; 0 means the host's size."""
        return int(self._enforced("memory"))

    @property
    def processors(self) -> int:
        """The number of processors that gVisor shows to programs; 0 means the host's number."""
        return math.ceil(self._enforced("cpus"))

    @property
    def disk(self) -> int:
        """The limit for data written to the root filesystem, in bytes; 0 means no limit."""
        return int(self._enforced("disk"))

    @property
    def groups(self) -> int:
        """The limits that cgroups enforce, as a bit mask (enum un_group_part); 0 for none."""
        return sum(1 << _GROUPS.index(name) for name in self._grouped)

    @property
    def _grouped(self) -> list[str]:
        return [part.name for part in self.parts if part.is_grouped]

    @property
    def words(self) -> str:
        """The enforced limits, in the format that csrc/programs/shared/limits.c parses."""
        values = {
            "memory": self.memory,
            "pids": int(self._enforced("pids")),
            "processors": self.processors,
            "disk": self.disk,
            "timeout": math.ceil(self._enforced("timeout") * 1000),
            "idle": math.ceil(self._enforced("idle_timeout") * 1000),
            "quota": round(self._enforced("cpus") * 1000) if "cpus" in self._grouped else 0,
            "groups": self.groups,
        }
        return ",".join(f"{name}={value}" for name, value in values.items() if value)


NO_LIMITS = EnforcedLimits()


def enforce(limits: Limits, machine: Machine, *, best_effort: bool = False) -> EnforcedLimits:
    """Choose a mechanism that enforces each limit on this host.

    :param best_effort: whether to ignore a limit that can't be enforced on this host, instead of
        raising an error.
    :raises RunscError: a limit is below what gVisor needs (cause ``memory-limit-too-low`` or
        ``limit-out-of-range``), above what this host has (``limit-out-of-range``), or can't be
        enforced on this host (``limit-unenforceable``).
    """
    _check_range(limits, machine)
    parts = []
    for wanted in fields(limits):
        limit = getattr(limits, wanted.name)
        if limit is None:
            continue
        version = machine.groups.get(wanted.name)
        means, why, remedy = _means(wanted.name, limit, machine)
        if version is not None:
            means, why = f"a control group, version {version}", None
        if why is not None and not best_effort:
            raise RunscError(
                f"the limit {wanted.name}={shown(wanted.name, limit)} can't be enforced here: "
                f"{why}",
                step="sandbox",
                cause="limit-unenforceable",
                remedy=f'{remedy}\n--limits best-effort or limits="best-effort" starts the sandbox '
                "with what can be enforced",
            )
        parts.append(
            LimitPart(name=wanted.name, limit=limit, means=means, is_grouped=version is not None)
        )
    return EnforcedLimits(parts=tuple(parts))


def _means(name: str, limit: float, machine: Machine) -> tuple[str | None, str | None, str]:
    """Return the mechanism, other than a cgroup, that enforces a limit, and its shortcoming.

    :returns: the mechanism, or ``None`` if there is none; the reason why the limit is enforced only
        partly or not at all, or ``None``; and the remedy for this reason.
    """
    if name == "cpus" and limit != int(limit):
        why = "only a control group can limit a sandbox to a part of a processor"
        return None, why, f"set a whole number of processors, or {_group_remedy(machine)}"
    if name == "cpus":
        return "processor affinity", None, ""
    if name == "disk":
        means = "the size of a tmpfs"
        if machine.writable is None:
            return means, None, ""
        why = f"the sandbox may write to {machine.writable} on this machine"
        return means, why, "bind without rw"
    if name == "pids" and machine.counts_by_namespace and not machine.is_root:
        means = f"RLIMIT_NPROC in the user namespace of the sandbox, and {_WATCHER}"
        return means, None, ""
    if name == "pids":
        whose = "of root" if machine.is_root else "of a single user namespace before Linux 5.14"
        why = f"RLIMIT_NPROC does not limit the processes {whose}"
        return _WATCHER, why, f"start usernsctl as another user, or {_group_remedy(machine)}"
    return _WATCHER, None, ""


def _is_machine_root() -> bool:
    """Return whether the caller is root, and may be root of the initial user namespace, too.

    /proc/self/uid_map shows only the parent user namespace, which may not be the initial one.
    """
    with open("/proc/self/uid_map", encoding="ascii") as file:
        inside, outside, _ = map(int, file.readline().split())
    return os.geteuid() == 0 and (inside, outside) == (0, 0)


def _check_range(limits: Limits, machine: Machine) -> None:
    if limits.memory is not None and limits.memory < MEMORY_MIN:
        raise RunscError(
            f"the limit memory={shown_size(limits.memory)} is too low: gVisor alone needs "
            f"{shown_size(MEMORY_MIN)}",
            step="sandbox",
            cause="memory-limit-too-low",
            remedy="write a unit, as in 512M" if limits.memory < 1 << 16 else "set at least 64M",
        )
    for name, limit, least, most in (
        ("memory", limits.memory, 0, machine.memory),
        ("pids", limits.pids, PIDS_MIN, machine.pids),
        ("cpus", limits.cpus, 0.01, machine.processors),
        ("disk", limits.disk, DISK_MIN, machine.memory),
    ):
        if limit is None or least <= limit <= most:
            continue
        is_low = limit < least
        needs = "gVisor alone needs" if name == "pids" else "the least is"
        # Round the greatest size down to whole MiB, so that the user can easily read and type it.
        is_size = name in ("memory", "disk")
        bound = shown(name, least if is_low else most >> 20 << 20 if is_size else most)
        # For pids and cpus, the message has the unit only after the bound, not after the value.
        value = str(limit) if name == "pids" else shown(name, limit)
        bound += " processors" if name == "cpus" else ""
        raise RunscError(
            f"the limit {name}={value} is too {'low' if is_low else 'high'}: "
            f"{needs if is_low else 'this machine has only'} {bound}",
            step="sandbox",
            cause="limit-out-of-range",
            remedy=f"set {name} to at {'least' if is_low else 'most'} {bound.partition(' ')[0]}",
        )


_WATCHER = "a watcher ends the sandbox"
# The limits that cgroups can enforce, in the order of enum un_group_part.
_GROUPS = ("memory", "pids", "cpus")


def _group_remedy(machine: Machine) -> str:
    manager = "" if machine.is_root else "--user "
    return (
        "start usernsctl in a delegated control group\n(docs/limits.md): "
        f"systemd-run {manager}--scope -p Delegate=yes -- usernsctl run ..."
    )
