"""What :func:`usernsctl.oci.check` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: The option of ``usernsctl run`` that lets a bundle do what it is not trusted with.
Permission = Literal["--trust-bundle", "--allow-hooks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing in a config.json that an unprivileged runsc can't do, or silently leaves out, or
    that reaches outside of the bundle.

    :ivar path: where, as a JSON path such as ``"$.linux.namespaces"``.
    :ivar id: the stable id of the cause.
    :ivar problem: what is wrong.
    :ivar why: what runsc makes of it.
    :ivar remedy: what mends it.
    :ivar fixable: whether :func:`usernsctl.oci.fix` mends it.
    :ivar blocks: whether runsc fails because of it; otherwise the command runs, but not quite
        as the file says.
    :ivar outside: whether it reaches outside of the bundle: ``usernsctl run`` refuses it.
    :ivar allowed_by: the option with which it does not; ``None`` if there is none.
    """

    path: str
    id: str
    problem: str
    why: str
    remedy: str
    fixable: bool = False
    blocks: bool = True
    outside: bool = False
    allowed_by: Permission | None = None
