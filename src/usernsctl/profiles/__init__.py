"""Security profiles and options for container engines whose containers run rootless gVisor."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

Profile = Literal["seccomp.json", "seccomp-private-network.json", "apparmor"]
Ids = Literal["one", "all"]

#: Name of the AppArmor profile.
APPARMOR_NAME = "usernsctl"

_APPARMOR_ENABLED = Path("/sys/module/apparmor/parameters/enabled")


def read(profile: Profile) -> str:
    """Read a profile in the format of container engines or apparmor_parser(8)."""
    return Path(__file__).with_name(profile).read_text(encoding="utf-8")


_HOST_HEAD = """\
# Lets usernsctl and gVisor make user namespaces where AppArmor restricts them (Ubuntu 23.10 and
# later), and what these programs start, but no other program. It confines nothing.
abi <abi/4.0>,
include <tunables/global>
"""


def host_programs(runsc: str | None) -> list[str]:
    """Return the real paths of the programs of this installation that create user namespaces.

    The Python interpreter is not included, since all scripts could create user namespaces then.

    :param runsc: the path of runsc, to include it.
    """
    from usernsctl._core.values import program_path

    names = ("child", "exec", "init", "probe", "watch")
    programs = [program_path(f"usernsctl-{name}") for name in names]
    # AppArmor chooses a profile by the path of a script, not by that of its interpreter.
    scripts = [
        os.path.join(os.path.dirname(sys.executable), name)
        for name in ("usernsctl-exec", "usernsctl")
    ]
    found = [*programs, *scripts, *([runsc] if runsc else [])]
    # AppArmor chooses a profile by the path without symbolic links.
    return list(dict.fromkeys(os.path.realpath(path) for path in found if os.path.exists(path)))


def host_profile(runsc: str | None) -> str:
    """Return AppArmor profiles that allow user namespaces to the programs of this installation.

    :param runsc: the path of runsc, to include it.
    """
    return for_programs(host_programs(runsc))


def for_programs(paths: Iterable[str]) -> str:
    """Return AppArmor profiles that allow user namespaces to programs.

    :param paths: the paths of the programs; symbolic links are not followed.
    """
    parts = [_HOST_HEAD]
    for number, path in enumerate(dict.fromkeys(paths)):
        name = f"{APPARMOR_NAME}-host-{number}-{_name_part(path)}"
        parts.append(f'\nprofile {name} "{_escaped(path)}" flags=(unconfined) {{\n  userns,\n}}\n')
    return "".join(parts)


def _name_part(path: str) -> str:
    """Return the basename of `path` without the characters that are special in a profile's name.

    An environment variable may name any file as runsc.
    """
    return "".join(re.findall("[A-Za-z0-9_.+-]", os.path.basename(path)))


def is_own_profile(label: str, path: str) -> bool:
    """Return whether the AppArmor label of a program is that of a profile for the program itself.

    A program without a profile inherits the unconfined profile of its parent. So a profile of
    :func:`for_programs` only counts for the program that it is named after.

    :param label: the text in /proc/PID/attr/apparmor/current, such as ``"NAME (enforce)"``.
    :param path: the path of the program.
    """
    name = label.partition(" (")[0]
    prefix = f"{APPARMOR_NAME}-host-"
    if name.startswith(prefix):
        return name.removeprefix(prefix).partition("-")[2] == _name_part(path)
    return name != "unconfined"


def _escaped(path: str) -> str:
    """Escape the characters of a path that are special in patterns (apparmor.d(5))."""
    return "".join(f"\\{char}" if char in '\\"*?[]{}^@' else char for char in path)


def has_apparmor() -> bool:
    """Return whether AppArmor is enabled in the kernel, so that engines use it for containers."""
    try:
        return _APPARMOR_ENABLED.read_text().strip() == "Y"
    except OSError:
        return False


def engine_options(*, seccomp: str, apparmor: bool, ids: Ids = "one") -> list[str]:
    """Return the options of ``docker run`` or ``podman run``, with the fewest privileges.

    :param seccomp: the path of the seccomp profile for the engine's client.
    :param apparmor: whether to name the AppArmor profile, which must be loaded on the host.
    :param ids: whether sandboxes map only the caller's ids, or also its subordinate ids.
    """
    # runsc only needs the capabilities in its own user namespace.
    options = ["--cap-drop=ALL"]
    if ids == "all":
        # newuidmap and newgidmap have these as file capabilities, which no_new_privs would disable.
        options += ["--cap-add=SETUID", "--cap-add=SETGID"]
    else:
        options.append("--security-opt=no-new-privileges")
    options.append(f"--security-opt=seccomp={seccomp}")
    if apparmor:
        options.append(f"--security-opt=apparmor={APPARMOR_NAME}")
    return options
