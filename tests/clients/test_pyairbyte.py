"""PyAirbyte with a connector in gVisor, behind a script of `usernsctl wrap`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import Program
from processes import capture
from stations import STATIONS, serve

ENVIRONMENT = os.environ.get("USERNSCTL_PYAIRBYTE")
CONNECTOR = os.environ.get("USERNSCTL_CONNECTOR")
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


@pytest.mark.skipif(not ENVIRONMENT or not CONNECTOR, reason="no environment with PyAirbyte")
def test_pyairbyte_reads_from_a_connector_in_gvisor(usernsctl: Program, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    script = tmp_path / "source-stations"
    connector = Path(CONNECTOR or "", "bin", "source-declarative-manifest")
    # The environment has a file of tools/environment, so it is not shown without a bind mount.
    options = ["--network", "host", "--bind", files, "--bind", CONNECTOR or ""]
    done = usernsctl("wrap", "-o", script, *options, "--", connector)
    assert (done.returncode, done.stderr) == (0, "")
    # PyAirbyte asks no server for connectors, and writes its logs below the test's directory.
    variables = {
        "AIRBYTE_OFFLINE_MODE": "1",
        "AIRBYTE_LOGGING_ROOT": str(tmp_path / "logs"),
        "AIRBYTE_TEMP_DIR": str(files),
        "DO_NOT_TRACK": "1",
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    manifest = Path(__file__).parents[2] / "demo" / "manifest.yaml"
    with serve() as url:
        command = [f"{ENVIRONMENT}/bin/python", "-c", PROGRAM, script, manifest, url]
        done = capture(command, timeout=500, cwd=tmp_path, env=variables)
    assert done.returncode == 0, done.stderr
    names, records = json.loads((tmp_path / "result").read_text())
    assert names == ["stations"], done.stderr
    assert records == [station["name"] for station in STATIONS], done.stdout + done.stderr
