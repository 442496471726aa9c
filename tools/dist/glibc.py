"""Functions that read from ELF files which versions of glibc they need."""

from __future__ import annotations

from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

# The oldest glibc with which the wheel works (Debian 10, RHEL 8, Ubuntu 18.10).
OLDEST = (2, 28)
# The wheel's platform tag for OLDEST (PEP 600).
PLATFORM = "manylinux_{}_{}".format(*OLDEST)

# Functions that OLDEST has under an older name or version. A program needs the newer name or
# version if it is compiled with current headers, but the wheel is compiled with old headers
# (sysroot.py).
RENAMED = frozenset({"stat", "fstat", "lstat", "fstatat", "mknod", "mknodat"})
RENAMED_PREFIXES = ("__isoc23_", "pthread_", "sem_", "dl")


def needed(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the functions of glibc that a file needs, each with its version, such as (2, 17).

    :param file: an ELF file; a static program needs no functions.
    """
    with file.open("rb") as stream:
        elf = ELFFile(stream)
        symbols = elf.get_section_by_name(".dynsym")
        indices = elf.get_section_by_name(".gnu.version")
        versions = elf.get_section_by_name(".gnu.version_r")
        if not isinstance(versions, GNUVerNeedSection):
            return {}
        assert isinstance(symbols, SymbolTableSection)
        assert isinstance(indices, GNUVerSymSection)
        names = {
            auxiliary.entry.vna_other: auxiliary.name
            for _, auxiliaries in versions.iter_versions()
            for auxiliary in auxiliaries
        }
        found = {
            symbol.name: names.get(index.entry.ndx, "")
            for symbol, index in zip(symbols.iter_symbols(), indices.iter_symbols(), strict=True)
        }
    return {
        name: tuple(int(part) for part in version.removeprefix("GLIBC_").split("."))
        for name, version in found.items()
        if version.startswith("GLIBC_")
    }


def too_new(file: Path) -> list[str]:
    """Return the functions that a file needs and that glibc OLDEST lacks."""
    return sorted(name for name, version in needed(file).items() if version > OLDEST)


def is_renamed(name: str) -> bool:
    """Return whether glibc OLDEST has a function under an older name or version."""
    return name in RENAMED or name.startswith(RENAMED_PREFIXES)
