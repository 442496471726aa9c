"""The arguments that are passed on, for type checkers, editors and wrappers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.gvisor.oci import Rlimit
from usernsctl.gvisor.request import Bind
from usernsctl.maps import AnyIdMap
from usernsctl.namespaces.namespace import Namespace


class CommandOptions(TypedDict, total=False):
    """Arguments of :class:`usernsctl.Sandbox` and :func:`usernsctl.gvisor.run` alike."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: tuple[int, int] | None
    stdin: Any
    stdout: Any
    stderr: Any
    in_cgroup: StrOrBytesPath | int | None


class StartOptions(CommandOptions, total=False):
    """Arguments of :class:`usernsctl.Sandbox` that are about one sandbox."""

    id: str | None
    terminal: bool
    detach: bool
    timeout: float | None


class TemplateOptions(TypedDict, total=False):
    """Arguments of :meth:`usernsctl.SandboxHost.template` besides its own."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: tuple[int, int] | None
    timeout: float | None


class RestoreOptions(TypedDict, total=False):
    """Arguments of :meth:`usernsctl.Template.start`."""

    id: str | None
    stdin: Any
    stdout: Any
    stderr: Any
    detach: bool
    in_cgroup: StrOrBytesPath | int | None
    timeout: float | None


class PythonStartOptions(RestoreOptions, total=False):
    """Arguments of :meth:`usernsctl.PythonTemplate.start` besides its own."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None


class NamedHostOptions(TypedDict, total=False):
    """Arguments of :class:`usernsctl.SandboxHost` that have to be named."""

    namespace: Namespace | str | None
    bundle: StrOrBytesPath | None
    trust: bool
    allow_hooks: bool
    rootfs: StrOrBytesPath | None
    expose_root: bool
    binds: Iterable[Bind | StrOrBytesPath]
    hostname: str | None
    rlimits: Iterable[Rlimit | str]
    network: str
    platform: str | None
    debug_log: StrOrBytesPath | None
    runsc: StrOrBytesPath | None
    verify: bool
    no_new_privs: bool
    drop_bounding: bool


class HostOptions(NamedHostOptions, total=False):
    """Arguments of :class:`usernsctl.SandboxHost`."""

    idmap: AnyIdMap | None


class RunOptions(CommandOptions, HostOptions, total=False):
    """Arguments of :func:`usernsctl.gvisor.run` besides its own."""
