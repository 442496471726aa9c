"""Parser of the command line, based on :mod:`argparse`.

In the names of this module, a verb is a subcommand, such as ``run`` or ``ns exec``. Each subcommand
has a module, with a function that returns the parser and a function that runs the subcommand. The
module is imported only when the subcommand is called, so that no subcommand waits for the imports
of others.

Only documented parts of argparse are used. Releases of Python differ in how argparse formats
``--help`` and parses mixed options and operands, so this module formats the help and sorts the
arguments itself.
"""

from __future__ import annotations

import argparse
import os
import re
from functools import partial
from importlib import import_module

from usernsctl import cli
from usernsctl._lean import TYPE_CHECKING, Any, NoReturn
from usernsctl._text import shown_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

#: The subcommands, each with its summary in ``usernsctl --help`` and the function that returns its
#: parser.
VERBS = {
    "run": ("Run CMD in gVisor: on a kernel of its own, without root.", "run:parser"),
    "freeze": ("Save a run as a launch, a file that starts without Python.", "freeze:parser"),
    "wrap": ("Write a script that runs CMD in gVisor.", "wrap:parser"),
    "exec": ("Execute a command in a new user namespace.", "exec:parser"),
    "bundle": ("Create, check or fix an OCI bundle.", "bundle:parser"),
    "ns": ("Create, list, use and remove named namespaces.", "ns:parser"),
    "template": ("Start programs from saved checkpoints.", "template:parser"),
    "ps": ("List detached sandboxes.", "ps:parser"),
    "cp": ("Copy files into and out of detached sandboxes.", "cp:parser"),
    "plan": ("Show planned id maps: who writes each map, and why.", "plan:parser"),
    "doctor": ("Find out why programs can't run in gVisor here.", "doctor:parser"),
    "explain": ("Name the causes of an error message, and the remedies.", "explain:parser"),
    "seccomp-profile": ("Print the seccomp profile for containers.", "profiles:seccomp"),
    "apparmor-profile": ("Print the AppArmor profile for containers.", "profiles:apparmor"),
    "docker-args": ("Print the options that docker run needs for gVisor.", "profiles:docker"),
    "completion": (
        "Print the shell completion for bash, zsh or fish.",
        "completion.command:parser",
    ),
}

# Options of docker run, with the equivalent options of usernsctl.
_DOCKER_OPTIONS = {
    "-e": "--env",
    "-v": "--bind",
    "--volume": "--bind",
    "--mount": "--bind",
    "-w": "--wd",
    "--workdir": "--wd",
    "-u": "--user",
    "--net": "--network",
    "-i": "--terminal",
    "-t": "--terminal",
    "--ulimit": "--rlimit",
}

# Maximum number of suggestions for a misspelled word, and maximum number of subcommands that the
# error for an unknown subcommand lists.
_NEAR_MAX, _LISTED_MAX = 4, 6

# Widths in --help, in columns: the maximum width of the option names in the left column, and the
# minimum and maximum width of a line.
_NAMES_MAX, _WIDTH_MIN, _WIDTH_MAX = 30, 50, 100


class UsageError(Exception):
    """Error for options that exclude each other, or for a missing or invalid option."""


class Answer(Exception):
    """A text to print instead of running the subcommand: the help, or a usage error.

    :ivar text: the text, with a newline at the end.
    :ivar status: the exit status. The text is printed on standard error unless the status is 0.
    :ivar reason: the part of `text` that says why the arguments are wrong; ``None`` for help.
    """

    def __init__(self, text: str, status: int = 0, reason: str | None = None) -> None:
        super().__init__(text, status, reason)
        self.text = text
        self.status = status
        self.reason = reason


