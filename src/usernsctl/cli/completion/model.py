"""What there is to complete, read from where it is said."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace

import click

from usernsctl import _programs
from usernsctl._records import dataclass

# What a value is, by what stands for it in --help.
_KINDS = {
    "DIR": "directories",
    "FILE": "files",
    "NAME[=VALUE]": "variables",
    "SRC[:DST][:ro|rw]": "files",
}

# What the operands are that click takes as they are.
_OPERANDS = {"command": "command", "file": "files", "directory": "directories"}

# A group's names, where it has any.
_NAMES = {"ns": "namespaces", "template": "templates"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What an option or an operand may be.

    :ivar kind: what a shell offers: ``"files"``, ``"directories"``, ``"variables"``,
        ``"namespaces"``, ``"templates"``, ``"command"`` (and its arguments), or ``""``: nothing.
    :ivar words: words to offer besides.
    """

    kind: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """An option.

    :ivar names: what it is called, with its dashes.
    :ivar help: what it does, in a line.
    :ivar value: its value; ``None`` if it takes none.
    :ivar is_optional: whether the value may be left out; then it is in the same word.
    :ivar multiple: whether it may be given several times.
    :ivar heading: what ``--help`` lists it under.
    """

    names: tuple[str, ...]
    help: str
    value: Value | None = None
    is_optional: bool = False
    multiple: bool = False
    heading: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A program, or what may follow it: ``usernsctl ns exec``.

    :ivar path: its words, the program's name first.
    :ivar help: what it does, in a line.
    :ivar operands: what its words may be, in their order; the last one stands for all that follow
        if `repeats`.
    """

    path: tuple[str, ...]
    help: str = ""
    flags: tuple[Flag, ...] = ()
    verbs: tuple[Verb, ...] = ()
    operands: tuple[Value, ...] = ()
    repeats: bool = False

    def all(self) -> Iterator[Verb]:
        """This one, and all below it."""
        yield self
        for verb in self.verbs:
            yield from verb.all()


def prelude() -> Verb:
    """What ``usernsctl-exec`` takes.

    :raises CommandError: it is not there.
    """
    program = _programs.find("usernsctl-exec", "tells its options")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    return Verb(
        path=("usernsctl-exec",),
        flags=tuple(read_help(done.stdout)),
        operands=(Value(kind="command"),),
    )


# "  -w, --wd=DIR               change to DIR"
_LINE = re.compile(r"  (?:(-\w), |    )(--[a-z-]+)(\[?=)?([^\s,\]]+)?\]?(?: +(\S.*))?")
# What is said of options a second time, by a line of its own: the words that they may be.
_WORDS = re.compile(r"      (--[a-z-]+)=([a-z|]+), (--[a-z-]+)=\.\.\.")


def read_help(text: str) -> Iterator[Flag]:
    """The options that a text such as that of ``usernsctl-exec --help`` lists."""
    found: dict[str, Flag] = {}
    heading, name = "", ""
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z]\w+:", line):
            heading = line[:-1]
        elif again := _WORDS.fullmatch(line):
            for other in (again[1], again[3]):
                found[other] = replace(found[other], value=_value(again[2]))
        elif read := _LINE.fullmatch(line):
            short, name, equals, metavar, about = read.groups()
            found[name] = Flag(
                names=(name,) if short is None else (short, name),
                help=_in_a_line(about or ""),
                value=_value(metavar) if equals else None,
                is_optional=equals == "[=",
                heading=heading,
            )
        if "repeatable" in line:
            found[name] = replace(found[name], multiple=True)
    yield from found.values()


def whole(group: click.Group, name: str) -> Verb:
    """What a group of click's takes, with all below it."""
    context = click.Context(group, info_name=name, **group.context_settings)
    return _verb(context, group, (name,), prelude())


def _verb(
    context: click.Context, command: click.Command, path: tuple[str, ...], exec: Verb
) -> Verb:
    verbs: list[Verb] = []
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                inner = click.Context(found, parent=context, info_name=name)
                verbs.append(_verb(inner, found, (*path, name), exec))
    if path[1:] == ("exec",):
        return Verb(path=path, help=_summary(command), flags=exec.flags, operands=exec.operands)
    flags = [*_flags(command.get_params(context))]
    if path[1:] == ("ns", "create"):
        flags += [one for one in exec.flags if one.heading in ("Maps", "Namespaces")]
    arguments = [one for one in command.get_params(context) if isinstance(one, click.Argument)]
    operands = [_operand(one, path) for one in arguments if one.name != "options"]
    return Verb(
        path=path,
        help=_summary(command),
        flags=tuple(flags),
        verbs=tuple(verbs),
        operands=tuple(operands),
        repeats=bool(arguments) and arguments[-1].nargs == -1 and arguments[-1].name == "names",
    )


def _summary(command: click.Command) -> str:
    return _in_a_line(command.get_short_help_str(200))


def _flags(parameters: Sequence[click.Parameter]) -> Iterator[Flag]:
    for one in parameters:
        if not isinstance(one, click.Option) or one.hidden:
            continue
        about = _in_a_line(one.help or "")
        if one.is_flag:
            yield Flag(names=tuple(one.opts), help=about, multiple=one.multiple)
            if one.secondary_opts:
                yield Flag(names=tuple(one.secondary_opts), help=f"Not: {about}")
        else:
            value = Value(kind="namespaces") if "--in" in one.opts else _typed(one)
            yield Flag(names=tuple(one.opts), help=about, value=value, multiple=one.multiple)


def _typed(one: click.Parameter) -> Value:
    if isinstance(one.type, click.Choice):
        return Value(words=tuple(one.type.choices))
    if isinstance(one.type, click.Path):
        return Value(kind="directories")
    return _value(getattr(one, "metavar", None) or "")


def _operand(one: click.Argument, path: tuple[str, ...]) -> Value:
    if one.name in ("name", "names"):
        # One that there is can't be made.
        return Value() if path[-1] == "create" else Value(kind=_NAMES.get(path[1], ""))
    if isinstance(one.type, click.Choice):
        return Value(words=tuple(one.type.choices))
    return Value(kind=_OPERANDS.get(one.name or "", ""))


def _value(metavar: str) -> Value:
    """What a text such as ``none|host`` lets one choose."""
    if metavar in _KINDS:
        return Value(kind=_KINDS[metavar])
    words = metavar.split("|")
    return Value(words=tuple(one for one in words if re.fullmatch("[a-z]+", one) and words[1:]))


def _in_a_line(text: str) -> str:
    """The first sentence, without its end."""
    return re.split(r"[.;] |\.$", " ".join(text.split()))[0]
