"""What is made of subprocess's arguments, and which of them are refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from usernsctl import _core
from usernsctl.errors import NamespaceError

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Args = StrOrBytesPath | Sequence[StrOrBytesPath]

#: Each of these, if it is true, makes the streams carry text.
TEXT_ARGUMENTS = ("text", "universal_newlines", "encoding", "errors")

# The number after it is -1, which means no id (setresuid(2)).
_MAX_ID = 2**32 - 2
_MAX_FD = 2**31 - 1


def words_of(args: Args) -> list[StrOrBytesPath]:
    """The words of a command.

    :raises ValueError: there is none.
    """
    words = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
    if not words:
        raise ValueError("args is empty: it must hold a command")
    return words


def make_command(
    args: Args, executable: StrOrBytesPath | None, env: Mapping[Any, Any] | None
) -> _core.Command:
    """The command that these arguments are about.

    :raises ValueError: there is none.
    """
    argv = [os.fsencode(word) for word in words_of(args)]
    if env is None:
        variables = dict(os.environb)
    else:
        variables = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    file = argv[0] if executable is None else os.fsencode(executable)
    return _core.Command(file=file, argv=argv, env=variables)


def refuse(preexec_fn: Any, shell: bool) -> None:
    """Refuse what can't be had.

    :raises ValueError: one of these was asked for.
    """
    if preexec_fn is not None:
        raise ValueError(
            "preexec_fn can't be had: the child shares this process's memory until it execs"
        )
    if shell:
        raise ValueError('shell=True can\'t be had: name the shell, as in ["sh", "-c", command]')


def check_ids(uid: int | None, gid: int | None, gids: Iterable[int] | None) -> None:
    """Refuse what is no id, with subprocess's exceptions: the kernel would take it for another.

    :raises OverflowError: `uid` or `gid` is too large.
    :raises ValueError: one of `gids` is.
    """
    for name, wanted in (("user", uid), ("group", gid)):
        if wanted is not None and wanted > _MAX_ID:
            raise OverflowError(f"{name}: {wanted} is more than the greatest id, {_MAX_ID}")
    for wanted in gids or ():
        if wanted > _MAX_ID:
            raise ValueError(f"extra_groups: {wanted} is more than the greatest id, {_MAX_ID}")


def descriptors(pass_fds: Iterable[Any]) -> list[int]:
    """The descriptors to pass on.

    :raises ValueError: one of them can't be any.
    """
    fds = [int(fd) for fd in pass_fds]
    for fd in fds:
        if not 0 <= fd <= _MAX_FD:
            raise ValueError(f"pass_fds: {fd} is no descriptor")
    return fds


@contextlib.contextmanager
def opened(cgroup: StrOrBytesPath | int | None) -> Iterator[int]:
    """The descriptor of a control group's directory, or -1 if there is none.

    :raises NamespaceError: the path can't be opened, or is no directory.
    :raises ValueError: it is a number, but no descriptor.
    """
    if cgroup is None:
        yield -1
    elif isinstance(cgroup, int):
        if not 0 <= cgroup <= _MAX_FD:
            raise ValueError(f"in_cgroup: {cgroup} is no descriptor")
        yield cgroup
    else:
        with _directory(os.fsdecode(cgroup)) as fd:
            yield fd


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NamespaceError(
            f"{path}: {error.strerror}", step="cgroup", errno=error.errno or 0, filename=path
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)
