"""Run an untrusted program that reads a directory, and read its result safely.

    python examples/untrusted_report.py DIRECTORY

The program can read DIRECTORY, and can write its result to another directory. It has no access to
other files of yours. The result is untrusted, too: it may be a symbolic link to one of your files,
or not be a regular file. So the example checks the file before reading it.
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
    """Run the untrusted program on a directory, and return its result."""
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
    """Return the beginning of a file that a sandbox may have created.

    :raises OSError: the file is a symbolic link, or is missing.
    :raises ValueError: the path does not name a regular file.
    """
    # Without O_NONBLOCK, open(2) of a FIFO would wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{path} is not a regular file")
        with open(fd, "rb", closefd=False) as file:
            return file.read(LONGEST)
    finally:
        os.close(fd)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: untrusted_report.py DIRECTORY")
    print(report_on(sys.argv[1]), end="")
