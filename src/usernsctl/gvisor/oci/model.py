"""The single values of a config.json, and the form that each must have.

A rule about one value is written as its type; the ``description`` of that is what an error message
says would be right.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from usernsctl._records import dataclass

MAX_ID = 2**32 - 1

Id = Annotated[int, Meta(ge=0, le=MAX_ID, description=f"a whole number from 0 to {MAX_ID}")]
Size = Annotated[int, Meta(ge=1, le=MAX_ID, description=f"a whole number from 1 to {MAX_ID}")]
Umask = Annotated[int, Meta(ge=0, le=0o777, description="a whole number from 0 to 511 (0777)")]
WholeNumber = Annotated[
    int, Meta(ge=-(2**31), le=2**31 - 1, description="a whole number of 32 bits, with a sign")
]
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
Strings = Annotated[dict[str, Text], Meta(description="an object whose values are strings")]

#: What may hold secrets: a message says what was wrong with one, and not what is in it.
SECRET = EnvEntry

#: What runsc has no use for, or is not to have: it may be anything, since it goes no further.
Withheld = Annotated[Any, Meta(extra={"withheld": True})]
WithheldText = Annotated[
    str,
    Meta(
        pattern=rf"^{_CHARACTER}*\Z",
        description=f"a string in {_UTF8}",
        extra={"withheld": True},
    ),
]


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
        """The mappings of uids, or of gids; ``None`` if there are none."""
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


def named_hooks(hooks: Hooks | None) -> list[str]:
    """The moments at which `hooks` has programs run, by the names of the specification."""
    if hooks is None:
        return []
    fields = msgspec.structs.fields(hooks)
    return [field.encode_name for field in fields if getattr(hooks, field.name)]


#: The option of ``usernsctl run`` that lets a bundle do what it is not trusted with.
Permission = Literal["--trust-bundle", "--allow-hooks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing in a config.json that is not as it should be.

    An unprivileged runsc can't do it, or silently leaves it out, or it reaches outside of the
    bundle.

    :ivar path: where, as a JSON path such as ``"$.linux.namespaces"``.
    :ivar id: the stable id of the cause.
    :ivar problem: what is wrong.
    :ivar why: what runsc makes of it.
    :ivar remedy: what mends it.
    :ivar fixable: whether :func:`usernsctl.gvisor.oci.fix` mends it.
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
