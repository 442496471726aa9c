"""What a second command of a sandbox has as its first one has, by the config.json of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usernsctl._records import dataclass

_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
# The number of each is its place in this list (linux/capability.h).
CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What the commands of a sandbox have in common.

    :ivar env: the environment, each entry NAME=VALUE.
    :ivar rlimits: each a name like ``"RLIMIT_NOFILE"``, the soft limit and the hard one.
    :ivar capabilities: the names of those that root has.
    :ivar no_new_privs: whether set-user-id programs have no effect.
    """

    env: tuple[str, ...] = ()
    rlimits: tuple[tuple[str, int, int], ...] = ()
    capabilities: tuple[str, ...] = ()
    no_new_privs: bool = True

    @classmethod
    def of(cls, process: Mapping[str, Any]) -> Inherited:
        """Read the ``process`` of a config.json.

        :raises ArithmeticError: it is malformed.
        :raises AttributeError: likewise.
        :raises LookupError: likewise.
        :raises TypeError: likewise.
        :raises ValueError: likewise.
        """
        limits = process.get("rlimits") or ()
        capabilities = process.get("capabilities") or {}
        return cls(
            env=tuple(map(str, process.get("env") or ())),
            rlimits=tuple((str(one["type"]), int(one["soft"]), int(one["hard"])) for one in limits),
            capabilities=tuple(map(str, capabilities.get("bounding") or ())),
            no_new_privs=bool(process.get("noNewPrivileges", False)),
        )

    @property
    def capability_set(self) -> int:
        """The capabilities, a bit for each."""
        known = (CAPABILITIES.index(name) for name in self.capabilities if name in CAPABILITIES)
        return sum(1 << number for number in set(known))
