"""``usernsctl completion``: scripts that complete command lines."""

from __future__ import annotations

import click

from usernsctl.cli.completion.names import KINDS, tell

_PROGRAMS = ("usernsctl", "usernsctl-exec")


@click.command(
    "completion", short_help="Print the script by which bash, zsh or fish complete words."
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
@click.argument("program", type=click.Choice(_PROGRAMS), required=False)
@click.option(
    "--names",
    "kind",
    type=click.Choice(KINDS),
    help="Print the names that there are, as the scripts ask for them.",
)
@click.pass_context
def completion_command(
    context: click.Context, shell: str | None, program: str | None, kind: str | None
) -> None:
    """Print a script that has SHELL complete verbs, options, their values, and names.

    It is for usernsctl and usernsctl-exec, or for PROGRAM alone.

    \b
    eval "$(usernsctl completion bash)"       # in ~/.bashrc
    eval "$(usernsctl completion zsh)"        # in ~/.zshrc, after compinit
    usernsctl completion fish | source        # in ~/.config/fish/config.fish
    """
    if (kind is None) == (shell is None):
        raise click.UsageError("give a shell: bash, zsh or fish; or --names")
    if kind is not None:
        tell(kind)
        return
    from usernsctl.cli.completion import bash, fish, model, zsh
    from usernsctl.cli.verbs import usernsctl

    known = {
        "usernsctl": lambda: model.whole(usernsctl, "usernsctl"),
        "usernsctl-exec": model.prelude,
    }
    wanted = [known[name]() for name in (_PROGRAMS if program is None else (program,))]
    make = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}
    click.echo(make[str(shell)](wanted), nl=False)
