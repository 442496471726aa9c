"""What a container engine must allow so that rootless gVisor works in its containers."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

Profile = Literal["seccomp.json", "apparmor"]
Ids = Literal["one", "all"]

#: The name that the AppArmor profile is loaded under.
APPARMOR_NAME = "usernsctl"

_APPARMOR_ENABLED = Path("/sys/module/apparmor/parameters/enabled")


def read(profile: Profile) -> str:
    """The text of a profile, as engines and apparmor_parser(8) take it."""
    return Path(__file__).with_name(profile).read_text(encoding="utf-8")


_HOST_HEAD = """\
# Lets usernsctl and gVisor make user namespaces where AppArmor restricts them (Ubuntu 23.10 and
# later), and what these programs start, but no other program. It confines nothing.
abi <abi/4.0>,
include <tunables/global>
"""


def host_programs(runsc: str | None) -> list[str]:
    """The programs of this installation that make user namespaces, each once and without links.

    The interpreter is none of them: every script that it runs would have user namespaces, too.

    :param runsc: the path of gVisor's, if it is to be among them.
    """
    from usernsctl._core.values import program_path

    names = ("child", "exec", "init", "probe", "watch")
    programs = [program_path(f"usernsctl-{name}") for name in names]
    # AppArmor goes by the path of a script, and not by that of its interpreter.
    scripts = [
        os.path.join(os.path.dirname(sys.executable), name)
        for name in ("usernsctl-exec", "usernsctl")
    ]
    found = [*programs, *scripts, *([runsc] if runsc else [])]
    # AppArmor goes by what links lead to.
    return list(dict.fromkeys(os.path.realpath(path) for path in found if os.path.exists(path)))


def host_profile(runsc: str | None) -> str:
    """The AppArmor profiles that let the programs of this installation make user namespaces.

    :param runsc: the path of gVisor's, if it is to be among them.
    """
    return for_programs(host_programs(runsc))


def for_programs(paths: Iterable[str]) -> str:
    """The AppArmor profiles that let programs make user namespaces.

    :param paths: theirs; no link is followed.
    """
    parts = [_HOST_HEAD]
    for number, path in enumerate(dict.fromkeys(paths)):
        name = f"{APPARMOR_NAME}-host-{number}-{_word(path)}"
        parts.append(f'\nprofile {name} "{_escaped(path)}" flags=(unconfined) {{\n  userns,\n}}\n')
    return "".join(parts)


def _word(path: str) -> str:
    """The name of a file for a profile's.

    Any file can be the one that a variable names, and in a name all is as in a path.
    """
    return "".join(re.findall("[A-Za-z0-9_.+-]", os.path.basename(path)))


def is_own_profile(label: str, path: str) -> bool:
    """Whether a program's label shows that a profile applies to it.

    A program without a profile inherits that of the program that starts it, if that one confines
    nothing. So one of ours only counts for the program that it is named after.

    :param label: as /proc/PID/attr/apparmor/current has it, such as ``"NAME (enforce)"``.
    """
    name = label.partition(" (")[0]
    ours = f"{APPARMOR_NAME}-host-"
    if name.startswith(ours):
        return name.removeprefix(ours).partition("-")[2] == _word(path)
    return name != "unconfined"


def _escaped(path: str) -> str:
    """A path in which no character is a pattern (apparmor.d(5))."""
    return "".join(f"\\{char}" if char in '\\"*?[]{}^@' else char for char in path)


def has_apparmor() -> bool:
    """Whether the kernel confines programs by AppArmor, and so an engine its containers."""
    try:
        return _APPARMOR_ENABLED.read_text().strip() == "Y"
    except OSError:
        return False


def engine_options(*, seccomp: str, apparmor: bool, ids: Ids = "one") -> list[str]:
    """What ``docker run`` or ``podman run`` needs; nothing is left to a container that needs none.

    :param seccomp: the file with the seccomp profile, as the engine's client finds it.
    :param apparmor: whether to name the AppArmor profile, which the host must have loaded.
    :param ids: whether a run maps the caller's id only, or its subordinate ids too.
    """
    # What runsc does as root, it does with the capabilities of its own user namespace.
    options = ["--cap-drop=ALL"]
    if ids == "all":
        # newuidmap and newgidmap have one each as a file capability, for which no_new_privs is off.
        options += ["--cap-add=SETUID", "--cap-add=SETGID"]
    else:
        options.append("--security-opt=no-new-privileges")
    options.append(f"--security-opt=seccomp={seccomp}")
    if apparmor:
        options.append(f"--security-opt=apparmor={APPARMOR_NAME}")
    return options
