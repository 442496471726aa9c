"""What container engines are given: seccomp-profile, apparmor-profile, docker-args."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from usernsctl._text import command
from usernsctl.cli.parser import Parser

if TYPE_CHECKING:
    from usernsctl.profiles import Ids


def seccomp(prog: str) -> Parser:
    """Return the parser of ``usernsctl seccomp-profile``."""
    return Parser(prog, print_seccomp)


def print_seccomp() -> None:
    """Print the seccomp profile for containers that run gVisor.

    It allows what Docker's own profile allows, except for the calls that gVisor does not use. It
    also allows the few calls that gVisor needs to make its sandbox.

        docker run --rm --entrypoint usernsctl IMAGE seccomp-profile >seccomp.json
        docker run --security-opt seccomp=seccomp.json IMAGE
    """
    from usernsctl import profiles

    print(profiles.read("seccomp.json"), end="")


def apparmor(prog: str) -> Parser:
    """Return the parser of ``usernsctl apparmor-profile``."""
    parser = Parser(prog, print_apparmor)
    parser.add_flag("--host", help="The profile for this machine, not for containers.")
    return parser


def print_apparmor(host: bool) -> None:
    """Print the AppArmor profile for containers that run gVisor.

    Only hosts with AppArmor need it: Ubuntu and Debian, unless AppArmor is switched off there.

        docker run --rm --entrypoint usernsctl IMAGE apparmor-profile |
            sudo tee /etc/apparmor.d/usernsctl
        sudo apparmor_parser -r /etc/apparmor.d/usernsctl
        docker run --security-opt apparmor=usernsctl IMAGE

    With --host, print the profile that lets the programs of this installation, and runsc, make user
    namespaces, where AppArmor lets no others (Ubuntu 23.10 and later). What these programs start
    may do so, too. The Python interpreter is none of them, since every script that it runs could
    make user namespaces then.

        usernsctl apparmor-profile --host | sudo tee /etc/apparmor.d/usernsctl-host
        sudo apparmor_parser -r /etc/apparmor.d/usernsctl-host
    """
    from usernsctl import profiles

    if host:
        print(profiles.host_profile(_runsc()), end="")
        return
    print(profiles.read("apparmor"), end="")


def _runsc() -> str | None:
    from usernsctl.errors import RunscError
    from usernsctl.gvisor.runsc.find import find_runsc

    try:
        return find_runsc(os.environ)
    except RunscError:
        return None


def docker(prog: str) -> Parser:
    """Return the parser of ``usernsctl docker-args``."""
    parser = Parser(prog, print_docker_args)
    parser.add_option(
        "--engine",
        choices=["docker", "podman"],
        default="docker",
        help="The engine that you use. Both take the same options.",
    )
    parser.add_option(
        "--seccomp",
        metavar="FILE",
        default="seccomp.json",
        help="The file that you have written the output of usernsctl seccomp-profile to.",
    )
    parser.add_option(
        "--apparmor/--no-apparmor",
        help="Name the AppArmor profile, too. By default: if the kernel here has AppArmor.",
    )
    parser.add_option(
        "--ids",
        choices=["one", "all"],
        default="one",
        help="Which ids the container maps: its user's own, or also that user's subordinate ids.",
    )
    return parser


def print_docker_args(engine: str, seccomp: str, apparmor: bool | None, ids: Ids) -> None:
    """Print the options that let docker run start gVisor, without --privileged.

    They are quoted for a shell.

        docker run --rm $(usernsctl docker-args) IMAGE
    """
    from usernsctl import profiles

    if apparmor is None:
        apparmor = profiles.has_apparmor()
    if apparmor:
        print(
            f"{engine} needs the profile to be loaded: usernsctl apparmor-profile --help tells how",
            file=sys.stderr,
        )
    options = profiles.engine_options(seccomp=seccomp, apparmor=apparmor, ids=ids)
    print(command(options))
