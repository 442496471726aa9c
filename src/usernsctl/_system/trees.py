"""Functions that read and create directory trees without following symbolic links in them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator

from usernsctl._lean import dataclass
from usernsctl._system.paths import OpenFile

_OPEN_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# The permission bits that are copied: all except the set-user-id, set-group-id and sticky bits.
_PERMISSIONS = 0o777
# Permission bits that are always set, so that the owner can list and remove a copied directory.
_OWNER_ALL = 0o700


def leads_out(target: bytes, depth: int) -> bool:
    """Return whether a symbolic link in a tree may resolve outside the tree.

    A relative target is safe if it begins with at most `depth` components ``..``, and contains none
    later. Each leading ``..`` resolves to the parent of a directory of the tree. A later ``..`` may
    follow another symbolic link, and resolve to the parent of that link's target.

    :param depth: the number of directories between the link and the top of the tree.
    """
    if not target or target.startswith(b"/"):
        return True
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    ups = 0
    while ups < len(parts) and parts[ups] == b"..":
        ups += 1
    return ups > depth or b".." in parts[ups:]


def is_file_name(name: bytes) -> bool:
    """Return whether `name` can be the name of a new file: one component, not ``.`` or ``..``."""
    return bool(name) and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


@dataclass(frozen=True, slots=True)
class _Level:
    """An open directory or file of a tree that a TreeWriter is creating."""

    file: OpenFile
    mode: int
    mtime_ns: int
    is_file: bool


class TreeWriter:
    """Writer that creates a file, or a directory tree entry by entry.

    The path of the parent directory is resolved once. Each entry is created relative to the
    descriptor of its directory, and never replaces an existing entry.
    """

    def __init__(self, path: str) -> None:
        """Open the directory in which to create the tree.

        :param path: the path of the tree; no file may exist at this path.
        :raises OSError: the directory can't be opened, or `path` has no last component.
        """
        parent, name = os.path.split(path.rstrip("/"))
        self._path = path
        self._name = os.fsencode(name)
        if not is_file_name(self._name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        # Use O_PATH, which requires no read permission, because the directory is never listed.
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._parent = OpenFile.own(parent or ".", os.open, parent or ".", flags)
        self._levels: list[_Level] = []
        self._names: list[bytes] = []
        self._has_begun = False
        #: True once the whole tree has been created.
        self.is_complete = False
        self._is_kept = False

    @property
    def depth(self) -> int:
        """Return the number of open directories of the tree."""
        return len(self._levels) - self.is_in_file

    @property
    def is_in_file(self) -> bool:
        """Return whether a file is open, so that :meth:`write` may be called."""
        return bool(self._levels) and self._levels[-1].is_file

    def path_of(self, name: bytes = b"") -> bytes:
        """Return the path of an entry of the open directory, relative to the top of the tree."""
        return b"/".join([*self._names[1:], *([name] if name else [])])

    @property
    def directory_path(self) -> bytes:
        """The path of the open directory, relative to the top of the tree."""
        return b"/".join(self._names[1 : self.depth])

    def _take_name(self, name: bytes) -> tuple[bytes, int]:
        """Return the file name of an entry to create, and the descriptor of its directory.

        :raises ValueError: `name` is not the name of a file, a regular file is still open, or the
            tree is complete.
        """
        if self.is_in_file or self.is_complete:
            raise ValueError(
                "an entry begins before the end of a file, or after the end of the tree"
            )
        if not self._levels:
            if name or self._has_begun:
                raise ValueError("the tree has a second root, or its root has a name")
            return self._name, self._parent.fd
        if not is_file_name(name):
            raise ValueError(f"{name!r} is not the name of a file")
        return name, self._levels[-1].file.fd

    def enter_directory(self, name: bytes, mode: int, mtime_ns: int) -> None:
        """Create a directory, and open it. :meth:`leave` will set its mode and modification time.

        :param name: the name of the directory; empty for the tree itself.
        :raises ValueError: `name` is not the name of a file, a regular file is still open, or the
            tree is complete.
        :raises OSError: the directory can't be created.
        """
        wanted, parent = self._take_name(name)
        os.mkdir(wanted, _OWNER_ALL, dir_fd=parent)
        self._has_begun = True
        opened = OpenFile.own("", os.open, wanted, _OPEN_DIRECTORY, dir_fd=parent)
        self._push(name, _Level(opened, mode | _OWNER_ALL, mtime_ns, False))

    def enter_file(self, name: bytes, mode: int, mtime_ns: int) -> None:
        """Create a file, and open it for :meth:`write`; see :meth:`enter_directory` for `name`.

        :raises ValueError: as :meth:`enter_directory` does.
        :raises OSError: the file can't be created.
        """
        wanted, parent = self._take_name(name)
        opened = OpenFile.own("", os.open, wanted, _CREATE_FILE, 0o600, dir_fd=parent)
        self._has_begun = True
        self._push(name, _Level(opened, mode, mtime_ns, True))

    def _push(self, name: bytes, level: _Level) -> None:
        self._levels.append(level)
        self._names.append(name)

    def write(self, data: memoryview) -> None:
        """Append data to the open file.

        :raises OSError: the data can't be written.
        """
        fd = self._levels[-1].file.fd
        while data:
            data = data[os.write(fd, data) :]

    def leave(self) -> None:
        """Set the mode and modification time of the open file or directory, and close it.

        :raises ValueError: no file or directory is open.
        :raises OSError: the mode can't be set, or the file can't be closed.
        """
        if not self._levels:
            raise ValueError("a file or directory ends, but none is open")
        level = self._levels[-1]
        os.fchmod(level.file.fd, level.mode & _PERMISSIONS)
        # Ignore errors, because not every filesystem can store every timestamp.
        with contextlib.suppress(OSError, OverflowError):
            os.utime(level.file.fd, ns=(level.mtime_ns, level.mtime_ns))
        self._levels.pop()
        self._names.pop()
        level.file.close()
        self.is_complete = not self._levels

    def link(self, name: bytes, target: bytes, mtime_ns: int) -> None:
        """Create a symbolic link in the open directory.

        :raises ValueError: as :meth:`enter_directory` does.
        :raises OSError: the link can't be created.
        """
        if not self._levels:
            raise ValueError("the root of the tree is a symbolic link")
        wanted, parent = self._take_name(name)
        os.symlink(target, wanted, dir_fd=parent)
        with contextlib.suppress(OSError, OverflowError):
            times = (mtime_ns, mtime_ns)
            os.utime(wanted, ns=times, dir_fd=parent, follow_symlinks=False)

    def keep(self) -> None:
        """Keep the tree: :meth:`close` will not remove it."""
        self._is_kept = True

    def close(self) -> None:
        """Close all descriptors, and remove the tree unless :meth:`keep` was called.

        :raises OSError: the tree can't be removed.
        """
        for level in self._levels:
            level.file.close()
        try:
            if self._has_begun and not self._is_kept:
                self._remove()
        finally:
            self._parent.close()

    def _remove(self) -> None:
        found = os.stat(self._name, dir_fd=self._parent.fd, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(self._name, dir_fd=self._parent.fd)
            return
        from shutil import rmtree

        # rmtree() is safe here: it works with descriptors, and follows no symbolic links.
        rmtree(os.fsdecode(self._name), dir_fd=self._parent.fd)


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A file or directory that :func:`walk_tree` yields.

    :ivar name: the name of the entry; empty for the tree itself.
    :ivar path: the path of the entry, relative to the top of the tree.
    :ivar status: the attributes of the entry, as lstat(2) returns them.
    :ivar file: the descriptor of a regular file, open until the next entry is yielded; else
        ``None``.
    :ivar target: the target of a symbolic link; else empty.
    :ivar is_open: whether the entry is a directory whose entries follow.
    :ivar is_end: whether this is the second yield of a directory, after its entries.
    """

    name: bytes
    path: bytes
    status: os.stat_result
    file: int | None = None
    target: bytes = b""
    is_open: bool = False
    is_end: bool = False


