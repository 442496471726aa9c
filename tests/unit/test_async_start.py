"""Test of AsyncStart with a waiter that was interrupted."""

from __future__ import annotations

import asyncio
import threading

from usernsctl.commands.async_start import AsyncStart

PATIENCE = 5


def test_who_was_interrupted_while_he_asked_keeps_it_from_nobody() -> None:
    """An interrupt may come just after a waiter has locked the future, which stays locked then."""

    async def begin() -> AsyncStart[int]:
        return AsyncStart(lambda: 7)

    begun = asyncio.run(begin())
    assert begun.get() == 7
    told: list[object] = []

    def ask() -> None:
        told.extend([begun.is_there(), begun.settle(), begun.get()])

    thread = threading.Thread(target=ask, daemon=True)
    with begun._future._condition:
        thread.start()
        thread.join(PATIENCE)
        assert told == [True, True, 7]
