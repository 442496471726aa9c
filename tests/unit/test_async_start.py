"""Work that was begun: what came of it is told whatever has happened to others who have asked."""

from __future__ import annotations

import threading

from usernsctl.commands.async_start import AsyncStart

PATIENCE = 5


def test_who_was_interrupted_while_he_asked_keeps_it_from_nobody() -> None:
    """An interrupt may come just after the lock of a future was taken, which is kept then."""
    begun = AsyncStart(lambda: 7)
    told: list[object] = []

    def ask() -> None:
        told.extend([begun.is_there(), begun.settle(), begun.get()])

    thread = threading.Thread(target=ask, daemon=True)
    with begun._future._condition:  # type: ignore[attr-defined]
        thread.start()
        thread.join(PATIENCE)
        assert told == [True, True, 7]
