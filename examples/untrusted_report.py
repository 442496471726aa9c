"""A program that is not trusted reads a directory, and what it has found out is read back.

    python examples/untrusted_report.py DIRECTORY

It sees the directory, read-only, and one more to write its result to: nothing else of yours. Its
result is not trusted either. What it leaves there may be a symbolic link to one of your files, or
no file at all, so it is opened with care.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile

import usernsctl as un

SECONDS = 60
LONGEST = 1024 * 1024
LIMITS = ["as=1073741824", f"fsize={LONGEST}", "nproc=20"]
PROGRAM = "find /data -type f | wc -l >/results/report"


def report_on(directory: str) -> str:
    """What the program says of a directory."""
    with tempfile.TemporaryDirectory() as results:
        un.gvisor.run(
            ["sh", "-c", PROGRAM],
            binds=[un.Bind(directory, "/data"), f"{results}:/results:rw"],
            rlimits=LIMITS,
            timeout=SECONDS,
            check=True,
        )
        return read_result(os.path.join(results, "report")).decode(errors="replace")


def read_result(path: str) -> bytes:
    """The beginning of a file that a sandbox has made.

    :raises OSError: it is a symbolic link, or not there.
    :raises ValueError: it is no regular file.
    """
    # O_NONBLOCK: to open a named pipe would wait for whoever writes to it.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{path} is no regular file")
        with open(fd, "rb", closefd=False) as file:
            return file.read(LONGEST)
    finally:
        os.close(fd)


if __name__ == "__main__":
    print(report_on(sys.argv[1]), end="")
