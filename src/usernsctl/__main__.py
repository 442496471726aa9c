"""The command ``usernsctl``, also as ``python -m usernsctl``."""

from __future__ import annotations

import gc
import io
import os
import sys

from usernsctl import _interrupts

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
    _buffer_output()
    try:
        # This takes most of the time that the command needs to start.
        from usernsctl import cli

        return cli.main()
    except MemoryError:
        # There may be too little for anything else, such as for the end of the interpreter.
        os.write(2, _NO_MEMORY)
        os._exit(125)


def _buffer_output() -> None:
    """Have standard output written to its end, or fail.

    With PYTHONUNBUFFERED, Python forgets what a pipe did not take (io.RawIOBase.write()), and a
    reader that has left in the midst stays unnoticed.
    """
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and isinstance(out.buffer, io.FileIO):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(out.buffer), out.encoding, out.errors, line_buffering=True
        )


if __name__ == "__main__":
    sys.exit(main())
