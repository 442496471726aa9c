"""What a second command of a sandbox has as its first one has, by the config.json of that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from usernsctl._records import dataclass
from usernsctl.gvisor.releases import Release

_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
# The number of each is its place in this list (linux/capability.h).
CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())

# What the agent needs to start a command as another user, with fewer capabilities, and to end it.
_OF_AGENT = ("CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP")
# To make namespaces.
_TO_UNSHARE = "CAP_SYS_ADMIN"
#: Options of an agent that makes namespaces for itself and its commands
#: (csrc/programs/agent/main.c).
OWN_IPC, OWN_NET = "--own-ipc", "--own-net"

#: The annotation that has what the commands of a sandbox have in common where its process 1 is the
#: agent, which has less and more.
OF_COMMANDS = "usernsctl.commands"


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

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Inherited:
        """Read a config.json, also one that :func:`without_command` has changed.

        :raises ArithmeticError: as :meth:`of` does.
        :raises AttributeError: likewise.
        :raises LookupError: likewise.
        :raises TypeError: likewise.
        :raises ValueError: likewise.
        """
        kept = (config.get("annotations") or {}).get(OF_COMMANDS)
        return cls.of(config["process"] if kept is None else json.loads(kept))

    @property
    def capability_set(self) -> int:
        """The capabilities, a bit for each."""
        known = (CAPABILITIES.index(name) for name in self.capabilities if name in CAPABILITIES)
        return sum(1 << number for number in set(known))


def agent_process(inherited: Inherited, *words: str, is_bounded: bool = False) -> dict[str, Any]:
    """The ``process`` of the OCI runtime specification for an agent.

    Its environment may be seen by everybody inside, and limits would be in its way: its commands
    get both from it.

    :param words: its command.
    :param is_bounded: whether its bounding set is that of its commands, where it keeps what is not
        in that. Otherwise it takes that from each of them.
    """
    capabilities = {*inherited.capabilities, *_OF_AGENT}
    if not {OWN_IPC, OWN_NET}.isdisjoint(words):
        capabilities.add(_TO_UNSHARE)
    return {
        "args": [*words],
        "user": {"uid": 0, "gid": 0},
        "cwd": "/",
        "env": [],
        "capabilities": {
            "bounding": sorted(inherited.capabilities if is_bounded else capabilities),
            "effective": sorted(capabilities),
            "permitted": sorted(capabilities),
        },
        "noNewPrivileges": inherited.no_new_privs,
    }


def without_command(config: dict[str, Any], release: Release, *words: str) -> None:
    """Have an agent be process 1, in place of the command that a config.json has.

    What process 1 has in its bounding set, older releases have gVisor's own process have on this
    machine.

    :param release: of the runsc that starts it.
    :param words: the agent's.
    """
    process = config["process"]
    kept = {name: process.get(name) for name in ("env", "rlimits", "capabilities")}
    kept["noNewPrivileges"] = process.get("noNewPrivileges", False)
    config["annotations"] = {**(config.get("annotations") or {}), OF_COMMANDS: json.dumps(kept)}
    config["process"] = agent_process(
        Inherited.of(process), *words, is_bounded=not release.has("bounded-first")
    )


def with_command(config: dict[str, Any]) -> None:
    """Keep the command: what a bundle has where :func:`without_command` writes is forgotten."""
    (config.get("annotations") or {}).pop(OF_COMMANDS, None)