class Parser(argparse.ArgumentParser):
    """Parser of the arguments of a subcommand, or of a group of subcommands.

    :ivar headings: the groups of options, keyed by their titles in ``--help``; most options are in
        the group "".
    :ivar flags: the options, keyed by name; an option with several names has several entries.
    :ivar operands: the operands, which follow the options.
    :ivar verbs: the subcommands of a group, each with its summary and a function that returns its
        parser.
    """

    def __init__(
        self,
        prog: str,
        function: Callable[..., int | None] | None = None,
        *,
        description: str | None = None,
        usage: str | None = None,
        has_help: bool = True,
        options_first: bool = False,
        passes_unknown: bool = False,
        wants: Sequence[str] = (),
        wrong_usage: int = 125,
    ) -> None:
        """Create a parser without options other than ``--help``.

        :param prog: the program and the subcommand, such as ``usernsctl ns exec``.
        :param function: the function that runs the subcommand, or ``None`` for a group of
            subcommands. The function takes the options and operands as keyword arguments, and
            returns the exit status, or ``None`` for 0.
        :param description: the text of ``--help``, by default the docstring of `function`. Indented
            paragraphs are not wrapped.
        :param usage: the text after the subcommand in the first line of ``--help``; by default the
            placeholders of the operands.
        :param has_help: whether the subcommand has an option ``--help``.
        :param options_first: whether the first operand ends the options.
        :param passes_unknown: whether an unknown option counts as an operand.
        :param wants: the names of additional arguments of the function: ``"environ"`` for the
            caller's environment variables, ``"words"`` for the arguments of the subcommand.
        :param wrong_usage: the exit status for errors in the arguments.
        """
        super().__init__(prog, add_help=False, allow_abbrev=False)
        self.usage = usage
        self.description: str | None = description or (function and function.__doc__)
        self.headings: dict[str, list[argparse.Action]] = {}
        self.flags: dict[str, argparse.Action] = {}
        self.operands: list[argparse.Action] = []
        self.verbs: dict[str, tuple[str, Callable[[], Parser]]] = {}
        self._function = function
        self._options_first = options_first or function is None
        self._passes_unknown = passes_unknown
        self._wants = wants
        self._wrong_usage = wrong_usage
        # Use an argument group, because the parser's own add_argument() queries the terminal's
        # width at each call.
        self._added = self.add_argument_group()
        if has_help:
            self.add_answer("-h", "--help", self.format_help, "Show this message and exit.")
        if function is None:
            self.add_words("words", "COMMAND [ARGS]...")

    # ---- declarations ----------------------------------------------------------------------------

    def add_option(
        self,
        *flags: str,
        heading: str = "",
        parse: Callable[[str], Any] | None = None,
        repeats: bool = False,
        default: Any = None,
        **settings: Any,
    ) -> None:
        """Add an option.

        :param flags: the names of the option, or ``--on/--off`` for a pair of options. If both are
            given, the last option counts.
        :param heading: the title of the group of options under which ``--help`` lists the option.
        :param parse: a function that parses the value or raises ValueError.
        :param repeats: whether the option may be given several times; the value is then a tuple.
        :param default: the value if the option is omitted; ``--help`` prints it.
        :param settings: arguments of :meth:`argparse.ArgumentParser.add_argument`.
        """
        if parse is not None:
            settings["type"] = _for_argparse(parse)
        shown = default
        if "/" in flags[0]:
            flags = tuple(flags[0].split("/"))
            settings |= {"action": _Switch, "nargs": 0}
            shown = flags[0 if default else 1].removeprefix("--")
        if repeats:
            settings["action"] = _Append
            default = ()
        elif default not in (None, False) and settings["help"] != argparse.SUPPRESS:
            settings["help"] += f" [default: {shown}]"
        action = self._added.add_argument(*flags, default=default, **settings)
        self.flags.update(dict.fromkeys(flags, action))
        if action.help != argparse.SUPPRESS:
            # Keep --help as the last option.
            options = self.headings.setdefault(heading, [])
            options.insert(len(options) - (not heading), action)

    def add_flag(self, *flags: str, **settings: Any) -> None:
        """Add an option without a value; store ``True`` if the option is given, else ``False``."""
        self.add_option(*flags, action="store_true", default=False, **settings)

    def add_operand(
        self,
        name: str,
        metavar: str,
        *,
        parse: Callable[[str], Any] | None = None,
        **settings: Any,
    ) -> None:
        """Add an operand, an argument that follows the options.

        :param name: the name of the parameter in the subcommand's function.
        :param metavar: the placeholder for the operand in the usage.
        :param parse: a function that parses the value or raises ValueError.
        :param settings: arguments of :meth:`argparse.ArgumentParser.add_argument`.
        """
        if parse is not None:
            settings["type"] = _for_argparse(parse)
        self.operands.append(self._added.add_argument(name, metavar=metavar, **settings))

    def add_words(self, name: str, metavar: str) -> None:
        """Add an operand for all remaining arguments: a command and its arguments, or nothing."""
        self.add_operand(name, metavar, nargs=argparse.REMAINDER)

    def add_answer(self, flag: str, other: str, text: Callable[[], str], help: str) -> None:
        """Add an option that, like ``--help``, only prints a text and runs no subcommand."""
        suppressed = argparse.SUPPRESS
        self.add_option(
            flag, other, action=_Answer, nargs=0, const=text, dest=suppressed, help=help
        )

    def add_verb(
        self, name: str, summary: str, function: Callable[..., int | None], **settings: Any
    ) -> Parser:
        """Add a subcommand to a group, and return the subcommand's parser.

        :param settings: arguments of :class:`Parser`.
        """
        verb = Parser(f"{self.prog} {name}", function, **settings)
        self.verbs[name] = (summary, lambda: verb)
        return verb

    # ---- parsing ---------------------------------------------------------------------------------

    def find(self, name: str) -> Parser:
        """Return the parser of the subcommand `name` of this group.

        :raises Answer: the group has no subcommand with this name.
        """
        if name not in self.verbs:
            similar = near(name, self.verbs)
            if not similar and len(self.verbs) <= _LISTED_MAX:
                similar = f" The commands are: {', '.join(self.verbs)}."
            self.error(f"there is no command {name!r}.{similar}")
        return self.verbs[name][1]()

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Parse arguments; return the values of options and operands, keyed by name.

        :raises Answer: the arguments contain ``--help`` or an error.
        """
        namespace, extra = self.parse_known_args(self.arrange(words))
        if extra:
            self.error(f"unexpected extra argument {extra[extra[0] == '--']!r}")
        given = vars(namespace)
        for operand in self.operands:
            if operand.nargs == argparse.REMAINDER:
                # Remove a leading "--", as argparse does for operands without nargs=REMAINDER.
                found = given[operand.dest]
                given[operand.dest] = tuple(found[1:] if found[:1] == ["--"] else found)
        if self.verbs and not given["words"]:
            raise Answer(self.format_help(), self._wrong_usage)
        return given

    def perform(
        self, given: dict[str, Any], environ: Mapping[str, str], words: Sequence[str]
    ) -> int:
        """Call the function that runs the subcommand, and return the exit status.

        :param given: the result of :meth:`read`.
        :param environ: the environment variables that the subcommand may pass on to the command
            that it runs.
        :param words: the arguments after the subcommand.
        :raises Answer: the function raised :class:`UsageError`.
        """
        assert self._function is not None
        context = {"environ": environ, "words": words}
        try:
            return self._function(**given, **{name: context[name] for name in self._wants}) or 0
        except UsageError as error:
            self.error(str(error))

    def error(self, message: str) -> NoReturn:
        """Report an error in the arguments.

        :raises Answer: always.
        """
        reason = message.removeprefix("argument ")
        reason = reason.replace("the following arguments are required:", "missing:")
        text = f"{self.format_usage()}Try '{self.prog} --help' for help.\n\nError: {reason}"
        raise Answer(shown_lines(text) + "\n", self._wrong_usage, reason)

    def arrange(self, words: Sequence[str]) -> list[str]:
        """Return the options, each joined with its value, followed by ``--`` and the operands.

        From arguments in another order, argparse would parse a value that begins with a dash as an
        option, and releases of argparse would differ in how they parse ``--``, and operands between
        options.

        :raises Answer: an option is unknown, or its value is missing or not allowed.
        """
        options: list[str] = []
        operands: list[str] = []
        rest = list(reversed(words))
        while rest:
            word = rest.pop()
            if word == "--":
                break
            is_known = word in self.flags or not self._passes_unknown
            if is_known and word.startswith("-") and word != "-":
                options += self._split_option(word, rest)
                continue
            operands.append(word)
            if self._options_first:
                self._check_order(rest)
                break
        operands += reversed(rest)
        return [*options, "--", *operands] if operands else options

    def _check_order(self, rest: Sequence[str]) -> None:
        """Check that an option does not follow an operand that must come after all options.

        The arguments of a command are not checked: they may have the names of options.

        :param rest: the arguments after the first operand, in reverse order.
        :raises Answer: an option follows the first operand.
        """
        first = self.operands[0] if self.operands else None
        if first is None or first.nargs == argparse.REMAINDER or not rest:
            return
        flag = rest[-1].partition("=")[0]
        if flag in self.flags:
            self.error(f"the option {flag} must come before {first.metavar}")

    def _split_option(self, word: str, rest: list[str]) -> Iterator[str]:
        """Yield the options in `word`, each with its value; take a missing value from `rest`."""
        flag, equals, value = word.partition("=")
        if not word.startswith("--"):
            # Short options may be combined, as in -rc, or have a value, as in -oFILE.
            flag, equals, value = word[:2], "", word[2:]
        while not self._takes_value(flag):
            if equals:
                self.error(f"{flag} takes no value")
            yield flag
            if not value:
                return
            flag, value = f"-{value[0]}", value[1:]
        if not equals and not value:
            value = rest.pop() if rest else "--"
        # Report "--" as a missing value, because argparse before Python 3.13 would drop a value
        # "--".
        if value == "--":
            self.error(f"{flag} needs a value: {format_option(self.flags[flag], flag)}")
        yield f"{flag}={value}"

    def _takes_value(self, flag: str) -> bool:
        """Return whether an option takes a value.

        :raises Answer: the option is unknown.
        """
        option = self.flags.get(flag)
        if option is None:
            equivalent = _DOCKER_OPTIONS.get(flag, "")
            known = self.flags.get(equivalent)
            visible = [name for name, one in self.flags.items() if one.help != argparse.SUPPRESS]
            advice = f" Use {format_option(known, equivalent)}." if known else near(flag, visible)
            if not advice and self.verbs:
                advice = " Give the options of a command after its name."
            self.error(f"there is no option {flag!r}.{advice}")
        return option.nargs != 0

    # ---- help ------------------------------------------------------------------------------------

    def format_usage(self) -> str:
        """Return the usage line of the subcommand."""
        usage = self.usage or " ".join(["[OPTIONS]", *(str(one.metavar) for one in self.operands)])
        return f"Usage: {self.prog} {usage}\n"

    def paragraphs(self) -> list[str]:
        """Return the paragraphs of the description; each unindented paragraph is one line."""
        from inspect import cleandoc

        found = cleandoc(self.description or "").split("\n\n")
        return [one if one.startswith("    ") else " ".join(one.split()) for one in found]

    def format_help(self) -> str:
        """Return the text of ``--help``."""
        import shutil
        import textwrap

        width = min(max(shutil.get_terminal_size().columns, _WIDTH_MIN), _WIDTH_MAX) - 2
        lines = [self.format_usage()]
        for one in self.paragraphs():
            if one.startswith("    "):
                lines += [textwrap.indent(textwrap.dedent(one), "  "), ""]
            else:
                lines += [*_wrapped(one, width, "  "), ""]
        plain = "Other" if self.headings.keys() - {""} else "Options"
        for heading, actions in sorted(self.headings.items(), key=lambda one: not one[0]):
            rows = [(format_option(one), str(one.help)) for one in actions]
            lines += [f"{heading or plain}:", *_columns(rows, width), ""]
        if self.verbs:
            rows = [(name, summary) for name, (summary, _) in self.verbs.items()]
            lines += ["Commands:", *_columns(rows, width), ""]
        return "\n".join(lines)


def format_option(option: argparse.Action, flag: str | None = None) -> str:
    """Return an option as ``--help`` prints it: the names (or only `flag`) and the placeholder."""
    between = " / " if is_switch(option) else ", "
    names = between.join(option.option_strings) if flag is None else flag
    return names if option.nargs == 0 else f"{names} {option_metavar(option)}"


def option_metavar(option: argparse.Action) -> str:
    """Return the placeholder for the value of an option in ``--help``."""
    return str(option.metavar or "|".join(map(str, option.choices or ())))


def is_switch(option: argparse.Action) -> bool:
    """Return whether an option is a pair of options such as ``--verify/--no-verify``."""
    return isinstance(option, _Switch)


def usernsctl() -> Parser:
    """Return the parser of ``usernsctl``, with all subcommands."""
    parser = Parser(
        "usernsctl", description="Run programs in user namespaces and in gVisor, without root."
    )
    parser.add_answer("-V", "--version", cli.version, "Show the version and exit.")
    parser.add_option(
        "--environ-fd",
        dest="environ",
        parse=_read_environ,
        default=os.environ,
        help=argparse.SUPPRESS,
    )
    for name, (summary, place) in VERBS.items():
        parser.verbs[name] = (summary, partial(_import_parser, name, place))
    return parser


def integer(least: int, most: int) -> Callable[[str], int]:
    """Return a function that parses a whole number from `least` to `most`, or raises ValueError."""

    def parse(text: str) -> int:
        # int() alone would also accept underscores, and digits of other scripts.
        if re.fullmatch(r"-?[0-9]{1,10}", text) and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"{text!r} is not a whole number from {least} to {most}")

    return parse


class _Append(argparse.Action):
    """Action that appends the value of a repeatable option to a tuple."""

    def __call__(self, parser: object, namespace: object, value: Any, flag: Any = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), value))


class _Switch(argparse.Action):
    """Action that stores true for the first option of a pair, and false for the second."""

    def __call__(self, parser: object, namespace: object, value: Any, flag: Any = None) -> None:
        setattr(namespace, self.dest, flag == self.option_strings[0])


class _Answer(argparse.Action):
    """Action that raises Answer with a text, such as the text of ``--help``."""

    def __call__(self, parser: object, namespace: object, value: Any, flag: Any = None) -> None:
        raise Answer(self.const())


def _import_parser(name: str, place: str) -> Parser:
    module, _, function = place.partition(":")
    found: Callable[[str], Parser] = getattr(import_module(f"usernsctl.cli.{module}"), function)
    return found(f"usernsctl {name}")


def _for_argparse(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a function that calls `parse`, and converts a ValueError to argparse's own error.

    argparse does not print the text of a ValueError.
    """

    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


