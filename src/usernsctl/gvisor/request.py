"""What a run in gVisor is asked to be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from usernsctl.gvisor.oci import Rlimit
from usernsctl.maps import IdMap


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of this machine to be seen inside.

    :ivar source: its path; a relative one starts at the current directory.
    :ivar destination: where it is seen, an absolute path.
    :ivar read_only: whether it is protected; what is written to it otherwise reaches the machine.
    """

    source: str
    destination: str
    read_only: bool = True

    @classmethod
    def shown(cls, source: str, destination: str = "", *, read_only: bool = True) -> Self:
        """Show `source` at `destination`, or under its own name if that is empty."""
        return cls(source, destination or os.path.abspath(source), read_only)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What :func:`usernsctl.gvisor.launch.run` runs, and in what.

    The root filesystem is one of four: this machine's programs without its data (the default),
    all of this machine (`expose_root`), a directory (`rootfs`), or that of an OCI bundle
    (`bundle`), whose config.json then decides all that this request leaves open.

    :ivar trust_bundle: whether the bundle may show files of this machine, and have annotations, as
        it likes; otherwise it is a stranger's data.
    :ivar allow_hooks: whether the bundle may have runsc run programs OUTSIDE gVisor: on this
        machine's kernel, as the caller.
    :ivar args: the command and its arguments; may be empty for a bundle, which has its own.
    :ivar env: the whole environment; with a bundle, what is set besides the bundle's own.
    :ivar cwd: where the command starts, or ``None`` for the current directory where that is seen
        inside, else ``/``.
    :ivar user: uid and gid inside, or ``None`` for 0 and 0.
    :ivar terminal: whether the command gets a terminal of its own.
    :ivar state: a directory for runsc's state, to be used by other runsc commands meanwhile, or
        ``None`` for one that nobody else sees and that vanishes with the run.
    :ivar idmap: the ids of a new user namespace.
    :ivar kept: the name of a kept namespace to run in, in place of a new one.
    :ivar no_new_privs: whether runsc and all it starts are kept from set-user-id programs.
    :ivar drop_bounding: whether runsc is left no more capabilities than it needs.
    :ivar verify: whether it is proven that the kernel is gVisor's before the command starts.
    """

    args: tuple[str, ...] = ()
    rootfs: str | None = None
    expose_root: bool = False
    bundle: str | None = None
    trust_bundle: bool = False
    allow_hooks: bool = False
    binds: tuple[Bind, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: tuple[int, int] | None = None
    hostname: str | None = None
    terminal: bool = False
    rlimits: tuple[Rlimit, ...] = ()
    network: str = "none"
    platform: str | None = None
    debug_log: str | None = None
    state: str | None = None
    verify: bool = True
    idmap: IdMap = field(default_factory=IdMap.root)
    kept: str | None = None
    no_new_privs: bool = True
    drop_bounding: bool = True
