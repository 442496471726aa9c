"""Find runsc, and make sure that the programs that it needs lie beside it."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Mapping

from usernsctl._lean import TYPE_CHECKING, BinaryIO, dataclass
from usernsctl._text import operand, quoted
from usernsctl.errors import RunscError
from usernsctl.gvisor.runsc.command import (
    DEFAULT_PATH,
    INSTALL,
)
from usernsctl.gvisor.runsc.releases import (
    _TELLS_RELEASE,
    VARIABLES,
    not_runsc,
    release_of,
)

if TYPE_CHECKING:
    pass

# The names of the machine types that runsc is built for, and of what else is met (elf(5)).
_MACHINES = {3: "x86 (32 bits)", 40: "Arm (32 bits)", 62: "x86-64", 183: "Arm64", 243: "RISC-V"}

_PT_NOTE = 4
_PROGRAM_HEADER_MAX = 64


def find_runsc(environ: Mapping[str, str], named: str | None = None) -> str:
    """The absolute path of runsc: `named`, what a variable of VARIABLES names, or along PATH.

    The file is looked at and not started, since a start costs more than the rest of our work. It
    is started (``--version``) only if it isn't plainly a program of the right kind.

    :raises RunscError: there is none (cause ``runsc-missing``), it is no runsc (``not-runsc``),
        it is for another machine type (``wrong-architecture``), or what belongs beside it is not
        there (``runsc-sidecars-missing``), or it may not be executed
        (``runsc-not-executable``).
    """
    path = _locate(environ) if named is None else _check_named(named)
    if not os.path.isfile(path):
        raise not_runsc(path, "it is not a file")
    if not os.access(path, os.X_OK):
        raise _not_executable(path)
    # A file that is executable but not readable can only be asked.
    if not (os.access(path, os.R_OK) and _is_go_program(path)):
        release_of(path)
    # As runsc will have it. Who names runsc does not leave to a variable what it runs.
    check_side_programs(path, named_side_directory() if named is None else None)
    return path


def _locate(environ: Mapping[str, str]) -> str:
    variable = next((name for name in VARIABLES if environ.get(name)), None)
    if variable is not None:
        wanted = environ[variable]
        path = wanted if "/" in wanted else _search(wanted, environ)
        if path is not None and _is_closed(path):
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
            f"{path}, which is to be runsc, must be absolute",
            step="runsc",
            filename=path,
            cause="not-runsc",
            remedy="give the whole path, such as /usr/bin/runsc",
        )
    if _is_closed(path):
        raise _not_executable(path)
    if not os.path.exists(path):
        raise RunscError(
            f"{path}, which is to be runsc, does not exist",
            step="runsc",
            filename=path,
            cause="runsc-missing",
            remedy=f"name the path that it has. To install: {INSTALL}",
        )
    return path


def _search(name: str, environ: Mapping[str, str]) -> str | None:
    """Where a program is along PATH, but for directories that depend on the current one.

    What is in that is somebody's data, and this program is run outside of gVisor.
    """
    search = environ.get("PATH", os.defpath).split(os.pathsep)
    paths = [os.path.join(directory, name) for directory in filter(os.path.isabs, search)]
    for path in paths:
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    # One that may not be executed is another thing than none.
    return next(filter(os.path.isfile, paths), None)


def _is_closed(path: str) -> bool:
    """Whether a directory on the way to a file can't be searched."""
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
        f"{path} may not be executed by this user",
        step="runsc",
        errno=errno.EACCES,
        filename=path,
        cause="runsc-not-executable",
        remedy=f"chmod a+rx {quoted(operand(path))}; namei -l {quoted(operand(path))}    # each "
        "directory needs x; and findmnt -T that file must not say noexec",
    )


def _is_go_program(path: str) -> bool:
    """Whether this is a Go program for this machine, as every build of runsc is.

    :raises RunscError: it is a program for another machine type.
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
    """What tells programs apart (elf(5)): 64 or 32 bits, byte order, machine type."""

    kind: tuple[int, int, int]
    program_headers: int
    entry_size: int
    entry_count: int

    @classmethod
    def read(cls, file: BinaryIO) -> _ElfHeader | None:
        """The header of an ELF file, or ``None`` if it is of another format."""
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
        """Whether the Go linker left its build note; only 64-bit, little-endian files have it."""
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


#: Where the programs of a release are that run beside runsc, and the variable that names another
#: directory.
SIDE_DIRECTORY = "gvisor-bin"
SIDE_VARIABLE = "GVISOR_SIDECAR_BINARIES_DIR"

#: Those that a sandbox is started by; the others serve checkpoints and metrics.
SIDE_PROGRAMS = ("gvisor_sentry", "gvisor-sentry-prewarmer")


def named_side_directory() -> str | None:
    """What :data:`SIDE_VARIABLE` of this process names; a relative path does not count."""
    named = os.environ.get(SIDE_VARIABLE)
    return named if named and os.path.isabs(named) else None


def check_side_programs(path: str, directory: str | None) -> None:
    """See that what runs beside a runsc is whole, and of the same release.

    A release that can do without one of them does what it is for by itself. Where there is no such
    directory, runsc is left to say whether it needs one: to ask for its release would take as long.

    :param path: of runsc; absolute.
    :param directory: what :data:`SIDE_VARIABLE` names, or ``None``.
    :raises RunscError: it is not (cause ``"runsc-sidecars-missing"``).
    """
    if directory and not release_of(path).has("side-directory"):
        return
    directory = directory or _side_directory(path)
    if directory is None:
        return
    for name in SIDE_PROGRAMS:
        program = os.path.join(directory, name)
        why = "is missing" if not os.path.isfile(program) else "is not executable"
        if os.path.isfile(program) and os.access(program, os.X_OK):
            if name == _TELLS_RELEASE:
                _check_same_release(path, program)
        elif release_of(path).has("side-programs"):
            raise _side_program(path, f"{program} {why}")


def _side_directory(path: str) -> str | None:
    """Beside the file that runsc was called as, else beside the one that it is."""
    places = [os.path.dirname(path), os.path.dirname(os.path.realpath(path))]
    found = [os.path.join(place, SIDE_DIRECTORY) for place in places]
    return next(filter(os.path.isdir, found), None)


def _check_same_release(path: str, program: str) -> None:
    ours = release_of(path).label
    try:
        theirs = release_of(program).label
    except RunscError as error:
        raise _side_program(path, f"{program} does not tell its release") from error
    if theirs != ours:
        raise _side_program(path, f"{program} is of {theirs}, and runsc of {ours}")


def _side_program(path: str, why: str) -> RunscError:
    return RunscError(
        f"{path} needs the programs of its release beside it: {why}",
        step="runsc",
        filename=path,
        cause="runsc-sidecars-missing",
    )


def runsc_environment(*, is_named: bool = False) -> dict[str, str]:
    """That of runsc: its processes can be looked into by the caller's others, and need no secrets.

    Where the programs are that it needs, this process's own environment may say; in a container,
    that is the image's, and not the one that a command is given.

    :param is_named: whether the caller has named runsc, and so leaves nothing to variables.
    """
    directory = None if is_named else named_side_directory()
    return {"PATH": DEFAULT_PATH, **({SIDE_VARIABLE: directory} if directory else {})}
