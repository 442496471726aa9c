"""Entry point of the command ``usernsctl``, and of ``python -m usernsctl``."""

from __future__ import annotations

import gc
import io
import os
import sys

from usernsctl._system.handover import exit_on_interrupt

# Type checkers treat this constant as true. An import from typing would delay the start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Buffer

_NO_MEMORY = b"""\
usernsctl: there is too little memory to start
  why: RLIMIT_DATA or RLIMIT_AS allows too little, or all memory is in use. [address-space-limit]
  remedy: ulimit -S -d $(ulimit -H -d); ulimit -S -v $(ulimit -H -v)
"""


def main() -> int:
    """Run the command line of this process and return its exit status."""
    # Garbage collection would only delay `usernsctl run`, which exits before much garbage exists.
    gc.disable()
    exit_on_interrupt()
    _replace_stdout()
    if sys.stderr is None:
        # Without this file object, print() would print errors on standard output.
        sys.stderr = io.StringIO()
    try:
        # Import this module inside the try block, because its import, which takes most of the start
        # time, may raise MemoryError.
        from usernsctl import cli

        return cli.main()
    except MemoryError:
        # Exit without finalizing the interpreter, for which there may be too little memory.
        os.write(2, _NO_MEMORY)
        os._exit(125)


class _Output(io.FileIO):
    """Standard output. Its errors have a filename, so that messages can name standard output."""

    def write(self, data: Buffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def _replace_stdout() -> None:
    """Replace sys.stdout by a file object that writes all output or raises OSError.

    With PYTHONUNBUFFERED, Python ignores partial writes to a pipe (io.RawIOBase.write()), and does
    not notice that the reader has closed the pipe.
    """
    out = sys.stdout
    # sys.stdout is None if standard output is closed.
    if isinstance(out, io.TextIOWrapper):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(out.fileno(), "w", closefd=False)),
            out.encoding,
            out.errors,
            line_buffering=out.line_buffering or isinstance(out.buffer, io.FileIO),
        )


if __name__ == "__main__":
    sys.exit(main())
