"""Security profiles, and options of container engines, for containers that run rootless gVisor."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

Profile = Literal["seccomp.json", "seccomp-private-network.json", "apparmor"]
Ids = Literal["one", "all"]

#: Name of the AppArmor profile for containers.
APPARMOR_NAME = "usernsctl"

_APPARMOR_ENABLED = Path("/sys/module/apparmor/parameters/enabled")


def read(profile: Profile) -> str:
    """Return a profile: JSON for container engines (seccomp), or text for apparmor_parser(8)."""
    return Path(__file__).with_name(profile).read_text(encoding="utf-8")


_HOST_HEAD = """\
# Allows usernsctl, gVisor and the programs that they start, but no others, to create user
# namespaces where AppArmor restricts user namespaces (Ubuntu 23.10 and later). The profiles confine
# nothing.
abi <abi/4.0>,
include <tunables/global>
"""


def host_programs(runsc: str | None) -> list[str]:
    """Return the real paths of the programs of this installation that create user namespaces.

    The Python interpreter is not included, because its profile would let any script create user
    namespaces.

    :param runsc: the path of runsc, or ``None`` to leave out runsc.
    """
    from usernsctl._core.values import program_path

    names = ("child", "exec", "init", "probe", "watch")
    programs = [program_path(f"usernsctl-{name}") for name in names]
    # Include scripts, because AppArmor selects a profile by the path of the script, not of its
    # interpreter.
    scripts = [
        os.path.join(os.path.dirname(sys.executable), name)
        for name in ("usernsctl-exec", "usernsctl")
    ]
    found = [*programs, *scripts, *([runsc] if runsc else [])]
    # Resolve symbolic links, because AppArmor selects a profile by the real path.
    return list(dict.fromkeys(os.path.realpath(path) for path in found if os.path.exists(path)))


def host_profile(runsc: str | None) -> str:
    """Return AppArmor profiles that let the programs of this installation create user namespaces.

    :param runsc: the path of runsc, or ``None`` to leave out runsc.
    """
    return for_programs(host_programs(runsc))


def for_programs(paths: Iterable[str]) -> str:
    """Return AppArmor profiles that allow programs to create user namespaces.

    :param paths: the paths of the programs; symbolic links are not followed.
    """
    parts = [_HOST_HEAD]
    for number, path in enumerate(dict.fromkeys(paths)):
        name = f"{APPARMOR_NAME}-host-{number}-{_name_part(path)}"
        parts.append(f'\nprofile {name} "{_escaped(path)}" flags=(unconfined) {{\n  userns,\n}}\n')
    return "".join(parts)


def _name_part(path: str) -> str:
    """Return the basename of `path` without the characters that are special in a profile's name.

    `path` may contain any characters, because an environment variable may name runsc's path.
    """
    return "".join(re.findall("[A-Za-z0-9_.+-]", os.path.basename(path)))


def is_own_profile(label: str, path: str) -> bool:
    """Return whether an AppArmor label names a profile for the program at `path` itself.

    A program without a profile of its own inherits an unconfined profile, such as those of
    :func:`for_programs`, from the process that executes the program. Therefore, a profile of
    :func:`for_programs` counts only if its name contains the name of the program.

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
    """Return whether the kernel has AppArmor enabled, which container engines use by default."""
    try:
        return _APPARMOR_ENABLED.read_text().strip() == "Y"
    except OSError:
        return False


def engine_options(*, seccomp: str, apparmor: bool, ids: Ids = "one") -> list[str]:
    """Return options of ``docker run`` or ``podman run`` that give gVisor the fewest privileges.

    :param seccomp: the path of the seccomp profile, as the engine's client opens it.
    :param apparmor: whether to select the AppArmor profile :data:`APPARMOR_NAME`, which must be
        loaded on the host.
    :param ids: ``"one"`` if sandboxes map only the caller's own ids, ``"all"`` if they also map
        subordinate ids.
    """
    # Drop all capabilities, because runsc needs capabilities only in its own user namespace.
    options = ["--cap-drop=ALL"]
    if ids == "all":
        # newuidmap and newgidmap gain their file capabilities only if the bounding set contains
        # these capabilities, and if no_new_privs is not set.
        options += ["--cap-add=SETUID", "--cap-add=SETGID"]
    else:
        options.append("--security-opt=no-new-privileges")
    options.append(f"--security-opt=seccomp={seccomp}")
    if apparmor:
        options.append(f"--security-opt=apparmor={APPARMOR_NAME}")
    return options
