"""Functions that build a config.json for runsc.

The *prepared namespace* is the user namespace in which runsc is started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from usernsctl._lean import Any, Self, dataclass, field
from usernsctl.maps import Extent

OCI_VERSION = "1.0.2"
_MAX_ID = 2**32 - 1
_UNLIMITED = 2**64 - 1  # the value of RLIM_INFINITY in config.json


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount in the container.

    :ivar destination: the mount point in the container, an absolute path.
    :ivar type: ``"bind"``, or a filesystem type of runsc (``"tmpfs"``, ``"proc"``, …).
    :ivar source: the path on the host for a bind mount; a label without effect for other types.
    :ivar options: mount options as for mount(8), such as ``"ro"`` or ``"size=64m"``.
    """

    destination: str
    type: str
    source: str
    options: Sequence[str] = ()

    @classmethod
    def bind(cls, source: str, destination: str, *, read_only: bool = True) -> Self:
        """Return a bind mount of a file or directory, including the mounts below it."""
        return cls(destination, "bind", source, ("rbind", "ro" if read_only else "rw"))

    @classmethod
    def tmpfs(cls, destination: str, *, mode: int = 0o755, size: int | None = None) -> Self:
        """Return a tmpfs mount; `mode` is as for chmod(2), and `size` is in bytes."""
        options = ["nosuid", "nodev", f"mode={mode:o}"]
        if size is not None:
            options.append(f"size={size}")
        return cls(destination, "tmpfs", "tmpfs", tuple(options))


