"""Memory that C looks at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from usernsctl._native import ffi
from usernsctl._typing import Any


class Memory:
    """Keeps what C structs point to alive for as long as they are used."""

    def __init__(self) -> None:
        self._alive: list[Any] = []

    def string(self, value: bytes | str | None) -> Any:
        if value is None:
            return ffi.NULL
        value = os.fsencode(value)
        if b"\0" in value:
            raise ValueError("embedded null byte")
        return self.keep(ffi.new("char[]", value))

    def strings(self, values: Iterable[bytes]) -> Any:
        return self.keep(ffi.new("char *[]", [*map(self.string, values), ffi.NULL]))

    def numbers(self, ctype: str, values: Sequence[int]) -> Any:
        return self.keep(ffi.new(ctype, values))

    def keep(self, value: Any) -> Any:
        self._alive.append(value)
        return value
