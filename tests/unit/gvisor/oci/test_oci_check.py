"""Tests of each rule with which check() examines a config.json."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from oci_configs import RANGES, changed, mapping, minimal, mutations, outcome

from usernsctl.errors import BundleError
from usernsctl.gvisor.oci import Violation, check, fix
from usernsctl.gvisor.oci.rules import resolve_in_root
from usernsctl.maps import Extent

pytestmark = pytest.mark.also_root

# The map of a user who owns no files, so that only the permissions for others apply.
STRANGER = [Extent(0, 3_000_000_000, 1)]
GOOD = minimal() | {
    "process": {"args": ["/bin/true"], "user": {"uid": 0, "gid": 0}},
    "root": {"path": "rootfs", "readonly": True},
    "linux": {
        "namespaces": [{"type": "user"}, {"type": "pid"}],
        "uidMappings": [mapping(0, 0, 1)],
        "gidMappings": [mapping(0, 0, 1)],
    },
}


@pytest.fixture
def bundle() -> Iterator[Path]:
    """Yield a bundle directory that all users can search, and that contains an empty rootfs."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "rootfs").mkdir(mode=0o755)
        yield directory


def check_config(
    config: dict[str, Any], bundle: Path, extents: list[Extent] | None = None, **check_options: Any
) -> list[Violation]:
    """Return the violations in `config`, by default with a map of the caller to root."""
    if extents is None:
        own_map = ([Extent(0, os.geteuid(), 1)], [Extent(0, os.getegid(), 1)])
        return check(config, bundle, *own_map, **check_options)
    return check(config, bundle, extents, extents, **check_options)


def paths_and_ids(findings: list[Violation]) -> list[tuple[str, str]]:
    return [(finding.path, finding.id) for finding in findings]


def only_finding(findings: list[Violation], path: str, cause: str) -> Violation:
    """Check that there is one finding, with `path` and `cause`; return it."""
    assert paths_and_ids(findings) == [(path, cause)]
    return findings[0]


def bind(source: str, destination: str = "/data", *options: str) -> dict[str, Any]:
    entry = {"destination": destination, "type": "bind", "source": source, "options": options}
    return changed(GOOD, "mounts", [entry | {"options": list(options)}])


def test_valid_config_has_no_findings(bundle: Path) -> None:
    assert check_config(GOOD, bundle) == []


def test_check_refuses_an_invalid_config(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"\$\.process\.cwd"):
        check_config(changed(GOOD, "process.cwd", "x"), bundle)


@pytest.mark.parametrize("linux", [None, {}, {"namespaces": []}, {"namespaces": [{"type": "ipc"}]}])
def test_missing_user_namespace_is_found(bundle: Path, linux: object) -> None:
    finding = only_finding(
        check_config(changed(GOOD, "linux", linux), bundle),
        "$.linux.namespaces",
        "bundle-no-mappings",
    )
    assert finding.fixable
    assert finding.blocks


@pytest.mark.parametrize("empty", [None, []])
def test_missing_mappings_are_found(bundle: Path, empty: object) -> None:
    config = changed(changed(GOOD, "linux.uidMappings", empty), "linux.gidMappings", empty)
    assert paths_and_ids(check_config(config, bundle)) == [
        ("$.linux.uidMappings", "bundle-no-mappings"),
        ("$.linux.gidMappings", "bundle-no-mappings"),
    ]


def test_mappings_without_a_user_namespace_are_found(bundle: Path) -> None:
    config = changed(GOOD, "linux.namespaces", [{"type": "pid"}])
    findings = check_config(config, bundle)
    assert paths_and_ids(findings) == [
        ("$.linux.namespaces", "bundle-no-mappings"),
        ("$.linux.uidMappings", "bundle-no-mappings"),
        ("$.linux.gidMappings", "bundle-no-mappings"),
    ]
    assert "no user namespace" in findings[1].problem


