"""Model of the words that the shell can complete: subcommands, options, kinds of values.

The kind of a value says what completes the value: ``"files"``, ``"directories"``, ``"variables"``,
``"namespaces"``, ``"templates"``, ``"causes"`` (cause ids and files), ``"command"`` (a command and
its arguments), ``":a|b"`` (the words a and b), or ``""`` (nothing).
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator

from usernsctl._core.values import find_program
from usernsctl._lean import dataclass, replace
from usernsctl.cli.parser import Parser, is_switch, option_metavar, usernsctl

# The kind of each value, keyed by the value's placeholder in --help.
_KINDS = {
    "DIR": "directories",
    "FILE": "files",
    "NAME[=VALUE]": "variables",
    "SRC[:DST][:ro|rw]": "files",
}

# The kind of each operand, keyed by its parameter name in the functions that run subcommands.
_OPERANDS = {
    "command": "command",
    "file": "files",
    "directory": "directories",
    "source": "files",
    "destination": "files",
}

# The kind of the operand NAME, keyed by the group of subcommands.
_NAMES = {"ns": "namespaces", "template": "templates"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """An option.

    :ivar names: the names of the option, with their dashes.
    :ivar help: a summary of the option in one line.
    :ivar kind: the kind of the option's value, or ``None`` for an option without a value.
    :ivar is_optional: whether the value may be omitted. If not, the value can also be the next
        argument, as in ``--wd DIR``.
    :ivar repeats: whether the option may be given several times.
    :ivar heading: the title of the group of options under which ``--help`` lists the option.
    """

    names: tuple[str, ...]
    help: str
    kind: str | None = None
    is_optional: bool = False
    repeats: bool = False
    heading: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A program, or a subcommand, such as ``usernsctl ns exec``.

    :ivar path: the words that select the subcommand, beginning with the program's name.
    :ivar help: a summary of the subcommand in one line.
    :ivar operands: the kinds of the operands, in their order.
    :ivar repeats: whether the last operand may occur any number of times.
    """

    path: tuple[str, ...]
    help: str = ""
    flags: tuple[Flag, ...] = ()
    verbs: tuple[Verb, ...] = ()
    operands: tuple[str, ...] = ()
    repeats: bool = False

    def all(self) -> Iterator[Verb]:
        """Yield this subcommand, and recursively all subcommands below it."""
        yield self
        for verb in self.verbs:
            yield from verb.all()


def words_of(kind: str) -> list[str]:
    """Return the words that a kind such as ``":a|b"`` lists; an empty list for other kinds."""
    return kind[1:].split("|") if kind.startswith(":") else []


# ---- native programs -----------------------------------------------------------------------------


def prelude() -> Verb:
    """Parse ``usernsctl-exec --help``; return the model of ``usernsctl-exec``.

    :raises CommandError: the program is not installed.
    """
    program = find_program("usernsctl-exec", "prints its options")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    flags = tuple(native_flags(done.stdout))
    return Verb(path=("usernsctl-exec",), flags=flags, operands=("command",))


