"""Functions that open files without following other users' symbolic links, and that check names."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import partial

from usernsctl import _core
from usernsctl._lean import Any, BinaryIO, Protocol, Self, TypeVar
from usernsctl._text import quoted
from usernsctl.errors import NamespaceError
from usernsctl.maps import parse_map

# Maximum number of symbolic links on a path, as in the kernel (path_resolution(7)).
_LINKS_MAX = 40

_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class _Step(Protocol):
    """Protocol of the objects that represent opened files and directories in :func:`walk`."""

    def check_directory(self, name: str) -> None: ...


_T = TypeVar("_T", bound="_Step")


class ForeignLinkError(PermissionError):
    """Error for a path with a symbolic link that another user owns, and so could redirect."""

    cause = "foreign-link"
    remedy = "name the file that the symbolic link leads to"


class WritableByOthersError(PermissionError):
    """Error for a path that another user can redirect by writing to a directory on the path."""

    cause = "directory-writable-by-others"
    remedy = "name a directory that only you may write to; usernsctl creates a missing directory"


class OpenFile:
    """A file with an open descriptor; the descriptor is closed when this object is freed.

    :ivar path: the path of the file.
    """

    def __init__(self, descriptor: _core.Descriptor, path: str) -> None:
        self.descriptor = descriptor
        self.path = path

    @property
    def fd(self) -> int:
        """The number of the descriptor; -1 after :meth:`close` or :meth:`detach`."""
        return self.descriptor.number

    @classmethod
    def own(cls, path: str, make: Callable[..., int], *arguments: Any, **keywords: Any) -> Self:
        """Call a C function that opens a file; return an object that owns the descriptor.

        :param make: a function such as ``os.open``.
        :raises OSError: the function failed.
        """
        found = cls(_core.Descriptor(), path)
        found.descriptor.open(partial(make, **keywords), *arguments)
        return found

    def detach(self) -> int:
        """Return the descriptor, which the caller must now close."""
        return self.descriptor.detach()

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        self.descriptor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Opened: {self.path}>"


class PathDescriptor(OpenFile):
    """A file of any type, opened with O_PATH. All symbolic links in `path` are resolved."""

    @property
    def status(self) -> os.stat_result:
        return os.fstat(self.fd)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_link(self) -> bool:
        """Return whether the file is a symbolic link."""
        return stat.S_ISLNK(self.status.st_mode)

    @property
    def link(self) -> str:
        """The target of this file, a symbolic link."""
        return os.readlink("", dir_fd=self.fd)

    def child(self, name: str) -> PathDescriptor:
        """Open an entry of the directory, even if the entry is a symbolic link.

        :raises OSError: the entry does not exist, or this process may not search the directory.
        """
        path = os.path.join(self.path, name)
        return PathDescriptor.own(path, os.open, name, _ENTRY, dir_fd=self.fd)

    def check_directory(self, name: str) -> None:
        """Check that a path may continue after this file (path_resolution(7)).

        :param name: the next component, ``.`` or ``..``. Empty if only a slash follows, which
            requires no search permission.
        :raises OSError: the file is not a directory (ENOTDIR), or this process may not search it
            (EACCES).
        """
        if not self.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.path)
        if name:
            os.stat(".", dir_fd=self.fd)

    def set_mode(self, mode: int) -> None:
        """Change the mode of the file. Read permission is not required."""
        os.chmod(f"/proc/self/fd/{self.fd}", stat.S_IMODE(mode))

    def open(self, flags: int = os.O_RDONLY) -> int:
        """Open the file; return a descriptor, which the caller must close.

        :raises OSError: the file can't be opened.
        """
        if self.is_directory:
            return os.open(".", flags | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        return os.open(f"/proc/self/fd/{self.fd}", flags | os.O_CLOEXEC)


def walk(
    path: str,
    trail: list[_T],
    look: Callable[[list[_T], str], _T | str | None],
    *,
    beneath: bool = False,
) -> tuple[str, ...]:
    """Resolve a path from the last directory of `trail`, or from the first if `path` is absolute.

    On return, `trail` contains the directories down to the file, and then the file. ``..`` resolves
    to the previous element of `trail`, but never above the first, even if another process moves a
    directory at the same time.

    :param look: a function that opens an entry of the last directory in `trail`. It returns the
        target of a symbolic link as a string, an object for any other file, or ``None`` if the
        entry does not exist.
    :param beneath: whether a path that resolves outside the first directory of `trail` is an error,
        as with RESOLVE_BENEATH (openat2(2)).
    :returns: the components of the path from the first that does not exist; empty if the file
        exists.
    :raises OSError: the path has too many symbolic links (ELOOP), resolves outside the first
        directory (EXDEV), or continues after a file that is not a directory (ENOTDIR).
    """

    def refuse_to_leave(leaves: bool) -> None:
        if beneath and leaves:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)

    refuse_to_leave(path.startswith("/"))
    if path.startswith("/"):
        del trail[1:]
    pending = [*reversed(path.split("/"))]
    links = 0
    while pending:
        name = pending.pop()
        if name in ("", ".", ".."):
            if len(trail) > 1:
                trail[-1].check_directory(name)
            if name == "..":
                refuse_to_leave(len(trail) == 1)
                del trail[max(len(trail) - 1, 1) :]
            continue
        found = look(trail, name)
        if found is None:
            return tuple(part for part in (name, *reversed(pending)) if part not in ("", "."))
        if not isinstance(found, str):
            trail.append(found)
            continue
        links += 1
        if links > _LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        refuse_to_leave(found.startswith("/"))
        pending += reversed(found.split("/"))
        if found.startswith("/"):
            del trail[1:]
    return ()


def absolute_path(path: str) -> str:
    """Return `path` as an absolute path. A relative path starts at the current directory.

    :raises FileNotFoundError: `path` is relative, and the current directory was removed.
    """
    return path if path.startswith("/") else os.path.join(os.getcwd(), path)


def open_path(path: str) -> PathDescriptor:
    """Open the file at a path; follow only symbolic links that belong to this user or to root.

    A relative path starts at the current directory.

    :raises ForeignLinkError: a symbolic link on the path belongs to another user.
    :raises OSError: the file does not exist, or can't be reached.
    """
    trail = [root()]
    missing = walk(absolute_path(path), trail, _look)
    if missing:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return _named(trail[-1])


def open_program(path: str) -> PathDescriptor:
    """Open a program, following all symbolic links.

    :raises OSError: the program does not exist, or can't be reached.
    """
    return _named(PathDescriptor.own(path, os.open, path, os.O_PATH | os.O_CLOEXEC))


def make_directory(path: str, mode: int = 0o700) -> PathDescriptor:
    """Open a directory that only this user and root can change or replace; create it if missing.

    :param mode: the mode of created directories, independent of the umask.
    :raises WritableByOthersError: another user may write to a directory on the path.
    :raises OSError: the file is not a directory, or can't be created or reached.
    """
    trail = [root()]
    missing = walk(absolute_path(path), trail, _look)
    if ".." in missing:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    _check_unchangeable(trail, has_more=bool(missing))
    for name in missing:
        parent = trail[-1]
        os.mkdir(name, mode, dir_fd=parent.fd)
        child = parent.child(name)
        # Set the mode explicitly, because mkdir(2) clears the bits of the umask.
        child.set_mode(mode)
        trail.append(child)
    if not trail[-1].is_directory:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return _named(trail[-1])


def _check_unchangeable(trail: list[PathDescriptor], *, has_more: bool) -> None:
    """Check that only this user and root can write to the directories of a path.

    :param has_more: whether the caller will create another directory in the last directory.
    :raises WritableByOthersError: another user may write to one of the directories.
    """
    for directory, entry in zip(trail, [*trail[1:], None], strict=True):
        status = directory.status
        # Other users may have write permission for a sticky directory if the owner of the next
        # entry on the path is trusted, because they may not rename that entry (inode(7)).
        is_sticky = bool(status.st_mode & stat.S_ISVTX)
        is_protected = is_sticky and (
            has_more if entry is None else _core.is_trusted(entry.status.st_uid, entry.path)
        )
        if directory.is_directory and (
            not _core.is_trusted(status.st_uid, directory.path)
            or (not is_protected and _core.others_may_write(directory.fd))
        ):
            raise WritableByOthersError(
                errno.EACCES,
                f"others may write to {directory.path}, and could redirect the path",
                directory.path,
            )


def root() -> PathDescriptor:
    """Open the root directory of this process."""
    return PathDescriptor.own("/", os.open, "/", _ENTRY | os.O_DIRECTORY)


def _look(trail: list[PathDescriptor], name: str) -> PathDescriptor | str | None:
    try:
        found = trail[-1].child(name)
    except FileNotFoundError:
        return None
    if not found.is_link:
        return found
    status = found.status
    if _is_in_proc(status):
        # Let the kernel follow a magic link in /proc, whose target need not be a path
        # (proc_pid_fd(5)): for <(COMMAND), a shell passes /dev/fd/N, which resolves to a pipe.
        flags = os.O_PATH | os.O_CLOEXEC
        return PathDescriptor.own(found.path, os.open, name, flags, dir_fd=trail[-1].fd)
    if not _core.is_trusted(status.st_uid, found.path):
        raise ForeignLinkError(
            errno.EACCES,
            f"the symbolic link {found.path} belongs to uid {status.st_uid}, "
            "who may change where it leads",
            found.path,
        )
    return found.link


def _is_in_proc(link: os.stat_result) -> bool:
    """Return whether a symbolic link is in /proc."""
    try:
        return link.st_dev == os.lstat("/proc/self").st_dev
    except FileNotFoundError:
        return False


def _named(found: PathDescriptor) -> PathDescriptor:
    """Return a copy of `found` whose path is the target of the descriptor's link in /proc/self/fd.

    :raises FileNotFoundError: the file was removed.
    """
    path = os.readlink(f"/proc/self/fd/{found.fd}")
    if found.status.st_nlink == 0:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return PathDescriptor.own(path, os.dup, found.fd)


class UntrustedPathError(Exception):
    """Error for a path that another user can redirect.

    :ivar directory: the path of the directory that the other user can change.
    :ivar remedy: the shell command that corrects the directory, or ``None``.
    """

    def __init__(self, directory: str, why: str, remedy: str | None = None) -> None:
        super().__init__(f"{directory} {why}")
        self.directory = directory
        self.remedy = remedy
        self._why = why

    def why(self, path: str) -> str:
        """Return why `path` can't be trusted, to append to a message that already names `path`."""
        return f"the directory {self._why}" if self.directory == path else str(self)


