"""What runsc refuses, or leaves out, of a config.json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from usernsctl.oci.files import is_bind
from usernsctl.oci.finding import Finding
from usernsctl.oci.model import Config, Linux

Network = Literal["none", "host"]


def check_refusals(config: Config, network: Network) -> Iterator[Finding]:
    """Everything that depends on nothing but the file itself, and on how runsc is called."""
    linux = config.linux or Linux()
    yield from _check_platform(config)
    yield from _check_joins(linux, network)
    yield from _check_propagation(config, linux)
    if linux.cgroups_path:
        yield Finding(
            path="$.linux.cgroupsPath",
            id="cgroup-not-delegated",
            problem=f"the cgroup {linux.cgroups_path}",
            why="without root runsc is called with --ignore-cgroups, so the command runs in "
            "the caller's cgroup, without limits of its own",
            remedy="remove it, and set limits where runsc is started",
            blocks=False,
        )
    if linux.devices:
        yield Finding(
            path="$.linux.devices",
            id="bundle-devices",
            problem="asks for device files",
            why="runsc releases before 20260223 crash over one without fileMode (runsc: "
            "`StartRoot failed: EOF`), and usernsctl gives them none; gVisor always has null, "
            "zero, full, random, urandom, tty, ptmx, fuse and net/tun",
            remedy="remove it",
        )
    yield from _check_process(config)


def _check_platform(config: Config) -> Iterator[Finding]:
    for name in ("solaris", "windows"):
        if getattr(config, name) is not None:
            yield Finding(
                path=f"$.{name}",
                id="bundle-other-system",
                problem="is a part for another system",
                why=f"runsc: `Spec.{name.capitalize()} is not supported`",
                remedy="remove it, if the root filesystem is one of Linux",
            )


def _check_joins(linux: Linux, network: Network) -> Iterator[Finding]:
    for index, entry in enumerate(linux.namespaces or ()):
        if not entry.path or entry.type == "user":  # the user namespace: see ids.py
            continue
        joins = entry.type == "network" and network == "host"
        yield Finding(
            path=f"$.linux.namespaces[{index}].path",
            id="join-denied" if joins else "bundle-join-ignored",
            problem=f"joins the {entry.type} namespace {entry.path}",
            why="the prepared namespace has no capability over it (runsc: `error setting "
            "namespace of type network`: operation not permitted)"
            if joins
            else f"runsc makes the {entry.type} namespace itself, inside the sandbox, and "
            "ignores the path",
            remedy="remove the path, and start runsc in that network namespace"
            if joins
            else "remove the path",
            blocks=joins,
        )


def _check_propagation(config: Config, linux: Linux) -> Iterator[Finding]:
    for index, mount in enumerate(config.mounts or ()):
        for option in mount.options or () if is_bind(mount) else ():
            if option in ("shared", "rshared"):
                yield Finding(
                    path=f"$.mounts[{index}].options",
                    id="bundle-propagation",
                    problem=f"the option {option!r}",
                    why=f'runsc: `mount option "{option}" is not supported`',
                    remedy='"rslave" or "rprivate"',
                )
    wanted = linux.rootfs_propagation
    if wanted and wanted not in ("private", "rprivate", "slave", "rslave"):
        yield Finding(
            path="$.linux.rootfsPropagation",
            id="bundle-propagation",
            problem=f"{wanted!r}",
            why="runsc: `root mount propagation option must specify private or slave`",
            remedy='"rslave" or "rprivate"',
        )


def _check_process(config: Config) -> Iterator[Finding]:
    if config.process.selinux_label:
        yield Finding(
            path="$.process.selinuxLabel",
            id="bundle-selinux",
            problem=f"the label {config.process.selinux_label!r}",
            why="runsc: `SELinux is not supported`",
            remedy="remove it",
        )
    wanted, own = config.process.oom_score_adj, _own_oom_score_adj()
    if wanted is not None and own is not None and wanted < own:
        yield Finding(
            path="$.process.oomScoreAdj",
            id="bundle-oom-score",
            problem=f"{wanted} is below {own}, the caller's",
            why="only CAP_SYS_RESOURCE of the initial user namespace may lower it, proc(5) "
            "(runsc: `setting oom_score_adj`: permission denied)",
            remedy=f"{own} or more, or remove it",
        )


def _own_oom_score_adj() -> int | None:
    try:
        return int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
