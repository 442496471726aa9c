"""What an open file is, and what would be seen where it is shown (csrc/launch/)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from usernsctl._core.failures import error_of, text_of
from usernsctl._core.memory import Memory
from usernsctl._native import ffi, lib
from usernsctl._typing import Any


def _raise_errno() -> Any:
    number = ffi.errno
    raise OSError(number, os.strerror(number))


def refuse_to_show(files: Mapping[str, int], directory: str) -> None:
    """Refuse to show what holds a directory, or lies in it.

    :param files: descriptors, by the names that they were asked for by.
    :param directory: its path; it need not be there yet.
    :raises BindError: one does (cause ``bind-shows-state``), or it can't be told.
    """
    memory, names = Memory(), list(files)
    which, err = ffi.new("size_t *"), ffi.new("struct un_error *")
    fds = memory.numbers("int[]", list(files.values()))
    listed = memory.strings(map(os.fsencode, names))
    if lib.un_refuse_to_show(fds, listed, len(names), os.fsencode(directory), which, err):
        raise error_of(err, filename=names[which[0]] if which[0] < len(names) else directory)


def machine_part(descriptor: int) -> str | None:
    """The part of the machine itself that would be seen where an open file is shown.

    That is the case if it is one of /proc, /sys and /dev, lies in one, by whatever path it was
    reached, or has one or a filesystem like these below it.

    :param descriptor: of the file, perhaps O_PATH.
    :returns: the path or type, such as ``"/proc"``; ``None`` if there is none.
    :raises OSError: /proc can't be read, so that it can't be told.
    """
    part = ffi.new("char const **")
    if lib.un_machine_part(descriptor, part):
        _raise_errno()
    return text_of(part[0]) if part[0] else None


def is_trusted(uid: int, path: str) -> bool:
    """Whether the owner of a file may lead us anywhere: it is the caller, root, or who owns ``/``.

    In a user namespace that does not map root, root's files show the overflow uid, and so do those
    of all others who are not mapped (user_namespaces(7)). There, what counts as root's is what
    nobody else can have made.

    :param path: of the file, without symbolic links but itself.
    """
    return bool(lib.un_owner_is_trusted(uid, os.fsencode(path)))


def others_may_write(directory: int) -> bool:
    """Return whether a user other than the caller and root may write to a directory.

    That is by its mode or its access control list (acl(5)). A group counts as the caller's alone if
    it is root's, or has the caller's number and no members.

    :param directory: a descriptor of it, perhaps O_PATH.
    """
    return bool(lib.un_others_may_write(directory))


def append_at_end(descriptor: int) -> None:
    """Have what is written through `descriptor` appended, if it is at the end of a file.

    gVisor writes to a file at an offset of its own, from 0: it would overwrite what is there, and
    standard output and error in one file each other.

    :raises OSError: it is not open.
    """
    if lib.un_append_at_end(descriptor):
        _raise_errno()


def denies_write_execute() -> bool | None:
    """Whether this process can get no memory that it could write and execute.

    :returns: ``None``: the kernel does not tell (PR_GET_MDWE(2const), since Linux 6.3).
    """
    told = lib.un_denies_write_execute()
    return None if told < 0 else bool(told)


def landlock_version() -> int:
    """The version of Landlock's interface; 0: there is none, or it is refused.

    Nothing tells whether Landlock confines this process.
    """
    return int(lib.un_landlock_version())
