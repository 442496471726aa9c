"""Why runsc failed, by its own words: in C, since a launch that was frozen has no Python."""

from __future__ import annotations

from usernsctl._core.failures import check, text_of
from usernsctl._core.memory import Memory
from usernsctl._native import ffi, lib
from usernsctl._typing import Any
from usernsctl.errors import RunscError


def explain_runsc(
    told: str, limit: str = "", config: str | None = "", proc: str = "/proc"
) -> RunscError:
    """The error that a message of runsc's is: with a cause, if the message can have but one.

    :param limit: the id of the cause that it has, if the message can have several; or empty.
    :param config: the config.json, whose words are not runsc's even where runsc repeats them;
        ``None``: it is not known which those are.
    """
    memory = Memory()
    err, failure = ffi.new("struct un_error *"), ffi.new("struct un_runsc_failure *")
    encoded = None if config is None else config.encode("utf-8", "replace")
    result = lib.un_runsc_explain(
        memory.string(_text(told)),
        memory.string(limit),
        ffi.NULL if encoded is None else memory.keep(ffi.from_buffer(encoded)),
        len(encoded or b""),
        memory.string(proc),
        failure,
        err,
    )
    check(result, err)
    return _error(failure)


def explain_silent_runsc(status: int, limit: str = "") -> RunscError:
    """The error that runsc ended with `status`, failed or crashed, and said nothing."""
    memory = Memory()
    failure = ffi.new("struct un_runsc_failure *")
    lib.un_runsc_explain_silence(status, memory.string(limit), failure)
    return _error(failure)


def _text(message: str) -> bytes:
    """As C reads it from a log: what no text can have is replaced."""
    return message.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")


def _error(failure: Any) -> RunscError:
    cause = text_of(failure.cause.id) if failure.has_cause else None
    return RunscError(
        text_of(failure.what),
        step="runsc",
        cause=cause,
        remedy=text_of(failure.remedy),
    )
