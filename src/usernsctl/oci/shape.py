"""Whether a config.json has the shape that :mod:`usernsctl.oci.model` describes."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn, get_args, get_origin

import msgspec

from usernsctl.oci.model import Config
from usernsctl.oci.parse import child, describe, fault
from usernsctl.oci.values import SECRET

# msgspec looks at a class, and at those that it mentions, when one is used first. Two threads that
# do so at once crash the process; an import is one thread's.
msgspec.json.Decoder(Config)


_UINT64_MAX = 2**64 - 1  # the greatest number that runsc reads


def validate(config: dict[str, Any], *, filename: str | None = None) -> Config:
    """Check the keys of `config` that runsc reads; return them typed.

    :raises BundleError: a value has the wrong type or is out of range, a required one is
        missing, or a key differs from one of the specification's only in upper and lower case.
        The message has the JSON path, what was found, and what would be right; a value of an
        environment is not in it.
    """
    _Shape(filename).check(config, Config, "$")
    return msgspec.convert(config, Config)


class _Shape:
    """Walks a value and its type side by side, so that every message has the exact path."""

    def __init__(self, filename: str | None) -> None:
        self._filename = filename

    def check(self, value: object, kind: Any, path: str) -> None:
        if type(None) in get_args(kind):
            if value is None:
                return
            kind = get_args(kind)[0]
        bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            self._object(value, bare, path)
            return
        if get_origin(bare) is list and isinstance(value, list):
            for index, element in enumerate(value):
                self.check(element, get_args(bare)[0], child(path, index))
        elif get_origin(bare) is dict and isinstance(value, dict):
            for key, member in value.items():
                self.check(member, get_args(bare)[1], child(path, key))
        try:
            msgspec.convert(value, kind)
            fits = bare is not int or value <= _UINT64_MAX  # type: ignore[operator]
        except msgspec.ValidationError:
            fits = False
        if not fits:
            found = describe(value, secret=SECRET in (bare, kind, *get_args(bare)))
            self._refuse(f"{path}: found {found}; should be {_description(kind)}")

    def _object(self, value: object, kind: type[msgspec.Struct], path: str) -> None:
        if not isinstance(value, dict):
            self._refuse(f"{path}: found {describe(value)}; should be an object")
        fields = msgspec.structs.fields(kind)
        self._refuse_misspelled(value, [field.encode_name for field in fields], path)
        for field in fields:
            where = child(path, field.encode_name)
            if field.encode_name in value:
                self.check(value[field.encode_name], field.type, where)
            elif field.required:
                self._refuse(f"{where}: missing; should be {_description(field.type)}")

    def _refuse_misspelled(self, value: dict[str, Any], names: list[str], path: str) -> None:
        """Refuse ``Process`` for ``process``: Go decoders take it, and we would not see it.

        They compare by Unicode's simple folding (encoding/json, foldName), to which \u017f is an s
        and the Kelvin sign a k; what casefold() takes to be the same is that and more.
        """
        folded = {name.casefold(): name for name in names}
        for key in value:
            meant = folded.get(key.casefold(), key)
            if meant != key:
                where = child(path, key)
                self._refuse(f"{where}: runtimes read this key as {meant!r}; spell it that way")

    def _refuse(self, reason: str) -> NoReturn:
        raise fault(reason, self._filename)


def _description(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        meta = get_args(kind)[1]
        return str(meta.description)
    return "an array" if get_origin(kind) is list else "an object"
