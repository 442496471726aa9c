"""Check and convert arguments that have the same meaning as in subprocess."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from subprocess import DEVNULL, PIPE, STDOUT
from types import CodeType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from usernsctl import _core
from usernsctl._system.descriptors import open_owned
from usernsctl._system.paths import OpenFile
from usernsctl.errors import NamespaceError

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Args = StrOrBytesPath | Sequence[StrOrBytesPath]
Environment = Mapping[str, StrOrBytesPath] | Mapping[bytes, StrOrBytesPath]


@runtime_checkable
class HasFileno(Protocol):
    """A file, a socket, or another object with a descriptor."""

    def fileno(self) -> int:
        """Return the object's descriptor."""


#: The argument for a standard stream: a descriptor, an object with a descriptor, PIPE, DEVNULL,
#: STDOUT (only for stderr), or None for the caller's own stream.
Stream = HasFileno | int | None

_SPECIAL = (PIPE, STDOUT, DEVNULL)

_INHERITED = -1  # In struct un_spawn, -1 stands for the caller's own stream.

#: The arguments that request text streams if they are true.
TEXT_ARGUMENTS = ("text", "universal_newlines", "encoding", "errors")

# The greatest uid or gid. The next greater number is (uid_t) -1, which is not an id (setresuid(2)).
_MAX_ID = 2**32 - 2
_MAX_FD = 2**31 - 1


def argv_of(args: Args) -> list[StrOrBytesPath]:
    """Return a command and its arguments as a list.

    :raises TypeError: `args` is neither text nor a path nor an iterable.
    :raises ValueError: `args` is empty.
    """
    if isinstance(args, str | bytes | os.PathLike):
        return [args]
    if not isinstance(args, Iterable):
        raise TypeError(f"args must be text, or a sequence of text and paths, not {args!r}")
    argv = list(args)
    if not argv:
        raise ValueError("args is empty: args must contain a command")
    return argv


def encoded_path(name: str, path: StrOrBytesPath) -> bytes:
    """Return `path`, the value of the argument `name`, as bytes.

    :raises TypeError: `path` is not a path.
    """
    try:
        return os.fsencode(path)
    except TypeError:
        raise TypeError(f"{name} must be a path, not {path!r}") from None


def _encoded_word(word: StrOrBytesPath) -> bytes:
    try:
        return os.fsencode(word)
    except TypeError:
        raise TypeError(f"args must be text and paths, not {word!r}") from None


