"""Tests of containers with invalid or hostile limits, volumes, ids, terminals and profiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docker.conftest import PRELUDE
from docker.engine import TREE, Engine
from docker.matrix import IN_GVISOR, NO_NEW_PRIVILEGES, NONE_LEFT, SECCOMP, cause_of

UNCONFINED = ["run", "--rm", NONE_LEFT, NO_NEW_PRIVILEGES, IN_GVISOR]
PROTECTED = [*UNCONFINED, SECCOMP]
# System calls that the seccomp profiles of earlier usernsctl versions did not allow.
NEWER_CALLS = {"open_tree", "move_mount", "mount_setattr"}


def test_a_volume_over_the_launches_is_named(plain: Engine, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = plain(*PROTECTED, f"--volume={tmp_path}:/etc", PRELUDE, "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "/etc/usernsctl/launch: No such file or directory" in done.stderr
    assert "a volume may hide the launch of the image" in done.stderr


def test_a_volume_over_the_programs_starts_nothing(plain: Engine, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = plain(*PROTECTED, f"--volume={tmp_path}:/usr", PRELUDE, "--", "true")
    assert done.returncode in (126, 127)
    assert "/usr/local/bin/in-gvisor: no such file or directory" in done.stderr


@pytest.mark.parametrize("lie", ["max", "-1", "99999999999999999999999", "x\n" * 5000, ""])
def test_a_false_control_group_does_no_harm(plain: Engine, tmp_path: Path, lie: str) -> None:
    names = ["memory.max", "memory.limit_in_bytes", "cpu.max", "pids.max", "pids.current"]
    for name in [*names, "memory.events", "memory.oom_control"]:
        (tmp_path / name).write_text(lie)
    tmp_path.chmod(0o755)
    over = [f"--volume={tmp_path}:/sys/fs/cgroup{part}" for part in ("", "/memory", "/pids")]
    made = [(tmp_path / part).mkdir() for part in ("memory", "pids")]
    assert len(made) == 2
    script = "head -n 1 /proc/meminfo | grep MemTotal && nproc && echo ran"
    done = plain(*PROTECTED, *over, PRELUDE, "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("ran\n")


def test_tty_without_a_terminal_works(plain: Engine) -> None:
    """Check that docker run -t creates a terminal although docker's standard input is not one."""
    done = plain(*PROTECTED, "--tty", PRELUDE, "--", "sh", "-c", "test -t 1 && echo terminal")
    assert (done.returncode, done.stdout, done.stderr) == (0, "terminal\n", "")


def test_a_small_dev_shm_is_sufficient(plain: Engine) -> None:
    done = plain(*PROTECTED, "--shm-size=4k", PRELUDE, "--", "echo", "ran")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def test_unmapped_ids_are_named(plain: Engine) -> None:
    """Check that --user accepts any id by default, but only mapped ids with --ids=all."""
    done = plain(*PROTECTED, PRELUDE, "--user=4000000000", "--", "id", "-u")
    assert (done.returncode, done.stdout, done.stderr) == (0, "4000000000\n", "")
    several = ["run", "--rm", IN_GVISOR, SECCOMP]
    done = plain(*several, PRELUDE, "--ids=all", "--user=70000", "--", "id", "-u")
    assert (done.returncode, done.stdout) == (125, "")
    assert "70000" in done.stderr


def test_a_profile_of_an_older_version_is_named(plain: Engine, tmp_path: Path) -> None:
    profile = json.loads((TREE / "docker" / "seccomp.json").read_text())
    for rule in profile["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in NEWER_CALLS]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(profile))
    done = plain(*UNCONFINED, f"--security-opt=seccomp={old}", PRELUDE, "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert cause_of(done) == "mount-by-descriptor-missing"
    assert "seccomp-profile >seccomp.json" in done.stderr