def _read_environ(text: str) -> dict[str, str]:
    """Read environment variables from the descriptor whose number is `text`; close the descriptor.

    The format is that of proc_pid_environ(5). usernsctl-entrypoint passes a container's environment
    through a descriptor, because the variables must not affect programs outside of gVisor.

    Entries that are not ``NAME=VALUE`` are ignored. If a name has several entries, the first entry
    counts, as in ``os.environ``.

    :raises ValueError: `text` is not an open, readable descriptor.
    """
    fd = integer(3, 2**31 - 1)(text)
    try:
        with open(fd, "rb", closefd=False) as file:
            file.seek(0)
            content = file.read()
        os.close(fd)
    except OSError as error:
        raise ValueError(f"descriptor {fd}: {error.strerror}") from None
    found: dict[str, str] = {}
    for entry in content.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if name and equals:
            found.setdefault(os.fsdecode(name), os.fsdecode(value))
    return found


def near(word: str, known: Collection[str]) -> str:
    """Return " Did you mean ...?" with the words in `known` that resemble `word`, or ""."""
    from difflib import get_close_matches

    near = [one for one in known if word and one.startswith(word)]
    if not near or len(near) > _NEAR_MAX:
        near = get_close_matches(word.lower(), known, n=1)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    from textwrap import wrap

    return wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _columns(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield the lines of a table with two columns. A wide first cell has a line of its own."""
    indent = 4 + min(max(len(name) for name, _ in rows), _NAMES_MAX)
    for name, text in rows:
        first, *rest = _wrapped(text, width, " " * indent)
        if len(name) + 4 > indent:
            yield f"  {name}"
            yield first
        else:
            yield f"  {name}".ljust(indent) + first[indent:]
        yield from rest
