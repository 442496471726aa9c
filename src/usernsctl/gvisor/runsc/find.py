"""Functions that find runsc, and check it and the sidecar programs that are installed beside it."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Mapping

from usernsctl._lean import TYPE_CHECKING, BinaryIO, LateModule, dataclass
from usernsctl._text import operand, quoted
from usernsctl.errors import RunscError
from usernsctl.gvisor.runsc.command import (
    DEFAULT_PATH,
    INSTALL,
    VARIABLES,
    not_runsc,
)

# Import releases on first use, because few runs need runsc's release.
if TYPE_CHECKING:
    from usernsctl.gvisor.runsc import releases
else:
    releases = LateModule("usernsctl.gvisor.runsc.releases")

# The names of machine types (elf(5)): those for which runsc is built, and other common ones.
_MACHINES = {3: "x86 (32 bits)", 40: "Arm (32 bits)", 62: "x86-64", 183: "Arm64", 243: "RISC-V"}

_PT_NOTE = 4
_PROGRAM_HEADER_MAX = 64


def find_runsc(
    environ: Mapping[str, str], named: str | None = None, *, seconds: float | None = None
) -> str:
    """Return the absolute path of runsc, from `named`, a variable in VARIABLES, or PATH.

    The file is read but not executed, since an execution would take longer than all other steps
    before the start of a sandbox. ``runsc --version`` is executed only if the file isn't a Go
    program for the host's machine type, or can't be read, or if there is a directory of sidecar
    programs.

    :param seconds: the timeout of ``runsc --version``, in seconds, by default 10.
    :raises RunscError: runsc is missing (cause ``runsc-missing``), the file is another program
        (``not-runsc``) or for another machine type (``wrong-architecture``), sidecar programs are
        missing (``runsc-sidecars-missing``), or the file is not executable
        (``runsc-not-executable``).
    """
    path = _locate(environ) if named is None else _check_named(named)
    if not os.path.isfile(path):
        raise not_runsc(path, "not a regular file")
    if not os.access(path, os.X_OK):
        raise _not_executable(path)
    # Execute a file that can't be read or isn't a Go program: it may still be runsc, such as a
    # wrapper script.
    if not (os.access(path, os.R_OK) and _is_go_program(path)):
        releases.release_of(path, seconds=seconds)
    # Use the same directory as runsc_environment(): if the caller has named runsc explicitly, the
    # sidecar programs must not depend on the environment variable SIDE_VARIABLE.
    check_side_programs(path, named_side_directory() if named is None else None)
    return path


def _locate(environ: Mapping[str, str]) -> str:
    variable = next((name for name in VARIABLES if environ.get(name)), None)
    if variable is not None:
        wanted = environ[variable]
        path = wanted if "/" in wanted else _search(wanted, environ)
        if path is not None and _is_unreachable(path):
            raise _not_executable(path)
        if path is None or not os.path.exists(path):
            raise RunscError(
                f"{variable} names {wanted!r}, which does not exist",
                step="runsc",
                filename=wanted,
                cause="runsc-missing",
                remedy=f"unset {variable}, or set it to the path of runsc. To install: {INSTALL}",
            )
        return os.path.abspath(path)
    path = _search("runsc", environ)
    if path is None:
        raise RunscError(
            "gVisor's runsc was not found along PATH",
            step="runsc",
            cause="runsc-missing",
            remedy=INSTALL,
        )
    return os.path.abspath(path)


def _check_named(path: str) -> str:
    if not os.path.isabs(path):
        raise RunscError(
            f"{path} is not an absolute path",
            step="runsc",
            filename=path,
            cause="not-runsc",
            remedy="give an absolute path, such as /usr/bin/runsc",
        )
    if _is_unreachable(path):
        raise _not_executable(path)
    if not os.path.exists(path):
        raise RunscError(
            f"{path} does not exist",
            step="runsc",
            filename=path,
            cause="runsc-missing",
            remedy=f"give the path of an existing runsc. To install: {INSTALL}",
        )
    return path


def _search(name: str, environ: Mapping[str, str]) -> str | None:
    """Search PATH for the program `name`; return its path, or None if it is not found.

    Relative directories in PATH are skipped, because the current directory may contain untrusted
    files, and runsc runs outside gVisor.
    """
    search = environ.get("PATH", os.defpath).split(os.pathsep)
    paths = [os.path.join(directory, name) for directory in filter(os.path.isabs, search)]
    for path in paths:
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    # Fall back to a file that is not executable, so that the error says so instead of "not found".
    return next(filter(os.path.isfile, paths), None)


def _is_unreachable(path: str) -> bool:
    """Return whether a directory in `path` can't be searched."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _not_executable(path: str) -> RunscError:
    import errno

    return RunscError(
        f"this user may not execute {path}",
        step="runsc",
        errno=errno.EACCES,
        filename=path,
        cause="runsc-not-executable",
        remedy=f"chmod a+rx {quoted(operand(path))}; namei -l {quoted(operand(path))}    # each "
        "directory needs x; findmnt -T FILE must not show noexec",
    )


