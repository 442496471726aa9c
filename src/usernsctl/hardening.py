"""What a process gives up for good before it hands over.

A process hardens itself by python-prctl (:meth:`Hardening.apply`, :func:`read`), and nothing else
needs that: to install it takes a compiler and libcap's headers, so it is the extra ``prctl``. What
a command is to give up, the core does (:func:`prepare`).

What ``usernsctl run`` gives up by default (:func:`for_run`), found by trying what runsc bears:

- no_new_privs: neither runsc nor what it starts ever executes a set-user-id program. It is set
  after the id map is written, since newuidmap is such a program.
- The bounding set keeps :data:`RUNSC_CAPABILITIES`, and nothing else. It bounds what runsc may do
  to the prepared namespace. runsc's sandbox process lives in a user namespace nested in that one,
  where the kernel starts with a full set again (user_namespaces(7)), but over nothing outside.
- Not securebits: NOROOT would take runsc's capabilities at exec, and in the nested namespace the
  kernel resets the others.
- Dumpable stays, since the kernel sets it anew at exec (prctl(2), PR_SET_DUMPABLE).
- Not pdeathsig: the death of whoever started the run is no reason to end it.
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
        # These four, or runsc re-executes itself in a namespace of its own making.
        "sys_admin",
        "sys_chroot",
        "setuid",
        "setgid",
        # To map id 0 into the nested user namespace (user_namespaces(7), since Linux 5.12).
        "setfcap",
    }
)

FILE_CAPABILITIES = frozenset({"chown", "dac_override", "dac_read_search", "fowner", "fsetid"})
"""What the gofer needs besides, to act on files of any id of a map that has several."""

_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())
"""The names of capabilities(7), each at the place of its number (linux/capability.h)."""

SECUREBITS = {
    "noroot": 0,
    "noroot_locked": 1,
    "no_setuid_fixup": 2,
    "no_setuid_fixup_locked": 3,
    "keep_caps": 4,
    "keep_caps_locked": 5,
}
"""The names of capabilities(7) in lower case, without ``SECBIT_``, and their bit numbers; all that
python-prctl lets through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardening:
    """Restrictions to apply, or (from :func:`read`) those in force.

    Capabilities are named as in capabilities(7), in lower case and without ``CAP_``.

    :ivar no_new_privs: ``True`` sets it; it can't be unset.
    :ivar dumpable: whether others of the same user may trace the process; ``None`` leaves it.
    :ivar pdeathsig: the signal number sent to the process when its parent dies, 0 for none;
        ``None`` leaves it. The kernel clears it at the exec of a set-user-id program.
    :ivar bounding: the only capabilities to be left in the bounding set; ``None`` leaves it.
    :ivar securebits: names from :data:`SECUREBITS` to set besides those set; ``None`` leaves them.
    :ivar no_membarrier: whether what is started goes without registering for memory barriers
        (csrc/sys/membarrier_filter.c): for runsc alone.
    """

    no_new_privs: bool = False
    dumpable: bool | None = None
    pdeathsig: int | None = None
    bounding: frozenset[str] | None = None
    securebits: frozenset[str] | None = None
    no_membarrier: bool = False

    def apply(self) -> None:
        """Apply the restrictions to this process.

        The order matters: securebits and the bounding set need CAP_SETPCAP, which neither of them
        takes away before the next exec.

        :raises HardeningError: a name is unknown, the kernel refused, or a restriction was
            accepted but does not show when read back. Those applied before remain.
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
            for name, kept in (
                ("no_new_privs", now.no_new_privs or not self.no_new_privs),
                ("dumpable", self.dumpable in (None, now.dumpable)),
                ("pdeathsig", self.pdeathsig in (None, now.pdeathsig)),
                ("bounding set", self.bounding is None or _set(now.bounding) <= self.bounding),
                ("securebits", _set(self.securebits) <= _set(now.securebits)),
            )
            if not kept
        ]
        if broken:
            raise HardeningError(
                f"the kernel accepted {' and '.join(broken)} but does not show it", step="prctl"
            )


def prepare(setup: _core.Setup, restrictions: Hardening) -> None:
    """Have a command that is about to be started in a namespace give up the same.

    :param restrictions: of these, ``no_new_privs``, ``bounding`` and ``no_membarrier`` count.
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
) -> Hardening:
    """What to give up before runsc is executed.

    :param ids: how many ids the prepared namespace has.
    """
    needed = RUNSC_CAPABILITIES if ids == 1 else RUNSC_CAPABILITIES | FILE_CAPABILITIES
    return Hardening(
        no_new_privs=no_new_privs,
        bounding=needed if drop_bounding else None,
        no_membarrier=no_membarrier,
    )


def read() -> Hardening:
    """The restrictions in force for the calling thread.

    :raises HardeningError: python-prctl can't be imported, or the kernel refused.
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
    """The capabilities in the effective set of the calling thread, named as elsewhere here."""
    with open("/proc/thread-self/status", encoding="ascii") as file:
        bits = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return frozenset(name for name, number in _capabilities() if bits & 1 << number)


def names() -> frozenset[str]:
    """All capabilities that are known here, or that this kernel has, named as elsewhere here."""
    known = frozenset(name for name, _ in _capabilities())
    return known.union(name.removeprefix("CAP_").lower() for name in CAPABILITIES)


def python_prctl() -> ModuleType:
    """The module of python-prctl, for who needs more of it than is here.

    :raises HardeningError: it can't be imported.
    """
    try:
        return importlib.import_module("prctl")
    except ImportError as error:
        raise HardeningError(
            f"python-prctl can't be imported: {error}",
            step="prctl",
            remedy="apt-get install libcap-dev gcc python3-dev && pip install 'usernsctl[prctl]'",
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
    """Every capability that this kernel has, with its number.

    One that only the running kernel knows is called by its number, as capsh(1) does, so that it is
    dropped all the same.
    """
    names = {number: name.removeprefix("CAP_").lower() for number, name in enumerate(CAPABILITIES)}
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    return [(names.get(number, str(number)), number) for number in range(last + 1)]


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
        raise HardeningError(f"{name!r} is no {kind}; there are {', '.join(known)}", step="prctl")


def _check_signal(number: int) -> None:
    if number != 0 and number not in signal.valid_signals():
        raise HardeningError(f"{number} is no signal number", step="prctl")
