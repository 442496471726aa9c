"""Completion script for zsh, which users source or put into a directory of ``$fpath``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from usernsctl.cli.completion.model import Flag, Verb, words_of

# Actions of zsh's _arguments, keyed by the kind of the value. _arguments adds options of compadd to
# the call of a function, except after a leading space (zshcompsys(1)).
_ACTIONS = {
    "": " ",
    "files": "_files",
    "directories": "_files -/",
    "variables": "_parameters -g '*export*'",
    "namespaces": " @name@_names namespaces",
    "templates": " @name@_names templates",
    "causes": " @name@_causes",
}

_BEGIN = """\
#compdef @programs@

@name@_names() {
    setopt localoptions extendedglob
    local -a found expl
    found=(${(f)"$(command usernsctl completion --names $1 2>/dev/null </dev/null)"})
    # Drop lines that are not names, whichever program prints them.
    found=(${(M)found:#[A-Za-z0-9_][A-Za-z0-9_.-]#})
    _wanted names expl name compadd -a found
}

@name@_causes() {
    _alternative "causes:cause: @name@_names causes" "files:file:_files"
}
"""

_END = """
@name@() {
    case $service in
@cases@
    esac
}

# If zsh autoloads this file from a directory of $fpath, the file is the body of @name@,
# and so must also call the function @name@ that it has just defined.
if [[ ${funcstack[1]-} == @name@ ]]; then
    @name@ "$@"
else
    compdef @name@ @programs@
fi
"""


def script(programs: Sequence[Verb]) -> str:
    """Return the completion script for `programs`."""
    names = [program.path[0] for program in programs]
    cases = [f"        {name}) {_function_of((name,))} ;;" for name in names]
    functions = [_function(verb) for program in programs for verb in program.all()]
    text = "\n".join([_BEGIN, *functions]) + _END.replace("@cases@", "\n".join(cases))
    # The main function, which is named after the first program, calls the functions of all
    # programs.
    return text.replace("@name@", f"_{names[0]}").replace("@programs@", " ".join(names))


def _function_of(path: Sequence[str]) -> str:
    return "_" + "_".join(("complete", *path)).replace("-", "_")


def _function(verb: Verb) -> str:
    specs = [spec for flag in verb.flags for spec in _flag(flag)]
    if verb.verbs:
        specs += ["(-)1:command:->verbs", "(-)*::argument:->rest"]
    for number, kind in enumerate(verb.operands, 1):
        if kind == "command":
            specs.append("(-)*:::command: _normal")
        else:
            place = "*" if verb.repeats and number == len(verb.operands) else str(number)
            specs.append(f"{place}:operand:{_action(kind)}")
    lines = [f"{_function_of(verb.path)}() {{"]
    if verb.verbs:
        lines += ['    local curcontext="$curcontext" state', "    local -a line verbs"]
        lines += ["    local -A opt_args"]
    lines.append(f"    _arguments {'-C ' if verb.verbs else ''}-s -S : \\")
    lines.append(" \\\n".join(f"        {shlex.quote(spec)}" for spec in specs))
    if verb.verbs:
        lines += _below(verb)
    return "\n".join([*lines, "}", ""])


def _below(verb: Verb) -> Iterator[str]:
    yield "    case $state in"
    yield "        verbs)"
    yield "            verbs=("
    for child in verb.verbs:
        yield f"                {shlex.quote(f'{child.path[-1]}:{child.help}')}"
    yield "            )"
    yield "            _describe -t commands command verbs"
    yield "            ;;"
    yield "        rest)"
    yield "            case $line[1] in"
    for child in verb.verbs:
        yield f"                {child.path[-1]}) {_function_of(child.path)} ;;"
    yield "            esac"
    yield "            ;;"
    yield "    esac"


def _flag(flag: Flag) -> Iterator[str]:
    others = "*" if flag.repeats else f"({' '.join(flag.names)})"
    about = re.sub(r"([\[\]\\])", r"\\\1", flag.help)
    for name in flag.names:
        if flag.kind is None:
            yield f"{others}{name}[{about}]"
            continue
        mark = "=" if name.startswith("--") else "+"
        mark += "-" if flag.is_optional else ""
        colons = "::" if flag.is_optional else ":"
        yield f"{others}{name}{mark}[{about}]{colons}value:{_action(flag.kind)}"


def _action(kind: str) -> str:
    words = words_of(kind)
    return f"({' '.join(words)})" if words else _ACTIONS[kind]
