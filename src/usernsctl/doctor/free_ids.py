"""Ids that nobody has, to be granted: a pure function of what the files say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from usernsctl.doctor.facts import Ids
from usernsctl.maps import Extent

# As useradd(8) has it: so many ids does a user get (SUB_UID_COUNT), from here on (SUB_UID_MIN).
RANGE_COUNT = 65536
RANGE_FIRST = 100000

# Users have those from 1000 on; nobody logs in as one of 60000 or more (login.defs(5)).
_FIRST_USER, _LAST_USER = 1000, 59999

_Span = tuple[int, int]


def free_ids(granted: Iterable[str], users: Iterable[str], ids: Ids) -> _Span | None:
    """The first id, and how many; uids and gids get the same, as useradd(8) does it.

    They exist in the user namespace of `ids`: in a container, they may end below 100000.

    :param granted: what /etc/subuid and /etc/subgid hold.
    :param users: what /etc/passwd and /etc/group hold.
    """
    taken = [span for text in granted for span in _spans(text)]
    # newuidmap grants what is left of one that goes past the last id there is.
    last = min((start for start, end in taken if end >= 2**32), default=2**32 - 1)
    first = max([RANGE_FIRST, *(end for _, end in taken if end < 2**32)])
    rooms = _rooms(ids)
    if first + RANGE_COUNT <= last and _hold(rooms, first):
        return first, RANGE_COUNT
    if _hold(rooms, RANGE_FIRST):
        return None
    taken += [(0, _behind_users(users)), (last, 2**32)]
    gaps = [gap for start, end in rooms for gap in _gaps(start, end, sorted(taken))]
    start, end = max(gaps, key=lambda gap: gap[1] - gap[0], default=(0, 0))
    return (start, min(end - start, RANGE_COUNT)) if start < end else None


def _spans(text: str) -> Iterator[_Span]:
    for line in text.split("\n"):
        words = line.split(":")[1:]
        start, count = map(_number, words) if len(words) == 2 else (None, None)
        if start is not None and count is not None:
            yield start, start + count


def _number(word: str) -> int | None:
    """A number as those read it who grant ranges: with a 0 first, it is octal, as in C."""
    text = word.strip(" \t").removeprefix("+")
    octal = text.isdecimal() and text.startswith("0")
    try:
        return int(text, 8 if octal else 0)
    except ValueError:
        return None


def _rooms(ids: Ids) -> list[_Span]:
    """What exists both as uids and as gids."""
    whole = (Extent(0, 0, 2**32 - 1),)
    found = []
    for uids in ids.uid_map or whole:
        for gids in ids.gid_map or whole:
            start = max(uids.inside, gids.inside)
            end = min(uids.inside + uids.count, gids.inside + gids.count)
            found.append((start, end))
    return [(start, end) for start, end in found if start < end]


def _hold(rooms: Iterable[_Span], first: int) -> bool:
    """Whether a whole range that begins there exists."""
    return any(start <= first and first + RANGE_COUNT <= end for start, end in rooms)


def _gaps(start: int, end: int, taken: Iterable[_Span]) -> Iterator[_Span]:
    """What is left between those that are taken, which are in order."""
    for first, last in taken:
        if start < min(first, end):
            yield start, min(first, end)
        start = max(start, last)
    if start < end:
        yield start, end


def _behind_users(users: Iterable[str]) -> int:
    """The first id behind those of all users and groups that people have."""
    words = (line.split(":")[2:3] for text in users for line in text.split("\n"))
    found = [int(word) for pair in words for word in pair if word.isdecimal()]
    return max([_FIRST_USER, *(one for one in found if one <= _LAST_USER)]) + 1
