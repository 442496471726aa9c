"""What container engines are given: seccomp-profile, apparmor-profile, docker-args."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from usernsctl._text import command

if TYPE_CHECKING:
    from usernsctl.profiles import Ids


@click.command("seccomp-profile", short_help="Print the seccomp profile for containers.")
def seccomp_command() -> None:
    """Print the seccomp profile for containers that run gVisor.

    It allows what Docker's own profile allows, except for the calls that gVisor does not use. It
    also allows the few calls that gVisor needs to make its sandbox.

    \b
    docker run --rm --entrypoint usernsctl IMAGE seccomp-profile >seccomp.json
    docker run --security-opt seccomp=seccomp.json IMAGE
    """
    from usernsctl import profiles

    click.echo(profiles.read("seccomp.json"), nl=False)


@click.command("apparmor-profile", short_help="Print the AppArmor profile for containers.")
def apparmor_command() -> None:
    """Print the AppArmor profile for containers that run gVisor.

    Only hosts with AppArmor need it: Ubuntu and Debian, unless AppArmor is switched off there.

    \b
    docker run --rm --entrypoint usernsctl IMAGE apparmor-profile |
        sudo tee /etc/apparmor.d/usernsctl
    sudo apparmor_parser -r /etc/apparmor.d/usernsctl
    docker run --security-opt apparmor=usernsctl IMAGE
    """
    from usernsctl import profiles

    click.echo(profiles.read("apparmor"), nl=False)


@click.command("docker-args", short_help="Print the options that docker run needs for gVisor.")
@click.option(
    "--engine",
    type=click.Choice(["docker", "podman"]),
    default="docker",
    show_default=True,
    help="The engine that you use. Both take the same options.",
)
@click.option(
    "--seccomp",
    default="seccomp.json",
    show_default=True,
    metavar="FILE",
    help="The file that you have written the output of usernsctl seccomp-profile to.",
)
@click.option(
    "--apparmor/--no-apparmor",
    default=None,
    help="Name the AppArmor profile, too. By default: if the kernel here has AppArmor.",
)
@click.option(
    "--ids",
    type=click.Choice(["one", "all"]),
    default="one",
    show_default=True,
    help="Which ids the container maps: its user's own, or also that user's subordinate ids.",
)
def docker_command(engine: str, seccomp: str, apparmor: bool | None, ids: Ids) -> None:
    """Print the options that let docker run start gVisor, without --privileged.

    \b
    docker run --rm $(usernsctl docker-args) IMAGE
    """
    from usernsctl import profiles

    if apparmor is None:
        apparmor = profiles.has_apparmor()
    if apparmor:
        click.echo(
            f"{engine} needs the profile to be loaded: usernsctl apparmor-profile --help tells how",
            err=True,
        )
    options = profiles.engine_options(seccomp=seccomp, apparmor=apparmor, ids=ids)
    click.echo(command(options))