def help_entries(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the heading, the names with the value, and the description of each option in `text`.

    `text` is the ``--help`` of a native program. The first line of an option contains the option's
    names. The description is in the second column of that line or of the next lines. A heading
    begins at the margin and ends with a colon. Options that follow an empty line without a heading
    get the heading "Other".
    """
    lines = text.splitlines()
    column = min(len(line) - len(line.lstrip()) for line in lines if line.startswith(" " * 20))
    heading, names, about = "", "", [""]
    for line in [*lines, "."]:
        if names and not line.startswith(" " * column):
            yield heading, names, " ".join(filter(None, about))
            names = ""
        if re.match(r"\S.*:$", line):
            heading = line[:-1]
        elif re.match(" {2,6}-", line):
            end = column if line[column - 1 : column] in ("", " ") else len(line)
            names, about = line[:end].strip(), [line[end:]]
        elif names:
            about.append(line.strip())
        elif not line and heading:
            heading = "Other"


# Matches an option in --help, such as "-w, --wd=DIR" or "--kill-child[=SIGNAL]".
_NAMES_AND_VALUE = re.compile(r"(?:(-\w), )?(--[a-z-]+)(?:(\[?=)([^,\]]+)\]?)?")


def native_flags(text: str) -> Iterator[Flag]:
    """Yield the options in the ``--help`` of a native program."""
    found: dict[str, Flag] = {}
    for heading, names, about in help_entries(text):
        read = _NAMES_AND_VALUE.fullmatch(names)
        if read is None:
            # An entry such as "--map-users=auto|subids|all, --map-groups=..." only adds values to
            # options that earlier entries define.
            values = names.partition("=")[2].partition(",")[0]
            for name in re.findall("--[a-z-]+", names):
                found[name] = replace(found[name], kind=f":{values}")
            continue
        short, name, equals, metavar = read.groups()
        found[name] = Flag(
            names=(name,) if short is None else (short, name),
            help=_in_a_line(about),
            kind=_kind(metavar) if equals else None,
            is_optional=equals == "[=",
            repeats="repeatable" in about,
            heading=heading,
        )
    yield from found.values()


# ---- usernsctl -----------------------------------------------------------------------------------


def whole() -> Verb:
    """Return the model of ``usernsctl``, with all subcommands."""
    return _verb(usernsctl(), "", prelude())


def _verb(parser: Parser, summary: str, exec: Verb) -> Verb:
    path = tuple(parser.prog.split())
    verb = Verb(path=path, help=_in_a_line(summary))
    if path[1:] == ("exec",):
        return replace(verb, flags=exec.flags, operands=exec.operands)
    if parser.verbs:
        below = parser.verbs.items()
        verbs = tuple(_verb(parser.find(name), about, exec) for name, (about, _) in below)
        return replace(verb, flags=tuple(_flags(parser)), verbs=verbs)
    if path[1:] == ("ns", "create"):
        flags = [flag for flag in exec.flags if flag.heading in ("Maps", "Namespaces")]
        return replace(verb, flags=(*_flags(parser), *flags), operands=("",))
    return replace(
        verb,
        flags=tuple(_flags(parser)),
        operands=tuple(_operand(action, path) for action in parser.operands),
        repeats=any(action.nargs == "+" for action in parser.operands),
    )


def _flags(parser: Parser) -> Iterator[Flag]:
    for actions in parser.headings.values():
        for action in actions:
            about = _in_a_line(str(action.help))
            if action.nargs != 0:
                is_name = "--in" in action.option_strings
                kind = "namespaces" if is_name else _kind(option_metavar(action))
                yield Flag(
                    names=tuple(action.option_strings),
                    help=about,
                    kind=kind,
                    repeats=action.default == (),
                )
            elif is_switch(action):
                yes, no = action.option_strings
                yield Flag(names=(yes,), help=about)
                yield Flag(names=(no,), help=f"Not: {about}")
            else:
                yield Flag(names=tuple(action.option_strings), help=about)


def _operand(action: argparse.Action, path: tuple[str, ...]) -> str:
    if action.dest in ("name", "names"):
        # Complete no names for "create", because the namespace or template does not exist yet.
        return "" if path[-1] == "create" else _NAMES.get(path[1], "")
    if path[1:] == ("explain",):
        return "causes"
    if action.choices is not None:
        return f":{'|'.join(action.choices)}"
    return _OPERANDS.get(action.dest, "")


def _kind(metavar: str) -> str:
    """Return the kind of a value with the placeholder `metavar`, such as ``none|host``."""
    if metavar in _KINDS:
        return _KINDS[metavar]
    found = [word for word in metavar.split("|") if re.fullmatch("[a-z]+", word)]
    return f":{'|'.join(found)}" if "|" in metavar and found else ""


def _in_a_line(text: str) -> str:
    """Return a text up to its first full stop or semicolon, on one line."""
    return re.split(r"[.;] |\.$", " ".join(text.split()))[0]
