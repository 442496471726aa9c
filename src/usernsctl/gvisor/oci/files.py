"""Whether runsc will find the files that a config.json names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from usernsctl._records import dataclass
from usernsctl._text import command
from usernsctl.gvisor.oci.building import binds
from usernsctl.gvisor.oci.ids import SEARCH, WRITE, Reach
from usernsctl.gvisor.oci.model import Config, MountEntry, Violation

_EOF = "runsc: `waiting for sandbox to start: EOF`"
_RUN = "usernsctl run --bundle"  # shows a copy of the tree, and keeps all writes in memory
_ELSEWHERE = "a place that these ids may search: the bundle somewhere else, for example"
_MAX_LINKS = 40  # as in the kernel, path_resolution(7)


@dataclass(frozen=True, slots=True)
class FileView:
    """Where the bundle is, and how runsc will be called."""

    bundle: str
    reach: Reach
    memory_overlay: bool

    def rootfs(self, config: Config) -> str:
        """The path of the root filesystem that a config.json names."""
        return os.path.join(self.bundle, config.root.path)

    def advise(self, words: list[str], path: str, otherwise: str) -> str:
        """A command with `path` where that is the bundle's own, else something to do there.

        A stranger's file must not have anybody open a directory, or make one, somewhere else.
        """
        own = f"{os.path.realpath(self.bundle)}/"
        return command([*words, path]) if f"{path}/".startswith(own) else otherwise


def check_files(config: Config, view: FileView) -> Iterator[Violation]:
    """The root filesystem, and the bind mounts."""
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


def is_bind(mount: MountEntry) -> bool:
    """:func:`usernsctl.gvisor.oci.building.binds` of an entry of ``mounts``."""
    return binds(mount.type, mount.options)


def _check_rootfs(config: Config, view: FileView) -> Iterator[Violation]:
    rootfs = view.rootfs(config)
    path, wanted = "$.root.path", "the directory of an unpacked image, absolute or from the bundle"
    if os.path.exists(rootfs) and not os.path.isdir(rootfs):
        problem, why = f"{rootfs} is no directory", f"a root filesystem is a directory ({_EOF})"
        yield Violation(path=path, id="rootfs-missing", problem=problem, why=why, remedy=wanted)
        return
    try:
        blocked = view.reach.blocked_at(rootfs, SEARCH)
    except OSError as error:
        problem, why = f"{rootfs}: {error.strerror}", f"there is nothing to run in ({_EOF})"
        yield Violation(path=path, id="rootfs-missing", problem=problem, why=why, remedy=wanted)
        return
    if blocked is not None:
        yield Violation(
            path=path,
            id="rootfs-unreadable",
            problem=f"{blocked} can't be searched",
            why="the ids of the prepared namespace have no right to it (runsc: `creating root "
            "file system: input/output error`)",
            remedy=view.advise(["chmod", "a+x"], blocked, _ELSEWHERE),
        )
    elif not config.root.readonly and not view.memory_overlay and not _writable(rootfs, view):
        yield Violation(
            path="$.root.readonly",
            id="bundle-overlay",
            problem=f"not true, and {rootfs} can't be written",
            why="runsc keeps what the command writes in a file in the root filesystem (runsc: "
            "`failed to create filestore file`)",
            remedy='"readonly": true, or runsc --overlay2=root:memory, or ' + _RUN,
        )


def _check_source(mount: MountEntry, view: FileView, path: str) -> Violation | None:
    """The source of a bind mount: absolute or from the bundle, there, and within reach.

    Only the way to it has to be open: what can't be read gives an error on reading, inside.
    """
    if not mount.source:
        problem, remedy = "missing", "the path outside"
    else:
        source = os.path.join(view.bundle, mount.source)
        try:
            blocked = view.reach.blocked_at(source, 0)
        except OSError as error:
            problem = f"{source}: {error.strerror}"
            remedy = view.advise(["mkdir"], os.path.realpath(source), "name one that is there")
        else:
            if blocked is None:
                return None
            problem = f"{blocked} can't be searched"
            remedy = view.advise(["chmod", "a+x"], blocked, _ELSEWHERE)
    why = f"a bind mount needs something to bind ({_EOF})"
    return Violation(path=path, id="bundle-bind-source", problem=problem, why=why, remedy=remedy)


def _check_target(
    config: Config, mount: MountEntry, view: FileView, path: str
) -> Iterator[Violation]:
    """Where a bind mount goes: runsc makes what is missing there, on the disk, if it may."""
    if _below_another_bind(config, mount):
        return
    rootfs, source = view.rootfs(config), os.path.join(view.bundle, mount.source or "")
    try:
        target, missing = resolve_in_root(rootfs, mount.destination)
        kinds = [_kind(source), _kind(target)]
    except PermissionError:
        return  # as with Reach: what the caller can't see isn't judged
    except OSError as error:
        problem, remedy = f"{mount.destination}: {error.strerror}", "another destination"
    else:
        if missing and not _writable(target, view):
            problem = f"{missing} is not in {target}, and can't be made there"
            make = ["mkdir", "-p"] if kinds[0] == "a directory" else ["touch"]
            wanted = os.path.join(target, missing)
            remedy = f"{view.advise(make, wanted, 'make it there')}, or {_RUN}"
        elif not missing and kinds[0] != kinds[1]:
            problem = f"the source is {kinds[0]}, {target} is {kinds[1]}"
            remedy = "another destination"
        else:
            return
    why = f"runsc mounts on what is in the root filesystem, even below a tmpfs ({_EOF})"
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
    """Follow `path` as a process would whose root directory is `root`.

    :returns: what exists of it, as a path outside, and the rest that doesn't, ``""`` if all
        does. After :data:`_MAX_LINKS` symbolic links the rest is taken not to exist.
    :raises OSError: the caller can't search a directory on the way, or a name is too long.
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
        return True  # not judged either
    except OSError:
        return False
