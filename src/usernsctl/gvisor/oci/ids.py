"""Checks of a bundle's ids and file permissions against the id maps of the prepared namespace.

The *prepared namespace* is the user namespace in which runsc is started.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator, Sequence

from usernsctl._lean import dataclass
from usernsctl.gvisor.oci.schema import KINDS, MAX_ID, Config, IdMapping, Kind, Linux, Violation
from usernsctl.maps import Extent

WRITE, SEARCH = 2, 1


@dataclass(frozen=True, slots=True)
class Reach:
    """The file permissions of root in a user namespace, computed from the namespace's id maps.

    Root of a user namespace overrides the mode of files whose owner *and* group are both mapped in
    the namespace (the kernel's capable_wrt_inode_uidgid()). For other files, root has only the
    permissions of the ids of the parent namespace to which uid 0 and gid 0 are mapped.
    """

    ids: IdView

    def blocked_at(self, path: str, need: int) -> str | None:
        """Return the file whose permissions deny access to `path`, or ``None``.

        The result is the first directory that can't be searched, or `path` itself if its mode
        denies one of the permissions `need` (WRITE, SEARCH). A file that the caller can't stat
        counts as accessible, since the namespace may map ids that the caller does not have.

        :raises OSError: `path` doesn't exist, or a component of it is not a directory.
        """
        real = os.path.realpath(path)
        with contextlib.suppress(PermissionError):  # the loop below finds the denied directory
            os.stat(real)
        try:
            for directory in _ancestors(real):
                if not self._allows(directory, SEARCH):
                    return directory
            return None if self._allows(real, need) else real
        except PermissionError:
            return None

    def _allows(self, path: str, need: int) -> bool:
        status = os.stat(path)
        uid_map, gid_map = self.ids.uid_map, self.ids.gid_map
        if _maps(uid_map, status.st_uid) and _maps(gid_map, status.st_gid):
            return True
        uid, gid = _outside_root(uid_map), _outside_root(gid_map)
        if uid == os.geteuid() != 0:
            # Id 0 of the namespace is mapped to the caller, so access(2) gives the answer. Unlike
            # the mode, access(2) takes ACLs and supplementary groups into account.
            return os.access(path, need)
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        return (stat.S_IMODE(status.st_mode) >> shift) & need == need


def _maps(extents: Sequence[Extent], outside: int) -> bool:
    return any(e.has_outside(outside) for e in extents)


def _outside_root(extents: Sequence[Extent]) -> int | None:
    """Return the id of the parent namespace to which id 0 is mapped, or None."""
    return next((e.outside for e in extents if e.inside == 0), None)


def _ancestors(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/", *("/" + "/".join(parts[: end + 1]) for end in range(len(parts)))]


_MAX_MAPPINGS = 340  # UID_GID_MAP_MAX_EXTENTS since Linux 4.15


@dataclass(frozen=True, slots=True)
class IdView:
    """The uid extents and the gid extents of the prepared namespace."""

    uid_map: Sequence[Extent]
    gid_map: Sequence[Extent]

    def extents(self, kind: Kind) -> Sequence[Extent]:
        """Return the uid extents or the gid extents, depending on `kind`."""
        return self.uid_map if kind == "uid" else self.gid_map


@dataclass(frozen=True, slots=True)
class MappingFault:
    """The reason why the kernel or runsc rejects a list of id mappings."""

    id: str
    problem: str
    why: str


def mapping_fault(
    mappings: Sequence[IdMapping] | None, extents: Sequence[Extent]
) -> MappingFault | None:
    """Return why a user namespace can't have `mappings` if its parent has `extents`, or None.

    The kernel requires that each extent lies within one extent of the parent (user_namespaces(7)).
    runsc requires that 0 is mapped, because its processes switch to 0:0.
    """
    if not mappings:
        return MappingFault(
            "bundle-no-mappings",
            "a user namespace without mappings",
            "runsc can't set its own ids there (runsc: `waiting for sandbox to start: EOF`)",
        )
    for mapping in mappings:
        if not _within_one(mapping, extents):
            has = ", ".join(_range(extent.inside, extent.count) for extent in extents)
            return MappingFault(
                "outside-parent-map",
                f"maps hostID {_range(mapping.host_id, mapping.size)}, "
                f"but the namespace that runsc is started in has {has or 'no ids'}",
                "each extent must lie within one extent there (runsc: `operation not permitted`)",
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


def check_ids(config: Config, ids: IdView) -> Iterator[Violation]:
    """Yield violations for the user namespace, id mappings and ``process.user`` of `config`."""
    linux = config.linux or Linux()
    users = [entry for entry in linux.namespaces or () if entry.type == "user"]
    if not users:
        yield _no_user_namespace()
    for index, entry in enumerate(linux.namespaces or ()):
        if entry.type == "user" and entry.path:
            yield Violation(
                path=f"$.linux.namespaces[{index}].path",
                id="bundle-join-user",
                problem=f"joins the user namespace {entry.path}",
                why="runsc can join only namespaces below its own (runsc: `error setting "
                "namespace of type user`)",
                remedy="remove the path",
                fixable=True,
            )
    for kind in KINDS:
        yield from _check_mappings(linux, kind, ids.extents(kind), has_namespace=bool(users))
    yield from _check_user(config, ids)


def _no_user_namespace() -> Violation:
    return Violation(
        path="$.linux.namespaces",
        id="bundle-no-mappings",
        problem="no user namespace",
        why="without --rootless, runsc adds no user namespace, or maps all ids of the machine",
        remedy='add {"type": "user"}, and the mappings',
        fixable=True,
    )


def _check_mappings(
    linux: Linux, kind: Kind, extents: Sequence[Extent], *, has_namespace: bool
) -> Iterator[Violation]:
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
        yield Violation(
            path=f"$.linux.{kind}Mappings",
            id=fault.id,
            problem=fault.problem,
            why=fault.why,
            remedy=f"containerID:hostID:size should be {wanted}",
            fixable=True,
        )


def _check_user(config: Config, ids: IdView) -> Iterator[Violation]:
    user = config.process.user
    if user is None:
        yield Violation(
            path="$.process.user",
            id="bundle-no-user",
            problem="missing",
            why="the OCI specification requires a user; runsc uses 0:0",
            remedy='add {"uid": 0, "gid": 0}',
            fixable=True,
            blocks=False,
        )
        return
    for kind in KINDS:
        value = (user.uid if kind == "uid" else user.gid) or 0
        if not any(e.has(value) for e in ids.extents(kind)):
            yield Violation(
                path=f"$.process.user.{kind}",
                id="bundle-user-unmapped",
                problem=f"{kind} {value} is not mapped",
                why="the command has no id outside, and can't create files in bind mounts "
                "(`Invalid argument`)",
                remedy=f"map {kind} {value}, or use 0",
                blocks=False,
            )


def _within_one(mapping: IdMapping, extents: Sequence[Extent]) -> bool:
    return any(e.has(mapping.host_id, mapping.size) for e in extents)


def _malformed(mappings: Sequence[IdMapping]) -> str | None:
    """Return the reason why the kernel would reject `mappings` in any namespace, or None."""
    if len(mappings) > _MAX_MAPPINGS:
        return f"{len(mappings)} mappings; the kernel allows {_MAX_MAPPINGS}"
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
