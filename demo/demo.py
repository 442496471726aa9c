"""The demo: an Airbyte connector, unchanged from PyPI, in gVisor and without root."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import stations
from connector import Connector, ConnectorError, Message, of_type


def title(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def show(text: str) -> None:
    for line in text.splitlines():
        print(f"    {line}", flush=True)


def show_sandbox(connector: Connector) -> None:
    """Tell the kernel that a sandboxed program sees, and how its ids are mapped.

    `cat` repeats the line that we send, so we know that it runs when we look at it from outside;
    it ends when its input does.
    """
    title("The kernel, outside and inside")
    show(Path("/proc/version").read_text())
    command = [*connector.sandbox("none"), "cat", "/proc/version", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sandbox:
        assert sandbox.stdin
        assert sandbox.stdout
        sandbox.stdin.write("\n")
        sandbox.stdin.flush()
        inside = sandbox.stdout.readline()
        if not inside or sandbox.stdout.readline() != "\n":
            raise ConnectorError("the sandbox ended early")
        maps = {
            kind: Path(f"/proc/{sandbox.pid}/{kind}_map").read_text() for kind in ("uid", "gid")
        }
        sandbox.stdin.close()
    show(inside)
    if sandbox.returncode != 0 or inside == Path("/proc/version").read_text():
        raise ConnectorError("this was not gVisor")
    title("The id map of the sandbox (inside, outside, count)")
    for kind, text in maps.items():
        show(f"{kind} {' '.join(text.split())}")


def only(messages: list[Message], kind: str) -> Message:
    found = of_type(messages, kind)
    if len(found) != 1:
        raise ConnectorError(f"expected one {kind} message, got {len(found)}")
    return found[0]


def show_spec(connector: Connector) -> None:
    title("source-declarative-manifest spec, in gVisor without network")
    show(json.dumps(only(connector.call("spec", "none"), "SPEC"), indent=2))


def show_records(connector: Connector) -> None:
    title("check, in gVisor with the host's network")
    status = only(connector.call("check", "host"), "CONNECTION_STATUS")["status"]
    show(status)
    title("discover")
    catalog = only(connector.call("discover", "host"), "CATALOG")
    for stream in catalog["streams"]:
        show(f"{stream['name']}: {', '.join(stream['json_schema']['properties'])}")
    title("read")
    records = [record["data"] for record in of_type(connector.call("read", "host"), "RECORD")]
    for record in records[:3]:
        show(json.dumps(record))
    show(f"... {len(records)} records; the server has {len(stations.STATIONS)}")
    if status != "SUCCEEDED" or records != stations.STATIONS:
        raise ConnectorError("the connector did not read what the server has")


def main() -> int:
    environment = Path(os.environ["USERNSCTL_CONNECTOR"])
    user = pwd.getpwuid(os.geteuid()).pw_name
    title(f"This runs as the user {user}, uid {os.geteuid()}")
    try:
        with tempfile.TemporaryDirectory() as files, stations.running() as url:
            connector = Connector(environment, Path(files), url)
            show_sandbox(connector)
            show_spec(connector)
            show_records(connector)
    except ConnectorError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    title("The demo is complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