@contextlib.contextmanager
def open_file(path: str, flags: int, directory: int | None = None) -> Iterator[BinaryIO]:
    """Open a file with open(2), and yield a file object that reads from the file.

    :param flags: flags of open(2), which :func:`open` can't pass.
    :param directory: a descriptor of the directory at which a relative `path` starts; ``None`` for
        the current directory.
    :raises OSError: the file can't be opened, or is a directory.
    """
    with (
        OpenFile.own(path, os.open, path, flags, dir_fd=directory) as opened,
        open(opened.fd, "rb", closefd=False) as file,
    ):
        yield file


def open_trusted(path: str) -> PathDescriptor:
    """Open a directory whose path no other user can redirect.

    Each directory on the path, and on the targets of symbolic links, must be writable only for this
    user and root, or be sticky (like /tmp). If the directory is sticky, its entry on the path must
    belong to this user or root.

    :param path: an absolute path.
    :returns: the directory, which the caller must close.
    :raises UntrustedPathError: another user can redirect the path.
    :raises OSError: the directory does not exist, or can't be reached.
    """
    trail = [root()]
    try:
        _check(trail[0])
        walk(path, trail, _look_at_part)
        return trail.pop()
    finally:
        for passed in trail:
            passed.close()


def _look_at_part(trail: list[PathDescriptor], name: str) -> PathDescriptor | str:
    """Open an entry of the last directory in `trail`, or return the target of a symbolic link."""
    is_shared = bool(trail[-1].status.st_mode & 0o022)
    found = trail[-1].child(name)
    try:
        if is_shared and not _core.is_trusted(found.status.st_uid, found.path):
            raise _foreign(found)
        if found.is_link:
            return found.link
        if not found.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), found.path)
        _check(found)
    except BaseException:
        # Close `found` now, because the traceback of the error keeps `found` alive.
        found.close()
        raise
    return found


