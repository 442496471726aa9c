"""The keyword arguments of functions that start a command, for type checkers.

A function takes ``**options: Unpack[...]`` of one of these classes. A call does not read the
classes, so they are imported only for code that reads annotations.
:func:`usernsctl._system.target.selected` removes the namespaces from the dictionary, and an unknown
keyword raises :class:`TypeError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, Required, TypedDict, TypeVar

from usernsctl._system.target import Propagation
from usernsctl.commands.arguments import Environment, Stream, StrOrBytesPath

_Input = TypeVar("_Input", str, bytes, Any)


class EnterableKinds(TypedDict, total=False):
    """The kinds of namespaces that a process can move itself into: whether to create them."""

    mount: bool
    net: bool
    ipc: bool
    uts: bool
    cgroup: bool


class KeptKinds(EnterableKinds, total=False):
    """The kinds of namespaces that a descriptor can keep, without a process inside."""

    time: bool


class Kinds(KeptKinds, total=False):
    """All kinds of namespaces, except the user namespace."""

    pid: bool


class EnterOptions(EnterableKinds, total=False):
    """Options of :func:`usernsctl.enter`.

    :ivar propagation: the propagation of the mounts in a new mount namespace
        (mount_namespaces(7)).
    """

    propagation: Propagation


class _Command(TypedDict, total=False):
    """Options of each command.

    :ivar env: the whole environment; ``None`` for ``os.environ``.
    :ivar cwd: the working directory, a path *inside*; ``None`` for the caller's.
    :ivar pass_fds: the descriptors from 3 on that the command gets, with the same numbers.
    """

    env: Environment | None
    cwd: StrOrBytesPath | None
    pass_fds: Iterable[int]


class ExecOptions(EnterOptions, _Command, total=False):
    """Options of :func:`usernsctl.exec`.

    :ivar executable: the file to execute, instead of the first word.
    """

    executable: StrOrBytesPath | None


class _ChildOptions(Kinds, _Command, total=False):
    """Further options of a command in a child.

    :ivar init: whether process 1 of the new PID namespace (`pid`) is not the command, but a process
        that passes signals on to the command and reaps orphans.
    :ivar pdeathsig: the signal that the command gets when the *thread* that started it ends
        (PR_SET_PDEATHSIG(2const)), or 0.
    :ivar in_cgroup: the directory of a control group v2, a path or a descriptor, to start in.
    :ivar start_timeout: the time limit of the start, in seconds; ``None``: no limit.
    """

    init: bool
    propagation: Propagation
    stdin: Stream
    stderr: Stream
    pdeathsig: int
    in_cgroup: StrOrBytesPath | int | None
    start_timeout: float | None


class SpawnOptions(_ChildOptions, total=False):
    """Options of :func:`usernsctl.spawn`, which refuses the streams PIPE and STDOUT."""

    stdout: Stream


class _ProcessOptions(_ChildOptions, total=False):
    """Options of subprocess with the same meanings, except those about text and output.

    :ivar user: a uid *inside*, or the name of a user outside, for the uid of that user. The same
        holds for `group` and `extra_groups`.
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
    """:ivar timeout: the time limit of the command, in seconds."""

    input: _Input | None
    timeout: float | None


class _PopenOptions(_ProcessOptions, total=False):
    stdout: Stream


class _RunOptions(_OutputOptions[_Input], total=False):
    """:ivar started: a function that is called with the Popen once the command runs."""

    stdout: Stream
    capture_output: bool
    check: bool
    started: Callable[[Any], object]


# No class here covers `errors` or `universal_newlines` alone, which also make streams carry text.


class TextStreams(TypedDict, total=False):
    """Options of streams that carry text, because of ``text=True``."""

    text: Required[Literal[True]]
    universal_newlines: bool | None
    encoding: str | None
    errors: str | None


class EncodedStreams(TypedDict, total=False):
    """Options of streams that carry text, because `encoding` is given."""

    text: Literal[True] | None
    universal_newlines: bool | None
    encoding: Required[str]
    errors: str | None


class ByteStreams(TypedDict, total=False):
    """Options of streams that carry bytes."""

    text: Literal[False] | None
    universal_newlines: Literal[False] | None
    encoding: None
    errors: None


class AnyStreams(TypedDict, total=False):
    """Streams of text or bytes, for a caller that passes `text` as a variable."""

    text: bool | None
    universal_newlines: bool | None
    encoding: str | None
    errors: str | None


class PopenText(_PopenOptions, TextStreams, total=False):
    """Options of :class:`usernsctl.Popen`, with ``text=True``."""


class PopenEncoded(_PopenOptions, EncodedStreams, total=False):
    """Options of :class:`usernsctl.Popen`, with `encoding`."""


class PopenBytes(_PopenOptions, ByteStreams, total=False):
    """Options of :class:`usernsctl.Popen`, with bytes."""


class PopenEither(_PopenOptions, AnyStreams, total=False):
    """Options of :class:`usernsctl.Popen`, for a caller that passes `text` as a variable."""


class CallOptions(PopenEither, total=False):
    """Options of :func:`usernsctl.call` and :func:`usernsctl.check_call`.

    :ivar timeout: the time limit of the command, in seconds.
    """

    timeout: float | None


class RunText(_RunOptions[str], TextStreams, total=False):
    """Options of :func:`usernsctl.run`, with ``text=True``."""


class RunEncoded(_RunOptions[str], EncodedStreams, total=False):
    """Options of :func:`usernsctl.run`, with `encoding`."""


class RunBytes(_RunOptions[bytes], ByteStreams, total=False):
    """Options of :func:`usernsctl.run`, with bytes."""


class RunEither(_RunOptions[Any], AnyStreams, total=False):
    """Options of :func:`usernsctl.run`, for a caller that passes `text` as a variable."""


class OutputText(_OutputOptions[str], TextStreams, total=False):
    """Options of :func:`usernsctl.check_output`, with ``text=True``."""


class OutputEncoded(_OutputOptions[str], EncodedStreams, total=False):
    """Options of :func:`usernsctl.check_output`, with `encoding`."""


class OutputBytes(_OutputOptions[bytes], ByteStreams, total=False):
    """Options of :func:`usernsctl.check_output`, with bytes."""


class OutputEither(_OutputOptions[Any], AnyStreams, total=False):
    """Options of :func:`usernsctl.check_output`, for a caller that passes `text` as a variable."""
