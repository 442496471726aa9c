"""What in a bundle an unprivileged runsc will stumble over, and what reaches outside of it.

Every rule about what fails comes from a run of runsc (20240729) that did; most of them told no more
than ``waiting for sandbox to start: EOF``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from usernsctl.gvisor.oci.bundle import Bundle
from usernsctl.gvisor.oci.files import FileView, check_files, is_bind
from usernsctl.gvisor.oci.ids import IdView, Reach, check_ids
from usernsctl.gvisor.oci.model import Config, Linux, Violation
from usernsctl.gvisor.oci.outside import check_outside
from usernsctl.gvisor.oci.parsing import validate
from usernsctl.maps import Extent

Network = Literal["none", "host"]


def check_refusals(config: Config, network: Network) -> Iterator[Violation]:
    """Everything that depends on nothing but the file itself, and on how runsc is called."""
    linux = config.linux or Linux()
    yield from _check_platform(config)
    yield from _check_joins(linux, network)
    yield from _check_propagation(config, linux)
    if linux.cgroups_path:
        yield Violation(
            path="$.linux.cgroupsPath",
            id="cgroup-not-delegated",
            problem=f"the cgroup {linux.cgroups_path}",
            why="without root runsc is called with --ignore-cgroups, so the command runs in "
            "the caller's cgroup, without limits of its own",
            remedy="remove it, and set limits where runsc is started",
            blocks=False,
        )
    if linux.devices:
        yield Violation(
            path="$.linux.devices",
            id="bundle-devices",
            problem="asks for device files",
            why="runsc releases before 20260223 crash over one without fileMode (runsc: "
            "`StartRoot failed: EOF`), and usernsctl gives them none; gVisor always has null, "
            "zero, full, random, urandom, tty, ptmx, fuse and net/tun",
            remedy="remove it",
        )
    yield from _check_process(config)


def _check_platform(config: Config) -> Iterator[Violation]:
    for name in ("solaris", "windows"):
        if getattr(config, name) is not None:
            yield Violation(
                path=f"$.{name}",
                id="bundle-other-system",
                problem="is a part for another system",
                why=f"runsc: `Spec.{name.capitalize()} is not supported`",
                remedy="remove it, if the root filesystem is one of Linux",
            )


def _check_joins(linux: Linux, network: Network) -> Iterator[Violation]:
    for index, entry in enumerate(linux.namespaces or ()):
        if not entry.path or entry.type == "user":  # the user namespace: see ids.py
            continue
        joins = entry.type == "network" and network == "host"
        yield Violation(
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


def _check_propagation(config: Config, linux: Linux) -> Iterator[Violation]:
    for index, mount in enumerate(config.mounts or ()):
        for option in mount.options or () if is_bind(mount) else ():
            if option in ("shared", "rshared"):
                yield Violation(
                    path=f"$.mounts[{index}].options",
                    id="bundle-propagation",
                    problem=f"the option {option!r}",
                    why=f'runsc: `mount option "{option}" is not supported`',
                    remedy='"rslave" or "rprivate"',
                )
    wanted = linux.rootfs_propagation
    if wanted and wanted not in ("private", "rprivate", "slave", "rslave"):
        yield Violation(
            path="$.linux.rootfsPropagation",
            id="bundle-propagation",
            problem=f"{wanted!r}",
            why="runsc: `root mount propagation option must specify private or slave`",
            remedy='"rslave" or "rprivate"',
        )


def _check_process(config: Config) -> Iterator[Violation]:
    if config.process.selinux_label:
        yield Violation(
            path="$.process.selinuxLabel",
            id="bundle-selinux",
            problem=f"the label {config.process.selinux_label!r}",
            why="runsc: `SELinux is not supported`",
            remedy="remove it",
        )
    wanted, own = config.process.oom_score_adj, _own_oom_score_adj()
    if wanted is not None and own is not None and wanted < own:
        yield Violation(
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


def check(
    config: dict[str, Any],
    bundle: str | os.PathLike[str] | Bundle,
    uid_map: Sequence[Extent],
    gid_map: Sequence[Extent],
    *,
    network: Network = "none",
    memory_overlay: bool = False,
) -> list[Violation]:
    """Find what would fail under rootless runsc, and all that reaches outside of the bundle.

    runsc is to run in a user and mount namespace with these ids. Call it outside of that: files are
    judged by the outside ids of the map.

    :param bundle: the directory that relative paths of `config` start at, or it opened.
    :param network: runsc's ``--network``.
    :param memory_overlay: whether runsc gets ``--overlay2=root:memory``, so that the root
        filesystem need not be writable.
    :raises BundleError: `config` hasn't the shape of a config.json (:func:`validate`), or there is
        no such directory.
    """
    typed = validate(config)
    if not isinstance(bundle, Bundle):
        with Bundle(bundle) as opened:
            return check(
                config, opened, uid_map, gid_map, network=network, memory_overlay=memory_overlay
            )
    ids = IdView(uid_map, gid_map)
    view = FileView(os.path.abspath(bundle.path), Reach(ids), memory_overlay)
    return [
        *check_outside(typed, bundle),
        *check_ids(typed, ids),
        *check_files(typed, view),
        *check_refusals(typed, network),
    ]
