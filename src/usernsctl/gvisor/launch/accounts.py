"""The users and groups of a sandbox, read from its own /etc/passwd and /etc/group.

Both files are untrusted: they may come from an image. Their paths are resolved in the sandbox's
root, and their size is limited. The user database of the host is never used.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from usernsctl._lean import NoReturn, dataclass, replace
from usernsctl._system.paths import PathDescriptor, root
from usernsctl.errors import CommandError, UserUnknownError
from usernsctl.gvisor.checks import ID_MAX, NamedUser
from usernsctl.gvisor.launch.request import SHOWN, Request
from usernsctl.gvisor.launch.view import View

PASSWD, GROUP = "/etc/passwd", "/etc/group"

#: The maximum size of each file, in bytes: room for more than 100,000 users.
BYTES_MAX = 8 << 20
# The maximum number of groups of a user, as in a message to the agent.
_GROUPS_MAX = 4096
_REMEDY = (
    "give numbers, as in 1000:1000, or names that the sandbox's /etc/passwd and /etc/group contain"
)


@dataclass(frozen=True, slots=True)
class Account:
    """A user of a sandbox.

    :ivar uid: the uid inside.
    :ivar gid: the gid inside.
    :ivar groups: the supplementary groups: for a user by name without a group, those of /etc/group.
    :ivar home: the home directory in /etc/passwd, or ``None``.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str | None = None


def find_account(named: NamedUser, passwd: bytes | None, group: bytes | None) -> Account:
    """Find a user and a group in the content of a sandbox's files; ``None`` for a missing file.

    The first line with a name counts, as for getpwnam(3). Malformed lines are skipped.

    :raises CommandError: a name does not exist, or the user has too many groups (cause
        ``user-unknown``).
    """
    uid, gid = named.user, named.group
    groups: tuple[int, ...] = ()
    home = None
    if isinstance(named.user, str):
        uid, own, home = _user(named.user, passwd)
        if gid is None:
            gid, groups = own, _groups_of(named.user, own, group)
    if isinstance(gid, str):
        gid = next((found for name, found, _ in _groups(group) if name == os.fsencode(gid)), None)
        if gid is None:
            _refuse(f"group {named.group!r}", GROUP, group)
    assert isinstance(uid, int)
    return Account(uid, uid if gid is None else gid, groups, home)


def _user(user: str, passwd: bytes | None) -> tuple[int, int, str | None]:
    """Return the uid, the gid and the home directory of a user."""
    for name, *fields in _lines(passwd, 7):
        uid, gid = _id(fields[1]), _id(fields[2])
        if name == os.fsencode(user) and uid is not None and gid is not None:
            return uid, gid, _home(fields[4])
    _refuse(f"user {user!r}", PASSWD, passwd)


def _groups_of(user: str, gid: int, group: bytes | None) -> tuple[int, ...]:
    """Return the gids of all groups of a user, the user's own group first.

    :raises CommandError: there are too many.
    """
    name = os.fsencode(user)
    found = dict.fromkeys([gid, *(gid for _, gid, members in _groups(group) if name in members)])
    if len(found) > _GROUPS_MAX:
        raise _error(
            f"{GROUP} in the sandbox has {len(found)} groups with the user {user!r}: the limit is "
            f"{_GROUPS_MAX}",
            "name the group, too: NAME:GROUP",
        )
    return tuple(found)


def _groups(group: bytes | None) -> Iterator[tuple[bytes, int, list[bytes]]]:
    """Yield the name, the gid and the members of each group."""
    for name, _, number, members in _lines(group, 4):
        gid = _id(number)
        if gid is not None:
            yield name, gid, members.split(b",")


def _lines(content: bytes | None, fields: int) -> Iterator[list[bytes]]:
    """Yield the fields of each line that has the number `fields` of them."""
    for line in (content or b"").split(b"\n"):
        parts = line.split(b":")
        if len(parts) == fields:
            yield parts


def _id(text: bytes) -> int | None:
    is_number = text.isdigit() and len(text) <= 10
    return int(text) if is_number and int(text) <= ID_MAX else None


def _home(text: bytes) -> str | None:
    try:
        home = text.decode()
    except UnicodeDecodeError:
        return None
    return home if home.startswith("/") and home.isprintable() else None


def _refuse(what: str, path: str, content: bytes | None) -> NoReturn:
    why = f"{path} has no such name" if content is not None else f"it has no {path}"
    raise _error(f"the sandbox has no {what}: {why}", _REMEDY)


def unusable(reason: str, errnum: int = 0) -> CommandError:
    """Return the error for a file that can't be used.

    :param reason: the path of the file, and why.
    """
    return _error(reason, _REMEDY, errnum)


def _error(reason: str, remedy: str, errnum: int = 0) -> CommandError:
    kind = CommandError if errnum else UserUnknownError
    return kind(reason, step="user", errno=errnum, cause="user-unknown", remedy=remedy)


def read_account(named: NamedUser, read: Callable[[str], bytes | None]) -> Account:
    """Find a user and a group in the files that a sandbox sees.

    :param read: a function that returns the content of a file of the sandbox, or None if the file
        does not exist.
    :raises CommandError: as :func:`find_account` does.
    """
    passwd = read(PASSWD) if isinstance(named.user, str) else None
    needs_group = named.group is None or isinstance(named.group, str)
    return find_account(named, passwd, read(GROUP) if needs_group else None)


def read_file(view: View, path: str, *, of_machine: Sequence[str] | None = None) -> bytes | None:
    """Read a file as a sandbox will see it; return None if it does not exist.

    :param of_machine: the paths of the bind mounts in a sandbox with this machine's programs;
        ``None`` in other sandboxes. Outside of bind mounts, such a sandbox has only the directories
        ``SHOWN``, and in them only the files that every user may read.
    :raises CommandError: the file is not a regular file, too large, or can't be read (cause
        ``user-unknown``).
    """
    try:
        walk = view.walk(path)
        if not walk.complete or walk.file is None or walk.is_unknown:
            return None
        with walk.file as file:
            mode = file.status.st_mode
            is_hidden = walk.inside.split("/")[1] not in SHOWN or not mode & stat.S_IROTH
            if of_machine is not None and is_hidden and not _is_below(walk.inside, of_machine):
                return None
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "not a regular file")
            # Another process could replace the file, but not what this descriptor refers to.
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

    :param tree: the root filesystem, or ``None`` for this machine's programs.
    :param mounts: the destination and the source of each mount; ``None`` as source for a filesystem
        that gVisor mounts.
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
    """Add a mount to a view, and return the mount point.

    A filesystem that gVisor mounts is represented by a file, so that no path below it is found.
    """
    try:
        place = view.walk(destination).wanted
    except OSError:
        # The launch will fail, with an error about the mount.
        return destination
    if source is None:
        null = os.O_PATH | os.O_CLOEXEC
        view.add_bind(place, PathDescriptor.own("/dev/null", os.open, "/dev/null", null))
    else:
        view.add_bind(place, _again(source))
    return place


def _again(file: PathDescriptor) -> PathDescriptor:
    return PathDescriptor.own(file.path, os.dup, file.fd)