def _is_go_program(path: str) -> bool:
    """Return whether the file is a Go program for the host's machine type, as runsc is.

    :raises RunscError: the file is a program for another machine type.
    """
    with open(path, "rb") as file, open(sys.executable, "rb") as own:
        header, ours = _ElfHeader.read(file), _ElfHeader.read(own)
        is_go = header is not None and header.has_go_note(file)
    if header is not None and ours is not None and header.kind != ours.kind:
        raise RunscError(
            f"{path} is a program for {header.machine_name}, "
            f"but this machine runs programs for {ours.machine_name}",
            step="runsc",
            filename=path,
            cause="wrong-architecture",
            remedy=f"install the build for {ours.machine_name}: {INSTALL}",
        )
    return is_go


@dataclass(frozen=True, slots=True)
class _ElfHeader:
    """The fields of an ELF header (elf(5)); `kind` is the class, byte order and machine type."""

    kind: tuple[int, int, int]
    program_headers: int
    entry_size: int
    entry_count: int

    @classmethod
    def read(cls, file: BinaryIO) -> _ElfHeader | None:
        """Read the header of an ELF file; return None for other formats."""
        start = file.read(64)
        if len(start) < 64 or start[:4] != b"\x7fELF":
            return None
        size, order = start[4], start[5]
        prefix = "<" if order == 1 else ">"
        (machine,) = struct.unpack_from(f"{prefix}H", start, 18)
        if size == 2:
            (offset,) = struct.unpack_from(f"{prefix}Q", start, 32)
            entry_size, count = struct.unpack_from(f"{prefix}HH", start, 54)
        else:
            (offset,) = struct.unpack_from(f"{prefix}I", start, 28)
            entry_size, count = struct.unpack_from(f"{prefix}HH", start, 42)
        return cls((size, order, machine), offset, entry_size, count)

    @property
    def machine_name(self) -> str:
        machine = self.kind[2]
        return _MACHINES.get(machine, f"machine type {machine}")

    def has_go_note(self, file: BinaryIO) -> bool:
        """Return whether a 64-bit little-endian file contains the Go linker's note."""
        if self.kind[:2] != (2, 1) or self.entry_size != 56:
            return False
        for index in range(min(self.entry_count, _PROGRAM_HEADER_MAX)):
            file.seek(self.program_headers + index * self.entry_size)
            entry = file.read(self.entry_size)
            if len(entry) < self.entry_size:
                return False
            kind, _flags, offset, _vaddr, _paddr, size = struct.unpack_from("<IIQQQQ", entry)
            if kind == _PT_NOTE:
                file.seek(offset)
                if b"Go\0\0" in file.read(min(size, 4096)):
                    return True
        return False


#: The directory beside runsc that contains the sidecar programs, which runsc executes.
SIDE_DIRECTORY = "gvisor-bin"
#: The environment variable that names another directory of sidecar programs.
SIDE_VARIABLE = "GVISOR_SIDECAR_BINARIES_DIR"