@dataclass(frozen=True, slots=True)
class Rlimit:
    """A resource limit of a process; `type` is a name such as ``"RLIMIT_NOFILE"``.

    The limits are in the units of setrlimit(2).
    """

    type: str
    soft: int
    hard: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the value of ``--rlimit``: ``NAME=SOFT[:HARD]``.

        :param text: the limit. NAME is a resource of setrlimit(2), such as ``nofile`` or
            ``RLIMIT_NOFILE``. SOFT and HARD are numbers in the unit of that resource, or
            ``unlimited``; by default, HARD is SOFT.
        :raises ValueError: `text` has the wrong format.
        """
        import resource

        name, _, limits = text.partition("=")
        full = f"RLIMIT_{name.upper().removeprefix('RLIMIT_')}"
        if full == "RLIMIT_OFILE" or not hasattr(resource, full):
            # Exclude RLIMIT_OFILE, which is BSD's name for RLIMIT_NOFILE.
            names = {n for n in dir(resource) if n.startswith("RLIMIT_")} - {"RLIMIT_OFILE"}
            known = ", ".join(sorted(n.removeprefix("RLIMIT_").lower() for n in names))
            raise ValueError(f"{name!r} is not a resource limit; the limits are {known}")
        soft, _, hard = limits.partition(":")
        numbers = [_limit(text, soft), _limit(text, hard or soft)]
        if numbers[0] > numbers[1]:
            raise ValueError(f"{text!r}: the soft limit is above the hard limit")
        return cls(full, *numbers)


def _limit(text: str, number: str) -> int:
    if number in ("unlimited", "-1"):
        return _UNLIMITED
    import re

    if not re.fullmatch(r"[0-9]{1,20}", number) or int(number) > _UNLIMITED:
        raise ValueError(f"{text!r} is not NAME=SOFT[:HARD], numbers or 'unlimited'")
    return int(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Contents of a config.json for :func:`build`.

    :ivar args: the command and its arguments.
    :ivar rootfs: the path of the root filesystem, absolute or relative to the bundle directory.
    :ivar uid_map: the uid extents of the prepared namespace; the `outside` ids are ignored, since
        they have no meaning in that namespace.
    :ivar gid_map: the gid extents of the prepared namespace.
    :ivar env: the whole environment of the command.
    :ivar cwd: the working directory of the command, an absolute path in the container.
    :ivar read_only: whether the root filesystem is read-only.
    :ivar uid: the command's uid in the container; `gid` and `additional_gids` are ids in the
        container, too.
    :ivar hostname: the hostname in the container, or ``None`` for runsc's default.
    :ivar mounts: mounts in addition to /proc, /dev, /sys and /tmp; a mount with one of these
        destinations replaces the default.
    :ivar terminal: whether the command gets a new pseudo-terminal as stdin, stdout and stderr.
    :ivar rlimits: resource limits of the command.
    :ivar capabilities: capabilities of the command, such as ``"CAP_CHOWN"``.
    :ivar no_new_privileges: whether programs in the container can't gain privileges by set-user-id
        bits.
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
    """Build the config.json for a command.

    The config.json requests a user namespace with the identity map of the prepared namespace, so
    that runsc in the prepared namespace accepts the file with and without ``--rootless``.

    :raises BundleError: config.json can't hold a value; the message contains the value's JSON path,
        or the number of an argument that is not UTF-8.
    """
    for name, value in options.env.items():
        if "=" in name:
            before = name.partition("=")[0]
            from usernsctl.gvisor.oci.schema import fault

            raise fault(
                f"$.process.env: the variable name that begins with {before!r} contains =", None
            )
        if _is_text(name) and not _is_text(value):
            from usernsctl.gvisor.oci.schema import fault

            raise fault(
                f"$.process.env: the value of {name!r} is not UTF-8, or has a NUL character", None
            )
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
    if not _is_surely_valid(options):
        for number, word in enumerate(options.args):
            _check_argument(number, word)
        from usernsctl.gvisor.oci.schema import validate

        validate(config)
    return config


def _check_argument(number: int, word: object) -> None:
    r"""Check that config.json can contain `word`, the argument `number` of the command.

    :raises BundleError: the argument is not UTF-8. The message shows each invalid byte as ``\xff``.
    """
    if not isinstance(word, str) or "\0" in word or _is_text(word):
        return
    import re

    from usernsctl.gvisor.oci.schema import fault

    typed = re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", word)
    what = f"argument {number} of the command" if number else "the command"
    failed = fault(f"{what} is not UTF-8, as gVisor's config.json must be: {typed}", None)
    shell = """usernsctl run -- sh -c 'CMD "$(printf "\\377")"'"""
    failed.explain(remedy=f"{shell}    # printf writes the byte")
    raise failed


def _is_surely_valid(options: BuildOptions) -> bool:
    """Return True only if `options` certainly give a valid config.json.

    The check is fast, and accepts nearly all options that occur in practice. For other options, the
    caller calls :func:`validate`, which is exact, but takes longer to import.
    """
    mounts = options.mounts
    texts = [*options.args, options.rootfs, options.cwd, options.hostname or ""]
    texts += [text for setting in options.env.items() for text in setting]
    texts += [text for one in mounts for text in (one.destination, one.type, one.source)]
    texts += [option for one in mounts for option in one.options]
    paths = [options.cwd, options.rootfs, *(one.destination for one in mounts)]
    ids = [options.uid, options.gid, *options.additional_gids]
    return (
        bool(options.args)
        and all(map(_is_text, texts))
        and _is_short(options.hostname)
        and all(path.startswith("/") for path in paths)
        and all(type(number) is int and 0 <= number <= _MAX_ID for number in ids)
        and all(options.env)
        and not options.rlimits
        and all(map(_is_capability, options.capabilities))
        and isinstance(options.terminal, bool)
        and isinstance(options.read_only, bool)
        and isinstance(options.no_new_privileges, bool)
    )


def _is_short(hostname: str | None) -> bool:
    if not hostname:
        return True
    # Import the module here, because few runs set a hostname.
    from usernsctl.gvisor.checks import fits_hostname

    return fits_hostname(hostname)


def _is_capability(name: str) -> bool:
    rest = name.removeprefix("CAP_")
    letters = rest.replace("_", "")
    return name != rest and letters.isascii() and letters.isalpha() and letters.isupper()


def _is_text(value: object) -> bool:
    """Return whether `value` is a string without NUL that can be encoded in UTF-8."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def identity_mappings(extents: Sequence[Extent]) -> list[dict[str, int]]:
    """Return the identity mappings of a user namespace nested in the prepared namespace.

    Adjacent extents are not merged: the kernel rejects an extent that spans two extents of the
    parent (user_namespaces(7), "Defining user and group ID mappings").
    """
    return [
        {"containerID": extent.inside, "hostID": extent.inside, "size": extent.count}
        for extent in extents
    ]


def binds(kind: str | None, options: Sequence[str] | None) -> bool:
    """Return whether runsc creates a bind mount for a type and options.

    The type ``bind`` or, with any type, an option such as ``rbind`` selects a bind mount.
    """
    return kind == "bind" or not {"bind", "rbind"}.isdisjoint(options or ())


def bind_mounts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return those elements of ``mounts`` in config.json that are bind mounts."""
    return [
        mount
        for mount in config.get("mounts") or ()
        if binds(mount.get("type"), mount.get("options"))
    ]


def is_read_only(mount: dict[str, Any]) -> bool:
    """Return whether runsc mounts an element of ``mounts`` read-only: the last ro or rw decides."""
    access = [name for name in mount.get("options") or () if name in ("ro", "rro", "rw")]
    return bool(access) and access[-1] != "rw"


def mount_entry(mount: Mount) -> dict[str, Any]:
    """Return `mount` as an element of ``mounts`` in config.json."""
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
        # The entry for /dev is for other runtimes: runsc mounts /dev even without an entry.
        Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
        Mount.tmpfs("/tmp", mode=0o1777),  # noqa: S108
    )
    taken = {mount.destination for mount in wanted}
    mounts = [mount for mount in standard if mount.destination not in taken]
    return [mount_entry(mount) for mount in (*mounts, *wanted)]
