"""Tests of how native programs and the extension module are linked, as their ELF files show."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SCRIPTS
from elftools.elf.constants import P_FLAGS
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import usernsctl

PROGRAMS = [
    *Path(usernsctl.__file__).with_name("_bin").iterdir(),
    *(SCRIPTS / name for name in ("usernsctl-exec", "usernsctl-entrypoint")),
]
EXTENSION = Path(str(importlib.import_module("usernsctl._native").__file__))
# Programs without libc and relocations, and with a fixed address. They need no writable table of
# addresses (csrc/layout.py).
WITHOUT_LIBC = ("usernsctl-verify", "usernsctl-agent")
RELOCATED = [file for file in (*PROGRAMS, EXTENSION) if file.name not in WITHOUT_LIBC]

DF_BIND_NOW = 8
ENDBR64 = b"\xf3\x0f\x1e\xfa"


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


@pytest.fixture
def elf(request: pytest.FixtureRequest) -> Iterator[ELFFile]:
    with request.param.open("rb") as file:
        yield ELFFile(file)


def for_elf_files(*files: Path) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("elf", files, ids=name_of, indirect=True)


def segment_types(elf: ELFFile) -> list[str]:
    return [segment["p_type"] for segment in elf.iter_segments()]


def test_list_of_programs_is_complete() -> None:
    assert {*WITHOUT_LIBC, "usernsctl-watch", "usernsctl-exec"} < {file.name for file in PROGRAMS}


@for_elf_files(*PROGRAMS, EXTENSION)
def test_no_segment_is_writable_and_executable(elf: ELFFile) -> None:
    loaded = [s for s in elf.iter_segments() if s["p_type"] in ("PT_LOAD", "PT_GNU_STACK")]
    assert "PT_GNU_STACK" in [segment["p_type"] for segment in loaded]
    for segment in loaded:
        is_written = segment["p_flags"] & P_FLAGS.PF_W
        assert not (is_written and segment["p_flags"] & P_FLAGS.PF_X), segment.header


@for_elf_files(*RELOCATED)
def test_file_is_position_independent_with_read_only_relocations(elf: ELFFile) -> None:
    assert elf["e_type"] == "ET_DYN"
    assert "PT_GNU_RELRO" in segment_types(elf)
    [dynamic] = [s for s in elf.iter_segments() if isinstance(s, DynamicSegment)]
    tags = {tag.entry.d_tag: tag.entry.d_val for tag in dynamic.iter_tags()}
    assert tags.get("DT_FLAGS", 0) & DF_BIND_NOW
    assert "DT_TEXTREL" not in tags


@for_elf_files(*(file for file in PROGRAMS if file.name in WITHOUT_LIBC))
def test_programs_without_libc_have_no_relocations(elf: ELFFile) -> None:
    assert "PT_DYNAMIC" not in segment_types(elf)
    assert "PT_INTERP" not in segment_types(elf)
    assert elf.get_section_by_name(".got.plt") is None or elf.get_section_by_name(".plt") is None


# Skip with sanitizers: they do not intercept fortified functions, so tools/environment builds an
# unfortified extension.
@pytest.mark.unsanitized
@for_elf_files(EXTENSION)
def test_extension_has_stack_protector_and_fortify(elf: ELFFile) -> None:
    """Check that the extension has a stack protector and fortified functions.

    The programs have no fortified functions, because they contain musl.
    """
    symbols = elf.get_section_by_name(".dynsym")
    assert isinstance(symbols, SymbolTableSection)
    names = {symbol.name for symbol in symbols.iter_symbols()}
    assert "__stack_chk_fail" in names
    assert [name for name in names if name.startswith("__") and name.endswith("_chk")]


@for_elf_files(*RELOCATED)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have other marks")
def test_code_has_endbr64_marks(elf: ELFFile) -> None:
    """Check that the code contains more than 10 ENDBR64 instructions.

    The IBT property of the ELF file can't be checked: the linker sets the property only if all
    objects have it, and objects of Debian's libc lack it.
    """
    text = elf.get_section_by_name(".text")
    assert text.data().count(ENDBR64) > 10
