"""Which glibc a program or an extension needs, as its file tells."""

from __future__ import annotations

from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

# The oldest that the wheel is to work with: Debian 10, RHEL 8, Ubuntu 18.10. PEP 600 calls it so.
OLDEST = (2, 28)
PLATFORM = "manylinux_{}_{}".format(*OLDEST)

# Functions that are older than OLDEST, whatever they are called since: their names or versions are
# later where the headers are. In the wheel they have their old ones (sysroot.py).
RENAMED = frozenset({"stat", "fstat", "lstat", "fstatat", "mknod", "mknodat"})
RENAMED_PREFIXES = ("__isoc23_", "pthread_", "sem_", "dl")


def needed(file: Path) -> dict[str, tuple[int, ...]]:
    """The functions that are taken from glibc, and since when it has each of them, as (2, 17).

    :param file: an ELF file. If it is static, it takes none.
    """
    with file.open("rb") as stream:
        elf = ELFFile(stream)
        symbols = elf.get_section_by_name(".dynsym")
        indices = elf.get_section_by_name(".gnu.version")
        versions = elf.get_section_by_name(".gnu.version_r")
        if not isinstance(versions, GNUVerNeedSection):
            return {}
        assert isinstance(symbols, SymbolTableSection) and isinstance(indices, GNUVerSymSection)
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
    """The functions of ``needed()`` that came after OLDEST."""
    return sorted(name for name, version in needed(file).items() if version > OLDEST)


def is_renamed(name: str) -> bool:
    """Whether a function of that name is older than glibc says on a newer system."""
    return name in RENAMED or name.startswith(RENAMED_PREFIXES)
