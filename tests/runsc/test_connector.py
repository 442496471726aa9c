"""The Airbyte connector says in gVisor what it says outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import stations
from connector import Connector, Message, of_type

CONNECTOR = "USERNSCTL_CONNECTOR"


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[Connector]:
    if CONNECTOR not in os.environ:
        if os.environ.get("CI"):
            pytest.fail(f"{CONNECTOR} must name the environment that holds the connector")
        pytest.skip(f"{CONNECTOR} does not name an environment that holds the connector")
    with stations.running() as url:
        yield Connector(Path(os.environ[CONNECTOR]), tmp_path / "files", url)


def essence(messages: list[Message]) -> list[Message]:
    """The messages without what differs from run to run: the log, the progress and the times."""
    kept = [message for message in messages if message["type"] not in ("LOG", "TRACE")]
    for record in of_type(kept, "RECORD"):
        del record["emitted_at"]
    return kept


@pytest.mark.parametrize(
    ("verb", "answer"),
    [("spec", "SPEC"), ("check", "CONNECTION_STATUS"), ("discover", "CATALOG")],
)
def test_it_answers_as_outside(connector: Connector, verb: str, answer: str) -> None:
    inside = essence(connector.call(verb, sandboxed=True))
    assert of_type(inside, answer)
    assert inside == essence(connector.call(verb, sandboxed=False))


def test_it_reads_what_the_server_has_as_outside(connector: Connector) -> None:
    inside = essence(connector.call("read", sandboxed=True))
    records = of_type(inside, "RECORD")
    assert [record["data"] for record in records] == stations.STATIONS
    assert inside == essence(connector.call("read", sandboxed=False))
