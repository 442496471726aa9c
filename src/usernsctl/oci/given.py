"""What runsc is given of a config.json: no key that we did not look at."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

import msgspec

from usernsctl.oci.model import Config


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
