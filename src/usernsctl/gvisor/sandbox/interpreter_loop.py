"""The program that a persistent interpreter runs: it executes the code that the host sends.

The interpreter receives the source of this module as the argument of ``-c``. This module imports no
other module of usernsctl, since the interpreter may be another version of Python. Descriptor 0 is a
socket to the host.

Each request is a line of JSON. Each answer is a line of two JSON values that are separated by a
tab: an object with the results other than the value of the code, and that value. Requests and
answers are sent in messages of at most MESSAGE_BYTES.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import sys
import traceback
from ast import Expr, Expression, PyCF_ONLY_AST
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: The maximum size of a message, in bytes, far below the send buffer of a Unix socket (200 KiB,
#: unix(7)).
MESSAGE_BYTES = 1 << 16
#: The size, in bytes, by which an answer may be longer than the longest value: see :func:`_encode`.
ENVELOPE_BYTES = 4096

# If the JSON of a long value leaves too little room in an answer, the other strings of the answer
# are truncated to this many characters: the value's repr(), or an exception's name, message and
# traceback.
_FEW = 80
# If an answer is too long even without the value, each string is shortened to 1/_PART of the
# answer's maximum size: an answer has at most three strings, and JSON needs at most 12 bytes for a
# character.
_PART = 50


def serve() -> None:
    """Run the code of each request and answer it, until the host closes the socket."""
    connection = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    streams: Any = sys.stdout, sys.stderr
    for stream in streams:
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv[:] = [""]
    process = os.getpid()
    for number, request in enumerate(_requests(connection), 1):
        answer, value = _run(request, vars(main), f"<code {number}>")
        for stream in streams:
            # Ignore errors: the code may have closed the stream.
            with contextlib.suppress(Exception):
                stream.flush()
        if os.getpid() != process:
            # This process is a child that the code has forked. Only the parent may answer.
            os._exit(0)
        line = _encode(answer, value, request["limit"])
        for start in range(0, len(line), MESSAGE_BYTES):
            os.write(connection, line[start : start + MESSAGE_BYTES])


def _requests(connection: int) -> Iterator[dict[str, Any]]:
    parts = []
    while part := os.read(connection, MESSAGE_BYTES):
        parts.append(part)
        if part.endswith(b"\n"):
            yield json.loads(b"".join(parts))
            parts.clear()


def _run(request: dict[str, Any], names: dict[str, Any], file: str) -> tuple[dict[str, Any], Any]:
    """Run the code of a request; return the answer without the value, and the value."""
    code = request["code"]
    # Register the source lines, so that tracebacks can quote them.
    linecache.cache[file] = (len(code), None, code.splitlines(True), file)
    answer = {"id": request["id"], "text": None, "error": None}
    try:
        names.update(json.loads(request["variables"]))
        # The positional arguments are source, filename, mode, flags and dont_inherit.
        tree: Any = compile(code, file, "exec", PyCF_ONLY_AST, True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], Expr) else None
        exec(compile(tree, file, "exec", 0, True), names)  # noqa: S102
        if last is None:
            return answer, None
        value = eval(compile(Expression(last.value), file, "eval", 0, True), names)  # noqa: S307
        if value is not None:
            # Convert an instance of a subclass of str to an exact str, because the subclass's
            # methods may raise.
            answer["text"] = str.__str__(repr(value))
        return answer, value
    except BaseException as error:
        answer["error"] = _describe(error)
        return answer, None


def _describe(error: BaseException) -> list[str]:
    """Return the name of the class of an exception, its message, and its traceback as text."""
    below = error.__traceback__
    while below is not None and below.tb_frame.f_globals is globals():
        below = below.tb_next
    texts = {
        "name": lambda: type(error).__name__,
        "str()": lambda: str(error),
        "traceback": lambda: "".join(traceback.format_exception(type(error), error, below)),
    }
    return [_call(f"<exception {name} failed>", make) for name, make in texts.items()]


def _call(default: str, make: Callable[[], str]) -> str:
    """Return the result of `make()` as an exact str; return `default` if `make` raises.

    `make` calls methods of classes that the code has defined, so it may raise any exception.
    """
    try:
        return str.__str__(make())
    except BaseException:
        return default


def _encode(answer: dict[str, Any], value: Any, limit: int) -> bytes:
    """Return an answer as a line of at most `limit` bytes.

    If the answer is too long, its strings are shortened (see _FEW). If the answer is still too
    long, or the value can't be converted to JSON, the value is left out, and the strings are
    shortened only if necessary.
    """
    line = ""
    for size, kept in ((limit, value), (_FEW, value), (limit, None), (limit // _PART, None)):
        error = answer["error"] and [_shorten(text, size) for text in answer["error"]]
        text = answer["text"] and _shorten(answer["text"], size)
        # Ignore exceptions: the value may not be convertible to JSON, or its methods may raise.
        with contextlib.suppress(BaseException):
            fields = json.dumps({"id": answer["id"], "text": text, "error": error})
            line = f"{fields}\t{json.dumps(kept)}"
            if len(line) < limit:
                break
    return line.encode() + b"\n"


def _shorten(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size // 2]} ... {text[-size // 2 :]}"
