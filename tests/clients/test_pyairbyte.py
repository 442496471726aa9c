"""Tests of PyAirbyte with a connector in gVisor, started by a script from `usernsctl wrap`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Program
from processes import capture
from stations import STATIONS, serve

ENVIRONMENT = os.environ.get("USERNSCTL_PYAIRBYTE")
CONNECTOR = os.environ.get("USERNSCTL_CONNECTOR")
MODULE = "airbyte_cdk.cli.source_declarative_manifest"
PROGRAM = """
import json, sys
import airbyte, yaml
executable, manifest, url = sys.argv[1:]
config = {"url": url, "__injected_declarative_manifest": yaml.safe_load(open(manifest))}
source = airbyte.get_source("source-stations", config=config, local_executable=executable)
source.check()
names = list(source.get_available_streams())
records = list(source.get_records("stations"))
open("result", "w").write(json.dumps([names, [record["name"] for record in records]]))
"""

pytestmark = pytest.mark.timeout(600)


NEEDED = pytest.mark.skipif(
    not ENVIRONMENT or not CONNECTOR, reason="no environment with PyAirbyte"
)
# Program that starts the connector but reads no records: reading needs a network, and a template
# with a network needs a later release of runsc than Debian's.
DISCOVER = """
import json, sys
import airbyte, yaml
executable, manifest, url = sys.argv[1:]
config = {"url": url, "__injected_declarative_manifest": yaml.safe_load(open(manifest))}
source = airbyte.get_source("source-stations", config=config, local_executable=executable)
names = list(source.get_available_streams())
required = source.config_spec["required"]
open("result", "w").write(json.dumps([names, required]))
"""


def run_pyairbyte(program: str, script: Path, url: str, directory: Path) -> Any:
    """Run `program` with PyAirbyte and the connector `script`; return the content of `result`.

    PyAirbyte does not query the connector registry, and writes its logs below `directory`, where
    the program writes the file `result`.
    """
    variables = {
        "AIRBYTE_OFFLINE_MODE": "1",
        "AIRBYTE_LOGGING_ROOT": str(directory / "logs"),
        "AIRBYTE_TEMP_DIR": str(directory / "files"),
        "DO_NOT_TRACK": "1",
        "HOME": str(directory),
        "PATH": os.environ["PATH"],
    }
    manifest = Path(__file__).parents[2] / "demo" / "manifest.yaml"
    command = [f"{ENVIRONMENT}/bin/python", "-c", program, script, manifest, url]
    done = capture(command, timeout=500, cwd=directory, env=variables)
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "result").read_text())


@NEEDED
def test_pyairbyte_reads_from_a_connector_in_gvisor(usernsctl: Program, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    script = tmp_path / "source-stations"
    connector = Path(CONNECTOR or "", "bin", "source-declarative-manifest")
    # By default, usernsctl mounts no virtual environment with additional files. Use --bind, because
    # tools/environment has added a file to the connector's environment.
    options = ["--network", "host", "--bind", files, "--bind", CONNECTOR or ""]
    usernsctl.check_output("wrap", "-o", script, *options, "--", connector)
    with serve() as url:
        names, records = run_pyairbyte(PROGRAM, script, url, tmp_path)
    assert names == ["stations"]
    assert records == [station["name"] for station in STATIONS]


@NEEDED
def test_pyairbyte_discovers_with_a_connector_from_a_template(
    usernsctl: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The script must find the template, which is stored below the home directory, so set $HOME.
    monkeypatch.setenv("HOME", str(tmp_path))
    files = tmp_path / "files"
    files.mkdir()
    script = tmp_path / "source-stations"
    options = ["--bind", files, "--bind", CONNECTOR or ""]
    python = f"{CONNECTOR}/bin/python"
    interpreter = ["--python", python, "--preload", MODULE]
    done = usernsctl("template", "create", "stations", *options, *interpreter)
    assert done.returncode == 0, done.stderr
    try:
        command = ["--", "source-declarative-manifest"]
        usernsctl.check_output("wrap", "-o", script, "--template", "stations", *options, *command)
        found = run_pyairbyte(DISCOVER, script, "http://127.0.0.1:9", tmp_path)
        assert found == [["stations"], ["__injected_declarative_manifest"]]
    finally:
        usernsctl("template", "remove", "stations")
