"""What container engines are given: seccomp-profile, apparmor-profile, docker-args."""

from __future__ import annotations

import os
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
@click.option("--host", is_flag=True, help="The profile for this machine, not for containers.")
def apparmor_command(host: bool) -> None:
    """Print the AppArmor profile for containers that run gVisor.

    Only hosts with AppArmor need it: Ubuntu and Debian, unless AppArmor is switched off there.

    \b
    docker run --rm --entrypoint usernsctl IMAGE apparmor-profile |
        sudo tee /etc/apparmor.d/usernsctl
    sudo apparmor_parser -r /etc/apparmor.d/usernsctl
    docker run --security-opt apparmor=usernsctl IMAGE

    With --host, print the profile that lets the programs of this installation, and runsc, make user
    namespaces, where AppArmor lets no others (Ubuntu 23.10 and later). What these programs start
    may do so, too. The Python interpreter is none of them, since every script that it runs could
    make user namespaces then.

    \b
    usernsctl apparmor-profile --host | sudo tee /etc/apparmor.d/usernsctl-host
    sudo apparmor_parser -r /etc/apparmor.d/usernsctl-host
    """
    from usernsctl import profiles

    if host:
        click.echo(profiles.host_profile(_runsc()), nl=False)
        return
    click.echo(profiles.read("apparmor"), nl=False)


def _runsc() -> str | None:
    from usernsctl.errors import RunscError
    from usernsctl.gvisor import runsc

    try:
        return runsc.find(os.environ)
    except RunscError:
        return None


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
