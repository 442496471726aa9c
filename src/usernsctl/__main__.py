"""The command ``usernsctl``, also as ``python -m usernsctl``."""

from __future__ import annotations

import gc
import io
import os
import sys

from usernsctl import _interrupts

# To type checkers this is true; the module that has it is not needed otherwise.
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
    # What is imported stays, and `usernsctl run` ends before much else would be garbage.
    gc.disable()
    _interrupts.end_at_once()
    _take_output()
    try:
        # This takes most of the time that the command needs to start.
        from usernsctl import cli

        return cli.main()
    except MemoryError:
        # There may be too little for anything else, such as for the end of the interpreter.
        os.write(2, _NO_MEMORY)
        os._exit(125)


class _Output(io.FileIO):
    """Standard output, which an error names: whoever catches it can't tell by any other means."""

    def write(self, data: Buffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def _take_output() -> None:
    """Have standard output written to its end, or fail.

    With PYTHONUNBUFFERED, Python forgets what a pipe did not take (io.RawIOBase.write()), and a
    reader that has left in the midst stays unnoticed.
    """
    out = sys.stdout
    # There is none if it is closed.
    if isinstance(out, io.TextIOWrapper):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(out.fileno(), "w", closefd=False)),
            out.encoding,
            out.errors,
            line_buffering=out.line_buffering or isinstance(out.buffer, io.FileIO),
        )


if __name__ == "__main__":
    sys.exit(main())
