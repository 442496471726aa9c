"""The catalogue of the causes of failures, read from the files in ``causes/``.

When the C core is built, csrc/explain/texts.py generates a C table of the ids, the reasons and the
host's remedies from the same files.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from usernsctl.explain.model import Cause, Place, Purpose

#: The names of the catalogue's files, in the order in which their causes prevent a sandbox from
#: starting.
AREAS = ("namespaces", "maps", "helpers", "runsc", "network", "bundle", "commands", "containers")


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cause, parsed from its file. :class:`usernsctl.explain.model.Cause` documents most fields.

    :ivar in_vm: whether only tests in the virtual machine reproduce the cause, because not every
        host can have the failure.
    :ivar given: the reason why no test reproduces the cause; ``None`` if a test does. If there is a
        reason, the tests call usernsctl with facts or a message that point to the cause.
    """

    id: str
    title: str
    told_by: str
    reference: str
    purposes: tuple[Purpose, ...]
    why: str
    remedies: dict[Place, str]
    prose: bool = False
    in_vm: bool = False
    given: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    cause: tuple[Entry, ...]


def entries() -> Iterator[tuple[str, Entry]]:
    """Yield each entry of the catalogue, together with its area (the name of its file)."""
    directory = Path(__file__).with_name("causes")
    for area in AREAS:
        table = tomllib.loads((directory / f"{area}.toml").read_text(encoding="utf-8"))
        for entry in msgspec.convert(table, _File).cause:
            yield area, entry


@functools.cache
def catalogue() -> Mapping[str, Cause]:
    """Return a dict that maps ids to causes, in the order of the catalogue's files."""
    return MappingProxyType({entry.id: _complete(entry) for _, entry in entries()})


def get(cause_id: str) -> Cause:
    """Return the cause with the id `cause_id`.

    :raises KeyError: no cause has this id.
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
    )
