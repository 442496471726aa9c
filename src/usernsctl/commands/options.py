"""The keyword arguments of functions that start a command, for type checkers.

A function declares ``**options: Unpack[...]`` with one of these classes. The classes occur only in
annotations, so only code that evaluates annotations imports this module. The functions themselves
check the keywords when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, Required, TypedDict, TypeVar

from usernsctl._system.target import Propagation
from usernsctl.commands.arguments import Environment, Stream, StrOrBytesPath

_Input = TypeVar("_Input", str, bytes, Any)


class EnterableKinds(TypedDict, total=False):
    """Options that request new namespaces of the kinds that a process itself can enter.

    A process can't enter a new PID or time namespace: only its later children run there.
    """

    mount: bool
    net: bool
    ipc: bool
    uts: bool
    cgroup: bool


class KeptKinds(EnterableKinds, total=False):
    """Options that request new namespaces of the kinds that a descriptor can keep alive.

    A PID namespace needs a process: its PID 1.
    """

    time: bool


class Kinds(KeptKinds, total=False):
    """Options that request new namespaces of any kind except "user"."""

    pid: bool


class EnterOptions(EnterableKinds, total=False):
    """Options of :func:`usernsctl.enter`.

    :ivar propagation: the propagation of the mounts in a new mount namespace
        (mount_namespaces(7)).
    """

    propagation: Propagation


class _Command(TypedDict, total=False):
    """Options of every command.

    :ivar env: the whole environment of the command; ``None`` for ``os.environ``.
    :ivar cwd: the working directory, a path *inside*; ``None`` for the caller's directory.
    :ivar pass_fds: the descriptors from 3 on that the command inherits, with the same numbers.
    """

    env: Environment | None
    cwd: StrOrBytesPath | None
    pass_fds: Iterable[int]


class ExecOptions(EnterOptions, _Command, total=False):
    """Options of :func:`usernsctl.exec`.

    :ivar executable: the path of the file to execute, instead of the first element of the command.
    """

    executable: StrOrBytesPath | None


class _ChildOptions(Kinds, _Command, total=False):
    """Additional options of a command in a child process.

    :ivar init: whether PID 1 of the new PID namespace (`pid`) is not the command, but a process
        that forwards signals to the command and reaps orphans.
    :ivar pdeathsig: the signal that the command receives when the *thread* that started it exits
        (PR_SET_PDEATHSIG(2const)), or 0 for no signal.
    :ivar in_cgroup: the directory, as a path or a descriptor, of a control group v2 in which to
        start the command.
    :ivar start_timeout: the timeout for starting the command, in seconds; no timeout if ``None``.
    """

    init: bool
    propagation: Propagation
    stdin: Stream
    stderr: Stream
    pdeathsig: int
    in_cgroup: StrOrBytesPath | int | None
    start_timeout: float | None


class SpawnOptions(_ChildOptions, total=False):
    """Options of :func:`usernsctl.spawn`, which rejects PIPE and STDOUT for streams."""

    stdout: Stream


class _ProcessOptions(_ChildOptions, total=False):
    """Options that mean the same as in subprocess, without the options for text and output.

    :ivar user: a uid *inside*, or the name of a user outside, whose uid is then used as the uid
        inside. `group` and `extra_groups` take gids and names of groups alike.
    """

    executable: StrOrBytesPath | None
    close_fds: bool
    restore_signals: bool
    start_new_session: bool
    process_group: int | None
    user: str | int | None
    group: str | int | None
    extra_groups: Iterable[str | int] | None
    umask: int
    pipesize: int


class StreamOptions(_ProcessOptions, total=False):
    """Options of :func:`usernsctl.create_subprocess_exec`, whose streams carry bytes.

    :ivar limit: the size of the streams' buffers, in bytes.
    """

    stdout: Stream
    limit: int


class _OutputOptions(_ProcessOptions, Generic[_Input], total=False):
    """Options of functions that communicate with a command.

    :ivar timeout: the timeout of the command, in seconds; no timeout if ``None``.
    """

    input: _Input | None
    timeout: float | None


class _PopenOptions(_ProcessOptions, total=False):
    stdout: Stream


class _RunOptions(_OutputOptions[_Input], total=False):
    """Options of functions that run a command.

    :ivar started: a function that is called with the Popen once the command runs.
    """

    stdout: Stream
    capture_output: bool
    check: bool
    started: Callable[[Any], object]


# `errors` or `universal_newlines` alone also request text streams, but no classes describe such
# calls.


class TextStreams(TypedDict, total=False):
    """Options for streams that carry text because of ``text=True``."""

    text: Required[Literal[True]]
    universal_newlines: bool | None
    encoding: str | None
    errors: str | None


class EncodedStreams(TypedDict, total=False):
    """Options for streams that carry text because `encoding` is given."""

    text: Literal[True] | None
    universal_newlines: bool | None
    encoding: Required[str]
    errors: str | None


class ByteStreams(TypedDict, total=False):
    """Options for streams that carry bytes."""

    text: Literal[False] | None
    universal_newlines: Literal[False] | None
    encoding: None
    errors: None


class AnyStreams(TypedDict, total=False):
    """Options for streams of text or bytes, if `text` has the static type bool."""

    text: bool | None
    universal_newlines: bool | None
    encoding: str | None
    errors: str | None


class PopenText(_PopenOptions, TextStreams, total=False):
    """Options of :class:`usernsctl.Popen`, for calls that pass ``text=True``."""


class PopenEncoded(_PopenOptions, EncodedStreams, total=False):
    """Options of :class:`usernsctl.Popen`, for calls that pass `encoding`."""


class PopenBytes(_PopenOptions, ByteStreams, total=False):
    """Options of :class:`usernsctl.Popen` for streams of bytes."""


class PopenEither(_PopenOptions, AnyStreams, total=False):
    """Options of :class:`usernsctl.Popen`, if `text` has the static type bool."""


class CallOptions(PopenEither, total=False):
    """Options of :func:`usernsctl.call` and :func:`usernsctl.check_call`.

    :ivar timeout: the timeout of the command, in seconds; no timeout if ``None``.
    """

    timeout: float | None


class RunText(_RunOptions[str], TextStreams, total=False):
    """Options of :func:`usernsctl.run`, for calls that pass ``text=True``."""


class RunEncoded(_RunOptions[str], EncodedStreams, total=False):
    """Options of :func:`usernsctl.run`, for calls that pass `encoding`."""


class RunBytes(_RunOptions[bytes], ByteStreams, total=False):
    """Options of :func:`usernsctl.run` for streams of bytes."""


class RunEither(_RunOptions[Any], AnyStreams, total=False):
    """Options of :func:`usernsctl.run`, if `text` has the static type bool."""


class OutputText(_OutputOptions[str], TextStreams, total=False):
    """Options of :func:`usernsctl.check_output`, for calls that pass ``text=True``."""


class OutputEncoded(_OutputOptions[str], EncodedStreams, total=False):
    """Options of :func:`usernsctl.check_output`, for calls that pass `encoding`."""


class OutputBytes(_OutputOptions[bytes], ByteStreams, total=False):
    """Options of :func:`usernsctl.check_output` for streams of bytes."""


class OutputEither(_OutputOptions[Any], AnyStreams, total=False):
    """Options of :func:`usernsctl.check_output`, if `text` has the static type bool."""
