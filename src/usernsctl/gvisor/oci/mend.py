"""Fixes to the config.json of an existing bundle, so that rootless runsc accepts the file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

import msgspec

from usernsctl._lean import dataclass
from usernsctl.gvisor.oci.builder import identity_mappings
from usernsctl.gvisor.oci.ids import IdView, mapping_fault
from usernsctl.gvisor.oci.schema import KINDS, Config, Linux, hook_names, validate
from usernsctl.maps import Extent


@dataclass(frozen=True, slots=True)
class Change:
    """A change that :func:`fix` made to a config.json.

    :ivar path: the JSON path of the changed value.
    :ivar text: the change in words, such as ``'added {"type": "user"}'``.
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
    """Return a copy of `config` with fixes for runsc in a namespace with the given id maps.

    The function adds a missing user namespace, missing mappings and a missing ``process.user``. It
    replaces mappings that the kernel or runsc would refuse by the identity map of the prepared
    namespace, and removes hooks and the ``path`` of a user namespace. All other keys are unchanged
    and in the same order. Fixing the copy again would change nothing.

    :param keep_hooks: whether to keep hooks, programs that runsc runs outside gVisor.
    :returns: the fixed copy, and the list of changes.
    :raises BundleError: `config` does not have the structure of a config.json (:func:`validate`).
    """
    typed = validate(config)
    fixed = copy.deepcopy(config)
    changes: list[Change] = []
    hooks = hook_names(typed.hooks)
    if hooks and not keep_hooks:
        del fixed["hooks"]
        changes.append(Change("$.hooks", f"removed; they ran outside gVisor: {', '.join(hooks)}"))
    if typed.process.user is None:
        fixed["process"]["user"] = {"uid": 0, "gid": 0}
        changes.append(Change("$.process.user", 'added {"uid": 0, "gid": 0}'))
    if typed.linux is None:
        fixed["linux"] = {}
    linux = fixed["linux"]
    _fix_namespaces(linux, changes)
    ids = IdView(uid_map, gid_map)
    for kind in KINDS:
        mappings = (typed.linux or Linux()).mappings(kind)
        extents = ids.extents(kind)
        if mapping_fault(mappings, extents) is not None:
            linux[f"{kind}Mappings"] = identity_mappings(extents)
            verb = "replaced by" if mappings else "added"
            wanted = ", ".join(f"{e.inside}:{e.inside}:{e.count}" for e in extents)
            changes.append(Change(f"$.linux.{kind}Mappings", f"{verb} {wanted}"))
    return fixed, changes


def _fix_namespaces(linux: dict[str, Any], changes: list[Change]) -> None:
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
    """Return a copy of a valid `config` without unknown keys, and keys that runsc must not get."""
    filtered: dict[str, Any] = _filter_keys(config, Config)
    return filtered


def _filter_keys(value: Any, kind: Any) -> Any:
    kind = _bare_type(kind)
    if value is None:
        return None
    if get_origin(kind) is list:
        return [_filter_keys(element, get_args(kind)[0]) for element in value]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        return {
            key: _filter_keys(member, types[key])
            for key, member in value.items()
            if key in types and not _is_withheld(types[key])
        }
    return dict(value) if isinstance(value, dict) else value


def _is_withheld(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return any((meta.extra or {}).get("withheld", False) for meta in get_args(kind)[1:])
    return type(None) in get_args(kind) and _is_withheld(get_args(kind)[0])


def _bare_type(kind: Any) -> Any:
    """Return the type `kind` without ``| None`` and without ``Annotated``."""
    while type(None) in get_args(kind) or get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind
