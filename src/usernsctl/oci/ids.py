"""Which ids a config.json names, and whether the prepared namespace has them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from usernsctl.idmap import Extent
from usernsctl.oci.finding import Finding
from usernsctl.oci.model import KINDS, Config, IdMapping, Kind, Linux
from usernsctl.oci.values import MAX_ID

_MAX_MAPPINGS = 340  # UID_GID_MAP_MAX_EXTENTS, since Linux 4.15


@dataclass(frozen=True, slots=True)
class IdView:
    """The extents of the prepared namespace."""

    uid_map: Sequence[Extent]
    gid_map: Sequence[Extent]

    def extents(self, kind: Kind) -> Sequence[Extent]:
        return self.uid_map if kind == "uid" else self.gid_map


@dataclass(frozen=True, slots=True)
class MappingFault:
    """Why the kernel or runsc refuses a list of mappings."""

    id: str
    problem: str
    why: str


def mapping_fault(
    mappings: Sequence[IdMapping] | None, extents: Sequence[Extent]
) -> MappingFault | None:
    """What is wrong with `mappings` for a user namespace nested in one with `extents`.

    The rules are the kernel's (user_namespaces(7)): each extent must lie within one extent of
    the parent. And runsc's: its processes become 0:0 in the nested namespace.
    """
    if not mappings:
        return MappingFault(
            "bundle-no-mappings",
            "a user namespace without mappings",
            "no id exists in such a namespace, so runsc can't become anyone in it "
            "(runsc: `operation not permitted` or `waiting for sandbox to start: EOF`)",
        )
    for mapping in mappings:
        if not _within_one(mapping, extents):
            has = ", ".join(_range(extent.inside, extent.count) for extent in extents)
            return MappingFault(
                "outside-parent-map",
                f"maps hostID {_range(mapping.host_id, mapping.size)}, "
                f"but the namespace runsc is started in has {has or 'no ids'}",
                "hostID counts in the ids of the namespace that runsc is started in, and the "
                "kernel refuses an extent that isn't within one of its extents (runsc: "
                "`operation not permitted`, with a false hint at max_user_namespaces)",
            )
    if not any(mapping.container_id == 0 for mapping in mappings):
        return MappingFault(
            "bundle-root-unmapped",
            "containerID 0 is not mapped",
            "runsc's own processes become 0:0 in the namespace (runsc: `invalid argument`)",
        )
    malformed = _malformed(mappings)
    if malformed is not None:
        return MappingFault("map-invalid", malformed, "the kernel refuses such a map (EINVAL)")
    return None


def check_ids(config: Config, ids: IdView) -> Iterator[Finding]:
    """The user namespace, its mappings, and ``process.user``."""
    linux = config.linux or Linux()
    users = [entry for entry in linux.namespaces or () if entry.type == "user"]
    if not users:
        yield _no_user_namespace()
    for index, entry in enumerate(linux.namespaces or ()):
        if entry.type == "user" and entry.path:
            yield Finding(
                path=f"$.linux.namespaces[{index}].path",
                id="bundle-join-user",
                problem=f"joins the user namespace {entry.path}",
                why="a process can only join user namespaces below its own, and runsc is in "
                "the prepared one already (runsc: `error setting namespace of type user`)",
                remedy="remove the path",
                fixable=True,
            )
    for kind in KINDS:
        yield from _check_mappings(linux, kind, ids.extents(kind), has_namespace=bool(users))
    yield from _check_user(config, ids)


def _no_user_namespace() -> Finding:
    return Finding(
        path="$.linux.namespaces",
        id="bundle-no-mappings",
        problem="no user namespace",
        why="runsc adds one only with --rootless or in a prepared namespace; otherwise it asks "
        "newuidmap for all ids (`newuidmap failed: exit status 1`), or stops with `unable to "
        "run a rootless container without userns`",
        remedy='add {"type": "user"}, and the mappings',
        fixable=True,
    )


def _check_mappings(
    linux: Linux, kind: Kind, extents: Sequence[Extent], *, has_namespace: bool
) -> Iterator[Finding]:
    mappings = linux.mappings(kind)
    if not mappings and not has_namespace:
        return
    fault = mapping_fault(mappings, extents)
    if fault is None and not has_namespace:
        fault = MappingFault(
            "bundle-no-mappings",
            "mappings, but no user namespace",
            "runsc: `spec defines UID/GID mappings without defining userns`",
        )
    if fault is not None:
        wanted = ", ".join(f"{e.inside}:{e.inside}:{e.count}" for e in extents)
        yield Finding(
            path=f"$.linux.{kind}Mappings",
            id=fault.id,
            problem=fault.problem,
            why=fault.why,
            remedy=f"containerID:hostID:size should be {wanted}",
            fixable=True,
        )


def _check_user(config: Config, ids: IdView) -> Iterator[Finding]:
    user = config.process.user
    if user is None:
        yield Finding(
            path="$.process.user",
            id="bundle-no-user",
            problem="missing",
            why="the OCI specification requires it; runsc takes 0:0",
            remedy='add {"uid": 0, "gid": 0}',
            fixable=True,
            blocks=False,
        )
        return
    for kind in KINDS:
        value = (user.uid if kind == "uid" else user.gid) or 0
        if not any(e.inside <= value < e.inside + e.count for e in ids.extents(kind)):
            yield Finding(
                path=f"$.process.user.{kind}",
                id="bundle-user-unmapped",
                problem=f"{kind} {value} is not mapped",
                why="the command has this id in gVisor, but none outside: it is no owner of "
                "any file, and can't make files in bind mounts (`Invalid argument`)",
                remedy=f"a map with {kind} {value} in it, or 0",
                blocks=False,
            )


def _within_one(mapping: IdMapping, extents: Sequence[Extent]) -> bool:
    end = mapping.host_id + mapping.size
    return any(e.inside <= mapping.host_id and end <= e.inside + e.count for e in extents)


def _malformed(mappings: Sequence[IdMapping]) -> str | None:
    """What no parent's map could make good, user_namespaces(7)."""
    if len(mappings) > _MAX_MAPPINGS:
        return f"{len(mappings)} mappings; the kernel takes {_MAX_MAPPINGS}"
    for mapping in mappings:
        if mapping.container_id + mapping.size > MAX_ID:
            reach = _range(mapping.container_id, mapping.size)
            return f"maps containerID {reach}; the last id is {MAX_ID - 1}"
    for side, ranges in (
        ("containerID", [(mapping.container_id, mapping.size) for mapping in mappings]),
        ("hostID", [(mapping.host_id, mapping.size) for mapping in mappings]),
    ):
        for (first, size), (following, _) in itertools.pairwise(sorted(ranges)):
            if first + size > following:
                return f"two mappings overlap at {side} {following}"
    return None


def _range(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first} to {first + count - 1}"
