"""The root filesystem of a sandbox: what is shown, what is hidden, and what never may be shown.

As root, runsc could read all files in a directory that is shown, and also those that are made or
replaced later: a new /etc/shadow is a new file, which nothing has hidden. So a directory with
private files is shown as a copy of what every user may read, as it is now.

What never may be shown is the state directory, which tells us what to end and what to join. A
program inside that could write there would have others' processes ended, and one that could read
there would see what others' sandboxes were given.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from usernsctl._system import mounts, opened
from usernsctl._system.mounts import ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY, Mount
from usernsctl._system.mounts import id_of as mount_id_of
from usernsctl._system.mounts import read as read_mounts
from usernsctl._system.opened import Opened
from usernsctl._text import quoted
from usernsctl.errors import BundleError, UsernsError
from usernsctl.gvisor.view import Place, View, Walk

_PATH = os.O_PATH | os.O_CLOEXEC


def refuse_state(sources: Mapping[str, Opened], state: str) -> None:
    """Refuse to show what holds the state directory, or lies in it.

    :param sources: what is to be shown, by the names that it was asked for by.
    :param state: the path of the state directory, which need not be there yet.
    :raises BundleError: one does (cause ``bind-shows-state``). It is told by what it is, not by its
        name: by a link or another mount, it is the same directory.
    """
    if not sources:
        return
    ours, is_there = _nearest(state)
    try:
        mounts = read_mounts()
        kept = _Place.of(ours, mounts)
        for name, source in sources.items():
            shown = _Place.of(source.fd, mounts)
            if _is_above(source.fd, ours) or shown.shows(kept, mounts):
                raise _refusal(name, "holds", state)
            if is_there and kept.holds(shown):
                raise _refusal(name, "is in", state)
    finally:
        os.close(ours)


def _refusal(source: str, how: str, state: str) -> BundleError:
    return BundleError(
        f"{source} can't be shown: it {how} {state}, which is for usernsctl and runsc alone",
        step="bind",
        filename=source,
        cause="bind-shows-state",
        remedy="show only what is needed of it, or name a directory elsewhere for these "
        "(--root, --debug-log, XDG_RUNTIME_DIR)",
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something is: `path` in this process's tree, and `inner` in a file system."""

    device: str
    inner: str
    path: str

    @classmethod
    def of(cls, fd: int, mounts: dict[int, Mount]) -> _Place:
        path = os.readlink(f"/proc/self/fd/{fd}")
        mount = mounts.get(mount_id_of(fd))
        if mount is None:  # of another mount namespace
            return cls("", path, path)
        return cls(mount.device, _joined(mount.root, path, mount.point), path)

    def holds(self, other: _Place) -> bool:
        """Whether `other` is the same, or below it in the same file system."""
        return self.device == other.device and _is_below(other.inner, self.inner)

    def shows(self, other: _Place, mounts: dict[int, Mount]) -> bool:
        """The same, with what is mounted below it."""
        below = [
            _Place(mount.device, mount.root, mount.point)
            for mount in mounts.values()
            if _is_below(mount.point, self.path)
        ]
        return any(place.holds(other) for place in (self, *below))


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _joined(root: str, path: str, point: str) -> str:
    rest = path.removeprefix(point.rstrip("/")).lstrip("/")
    return f"{root.rstrip('/')}/{rest}".rstrip("/") or "/"


def _nearest(path: str) -> tuple[int, bool]:
    """The directory `path`, or the closest one above it if there is none yet.

    :returns: a descriptor, and whether it is that directory.
    """
    is_there = True
    while True:
        with contextlib.suppress(OSError):
            return os.open(path, _PATH | os.O_DIRECTORY), is_there
        path, is_there = os.path.dirname(path), False


def _is_above(upper: int, lower: int) -> bool:
    """Whether `upper` is the directory `lower`, or one on the way to it."""
    wanted = os.fstat(upper)
    here = os.open(".", _PATH, dir_fd=lower)
    try:
        while True:
            status = os.fstat(here)
            if os.path.samestat(status, wanted):
                return True
            above = os.open("..", _PATH, dir_fd=here)
            os.close(here)
            here = above
            if os.path.samestat(os.fstat(here), status):
                return False
    finally:
        os.close(here)


# A file that is bigger is no copy, but bound: what takes its name later is another one, too.
_FILE_MAX = 1 << 20
# What is copied in all; the files after that are bound.
_TOTAL_MAX = 32 << 20

_BOUND = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV


