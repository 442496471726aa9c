"""Tests of the launches that `usernsctl freeze` writes to launch files.

Some values in them, such as the user, are known only when usernsctl-exec performs the launch.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from frozen import decoded
from launches import launch
from processes import umask

from usernsctl import _core
from usernsctl._system.paths import PathDescriptor
from usernsctl.errors import BindError, CommandError
from usernsctl.gvisor.launch import facts, freeze
from usernsctl.gvisor.launch.freeze import FreezePolicy, environment_of, remedy_of
from usernsctl.gvisor.launch.request import Bind, Request
from usernsctl.gvisor.launch.steps import Launch, Record, record
from usernsctl.gvisor.oci import Rlimit


@pytest.fixture
def caller(tmp_path: Path) -> dict[str, str]:
    """Return a caller's environment variables, in which USERNSCTL_RUNSC names a fake runsc."""
    program = tmp_path / "bin" / "runsc"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho runsc version release-20260101.0\n")
    program.chmod(0o755)
    return {"USERNSCTL_RUNSC": str(program)}


def freeze_request(
    caller: dict[str, str], later: FreezePolicy | None = None, **options: object
) -> Launch:
    request = Request(**{"args": ("id",), **options})  # type: ignore[arg-type]
    return freeze.freeze(request, caller, later or FreezePolicy(remedy="again"))


def arguments_of(records: tuple[Record, ...], verb: str) -> list[tuple[str, ...]]:
    return [one.words for one in records if one.verb == verb]


def test_frozen_launch_assumes_its_programs_are_unchanged(caller: dict[str, str]) -> None:
    frozen_launch = freeze_request(caller)
    program = caller["USERNSCTL_RUNSC"]
    status = os.stat(program)
    with PathDescriptor.own(program, os.open, program, os.O_PATH) as opened:
        content = _core.content_sum(opened.fd)
    (number, *first), *_ = found = arguments_of(frozen_launch.assumptions, "assume")
    assert frozen_launch.sources[int(number)].path == os.path.realpath(program)
    assert first == [str(status.st_size), f"{status.st_mode:o}", content]
    names = [os.path.basename(frozen_launch.sources[int(number)].path) for number, *_ in found]
    assert names == ["runsc", "usernsctl-watch", "usernsctl-verify"]
    assert frozen_launch.remedy == "again"


def test_frozen_launch_does_not_depend_on_the_user(caller: dict[str, str]) -> None:
    frozen_launch = freeze_request(caller)
    assert record("guarded", "etc") in frozen_launch.steps
    assert record("home-moment") in frozen_launch.steps
    assert not arguments_of(frozen_launch.steps, "home")
    assert frozen_launch.user == (0, 0)
    assert frozen_launch.start_values is None


def test_scratch_directories_exclude_that_of_runsc(
    caller: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        facts, "_SCRATCH_DIRECTORIES", ("/mnt", str(tmp_path), "/no/such/directory")
    )
    assert freeze_request(caller).scratch == ("/mnt", "/no/such/directory")


def test_freeze_policy_is_in_the_launch(caller: dict[str, str]) -> None:
    later = FreezePolicy(
        ids=("--map-root-user", "--map-auto"),
        has_several=True,
        env=environment_of(["TOKEN"], [], everything=False, bare=False),
        remedy="again",
    )
    frozen_launch = freeze_request(
        caller, later, user=(5, 6), rlimits=(Rlimit("RLIMIT_CORE", 0, 0),), cwd="/srv"
    )
    assert frozen_launch.ids == later.ids
    assert frozen_launch.user == (5, 6)
    assert arguments_of(frozen_launch.policy, "env-need") == [("TOKEN",)]
    assert arguments_of(frozen_launch.policy, "cwd") == [("/srv",)]
    _, records = decoded(frozen_launch.encode())
    assert [one.verb for one in records].count("json-several") == 1
    assert "json-several" not in [one.verb for one in decoded(freeze_request(caller).encode())[1]]


@pytest.mark.parametrize("source", ["/tmp", "/run"])
def test_bind_mounts_that_show_state_are_refused(caller: dict[str, str], source: str) -> None:
    with pytest.raises(BindError) as caught:
        freeze_request(caller, binds=(Bind(source, "/x"),))
    assert caught.value.cause == "bind-shows-state"


@pytest.mark.also_root
def test_state_that_only_root_can_search_allows_other_bind_mounts(
    caller: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Check that a state directory that only root can search allows bind mounts of other paths."""
    monkeypatch.setattr(freeze, "_STATES", ("/root", "/root/state"))
    assert freeze_request(caller, binds=(Bind(str(tmp_path), "/x"),)).steps
    with pytest.raises(BindError) as caught:
        freeze_request(caller, binds=(Bind("/", "/x"),))
    assert caught.value.cause == "bind-shows-state"


def test_environment_of_a_frozen_launch(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("A=1\n# B=2\nC\n")
    records = environment_of(["D=4", "A"], [str(file)], everything=False, bare=True)
    assert [(one.verb, *one.words) for one in records] == [
        ("env-set", "A=1"),
        ("env-need", "C"),
        ("env-set", "D=4"),
        ("env-need", "A"),
    ]
    first, *names = environment_of([], [], everything=False, bare=False)
    assert (first.verb, first.words[0].partition("=")[0]) == ("env-set", "PATH")
    assert [one.words[0] for one in names] == ["PATH", "LANG", "TERM"]
    assert environment_of([], [], everything=True, bare=False) == (record("env-all"),)
    for setting, says in (
        ("=x", "the name before the = is missing"),
        (" A=b", "space"),
        ("A:b", "colon"),
    ):
        with pytest.raises(CommandError, match=says):
            environment_of([setting], [], everything=False, bare=True)


def test_remedy_command_omits_values_of_variables() -> None:
    command = remedy_of(
        ["--env", "A=s e", "--env=B=secret", "--env", "C", "-o", "f", "--", "--env"]
    )
    assert command == "usernsctl freeze --env A=... --env=B=... --env C -o f -- --env"
    assert remedy_of(["--env"]) == "usernsctl freeze --env ''"


def test_launch_file_is_replaced_atomically(tmp_path: Path) -> None:
    file = tmp_path / "launch"
    file.write_text("old")
    file.chmod(0o777)
    with umask(0o077):
        freeze.write(launch(), str(file))
    assert file.read_bytes() == launch().encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["launch"]


def test_symlink_as_launch_file_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "launch"
    target.write_text("mine")
    link.symlink_to(target)
    freeze.write(launch(), str(link))
    assert target.read_text() == "mine"
    assert not link.is_symlink()


@pytest.mark.parametrize(
    ("name", "says"),
    [("", "Is a directory"), ("missing/f", "No such file"), ("d", "Is a directory")],
)
def test_unwritable_launch_file_raises_and_leaves_nothing(
    tmp_path: Path, name: str, says: str
) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(CommandError, match=says):
        freeze.write(launch(), f"{tmp_path}/{name}")
    assert os.listdir(tmp_path) == ["d"]


@pytest.mark.also_root
def test_state_directory_with_mode_0_allows_other_bind_mounts(
    caller: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, other = tmp_path / "closed", tmp_path / "other"
    closed.mkdir(0)
    other.mkdir()
    monkeypatch.setattr(freeze, "_STATES", (str(closed),))
    assert freeze_request(caller, binds=(Bind(str(other), "/x"),)).sources
    for source in (closed, tmp_path):
        with pytest.raises(BindError) as caught:
            freeze_request(caller, binds=(Bind(str(source), "/x"),))
        assert caught.value.cause == "bind-shows-state"
