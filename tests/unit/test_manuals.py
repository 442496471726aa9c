"""Tests that tools/manuals.py puts all options of the programs into the manual pages."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import manuals
import pytest
from conftest import TREE

from usernsctl.cli.parser import VERBS, Parser, usernsctl

# Undocumented options of usernsctl-exec, which only usernsctl passes.
HIDDEN = {"hold"}


@pytest.mark.parametrize(
    ("program", "source"),
    [
        ("usernsctl-exec", "csrc/programs/exec/options.c"),
        ("usernsctl-entrypoint", "csrc/programs/entrypoint/main.c"),
    ],
)
def test_manual_has_all_options_of_native_programs(program: str, source: str) -> None:
    accepted = re.findall(
        r'\{"([a-z-]+)", (?:no|required|optional)_argument', (TREE / source).read_text()
    )
    assert len(accepted) > 5
    options = [one for each in manuals.native_options(program).values() for one in each]
    assert all(one.help for one in options)
    found = {name for one in options for name in re.findall(r"--([a-z-]+)", one.written)}
    assert found == set(accepted) - HIDDEN


def with_subcommands(parser: Parser) -> Iterator[Parser]:
    yield parser
    for name in parser.verbs:
        yield from with_subcommands(parser.find(name))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "exec"])
def test_manual_of_a_verb_has_all_commands_and_options(verb: str) -> None:
    page = manuals.pages()[f"usernsctl-{verb}"]
    for each in with_subcommands(usernsctl().find(verb)):
        assert each.prog in page
        for flag, option in each.flags.items():
            if option.help != argparse.SUPPRESS and flag not in ("-h", "--help"):
                assert re.search(rf"^:::{{option}} .*{flag}\b", page, re.M), flag


WORDS = [parser.prog.split() for parser in with_subcommands(usernsctl())]


@pytest.mark.parametrize("words", [*WORDS, ["usernsctl-entrypoint"]], ids=" ".join)
def test_help_fits_into_80_columns(words: list[str]) -> None:
    output = manuals.help_of(*words)
    assert len(output) > 5
    assert [line for line in output if len(line) > 80] == []


def test_manuals_are_unique_and_have_a_section() -> None:
    names = [name for _, name, _, _, _ in manuals.manuals()]
    assert len(names) == len(set(names))
    assert {"usernsctl", *(f"usernsctl-{verb}" for verb in VERBS)} <= set(names)
    for place, name, about, _, section in manuals.manuals():
        assert about
        assert section in ("1", "5")
        if name in manuals.WRITTEN:
            assert (TREE / "docs" / f"{place}.md").is_file()


def test_help_text_is_escaped_in_manuals() -> None:
    found = manuals.prose("/lib* of $HOME: see --bind, or `usernsctl run`. usernsctl has a_b [x]")
    assert found == (
        r"/lib\* of `$HOME`: see `--bind`, or `usernsctl run`. usernsctl has a\_b \[x\]"
    )


def test_lines_are_not_wrapped_within_an_escape() -> None:
    link = r"\X'tty: link https://example.org/a'\fBa\fP(1)\X'tty: link'"
    words = " ".join(["word"] * 10)
    lines = manuals.tidy(f"{words} {link} {words} {words} two\\ words\n").splitlines()
    assert len(lines) > 2
    assert any(line.startswith(link) for line in lines)
    assert any("two\\ words" in line for line in lines)


def test_manual_lines_are_short_and_not_macros() -> None:
    text = " ".join(["word"] * 15 + [".bashrc"] + ["'quoted'"] * 10)
    page = manuals.tidy(f".SH X\n.sp\n{text}\n.EX\n{text}\n.EE\n")
    lines = page.splitlines()
    assert lines[:2] == [".SH X", " ".join(["word"] * 15)]
    assert lines[2].startswith(r"\&.bashrc 'quoted'")
    assert lines[3].startswith(r"\&'quoted'")
    assert lines[-3:] == [".EX", text, ".EE"]
