"""What tests of pools have."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from stocks import Workshop, wait_until


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    made = Workshop()
    threads = threading.active_count()
    yield made
    made.gate.set()
    wait_until(lambda: threading.active_count() == threads)
    assert [one.log for one in made.made if "ended" not in one.log] == []
