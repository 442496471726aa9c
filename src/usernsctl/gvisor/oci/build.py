"""Making a config.json from nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Self, get_args, get_origin

import msgspec

from usernsctl.gvisor.oci.ids import IdView, mapping_fault
from usernsctl.gvisor.oci.model import KINDS, Config, Linux, named_hooks
from usernsctl.gvisor.oci.parse import fault, validate
from usernsctl.maps import Extent

OCI_VERSION = "1.0.2"


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of the container.

    :ivar destination: where it appears inside, an absolute path.
    :ivar type: ``"bind"``, or a filesystem that runsc has (``"tmpfs"``, ``"proc"``, …).
    :ivar source: for a bind mount the path outside; a mere label for the others.
    :ivar options: as for mount(8), such as ``"ro"`` or ``"size=64m"``.
    """

    destination: str
    type: str
    source: str
    options: Sequence[str] = ()

    @classmethod
    def bind(cls, source: str, destination: str, *, read_only: bool = True) -> Self:
        """A file or directory from outside, with the mounts below it."""
        return cls(destination, "bind", source, ("rbind", "ro" if read_only else "rw"))

    @classmethod
    def tmpfs(cls, destination: str, *, mode: int = 0o755, size: int | None = None) -> Self:
        """An empty directory in memory; `mode` as for chmod(2), `size` in bytes."""
        options = ["nosuid", "nodev", f"mode={mode:o}"]
        if size is not None:
            options.append(f"size={size}")
        return cls(destination, "tmpfs", "tmpfs", tuple(options))


@dataclass(frozen=True, slots=True)
class Rlimit:
    """A resource limit: `type` such as ``"RLIMIT_NOFILE"``, limits in setrlimit(2)'s units."""

    type: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What :func:`build` makes a config.json of.

    :ivar args: the command and its arguments.
    :ivar rootfs: the root filesystem; a relative path starts at the bundle directory.
    :ivar uid_map: the extents of the prepared namespace for uids; of each, `inside` and `count`
        are used, since inside that namespace its `outside` ids have no meaning.
    :ivar gid_map: the same for gids.
    :ivar env: the whole environment of the command.
    :ivar cwd: where the command starts, an absolute path inside.
    :ivar read_only: whether the root filesystem is read-only.
    :ivar uid: the command's uid inside; `gid` and `additional_gids` likewise.
    :ivar hostname: the name of the host inside, or ``None`` for runsc's default.
    :ivar mounts: mounts besides /proc, /dev, /sys and /tmp; one with the same destination as
        one of these takes its place.
    :ivar terminal: whether stdin, stdout and stderr are to be a new pseudo-terminal.
    :ivar rlimits: resource limits inside.
    :ivar capabilities: capabilities of the command inside, such as ``"CAP_CHOWN"``.
    :ivar no_new_privileges: whether set-user-id programs have no effect inside.
    """

    args: Sequence[str]
    rootfs: str
    uid_map: Sequence[Extent]
    gid_map: Sequence[Extent]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    read_only: bool = True
    uid: int = 0
    gid: int = 0
    additional_gids: Sequence[int] = ()
    hostname: str | None = None
    mounts: Sequence[Mount] = ()
    terminal: bool = False
    rlimits: Sequence[Rlimit] = ()
    capabilities: Sequence[str] = ()
    no_new_privileges: bool = True


def build(options: BuildOptions) -> dict[str, Any]:
    """Make the config.json for one command.

    The result has a user namespace and the identity map of the prepared namespace, so it works
    for every way of starting runsc in that namespace.

    :raises BundleError: a value can't be in a config.json; the message has its JSON path.
    """
    for name in options.env:
        if "=" in name:
            before = name.partition("=")[0]
            raise fault(f"$.process.env: a name with a = in it, after {before!r}", None)
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": _process(options),
        "root": {"path": options.rootfs, "readonly": options.read_only},
    }
    if options.hostname is not None:
        config["hostname"] = options.hostname
    config["mounts"] = _mounts(options.mounts)
    config["linux"] = {
        "namespaces": [{"type": name} for name in ("user", "pid", "ipc", "uts", "mount")],
        "uidMappings": identity_mappings(options.uid_map),
        "gidMappings": identity_mappings(options.gid_map),
    }
    validate(config)
    return config


def identity_mappings(extents: Sequence[Extent]) -> list[dict[str, int]]:
    """The mappings of a nested user namespace that has the ids of the prepared one, unchanged.

    Extents are not merged, even side by side: the kernel refuses an extent that lies across two
    of the parent's (user_namespaces(7), "Defining user and group ID mappings").
    """
    return [
        {"containerID": extent.inside, "hostID": extent.inside, "size": extent.count}
        for extent in extents
    ]


def binds(kind: str | None, options: Sequence[str] | None) -> bool:
    """Whether runsc binds a mount: an option says so, whatever the type, or the type does."""
    return kind == "bind" or not {"bind", "rbind"}.isdisjoint(options or ())


def mount_entry(mount: Mount) -> dict[str, Any]:
    """The element of ``mounts`` for `mount`."""
    entry: dict[str, Any] = {
        "destination": mount.destination,
        "type": mount.type,
        "source": mount.source,
    }
    if mount.options:
        entry["options"] = list(mount.options)
    return entry


def _process(options: BuildOptions) -> dict[str, Any]:
    user: dict[str, Any] = {"uid": options.uid, "gid": options.gid}
    if options.additional_gids:
        user["additionalGids"] = list(options.additional_gids)
    process: dict[str, Any] = {
        "terminal": options.terminal,
        "user": user,
        "args": list(options.args),
        "env": [f"{name}={value}" for name, value in options.env.items()],
        "cwd": options.cwd,
        "noNewPrivileges": options.no_new_privileges,
    }
    if options.capabilities:
        sets = ("bounding", "effective", "inheritable", "permitted", "ambient")
        process["capabilities"] = {name: list(options.capabilities) for name in sets}
    if options.rlimits:
        process["rlimits"] = [
            {"type": limit.type, "soft": limit.soft, "hard": limit.hard}
            for limit in options.rlimits
        ]
    return process


def _mounts(wanted: Sequence[Mount]) -> list[dict[str, Any]]:
    standard = (
        Mount("/proc", "proc", "proc"),
        # runsc fills /dev itself; other runtimes need the entry.
        Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
        Mount.tmpfs("/tmp", mode=0o1777),
    )
    taken = {mount.destination for mount in wanted}
    mounts = [mount for mount in standard if mount.destination not in taken]
    return [mount_entry(mount) for mount in (*mounts, *wanted)]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that :func:`fix` did.

    :ivar path: where, as a JSON path.
    :ivar text: what, such as ``'added {"type": "user"}'``.
    """

    path: str
    text: str