class Snapshot:
    """Copies directories to a file system of ours, up to a limit in all."""

    def __init__(self) -> None:
        self._left = _TOTAL_MAX

    def copy(self, source: Opened, target: Opened) -> None:
        """Copy what is in the directory `source`, and below.

        Of a file or directory that not everybody may read there is an empty one. Modes are kept,
        and symbolic links; devices, pipes and sockets are left out.

        :param target: an empty directory.
        :raises OSError: the caller can't read it, or there is no space.
        """
        for found in source.entries():
            name = os.path.basename(found.path)
            mode = found.status.st_mode
            if stat.S_ISLNK(mode):
                os.symlink(found.link, name, dir_fd=target.fd)
            elif stat.S_ISDIR(mode):
                os.mkdir(name, 0o700, dir_fd=target.fd)
                made = target.child(name)
                if is_public(mode):
                    self.copy(found, made)
                made.set_mode(mode)
            elif stat.S_ISREG(mode):
                self._copy_file(found, target, name)

    def _copy_file(self, source: Opened, directory: Opened, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        out = os.open(name, flags, 0o600, dir_fd=directory.fd)
        try:
            status = source.status
            if is_public(status.st_mode):
                if status.st_size <= min(_FILE_MAX, self._left):
                    self._left -= _copy(source, out)
                else:
                    mounts.bind(source, directory.child(name), _BOUND)
                    return
            os.fchmod(out, stat.S_IMODE(status.st_mode))
        finally:
            os.close(out)


def is_public(mode: int) -> bool:
    """Whether every user may read a file, or list and enter a directory, of this mode."""
    wanted = 0o005 if stat.S_ISDIR(mode) else 0o004
    return mode & wanted == wanted


def _copy(source: Opened, out: int) -> int:
    """Copy what every user may read by now; returns how many bytes that was."""
    copied = 0
    file = source.open()
    try:
        # It may have been closed to others since.
        if is_public(os.fstat(file).st_mode):
            while copied < _FILE_MAX and (count := os.sendfile(out, file, None, _FILE_MAX)):
                copied += count
    finally:
        os.close(file)
    return copied


# What a program needs that is installed on this machine, and little else.
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr")

# What a program expects to be there; all other data of the machine is left out.
EMPTY = {
    "dev": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "run/lock": 0o1777,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
}
LINKS = {"var/run": "/run", "var/lock": "/run/lock"}

# gVisor mounts its own here, so the machine's are never even handed to runsc.
_GVISOR_OWN = ("dev", "proc", "sys")

# What nothing that is shown is for. A device that somebody has put into a root filesystem would be
# the machine's: as root, runsc could open it.
_HARMLESS = ATTR_NOSUID | ATTR_NODEV


class Rootfs:
    """A root filesystem in the making, at `top` in the empty directory `scratch`.

    Paths called `inside` are those that the command will see. All methods raise
    :class:`NamespaceError` where the kernel refuses a mount.
    """

    def __init__(self, scratch: Opened) -> None:
        """Make its top directory.

        :param scratch: on a file system of our own.
        """
        for name in ("spare", "shown"):
            os.mkdir(name, 0o700, dir_fd=scratch.fd)
        self._spare = scratch.child("spare")
        self._shown = scratch.child("shown")
        self._count = 0
        os.mkdir("root", 0o755, dir_fd=scratch.fd)
        top = scratch.child("root")
        # A mount of its own, so that it can be made read-only with all that is mounted below it.
        mounts.bind(top, top)
        self.top = scratch.child("root")
        self.view = View(self.top)
        self._device = self.top.status.st_dev
        # Who may change directories that runsc passes: the caller, and root, whom the namespace may
        # know as somebody who owns nothing else that is the machine's.
        self._trusted = {0}

    def show_programs(self, *, is_root: bool) -> None:
        """Show the programs of this machine, and :data:`EMPTY` directories for the rest.

        What not every user may read of /etc is empty.

        :param is_root: whether the caller is root, who may read whatever comes to be there later.
        """
        machine = opened.own("/")
        self._trusted.add(machine.status.st_uid)
        for name in SHOWN:
            with contextlib.suppress(FileNotFoundError):
                found = machine.child(name)
                if found.is_link:
                    os.symlink(found.link, name, dir_fd=self.top.fd)
                elif found.is_directory:
                    target = _make_directory(self.top, name)
                    if name == "etc" and is_root:
                        Snapshot().copy(found, target)
                        continue
                    mounts.bind(found, target, _HARMLESS | ATTR_RDONLY)
                    if name == "etc":
                        # Members of some groups may read more than the programs inside should.
                        for file in private_files(self.top.child(name)):
                            self.hide(file)
        for path, mode in EMPTY.items():
            directory, name = os.path.split(path)
            parent = self.top.child(directory) if directory else self.top
            _make_directory(parent, name).set_mode(mode)
        for path, target_path in LINKS.items():
            directory, name = os.path.split(path)
            parent = self.top.child(directory)
            os.symlink(target_path, name, dir_fd=parent.fd)

    def show_tree(self, source: Opened) -> None:
        """Show all of a root filesystem, such as a bundle's, save what gVisor mounts itself.

        :param source: its directory.
        :raises BundleError: the directory can't be read.
        """
        # Through a copy of the mount: in `source` itself our own tmpfs may cover something.
        copy = self._show(source, self._spare, _HARMLESS | ATTR_RDONLY)
        if source.path == "/":
            self._trusted.add(source.status.st_uid)
        try:
            self._mirror(copy, self.top, without=_GVISOR_OWN)
        except PermissionError as error:
            if isinstance(error, UsernsError):
                raise
            raise BundleError(
                f"the root filesystem {source.path} can't be read: {error.strerror}",
                step="rootfs",
                errno=error.errno or 0,
                filename=source.path,
                cause="rootfs-unreadable",
            ) from error
        for name in (*_GVISOR_OWN, "tmp"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=self.top.fd)

    def has_directory(self, inside: str) -> bool:
        """Whether a path inside leads to a directory."""
        try:
            return self.view.has_directory(inside)
        except OSError:
            return False

    def hide(self, file: Opened) -> None:
        """Cover a file or directory that is shown, by an empty one."""
        empty = self._new(self._spare, is_directory=file.is_directory)
        mounts.bind(empty, file, _HARMLESS | ATTR_RDONLY)

    def is_shown(self, walk: Walk) -> bool:
        """Whether a walk has come to what belongs to the machine."""
        return walk.file is not None and walk.file.status.st_dev != self._device

    def add_directory(self, inside: str) -> None:
        """Make an empty directory, and those on the way to it, unless it exists."""
        self._make_mount_point(inside, is_directory=True)

    def add_file(self, inside: str, content: bytes) -> None:
        """Make a file that does not exist yet."""
        walk = self._make_mount_point(inside, is_directory=False)
        assert walk.file is not None
        with open(walk.file.open(os.O_WRONLY), "wb") as file:
            file.write(content)

    def show_file(self, source: Opened, inside: str) -> None:
        """Show a file of this machine at a path where there is none yet."""
        walk = self._make_mount_point(inside, is_directory=False)
        assert walk.file is not None
        mounts.bind(source, walk.file, _HARMLESS | ATTR_RDONLY)

    def expect_bind(self, source: Opened, inside: str, *, read_only: bool) -> tuple[str, str]:
        """Prepare what runsc is to bind, and a mount point for it.

        :param source: what is to be shown there.
        :returns: the source and the destination for runsc: paths that nobody else can change.
        :raises BundleError: there is a file of another kind, or none and it can't be made.
        """
        is_directory = source.is_directory
        walk = self._make_mount_point(inside, is_directory=is_directory, for_runsc=True)
        if walk.is_directory != is_directory:
            kinds = ("a directory", "a file") if is_directory else ("a file", "a directory")
            raise BundleError(
                f"{source.path} is {kinds[0]}, so it can't be mounted on {inside}, "
                f"which is {kinds[1]}",
                step="bind",
                filename=inside,
            )
        attributes = ATTR_NOSUID if _has_devices(source) else _HARMLESS
        if read_only:
            attributes |= ATTR_RDONLY
        shown = self._show(source, self._shown, attributes)
        self.view.add_bind(walk.inside, Opened(os.dup(shown.fd), source.path))
        return shown.path, walk.inside

    def expect_mount(self, inside: str, *, is_empty: bool) -> None:
        """Note that gVisor mounts something of its own there, over the binds expected so far.

        :param is_empty: whether that is an empty directory.
        :raises BundleError: it would have to be made on the machine, by way of a writable bind.
        """
        walk = self.view.walk(inside)
        bind = self.view.bind_at(walk.inside)
        # In what is read-only, gVisor makes the mount point up.
        if not walk.complete and bind is not None and _is_writable(bind[1]):
            raise _missing_in_bind(walk, bind)
        if is_empty:
            self.view.add_bind(walk.wanted, self._new_directory())

    def finish(self) -> None:
        """Make all that is shown read-only: nothing more can be added."""
        mounts.make_read_only(self.top)

    def _make_mount_point(
        self, inside: str, *, is_directory: bool, for_runsc: bool = False
    ) -> Walk:
        """Make a file or directory, unless there is one.

        :param for_runsc: whether runsc goes there by the path.
        """
        try:
            walk = self._open_up_to(inside, for_runsc=for_runsc)
            if walk.complete:
                return walk
            bind = self.view.bind_at(walk.inside)
            if bind is not None or walk.file is None:
                raise _missing_in_bind(walk, bind)
            directory = walk.file
            *parents, last = walk.missing
            for name in parents:
                directory = _make_directory(directory, name)
            (_make_directory if is_directory else _make_file)(directory, last)
            return self.view.walk(walk.wanted)
        except OSError as error:
            if isinstance(error, UsernsError):
                raise
            raise BundleError(
                f"{inside} can't be made in the sandbox: {error.strerror}",
                step="bind",
                errno=error.errno or 0,
                filename=inside,
            ) from error

    def _open_up_to(self, inside: str, *, for_runsc: bool) -> Walk:
        """Follow a path, and have directories of ours on it wherever it takes that."""
        while True:
            walk = self.view.walk(inside)
            passed, last = walk.trail[:-1], walk.trail[-1]
            closed = [place for place in passed if for_runsc and self._may_change(place)]
            if walk.missing and not self._is_ours(last):
                closed.append(last)
            if not closed:
                return walk
            assert closed[0].file is not None
            self._open_up(closed[0].file)

    def _is_ours(self, place: Place) -> bool:
        """Whether entries can be made there, or never will be: then another error comes."""
        if place.file is None or self.view.bind_at(place.inside) is not None:
            return True
        status = place.file.status
        return status.st_dev == self._device or not stat.S_ISDIR(status.st_mode)

    def _may_change(self, place: Place) -> bool:
        """Whether somebody else could swap what is in a directory, while runsc passes it."""
        if self._is_ours(place):
            return False
        assert place.file is not None
        status = place.file.status
        return status.st_uid not in self._trusted or bool(status.st_mode & 0o022)

    def _open_up(self, directory: Opened) -> None:
        """Replace a directory of the machine by one of ours that shows the same."""
        ours = self._new_directory()
        self._mirror(directory, ours)
        ours.set_mode(directory.status.st_mode)
        mounts.bind(ours, directory)

    def _mirror(self, source: Opened, target: Opened, *, without: tuple[str, ...] = ()) -> None:
        for found in source.entries():
            name = os.path.basename(found.path)
            if name in without:
                continue
            if found.is_link:
                os.symlink(found.link, name, dir_fd=target.fd)
            else:
                make = _make_directory if found.is_directory else _make_file
                mounts.bind(found, make(target, name))

    def _show(self, source: Opened, directory: Opened, attributes: int) -> Opened:
        """Show `source` somewhere in `directory`, and return what is seen there."""
        place = self._new(directory, is_directory=source.is_directory)
        mounts.bind(source, place, attributes)
        return directory.child(os.path.basename(place.path))

    def _new_directory(self) -> Opened:
        return self._new(self._spare, is_directory=True)

    def _new(self, directory: Opened, *, is_directory: bool) -> Opened:
        self._count += 1
        return (_make_directory if is_directory else _make_file)(directory, str(self._count))


def private_files(directory: Opened) -> Iterator[Opened]:
    """The files and directories below `directory` that not every user may read.

    What is in such a directory is not listed, and symbolic links are not followed. What vanishes
    meanwhile is left out.

    :raises PermissionError: `directory` itself can't be listed.
    """
    for found in directory.entries(_may_be_private):
        if found.is_link:
            continue
        if not is_public(found.status.st_mode):
            yield found
        elif found.is_directory:
            yield from private_files(found)


def _may_be_private(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return False
    mode = entry.stat(follow_symlinks=False).st_mode
    return stat.S_ISDIR(mode) or not is_public(mode)


def _make_directory(parent: Opened, name: str, mode: int = 0o755) -> Opened:
    os.mkdir(name, mode, dir_fd=parent.fd)
    return parent.child(name)


def _make_file(parent: Opened, name: str) -> Opened:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o644, dir_fd=parent.fd))
    return parent.child(name)


def _has_devices(source: Opened) -> bool:
    """Whether it is a device, or a directory that is there for devices."""
    mode = source.status.st_mode
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return is_device or f"{source.path}/".startswith("/dev/")


def _is_writable(opened: Opened) -> bool:
    return not os.fstatvfs(opened.fd).f_flag & os.ST_RDONLY


def _missing_in_bind(walk: Walk, bind: tuple[str, Opened] | None) -> BundleError:
    """The error that a mount point would have to be made where another mount shows something."""
    remedy = None
    where = "where another mount hides it"
    if bind is not None:
        place, source = bind
        absent = source.path + walk.wanted.removeprefix(place)
        where = f"in {os.path.dirname(absent)}, which another mount shows there"
        remedy = f"make {quoted(absent)} first"
    return BundleError(
        f"{walk.wanted} would have to be made {where}",
        step="bind",
        filename=walk.wanted,
        remedy=remedy,
    )
