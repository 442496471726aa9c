"""Traps: files that record when a program outside gVisor imports, loads or executes them.

The record is a line in the file `marks`. In gVisor, writes stay in memory, so no line reaches the
host's file.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

GVISOR = "#1 SMP Sun Jan 10 15:06:54 PST 2016"

# Modules that usernsctl, its dependencies or Python itself may try to import.
MODULES = [
    "_cffi_backend", "argparse", "json", "msgspec", "pickle", "prctl", "rich", "runpy",
    "sitecustomize", "usercustomize", "usernsctl",
]  # fmt: skip

# Programs that may be looked up in PATH.
PROGRAMS = [
    "cat", "env", "fusermount", "getent", "getsubids", "id", "mount", "newgidmap", "newuidmap",
    "nsenter", "python", "python3", "runsc", "sh", "true", "umount", "unshare", "usernsctl",
    "usernsctl-build", "usernsctl-child", "usernsctl-exec", "usernsctl-init", "usernsctl-probe",
    "usernsctl-verify", "usernsctl-watch",
]  # fmt: skip

# Source of a library that the dynamic loader may load into any program.
LIBRARY = """
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void)
{
    int fd = open(MARKS, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd >= 0)
        write(fd, "library\\n", strlen("library\\n"));
}
unsigned la_version(unsigned version) { return version; }
"""

# A container's environment variables that name code to load. {} stands for the traps' directory.
VARIABLES = [
    "PATH={}", "LD_PRELOAD={}/trap.so", "LD_AUDIT={}/trap.so", "LD_LIBRARY_PATH={}/libraries",
    "GCONV_PATH={}/libraries", "LOCPATH={}", "LC_ALL=trap.TRAP", "OPENSSL_CONF={}/openssl.cnf",
    "BASH_ENV={}/sh", "ENV={}/sh", "PYTHONPATH={}", "PYTHONHOME={}", "PYTHONSTARTUP={}/argparse.py",
    "PYTHONINSPECT=1", "PYTHONUSERBASE={}", "USERNSCTL_RUNSC={}/runsc", "HOME={}", "TMPDIR={}",
    "_USERNSCTL_COMPLETE=bash_source", "_USERNSCTL_ENTRYPOINT_COMPLETE=bash_source",
    "XDG_RUNTIME_DIR={}", "GODEBUG=inittrace=1", "LD_DEBUG=all", "LD_DEBUG_OUTPUT={}/debug",
    "MALLOC_TRACE={}/malloc", "TERM=../../../{}", "TERMINFO={}",
]  # fmt: skip


# Content of openssl.cnf (config(5ssl)), which programs that use OpenSSL read, such as Python for
# hashlib.
OPENSSL = """
openssl_conf = start
[start]
providers = all
[all]
trap = trap
[trap]
module = {}/trap.so
activate = 1
"""


def set_traps(directory: Path, seen_as: Path | None = None) -> Path:
    """Create modules, programs and libraries as traps in the subdirectory `traps` of `directory`.

    :param seen_as: path of `directory` in the container or sandbox; by default the same path.
    """
    traps = directory / "traps"
    traps.mkdir()
    file = (seen_as or directory) / "marks"
    (traps / "openssl.cnf").write_text(OPENSSL.format(file.parent / "traps"))
    for name in MODULES:
        mark = f"open({str(file)!r}, 'a').write('module {name}\\n')\n"
        (traps / f"{name}.py").write_text(mark)
    for name in PROGRAMS:
        program = traps / name
        program.write_text(f"#!/bin/sh\necho program {name} >>{file}\n")
        program.chmod(0o755)
    source = traps / "trap.c"
    source.write_text(f'#define MARKS "{file}"\n{LIBRARY}')
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", traps / "trap.so", source], check=True, timeout=60
    )
    # Name the trap libraries like libraries that Python and other programs load.
    (traps / "libraries").mkdir()
    for name in ("libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1", "TRAP.so"):
        (traps / "libraries" / name).symlink_to("../trap.so")
    return traps


def marks(traps: Path) -> list[str]:
    """Return the lines of the file `marks`, one for each time a trap was triggered."""
    file = traps.parent / "marks"
    return file.read_text().splitlines() if file.exists() else []