#: The sidecar programs that start a sandbox; other sidecar programs serve checkpoints and metrics.
#: Of these two programs, only gvisor_sentry prints its release (--version).
SIDE_PROGRAMS = ("gvisor_sentry", "gvisor-sentry-prewarmer")


def named_side_directory() -> str | None:
    """Return the directory that the environment variable :data:`SIDE_VARIABLE` names.

    The result is None if the variable is not set, or is not an absolute path.
    """
    named = os.environ.get(SIDE_VARIABLE)
    return named if named and os.path.isabs(named) else None


def check_side_programs(path: str, directory: str | None) -> None:
    """Check that no sidecar program is missing, and that gvisor_sentry is of runsc's release.

    Releases of runsc without the ability "side-programs" use their own code in place of missing
    programs, and releases without "side-directory" ignore `directory`. If there is no directory of
    sidecar programs, nothing is checked: a runsc that needs the programs reports the error itself,
    and a check would take as long.

    :param path: the absolute path of runsc.
    :param directory: the directory that :data:`SIDE_VARIABLE` names, or ``None``.
    :raises RunscError: a program is missing, not executable, or of another release (cause
        ``"runsc-sidecars-missing"``).
    """
    if directory and not releases.release_of(path).has("side-directory"):
        return
    directory = directory or _side_directory(path)
    if directory is None:
        return
    for name in SIDE_PROGRAMS:
        program = os.path.join(directory, name)
        why = "is missing" if not os.path.isfile(program) else "is not executable"
        if os.path.isfile(program) and os.access(program, os.X_OK):
            if name == SIDE_PROGRAMS[0]:
                _check_same_release(path, program)
        elif releases.release_of(path).has("side-programs"):
            raise _sidecar_error(path, f"{program} {why}")


def side_programs(path: str, directory: str | None) -> list[str]:
    """Return the paths of all files in the directory of the sidecar programs.

    The result is empty if the directory does not exist.

    :param path: the absolute path of runsc.
    :param directory: the directory that :data:`SIDE_VARIABLE` names, or ``None``.
    """
    found = directory or _side_directory(path)
    names = os.listdir(found) if found is not None and os.path.isdir(found) else []
    paths = [os.path.join(found or "", name) for name in sorted(names)]
    return [one for one in paths if os.path.isfile(one)]


def _side_directory(path: str) -> str | None:
    """Return the directory gvisor-bin beside `path` or beside the target of that link, or None."""
    parents = [os.path.dirname(path), os.path.dirname(os.path.realpath(path))]
    candidates = [os.path.join(parent, SIDE_DIRECTORY) for parent in parents]
    return next(filter(os.path.isdir, candidates), None)


def _check_same_release(path: str, program: str) -> None:
    ours = releases.release_of(path).label
    try:
        theirs = releases.release_of(program).label
    except RunscError as error:
        raise _sidecar_error(path, f"{program} does not print its release") from error
    if theirs != ours:
        raise _sidecar_error(path, f"{program} is of release {theirs}, and runsc of release {ours}")


def _sidecar_error(path: str, why: str) -> RunscError:
    return RunscError(
        f"{path} needs the sidecar programs of its release: {why}",
        step="runsc",
        filename=path,
        cause="runsc-sidecars-missing",
    )


def runsc_environment(*, is_named: bool = False) -> dict[str, str]:
    """Return the environment for runsc, without the caller's secrets.

    Other processes of the caller could read secrets in the environment of runsc's processes. The
    directory of the sidecar programs is taken from this process's environment, never from the
    command's.

    :param is_named: whether the caller has named runsc explicitly, so that :data:`SIDE_VARIABLE` is
        ignored.
    """
    directory = None if is_named else named_side_directory()
    return {"PATH": DEFAULT_PATH, **({SIDE_VARIABLE: directory} if directory else {})}
