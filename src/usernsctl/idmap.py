"""Extents: the lines of an id map."""

from __future__ import annotations

from typing import NamedTuple


class Extent(NamedTuple):
    """`count` ids from `inside` on stand for as many from `outside` on (user_namespaces(7))."""

    inside: int
    outside: int
    count: int
