"""The refusals of a proxy, counted in memory that its parent reads.

The memory is a memfd of fixed size, a table of rows. Row 0 counts all refusals; each further row
has a distinct text and its count. The proxy writes a text before its count, which a reader takes
for the end of the table while it is 0, and each count is written by one aligned store. So neither
side waits for the other, and the counts outlive the proxy.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from usernsctl._lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TEXTS = 255
"""The number of distinct refusals that are listed. Further ones are only counted."""

_ROW = 512
_SIZE = _ROW * (MAX_TEXTS + 1)
_COUNT = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal of a proxy.

    :ivar text: the host with its port, as far as they are known, and the reason, in one line.
    :ivar count: how often.
    """

    text: str
    count: int


def create() -> int:
    """Return the descriptor of an empty table."""
    fd = os.memfd_create("usernsctl-refusals", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _SIZE)
    # Sealed, so that the proxy can't shorten the table: readers would then fail.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def total(fd: int) -> int:
    """Return the number of all refusals."""
    return _read_count(fd, 0)


def listed(fd: int) -> Iterator[Refusal]:
    """Return the distinct refusals, in the order of their first occurrences."""
    for row in range(1, MAX_TEXTS + 1):
        count = _read_count(fd, row)
        if not count:
            return
        text = os.pread(fd, _ROW - _COUNT.size, row * _ROW + _COUNT.size)
        yield Refusal(text.rstrip(b"\0").decode("utf-8", "replace"), count)


def _read_count(fd: int, row: int) -> int:
    count: int = _COUNT.unpack(os.pread(fd, _COUNT.size, row * _ROW))[0]
    return count


class Table:
    """The proxy's side of the table.

    Only one thread at a time may write.
    """

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _SIZE)
        self._rows: dict[str, int] = {}

    def add(self, text: str) -> bool:
        """Count a refusal, and return whether its text is new and listed."""
        self._increment(0)
        row = self._rows.get(text)
        if row is not None:
            self._increment(row)
            return False
        row = len(self._rows) + 1
        if row > MAX_TEXTS:
            return False
        self._rows[text] = row
        encoded = text.encode("utf-8", "replace")[: _ROW - _COUNT.size]
        at = row * _ROW + _COUNT.size
        self._memory[at : at + len(encoded)] = encoded
        self._increment(row)
        return True

    @property
    def is_full(self) -> bool:
        """True if further texts are only counted."""
        return len(self._rows) == MAX_TEXTS

    def _increment(self, row: int) -> None:
        (count,) = _COUNT.unpack_from(self._memory, row * _ROW)
        _COUNT.pack_into(self._memory, row * _ROW, count + 1)
