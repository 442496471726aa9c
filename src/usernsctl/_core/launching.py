"""Launches, which the core performs (csrc/launch/)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from usernsctl._core.failures import error_of, text_of
from usernsctl._core.memory import Memory
from usernsctl._native import ffi, lib
from usernsctl._typing import Any, NoReturn
from usernsctl.errors import UsernsError


def failure(words: Sequence[bytes]) -> UsernsError:
    """The exception for what failed in usernsctl-build.

    :param words: what it has written (csrc/programs/build/main.c).
    """
    step, errnum, cause, detail, filename, remedy = words
    err = ffi.new("struct un_error *")
    err.step, err.errnum = int(step), int(errnum)
    known = ffi.new("struct un_cause *")
    err.cause = known.id if lib.un_cause_find(cause, known) else ffi.NULL
    err.detail = detail[: lib.UN_DETAIL_MAX - 1]
    return error_of(
        err,
        filename=os.fsdecode(filename) or None,
        remedy=os.fsdecode(remedy) or None,
        is_diagnosed=True,
    )


class NativeLaunch:
    """A launch that is performed: opened, then built inside the namespaces, then executed.

    All that it has open is closed with this object.
    """

    def __init__(self, text: bytes) -> None:
        """Read the words of a launch.

        :raises NamespaceError: they are none.
        """
        self._text = ffi.from_buffer(text)
        self._launch = ffi.NULL
        made, err = ffi.new("struct un_launch **"), ffi.new("struct un_error *")
        if lib.un_launch_parse(self._text, len(text), made, err):
            raise error_of(err)
        self._launch = made[0]

    def open(self, fds: Sequence[int]) -> None:
        """Check what it assumes, and open its sources.

        :param fds: for each source a descriptor, which stays the caller's, or -1 for one that is
            to be opened here.
        :raises UsernsError: a source can't be had.
        """
        err, memory = ffi.new("struct un_error *"), Memory()
        self._check(lib.un_launch_open(self._launch, memory.numbers("int[]", fds), err), err)

    def build(self) -> None:
        """Make the root filesystem and the files, in the mount namespace that we are in by now.

        :raises UsernsError: something of it can't be made.
        """
        err = ffi.new("struct un_error *")
        self._check(lib.un_launch_build(self._launch, ffi.NULL, err), err)

    def exec(
        self, *, args: Iterable[str], env: Iterable[str], cwd: str, hostname: str | None = None
    ) -> NoReturn:
        """Write config.json, give up privileges, and execute the program that waits for runsc.

        :param args: the command.
        :param env: its environment, each ``NAME=VALUE``.
        :param cwd: the directory inside that it starts in.
        :param hostname: the name of the host inside, if that is left open.
        :raises UsernsError: it failed; privileges may be gone by then.
        """
        err, memory = ffi.new("struct un_error *"), Memory()
        moment = ffi.new("struct un_moment *")
        moment.args = memory.strings(map(os.fsencode, args))
        moment.env = memory.strings(map(os.fsencode, env))
        moment.cwd = memory.string(cwd)
        moment.hostname = memory.string(hostname)
        lib.un_launch_exec(self._launch, moment, err)
        raise self._error(err)

    @property
    def scratch(self) -> str:
        """The path of the directory that all of it is in."""
        return text_of(lib.un_launch_scratch(self._launch))

    @property
    def scratch_fd(self) -> int:
        """A descriptor of that directory (O_PATH), which stays the launch's."""
        return int(lib.un_launch_scratch_fd(self._launch))

    @property
    def root_fd(self) -> int:
        """The same of the root filesystem."""
        return int(lib.un_launch_root_fd(self._launch))

    def binds(self) -> list[tuple[str, str]]:
        """The sources and destinations that runsc binds: nobody else can change these paths."""
        return [
            (
                text_of(lib.un_launch_bind_source(self._launch, number)),
                text_of(lib.un_launch_bind_destination(self._launch, number)),
            )
            for number in range(lib.un_launch_bind_count(self._launch))
        ]

    def close(self) -> None:
        """Close all that it has open. What was mounted stays."""
        launch, self._launch = self._launch, ffi.NULL
        lib.un_launch_close(launch)

    def __del__(self) -> None:
        if hasattr(self, "_launch"):
            self.close()

    def _check(self, result: int, err: Any) -> None:
        if result:
            raise self._error(err)

    def _error(self, err: Any) -> UsernsError:
        filename, remedy = (
            text_of(found) if found else None
            for found in (
                lib.un_launch_filename(self._launch),
                lib.un_launch_remedy(self._launch),
            )
        )
        return error_of(err, filename=filename, remedy=remedy)
