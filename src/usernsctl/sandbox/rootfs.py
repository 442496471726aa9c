"""Building the directory that becomes the root filesystem.

It lies on a tmpfs of our own, so that mount points can be made in it without a trace on the
machine, and shows directories of the machine by bind mounts. These are read-only for runsc as
well; what the command writes over them goes to an overlay in gVisor's memory.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from usernsctl import mounts
from usernsctl.errors import BundleError, NamespaceError
from usernsctl.sandbox.view import View
from usernsctl.shown import quoted

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


class Rootfs:
    """A root filesystem in the making, at `top` in the empty directory `scratch`.

    Paths called `inside` are those that the command will see. All methods raise
    :class:`NamespaceError` where the kernel refuses a mount.
    """

    def __init__(self, scratch: str) -> None:
        self.top = f"{scratch}/root"
        self.view = View(self.top)
        self._spare = f"{scratch}/spare"
        self._spares = 0
        os.mkdir(self.top, 0o755)
        os.mkdir(self._spare, 0o700)
        # A mount of its own, so that it can be made read-only with all that is mounted below it.
        mounts.bind(self.top, self.top)
        self._device = os.stat(self.top).st_dev

    def show_programs(self) -> None:
        """Show the programs of this machine, and :data:`EMPTY` directories for the rest."""
        for name in SHOWN:
            path = f"/{name}"
            if os.path.islink(path):
                os.symlink(os.readlink(path), f"{self.top}/{name}")
            elif os.path.isdir(path):
                os.mkdir(f"{self.top}/{name}")
                mounts.bind(path, f"{self.top}/{name}")
        for name, mode in EMPTY.items():
            os.mkdir(f"{self.top}/{name}", mode)
            os.chmod(f"{self.top}/{name}", mode)
        for name, target in LINKS.items():
            os.symlink(target, f"{self.top}/{name}")

    def show_tree(self, source: str) -> None:
        """Show all of a root filesystem, such as a bundle's, save what gVisor mounts itself.

        :param source: its directory; an absolute path.
        :raises BundleError: the directory can't be read.
        """
        # Through a copy of the mount: in `source` itself our own tmpfs may cover something.
        copy = self._new_directory()
        mounts.bind(source, copy)
        try:
            self._mirror(copy, self.top, without=_GVISOR_OWN)
        except PermissionError as error:
            raise BundleError(
                f"the root filesystem {source} can't be read: {error.strerror}",
                step="rootfs",
                errno=error.errno or 0,
                filename=source,
                cause="rootfs-unreadable",
            ) from error
        for name in (*_GVISOR_OWN, "tmp"):
            if not os.path.lexists(f"{self.top}/{name}"):
                os.mkdir(f"{self.top}/{name}")

    def is_shown(self, inside: str) -> bool:
        """Whether a path lies in one of the machine's directories that :data:`SHOWN` names."""
        return inside.split("/")[1] in SHOWN

    def has_directory(self, inside: str) -> bool:
        try:
            walk = self.view.walk(inside)
        except OSError:
            return False
        return walk.complete and (
            os.path.isdir(walk.outside) or self.view.leads_to_bind(walk.inside)
        )

    def hide(self, inside: str) -> None:
        """Cover a file or directory that exists, by an empty one."""
        outside = self.view.outside(inside)
        is_directory = stat.S_ISDIR(os.lstat(outside).st_mode)
        mounts.bind(self._new_directory() if is_directory else self._new_file(), outside)

    def add_directory(self, inside: str) -> None:
        """Make an empty directory, and those on the way to it, unless it exists."""
        self._make_mount_point(inside, is_directory=True)

    def add_file(self, inside: str, content: bytes) -> None:
        """Make a file that does not exist yet."""
        path = self._make_mount_point(inside, is_directory=False)
        with open(path, "wb") as file:
            file.write(content)

    def show_file(self, source: str, inside: str) -> None:
        """Show a file of this machine at a path where there is none yet."""
        mounts.bind(source, self._make_mount_point(inside, is_directory=False))

    def expect_bind(self, source: str, inside: str) -> None:
        """Make a mount point for runsc, which would make it on the machine itself or fail.

        :param source: what runsc will mount there, without symbolic links.
        :raises BundleError: there is a file of another kind, or none and it can't be made.
        """
        is_directory = os.path.isdir(source)
        target = self._make_mount_point(inside, is_directory=is_directory)
        if os.path.isdir(target) != is_directory:
            kinds = ("a directory", "a file") if is_directory else ("a file", "a directory")
            raise BundleError(
                f"{source} is {kinds[0]}, so it can't be mounted on {inside}, which is {kinds[1]}",
                step="bind",
                filename=inside,
            )
        self.view.add_bind(self.view.walk(inside).inside, source)

    def expect_empty(self, inside: str) -> None:
        """Note that gVisor mounts an empty directory there, under the binds expected so far."""
        self.view.add_bind(self.view.walk(inside).wanted, self._new_directory())

    def finish(self) -> None:
        """Make all that is shown read-only: nothing more can be added."""
        mounts.make_read_only(self.top)

    def _make_mount_point(self, inside: str, *, is_directory: bool) -> str:
        """Make a file or directory, unless there is one; returns its path for us."""
        try:
            walk = self.view.walk(inside)
            if walk.complete:
                return walk.outside
            if not walk.outside.startswith(self.top):
                raise BundleError(
                    f"{inside} would have to be made in {walk.outside}, "
                    "which another mount shows there",
                    step="bind",
                    filename=inside,
                    remedy=f"make {quoted(os.path.join(walk.outside, *walk.missing))} first",
                )
            if os.stat(walk.outside).st_dev != self._device:
                self._open_up(walk.outside)
            target = os.path.join(walk.outside, *walk.missing)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.mkdir(target) if is_directory else _touch(target)
        except OSError as error:
            if isinstance(error, (BundleError, NamespaceError)):
                raise
            raise BundleError(
                f"{inside} can't be made in the sandbox: {error.strerror}",
                step="bind",
                errno=error.errno or 0,
                filename=inside,
            ) from error
        return target

    def _open_up(self, directory: str) -> None:
        """Replace a directory of the machine by one of ours that shows the same."""
        ours = self._new_directory()
        self._mirror(directory, ours)
        mounts.bind(ours, directory)

    def _mirror(self, source: str, target: str, *, without: tuple[str, ...] = ()) -> None:
        with os.scandir(source) as entries:
            for entry in entries:
                shown = f"{target}/{entry.name}"
                if entry.name in without:
                    continue
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), shown)
                    continue
                if entry.is_dir():
                    os.mkdir(shown)
                else:
                    _touch(shown)
                mounts.bind(entry.path, shown)

    def _new_directory(self) -> str:
        self._spares += 1
        path = f"{self._spare}/{self._spares}"
        os.mkdir(path)
        return path

    def _new_file(self) -> str:
        self._spares += 1
        path = f"{self._spare}/{self._spares}"
        _touch(path)
        return path


def private_files(directory: str) -> Iterator[str]:
    """The files and directories below `directory` that not every user may read.

    What is in such a directory is not listed, and symbolic links are not followed. What vanishes
    meanwhile is left out.

    :raises PermissionError: `directory` itself can't be listed.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink():
                continue
            with contextlib.suppress(FileNotFoundError):
                mode = entry.stat(follow_symlinks=False).st_mode
                if not stat.S_ISDIR(mode):
                    if not mode & stat.S_IROTH:
                        yield entry.path
                elif mode & 0o005 != 0o005:
                    yield entry.path
                else:
                    yield from private_files(entry.path)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