@pytest.mark.parametrize(
    ("mappings", "cause", "problem"),
    [
        ([mapping(0, 65536, 1)], "outside-parent-map", "maps hostID 65536, but"),
        ([mapping(0, 0, 2)], "outside-parent-map", "maps hostID 0 to 1, but"),
        ([mapping(0, 0, 1), mapping(1, 1, 65536)], "outside-parent-map", "hostID 1 to 65536"),
        ([mapping(0, 0, 65536)], "outside-parent-map", "has 0, 1 to 65535"),
        ([mapping(1, 0, 1)], "bundle-root-unmapped", "containerID 0 is not mapped"),
        ([mapping(0, 1, 2), mapping(1, 5, 1)], "map-invalid", "overlap at containerID 1"),
        ([mapping(0, 1, 2), mapping(2, 2, 1)], "map-invalid", "overlap at hostID 2"),
        ([mapping(0, 0, 1), mapping(2**32 - 2, 1, 2)], "map-invalid", "the last id is 4294967294"),
        ([mapping(n, n + 1, 1) for n in range(341)], "map-invalid", "341 mappings"),
    ],
)
@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_impossible_mappings_are_found(
    bundle: Path, kind: str, mappings: list[dict[str, int]], cause: str, problem: str
) -> None:
    config = changed(GOOD, f"linux.{kind}Mappings", mappings)
    finding = only_finding(check_config(config, bundle, RANGES), f"$.linux.{kind}Mappings", cause)
    assert problem in finding.problem
    assert finding.fixable


@pytest.mark.parametrize(
    "mappings",
    [
        [mapping(0, 0, 1), mapping(1, 1, 65535)],
        [mapping(0, 7, 10)],
        [mapping(0, 65535, 1), mapping(100, 0, 1)],
    ],
)
def test_mappings_within_the_map_are_accepted(bundle: Path, mappings: list[dict[str, int]]) -> None:
    config = changed(GOOD, "linux.uidMappings", mappings)
    assert check_config(config, bundle, RANGES) == []


def test_joining_a_user_namespace_is_found(bundle: Path) -> None:
    config = changed(GOOD, "linux.namespaces", [{"type": "user", "path": "/proc/1/ns/user"}])
    finding = only_finding(
        check_config(config, bundle), "$.linux.namespaces[0].path", "bundle-join-user"
    )
    assert finding.blocks
    assert finding.fixable


def test_missing_user_is_a_note(bundle: Path) -> None:
    finding = only_finding(
        check_config(changed(GOOD, "process.user", None), bundle),
        "$.process.user",
        "bundle-no-user",
    )
    assert finding.fixable
    assert not finding.blocks


@pytest.mark.parametrize(("kind", "value"), [("uid", 1), ("gid", 65536)])
def test_unmapped_user_is_a_note(bundle: Path, kind: str, value: int) -> None:
    config = changed(GOOD, f"process.user.{kind}", value)
    finding = only_finding(
        check_config(config, bundle), f"$.process.user.{kind}", "bundle-user-unmapped"
    )
    assert f"{kind} {value} is not mapped" in finding.problem
    assert not finding.blocks


@pytest.mark.parametrize("path", ["missing", "/missing", "file", "file/below"])
def test_root_filesystem_must_be_a_directory(bundle: Path, path: str) -> None:
    (bundle / "file").touch()
    config = changed(GOOD, "root.path", path)
    for extents in (None, STRANGER):
        *outside, finding = check_config(config, bundle, extents)
        assert [each.id for each in outside] == ["bundle-root-outside"] * path.startswith("/")
        assert (finding.path, finding.id) == ("$.root.path", "rootfs-missing")
        assert str(bundle / path) in finding.problem


@pytest.mark.parametrize("private", [".", "rootfs"])
def test_root_filesystem_must_be_searchable(bundle: Path, private: str) -> None:
    (bundle / private).chmod(0o700)
    finding = only_finding(check_config(GOOD, bundle, STRANGER), "$.root.path", "rootfs-unreadable")
    assert finding.problem == f"{bundle / private} can't be searched"
    assert finding.remedy == f"chmod a+x {bundle / private}"
    assert check_config(GOOD, bundle) == []


