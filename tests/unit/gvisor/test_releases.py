"""Tests of the releases of runsc, and of their cache."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import settled_descriptors

from usernsctl.errors import RunscError
from usernsctl.gvisor.runsc import releases
from usernsctl.gvisor.runsc.find import SIDE_PROGRAMS, check_side_programs
from usernsctl.gvisor.runsc.releases import ABILITIES, Release, release_of

LABEL = "release-20260831.0"

Made = Callable[[str], Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the cache of releases."""
    (tmp_path / "cache").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "usernsctl" / "runsc-releases.json"


@pytest.fixture
def program(tmp_path: Path) -> Made:
    """Return a function that creates a fake runsc, which counts its calls with --version."""

    def make(answer: str, name: str = "runsc") -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho . >>{tmp_path}/asked\n{answer}\n")
        path.chmod(0o755)
        return path

    return make


def asked(tmp_path: Path) -> int:
    return len((tmp_path / "asked").read_text().split())


@pytest.mark.parametrize(
    ("label", "day"),
    [
        ("release-20260817.0", datetime.date(2026, 8, 17)),
        ("0.0~20240729.0", datetime.date(2024, 7, 29)),
        ("VERSION_MISSING", None),
        ("release-20261399.0", None),
        ("", None),
    ],
)
def test_the_day_is_in_the_label(label: str, day: datetime.date | None) -> None:
    assert Release.parse(label).day == day


def test_an_ability_begins_with_a_release() -> None:
    assert not Release.parse("release-20241104.0").has("exec-wants-cwd")
    assert Release.parse("release-20241111.0").has("exec-wants-cwd")


def test_what_is_newer_or_unknown_is_taken_for_the_newest() -> None:
    for label in ("release-20990101.0", "VERSION_MISSING"):
        assert [name for name in ABILITIES if not Release.parse(label).has(name)] == []


def test_the_age_counts_days() -> None:
    today = datetime.date(2026, 8, 18)
    assert Release.parse("release-20260817.0").age(today) == 1
    assert Release.parse("built by hand").age(today) is None


def test_a_program_is_asked_once(cache: Path, program: Made, tmp_path: Path) -> None:
    runsc = program("echo runsc version release-20260817.0; echo spec: 1.2.0")
    for _ in range(3):
        assert release_of(str(runsc)).label == "release-20260817.0"
    assert asked(tmp_path) == 1
    assert cache.stat().st_mode & 0o077 == 0


def test_whoever_only_looks_leaves_nothing(cache: Path, program: Made) -> None:
    runsc = program("echo runsc version release-20260817.0")
    assert release_of(str(runsc), remember=False).label == "release-20260817.0"
    assert not cache.parent.exists()


def test_another_file_of_the_same_path_is_asked_again(
    cache: Path, program: Made, tmp_path: Path
) -> None:
    release_of(str(program("echo runsc version release-20240729.0")))
    new = program("echo runsc version release-20260817.0", "new")
    new.rename(tmp_path / "runsc")
    assert release_of(str(tmp_path / "runsc")).label == "release-20260817.0"
    assert asked(tmp_path) == 2


def test_what_is_remembered_stays_small(cache: Path, program: Made) -> None:
    runsc = program("echo runsc version release-20260817.0")
    for number in range(releases._CACHE_ENTRIES + 5):
        copy = runsc.with_name(f"runsc-{number}")
        copy.write_bytes(runsc.read_bytes())
        copy.chmod(0o755)
        release_of(str(copy))
    assert len(json.loads(cache.read_text())) == releases._CACHE_ENTRIES
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def forge(cache: Path, runsc: Path, label: object) -> None:
    status = runsc.stat()
    identity = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
    cache.parent.mkdir(mode=0o700)
    cache.write_text(json.dumps({str(runsc): [identity, label]}))
    cache.chmod(0o600)


def test_a_memory_that_others_may_write_is_not_trusted(cache: Path, program: Made) -> None:
    runsc = program("echo runsc version release-20260817.0")
    forge(cache, runsc, "release-20240101.0")
    assert release_of(str(runsc)).label == "release-20240101.0"
    cache.chmod(0o666)
    assert release_of(str(runsc)).label == "release-20260817.0"
    forge_again = json.loads(cache.read_text())
    cache.write_text(json.dumps(forge_again).replace("20260817", "20240101"))
    cache.parent.chmod(0o777)
    assert release_of(str(runsc)).label == "release-20260817.0"


@pytest.mark.parametrize(
    "text", ["", "[", "[" * 100_000, "3", '{"%s": 1}', '{"%s": [[1, 2, 3, 4], "x"]}', "x" * 99_999]
)
def test_a_memory_that_makes_no_sense_is_forgotten(cache: Path, program: Made, text: str) -> None:
    runsc = program("echo runsc version release-20260817.0")
    cache.parent.mkdir(mode=0o700)
    cache.write_text(text.replace("%s", str(runsc)))
    assert release_of(str(runsc)).label == "release-20260817.0"


