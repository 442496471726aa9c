"""Entry point of ``usernsctl`` and ``python -m usernsctl``."""

from __future__ import annotations

import gc
import io
import os
import sys

from usernsctl._system.handover import exit_on_interrupt

# Define TYPE_CHECKING here, because importing typing would delay the start. Type checkers treat
# this name as true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Buffer

_NO_MEMORY = b"""\
usernsctl: there is too little memory to start
  why: RLIMIT_DATA or RLIMIT_AS allows too little, or all memory is in use. [address-space-limit]
  remedy: ulimit -S -d $(ulimit -H -d); ulimit -S -v $(ulimit -H -v)
"""


def main() -> int:
    """Run the command line in sys.argv, and return the exit status."""
    # Garbage collection would only delay `usernsctl run`, which exits before much garbage exists.
    gc.disable()
    exit_on_interrupt()
    _replace_stdout()
    if sys.stderr is None:
        # If sys.stderr is None, print() would write error messages to standard output.
        sys.stderr = io.StringIO()
    try:
        # Import cli inside the try block, because the import itself may raise MemoryError.
        from usernsctl import cli

        return cli.main()
    except MemoryError:
        # Exit without finalizing the interpreter, because finalizing may need more memory than is
        # left.
        os.write(2, _NO_MEMORY)
        os._exit(125)


class _Output(io.FileIO):
    """Raw standard output. The ``filename`` of its errors is "standard output"."""

    def write(self, data: Buffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def _replace_stdout() -> None:
    """Replace sys.stdout with a file object that writes all output or raises OSError.

    The file object escapes characters that its encoding lacks, for example in a path.

    With PYTHONUNBUFFERED, Python's own sys.stdout ignores that write(2) may write only a part of
    the output (io.RawIOBase.write()), for example because the reader closes the pipe meanwhile.
    """
    out = sys.stdout
    # sys.stdout is None if standard output is closed.
    if isinstance(out, io.TextIOWrapper):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(out.fileno(), "w", closefd=False)),
            out.encoding,
            "backslashreplace",
            line_buffering=out.line_buffering or isinstance(out.buffer, io.FileIO),
        )


if __name__ == "__main__":
    sys.exit(main())