class _OpenDirectory:
    """A directory that is being listed."""

    def __init__(self, file: OpenFile, entry: TreeEntry) -> None:
        self.file = file
        self.entry = entry
        self._entries = os.scandir(file.fd)

    def next_name(self) -> bytes | None:
        """Return the name of the next entry, or ``None`` after the last entry."""
        entry = next(self._entries, None)
        return None if entry is None else os.fsencode(entry.name)

    def close(self) -> None:
        self._entries.close()
        self.file.close()


def walk_tree(path: str, depth_max: int) -> Generator[TreeEntry]:
    """Yield the file `path`, or the directory `path` and everything in it.

    Each directory is yielded twice, before and after its entries. Symbolic links in `path` are
    followed; links in the tree are yielded as entries. Only regular files and directories are
    opened.

    :param depth_max: the maximum number of nested directories.
    :raises OSError: a file can't be read. The attribute ``filename`` of the error is the file's
        path.
    """
    top = _open_top(path)
    status = os.fstat(top.fd)
    if not stat.S_ISDIR(status.st_mode):
        with top:
            yield TreeEntry(b"", b"", status, top.fd)
        return
    entry = TreeEntry(b"", b"", status, is_open=True)
    open_directories = [_OpenDirectory(top, entry)]
    try:
        yield entry
        while open_directories:
            current = open_directories[-1]
            name = current.next_name()
            if name is None:
                open_directories.pop().close()
                done = current.entry
                yield TreeEntry(done.name, done.path, done.status, is_end=True)
                continue
            found, opened = _open_entry(path, current, name)
            if found.is_open and opened is not None:
                if len(open_directories) == depth_max:
                    opened.close()
                    raise _error_at(OSError(errno.ENAMETOOLONG, ""), path, found.path)
                open_directories.append(_OpenDirectory(opened, found))
            yield found
            if opened is not None and found.file is not None:
                opened.close()
    finally:
        for directory in open_directories:
            directory.close()


