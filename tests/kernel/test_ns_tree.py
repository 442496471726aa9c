"""Tests of `usernsctl ns tree`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from callers import unprivileged
from conftest import Program
from processes import capture
from sampling import tries

pytestmark = pytest.mark.also_root


@contextlib.contextmanager
def nested(prelude: Program) -> Iterator[dict[str, int]]:
    """Create two nested namespaces; yield their inode numbers and the pid of the inner process."""
    name = r"printf '\''\033]0;x\007(\n'\'' >/proc/self/comm"
    inner = f"{name}; echo $(stat -Lc %i /proc/self/ns/user) $$; read line"
    script = f"stat -Lc %i /proc/self/ns/user; exec \"$0\" -r -- sh -c '{inner}'"
    process = subprocess.Popen(
        [prelude.path, "-r", "--", "sh", "-c", script, prelude.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        outer = int(process.stdout.readline())
        inode, pid = map(int, process.stdout.readline().split())
        yield {"outer": outer, "inner": inode, "pid": pid}
    finally:
        process.communicate()


def tree(usernsctl: Program) -> dict[str, Any]:
    done = usernsctl("ns", "tree", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_tree_shows_parents_and_children(usernsctl: Program, prelude: Program) -> None:
    with nested(prelude) as made:
        found = {one["inode"]: one for one in tree(usernsctl)["namespaces"]}
        text = usernsctl("ns", "tree").stdout
    own = os.stat("/proc/self/ns/user").st_ino
    assert found[own]["parent"] is None
    assert found[made["outer"]]["parent"] == own
    inner = found[made["inner"]]
    assert (inner["parent"], inner["owner"]) == (made["outer"], os.geteuid())
    # The inner namespace maps its uid 0 to uid 0 of the outer namespace. But the tree shows ids
    # outside a namespace as ids of this process's namespace, where that uid is the caller's.
    assert [(one["inside"], one["outside"], one["count"]) for one in inner["uid"]] == [
        (0, os.geteuid(), 1)
    ]
    assert [one["pid"] for one in inner["processes"]] == [made["pid"]]
    # The outer namespace has no process: its creator is now in the inner namespace.
    assert found[made["outer"]]["processes"] == []
    lines = text.splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.endswith(f"─ {made['inner']}"))
    assert "no visible processes" in lines[at - 1]
    assert f"owner {os.geteuid()}, uid map 0:{os.geteuid()}:1" in lines[at + 1]
    assert f"({made['pid']})" in lines[at + 2]
    assert max(map(len, lines)) <= 80


def test_a_kept_namespace_has_its_name(usernsctl: Program, tmp_path: Path) -> None:
    environ = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "LC_ALL": "C"}
    assert usernsctl("ns", "create", "box", "-r", env=environ).returncode == 0
    try:
        done = usernsctl("ns", "tree", env=environ)
    finally:
        usernsctl("ns", "remove", "box", env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert [line for line in done.stdout.splitlines() if line.endswith(" box")]


def test_process_names_with_escape_sequences_are_escaped(
    usernsctl: Program, prelude: Program
) -> None:
    with nested(prelude) as made:
        text = usernsctl("ns", "tree").stdout
        told = [
            process["name"]
            for one in tree(usernsctl)["namespaces"]
            for process in one["processes"]
            if process["pid"] == made["pid"]
        ]
    assert told == ["\x1b]0;x\x07("]
    assert "\x1b" not in text
    assert r"\x1b]0;x\x07" in text


@unprivileged
def test_processes_of_others_are_counted(usernsctl: Program) -> None:
    """Check that processes of other users, such as PID 1, are counted but not listed."""
    told = tree(usernsctl)
    assert told["unseen"] >= 1
    assert 1 not in [p["pid"] for one in told["namespaces"] for p in one["processes"]]
    assert "hidden: the namespaces of " in usernsctl("ns", "tree").stdout


@tries(2, 5)
def test_the_tree_tolerates_processes_that_exit(usernsctl: Program, count: int) -> None:
    busy = subprocess.Popen(
        ["sh", "-c", "while :; do true & /bin/true; done"], start_new_session=True
    )
    try:
        for _ in range(count):
            tree(usernsctl)
    finally:
        busy.kill()
        busy.wait()


def test_the_tree_in_a_nested_namespace_lacks_names(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    """Check that the tree shows no names if the state directory is not trusted."""
    others = tmp_path / "usernsctl-0"
    others.mkdir()
    others.chmod(0o777)
    twice = [prelude.path, "-r", "--", prelude.path, "-r", "--"]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    environ.pop("XDG_RUNTIME_DIR", None)
    done = capture([*twice, usernsctl.path, "ns", "tree"], env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert "(this one)\n" in done.stdout
    assert f"unknown: the names of namespaces: {others}" in done.stdout
