"""Interface to the C core's search for known error messages, and to its explanations of them."""

from __future__ import annotations

from collections.abc import Sequence

from usernsctl._core.values import Memory, check, text_of
from usernsctl._lean import Any
from usernsctl._native import ffi, lib
from usernsctl.errors import RunscError


class MessageSearch:
    """Incremental search of a text for the messages that the catalogue of causes lists."""

    def __init__(self) -> None:
        self._search = ffi.new("struct un_search *")
        self._added: list[Any] = []  # Keeps the strings from add_causes() allocated.

    def add(self, piece: bytes) -> list[tuple[int, tuple[str, ...]]]:
        """Search `piece`, the next part of the searched text, for known messages.

        :returns: for each message that no earlier piece contained, its offset in `piece`, and the
            ids of its possible causes, the likeliest first.
        """
        before = self._search.count
        lib.un_search_add(self._search, ffi.from_buffer(piece), len(piece))
        found = self._search.occurrence[before : self._search.count]
        return [(one.at, _strings(one.causes, one.count)) for one in found if not one.is_hint]

    def add_causes(self, causes: Sequence[str]) -> None:
        """Rank causes as if the searched text contained an additional message with these causes.

        :param causes: the ids of the causes, the likeliest first.
        """
        if self._search.count < lib.UN_OCCURRENCES_MAX:
            self._added.append(ffi.new("char[]", b"".join(id.encode() + b"\0" for id in causes)))
            found = self._search.occurrence[self._search.count]
            found.count, found.causes = len(causes), self._added[-1]
            self._search.count += 1

    def causes(self) -> list[str]:
        """Return the ids of the possible causes of all messages so far, the likeliest first."""
        ids = ffi.new("const char *[]", lib.UN_CAUSES_MAX)
        return [text_of(ids[place]) for place in range(lib.un_search_causes(self._search, ids))]


def _strings(at: Any, count: int) -> tuple[str, ...]:
    """Return `count` consecutive C strings of ASCII characters in memory as a tuple."""
    found = []
    for _ in range(count):
        found.append(text_of(at))
        at += len(found[-1]) + 1
    return tuple(found)


def first_message(written: bytes) -> str | None:
    """Return the first ``msg`` in consecutive JSON objects, or None if no object has a ``msg``."""
    messages = ffi.new("struct un_messages *")
    if lib.un_messages_read(ffi.from_buffer(written), len(written), messages):
        raise MemoryError
    try:
        return _decoded(messages.bytes) if messages.count else None
    finally:
        lib.un_messages_free(messages)


def read_runsc_failure(errors: str, crash: str, debug: str) -> str | None:
    """Return the message of a failure of runsc from its log files, or None if there is no message.

    :param errors: the path of the log file (``--log``).
    :param crash: the path of the panic log (``--panic-log``).
    :param debug: the pattern for the paths of the debug logs (``--debug-log``).
    :raises MemoryError: malloc(3) failed.
    """
    memory, logs = Memory(), ffi.new("struct un_runsc_logs *")
    paths = [memory.string(path) for path in (errors, crash, debug)]
    if lib.un_runsc_logs_read(*paths, logs):
        raise MemoryError
    try:
        return _decoded(logs.reason) if logs.reason else None
    finally:
        lib.un_runsc_logs_free(logs)


def _decoded(message: Any) -> str:
    return bytes(ffi.string(message)).decode("utf-8", "replace")


def explain_runsc(
    message: str, limit: str = "", config: str | None = "", proc: str = "/proc"
) -> RunscError:
    """Return the error for a message of runsc, with the message's cause if it is known.

    :param limit: the cause id of the limit that the sandbox exceeded, or empty. If the message has
        several possible causes, `limit` selects the cause.
    :param config: the content of config.json. Text that runsc quotes from config.json does not
        select a cause. ``None`` if the content is unknown; then no text in the message selects a
        cause.
    """
    memory = Memory()
    err, failure = ffi.new("struct un_error *"), ffi.new("struct un_runsc_failure *")
    encoded = None if config is None else config.encode("utf-8", "replace")
    result = lib.un_runsc_explain(
        memory.string(_text(message)),
        memory.string(limit),
        ffi.NULL if encoded is None else memory.keep(ffi.from_buffer(encoded)),
        len(encoded or b""),
        memory.string(proc),
        failure,
        err,
    )
    check(result, err)
    return _error(failure)


def explain_silent_runsc(status: int, limit: str = "", *, proc: str = "/proc") -> RunscError:
    """Return the error for a runsc that exited without printing a message.

    :param status: the exit status of runsc.
    :param limit: the cause id of the limit that the sandbox exceeded, or empty.
    """
    memory = Memory()
    failure = ffi.new("struct un_runsc_failure *")
    lib.un_runsc_explain_silence(status, memory.string(limit), memory.string(proc), failure)
    return _error(failure)


def _text(message: str) -> bytes:
    """Encode a message as UTF-8; replace NUL, which would end a C string, with U+FFFD."""
    return message.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")


def _error(failure: Any) -> RunscError:
    cause = text_of(failure.cause.id) if failure.has_cause else None
    return RunscError(
        text_of(failure.what),
        step="runsc",
        cause=cause,
        remedy=text_of(failure.remedy),
    )