def _open_top(path: str) -> OpenFile:
    """Open the file or directory at `path`.

    :raises OSError: the file can't be opened, or is neither a regular file nor a directory.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        top = OpenFile.own(path, os.open, path, _OPEN_FILE)
        mode = os.fstat(top.fd).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            return top
        top.close()
    raise OSError(errno.EINVAL, "neither a regular file nor a directory", path)


def _open_entry(
    top: str, directory: _OpenDirectory, name: bytes
) -> tuple[TreeEntry, OpenFile | None]:
    """Return an entry of a directory, and its open file if it is a regular file or a directory.

    If another process replaces a regular file with a file of another type during this call, no file
    is returned.

    :raises OSError: the entry can't be read.
    """
    path = b"/".join(filter(None, [directory.entry.path, name]))
    parent = directory.file.fd
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=parent)
            return TreeEntry(name, path, status, target=target), None
        is_directory = stat.S_ISDIR(status.st_mode)
        if not is_directory and not stat.S_ISREG(status.st_mode):
            return TreeEntry(name, path, status), None
        flags = _OPEN_DIRECTORY if is_directory else _OPEN_FILE | os.O_NOFOLLOW
        opened = OpenFile.own("", os.open, name, flags, dir_fd=parent)
        status = os.fstat(opened.fd)
        if is_directory:
            return TreeEntry(name, path, status, is_open=True), opened
        if stat.S_ISREG(status.st_mode):
            return TreeEntry(name, path, status, opened.fd), opened
        opened.close()
    except OSError as error:
        raise _error_at(error, top, path) from error
    return TreeEntry(name, path, status), None


def _error_at(error: OSError, top: str, path: bytes) -> OSError:
    """Return an error with the errno of `error`, and with the file's full path as ``filename``."""
    number = error.errno or 0
    return OSError(number, os.strerror(number), os.path.join(top, os.fsdecode(path)))
