"""The keyword arguments of commands in a sandbox, for type checkers.

:mod:`usernsctl.commands.options` has the keyword arguments of commands on the host. The classes are
used only in annotations, so they are imported only for type checkers and other tools that evaluate
annotations. :class:`usernsctl.gvisor.agent.commands.SandboxCommands` raises :class:`TypeError` for
a keyword that none of the classes has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypedDict, TypeVar

from usernsctl.commands.arguments import Stream, StrOrBytesPath
from usernsctl.commands.options import AnyStreams, ByteStreams, EncodedStreams, TextStreams
from usernsctl.gvisor.oci import Rlimit
from usernsctl.gvisor.output import OnOverflow

_Input = TypeVar("_Input", str, bytes, Any)


class _SandboxCommand(TypedDict, total=False):
    """Options of all commands, without `stdout`, which ``check_output()`` does not accept."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: str | tuple[int, int] | None
    groups: Iterable[int] | None
    rlimits: Iterable[Rlimit | str] | None
    terminal: bool | tuple[int, int]
    stdin: Stream
    stderr: Stream
    executable: StrOrBytesPath | None
    bufsize: int
    pipesize: int
    close_fds: bool
    restore_signals: bool
    start_new_session: bool
    process_group: int | None
    umask: int


class _SandboxOutput(_SandboxCommand, Generic[_Input], total=False):
    """Options of all methods that capture output.

    :ivar timeout: the time limit of the command, its start included, in seconds.
    """

    input: _Input | None
    timeout: float | None


class _SandboxRun(_SandboxOutput[_Input], total=False):
    """Options of ``run()``.

    :ivar max_output: the number of bytes to capture from each stream; ``None`` for no limit.
    :ivar on_overflow: what happens to a command that writes more than `max_output` bytes.
    """

    stdout: Stream
    capture_output: bool
    check: bool
    max_output: int | None
    on_overflow: OnOverflow


class _SandboxPopen(_SandboxCommand, total=False):
    stdout: Stream


class SandboxStreamOptions(_SandboxPopen, total=False):
    """Options of :meth:`usernsctl.Sandbox.create_subprocess_exec`; the streams carry bytes.

    :ivar limit: the size of the streams' buffers, in bytes.
    """

    limit: int


class SandboxPopenText(_SandboxPopen, TextStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.popen`, for calls that pass ``text=True``."""


class SandboxPopenEncoded(_SandboxPopen, EncodedStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.popen`, for calls that pass `encoding`."""


class SandboxPopenBytes(_SandboxPopen, ByteStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.popen`, for calls whose streams carry bytes."""


class SandboxPopenEither(_SandboxPopen, AnyStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.popen`, if `text` has the static type bool."""


class SandboxRunText(_SandboxRun[str], TextStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.run`, for calls that pass ``text=True``."""


class SandboxRunEncoded(_SandboxRun[str], EncodedStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.run`, for calls that pass `encoding`."""


class SandboxRunBytes(_SandboxRun[bytes], ByteStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.run`, for calls whose streams carry bytes."""


class SandboxRunEither(_SandboxRun[Any], AnyStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.run`, if `text` has the static type bool."""


class SandboxOutputText(_SandboxOutput[str], TextStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.check_output`, for calls that pass ``text=True``."""


class SandboxOutputEncoded(_SandboxOutput[str], EncodedStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.check_output`, for calls that pass `encoding`."""


class SandboxOutputBytes(_SandboxOutput[bytes], ByteStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.check_output`, for calls whose streams carry bytes."""


class SandboxOutputEither(_SandboxOutput[Any], AnyStreams, total=False):
    """Options of :meth:`usernsctl.Sandbox.check_output`, if `text` has the static type bool."""