def fix(
    config: dict[str, Any],
    uid_map: Sequence[Extent],
    gid_map: Sequence[Extent],
    *,
    keep_hooks: bool = False,
) -> tuple[dict[str, Any], list[Change]]:
    """Mend `config` for runsc in a prepared namespace with these ids.

    It gets a user namespace, mappings and ``process.user`` where these are missing, and the
    identity map of the prepared namespace where its own mappings can't be had in there. Hooks are
    taken out. All other keys stay as they are, in their order. A second call changes nothing.

    :param keep_hooks: whether the hooks stay: programs that runsc runs outside gVisor.
    :returns: a new config, and what was changed; `config` itself is left alone.
    :raises BundleError: `config` hasn't the shape of a config.json (:func:`validate`).
    """
    typed = validate(config)
    mended = copy.deepcopy(config)
    changes: list[Change] = []
    moments = named_hooks(typed.hooks)
    if moments and not keep_hooks:
        del mended["hooks"]
        changes.append(Change("$.hooks", f"removed; they ran outside gVisor: {', '.join(moments)}"))
    if typed.process.user is None:
        mended["process"]["user"] = {"uid": 0, "gid": 0}
        changes.append(Change("$.process.user", 'added {"uid": 0, "gid": 0}'))
    if typed.linux is None:
        mended["linux"] = {}
    linux = mended["linux"]
    _mend_namespaces(linux, changes)
    ids = IdView(uid_map, gid_map)
    for kind in KINDS:
        mappings = (typed.linux or Linux()).mappings(kind)
        extents = ids.extents(kind)
        if mapping_fault(mappings, extents) is not None:
            linux[f"{kind}Mappings"] = identity_mappings(extents)
            did = "replaced by" if mappings else "added"
            wanted = ", ".join(f"{e.inside}:{e.inside}:{e.count}" for e in extents)
            changes.append(Change(f"$.linux.{kind}Mappings", f"{did} {wanted}"))
    return mended, changes


def _mend_namespaces(linux: dict[str, Any], changes: list[Change]) -> None:
    if linux.get("namespaces") is None:
        linux["namespaces"] = []
    users = 0
    for index, entry in enumerate(linux["namespaces"]):
        if entry["type"] == "user":
            users += 1
            if entry.get("path"):
                path = entry.pop("path")
                changes.append(Change(f"$.linux.namespaces[{index}].path", f"removed {path}"))
    if not users:
        linux["namespaces"].append({"type": "user"})
        changes.append(Change("$.linux.namespaces", 'added {"type": "user"}'))


def for_runsc(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a valid `config` without the keys that are unknown or withheld (model.py)."""
    given: dict[str, Any] = _given(config, Config)
    return given


def _given(value: Any, kind: Any) -> Any:
    kind = _bare(kind)
    if value is None:
        return None
    if get_origin(kind) is list:
        return [_given(element, get_args(kind)[0]) for element in value]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        return {
            key: _given(member, known[key])
            for key, member in value.items()
            if key in known and not _withheld(known[key])
        }
    return dict(value) if isinstance(value, dict) else value


def _withheld(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return any((meta.extra or {}).get("withheld", False) for meta in get_args(kind)[1:])
    return type(None) in get_args(kind) and _withheld(get_args(kind)[0])


def _bare(kind: Any) -> Any:
    """The type itself of one that may be ``None``, or that has a rule with it."""
    while type(None) in get_args(kind) or get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind
