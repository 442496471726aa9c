"""Attacks that replace a directory with a symbolic link while a sandbox mounts it.

The attacker swaps paths in a loop (swapper.c). A fake runsc (stand_in.c), which starts faster than
the real runsc, prints what a payload would have obtained.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import capture
from strangers import Stranger, other_users, swapping
from tally import Tally

pytestmark = pytest.mark.also_root

HERE = Path(__file__).parent
SHORT, FULL = 15, 2000


@pytest.fixture
def victim(place: Path, programs: Path) -> Path:
    """Create a directory with the caller's runsc; attacks try to mount over this directory."""
    directory = place / "bin"
    directory.mkdir()
    shutil.copy(programs / "runsc", directory)
    return directory


@pytest.fixture
def rootfs(place: Path, programs: Path) -> Path:
    """Create a root filesystem that contains the attacker's runsc."""
    directory = place / "rootfs"
    (directory / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", directory / "bin")
    for path in ("opt/inner", "spare/inner"):
        (directory / path).mkdir(parents=True)
        shutil.copy(programs / "evil", directory / path / "runsc")
    return directory


def attempts(victim: Path, count: int, *, some_start: bool = True, **fields: Any) -> list[str]:
    """Start a sandbox `count` times; return the output of each start.

    With `some_start`, repeat this until a start has succeeded: an attacker that is not scheduled
    may leave its link in place all the time.
    """
    lines = attempts_once(victim, count, **fields)
    for _ in range(100 if some_start else 0):
        if any("ours" in line for line in lines):
            break
        lines += attempts_once(victim, count, **fields)
    return lines


def attempts_once(victim: Path, count: int, **fields: Any) -> list[str]:
    done = capture(
        [sys.executable, str(HERE / "attempts.py"), str(count), json.dumps(fields)],
        env={"PATH": "/usr/bin:/bin", "USERNSCTL_RUNSC": str(victim / "runsc"), "HOME": "/"},
        cwd="/",
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == count
    assert not [line for line in lines if line.startswith("crashed")][:1]
    return lines


def judge(tally: Tally, lines: list[str], *, some_start: bool = True) -> None:
    """Count the attacker's successes; with `some_start`, check that a start has succeeded."""
    assert not some_start or any("ours" in line for line in lines), lines[:2]
    for line in lines:
        tally.tried()
        for got in ("evil", "secret"):
            if got in line.split(","):
                tally.succeeded(got)


def test_a_directory_of_the_rootfs_becomes_a_link_to_a_secret(
    tally: Tally, programs: Path, victim: Path, rootfs: Path, secret: Path
) -> None:
    (rootfs / "other").symlink_to(secret)
    with swapping(programs, rootfs / "opt", rootfs / "other"):
        lines = attempts(
            victim,
            tally.rounds(SHORT, FULL),
            rootfs=str(rootfs),
            binds=[[str(victim), "/opt/inner/absent", True]],
        )
    judge(tally, lines)


def test_a_directory_of_the_rootfs_becomes_a_link_to_the_directory_of_runsc(
    tally: Tally, programs: Path, victim: Path, rootfs: Path, secret: Path
) -> None:
    (rootfs / "other").symlink_to(victim)
    with swapping(programs, rootfs / "opt" / "inner", rootfs / "other"):
        lines = attempts(
            victim,
            tally.rounds(SHORT, FULL),
            rootfs=str(rootfs),
            binds=[[str(secret / "env"), "/opt/inner/absent", True]],
        )
    judge(tally, lines)


@other_users
def test_the_parent_of_a_bind_becomes_a_link(
    tally: Tally, victim: Path, stranger: Stranger
) -> None:
    with stranger.swaps() as x:
        lines = attempts(
            victim, tally.rounds(SHORT, FULL), binds=[[str(x / "data"), "/data", True]]
        )
    judge(tally, lines)


@other_users
def test_the_root_path_of_a_bundle_becomes_a_link(
    tally: Tally, place: Path, victim: Path, stranger: Stranger
) -> None:
    config = {"process": {"args": ["x"], "cwd": "/"}, "root": {"path": "../public/x"}}
    (place / "bundle").mkdir()
    (place / "bundle" / "config.json").write_text(json.dumps(config))
    (stranger.secret / "bin").mkdir()
    shutil.copy("/bin/true", stranger.secret / "bin")
    with stranger.swaps():
        lines = attempts(
            victim, tally.rounds(SHORT, FULL), bundle=str(place / "bundle"), trust_bundle=True
        )
    judge(tally, lines)


@other_users
def test_the_parent_of_a_file_of_settings_becomes_a_link(
    tally: Tally, victim: Path, stranger: Stranger
) -> None:
    with stranger.swaps() as x:
        lines = attempts(victim, tally.rounds(SHORT, FULL), env_file=str(x / "env"))
    judge(tally, lines)


@other_users
@pytest.mark.parametrize("option", ["state", "debug_log"])
def test_the_parent_of_a_directory_for_runsc_becomes_a_link(
    tally: Tally, victim: Path, stranger: Stranger, option: str
) -> None:
    (stranger.secret / "log").mkdir()
    with stranger.swaps() as x:
        lines = attempts(
            victim, tally.rounds(SHORT, FULL), some_start=False, **{option: str(x / "log")}
        )
    judge(tally, lines, some_start=False)
    if os.listdir(stranger.secret / "log"):
        tally.succeeded("runsc wrote to the secret directory")
