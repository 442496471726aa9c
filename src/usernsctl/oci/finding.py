"""What :func:`usernsctl.oci.check` reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing in a config.json that an unprivileged runsc can't do, or silently leaves out.

    :ivar path: where, as a JSON path such as ``"$.linux.namespaces"``.
    :ivar id: the stable id of the cause.
    :ivar problem: what is wrong.
    :ivar why: what runsc makes of it.
    :ivar remedy: what mends it.
    :ivar fixable: whether :func:`usernsctl.oci.fix` mends it.
    :ivar blocks: whether runsc fails because of it; otherwise the command runs, but not quite
        as the file says.
    """

    path: str
    id: str
    problem: str
    why: str
    remedy: str
    fixable: bool = False
    blocks: bool = True
