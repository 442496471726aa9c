"""Runs of the Airbyte connector `source-declarative-manifest`, in gVisor or natively."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import usernsctl.bigframe

DEMO = Path(__file__).parent
USERNSCTL = Path(sysconfig.get_path("scripts"), "usernsctl")
# Path of the script by which a Python program starts twice as fast in gVisor (docs/bigframe.md).
BIGFRAME = Path(usernsctl.bigframe.__file__)
# Timeout for a command of the connector, which takes a few seconds, but much longer on a busy host.
TIMEOUT_SECONDS = 300

Message = dict[str, Any]


class ConnectorError(Exception):
    """Error for a failed connector, or for a failure of the command that runs it."""


@dataclass(frozen=True)
class Connector:
    """An Airbyte connector in a virtual environment.

    :ivar environment: the path of the virtual environment.
    :ivar files: the directory of the connector's manifest, configuration and catalog.
    :ivar url: the URL of the server from which the connector reads.
    """

    environment: Path
    files: Path
    url: str

    def __post_init__(self) -> None:
        self.files.mkdir(exist_ok=True)
        for name in ("manifest.yaml", "configured_catalog.json"):
            shutil.copy(DEMO / name, self.files)
        (self.files / "config.json").write_text(json.dumps({"url": self.url}))

    def command(self, verb: str) -> list[str]:
        """Return the argv for one of the connector's commands: spec, check, discover or read."""
        command = [str(self.environment / "bin" / "source-declarative-manifest"), verb]
        if verb != "spec":
            command += ["--config", str(self.files / "config.json")]
            command += ["--manifest-path", str(self.files / "manifest.yaml")]
        if verb == "read":
            command += ["--catalog", str(self.files / "configured_catalog.json")]
        return command

    def in_big_frame(self, verb: str) -> list[str]:
        """Return the argv that runs a command of the connector through usernsctl.bigframe."""
        return [str(self.environment / "bin" / "python"), str(BIGFRAME), *self.command(verb)]

    def sandbox(self, network: str) -> list[str]:
        """Return the argv prefix that runs a command in gVisor, with the connector's files."""
        shown = [self.environment, self.files, BIGFRAME]
        interpreter = (self.environment / "bin" / "python").resolve()
        if not interpreter.is_relative_to("/usr"):
            shown.append(interpreter.parent.parent)
        binds = [word for path in shown for word in ("--bind", str(path))]
        return [str(USERNSCTL), "run", "--network", network, *binds, "--"]

    def sandboxed(self, verb: str) -> list[str]:
        """Return the argv for a connector command in gVisor, with a network unless it is spec."""
        return [*self.sandbox("none" if verb == "spec" else "host"), *self.in_big_frame(verb)]

    def call(self, verb: str, *, sandboxed: bool) -> list[Message]:
        """Run a command of the connector, and return the messages that it prints.

        :raises ConnectorError: the exit status is not 0, or the output contains no valid message.
        """
        command = self.sandboxed(verb) if sandboxed else self.command(verb)
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        if done.returncode != 0:
            raise ConnectorError(f"{verb}: exit {done.returncode}: {done.stderr}{done.stdout}")
        try:
            return [json.loads(line) for line in done.stdout.splitlines()]
        except json.JSONDecodeError as error:
            raise ConnectorError(f"{verb}: a line is not a message: {error.doc}") from error


def of_type(messages: list[Message], kind: str) -> list[Message]:
    """Return the body of each message of a type, such as RECORD."""
    bodies = {"CONNECTION_STATUS": "connectionStatus"}
    field = bodies.get(kind, kind.lower())
    return [message[field] for message in messages if message["type"] == kind]