def test_unwritable_root_filesystem_needs_readonly_or_overlay(bundle: Path) -> None:
    config = changed(GOOD, "root.readonly", False)
    only_finding(check_config(config, bundle, STRANGER), "$.root.readonly", "bundle-overlay")
    assert check_config(config, bundle, STRANGER, memory_overlay=True) == []
    assert check_config(config, bundle) == []


@pytest.mark.parametrize("source", ["", "missing", "/missing"])
@pytest.mark.parametrize(
    "kind",
    [
        {"type": "bind"},
        {"options": ["rbind"]},
        {"options": ["bind"], "type": "none"},
        {"options": ["rbind"], "type": "tmpfs"},
    ],
)
def test_missing_bind_source_is_found(bundle: Path, source: str, kind: dict[str, Any]) -> None:
    config = changed(GOOD, "mounts", [{"destination": "/data", "source": source} | kind])
    *outside, finding = check_config(config, bundle)
    assert [each.id for each in outside] == ["bundle-bind-outside"] * source.startswith("/")
    assert (finding.path, finding.id) == ("$.mounts[0].source", "bundle-bind-source")


@pytest.mark.parametrize("kind", [{}, {"type": "none"}, {"type": "tmpfs", "options": ["ro"]}])
def test_other_mounts_need_no_existing_source(bundle: Path, kind: dict[str, Any]) -> None:
    config = changed(GOOD, "mounts", [{"destination": "/data", "source": "missing"} | kind])
    assert check_config(config, bundle) == []


def test_bind_source_below_a_private_directory_is_found(bundle: Path) -> None:
    (bundle / "private/source").mkdir(parents=True)
    (bundle / "rootfs/data").mkdir()
    (bundle / "private").chmod(0o700)
    config = bind("private/source")
    finding = only_finding(
        check_config(config, bundle, STRANGER), "$.mounts[0].source", "bundle-bind-source"
    )
    assert finding.problem == f"{bundle / 'private'} can't be searched"
    assert check_config(config, bundle) == []
    # Only the source's parent directories must be searchable; the source itself may be unreadable.
    (bundle / "private").chmod(0o755)
    (bundle / "private/source").chmod(0o700)
    assert check_config(config, bundle, STRANGER) == []


def test_mount_point_that_can_not_be_created_is_found(bundle: Path) -> None:
    (bundle / "source").mkdir()
    config = bind("source", "/a/b")
    finding = only_finding(
        check_config(config, bundle, STRANGER), "$.mounts[0].destination", "bundle-bind-target"
    )
    assert finding.remedy.startswith(f"mkdir -p {bundle / 'rootfs/a/b'},")
    assert check_config(config, bundle) == []
    (bundle / "rootfs/a/b").mkdir(parents=True)
    assert check_config(config, bundle, STRANGER) == []


@pytest.mark.parametrize("source_is_directory", [True, False])
def test_bind_of_file_on_directory_or_reverse_is_found(
    bundle: Path, source_is_directory: bool
) -> None:
    directory, file = bundle / "source", bundle / "rootfs/data"
    if not source_is_directory:
        directory, file = bundle / "rootfs/data", bundle / "source"
    directory.mkdir()
    file.touch()
    only_finding(
        check_config(bind("source"), bundle), "$.mounts[0].destination", "bundle-bind-target"
    )


def test_too_long_mount_point_is_found(bundle: Path) -> None:
    (bundle / "source").mkdir()
    config = bind("source", "/" + "x" * 300)
    finding = only_finding(
        check_config(config, bundle), "$.mounts[0].destination", "bundle-bind-target"
    )
    assert finding.problem.endswith(": File name too long")