def test_a_memory_that_is_a_pipe_or_a_link_is_left_alone(
    cache: Path, program: Made, tmp_path: Path
) -> None:
    runsc = program("echo runsc version release-20260817.0")
    cache.parent.mkdir(mode=0o700)
    os.mkfifo(cache)
    assert release_of(str(runsc)).label == "release-20260817.0"
    cache.unlink()
    (tmp_path / "other").write_text("mine")
    cache.symlink_to(tmp_path / "other")
    assert release_of(str(runsc)).label == "release-20260817.0"
    assert (tmp_path / "other").read_text() == "mine"
    cache.unlink()
    cache.mkdir()
    before = settled_descriptors()
    assert release_of(str(runsc)).label == "release-20260817.0"
    assert settled_descriptors() == before


@pytest.mark.parametrize("home", ["/nonexistent", "/proc"])
def test_without_a_place_to_remember_it_is_asked_each_time(
    program: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    runsc = program("echo runsc version release-20260817.0")
    for _ in range(2):
        assert release_of(str(runsc)).label == "release-20260817.0"
    assert asked(tmp_path) == 2


@pytest.mark.parametrize(
    "answer", ["exit 1", "echo runsc version x; exit 1", "echo something", "printf '\\377\\n'"]
)
def test_what_is_no_runsc_is_refused(cache: Path, program: Made, answer: str) -> None:
    with pytest.raises(RunscError) as caught:
        release_of(str(program(answer)))
    assert caught.value.cause == "not-runsc"
    assert caught.value.remedy
    assert not cache.exists()


def test_what_is_not_there_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(RunscError, match="No such file"):
        release_of(str(tmp_path / "absent"))


@pytest.fixture
def side(program: Made, tmp_path: Path) -> Path:
    """Create the gvisor-bin/ of a complete release."""
    program(f"echo runsc version {LABEL}")
    directory = tmp_path / "gvisor-bin"
    directory.mkdir()
    program(f"echo runsc version {LABEL}", "gvisor-bin/gvisor_sentry")
    program("exit 1", "gvisor-bin/gvisor-sentry-prewarmer")
    return directory


def refusal(path: Path, directory: Path | None = None) -> str:
    with pytest.raises(RunscError) as caught:
        check_side_programs(str(path), str(directory) if directory else None)
    assert caught.value.cause == "runsc-sidecars-missing"
    return caught.value.reason


def test_a_whole_release_is_good(cache: Path, side: Path, tmp_path: Path) -> None:
    check_side_programs(str(tmp_path / "runsc"), None)


def test_a_release_may_be_called_by_a_link(cache: Path, side: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "runsc").symlink_to(tmp_path / "runsc")
    check_side_programs(str(tmp_path / "bin" / "runsc"), None)
    (side / "gvisor_sentry").chmod(0o644)
    assert "gvisor_sentry is not executable" in refusal(tmp_path / "bin" / "runsc")


def test_one_that_needs_nothing_beside_it_is_not_started(tmp_path: Path) -> None:
    check_side_programs(str(tmp_path / "absent" / "runsc"), None)


@pytest.mark.parametrize("name", SIDE_PROGRAMS)
def test_a_part_that_is_missing_is_named(
    cache: Path, side: Path, tmp_path: Path, name: str
) -> None:
    (side / name).unlink()
    assert f"{name} is missing" in refusal(tmp_path / "runsc")


@pytest.mark.parametrize("name", SIDE_PROGRAMS)
def test_a_release_that_can_do_without_a_part_does(
    cache: Path, side: Path, tmp_path: Path, program: Made, name: str
) -> None:
    for each in ("runsc", "gvisor-bin/gvisor_sentry"):
        program("echo runsc version release-20260803.0", each)
    (side / name).chmod(0o644)
    check_side_programs(str(tmp_path / "runsc"), None)
    (side / name).unlink()
    check_side_programs(str(tmp_path / "runsc"), None)


def test_parts_of_different_releases_do_not_go_together(
    cache: Path, side: Path, tmp_path: Path, program: Made
) -> None:
    program("echo runsc version release-20260907.0", "gvisor-bin/gvisor_sentry")
    told = refusal(tmp_path / "runsc")
    assert "release-20260907.0" in told
    assert LABEL in told
    program("exit 1", "gvisor-bin/gvisor_sentry")
    assert "does not print its release" in refusal(tmp_path / "runsc")


def test_another_directory_may_be_named(cache: Path, side: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    side.rename(other)
    check_side_programs(str(tmp_path / "runsc"), str(other))
    assert "is missing" in refusal(tmp_path / "runsc", tmp_path / "nowhere")


def test_the_documentation_has_what_is_known() -> None:
    page = (Path(__file__).parents[3] / "docs" / "runsc.md").read_text().replace("`", "")
    rows = [line.split(" | ") for line in page.split("\n") if line.startswith("| 20")]
    told = {int(since.removeprefix("| ")): what for since, what, _ in rows}
    assert told == dict(ABILITIES.values())
