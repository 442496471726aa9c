"""Completion script for fish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from usernsctl.cli.completion.model import Flag, Verb, words_of

_OFFERS = {
    "directories": "(__fish_complete_directories)",
    "variables": "(set -nx)",
    "namespaces": "(@name@_names namespaces)",
    "templates": "(@name@_names templates)",
    "causes": "(@name@_names causes)",
    "command": "(@name@_rest)",
}


def script(programs: Sequence[Verb]) -> str:
    """Return the completion script for `programs`."""
    verbs = [verb for program in programs for verb in program.all()]
    text = Path(__file__).with_name("runtime.fish").read_text(encoding="utf-8")
    text = text.replace("@table@", "\n".join(line for verb in verbs for line in _entry(verb)))
    lines = [f"complete -c {program.path[0]} -f" for program in programs]
    lines += [line for verb in verbs for line in _completions(verb)]
    name = "__" + programs[0].path[0].replace("-", "_")
    return (text + "\n".join(lines) + "\n").replace("@name@", name)


def _entry(verb: Verb) -> Iterator[str]:
    """Yield the lines of the ``case`` that describes one subcommand in the script's switch."""
    apart = [
        name
        for flag in verb.flags
        if flag.kind is not None and not flag.is_optional
        for name in flag.names
    ]
    yield f"        case {_quoted(' '.join(verb.path))}"
    names = " ".join(_quoted(child.path[-1]) for child in verb.verbs)
    yield f"            set verbs {names}".rstrip()
    yield f"            set apart {' '.join(map(_quoted, apart))}".rstrip()
    before = verb.operands.index("command") if "command" in verb.operands else -1
    yield f"            set command {before}"


def _completions(verb: Verb) -> Iterator[str]:
    path = " ".join(verb.path)
    begin = f"complete -c {verb.path[0]} -n "
    for child in verb.verbs:
        words = f"{_quoted(f'@name@_is operand 0 {path}')} -fa {child.path[-1]}"
        yield f"{begin}{words}{_about(child.help)}"
    for flag in verb.flags:
        yield f"{begin}{_quoted(f'@name@_is flag any {path}')}{_flag(flag)}{_about(flag.help)}"
    for index, kind in enumerate(verb.operands):
        is_last = index == len(verb.operands) - 1
        number = f"{index}+" if is_last and verb.repeats else f"{index}"
        where = "rest" if kind == "command" else "operand"
        offer = _offer(kind)
        if offer:
            yield f"{begin}{_quoted(f'@name@_is {where} {number} {path}')}{offer}"


def _flag(flag: Flag) -> str:
    names = [
        f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in flag.names
    ]
    if flag.kind is None:
        return "".join(names)
    return "".join(names) + ("" if flag.is_optional else " -r") + (_offer(flag.kind) or " -f")


def _offer(kind: str) -> str:
    if kind == "files":
        return " -F"
    # End each word with a tab: fish shows the text after a tab as the word's description, here "".
    words = " ".join(rf"{word}\t" for word in words_of(kind)) or _OFFERS.get(kind, "")
    # Complete files as well as cause ids: the operand of `usernsctl explain` may be either.
    return f" -{'F' if kind == 'causes' else 'f'}a {_quoted(words)}" if words else ""


def _about(text: str) -> str:
    return f" -d {_quoted(text)}" if text else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
