"""The causes that can be told, read from the files in ``causes/``.

The C core has the ids, reasons and remedies for the host as well: its table is made of these files
when it is built (csrc/explain/texts.py).
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from usernsctl.explain.model import Cause, Place, Purpose

#: The files of the catalogue, in the order in which their causes get in the way.
AREAS = ("namespaces", "maps", "helpers", "runsc", "bundle", "commands", "containers")


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cause as its file has it; see :class:`~usernsctl.explain.model.Cause` for the fields.

    :ivar reproduced: whether the tests make it real; ``"vm"``: those of the virtual machine do,
        since not every machine can be made to fail so.
    """

    id: str
    title: str
    told_by: str
    reference: str
    purposes: tuple[Purpose, ...]
    why: str
    remedies: dict[Place, str]
    prose: bool = False
    reproduced: bool | Literal["vm"] = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    cause: tuple[Entry, ...]


def entries() -> Iterator[tuple[str, Entry]]:
    """Every entry as the files have it, after the area that it is of."""
    directory = Path(__file__).with_name("causes")
    for area in AREAS:
        table = tomllib.loads((directory / f"{area}.toml").read_text(encoding="utf-8"))
        for entry in msgspec.convert(table, _File).cause:
            yield area, entry


@functools.cache
def catalogue() -> Mapping[str, Cause]:
    """Every cause by its id, in the order of the files."""
    return MappingProxyType({entry.id: _complete(entry) for _, entry in entries()})


def get(cause_id: str) -> Cause:
    """The cause with this id.

    :raises KeyError: there is none.
    """
    return catalogue()[cause_id]


def _complete(entry: Entry) -> Cause:
    return Cause(
        id=entry.id,
        title=entry.title,
        why=entry.why,
        told_by=entry.told_by,
        remedies=MappingProxyType({place: text.strip() for place, text in entry.remedies.items()}),
        prose=entry.prose,
        purposes=entry.purposes,
        reference=entry.reference,
        reproduced=bool(entry.reproduced),
    )
