"""Checks of a config.json for values that rootless runsc rejects, and for unusable files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from usernsctl._lean import dataclass
from usernsctl._text import command
from usernsctl.gvisor.oci.bundle import Bundle
from usernsctl.gvisor.oci.escapes import check_outside, is_bind
from usernsctl.gvisor.oci.ids import SEARCH, WRITE, IdView, Reach, check_ids
from usernsctl.gvisor.oci.schema import Config, Linux, MountEntry, Violation, validate
from usernsctl.maps import Extent

_EOF = "runsc: `waiting for sandbox to start: EOF`"
# Command that the remedies suggest. `usernsctl run` needs no writable bundle: it builds a copy of
# the directory tree, and keeps all writes in memory.
_RUN = "usernsctl run --bundle"
_MOVE = "move the bundle to a directory that these ids may search"
_MAX_LINKS = 40  # the kernel's limit on symbolic links in a path (path_resolution(7))


@dataclass(frozen=True, slots=True)
class FileView:
    """The inputs of checks of files.

    :ivar bundle: the absolute path of the bundle's directory.
    :ivar reach: the file permissions of runsc.
    :ivar memory_overlay: whether runsc stores writes to the root filesystem in memory.
    """

    bundle: str
    reach: Reach
    memory_overlay: bool

    def rootfs(self, config: Config) -> str:
        """Return the path of the root filesystem that `config` names."""
        return os.path.join(self.bundle, config.root.path)

    def advise(self, argv: list[str], path: str, otherwise: str) -> str:
        """Return the shell command `argv` for `path`, or `otherwise` for a path outside the bundle.

        Remedies must not advise the user to create files outside of the bundle or to change the
        mode of such files, because an untrusted bundle may have chosen their paths.
        """
        own = f"{os.path.realpath(self.bundle)}/"
        return command([*argv, path]) if f"{path}/".startswith(own) else otherwise


def check_files(config: Config, view: FileView) -> Iterator[Violation]:
    """Yield violations for the root filesystem and the bind mounts of `config`."""
    rootfs_findings = list(_check_rootfs(config, view))
    yield from rootfs_findings
    for index, mount in enumerate(config.mounts or ()):
        if is_bind(mount):
            where = f"$.mounts[{index}]"
            source = _check_source(mount, view, f"{where}.source")
            if source is not None:
                yield source
            elif not rootfs_findings:
                yield from _check_target(config, mount, view, f"{where}.destination")


def _check_rootfs(config: Config, view: FileView) -> Iterator[Violation]:
    rootfs = view.rootfs(config)
    path, wanted = "$.root.path", "the directory of an unpacked image, absolute or from the bundle"
    if os.path.exists(rootfs) and not os.path.isdir(rootfs):
        problem = f"{rootfs} is not a directory"
        why = f"a root filesystem is a directory ({_EOF})"
        yield Violation(path=path, id="rootfs-missing", problem=problem, why=why, remedy=wanted)
        return
    try:
        blocked = view.reach.blocked_at(rootfs, SEARCH)
    except OSError as error:
        problem, why = (
            f"{rootfs}: {error.strerror}",
            f"without a root filesystem, runsc fails ({_EOF})",
        )
        yield Violation(path=path, id="rootfs-missing", problem=problem, why=why, remedy=wanted)
        return
    if blocked is not None:
        yield Violation(
            path=path,
            id="rootfs-unreadable",
            problem=f"{blocked} can't be searched",
            why="the mapped ids lack permission (runsc: `creating root file system: "
            "input/output error`)",
            remedy=view.advise(["chmod", "a+x"], blocked, _MOVE),
        )
    elif not config.root.readonly and not view.memory_overlay and not _writable(rootfs, view):
        yield Violation(
            path="$.root.readonly",
            id="bundle-overlay",
            problem=f"not true, and {rootfs} is not writable",
            why="runsc stores writes in a file there (runsc: `failed to create filestore file`)",
            remedy='"readonly": true, or runsc --overlay2=root:memory, or ' + _RUN,
        )


def _check_source(mount: MountEntry, view: FileView, path: str) -> Violation | None:
    """Return a violation if runsc can't find the source of a bind mount, else None.

    The source must exist, and runsc must be allowed to search the directories of its path.
    The source need not be readable: the mount works anyway, and only reads in the sandbox fail.
    """
    if not mount.source:
        problem, remedy = "missing", "name the path of the source"
    else:
        source = os.path.join(view.bundle, mount.source)
        try:
            blocked = view.reach.blocked_at(source, 0)
        except OSError as error:
            problem = f"{source}: {error.strerror}"
            remedy = view.advise(["mkdir"], os.path.realpath(source), "name an existing source")
        else:
            if blocked is None:
                return None
            problem = f"{blocked} can't be searched"
            remedy = view.advise(["chmod", "a+x"], blocked, _MOVE)
    why = f"a bind mount needs a source that runsc can open ({_EOF})"
    return Violation(path=path, id="bundle-bind-source", problem=problem, why=why, remedy=remedy)


def _check_target(
    config: Config, mount: MountEntry, view: FileView, path: str
) -> Iterator[Violation]:
    """Yield a violation if a bind mount's mount point does not exist and can't be created.

    runsc creates a missing mount point on the host if the last existing directory of its path is
    writable.
    """
    if _below_another_bind(config, mount):
        return
    rootfs, source = view.rootfs(config), os.path.join(view.bundle, mount.source or "")
    try:
        target, missing = resolve_in_root(rootfs, mount.destination)
        kinds = [_kind(source), _kind(target)]
    except PermissionError:
        return  # files that the caller can't stat count as writable
    except OSError as error:
        problem, remedy = f"{mount.destination}: {error.strerror}", "name another destination"
    else:
        if missing and not _writable(target, view):
            problem = f"{missing} is missing in {target}, and can't be created there"
            make = ["mkdir", "-p"] if kinds[0] == "a directory" else ["touch"]
            wanted = os.path.join(target, missing)
            remedy = f"{view.advise(make, wanted, 'create the mount point')}, or {_RUN}"
        elif not missing and kinds[0] != kinds[1]:
            problem = f"the source is {kinds[0]}, {target} is {kinds[1]}"
            remedy = "name another destination"
        else:
            return
    why = f"a mount point must exist in the root filesystem, even below a tmpfs ({_EOF})"
    yield Violation(path=path, id="bundle-bind-target", problem=problem, why=why, remedy=remedy)


def _kind(path: str) -> str:
    return "a directory" if stat.S_ISDIR(os.stat(path).st_mode) else "a file"


def _below_another_bind(config: Config, mount: MountEntry) -> bool:
    below = mount.destination.rstrip("/") + "/"
    return any(
        is_bind(other)
        and other is not mount
        and below.startswith(other.destination.rstrip("/") + "/")
        for other in config.mounts or ()
    )


def resolve_in_root(root: str, path: str) -> tuple[str, str]:
    """Resolve `path` as a process whose root directory is `root` (chroot(2)) would.

    :returns: the part of the path that exists, as a path on the host, and the rest of the path,
        ``""`` if the whole path exists. After :data:`_MAX_LINKS` symbolic links, the rest of the
        path counts as missing.
    :raises OSError: the caller can't search a directory of the path, or a component is too long.
    """
    here, todo, links = root, path.split("/"), 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            here = here if here == root else os.path.dirname(here)
            continue
        there = os.path.join(here, part)
        try:
            is_link = stat.S_ISLNK(os.lstat(there).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return here, "/".join([part, *todo])
        if not is_link:
            here = there
            continue
        links += 1
        if links > _MAX_LINKS:
            return here, "/".join([part, *todo])
        link = os.readlink(there)
        here = root if link.startswith("/") else here
        todo = link.split("/") + todo
    return here, ""


def _writable(directory: str, view: FileView) -> bool:
    try:
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
        return not read_only and view.reach.blocked_at(directory, WRITE | SEARCH) is None
    except PermissionError:
        return True  # files that the caller can't stat count as writable
    except OSError:
        return False


Network = Literal["none", "host"]


def check_refusals(config: Config, network: Network) -> Iterator[Violation]:
    """Yield violations for values that runsc refuses or ignores.

    :param network: the value of runsc's option ``--network``.
    """
    linux = config.linux or Linux()
    yield from _check_platform(config)
    yield from _check_joins(linux, network)
    yield from _check_propagation(config, linux)
    if linux.cgroups_path:
        yield Violation(
            path="$.linux.cgroupsPath",
            id="cgroup-not-delegated",
            problem=f"the cgroup {linux.cgroups_path}",
            why="rootless runsc gets --ignore-cgroups, so only the caller's cgroup has limits",
            remedy="remove the path, and set limits on the caller's cgroup",
            blocks=False,
        )
    if linux.devices:
        yield Violation(
            path="$.linux.devices",
            id="bundle-devices",
            problem="asks for device files",
            why="runsc before 20260223 crashes on a device without fileMode (runsc: `StartRoot "
            "failed: EOF`)",
            remedy="remove the devices, which usernsctl ignores; gVisor has the usual ones in /dev",
        )
    yield from _check_process(config)


def _check_platform(config: Config) -> Iterator[Violation]:
    for name in ("solaris", "windows"):
        if getattr(config, name) is not None:
            yield Violation(
                path=f"$.{name}",
                id="bundle-other-system",
                problem="configures another operating system",
                why=f"runsc: `Spec.{name.capitalize()} is not supported`",
                remedy=f"remove {name}, if the root filesystem is for Linux",
            )


def _check_joins(linux: Linux, network: Network) -> Iterator[Violation]:
    for index, entry in enumerate(linux.namespaces or ()):
        if not entry.path or entry.type == "user":  # ids.py checks user namespaces
            continue
        joins = entry.type == "network" and network == "host"
        yield Violation(
            path=f"$.linux.namespaces[{index}].path",
            id="join-denied" if joins else "bundle-join-ignored",
            problem=f"joins the {entry.type} namespace {entry.path}",
            why="runsc lacks CAP_SYS_ADMIN in the user namespace that owns that namespace (runsc: "
            "`error setting namespace of type network`)"
            if joins
            else f"runsc creates the {entry.type} namespace itself, in the sandbox, and ignores "
            "the path",
            remedy="remove the path, and start runsc in that network namespace"
            if joins
            else "remove the path",
            blocks=joins,
        )


def _check_propagation(config: Config, linux: Linux) -> Iterator[Violation]:
    for index, mount in enumerate(config.mounts or ()):
        for option in mount.options or () if is_bind(mount) else ():
            if option in ("shared", "rshared"):
                yield Violation(
                    path=f"$.mounts[{index}].options",
                    id="bundle-propagation",
                    problem=f"the option {option!r}",
                    why=f'runsc: `mount option "{option}" is not supported`',
                    remedy='use "rslave" or "rprivate"',
                )
    wanted = linux.rootfs_propagation
    if wanted and wanted not in ("private", "rprivate", "slave", "rslave"):
        yield Violation(
            path="$.linux.rootfsPropagation",
            id="bundle-propagation",
            problem=f"{wanted!r}",
            why="runsc: `root mount propagation option must specify private or slave`",
            remedy='use "rslave" or "rprivate"',
        )


def _check_process(config: Config) -> Iterator[Violation]:
    if config.process.selinux_label:
        yield Violation(
            path="$.process.selinuxLabel",
            id="bundle-selinux",
            problem=f"the label {config.process.selinux_label!r}",
            why="runsc: `SELinux is not supported`",
            remedy="remove the label",
        )
    wanted, own = config.process.oom_score_adj, _own_oom_score_adj()
    if wanted is not None and own is not None and wanted < own:
        yield Violation(
            path="$.process.oomScoreAdj",
            id="bundle-oom-score",
            problem=f"{wanted} is below {own}, the caller's",
            why="lowering the score needs CAP_SYS_RESOURCE (runsc: `setting oom_score_adj`: "
            "permission denied)",
            remedy=f"set {own} or more, or remove the score",
        )


def _own_oom_score_adj() -> int | None:
    try:
        return int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def check(
    config: dict[str, Any],
    bundle: str | os.PathLike[str] | Bundle,
    uid_map: Sequence[Extent],
    gid_map: Sequence[Extent],
    *,
    network: Network = "none",
    memory_overlay: bool = False,
) -> list[Violation]:
    """Return the settings that rootless runsc refuses or ignores, or that need a Permission.

    The id maps describe the user namespace in which runsc will run. Call this function outside of
    that namespace, because the owners of files are compared with the host ids of the maps.

    :param bundle: the bundle's directory, against which relative paths in `config` are resolved, as
        a path or an open Bundle.
    :param network: the value of runsc's option ``--network``.
    :param memory_overlay: whether runsc is started with ``--overlay2=root:memory``; the root
        filesystem then need not be writable.
    :raises BundleError: `config` does not have the structure of a config.json (:func:`validate`),
        or the bundle's directory does not exist.
    """
    typed = validate(config)
    if not isinstance(bundle, Bundle):
        with Bundle(bundle) as opened:
            return check(
                config, opened, uid_map, gid_map, network=network, memory_overlay=memory_overlay
            )
    ids = IdView(uid_map, gid_map)
    view = FileView(os.path.abspath(bundle.path), Reach(ids), memory_overlay)
    return [
        *check_outside(typed, bundle),
        *check_ids(typed, ids),
        *check_files(typed, view),
        *check_refusals(typed, network),
    ]
