"""Tests of plan_run() with sample facts."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from launches import FACTS, ONE_ID, REQUEST, SEVERAL, launch, verbs

from usernsctl.errors import BundleError, PlanError
from usernsctl.gvisor.launch.plan import FreezeOptions, plan_run
from usernsctl.gvisor.launch.request import Bind
from usernsctl.gvisor.launch.steps import (
    VERIFIER_INSIDE,
    IfSeveralIds,
    Launch,
    Placeholder,
    Record,
    Source,
    StartValues,
    completed,
    record,
)
from usernsctl.gvisor.oci import Rlimit


def steps(planned: Launch) -> list[tuple[str, ...]]:
    return [(one.verb, *one.words) for one in planned.steps]


def config(planned: Launch, *, several: bool = False) -> dict[str, object]:
    """Return the config.json of `planned`, with sample values for its placeholders."""
    assert planned.config is not None
    values: dict[Record, object] = {
        record(f"json-{name}"): value
        for name, value in {
            "args": ["cat"],
            "env": [],
            "cwd": "/",
            "root": "/root",
            "uid-map": [],
            "gid-map": [],
            "hostname": "host",
            "open-files": [],
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
        }.items()
    }
    for n in range(3):
        values |= {
            record("json-bind-source", n): f"/source/{n}",
            record("json-bind-destination", n): f"/destination/{n}",
        }
    found: dict[str, object] = completed(planned.config, values, several=several)
    return found


def test_the_same_request_and_facts_give_the_same_launch() -> None:
    assert launch() == launch()
    assert launch() != launch(network="host")
    assert launch() != launch(is_root=True)


def test_planning_makes_no_system_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = ("open", "stat", "lstat", "readlink", "getcwd", "geteuid", "urandom", "listdir")
    with monkeypatch.context() as patch:
        for name in (*looks, "environ"):
            patch.setattr(os, name, None)
        patch.setattr("builtins.open", None)
        encoded = launch(network="host").encode()
    assert encoded == launch(network="host").encode()


def test_plan_mounts_the_programs_of_the_host() -> None:
    planned = steps(launch())
    assert planned[:4] == [
        ("machine", "bin"),
        ("machine", "etc"),
        ("hide-private", "/etc"),
        ("machine", "lib"),
    ]
    assert ("directory", "/tmp", "1777") in planned
    assert ("link", "/var/run", "/run") in planned
    assert [step for step in planned if step[0] == "home"] == [
        ("home", "/data"),
        ("home", "/home/me"),
    ]
    # Check the order: homes are hidden after the last mount of a host file, and before the root is
    # made read-only.
    assert planned[-8:] == [
        ("home", "/data"),
        ("home", "/home/me"),
        ("file", "2", VERIFIER_INSIDE),
        ("mount", "/proc", "other"),
        ("mount", "/dev", "empty"),
        ("mount", "/sys", "other"),
        ("mount", "/tmp", "empty"),
        ("read-only",),
    ]


def test_root_gets_a_copy_of_etc() -> None:
    planned = steps(launch(is_root=True))
    assert ("snapshot", "etc") in planned
    assert ("machine", "etc") not in planned
    assert ("hide-private", "/etc") not in planned


def test_rootfs_is_mounted_unchanged() -> None:
    planned = launch(tree="/image", rootfs="/image")
    assert steps(planned)[0] == ("tree", "3")
    assert planned.sources[3] == Source("follow", "/image")
    assert "home" not in verbs(planned)
    assert planned.start_values.cwd == "/"
    whole = launch(tree="/", expose_root=True)
    assert whole.start_values.cwd is None, "the current directory, if it is there"


def test_bind_mounts_are_ordered_from_the_top_down() -> None:
    binds = (Bind("/src/b", "/x/y"), Bind("/src/a", "/x", read_only=False))
    facts = replace(FACTS, binds=binds, sources={"/src/a": "/src/a", "/src/b": "/src/b"})
    planned = plan_run(replace(REQUEST, binds=binds), facts)
    assert [step for step in steps(planned) if step[0] == "bind"] == [
        ("bind", "3", "/x", "rw"),
        ("bind", "4", "/x/y", "ro"),
    ]
    assert [source.path for source in planned.sources[3:]] == ["/src/a", "/src/b"]
    mounts = config(planned)["mounts"]
    assert isinstance(mounts, list)
    assert [m["source"] for m in mounts if m["type"] == "bind"] == ["/source/0", "/source/1"]
    assert [m["destination"] for m in mounts[-1:]] == ["/destination/1"]


def test_source_of_two_bind_mounts_is_opened_once() -> None:
    binds = (Bind("/src", "/x"), Bind("/src", "/y"))
    planned = plan_run(
        replace(REQUEST, binds=binds), replace(FACTS, binds=binds, sources={"/src": "/src"})
    )
    assert [source.path for source in planned.sources].count("/src") == 1


START = StartValues(args=("cat", "a b"), env=("HOME=/root", "LANG=C"))


def test_command_gets_arguments_environment_and_verifier() -> None:
    planned = launch(cwd="/work", user=(0, 0))
    assert planned.start_values == StartValues(
        args=("cat", "a b"), env=("HOME=/root", "LANG=C"), cwd="/work"
    )
    process = planned.config["process"]
    assert process["args"] == [VERIFIER_INSIDE, Placeholder(record("json-args"))]
    unproven = launch(verifier=None, verify=False)
    assert unproven.config["process"]["args"] == [Placeholder(record("json-args"))]
    assert "file" not in verbs(unproven)


def test_runsc_and_watcher_command_lines() -> None:
    planned = launch(network="host", platform="ptrace")
    assert planned.runsc == (
        "/usr/bin/runsc",
        "--rootless",
        "--root=@s/state",
        "--ignore-cgroups",
        "--network=host",
        "--overlay2=root:memory",
        "--host-uds=none",
        "--dcache=2000",
        "--log=@s/log/errors",
        "--log-format=json",
        "--panic-log=@s/log/crash/report",
        "--debug-log=@s/log/%COMMAND%.txt",
        "--platform=ptrace",
        "run",
        "--bundle=@s/bundle",
        "usernsctl-@i",
    )
    kill = ("/usr/bin/runsc", "--rootless", "--root=@s/state", "kill", "usernsctl-@i")
    sends = ("--cap=CAP_KILL", "usernsctl-@i", "/.usernsctl-verify", "--signal")
    realtime = (*kill[:3], "exec", *sends)
    assert planned.watcher == (
        *("@s/programs/usernsctl-watch", "@s/programs/runsc"),
        *("@s/log/errors", "@s/log/crash/report", "@s/log/%COMMAND%.txt", "@s/bundle"),
        *("--", *kill, "--", *realtime, "--", *planned.runsc),
    )
    assert "resolver" in verbs(planned)


def test_watcher_without_verifier_sends_no_real_time_signals() -> None:
    assert "exec" not in launch(verifier=None).watcher


def test_runsc_script_is_executed_by_its_path() -> None:
    planned = launch(runsc_is_script=True)
    assert planned.watcher[1] == "/usr/lib/gvisor/runsc"
    assert record("program-path", 0) in planned.files


def test_at_signs_in_paths_are_escaped() -> None:
    planned = launch(runsc="/opt/@s/runsc@1", state="/var/@t")
    assert planned.runsc[0] == "/opt/@@s/runsc@@1"
    assert "--root=/var/@@t" in planned.runsc
    assert record("program-link", 0, "programs/runsc@@1") in planned.files


def test_debug_log_option_keeps_logs() -> None:
    planned = launch(debug_log="/logs")
    assert planned.sources[3] == Source("follow", "/logs")
    assert record("debug-log", 3) in planned.files
    assert record("touch", "debug-log/runsc.log.@t.panic.txt") in planned.files
    assert "discard" not in verbs(planned)
    assert "--debug-log=@s/debug-log/runsc.log.@t.%COMMAND%.txt" in planned.runsc
    assert "--debug" in planned.runsc


def test_no_new_privs_and_bounding_set_are_dropped() -> None:
    usual = (record("no-new-privs"), record("drop-bounding"))
    assert launch().given_up == (*usual, record("no-membarrier"))
    assert launch(no_new_privs=False, drop_bounding=False).given_up == ()


def test_membarrier_is_denied_to_runsc_only() -> None:
    without = record("no-membarrier")
    assert without in launch(platform="systrap").given_up
    assert without not in launch(platform="kvm").given_up
    assert without not in launch(no_new_privs=False).given_up
    assert without not in launch(allow_hooks=True).given_up
    script = plan_run(REQUEST, replace(FACTS, runsc_is_script=True))
    assert without not in script.given_up


def test_several_ids_bring_capabilities() -> None:
    one, several = config(launch()), config(launch(ids=SEVERAL))
    assert "capabilities" not in one["process"]  # type: ignore[operator]
    assert "CAP_CHOWN" in several["process"]["capabilities"]["effective"]  # type: ignore[index]


def test_user_must_be_mapped_unless_the_verifier_maps_inside() -> None:
    with pytest.raises(PlanError, match="uid 70 is not mapped"):
        launch(user=(70, 0), ids=SEVERAL)
    assert launch(user=(7, 0), ids=SEVERAL).config
    # The verifier maps these ids in a nested user namespace, so the outer namespace need not
    # contain them.
    assert launch(user=(70, 71)).start_values == replace(
        START, user=(70, 71), env=("HOME=/", "LANG=C")
    )
    with pytest.raises(PlanError, match="uid 70 is not mapped"):
        launch(user=(70, 71), verifier=None)


def test_rlimits_and_hostname_are_in_config_json() -> None:
    planned = config(launch(rlimits=(Rlimit("RLIMIT_NOFILE", 5, 6),), hostname="box"))
    assert planned["hostname"] == "box"
    assert planned["process"]["rlimits"] == [  # type: ignore[index]
        {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}
    ]


BUNDLE = {
    "process": {
        "args": ["sh"],
        "cwd": "/srv",
        "env": ["A=1", "LANG=x"],
        "user": {"uid": 0, "gid": 0},
        "oomScoreAdj": 100,
    },
    "root": {"path": "rootfs"},
    "hostname": "theirs",
    "mounts": [
        {"destination": "/data", "type": "bind", "source": "data", "options": ["ro"]},
        {"destination": "/a/b", "type": "tmpfs", "source": "tmpfs"},
    ],
    "linux": {
        "namespaces": [{"type": "user"}],
        "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
    },
}
BUNDLE_FACTS = replace(
    FACTS, bundle=BUNDLE, tree="/b/rootfs", sources={"data": "/b/data"}, homes=frozenset()
)


def test_bundle_supplies_values_that_the_request_omits() -> None:
    planned = plan_run(replace(REQUEST, args=(), bundle="/b"), BUNDLE_FACTS)
    assert planned.start_values == StartValues(args=("sh",), env=("A=1", "LANG=C"), cwd="/srv")
    assert planned.oom_score == 100
    assert ("bind", "4", "/data", "ro") in steps(planned)
    assert ("mount", "/a/b", "empty") in steps(planned)
    assert "oomScoreAdj" not in planned.config["process"]
    assert BUNDLE["process"]["oomScoreAdj"] == 100, "what was given is left alone"  # type: ignore[index]
    changed = plan_run(replace(REQUEST, bundle="/b", cwd="/tmp"), BUNDLE_FACTS)
    assert changed.start_values == StartValues(
        args=("cat", "a b"), env=("A=1", "LANG=C"), cwd="/tmp"
    )


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(BundleError, match="UTF-8"):
        launch(args=("\udcff",))


def test_pieces_of_config_json_are_valid_json() -> None:
    planned = launch()
    values = {"json-args": "", "json-env": "", "json-open-files": ""}
    text = "".join(
        one.words[0] if one.verb == "json" else values.get(one.verb, "null")
        for one in planned.records()
        if one.verb.startswith("json")
    )
    assert json.loads(text.replace('"/.usernsctl-verify", ', '"/.usernsctl-verify"'))


FROZEN = FreezeOptions(
    programs=((FACTS.runsc_file, (1, "100755", "0123456789abcdef")),),
    remedy="usernsctl freeze",
    ids=("--map-auto",),
    env=(record("env-name", "TERM"),),
)


def test_frozen_launch_has_placeholders_for_the_start() -> None:
    facts = replace(FACTS, homes=None, is_root=True, ids=SEVERAL)
    planned = plan_run(replace(REQUEST, env={}), facts, FROZEN)
    assert planned.start_values is None
    assert planned.config["hostname"] == Placeholder(record("json-hostname"))
    assert isinstance(planned.config["process"]["capabilities"], IfSeveralIds)
    assert "capabilities" not in config(planned)["process"]  # type: ignore[operator]
    assert "capabilities" in config(planned, several=True)["process"]  # type: ignore[operator]
    assert [(one.verb, *one.words) for one in planned.policy] == [
        ("env-set", "HOME=/root"),
        ("env-name", "TERM"),
        ("terminal-moment",),
        ("arg", "cat"),
        ("arg", "a b"),
    ]
    assert "home-moment" in verbs(planned)
    assert "home" not in verbs(planned)
    order = list(dict.fromkeys(verbs(planned)))
    assert order[:6] == ["remedy", "idmap", "user", "source", "assume", "scratch"]
    given_up = ["no-new-privs", "drop-bounding", "no-membarrier"]
    assert order[-7:] == ["arg", *given_up, "watch", "runsc-env", "end"]


@pytest.mark.parametrize(
    ("terminal", "verb"), [(None, "terminal-moment"), (True, "terminal-need"), (False, None)]
)
def test_frozen_launch_may_require_or_forbid_a_terminal(
    terminal: bool | None, verb: str | None
) -> None:
    planned = plan_run(REQUEST, FACTS, replace(FROZEN, terminal=terminal))
    assert [one.verb for one in planned.policy if "terminal" in one.verb] == [verb] * (
        verb is not None
    )


def test_frozen_launch_without_a_command() -> None:
    planned = plan_run(replace(REQUEST, args=(), env={}), FACTS, FROZEN)
    assert "arg" not in verbs(planned)


def test_frozen_bundle_follows_no_symlinks() -> None:
    planned = plan_run(replace(REQUEST, args=(), env={}, bundle="/b"), BUNDLE_FACTS, FROZEN)
    assert Source("exact", "/b/rootfs") in planned.sources
    assert Source("exact", "/b/data") in planned.sources
    policy = [(one.verb, *one.words) for one in planned.policy]
    assert policy[:2] == [("env-set", "A=1"), ("env-set", "LANG=x")]
    assert ("cwd", "/srv") in policy
    assert ("arg", "sh") in policy
    assert planned.config["hostname"] == "theirs"


def test_id_mappings_are_placeholders() -> None:
    planned = launch(ids=ONE_ID)
    assert planned.config["linux"]["uidMappings"] == [Placeholder(record("json-uid-map"))]
