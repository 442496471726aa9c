"""``usernsctl seccomp-profile``, ``apparmor-profile``, ``docker-args``: settings for containers."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal

from usernsctl._text import command
from usernsctl.cli.parser import Parser

if TYPE_CHECKING:
    from usernsctl.profiles import Ids


def seccomp(prog: str) -> Parser:
    """Return the parser of ``usernsctl seccomp-profile``."""
    parser = Parser(prog, print_seccomp)
    parser.add_flag(
        "--private-network",
        help="Also allow the system calls of in-gvisor --network=private, such as for nftables.",
    )
    return parser


def print_seccomp(private_network: bool) -> None:
    """Print the seccomp profile for containers that run gVisor.

    The profile is Docker's default profile without the system calls that gVisor does not use, and
    with the few others that gVisor needs to create its sandbox.

        docker run --rm --entrypoint usernsctl IMAGE seccomp-profile >seccomp.json
        docker run --security-opt seccomp=seccomp.json IMAGE
    """
    from usernsctl import profiles

    name: Literal["seccomp-private-network.json", "seccomp.json"]
    name = "seccomp-private-network.json" if private_network else "seccomp.json"
    print(profiles.read(name), end="")


def apparmor(prog: str) -> Parser:
    """Return the parser of ``usernsctl apparmor-profile``."""
    parser = Parser(prog, print_apparmor)
    parser.add_flag("--host", help="Print the profile for programs of this machine.")
    return parser


def print_apparmor(host: bool) -> None:
    """Print the AppArmor profile for containers that run gVisor.

    Only hosts with AppArmor need this profile: Ubuntu and Debian, unless AppArmor is disabled.

        docker run --rm --entrypoint usernsctl IMAGE apparmor-profile |
            sudo tee /etc/apparmor.d/usernsctl
        sudo apparmor_parser -r /etc/apparmor.d/usernsctl
        docker run --security-opt apparmor=usernsctl IMAGE

    With --host, print the profile that allows the programs of this installation, and runsc, to
    create user namespaces on hosts where AppArmor denies them (Ubuntu 23.10 and later). Programs
    that they start may create user namespaces, too. The profile does not include the Python
    interpreter, because it would allow any Python script to create user namespaces.

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
        help="Your container engine. Both take the same options.",
    )
    parser.add_option(
        "--seccomp",
        metavar="FILE",
        default="seccomp.json",
        help="The file with the output of usernsctl seccomp-profile.",
    )
    parser.add_option(
        "--apparmor/--no-apparmor",
        help="Print the option for the AppArmor profile, too. By default, if the kernel of this "
        "machine has AppArmor.",
    )
    parser.add_option(
        "--ids",
        choices=["one", "all"],
        default="one",
        help="The ids to map: only those of the container's user (one), or its subordinate ids, "
        "too (all).",
    )
    return parser


def print_docker_args(engine: str, seccomp: str, apparmor: bool | None, ids: Ids) -> None:
    """Print the options of docker run that gVisor needs, in place of --privileged.

    The options are quoted for a shell.

        docker run --rm $(usernsctl docker-args) IMAGE
    """
    from usernsctl import profiles

    if apparmor is None:
        apparmor = profiles.has_apparmor()
    if apparmor:
        print(
            f"{engine} needs a loaded AppArmor profile; to load it: "
            "usernsctl apparmor-profile --help",
            file=sys.stderr,
        )
    options = profiles.engine_options(seccomp=seccomp, apparmor=apparmor, ids=ids)
    print(command(options))