def _encoded_variables(env: Mapping[Any, Any]) -> dict[bytes, bytes]:
    """Return an environment as bytes. Error messages do not quote values, which may be secret."""
    if not isinstance(env, Mapping):
        raise TypeError(f"env must be a mapping of names to values, not {type(env).__name__}")
    try:
        return {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    except TypeError as error:
        raise TypeError(f"env: names and values must be text: {error}") from None


def make_command(
    args: Args, executable: StrOrBytesPath | None, env: Mapping[Any, Any] | None
) -> _core.Command:
    """Return the core's description of a command to execute.

    :raises TypeError: an argument has the wrong type.
    :raises ValueError: `args` is empty.
    """
    argv = [_encoded_word(word) for word in argv_of(args)]
    variables = dict(os.environb) if env is None else _encoded_variables(env)
    file = argv[0] if executable is None else encoded_path("executable", executable)
    return _core.Command(file=file, argv=argv, env=variables)


class ChildArguments(NamedTuple):
    """The arguments of ``_execute_child``, a private method of subprocess.Popen.

    The method has the same parameters in Python 3.11 to 3.14. The ends of the pipes are
    descriptors, or -1 if there is no pipe: `p2c` is the pipe from the parent to the child, `c2p`
    the pipe from the child to the parent.
    """

    args: Args
    executable: StrOrBytesPath | None
    preexec_fn: object
    close_fds: bool
    pass_fds: Sequence[int]
    cwd: StrOrBytesPath | None
    env: Mapping[Any, Any] | None
    startupinfo: None
    creationflags: int
    shell: bool
    p2cread: int
    p2cwrite: int
    c2pread: int
    c2pwrite: int
    errread: int
    errwrite: int
    restore_signals: bool
    gid: int | None
    gids: Sequence[int] | None
    uid: int | None
    umask: int
    start_new_session: bool
    process_group: int | None

    @property
    def pipes(self) -> tuple[int, ...]:
        """The six pipe descriptors, which are the arguments of ``Popen._close_pipe_fds``."""
        return self[10:16]

    @property
    def group(self) -> int:
        """The process group for the child to join; 0 for a new group, -1 for the parent's group."""
        return -1 if self.process_group is None else self.process_group

    def argv(self) -> list[StrOrBytesPath]:
        """Return the command and its arguments. Call only once, because `args` may be an iterator.

        :raises TypeError: `args` is neither text nor a path nor an iterable.
        :raises ValueError: `args` is empty, or `preexec_fn` or `shell` is given.
        """
        if self.preexec_fn is not None:
            raise ValueError(
                "preexec_fn is not supported: the child shares this process's memory until it execs"
            )
        if self.shell:
            raise ValueError(
                'shell=True is not supported: name the shell, as in ["sh", "-c", command]'
            )
        return argv_of(self.args)

    def audit(self, argv: list[StrOrBytesPath], cwd: Any, env: Any) -> None:
        """Raise the auditing event ``subprocess.Popen`` for a command."""
        sys.audit("subprocess.Popen", self.executable or argv[0], argv, cwd, env)


def keywords_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters, except `self`, ``*args`` and ``**kwargs``."""
    code: CodeType = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return tuple([name for name in names if name != "self"])


def check_keywords(
    function: str, given: Iterable[str], known: Collection[str], hint: str = ""
) -> None:
    """Check the names of keyword arguments; raise the same error as Python itself.

    :param function: the name of the function, for the error message.
    :param hint: the end of the error message if no known name is similar.
    :raises TypeError: a keyword argument has an unknown name.
    """
    for name in given:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            hint = f". Did you mean {near[0]!r}?" if near else hint
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def check_timeout(timeout: Any, name: str = "timeout") -> None:
    """Check that a timeout is a number of seconds or None.

    :param name: the name of the argument, for error messages.
    :raises TypeError: `timeout` is not a real number.
    :raises ValueError: `timeout` is NaN, or an int that is too large for a float.
    """
    try:
        seconds = 0.0 if timeout is None else timeout + 0.0
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds, not {timeout!r}") from None
    except OverflowError:
        raise ValueError(f"{name} is too large for a number of seconds") from None
    if isinstance(seconds, complex):
        raise TypeError(f"{name} must be a number of seconds, not {timeout!r}")
    if seconds != seconds:
        raise ValueError(f"{name} must be a number of seconds, not {timeout!r}")


def check_ids(uid: int | None, gid: int | None, gids: Sequence[int] | None) -> None:
    """Check that ids are not too large for the kernel, which would truncate them.

    Raises the same exceptions as subprocess.

    :raises OverflowError: `uid` or `gid` is too large.
    :raises ValueError: one of `gids` is too large, or `gids` are more than the kernel allows.
    """
    for name, wanted in (("user", uid), ("group", gid)):
        if wanted is not None and wanted > _MAX_ID:
            raise OverflowError(f"{name}: {wanted} is more than the greatest id, {_MAX_ID}")
    gids = gids or ()
    if len(gids) > _core.GROUPS_MAX:
        raise ValueError(
            f"extra_groups: {len(gids)} groups are more than {_core.GROUPS_MAX}, "
            "the most that the kernel allows"
        )
    for wanted in gids:
        if wanted > _MAX_ID:
            raise ValueError(f"extra_groups: {wanted} is more than the greatest id, {_MAX_ID}")


def descriptors(pass_fds: Iterable[Any]) -> list[int]:
    """Return the descriptors that a command inherits, as numbers.

    :raises ValueError: a number is not a descriptor.
    """
    fds = [int(fd) for fd in pass_fds]
    for fd in fds:
        if not 0 <= fd <= _MAX_FD:
            raise ValueError(f"pass_fds: {fd} is not a descriptor")
    return fds


@contextlib.contextmanager
def stdio(**streams: Stream) -> Iterator[tuple[int, ...]]:
    """Yield the descriptors for the standard streams; -1 stands for the caller's own stream.

    :param streams: the arguments for the streams, keyed by the stream's name.
    :raises TypeError: an argument has no descriptor.
    :raises ValueError: an argument is PIPE or STDOUT, or is not a descriptor.
    """
    with contextlib.ExitStack() as opened:
        fds = []
        for name, wanted in streams.items():
            if wanted == DEVNULL:
                null = open_owned(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC)
                fd = opened.enter_context(null).fileno()
            else:
                fd = _stream(name, wanted)
            fds.append(fd)
        yield tuple(fds)


def _stream(name: str, wanted: Stream) -> int:
    if wanted is None:
        return _INHERITED
    for word, number in (("PIPE", PIPE), ("STDOUT", STDOUT)):
        if wanted == number:
            raise ValueError(f"{name}={word} is not supported by spawn(): use Popen")
    return descriptor_of(name, wanted)


def descriptor_of(name: str, wanted: Any) -> int:
    """Return the descriptor of `wanted`, the argument for the standard stream `name`.

    :raises TypeError: `wanted` has no descriptor.
    :raises ValueError: the descriptor is negative, such as that of a closed socket, or too large.
    """
    if not isinstance(wanted, int) and not hasattr(wanted, "fileno"):
        raise TypeError(
            f"{name} must be an open file, a descriptor, PIPE or DEVNULL, not {wanted!r}"
        )
    fd: int = wanted if isinstance(wanted, int) else wanted.fileno()
    if not 0 <= fd <= _MAX_FD:
        raise ValueError(f"{name}: {fd} is not a descriptor; None stands for the caller's own")
    return fd


def check_streams(**streams: Any) -> None:
    """Check the arguments for standard streams of a Popen.

    subprocess treats the descriptor -1 of a closed socket like ``None``, so the command would
    inherit the caller's own stream.

    :param streams: the arguments for the streams, keyed by the stream's name.
    :raises TypeError: an argument has no descriptor.
    :raises ValueError: an argument is not a descriptor, or is STDOUT for another stream than
        stderr.
    """
    for name, wanted in streams.items():
        if isinstance(wanted, int) and wanted == STDOUT and name != "stderr":
            raise ValueError(f"{name}: STDOUT can only be used for stderr")
        if wanted is not None and not (isinstance(wanted, int) and wanted in _SPECIAL):
            descriptor_of(name, wanted)


@contextlib.contextmanager
def opened(cgroup: StrOrBytesPath | int | None) -> Iterator[int]:
    """Yield a descriptor of a control group's directory, or -1 if `cgroup` is None.

    :raises NamespaceError: the path can't be opened, or is not a directory.
    :raises ValueError: `cgroup` is not a descriptor, or contains a NUL character.
    """
    if cgroup is None:
        yield -1
    elif isinstance(cgroup, int):
        if not 0 <= cgroup <= _MAX_FD:
            raise ValueError(f"in_cgroup: {cgroup} is not a descriptor")
        yield cgroup
    else:
        with _directory(os.fsdecode(cgroup)) as fd:
            yield fd


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    try:
        directory = OpenFile.own(path, os.open, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NamespaceError.from_os_error(error, path, step="cgroup", filename=path) from error
    except ValueError as error:  # Raised if the path contains a NUL character.
        raise ValueError(f"in_cgroup: {path!r} can't be a path: {error}") from None
    with directory:
        yield directory.fd