def test_mount_point_below_another_bind_is_not_checked(bundle: Path) -> None:
    (bundle / "source").mkdir()
    (bundle / "rootfs/a").mkdir()
    config = bind("source", "/a")
    config["mounts"].append(config["mounts"][0] | {"destination": "/a/b"})
    assert check_config(config, bundle, STRANGER) == []


@pytest.mark.parametrize("option", ["shared", "rshared"])
def test_shared_propagation_of_a_bind_mount_is_found(bundle: Path, option: str) -> None:
    (bundle / "source").mkdir()
    config = bind("source", "/data", "rbind", option)
    only_finding(check_config(config, bundle), "$.mounts[0].options", "bundle-propagation")
    config["mounts"][0] |= {"type": "tmpfs", "options": [option]}
    assert check_config(config, bundle) == []


@pytest.mark.parametrize(
    ("path", "value", "place", "cause", "blocks"),
    [
        ("linux.rootfsPropagation", "rshared", "", "bundle-propagation", True),
        ("linux.rootfsPropagation", "rslave", "", None, False),
        ("linux.cgroupsPath", "/a/b", "", "cgroup-not-delegated", False),
        ("linux.devices", [{"path": "/dev/x"}], "", "bundle-devices", True),
        ("linux.devices", [], "", None, False),
        ("process.selinuxLabel", "a:b:c", "", "bundle-selinux", True),
        ("process.oomScoreAdj", -1001, "", "bundle-oom-score", True),
        ("process.oomScoreAdj", 1000, "", None, False),
        (
            "linux.namespaces",
            [{"type": "user"}, {"type": "pid", "path": "/proc/1/ns/pid"}],
            "[1].path",
            "bundle-join-ignored",
            False,
        ),
    ],
)
def test_options_that_runsc_refuses_or_ignores_are_found(
    bundle: Path, path: str, value: object, place: str, cause: str | None, blocks: bool
) -> None:
    findings = check_config(changed(GOOD, path, value), bundle)
    if cause is None:
        assert findings == []
        return
    assert only_finding(findings, f"$.{path}{place}", cause).blocks == blocks


@pytest.mark.parametrize(
    ("network", "cause", "blocks"),
    [("none", "bundle-join-ignored", False), ("host", "join-denied", True)],
)
def test_joining_a_network_namespace_is_found(
    bundle: Path, network: str, cause: str, blocks: bool
) -> None:
    entry = {"type": "network", "path": "/run/netns/x"}
    config = changed(GOOD, "linux.namespaces", [{"type": "user"}, entry])
    finding = only_finding(
        check_config(config, bundle, network=network), "$.linux.namespaces[1].path", cause
    )
    assert finding.blocks == blocks
    config = changed(GOOD, "linux.namespaces", [{"type": "user"}, {"type": "network"}])
    assert check_config(config, bundle, network=network) == []


@pytest.mark.parametrize(
    ("path", "exists", "missing"),
    [
        ("/", "", ""),
        ("/a/b", "a/b", ""),
        ("/a/x/y", "a", "x/y"),
        ("/a/../../a", "a", ""),
        ("/absolute/b", "a/b", ""),
        ("/a/relative", "a/b", ""),
        ("/a/up", "", ""),
        ("/file/x", "file", "x"),
        ("/loop", "", "loop"),
    ],
)
def test_symlinks_are_followed_within_the_root(
    tmp_path: Path, path: str, exists: str, missing: str
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "file").touch()
    links = {"absolute": "/a", "a/relative": "b", "a/up": "../../..", "loop": "loop"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert resolve_in_root(str(tmp_path), path) == (str(tmp_path / exists), missing)


@given(mutations)
@settings(deadline=None)
def test_any_mutation_gives_only_findings(config: dict[str, Any]) -> None:
    for extents in (RANGES, STRANGER):
        mended = outcome(fix, config, extents, extents)
        if not isinstance(mended, BundleError):
            findings = check_config(mended[0], Path("/"), extents)
            assert all(finding.path.startswith("$.") for finding in findings)
            assert not any(finding.fixable for finding in findings)
