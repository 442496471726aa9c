"""Restrictions of this process and of commands, such as no_new_privs.

:meth:`Hardening.apply` and :func:`read` concern this process, and require python-prctl, which is in
the extra ``prctl`` because its installation requires a compiler and libcap's headers. The C core
restricts commands, with the settings that :func:`prepare` adds.

``usernsctl run`` applies all restrictions under which runsc works (:func:`for_run`):

- no_new_privs is set, so that runsc and its children can't gain privileges from a set-user-id
  program. It is set only after the id map was written, because newuidmap is such a program.
- The bounding set keeps only :data:`RUNSC_CAPABILITIES`, and :data:`FILE_CAPABILITIES` if several
  ids are mapped. The bounding set restricts runsc in the namespace that usernsctl has prepared.
  runsc's sandbox process has all capabilities in a nested user namespace (user_namespaces(7)), but
  only over that namespace.
- No securebits are set: with SECBIT_NOROOT, execve(2) would remove runsc's capabilities, and the
  kernel resets all securebits in the nested namespace.
- The dumpable attribute is not changed, because execve(2) resets it (PR_SET_DUMPABLE(2const)).
- pdeathsig is not set, because a run must continue if the process that started it exits.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from usernsctl import _core
from usernsctl._lean import dataclass
from usernsctl.errors import HardeningError

RUNSC_CAPABILITIES = frozenset(
    {
        # If runsc lacks one of these four capabilities, it creates a user namespace, and executes
        # itself again in this namespace.
        "sys_admin",
        "sys_chroot",
        "setuid",
        "setgid",
        # Required to map id 0 into the nested user namespace (user_namespaces(7), since Linux
        # 5.12).
        "setfcap",
    }
)

FILE_CAPABILITIES = frozenset({"chown", "dac_override", "dac_read_search", "fowner", "fsetid"})
"""Additional capabilities of the gofer, for files of several owners, if several ids are mapped."""

NETWORK_CAPABILITIES = frozenset({"net_admin", "setpcap"})
"""Capabilities for creating the network of a sandbox, dropped before runsc starts."""

_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())
"""The names of capabilities(7). The index of a capability is its number (linux/capability.h)."""

SECUREBITS = {
    "noroot": 0,
    "noroot_locked": 1,
    "no_setuid_fixup": 2,
    "no_setuid_fixup_locked": 3,
    "keep_caps": 4,
    "keep_caps_locked": 5,
}
"""The bit numbers of the securebits that python-prctl can set.

The names are as in capabilities(7), but in lower case and without ``SECBIT_``.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardening:
    """Restrictions to apply, or the active restrictions that :func:`read` returns.

    The names of capabilities are as in capabilities(7), but in lower case and without ``CAP_``.

    :ivar no_new_privs: whether to set no_new_privs (PR_SET_NO_NEW_PRIVS(2const)), which can't be
        unset.
    :ivar dumpable: whether processes of the same user may trace this process
        (PR_SET_DUMPABLE(2const)); ``None`` changes nothing.
    :ivar pdeathsig: the number of the signal that the process receives when its parent exits, or 0
        for no signal (PR_SET_PDEATHSIG(2const)); ``None`` changes nothing. The kernel clears this
        setting when the process executes a set-user-id program.
    :ivar bounding: the capabilities that the bounding set keeps; ``None`` changes nothing.
    :ivar securebits: the names of the securebits to set (:data:`SECUREBITS`), in addition to those
        already set; ``None`` changes nothing.
    :ivar no_membarrier: whether a seccomp filter answers the command's registrations for
        membarrier(2) in place of the kernel (csrc/sys/membarrier_filter.c). This restriction is
        only for runsc.
    """

    no_new_privs: bool = False
    dumpable: bool | None = None
    pdeathsig: int | None = None
    bounding: frozenset[str] | None = None
    securebits: frozenset[str] | None = None
    no_membarrier: bool = False

    def apply(self) -> None:
        """Apply the restrictions to this process.

        Changing securebits and the bounding set requires CAP_SETPCAP, which this process keeps
        until the next execve(2).

        :raises HardeningError: a name is unknown, prctl(2) failed, or a restriction is not in force
            afterwards. Restrictions that were applied before the failure remain.
        """
        if self.pdeathsig is not None:
            _check_signal(self.pdeathsig)
            _call("pdeathsig", python_prctl().set_pdeathsig, self.pdeathsig)
        if self.dumpable is not None:
            _call("dumpable", python_prctl().set_dumpable, int(self.dumpable))
        if self.securebits is not None:
            _add_securebits(self.securebits)
        if self.bounding is not None:
            _limit_bounding(self.bounding)
        if self.no_new_privs:
            _call("no_new_privs", python_prctl().set_no_new_privs, 1)
        self._confirm()

    def _confirm(self) -> None:
        now = read()
        broken = [
            name
            for name, is_in_effect in (
                ("no_new_privs", now.no_new_privs or not self.no_new_privs),
                ("dumpable", self.dumpable in (None, now.dumpable)),
                ("pdeathsig", self.pdeathsig in (None, now.pdeathsig)),
                ("bounding set", self.bounding is None or _set(now.bounding) <= self.bounding),
                ("securebits", _set(self.securebits) <= _set(now.securebits)),
            )
            if not is_in_effect
        ]
        if broken:
            raise HardeningError(
                f"{' and '.join(broken)} not in effect, although the kernel reported success",
                step="prctl",
            )


