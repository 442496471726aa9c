"""Attacks by a program that can write to a template's record."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gvisor
import pytest
from conftest import Program
from tally import Tally

import usernsctl as un

pytestmark = pytest.mark.userns_requires("runsc")

SECRET = "a secret of the machine"
READY = ["--ready", "READY", "--", "sh", "-c"]
# Command that searches for the secret, with a pattern that does not match the command itself.
LOOK = "grep -rash 's[e]cret of' /.usernsctl-agent /shown /tmp /mnt"
SCRIPT = f"echo READY; read line; echo $line; {LOOK}"


@pytest.fixture(scope="module")
def template_data(tmp_path_factory: pytest.TempPathFactory, usernsctl: Program) -> Path:
    """Create a data directory that contains the templates `command`, `agent` and `python`."""
    data = tmp_path_factory.mktemp("data")
    env = {**os.environ, "XDG_DATA_HOME": str(data)}
    usernsctl.check_output("template", "create", "command", *READY, SCRIPT, env=env)
    usernsctl.check_output("template", "create", "python", "--python", "python3", env=env)
    with un.SandboxHost() as host, host.template() as agent:
        agent.save(data / "usernsctl" / "templates" / "agent")
    return data


@pytest.fixture
def data(template_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the data directory; create the attacker's `secret`, `evil` and `bundle` beside it."""
    shutil.copytree(template_data, tmp_path / "data")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text(SECRET)
    evil = tmp_path / "evil"
    evil.write_text(f'#!/bin/sh\ntouch {tmp_path}/pwned\nexec {gvisor.path()} "$@"\n')
    evil.chmod(0o755)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    hook = {"path": str(evil), "args": [str(evil)]}
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "/", "readonly": True},
        "hooks": {"createRuntime": [hook], "prestart": [hook], "poststop": [hook]},
    }
    (bundle / "config.json").write_text(json.dumps(config))
    return tmp_path / "data"


