"""From the bytes of a config.json to Python objects that can be written back unchanged.

Stricter than :func:`json.loads` where a runtime would read the text differently from us: the Go
decoder takes the last of two equal keys, without regard to case, and replaces what isn't UTF-8. A
file that two programs read differently is refused.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, NoReturn, get_args, get_origin

import msgspec

from usernsctl.gvisor.oci.model import SECRET, Config
from usernsctl.gvisor.oci.write import fault

MAX_DEPTH = 100
"""Objects and arrays within each other; real files have about 6."""

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_SHOWN_MAX = 60
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def parse(text: bytes, *, filename: str | None = None) -> dict[str, Any]:
    """Read the text of a config.json.

    :raises BundleError: it isn't one JSON object in UTF-8, says a key twice, be it in another
        case, or nests deeper than :data:`MAX_DEPTH`. The message has the line and column, or the
        JSON path.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode("utf-8")
        _refuse(f"{_place(before, len(before))}: a byte that isn't UTF-8", filename)
    _refuse_deep_nesting(decoded, filename)
    try:
        config = json.loads(
            decoded,
            object_pairs_hook=_unique_keys,
            parse_int=_integer,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        _refuse(f"{_place(decoded, error.pos)}: broken JSON: {error.msg}", filename)
    _refuse_ambiguous(config, "$", filename)
    if not isinstance(config, dict):
        _refuse(f"$: found {describe(config)}; should be an object", filename)
    return config


def child(path: str, key: str | int) -> str:
    """The JSON path of a member of the object, or an element of the array, at `path`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if _PLAIN_KEY.match(key) and len(key) <= _SHOWN_MAX:
        return f"{path}.{key}"
    return f"{path}[{describe(key)}]"


def describe(value: object, *, secret: bool = False) -> str:
    """What was found, for a message: its JSON if that is short, else its type.

    :param secret: whether what is in a string is not to be told.
    """
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    if secret and isinstance(value, str):
        return "a string"
    text = str(value) if isinstance(value, Decimal) else json.dumps(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"


class _Fault:
    """Stands for a value that is refused, until its path is known."""

    def __init__(self, reason: str, key: str | None = None) -> None:
        self.reason = reason
        self.key = key


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Fault:
    members: dict[str, Any] = {}
    spellings: dict[str, str] = {}
    for key, value in pairs:
        if key in members:
            return _Fault("this key is there twice; keep one of them", key)
        other = spellings.setdefault(key.casefold(), key)
        if other != key:
            return _Fault(f"runtimes take it and {describe(other)} for one; keep one of them", key)
        members[key] = value
    return members


def _integer(text: str) -> int | _Fault:
    try:
        return int(text)
    except ValueError:  # Python's limit on digits
        return _Fault(f"a number of {len(text)} digits, which no runtime can read")


def _fraction(text: str) -> Decimal | _Fault:
    try:
        return Decimal(text)
    except InvalidOperation:
        return _Fault(f"{text[:40]} has an exponent that no runtime can read")


def _constant(name: str) -> _Fault:
    return _Fault(f"{name} is not JSON")


def _refuse_deep_nesting(text: str, filename: str | None) -> None:
    depth = 0
    for found in _BRACKETS.finditer(text):
        token = found.group()
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            place = _place(text, found.start())
            _refuse(f"{place}: more than {MAX_DEPTH} objects and arrays deep", filename)


def _refuse_ambiguous(value: object, path: str, filename: str | None) -> None:
    """Refuse what Python can hold, but a runtime would read as something else."""
    match value:
        case _Fault():
            where = path if value.key is None else child(path, value.key)
            _refuse(f"{where}: {value.reason}", filename)
        case str():
            _refuse_surrogates(value, path, filename)
        case dict():
            for key, member in value.items():
                _refuse_surrogates(key, path, filename)
                _refuse_ambiguous(member, child(path, key), filename)
        case list():
            for index, element in enumerate(value):
                _refuse_ambiguous(element, child(path, index), filename)


def _refuse_surrogates(text: str, path: str, filename: str | None) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        _refuse(f"{path}: half of a surrogate pair, which no UTF-8 text can have", filename)


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return f"line {line}, column {column}"


def _refuse(reason: str, filename: str | None) -> NoReturn:
    raise fault(reason, filename)


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
