"""Completion script for bash (4.3 or later), with or without the package bash-completion."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from usernsctl.cli.completion.model import Flag, Verb


def script(programs: Sequence[Verb]) -> str:
    """Return the completion script for `programs`."""
    name = "_" + programs[0].path[0].replace("-", "_")
    table = [line for program in programs for verb in program.all() for line in _entry(verb)]
    text = Path(__file__).with_name("runtime.bash").read_text(encoding="utf-8")
    text = text.replace("@table@", "\n".join(table)).replace("@name@", name)
    return text.replace("@programs@", " ".join(program.path[0] for program in programs))


def _entry(verb: Verb) -> list[str]:
    flags = [word for flag in verb.flags for word in _flag(flag)]
    operands = list(verb.operands)
    if verb.repeats:
        operands[-1] += "*"
    return [
        f"        {shlex.quote(' '.join(verb.path))})",
        *_array("verbs", [child.path[-1] for child in verb.verbs]),
        *_array("flags", flags),
        *_array("operands", operands),
        "            ;;",
    ]


def _array(name: str, words: list[str]) -> list[str]:
    return [f"            {name}=({' '.join(map(shlex.quote, words))})"] if words else []


def _flag(flag: Flag) -> list[str]:
    if flag.kind is None:
        return list(flag.names)
    mark = "?" if flag.is_optional else "="
    return [f"{name}{mark}{flag.kind}" for name in flag.names]
