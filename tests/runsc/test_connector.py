"""Tests of the Airbyte connector, which must print the same messages in gVisor as on the host."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import gvisor
import pytest
import stations
from connector import TIMEOUT_SECONDS, Connector, Message, of_type

CONNECTOR = "USERNSCTL_CONNECTOR"


@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connector]:
    if CONNECTOR not in os.environ:
        if os.environ.get("CI"):
            pytest.fail(f"{CONNECTOR} must name the environment that holds the connector")
        pytest.skip(f"{CONNECTOR} does not name an environment that holds the connector")
    with stations.serve() as url:
        files = tmp_path_factory.mktemp("connector") / "files"
        yield Connector(Path(os.environ[CONNECTOR]), files, url)


def without_variable_parts(messages: list[Message]) -> list[Message]:
    """Return the messages without parts that differ between runs (logs, progress, times)."""
    kept = [message for message in messages if message["type"] not in ("LOG", "TRACE")]
    for record in of_type(kept, "RECORD"):
        del record["emitted_at"]
    return kept


@pytest.fixture(scope="module")
def messages_outside(connector: Connector) -> Callable[[str], list[Message]]:
    """Return a function that runs a connector's subcommand on the host and caches the messages."""
    return functools.cache(
        lambda verb: without_variable_parts(connector.call(verb, sandboxed=False))
    )


@pytest.mark.parametrize(
    ("verb", "answer"),
    [("spec", "SPEC"), ("check", "CONNECTION_STATUS"), ("discover", "CATALOG")],
)
@pytest.mark.sampled(2)
def test_connector_gives_the_same_answers_in_gvisor(
    connector: Connector, messages_outside: Callable[[str], list[Message]], verb: str, answer: str
) -> None:
    inside = without_variable_parts(connector.call(verb, sandboxed=True))
    assert of_type(inside, answer)
    assert inside == messages_outside(verb)


def test_connector_reads_the_same_records_in_gvisor(
    connector: Connector, messages_outside: Callable[[str], list[Message]]
) -> None:
    inside = without_variable_parts(connector.call("read", sandboxed=True))
    records = of_type(inside, "RECORD")
    assert [record["data"] for record in records] == stations.STATIONS
    assert inside == messages_outside("read")


# Before release 20260817, runsc can't checkpoint a sandbox that uses the host's network, so the
# tests use no network.
NETWORK = "host" if gvisor.saves_host_network() else "none"


@pytest.fixture
def server(connector: Connector) -> Iterator[str]:
    """Start examples/connector_server.py; yield its URL."""
    program = Path(__file__).parents[2] / "examples" / "connector_server.py"
    command = [sys.executable, program, connector.environment, "0", NETWORK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def test_connector_from_a_template_gives_the_same_answers(
    connector: Connector, messages_outside: Callable[[str], list[Message]], server: str
) -> None:
    names = ("config.json", "manifest.yaml", "configured_catalog.json")
    files = {name: (connector.files / name).read_text() for name in names}
    verbs = ("spec", "check", "discover", "read", "read") if NETWORK == "host" else ("spec", "spec")
    for verb in verbs:
        body = json.dumps(files).encode()
        with urllib.request.urlopen(f"{server}/{verb}", body, TIMEOUT_SECONDS) as answer:
            assert answer.headers["X-Exit-Status"] == "0"
            told = [json.loads(line) for line in answer.read().splitlines()]
        assert without_variable_parts(told) == messages_outside(verb)
    records = [one["data"] for one in of_type(told, "RECORD")]
    assert records == (stations.STATIONS if NETWORK == "host" else [])
