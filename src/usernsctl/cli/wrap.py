"""``usernsctl wrap``: write a script that runs a command in gVisor."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from usernsctl.cli.parser import Parser
from usernsctl.cli.run import add_options, check_combination, file_parser, request_options
from usernsctl.errors import CommandNotFoundError
from usernsctl.gvisor.launch.virtualenv import find_command

_OUTPUT, _TEMPLATE = ("-o", "--output"), ("--template",)


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl wrap``."""
    parser = file_parser(prog, write, "The script", "script")
    parser.add_option(
        *_TEMPLATE,
        heading="The script",
        metavar="NAME",
        help="Start sandboxes from the template NAME of an interpreter; there is no CMD then.",
    )
    add_options(parser, request_options())
    return parser


def write(
    output: str,
    template: str | None,
    environ: Mapping[str, str],
    words: Sequence[str],
    **given: Any,
) -> None:
    """Write a script that runs CMD in gVisor, for programs that take a command but no arguments.

    FILE is a shell script that calls usernsctl run with the given options, CMD and ARGs, followed
    by the arguments of the script. With --template, the script calls usernsctl template run
    instead.

    If a signal kills CMD, the same signal kills the script, but not with --template. If CMD is in a
    virtual environment, CMD sees that environment. Relative paths in options refer to the current
    directory of the script's caller.

        usernsctl wrap -o source-x --network host --bind /data -- /opt/x/bin/source-x
        ./source-x spec
    """
    from usernsctl.cli import template as templates
    from usernsctl.gvisor.launch import freeze
    from usernsctl.gvisor.template import store

    command = list(given["command"])
    options = list(_options(parser("usernsctl wrap").arrange(words)))
    if template is not None:
        call = ["template", "run", *options, "--", template, *command]
        templates.parser("usernsctl template").find("run").read(call[2:])
        store.find(template)
        text = _script(call, None)
    else:
        check_combination(given, "usernsctl wrap -o FILE -- ls")
        if command and given["rootfs"] is None and given["bundle"] is None:
            command[0] = _path_of(command[0], environ)
        call = ["run", "--reraise-signal", *options, "--", *command]
        text = _script(call, command[0] if command else None)
    freeze.write_file(os.fsencode(text), output, 0o755, "wrap")


def _path_of(command: str, environ: Mapping[str, str]) -> str:
    """Return the absolute path of a command on this host.

    :raises CommandNotFoundError: the command does not exist.
    """
    found = find_command(command, environ.get("PATH", os.defpath))
    if found is None or not os.path.isfile(found):
        raise CommandNotFoundError(
            f"there is no command {command!r} on this machine",
            step="wrap",
            errno=errno.ENOENT,
            remedy="use a command in PATH, or its absolute path",
        )
    return found


def _options(arranged: Sequence[str]) -> Iterator[str]:
    """Yield the options for `usernsctl run`, without the options of `usernsctl wrap` itself."""
    for option in arranged:
        if option == "--":
            return
        if option.partition("=")[0] not in (*_OUTPUT, *_TEMPLATE):
            yield option


def _script(call: Sequence[str], command: str | None) -> str:
    """Return the text of the script.

    :param call: the arguments of usernsctl that precede the script's own arguments.
    :param command: the command, or ``None`` if `call` contains none. If the command is in a virtual
        environment of this host, the script sets VIRTUAL_ENV.
    """
    lines = ["#!/bin/sh", "# Written by `usernsctl wrap`."]
    environment = os.path.dirname(os.path.dirname(command or ""))
    if environment and os.path.isfile(os.path.join(environment, "pyvenv.cfg")):
        lines.append(f"export VIRTUAL_ENV={shlex.quote(environment)}")
    program = shlex.join([sys.executable, "-P", "-m", "usernsctl"])
    lines.append(f'exec {program} {shlex.join(call)} "$@"')
    return "\n".join(lines) + "\n"
