"""Tests of the text and JSON output of ``usernsctl run --dry-run``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from usernsctl.cli.dry_run import as_text, described
from usernsctl.gvisor.launch.facts import Facts
from usernsctl.gvisor.launch.plan import plan_run
from usernsctl.gvisor.launch.request import Bind, Request
from usernsctl.gvisor.launch.steps import VERBS
from usernsctl.maps import Extent, MappedIds

BINDS = (Bind("/src", "/x", read_only=False),)
FACTS = Facts(
    version="1.2",
    ids=MappedIds(uid=(Extent(0, 7, 1),), gid=(Extent(0, 8, 1),), become=(0, 0)),
    runsc="/usr/bin/run@sc",
    runsc_file="/usr/bin/run@sc",
    watcher="/lib/usernsctl-watch",
    verifier="/lib/usernsctl-verify",
    runsc_env={"PATH": "/bin"},
    binds=BINDS,
    sources={"/src": "/src"},
    scratch=("/srv",),
)
REQUEST = Request(args=("echo", "a b"), env={"A": "1"}, binds=BINDS)


def test_text_lists_steps_and_runsc_command() -> None:
    lines = list(as_text(plan_run(REQUEST, FACTS), FACTS))
    for line in (
        "  uid 0:7:1",
        "  show this machine's /usr, read-only",
        "  bind /src on /x, rw",
        "  make the root filesystem read-only",
        "  make the link programs/run@sc to /usr/bin/run@sc",
        '        "a b"',
        "Program to execute, with the environment PATH=/bin:",
    ):
        assert line in lines
    assert lines[-1].startswith("  /usr/bin/run@sc --rootless --root=/srv/usernsctl/state")
    assert lines[-1].endswith("--bundle=/srv/usernsctl/bundle usernsctl-ID")


@pytest.mark.parametrize(
    ("network", "stack"),
    [
        ("none", "gVisor's own, with only a loopback device"),
        ("host", "that of this machine's kernel, in this machine's network"),
        ("private", "that of this machine's kernel, in a network namespace for the sandbox"),
    ],
)
def test_text_names_the_network_stack(network: str, stack: str) -> None:
    program = ("/lib/usernsctl-network",) if network == "private" else ()
    facts = replace(FACTS, network_command=program)
    lines = list(as_text(plan_run(replace(REQUEST, network=network), facts), facts))
    assert lines[lines.index("Network stack of the command:") + 1] == f"  {stack}"


def test_json_has_ids_steps_config_and_commands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(json.dumps(described(plan_run(REQUEST, FACTS), FACTS)))
    assert found["ids"]["uid"] == [{"inside": 0, "outside": 7, "count": 1}]
    assert {"do": "bind", "source": "/src", "inside": "/x", "access": "rw"} in found["steps"]
    assert {"do": "tmpfs", "name": "log/crash", "size": "1048576"} in found["files"]
    config = found["config"]
    assert config["process"]["args"] == ["/.usernsctl-verify", "echo", "a b"]
    assert config["process"]["env"] == ["HOME=/root", "A=1"]
    assert config["process"]["cwd"] == str(tmp_path)
    assert config["root"]["path"] == "/srv/usernsctl/root"
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 0, "size": 1}]
    assert [m for m in config["mounts"] if m["type"] == "bind"] == [
        {"destination": "/x", "type": "bind", "source": "/src", "options": ["rbind", "rw"]}
    ]
    assert found["runsc"] == found["watcher"][-len(found["runsc"]) :]
    assert found["watcher"][1] == "/srv/usernsctl/programs/run@sc"
    assert found["given_up"] == ["no-new-privs", "drop-bounding", "no-membarrier"]
    assert found["environment"] == ["PATH=/bin"]


def test_each_step_verb_has_a_complete_text() -> None:
    for verb, (names, text) in VERBS.items():
        text_line = text.format(**dict.fromkeys(names, "WORD"))
        assert "{" not in text_line, verb


def test_text_and_json_have_the_oom_score() -> None:
    bundle = {
        "process": {"args": ["x"], "cwd": "/", "oomScoreAdj": 7},
        "root": {"path": "r"},
        "linux": {"uidMappings": [], "gidMappings": []},
    }
    facts = replace(FACTS, bundle=bundle, tree="/b")
    launch = plan_run(replace(REQUEST, bundle="/b"), facts)
    assert "  oom_score_adj 7" in list(as_text(launch, facts))
    assert described(launch, facts)["oom_score"] == 7
