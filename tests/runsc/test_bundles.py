"""Tests of bundles that runsc rejects without privileges, and that usernsctl fixes and runs.

The root filesystem of the bundles is the host's, read-only, so that no image must be unpacked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import gvisor
import pytest
from callers import unprivileged
from conftest import Program
from processes import capture, children_of
from sampling import tries

from usernsctl.gvisor.oci import Violation, check, load
from usernsctl.maps import Extent

PRINT_VERSION = ["/bin/cat", "/proc/version"]
LASTING = ["/bin/sh", "-c", "/bin/cat /proc/version; sleep 1"]
# Command that prints the kernel's version only after ten seconds, so that it prints nothing if
# runsc fails after the start and kills the sandbox.
LATE = ["/bin/sh", "-c", "sleep 10; /bin/cat /proc/version"]
OWN_ROOT = [{"containerID": 0, "hostID": 0, "size": 1}]
GRANTED_TO_NOBODY = [{"containerID": 0, "hostID": 4_000_000_000, "size": 65536}]
USER = [{"type": "user"}]

REFUSED: dict[str, dict[str, Any]] = {
    "no linux": {},
    "empty linux": {"linux": {}},
    "no mappings": {"linux": {"namespaces": USER}},
    "others' ids": {
        "linux": {
            "namespaces": USER,
            "uidMappings": GRANTED_TO_NOBODY,
            "gidMappings": GRANTED_TO_NOBODY,
        }
    },
}
WORKS = {"linux": {"namespaces": USER, "uidMappings": OWN_ROOT, "gidMappings": OWN_ROOT}}


def make_bundle(directory: Path, **parts: Any) -> Path:
    """Return a new bundle that prints the kernel's version, with `parts` in its config.json."""
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": PRINT_VERSION, "cwd": "/"},
        "root": {"path": "/", "readonly": True},
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config | parts))
    return directory


def runsc_command(bundle: Path, *options: str) -> list[str]:
    """Return the argv of runsc for a bundle, with a state directory beside the bundle."""
    runsc = shutil.which(os.environ.get("USERNSCTL_RUNSC", "runsc"))
    assert runsc is not None
    state = f"--root={bundle}-state"
    how = [state, "--network=none", "--ignore-cgroups", *options]
    return [runsc, *how, "run", f"--bundle={bundle}", f"test-{os.getpid()}-{bundle.name}"]