def prepare(setup: _core.Setup, restrictions: Hardening) -> None:
    """Add restrictions to the settings of a command that will start in a namespace.

    :param setup: the settings of the command, which this function changes.
    :param restrictions: the restrictions, of which only `no_new_privs`, `bounding` and
        `no_membarrier` have an effect.
    :raises HardeningError: a name is unknown.
    """
    setup.no_new_privs = restrictions.no_new_privs
    setup.no_membarrier = restrictions.no_membarrier
    if restrictions.bounding is not None:
        capabilities = _capabilities()
        _check_names("capability", restrictions.bounding, (name for name, _ in capabilities))
        setup.drop_bounding = sum(
            1 << number for name, number in capabilities if name not in restrictions.bounding
        )


def for_run(
    *,
    no_new_privs: bool = True,
    drop_bounding: bool = True,
    ids: int = 1,
    no_membarrier: bool = False,
    makes_network: bool = False,
) -> Hardening:
    """Return the restrictions for runsc.

    :param no_new_privs: whether to set no_new_privs, so that runsc can't gain privileges from
        set-user-id programs.
    :param drop_bounding: whether runsc keeps only the capabilities that it needs.
    :param ids: the number of ids that the prepared namespace maps.
    :param no_membarrier: see :class:`Hardening`.
    :param makes_network: whether to keep the capabilities that create the network of a sandbox.
    """
    needed = RUNSC_CAPABILITIES if ids == 1 else RUNSC_CAPABILITIES | FILE_CAPABILITIES
    if makes_network:
        needed = needed | NETWORK_CAPABILITIES
    return Hardening(
        no_new_privs=no_new_privs,
        bounding=needed if drop_bounding else None,
        no_membarrier=no_membarrier,
    )


def read() -> Hardening:
    """Return the active restrictions of the calling thread.

    :raises HardeningError: python-prctl can't be imported, or prctl(2) failed.
    """
    prctl = python_prctl()
    bits = int(_call("securebits", prctl.get_securebits))
    return Hardening(
        no_new_privs=bool(_call("no_new_privs", prctl.get_no_new_privs)),
        dumpable=_call("dumpable", prctl.get_dumpable) == 1,
        pdeathsig=int(_call("pdeathsig", prctl.get_pdeathsig)),
        bounding=frozenset(name for name, number in _capabilities() if _is_bounding(number)),
        securebits=frozenset(name for name, bit in SECUREBITS.items() if bits & 1 << bit),
    )


def effective() -> frozenset[str]:
    """Return the names of the effective capabilities of the calling thread."""
    with open("/proc/thread-self/status", encoding="ascii") as file:
        bits = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return frozenset(name for name, number in _capabilities() if bits & 1 << number)


def names() -> frozenset[str]:
    """Return the names of all capabilities of this kernel and all in :data:`CAPABILITIES`."""
    known = frozenset(name for name, _ in _capabilities())
    return known.union(name.removeprefix("CAP_").lower() for name in CAPABILITIES)


def python_prctl() -> ModuleType:
    """Import and return the module ``prctl`` of python-prctl.

    :raises HardeningError: the module can't be imported.
    """
    try:
        return importlib.import_module("prctl")
    except ImportError as error:
        raise HardeningError(
            f"python-prctl can't be imported: {error}",
            step="prctl",
            remedy="apt-get install libcap-dev gcc python3-dev    # as root; then: "
            "pip install 'usernsctl[prctl]'",
        ) from error


def _set(names: frozenset[str] | None) -> frozenset[str]:
    return names if names is not None else frozenset()


def _call(what: str, function: Callable[..., Any], *arguments: int) -> Any:
    try:
        return function(*arguments)
    except (OSError, ValueError) as error:
        number = error.errno or 0 if isinstance(error, OSError) else 0
        why = os.strerror(number) if number else str(error)
        raise HardeningError(f"{what}: {why}", step="prctl", errno=number) from error


def _capabilities() -> list[tuple[str, int]]:
    """Return the name and the number of each capability of this kernel.

    A capability that is not in :data:`CAPABILITIES` has its number as its name, as in capsh(1), so
    that it can be removed from the bounding set, too.
    """
    names = {number: name.removeprefix("CAP_").lower() for number, name in enumerate(CAPABILITIES)}
    # Query the kernel, because a container engine may have mounted another file over
    # /proc/sys/kernel/cap_last_cap, which contains the number of the last capability.
    count = _core.capability_count()
    if count is None:
        raise HardeningError("the capabilities of this kernel can't be read", step="prctl")
    return [(names.get(number, str(number)), number) for number in range(count)]


def _is_bounding(number: int) -> bool:
    return bool(_call("bounding set", python_prctl().capbset_read, number))


def _limit_bounding(keep: frozenset[str]) -> None:
    capabilities = _capabilities()
    _check_names("capability", keep, (name for name, _ in capabilities))
    for name, number in capabilities:
        if name not in keep and _is_bounding(number):
            _call(f"bounding set, {name}", python_prctl().capbset_drop, number)


def _add_securebits(names: frozenset[str]) -> None:
    _check_names("securebit", names, SECUREBITS)
    bits = int(_call("securebits", python_prctl().get_securebits))
    for name in names:
        bits |= 1 << SECUREBITS[name]
    _call("securebits", python_prctl().set_securebits, bits)


def _check_names(kind: str, names: frozenset[str], known: Iterable[str]) -> None:
    known = sorted(known)
    for name in sorted(names.difference(known)):
        raise HardeningError(
            f"{name!r} is not a {kind}; valid names: {', '.join(known)}", step="prctl"
        )


def _check_signal(number: int) -> None:
    if number != 0 and number not in signal.valid_signals():
        raise HardeningError(f"{number} is not a signal number", step="prctl")
