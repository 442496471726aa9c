"""The arguments that are passed on, for type checkers and editors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from usernsctl.arguments import StrOrBytesPath
from usernsctl.idmap import IdMap
from usernsctl.sandbox.request import Bind


class StartOptions(TypedDict, total=False):
    """Those of :class:`usernsctl.Sandbox` that are about one sandbox."""

    id: str | None
    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: tuple[int, int] | None
    stdin: Any
    stdout: Any
    stderr: Any
    detach: bool


class HostOptions(TypedDict, total=False):
    """Those of :class:`usernsctl.SandboxHost`."""

    idmap: IdMap | None
    bundle: StrOrBytesPath | None
    trust: bool
    allow_hooks: bool
    rootfs: StrOrBytesPath | None
    expose_root: bool
    binds: Iterable[Bind]
    hostname: str | None
    network: str
    platform: str | None
    verify: bool
