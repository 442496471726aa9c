"""``usernsctl exec``: a wrapper that executes the native program usernsctl-exec."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NoReturn

from usernsctl._core.values import find_program
from usernsctl._system.handover import restore_signals
from usernsctl.cli.parser import Parser


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl exec``."""
    parser = Parser(
        prog, execute, has_help=False, options_first=True, passes_unknown=True, wants=["environ"]
    )
    parser.add_words("args", "COMMAND [ARG]...")
    return parser


def execute(args: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Execute a command in a new user namespace (usernsctl-exec; see its --help)."""
    name = "usernsctl-exec"
    program = find_program(name, "makes the namespaces")
    restore_signals()
    os.execve(program, [name, *args], environ)