def _check(directory: PathDescriptor) -> None:
    status = directory.status
    if not _core.is_trusted(status.st_uid, directory.path):
        raise _foreign(directory)
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        why = f"can be written to by others (mode {mode:o})"
        remedy = f"chmod go-w {quoted(directory.path)}"
        may_chmod = os.geteuid() in (0, status.st_uid)
        raise UntrustedPathError(directory.path, why, remedy if may_chmod else None)


def _foreign(found: PathDescriptor) -> UntrustedPathError:
    return UntrustedPathError(found.path, f"belongs to uid {found.status.st_uid}")


def open_beneath(directory: int, path: str) -> PathDescriptor:
    """Open `path` below `directory`, as openat2(2) with RESOLVE_BENEATH does, on any kernel.

    Each component is opened relative to the descriptor of the previous directory, without following
    symbolic links. The targets of symbolic links are resolved in the same way. ``..`` resolves to
    the descriptor before the current descriptor. Therefore, a process that renames directories or
    replaces them with symbolic links can't redirect the path.

    :param directory: a descriptor of the directory.
    :param path: a relative path.
    :returns: the file, which is not a symbolic link.
    :raises OSError: the path resolves outside the directory (EXDEV), has too many symbolic links
        (ELOOP), or has a component that can't be opened.
    """
    trail = [PathDescriptor.own(".", os.open, ".", _ENTRY, dir_fd=directory)]
    try:
        walk(path, trail, _entry_or_link, beneath=True)
        return trail.pop()
    finally:
        for passed in trail:
            passed.close()


