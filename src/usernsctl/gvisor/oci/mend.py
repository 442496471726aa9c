"""Mending a config.json that somebody else has made."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

import msgspec

from usernsctl._lean import dataclass
from usernsctl.gvisor.oci.builder import identity_mappings
from usernsctl.gvisor.oci.ids import IdView, mapping_fault
from usernsctl.gvisor.oci.schema import KINDS, Config, Linux, named_hooks, validate
from usernsctl.maps import Extent


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that :func:`fix` did.

    :ivar path: where, as a JSON path.
    :ivar text: what, such as ``'added {"type": "user"}'``.
    """

    path: str
    text: str


def fix(
    config: dict[str, Any],
    uid_map: Sequence[Extent],
    gid_map: Sequence[Extent],
    *,
    keep_hooks: bool = False,
) -> tuple[dict[str, Any], list[Change]]:
    """Mend `config` for runsc in a prepared namespace with these ids.

    It gets a user namespace, mappings and ``process.user`` where these are missing, and the
    identity map of the prepared namespace where its own mappings can't be had in there. Hooks are
    taken out. All other keys stay as they are, in their order. A second call changes nothing.

    :param keep_hooks: whether the hooks stay: programs that runsc runs outside gVisor.
    :returns: a new config, and what was changed; `config` itself is left alone.
    :raises BundleError: `config` hasn't the shape of a config.json (:func:`validate`).
    """
    typed = validate(config)
    mended = copy.deepcopy(config)
    changes: list[Change] = []
    moments = named_hooks(typed.hooks)
    if moments and not keep_hooks:
        del mended["hooks"]
        changes.append(Change("$.hooks", f"removed; they ran outside gVisor: {', '.join(moments)}"))
    if typed.process.user is None:
        mended["process"]["user"] = {"uid": 0, "gid": 0}
        changes.append(Change("$.process.user", 'added {"uid": 0, "gid": 0}'))
    if typed.linux is None:
        mended["linux"] = {}
    linux = mended["linux"]
    _mend_namespaces(linux, changes)
    ids = IdView(uid_map, gid_map)
    for kind in KINDS:
        mappings = (typed.linux or Linux()).mappings(kind)
        extents = ids.extents(kind)
        if mapping_fault(mappings, extents) is not None:
            linux[f"{kind}Mappings"] = identity_mappings(extents)
            did = "replaced by" if mappings else "added"
            wanted = ", ".join(f"{e.inside}:{e.inside}:{e.count}" for e in extents)
            changes.append(Change(f"$.linux.{kind}Mappings", f"{did} {wanted}"))
    return mended, changes


def _mend_namespaces(linux: dict[str, Any], changes: list[Change]) -> None:
    if linux.get("namespaces") is None:
        linux["namespaces"] = []
    users = 0
    for index, entry in enumerate(linux["namespaces"]):
        if entry["type"] == "user":
            users += 1
            if entry.get("path"):
                path = entry.pop("path")
                changes.append(Change(f"$.linux.namespaces[{index}].path", f"removed {path}"))
    if not users:
        linux["namespaces"].append({"type": "user"})
        changes.append(Change("$.linux.namespaces", 'added {"type": "user"}'))


def for_runsc(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a valid `config` without the keys that are unknown or withheld (model.py)."""
    given: dict[str, Any] = _given(config, Config)
    return given


def _given(value: Any, kind: Any) -> Any:
    kind = _bare(kind)
    if value is None:
        return None
    if get_origin(kind) is list:
        return [_given(element, get_args(kind)[0]) for element in value]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        return {
            key: _given(member, known[key])
            for key, member in value.items()
            if key in known and not _withheld(known[key])
        }
    return dict(value) if isinstance(value, dict) else value


def _withheld(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return any((meta.extra or {}).get("withheld", False) for meta in get_args(kind)[1:])
    return type(None) in get_args(kind) and _withheld(get_args(kind)[0])


def _bare(kind: Any) -> Any:
    """The type itself of one that may be ``None``, or that has a rule with it."""
    while type(None) in get_args(kind) or get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind
