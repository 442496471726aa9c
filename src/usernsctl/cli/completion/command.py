"""``usernsctl completion``: print shell completion scripts."""

from __future__ import annotations

from usernsctl.cli.completion.names import KINDS, print_names
from usernsctl.cli.parser import Parser, UsageError

_PROGRAMS = ("usernsctl", "usernsctl-exec")


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl completion``."""
    parser = Parser(prog, complete, usage="[OPTIONS] SHELL [PROGRAM]")
    parser.add_option(
        "--names",
        dest="kind",
        choices=KINDS,
        help="Print the existing names; the scripts call this.",
    )
    parser.add_operand("shell", "SHELL", nargs="?", choices=["bash", "zsh", "fish"])
    parser.add_operand("program", "PROGRAM", nargs="?", choices=_PROGRAMS)
    return parser


def complete(shell: str | None, program: str | None, kind: str | None) -> None:
    """Print a script for SHELL that completes subcommands, options, their values, and names.

    SHELL is bash, zsh or fish. The script is for usernsctl and usernsctl-exec, or for PROGRAM
    alone.

        eval "$(usernsctl completion bash)"       # in ~/.bashrc
        eval "$(usernsctl completion zsh)"        # in ~/.zshrc, after compinit
        usernsctl completion fish | source        # in ~/.config/fish/config.fish
    """
    if (kind is None) == (shell is None):
        raise UsageError("no shell: give bash, zsh or fish, or --names")
    if kind is not None:
        print_names(kind)
        return
    from usernsctl.cli.completion import bash, fish, model, zsh

    known = {"usernsctl": model.whole, "usernsctl-exec": model.prelude}
    wanted = [known[name]() for name in (_PROGRAMS if program is None else (program,))]
    make = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}
    print(make[str(shell)](wanted), end="")
