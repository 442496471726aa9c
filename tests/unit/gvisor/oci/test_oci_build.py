"""Tests of the config.json that is built for a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oci_configs import RANGES, ROOT_ONLY, mapping, outcome

from usernsctl.errors import BundleError
from usernsctl.gvisor.oci import (
    BuildOptions,
    Mount,
    Rlimit,
    build,
    check,
    fix,
    parse,
    serialise,
    validate,
)
from usernsctl.gvisor.oci.builder import _is_surely_valid
from usernsctl.maps import Extent


def options(**changes: Any) -> BuildOptions:
    base: dict[str, Any] = {"args": ["true"], "rootfs": "/"}
    return BuildOptions(**base | {"uid_map": ROOT_ONLY, "gid_map": ROOT_ONLY} | changes)


def mounts_by_destination(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["destination"]: mount for mount in config["mounts"]}


def test_built_config_needs_no_fix() -> None:
    config = build(options())
    assert fix(config, ROOT_ONLY, ROOT_ONLY) == (config, [])
    assert check(config, Path("/"), ROOT_ONLY, ROOT_ONLY) == []


def test_options_are_in_config_json() -> None:
    config = build(
        options(
            args=["sh", "-c", "exit"],
            rootfs="rootfs",
            env={"A": "b=c", "E": ""},
            cwd="/work",
            read_only=False,
            uid=7,
            gid=8,
            additional_gids=[9],
            hostname="box",
            terminal=True,
            rlimits=[Rlimit("RLIMIT_NOFILE", 64, 2**64 - 1)],
            capabilities=["CAP_CHOWN"],
            no_new_privileges=False,
        )
    )
    assert config["process"] == {
        "terminal": True,
        "user": {"uid": 7, "gid": 8, "additionalGids": [9]},
        "args": ["sh", "-c", "exit"],
        "env": ["A=b=c", "E="],
        "cwd": "/work",
        "noNewPrivileges": False,
        "capabilities": {
            "bounding": ["CAP_CHOWN"],
            "effective": ["CAP_CHOWN"],
            "inheritable": ["CAP_CHOWN"],
            "permitted": ["CAP_CHOWN"],
            "ambient": ["CAP_CHOWN"],
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 2**64 - 1}],
    }
    assert config["root"] == {"path": "rootfs", "readonly": False}
    assert config["hostname"] == "box"


def test_omitted_options_are_not_in_config_json() -> None:
    config = build(options())
    assert "hostname" not in config
    assert not {"capabilities", "rlimits"} & config["process"].keys()
    assert config["process"]["env"] == []


def test_extents_become_identity_mappings() -> None:
    config = build(options(uid_map=RANGES))
    assert config["linux"]["uidMappings"] == [mapping(0, 0, 1), mapping(1, 1, 65535)]
    assert config["linux"]["gidMappings"] == [mapping(0, 0, 1)]


def test_mounts_follow_and_replace_the_standard_mounts() -> None:
    mounts = [Mount.tmpfs("/tmp", mode=0o700, size=4096), Mount.bind("/a", "/b", read_only=False)]
    config = build(options(mounts=mounts))
    assert list(mounts_by_destination(config)) == ["/proc", "/dev", "/sys", "/tmp", "/b"]
    assert config["mounts"][-2:] == [
        {
            "destination": "/tmp",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=700", "size=4096"],
        },
        {"destination": "/b", "type": "bind", "source": "/a", "options": ["rbind", "rw"]},
    ]


def test_tmp_is_world_writable_and_sticky() -> None:
    assert "mode=1777" in mounts_by_destination(build(options()))["/tmp"]["options"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"args": []}, "$.process.args: found an empty array"),
        ({"args": ["a", "b\0"]}, "$.process.args[1]"),
        ({"args": ["\udcff"]}, r"the command is not UTF-8, as gVisor's config.json must be: \xff"),
        ({"args": ["a", "\ud800"]}, "argument 1 of the command is not UTF-8"),
        ({"env": {"A=B": "c"}}, "$.process.env: the variable name that begins with 'A' contains ="),
        ({"env": {"": "c"}}, "$.process.env[0]"),
        ({"env": {"A": "b", "C": "\udcff"}}, "$.process.env: the value of 'C' is not UTF-8"),
        ({"env": {"C": "d\0"}}, "$.process.env: the value of 'C' is not UTF-8, or has a NUL"),
        ({"env": {"C\udcff": "d"}}, "$.process.env[0]"),
        ({"cwd": "here"}, "$.process.cwd"),
        ({"uid": -1}, "$.process.user.uid"),
        ({"gid": 2**32}, "$.process.user.gid"),
        ({"rootfs": ""}, "$.root.path"),
        ({"mounts": [Mount.bind("/a", "b")]}, "$.mounts[4].destination"),
        ({"rlimits": [Rlimit("NOFILE", 1, 1)]}, "$.process.rlimits[0].type"),
        ({"rlimits": [Rlimit("RLIMIT_AS", -1, 1)]}, "$.process.rlimits[0].soft"),
        ({"capabilities": ["chown"]}, "$.process.capabilities.bounding[0]"),
    ],
)
def test_invalid_options_raise(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError) as caught:
        build(options(**changes))
    assert caught.value.reason.startswith(message)


texts = st.text(st.characters() | st.just("\0"))


@given(st.lists(texts), st.dictionaries(texts, texts), texts, texts)
@settings(deadline=None)
def test_any_command_is_kept_unchanged_or_refused(
    args: list[str], env: dict[str, str], cwd: str, hostname: str
) -> None:
    config = outcome(build, options(args=args, env=env, cwd="/" + cwd, hostname=hostname))
    if isinstance(config, BundleError):
        return
    again = parse(serialise(config))
    assert again == config
    assert again["process"]["args"] == args
    assert dict(entry.split("=", 1) for entry in again["process"]["env"]) == env


TEXT = st.one_of(st.text(max_size=4), st.sampled_from(["/", "/a", "a\0b", "\ud800", "", "ro"]))
MOUNT = st.builds(Mount, TEXT, TEXT, TEXT, st.lists(TEXT, max_size=2))
OPTIONS = st.builds(
    BuildOptions,
    args=st.lists(TEXT, max_size=2),
    rootfs=TEXT,
    uid_map=st.just([Extent(0, 0, 1)]),
    gid_map=st.just([Extent(0, 0, 1)]),
    # An environment variable whose name contains "=" is rejected before a config.json is built.
    env=st.dictionaries(TEXT.filter(lambda name: "=" not in name), TEXT, max_size=2),
    cwd=TEXT,
    uid=st.integers(-1, 2**32),
    hostname=st.none() | TEXT,
    mounts=st.lists(MOUNT, max_size=1),
    capabilities=st.lists(st.sampled_from(["CAP_CHOWN", "chown", "CAP_", "CAP_A\n"]), max_size=1),
)


@settings(max_examples=400)
@given(OPTIONS)
def test_surely_valid_options_pass_msgspec(options: BuildOptions) -> None:
    if _is_surely_valid(options):
        validate(build(options))


UTF8 = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | UTF8,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(UTF8, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(UTF8, VALUES, max_size=4))
def test_serialise_writes_the_same_as_msgspec(config: dict[str, Any]) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(config), indent=4)
    assert serialise(config) == encoded + b"\n"
