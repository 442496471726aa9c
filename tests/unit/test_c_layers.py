"""Tests that tools/c_layers.py finds violations of the layers in csrc/."""

from __future__ import annotations

from pathlib import Path

import c_layers
import pytest

# Source files of a program that uses several layers correctly.
RIGHT = {
    "include/usernsctl.h": "int un_act(void);\n",
    "base/low.h": '#include "include/usernsctl.h"\nint un_low(void);\n',
    "base/low.c": '#include "base/low.h"\nint un_low(void) { return 1; }\n',
    "map/sum.c": '#include <string.h>\n#include "base/low.h"\n'
    "int un_sum(const char *text) { return un_low() + (int)strlen(text); }\n",
    "ns/act.c": '#include "base/low.h"\nint un_act(void) { return un_low(); }\n',
    "programs/exec/main.c": '#include "include/usernsctl.h"\nint main(void) { return un_act(); }\n',
}


def check_with(directory: Path, **source: str) -> list[str]:
    """Return the errors for RIGHT and the files in `source`; ``base__low_c`` means base/low.c."""
    files = RIGHT | {
        name.replace("__", "/").removesuffix("_c") + ".c": text for name, text in source.items()
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "compile_flags.txt").write_text("-std=c11\n-I.\n")
    return c_layers.check(directory)


def test_valid_layers_are_accepted(tmp_path: Path) -> None:
    assert check_with(tmp_path) == []


def test_upward_call_without_include_is_found(tmp_path: Path) -> None:
    source = "int un_act(void);\nint un_bad(void) { return un_act(); }\n"
    assert check_with(tmp_path, sys__bad_c=source) == [
        "sys/bad.c uses un_act, of ns/, which is not below sys/"
    ]


def test_upward_include_without_call_is_found(tmp_path: Path) -> None:
    (tmp_path / "ns").mkdir()
    (tmp_path / "ns" / "act.h").write_text("#define LIMIT 3\n")
    source = '#include "ns/act.h"\nint un_bad(void) { return LIMIT; }\n'
    assert check_with(tmp_path, sys__bad_c=source) == [
        "sys/bad.c includes ns/act.h, of ns/, which is not below sys/"
    ]


def test_upward_use_of_data_is_found(tmp_path: Path) -> None:
    found = check_with(
        tmp_path,
        ns__table_c="int un_table = 3;\n",
        sys__bad_c="extern int un_table;\nint un_bad(void) { return un_table; }\n",
    )
    assert found == ["sys/bad.c uses un_table, of ns/, which is not below sys/"]


def test_cycle_in_a_directory_is_found(tmp_path: Path) -> None:
    found = check_with(
        tmp_path,
        sys__a_c="int un_b(void);\nint un_a(void) { return un_b(); }\n",
        sys__b_c="int un_a(void);\nint un_b(void) { return un_a(); }\n",
    )
    (line,) = found
    assert line.startswith("a circle: ")
    assert "sys/a.c uses un_b (sys/b.c)" in line
    assert "sys/b.c uses un_a (sys/a.c)" in line


def test_program_that_uses_another_program_is_found(tmp_path: Path) -> None:
    found = check_with(
        tmp_path,
        programs__exec__words_c="int words(void) { return 1; }\n",
        programs__watch__main_c="int words(void);\nint main(void) { return words(); }\n",
    )
    assert found == [
        "programs/watch/main.c uses words, of programs/exec/, which is not below programs/watch/"
    ]


def test_core_that_uses_a_program_is_found(tmp_path: Path) -> None:
    found = check_with(
        tmp_path,
        programs__shared__words_c="int words(void) { return 1; }\n",
        ns__bad_c="int words(void);\nint un_bad(void) { return words(); }\n",
    )
    assert found == ["ns/bad.c uses words, of programs/shared/, which is not below ns/"]


@pytest.mark.parametrize("call", ["getpid", "open", "getenv", "malloc"])
def test_system_call_in_a_pure_layer_is_found(tmp_path: Path, call: str) -> None:
    source = f"int {call}();\nint un_bad(void) {{ return {call}(0, 0) != 0; }}\n"
    assert check_with(tmp_path, map__bad_c=source) == [f"map/bad.c is pure, and calls {call}"]


def test_include_not_named_from_the_top_is_found(tmp_path: Path) -> None:
    source = '#include "low.h"\nint un_bad(void) { return un_low(); }\n'
    (line,) = check_with(tmp_path, base__bad_c=source)
    assert "base/bad.c includes low.h" in line


def test_directory_without_a_layer_is_found(tmp_path: Path) -> None:
    assert check_with(tmp_path, misc__bad_c="int un_bad;\n") == [
        "csrc/layout.py does not know misc/"
    ]