def _entry_or_link(trail: list[PathDescriptor], name: str) -> PathDescriptor | str:
    found = trail[-1].child(name)
    return found.link if found.is_link else found


def uid_outside() -> int:
    """Return the uid in the parent user namespace to which this process's effective uid is mapped.

    In the initial user namespace, or without /proc, return the effective uid itself.
    """
    try:
        with open("/proc/self/uid_map") as file:
            text = file.read()
    except OSError:
        text = ""
    return id_outside(os.geteuid(), text)


def id_outside(inside: int, id_map: str) -> int:
    """Return the id in the parent user namespace to which `inside` is mapped (user_namespaces(7)).

    Return an unmapped id unchanged.

    :param id_map: the content of /proc/PID/uid_map or gid_map.
    """
    for extent in parse_map(id_map):
        if extent.has(inside):
            return extent.outside + inside - extent.inside
    return inside


def state_directory() -> str:
    """Return the path of the state directory.

    The path is $XDG_RUNTIME_DIR/usernsctl, or usernsctl-UID in $TMPDIR or /tmp. UID is the result
    of :func:`uid_outside`, so that a user who is root in a user namespace does not use the state
    directory of the host's root.

    :func:`tempfile.gettempdir` is not called, because it returns another directory when the disk is
    full. usernsctl would then no longer find its records, and no longer reject bind mounts of the
    previous state directory.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return os.path.join(os.path.abspath(runtime), "usernsctl")
    temporary = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
    return os.path.join(temporary, f"usernsctl-{uid_outside()}")


def templates_directory() -> str | None:
    """Return the path of the directory of named templates.

    :returns: a path in $XDG_DATA_HOME or ~/.local/share; ``None`` if the user has no home
        directory.
    """
    data = os.environ.get("XDG_DATA_HOME")
    if not data or not os.path.isabs(data):
        data = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "usernsctl", "templates") if os.path.isabs(data) else None


def make_private(name: str, parent: int, *, exist_ok: bool = False) -> None:
    """Create a directory with mode 0700, independent of the umask.

    :raises OSError: the directory can't be created.
    """
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not exist_ok:
            raise
        return
    flags = _ENTRY | os.O_DIRECTORY
    with PathDescriptor.own(name, os.open, name, flags, dir_fd=parent) as directory:
        if stat.S_IMODE(directory.status.st_mode) != 0o700:
            directory.set_mode(0o700)


# ---- checks of arguments -------------------------------------------------------------------------


def check_path(name: str, path: Any) -> str | None:
    """Check a path, the value of the argument `name`; return the path as a string. Accept None.

    :raises TypeError: `path` is not a path.
    :raises ValueError: `path` is empty or contains a NUL character.
    """
    try:
        found = None if path is None else os.fsdecode(path)
    except TypeError:
        raise TypeError(f"{name} must be a path, not {path!r}") from None
    # Reject an empty path, which is often the value of an unset shell variable. os.path.abspath()
    # would convert the empty path to the current directory.
    if found == "":
        raise ValueError(f"{name} is empty: a path must have at least one character")
    if found is not None and "\0" in found:
        raise ValueError(f"{name}: {found!r} has a NUL character, which no path can have")
    return found


#: The regular expression for the names of namespaces and templates, and for the ids of sandboxes.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"


class InvalidNameError(NamespaceError, ValueError):
    """Error for an invalid name of a namespace or template, or an invalid sandbox id."""


def check_name(name: str, what: str) -> str:
    """Return `name` if it is valid for a namespace, a sandbox or a template.

    :param what: the noun for the name in the error message, such as ``"the name of a namespace"``.
    :raises InvalidNameError: `name` is not valid.
    :raises TypeError: `name` is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} must be text, not {name!r}")
    if not re.fullmatch(NAME, name):
        shown = name if len(name) <= 80 else f"{name[:80]}..."
        raise InvalidNameError(
            f"{shown!r} can't be {what}: only 1 to 64 of A-Z a-z 0-9 _ . - are allowed, "
            "and no . or - at the start",
            step="name",
            cause="name-invalid",
        )
    return name
