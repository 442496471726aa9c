"""Test of the Trio example in docs/python.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio
from conftest import children

import usernsctl as un

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "python.md"


def documented() -> Any:
    """Execute the code block "Trio" of docs/python.md; return the function that it defines."""
    section = DOCUMENTATION.read_text().split("## Trio")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(found[1], names)
    return names["output_of"]


async def in_turn(output_of: Any) -> None:
    assert await output_of("sh", "-c", "echo out; exit 3") == (3, b"out\n")
    with un.Namespace.create() as ns:
        for arguments in ({}, {"namespace": ns}, {"namespace": ns, "pid": True}):
            # Cancel output_of() while it waits for output, and again while it waits for the exit.
            for script in ("exec sleep 1000", "exec sleep 1000 >&-"):
                with trio.move_on_after(0.05) as scope:
                    await output_of("sh", "-c", script, **arguments)
                assert scope.cancelled_caught


async def at_once(output_of: Any) -> None:
    told: list[tuple[int, bytes]] = []

    async def one(number: int) -> None:
        told.append(await output_of("echo", str(number)))

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(one, number)
    assert sorted(told) == sorted((0, b"%d\n" % number) for number in range(30))


@pytest.mark.parametrize("main", [in_turn, at_once])
def test_the_documented_trio_example_works(main: Any) -> None:
    before = children()
    trio.run(main, documented())
    assert children() == before