def run_plainly(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a bundle with runsc alone, without usernsctl; return the result."""
    done = capture(runsc_command(bundle, *options))
    # Remove the bind mount null-netns, which runsc leaves behind since release 20260810 if root
    # runs it.
    left = Path(f"{bundle}-state", "null-netns")
    if left.is_mount():
        subprocess.run(["umount", left], check=True)
    return done


def findings(bundle: Path) -> list[Violation]:
    uid_map, gid_map = [Extent(0, os.geteuid(), 1)], [Extent(0, os.getegid(), 1)]
    return check(load(bundle), bundle, uid_map, gid_map)


@unprivileged
@pytest.mark.parametrize("name", REFUSED)
def test_runsc_alone_refuses_the_bundle(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path / "b", **REFUSED[name])
    refused = run_plainly(bundle)
    assert refused.returncode != 0
    assert gvisor.BUILD not in refused.stdout
    assert "creating container" in refused.stderr


@tries(3, 15)
def test_short_commands_succeed_with_oom_score_adj(
    usernsctl: Program, tmp_path: Path, count: int
) -> None:
    """Check that short commands succeed in a bundle with oomScoreAdj.

    runsc itself would set oomScoreAdj after the start, and fail if the command has already exited.
    So usernsctl sets oomScoreAdj before the start.
    """
    asked = {"args": ["/bin/true"], "oomScoreAdj": 500}
    bundle = make_bundle(tmp_path / "b", **process(**asked))
    for _ in range(count):
        usernsctl.check_output("run", "--trust-bundle", "--bundle", bundle)


def test_oom_score_adj_of_a_bundle_is_applied(usernsctl: Program, tmp_path: Path) -> None:
    lasting = ["/bin/sh", "-c", "echo ready; read line"]
    bundle = make_bundle(tmp_path / "b", **process(args=lasting, oomScoreAdj=500))
    with subprocess.Popen(
        [usernsctl.path, "run", "--trust-bundle", "--bundle", bundle],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdout.readline() == b"ready\n"
        family = [running.pid]
        for pid in family:
            family += children_of(pid)
        scores = {Path(f"/proc/{pid}/oom_score_adj").read_text() for pid in family}
        running.communicate(b"\n")
    assert len(family) > 3
    assert scores == {"500\n"}


@pytest.mark.also_root
@pytest.mark.parametrize("name", REFUSED)
def test_usernsctl_runs_bundles_that_runsc_refuses(
    usernsctl: Program, tmp_path: Path, name: str
) -> None:
    bundle = make_bundle(tmp_path / "b", **REFUSED[name])
    before = (bundle / "config.json").read_bytes()
    done = usernsctl("run", "--trust-bundle", "--bundle", bundle)
    assert done.stderr == ""
    assert gvisor.is_version(done.stdout)
    assert done.returncode == 0
    assert (bundle / "config.json").read_bytes() == before
    assert os.listdir(bundle) == ["config.json"]


# The mounts in the config.json that `runc spec`, umoci and containerd write.
COMMON_MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["gid=5"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
]


@pytest.mark.also_root
def test_mounts_may_lie_in_filesystems_of_gvisor(usernsctl: Program, tmp_path: Path) -> None:
    nested = [{"destination": path, "type": "tmpfs"} for path in ("/srv", "/srv/a", "/srv/a/b/c")]
    command = process(args=["/bin/sh", "-c", "cut -d ' ' -f 2 /proc/mounts"])
    bundle = make_bundle(tmp_path / "b", **command, mounts=COMMON_MOUNTS + nested)
    done = usernsctl("run", "--trust-bundle", "--bundle", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    mounted = set(done.stdout.split())
    assert {"/dev", "/dev/pts", "/dev/shm", "/srv", "/srv/a", "/srv/a/b/c"} <= mounted


@pytest.mark.parametrize("name", REFUSED)
def test_runsc_alone_runs_a_bundle_after_fix(usernsctl: Program, tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path / "b", **REFUSED[name])
    assert usernsctl("bundle", "check", bundle).returncode == 1
    assert usernsctl("bundle", "fix", bundle).returncode == 0
    # The root filesystem is the host's, which is outside the bundle, so one finding remains.
    assert [finding.id for finding in findings(bundle)] == ["bundle-root-outside"]
    done = run_plainly(bundle, "--rootless")
    assert gvisor.is_version(done.stdout)
    assert done.returncode == 0


def test_runsc_runs_a_bundle_made_by_init(usernsctl: Program, tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    made = usernsctl("bundle", "init", bundle, "--rootfs", "/", "--", *PRINT_VERSION)
    assert made.returncode == 0
    assert made.stdout.endswith(f"To run it: usernsctl run --bundle {bundle} --trust-bundle\n")
    ours = usernsctl("run", "--bundle", bundle, "--trust-bundle")
    for done in (run_plainly(bundle, "--rootless"), ours):
        assert gvisor.is_version(done.stdout)
        assert done.returncode == 0


def linux(**parts: Any) -> dict[str, Any]:
    return {"linux": WORKS["linux"] | parts}


def process(**parts: Any) -> dict[str, Any]:
    return WORKS | {
        "process": {"args": PRINT_VERSION, "cwd": "/", "user": {"uid": 0, "gid": 0}, **parts}
    }


def bind(source: str, destination: str, *options: str) -> dict[str, Any]:
    mount = {"destination": destination, "type": "bind", "source": source}
    return process() | {"mounts": [mount | {"options": ["rbind", "ro", *options]}]}


BLOCKED = [
    ("bundle-no-mappings", linux(uidMappings=[])),
    ("bundle-no-mappings", linux(namespaces=[])),
    ("outside-parent-map", linux(uidMappings=[{"containerID": 0, "hostID": 0, "size": 2}])),
    ("outside-parent-map", linux(gidMappings=[{"containerID": 0, "hostID": 7, "size": 1}])),
    ("bundle-root-unmapped", linux(uidMappings=[{"containerID": 1, "hostID": 0, "size": 1}])),
    ("map-invalid", linux(uidMappings=OWN_ROOT * 2)),
    ("bundle-join-user", linux(namespaces=[{"type": "user", "path": "/proc/self/ns/user"}])),
    ("bundle-propagation", linux(rootfsPropagation="rshared")),
    ("bundle-devices", linux(devices=[{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}])),
    ("bundle-selinux", process(selinuxLabel="a:b:c")),
    ("bundle-other-system", WORKS | {"windows": {"layerFolders": []}}),
    ("bundle-other-system", WORKS | {"solaris": {}}),
    # Use LATE, since runsc sets oomScoreAdj only after the start, when a short command may already
    # have exited.
    ("bundle-oom-score", process(args=LATE, oomScoreAdj=-1000)),
    ("rootfs-missing", process() | {"root": {"path": "missing", "readonly": True}}),
    ("rootfs-missing", process() | {"root": {"path": "/etc/passwd", "readonly": True}}),
    ("bundle-bind-source", bind("/missing", "/mnt")),
    ("bundle-bind-source", bind("", "/mnt")),
    ("bundle-bind-target", bind("/usr", "/etc/passwd")),
    ("bundle-propagation", bind("/usr", "/mnt", "rshared")),
]


@pytest.mark.parametrize(("cause", "parts"), BLOCKED)
@pytest.mark.sampled(6)
def test_runsc_refuses_bundles_with_blocking_findings(
    prelude: Program, tmp_path: Path, cause: str, parts: dict[str, Any]
) -> None:
    bundle = make_bundle(tmp_path / "b", **parts)
    assert cause in [finding.id for finding in findings(bundle) if finding.blocks]
    done = prelude("-r", "-m", "--", *runsc_command(bundle, "--rootless"))
    if cause == "bundle-devices" and gvisor.release().has("devices-without-mode"):
        assert (done.returncode, gvisor.is_version(done.stdout)) == (0, True)
    else:
        assert done.returncode != 0
        assert gvisor.BUILD not in done.stdout


NOTED = [
    ("bundle-no-user", WORKS),
    ("bundle-user-unmapped", process(user={"uid": 1000, "gid": 1000})),
    ("bundle-join-ignored", linux(namespaces=[*USER, {"type": "pid", "path": "/missing"}])),
    ("bundle-join-ignored", linux(namespaces=[*USER, {"type": "network", "path": "/missing"}])),
    ("cgroup-not-delegated", linux(cgroupsPath="/a/b")),
    (None, process()),
    (None, bind("/usr", "/mnt", "rslave", "nosuid")),
    # Use LASTING, since runsc sets oomScoreAdj only after the start, when a short command may
    # already have exited.
    (None, process(args=LASTING, oomScoreAdj=1000)),
]


@pytest.mark.parametrize(("cause", "parts"), NOTED)
@pytest.mark.sampled(4)
def test_runsc_runs_bundles_with_findings_that_do_not_block(
    prelude: Program, tmp_path: Path, cause: str | None, parts: dict[str, Any]
) -> None:
    bundle = make_bundle(tmp_path / "b", **parts)
    found = [finding for finding in findings(bundle) if not finding.outside]
    assert not [finding for finding in found if finding.blocks]
    assert cause in [finding.id for finding in found] or (cause is None and not found)
    done = prelude("-r", "-m", "--", *runsc_command(bundle, "--rootless"))
    assert gvisor.is_version(done.stdout)
    assert done.returncode == 0
