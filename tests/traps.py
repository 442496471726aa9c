"""Traps that leave a mark if a program outside of gVisor imports, loads or executes them by name.

In gVisor they leave no mark, since writes stay in memory there.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

GVISOR = "#1 SMP Sun Jan 10 15:06:54 PST 2016"

# Modules that usernsctl, its dependencies or Python itself would import.
MODULES = [
    "_cffi_backend", "argparse", "json", "msgspec", "pickle", "prctl", "rich", "runpy",
    "sitecustomize", "usercustomize", "usernsctl",
]  # fmt: skip

# Programs that may be searched for by name.
PROGRAMS = [
    "cat", "env", "fusermount", "getent", "getsubids", "id", "mount", "newgidmap", "newuidmap",
    "nsenter", "python", "python3", "runsc", "sh", "true", "umount", "unshare", "usernsctl",
    "usernsctl-build", "usernsctl-child", "usernsctl-exec", "usernsctl-init", "usernsctl-probe",
    "usernsctl-verify", "usernsctl-watch",
]  # fmt: skip

# A library that the dynamic loader may load into any program.
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

# Variables of a container's environment that name code; {} is a directory with such code.
VARIABLES = [
    "PATH={}", "LD_PRELOAD={}/trap.so", "LD_AUDIT={}/trap.so", "LD_LIBRARY_PATH={}/libraries",
    "GCONV_PATH={}/libraries", "LOCPATH={}", "LC_ALL=trap.TRAP", "OPENSSL_CONF={}/openssl.cnf",
    "BASH_ENV={}/sh", "ENV={}/sh", "PYTHONPATH={}", "PYTHONHOME={}", "PYTHONSTARTUP={}/argparse.py",
    "PYTHONINSPECT=1", "PYTHONUSERBASE={}", "USERNSCTL_RUNSC={}/runsc", "HOME={}", "TMPDIR={}",
    "_USERNSCTL_COMPLETE=bash_source", "_USERNSCTL_ENTRYPOINT_COMPLETE=bash_source",
    "XDG_RUNTIME_DIR={}", "GODEBUG=inittrace=1", "LD_DEBUG=all", "LD_DEBUG_OUTPUT={}/debug",
    "MALLOC_TRACE={}/malloc", "TERM=../../../{}", "TERMINFO={}",
]  # fmt: skip


# An openssl.cnf, which programs with OpenSSL read, such as Python with hashlib (config(5ssl)).
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
    """Create modules, programs and libraries as traps in a directory `traps`.

    :param seen_as: the path of `directory` in the container or sandbox; the same path by default.
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
    # Files with the names of libraries that Python and other programs load.
    (traps / "libraries").mkdir()
    for name in ("libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1", "TRAP.so"):
        (traps / "libraries" / name).symlink_to("../trap.so")
    return traps


def marks(traps: Path) -> list[str]:
    """Return the marks, one for each time that a trap was triggered."""
    file = traps.parent / "marks"
    return file.read_text().splitlines() if file.exists() else []