def put(data: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    file = data / "usernsctl" / "templates" / name / "record.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def attack(tally: Tally, usernsctl: Program, data: Path, what: str) -> None:
    """Start the templates as their owner, by CLI and Python API; count the attacker's successes."""
    place, env = data.parent, dict(os.environ)
    told = []
    words = ("-c", f"import os; os.system({LOOK!r})")
    for name, more in (("command", ()), ("python", words)):
        done = usernsctl("template", "run", name, *more, input="line\n", env=env)
        assert "Traceback" not in done.stderr, done.stderr
        told.append(done.stdout + done.stderr)
        tally.tried()
    for name in ("command", "agent"):
        directory = data / "usernsctl" / "templates" / name
        try:
            with un.Template.load(directory) as found, found.start() as box:
                done = box.run(["sh", "-c", LOOK], capture_output=True, text=True, timeout=60)
                told.append(done.stdout)
        except un.UsernsError as error:
            told.append(f"{error.reason} {error.remedy}")
        tally.tried()
    told.append(usernsctl("template", "list", env=env).stdout)
    assert not any("Warning" in one for one in told)
    if any(SECRET in one for one in told):
        tally.succeeded(f"{what}: {told}")
    for name in ("pwned", "logs"):
        if (place / name).exists():
            tally.succeeded(f"{what}: {name}")
    for one in told:
        for line in one.splitlines():
            if ("remedy: " in line and "evil" in line) or "--runsc" in line:
                tally.succeeded(f"{what}: {line}")


def options_that_were_believed(place: Path) -> dict[str, Any]:
    """Return hostile fields for a record, from which earlier versions took options of the host."""
    evil, secret = str(place / "evil"), str(place / "secret")
    return {
        "runsc": {"runsc": evil},
        "binds": {"binds": [[secret, "/shown", False]]},
        "hooks": {
            "bundle": str(place / "bundle"),
            "trust": True,
            "allow_hooks": True,
            "runsc": evil,
        },
        "bundle": {"bundle": str(place / "bundle")},
        "rootfs": {"rootfs": secret},
        "expose_root": {"expose_root": True},
        "debug_log": {"debug_log": str(place / "logs")},
        "namespace": {"namespace": "somebody"},
        "network": {"network": "host"},
        "as options": {"--runsc": evil, "--bind": f"{secret}:/shown", "--debug-log": "logs"},
    }


def test_hostile_options_of_a_record_are_not_used(
    tally: Tally, usernsctl: Program, data: Path
) -> None:
    believed = options_that_were_believed(data.parent)
    together = {name: value for options in believed.values() for name, value in options.items()}
    alone = list(believed.items())[: tally.rounds(0, len(believed))]
    for what, options in [("all options", together), *alone]:
        for name in ("command", "agent", "python"):
            put(data, name, lambda record, options=options: record.update(options=options))
        attack(tally, usernsctl, data, what)


def fields_of_the_inside(place: Path) -> dict[str, Callable[[dict[str, Any]], object]]:
    """Return functions that each change config.json or another field in a record."""
    evil, secret = str(place / "evil"), str(place / "secret")
    hook = {"path": evil, "args": [evil]}

    def bind(destination: str, **more: Any) -> dict[str, Any]:
        options = ["rbind", "rw"]
        return {"destination": destination, "source": secret, "type": "bind", "options": options}

    def agent(record: dict[str, Any]) -> None:
        """Change the source of the agent's mount. This has no effect: each host sets the source."""
        for mount in record["config"]["mounts"]:
            if mount["destination"] == "/.usernsctl-agent":
                mount["source"] = f"{secret}/file"

    def scratch(record: dict[str, Any]) -> None:
        record["scratch"] = secret
        record["config"]["mounts"].append(bind("/shown"))

    return {
        "hooks": lambda record: record["config"].update(
            hooks={name: [hook] for name in ("prestart", "createRuntime", "poststop")}
        ),
        "a mount": lambda record: record["config"]["mounts"].append(bind("/shown")),
        "a mount of the agent": lambda record: record["config"]["mounts"].append(
            bind("/.usernsctl-agent")
        ),
        "the mount of the agent": agent,
        "the root": lambda record: record["config"]["root"].update(path=secret),
        "the place of its files": scratch,
        "annotations": lambda record: (
            record["config"]
            .setdefault("annotations", {})
            .update({"dev.gvisor.spec.rootfs.source": secret, "dev.gvisor.flag.debug-log": evil})
        ),
        "devices": lambda record: (
            record["config"]
            .setdefault("linux", {})
            .update(devices=[{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}])
        ),
        "namespaces": lambda record: (
            record["config"]
            .setdefault("linux", {})
            .update(namespaces=[{"type": "network", "path": "/proc/1/ns/net"}])
        ),
        "a terminal": lambda record: record["config"]["process"].update(terminal=True),
        "a score": lambda record: record["config"]["process"].update(oomScoreAdj=-1000),
        "a label": lambda record: record["config"]["process"].update(apparmorProfile="unconfined"),
        "the flags of runsc": lambda record: record.update(flags=["host", "ptrace"]),
        "runsc": lambda record: record.update(runsc=[evil, 0, 0]),
        "the command": lambda record: record.update(args=[evil]),
        "a remedy": lambda record: record.update(remedy=evil, version=f"0; {evil}"),
        "a remedy of a host": lambda record: record.update(
            options={evil: evil, "--runsc": f"{evil}\x1b[2J"}, flags=["host", "default"]
        ),
    }


def test_hostile_fields_of_a_record_are_not_used(
    tally: Tally, usernsctl: Program, data: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(data, whole)
    fields = list(fields_of_the_inside(data.parent).items())
    for what, change in fields[:: tally.rounds(6, 1)]:
        shutil.rmtree(data)
        shutil.copytree(whole, data)
        for name in ("command", "agent", "python"):
            put(data, name, change)
        attack(tally, usernsctl, data, what)


def test_fields_of_a_record_about_the_inside_are_used(usernsctl: Program, data: Path) -> None:
    """Check that the unchanged templates start; otherwise the attacks would prove nothing."""
    env = dict(os.environ)
    done = usernsctl("template", "run", "command", input="line\n", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (2, "line\n", "")
    done = usernsctl("template", "run", "python", "-c", "print(6 * 7)", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")


def replaced_by_a_link(directory: Path, other: Path) -> None:
    directory.rename(other)
    directory.symlink_to(other)


def with_a_link_in_it(directory: Path, other: Path) -> None:
    (directory / "record.json").rename(other)
    (directory / "record.json").symlink_to(other)


def with_a_hard_link(directory: Path, other: Path) -> None:
    os.link(directory / "record.json", other)


def a_pipe(directory: Path, other: Path) -> None:
    (directory / "record.json").unlink()
    os.mkfifo(directory / "record.json", 0o600)


def a_file(directory: Path, other: Path) -> None:
    shutil.rmtree(directory)
    directory.touch(0o600)


@pytest.mark.parametrize(
    "replace",
    [
        replaced_by_a_link,
        with_a_link_in_it,
        with_a_hard_link,
        a_pipe,
        a_file,
        lambda directory, other: directory.parent.chmod(0o777),
    ],
)
def test_hostile_directories_in_place_of_a_template_are_refused(
    tally: Tally,
    usernsctl: Program,
    data: Path,
    tmp_path: Path,
    replace: Callable[[Path, Path], None],
) -> None:
    replace(data / "usernsctl" / "templates" / "command", tmp_path / "other")
    tally.tried()
    done = usernsctl("template", "run", "command", input="line\n", env=dict(os.environ))
    if done.stdout:
        tally.succeeded(done.stdout)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "pwned").exists() is False
