"""The users and groups of a sandbox, read from the sandbox's /etc/passwd and /etc/group.

Both files are untrusted: they may come from an image. Their paths are resolved below the sandbox's
root directory, and their size is limited. The C core parses the files. The user database of the
host is never used.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence

from usernsctl import _core
from usernsctl._lean import dataclass, replace
from usernsctl._system.paths import PathDescriptor, root
from usernsctl.errors import CommandError, UserUnknownError
from usernsctl.gvisor.checks import NamedUser
from usernsctl.gvisor.launch.request import SHOWN, Request
from usernsctl.gvisor.launch.view import View

PASSWD, GROUP = "/etc/passwd", "/etc/group"

#: The maximum size of /etc/passwd, and of /etc/group, in bytes. More than 100,000 users fit.
BYTES_MAX = _core.ACCOUNT_FILE_MAX
# Errors that are no fault of the file: no memory, no descriptors, or an I/O error of the disk.
_UNRELATED = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO)
_REMEDY = (
    "give numbers, as in 1000:1000, or names that the sandbox's /etc/passwd and /etc/group contain"
)


@dataclass(frozen=True, slots=True)
class Account:
    """A user of a sandbox.

    :ivar uid: the uid in the sandbox.
    :ivar gid: the gid in the sandbox.
    :ivar groups: the supplementary groups. The groups are read from /etc/group if the user was
        requested by name and without a group; otherwise the list is empty.
    :ivar home: the home directory in /etc/passwd, or ``None`` if the file does not name one.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str | None = None


def unusable(reason: str, errnum: int = 0) -> CommandError:
    """Return the error for a sandbox's /etc/passwd or /etc/group that can't be used.

    :param reason: the path of the file, and why it can't be used.
    """
    if errnum in _UNRELATED:
        return CommandError(reason, step="user", errno=errnum)
    kind = CommandError if errnum else UserUnknownError
    return kind(reason, step="user", errno=errnum, cause="user-unknown", remedy=_REMEDY)


def read_account(named: NamedUser, read: Callable[[str], bytes | None]) -> Account:
    """Return the user and the group `named`, from a sandbox's /etc/passwd and /etc/group.

    :param read: a function that returns the content of a file of the sandbox, or None if the file
        does not exist.
    :raises CommandError: a name does not exist, or the user has too many groups (cause
        ``user-unknown``).
    """
    passwd = read(PASSWD) if isinstance(named.user, str) else None
    needs_group = named.group is None or isinstance(named.group, str)
    group = read(GROUP) if needs_group else None
    return Account(*_core.find_account(named.user, named.group, passwd, group))


def read_file(view: View, path: str, *, of_machine: Sequence[str] | None = None) -> bytes | None:
    """Read a file of a sandbox that is not running yet; return None if the file does not exist.

    :param of_machine: the mount points of the bind mounts if the sandbox has the host's programs,
        else ``None``. In a sandbox with the host's programs, a file outside of the bind mounts
        exists only if it is in a directory of ``SHOWN`` and every user may read it.
    :raises CommandError: the file is not a regular file, is too large, is in a filesystem that
        gVisor mounts, or can't be read (cause ``user-unknown``).
    """
    try:
        walk = view.walk(path)
        if walk.is_unknown:
            raise unusable(f"{path} in the sandbox leads into gVisor's own /proc, /sys or /dev")
        if not walk.complete or walk.file is None:
            return None
        with walk.file as file:
            mode = file.status.st_mode
            is_hidden = walk.inside.split("/")[1] not in SHOWN or not mode & stat.S_IROTH
            if of_machine is not None and is_hidden and not _is_below(walk.inside, of_machine):
                return None
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "not a regular file")
            # Open the file by its O_PATH descriptor, because another process could replace the file
            # at the path.
            with open(file.open(os.O_RDONLY | os.O_NONBLOCK), "rb") as content:
                found = content.read(BYTES_MAX + 1)
    except OSError as error:
        raise unusable(f"{path} in the sandbox: {error.strerror}", error.errno or 0) from None
    if len(found) > BYTES_MAX:
        raise unusable(f"{path} in the sandbox is larger than {BYTES_MAX >> 20} MiB")
    return found


def _is_below(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def with_numbers(
    request: Request,
    tree: PathDescriptor | None,
    mounts: Iterable[tuple[str, PathDescriptor | None]],
) -> Request:
    """Return `request` with numbers in place of the names of its user and group.

    Without a bundle, HOME defaults to the user's home directory in /etc/passwd.

    :param tree: the root filesystem, or ``None`` for the host's programs.
    :param mounts: the destination and the source of each mount. The source is ``None`` if gVisor
        mounts the filesystem itself.
    :raises CommandError: a name does not exist, or a file can't be used (cause ``user-unknown``).
    """
    if not isinstance(request.user, NamedUser):
        return request
    with View.of_root(root() if tree is None else _again(tree)) as view:
        places = [_add_mount(view, destination, source) for destination, source in mounts]
        of_machine = places if tree is None else None
        found = read_account(
            request.user, lambda path: read_file(view, path, of_machine=of_machine)
        )
    env = request.env
    if request.bundle is None and found.home is not None:
        env = {"HOME": found.home, **env}
    return replace(request, user=(found.uid, found.gid), groups=found.groups, env=env)


def _add_mount(view: View, destination: str, source: PathDescriptor | None) -> str:
    """Add a mount to `view`, the directory tree of the sandbox, and return the mount point.

    A filesystem that gVisor mounts is represented by /dev/null, so that no path below the mount
    point is found.
    """
    try:
        place = view.walk(destination).wanted
    except OSError:
        # Ignore the error, because the launch will report the same error.
        return destination
    if source is None:
        null = os.O_PATH | os.O_CLOEXEC
        view.add_bind(place, PathDescriptor.own("/dev/null", os.open, "/dev/null", null))
    else:
        view.add_bind(place, _again(source))
    return place


def _again(file: PathDescriptor) -> PathDescriptor:
    return PathDescriptor.own(file.path, os.dup, file.fd)
