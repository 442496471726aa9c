"""Facts about the place: the container that we are in, and the control group."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from usernsctl.doctor.facts import Cgroup, Container, Engine
from usernsctl.doctor.facts_files import Tree

# gVisor has reported this build since 2018 (csrc/verify.c looks for it too).
_GVISOR_BUILD = "Sun Jan 10 15:06:54 PST 2016"

_KUBERNETES_SECRETS = "var/run/secrets/kubernetes.io"
_DOCKER_SOCKETS = ("run/docker.sock", "var/run/docker.sock")
_UNIFIED = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


def read_container(
    tree: Tree, environ: Mapping[str, str], points: Mapping[str, tuple[str, ...]] | None
) -> Container:
    """:param points: the mount points; ``None``: not known."""
    engine, sign = _engine(tree, environ)
    return Container(
        engine=engine,
        sign=sign,
        # A mount namespace has a mount at "/"; from a chroot it can't be seen.
        chroot=None if points is None else "/" not in points,
        docker_daemon=any(tree.exists(path) for path in _DOCKER_SOCKETS),
        userns_remap=_userns_remap(tree),
    )


def _engine(tree: Tree, environ: Mapping[str, str]) -> tuple[Engine | None, str]:
    # The innermost first: a pod's container is containerd's or Docker's too.
    if is_gvisor(tree):
        return "gvisor", "/proc/version is gVisor's"
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "kubernetes", "the variable KUBERNETES_SERVICE_HOST is set"
    if tree.exists(_KUBERNETES_SECRETS):
        return "kubernetes", f"/{_KUBERNETES_SECRETS} exists"
    if tree.exists("run/.containerenv"):
        return "podman", "/run/.containerenv exists"
    if tree.exists(".dockerenv"):
        return "docker", "/.dockerenv exists"
    if environ.get("container"):
        return "other", f"the variable container is {environ['container']}"
    return None, ""


def is_gvisor(tree: Tree) -> bool:
    return _GVISOR_BUILD in (tree.text("proc/version") or "")


def _userns_remap(tree: Tree) -> str | None:
    try:
        settings = json.loads(tree.text("etc/docker/daemon.json") or "{}")
    except ValueError:
        return None
    remap = settings.get("userns-remap") if isinstance(settings, dict) else None
    return remap if isinstance(remap, str) and remap else None


def _own_groups(tree: Tree) -> dict[str, str]:
    """Our control group in each hierarchy, by its controllers; "" is that of version 2."""
    groups = {}
    for line in (tree.text("proc/self/cgroup") or "").split("\n"):
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            groups[controllers] = path
    return groups


def read_cgroup(tree: Tree) -> Cgroup:
    path = _own_groups(tree).get("")
    for top in _UNIFIED:
        if path is not None and tree.exists(f"{top}/cgroup.procs"):
            directory = f"/{top}{path}".rstrip("/")
            return Cgroup(
                directory=directory,
                delegated=os.access(tree.path(directory), os.W_OK | os.X_OK)
                and os.access(tree.path(f"{directory}/cgroup.procs"), os.W_OK),
            )
    return Cgroup()


def read_pids(tree: Tree) -> tuple[int | None, int | None]:
    """The smallest pids.max from our control group upwards, and how many there are there now."""
    groups = _own_groups(tree)
    places = [(f"sys/fs/cgroup/{names}", path) for names, path in groups.items() if names == "pids"]
    places += [(top, groups[""]) for top in _UNIFIED if "" in groups]
    found: list[tuple[int, int | None]] = []
    for top, path in places:
        while True:
            directory = f"{top}{path.rstrip('/')}"
            most = tree.number(f"{directory}/pids.max")
            if most is not None:
                found.append((most, tree.number(f"{directory}/pids.current")))
            if path.rstrip("/") == "":
                break
            path = os.path.dirname(path)
    return min(found, key=lambda limit: limit[0], default=(None, None))
