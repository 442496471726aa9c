"""Demo of an unchanged Airbyte connector from PyPI in gVisor, without root."""

from __future__ import annotations

import json
import os
import pwd
import shlex
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
    """Print the kernel version that a sandboxed program reads, and the sandbox's id maps.

    The program is `cat /proc/version -`. After `cat` has echoed an empty line, it waits for more
    input, and this function reads uid_map and gid_map of its process on the host.
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
        raise ConnectorError("the program ran outside of gVisor")
    title("The id map of the sandbox (inside, outside, count)")
    for kind, text in maps.items():
        show(f"{kind} {' '.join(text.split())}")


def call(connector: Connector, verb: str, kind: str) -> list[Message]:
    """Run a command of the connector in gVisor; return the bodies of its messages of a type."""
    title(f"The connector's {verb}, in gVisor")
    return of_type(connector.call(verb, sandboxed=True), kind)


def only(connector: Connector, verb: str, kind: str) -> Message:
    """Run a command of the connector in gVisor; return the body of its only message of a type."""
    found = call(connector, verb, kind)
    if len(found) != 1:
        raise ConnectorError(f"{verb}: expected one {kind} message, got {len(found)}")
    return found[0]


def show_spec(connector: Connector) -> None:
    spec = only(connector, "spec", "SPEC")
    show(f"$ {shlex.join(connector.sandboxed('spec'))}")
    show(json.dumps(spec, indent=2))


def show_records(connector: Connector) -> None:
    connection = only(connector, "check", "CONNECTION_STATUS")
    show(connection["status"])
    catalog = only(connector, "discover", "CATALOG")
    for stream in catalog["streams"]:
        show(f"{stream['name']}: {', '.join(stream['json_schema']['properties'])}")
    records = [record["data"] for record in call(connector, "read", "RECORD")]
    for record in records[:3]:
        show(json.dumps(record))
    show(f"... {len(records)} records; the server has {len(stations.STATIONS)}")
    if connection["status"] != "SUCCEEDED" or records != stations.STATIONS:
        raise ConnectorError("the connector did not read what the server has")


def main() -> int:
    environment = Path(os.environ["USERNSCTL_CONNECTOR"])
    user = pwd.getpwuid(os.geteuid()).pw_name
    title(f"This runs as the user {user}, uid {os.geteuid()}")
    try:
        with tempfile.TemporaryDirectory() as files, stations.serve() as url:
            connector = Connector(environment, Path(files), url)
            show_sandbox(connector)
            show_spec(connector)
            show_records(connector)
    except (ConnectorError, OSError, subprocess.TimeoutExpired) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    title("The demo is complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
