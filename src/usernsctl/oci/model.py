"""The parts of config.json that this package reads, and the shape each must have.

Only what usernsctl itself looks at is described. Every other key of a file is neither checked
nor changed. Names are those of the OCI runtime specification (config.md, config-linux.md).

A rule about a single value is written here, as the type of that value; its ``description`` is
what an error message says would be right. ``null`` counts as absent, as it does for the Go
decoder of every runtime.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

Kind = Literal["uid", "gid"]
KINDS: tuple[Kind, ...] = ("uid", "gid")

MAX_ID = 2**32 - 1

Id = Annotated[int, Meta(ge=0, le=MAX_ID, description=f"a whole number from 0 to {MAX_ID}")]
Size = Annotated[int, Meta(ge=1, le=MAX_ID, description=f"a whole number from 1 to {MAX_ID}")]
Limit = Annotated[int, Meta(ge=0, description="a whole number, 0 or more")]
Flag = Annotated[bool, Meta(description="true or false")]
# JSON reaches runsc as UTF-8, which has no surrogates (Python's way to hold a byte that is none).
_CHARACTER = r"[^\0\ud800-\udfff]"
_UTF8 = "UTF-8, without NUL characters"

Text = Annotated[str, Meta(pattern=rf"^{_CHARACTER}*\Z", description=f"a string in {_UTF8}")]
NonEmptyText = Annotated[
    str, Meta(pattern=rf"^{_CHARACTER}+\Z", description=f"a string, not empty, in {_UTF8}")
]
AbsolutePath = Annotated[
    str, Meta(pattern=rf"^/{_CHARACTER}*\Z", description=f"an absolute path in {_UTF8}")
]
EnvEntry = Annotated[
    str,
    Meta(pattern=rf"^(?!=){_CHARACTER}+?={_CHARACTER}*\Z", description=f"NAME=VALUE in {_UTF8}"),
]
RlimitName = Annotated[
    str,
    Meta(
        pattern=r"^RLIMIT_(AS|CORE|CPU|DATA|FSIZE|LOCKS|MEMLOCK|MSGQUEUE|NICE|NOFILE|NPROC|RSS"
        r"|RTPRIO|RTTIME|SIGPENDING|STACK)\Z",
        description='a limit of setrlimit(2) in capitals, such as "RLIMIT_NOFILE"',
    ),
]
Capability = Annotated[
    str,
    Meta(
        pattern=r"^CAP_[A-Z_]+\Z",
        description='a capability in capitals, such as "CAP_CHOWN"',
    ),
]
Arguments = Annotated[
    list[Text], Meta(min_length=1, description="an array that starts with the command")
]
Annotations = Annotated[dict[str, Text], Meta(description="an object whose values are strings")]


class User(Struct, rename="camel"):
    """``process.user``: ids as the command sees them, inside the namespace."""

    uid: Id | None = None
    gid: Id | None = None
    additional_gids: list[Id] | None = None


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


class Process(Struct, rename="camel"):
    """``process``: the command, and what it starts with."""

    args: Arguments
    cwd: AbsolutePath | None = None
    env: list[EnvEntry] | None = None
    user: User | None = None
    terminal: Flag | None = None
    rlimits: list[Rlimit] | None = None
    capabilities: Capabilities | None = None
    oom_score_adj: Annotated[int, Meta(description="a whole number")] | None = None
    selinux_label: Text | None = None


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


class NamespaceEntry(Struct, rename="camel"):
    """One element of ``linux.namespaces``; with a path, a namespace to join."""

    type: NonEmptyText
    path: Text | None = None


class IdMapping(Struct, rename="camel"):
    """One extent of ``linux.uidMappings`` or ``linux.gidMappings``.

    ``hostID`` counts in the ids of the namespace that the runtime is started in.
    """

    container_id: Id = field(name="containerID")
    host_id: Id = field(name="hostID")
    size: Size


class Linux(Struct, rename="camel"):
    """``linux``: of all of it, only what rootless runsc uses or refuses."""

    namespaces: list[NamespaceEntry] | None = None
    uid_mappings: list[IdMapping] | None = None
    gid_mappings: list[IdMapping] | None = None
    cgroups_path: Text | None = None
    devices: list[Any] | None = None
    rootfs_propagation: Text | None = None

    def mappings(self, kind: Kind) -> list[IdMapping] | None:
        return self.uid_mappings if kind == "uid" else self.gid_mappings


class Config(Struct, rename="camel"):
    """A config.json, as far as usernsctl reads it."""

    process: Process
    root: Root
    oci_version: NonEmptyText | None = None
    hostname: Text | None = None
    mounts: list[MountEntry] | None = None
    linux: Linux | None = None
    annotations: Annotations | None = None
