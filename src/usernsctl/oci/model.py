"""What a config.json may have, and what of it runsc is given.

All keys of the OCI runtime specification (config.md, config-linux.md, specs-go/config.go) are named
here, at every level: Go's decoder, which runsc reads with, takes a key that differs from one of its
own in upper and lower case for that key, so that what we don't know by name we would not see. Keys
whose values are `Withheld` are not given to runsc (:func:`usernsctl.oci.given.for_runsc`): without
root and without control groups it ignores them, or they are not a bundle's to decide. Nor are keys
that nobody knows.

``null`` counts as absent, as it does for the Go decoder.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from usernsctl.oci.values import (
    AbsolutePath,
    Arguments,
    Capability,
    EnvEntry,
    Flag,
    Id,
    Limit,
    NonEmptyText,
    RlimitName,
    Size,
    Strings,
    Text,
    Umask,
    WholeNumber,
    Withheld,
    WithheldText,
)

Kind = Literal["uid", "gid"]
KINDS: tuple[Kind, ...] = ("uid", "gid")


class User(Struct, rename="camel"):
    """``process.user``: ids as the command sees them, inside the namespace."""

    uid: Id | None = None
    gid: Id | None = None
    umask: Umask | None = None
    additional_gids: list[Id] | None = None
    username: Withheld = None


class Rlimit(Struct, rename="camel"):
    """One element of ``process.rlimits``; the limits are in the units of setrlimit(2)."""

    type: RlimitName
    soft: Limit
    hard: Limit


class Capabilities(Struct, rename="camel"):
    """``process.capabilities``: the five sets of capabilities(7)."""

    bounding: list[Capability] | None = None
    effective: list[Capability] | None = None
    inheritable: list[Capability] | None = None
    permitted: list[Capability] | None = None
    ambient: list[Capability] | None = None

    def names(self) -> set[str]:
        """Those of all sets."""
        sets = (self.bounding, self.effective, self.inheritable, self.permitted, self.ambient)
        return {name for one in sets for name in one or ()}


class Process(Struct, rename="camel"):
    """``process``: the command, and what it starts with."""

    args: Arguments
    cwd: AbsolutePath | None = None
    env: list[EnvEntry] | None = None
    user: User | None = None
    terminal: Flag | None = None
    rlimits: list[Rlimit] | None = None
    capabilities: Capabilities | None = None
    no_new_privileges: Flag | None = None
    oom_score_adj: WholeNumber | None = None
    selinux_label: WithheldText | None = None
    apparmor_profile: Withheld = None
    command_line: Withheld = None
    console_size: Withheld = None
    exec_cpu_affinity: Withheld = field(default=None, name="execCPUAffinity")
    io_priority: Withheld = None
    scheduler: Withheld = None


class Root(Struct, rename="camel"):
    """``root``: the root filesystem; a relative path starts at the bundle."""

    path: NonEmptyText
    readonly: Flag | None = None


class MountEntry(Struct, rename="camel"):
    """One element of ``mounts``."""

    destination: AbsolutePath
    type: Text | None = None
    source: Text | None = None
    options: list[Text] | None = None
    uid_mappings: Withheld = None
    gid_mappings: Withheld = None


class Hook(Struct, rename="camel"):
    """A program that runsc starts itself: on the host's kernel, as the caller."""

    path: AbsolutePath
    args: list[Text] | None = None
    env: list[EnvEntry] | None = None
    timeout: WholeNumber | None = None


class Hooks(Struct, rename="camel"):
    """``hooks``, by the moment at which they are run."""

    prestart: list[Hook] | None = None
    create_runtime: list[Hook] | None = None
    create_container: list[Hook] | None = None
    start_container: list[Hook] | None = None
    poststart: list[Hook] | None = None
    poststop: list[Hook] | None = None


class NamespaceEntry(Struct, rename="camel"):
    """One element of ``linux.namespaces``; with a path, a namespace to join."""

    type: NonEmptyText
    path: WithheldText | None = None


class IdMapping(Struct, rename="camel"):
    """One extent of ``linux.uidMappings`` or ``linux.gidMappings``.

    ``hostID`` counts in the ids of the namespace that the runtime is started in.
    """

    container_id: Id = field(name="containerID")
    host_id: Id = field(name="hostID")
    size: Size


class SyscallArgument(Struct, rename="camel"):
    """One condition of a rule of ``linux.seccomp``."""

    index: Limit
    value: Limit
    op: NonEmptyText
    value_two: Limit | None = None


class SyscallRule(Struct, rename="camel"):
    """One element of ``linux.seccomp.syscalls``."""

    names: list[Text]
    action: NonEmptyText
    errno_ret: Limit | None = None
    args: list[SyscallArgument] | None = None


class Seccomp(Struct, rename="camel"):
    """``linux.seccomp``: a filter within gVisor, which runsc only applies where it is told to."""

    default_action: NonEmptyText
    default_errno_ret: Limit | None = None
    architectures: list[Text] | None = None
    flags: list[Text] | None = None
    syscalls: list[SyscallRule] | None = None
    listener_path: Withheld = None
    listener_metadata: Withheld = None


class Linux(Struct, rename="camel"):
    """``linux``."""

    namespaces: list[NamespaceEntry] | None = None
    uid_mappings: list[IdMapping] | None = None
    gid_mappings: list[IdMapping] | None = None
    rootfs_propagation: Text | None = None
    seccomp: Seccomp | None = None
    sysctl: Strings | None = None
    cgroups_path: WithheldText | None = None
    devices: Withheld = None
    intel_rdt: Withheld = None
    masked_paths: Withheld = None
    memory_policy: Withheld = None
    mount_label: Withheld = None
    net_devices: Withheld = None
    personality: Withheld = None
    readonly_paths: Withheld = None
    resources: Withheld = None
    time_offsets: Withheld = None

    def mappings(self, kind: Kind) -> list[IdMapping] | None:
        return self.uid_mappings if kind == "uid" else self.gid_mappings


class Config(Struct, rename="camel"):
    """A config.json."""

    process: Process
    root: Root
    oci_version: NonEmptyText | None = None
    hostname: Text | None = None
    domainname: Text | None = None
    mounts: list[MountEntry] | None = None
    hooks: Hooks | None = None
    linux: Linux | None = None
    annotations: Strings | None = None
    freebsd: Withheld = None
    solaris: Withheld = None
    vm: Withheld = None
    windows: Withheld = None
    zos: Withheld = None
