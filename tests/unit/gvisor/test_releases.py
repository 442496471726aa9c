"""Tests of finding out the release of a runsc, and of the cache of releases."""

from __future__ import annotations

import datetime
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import settled_descriptors

from usernsctl._system.descriptors import wait_readable
from usernsctl.errors import RunscError
from usernsctl.gvisor.runsc import releases
from usernsctl.gvisor.runsc.find import SIDE_PROGRAMS, check_side_programs
from usernsctl.gvisor.runsc.releases import ABILITIES, Release, release_of

LABEL = "release-20260831.0"

FakeRunscFactory = Callable[[str], Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the cache file."""
    (tmp_path / "cache").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "usernsctl" / "runsc-releases.json"


@pytest.fixture
def program(tmp_path: Path) -> FakeRunscFactory:
    """Return a function that creates a fake runsc that counts its calls."""

    def make(answer: str, name: str = "runsc") -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho . >>{tmp_path}/version_calls\n{answer}\n")
        path.chmod(0o755)
        return path

    return make


def version_calls(tmp_path: Path) -> int:
    return len((tmp_path / "version_calls").read_text().split())


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
def test_label_contains_the_day(label: str, day: datetime.date | None) -> None:
    assert Release.parse(label).day == day


def test_abilities_depend_on_the_release() -> None:
    assert not Release.parse("release-20241104.0").has("exec-wants-cwd")
    assert Release.parse("release-20241111.0").has("exec-wants-cwd")


def test_newer_and_unknown_releases_have_all_abilities() -> None:
    for label in ("release-20990101.0", "VERSION_MISSING"):
        assert [name for name in ABILITIES if not Release.parse(label).has(name)] == []


def test_age_is_counted_in_days() -> None:
    today = datetime.date(2026, 8, 18)
    assert Release.parse("release-20260817.0").age(today) == 1
    assert Release.parse("built by hand").age(today) is None


def test_version_is_asked_once_and_cached(
    cache: Path, program: FakeRunscFactory, tmp_path: Path
) -> None:
    runsc = program("echo runsc version release-20260817.0; echo spec: 1.2.0")
    for _ in range(3):
        assert release_of(str(runsc)).label == "release-20260817.0"
    assert version_calls(tmp_path) == 1
    assert cache.stat().st_mode & 0o077 == 0


def test_warnings_may_come_before_the_version(cache: Path, program: FakeRunscFactory) -> None:
    runsc = program("echo W1202 membarrier.go:32 >&2; echo runsc version release-20260817.0")
    assert release_of(str(runsc)).label == "release-20260817.0"


def test_lookup_without_remember_writes_no_cache(cache: Path, program: FakeRunscFactory) -> None:
    runsc = program("echo runsc version release-20260817.0")
    assert release_of(str(runsc), remember=False).label == "release-20260817.0"
    assert not cache.parent.exists()


def test_replaced_runsc_is_asked_again(
    cache: Path, program: FakeRunscFactory, tmp_path: Path
) -> None:
    release_of(str(program("echo runsc version release-20240729.0")))
    new = program("echo runsc version release-20260817.0", "new")
    new.rename(tmp_path / "runsc")
    assert release_of(str(tmp_path / "runsc")).label == "release-20260817.0"
    assert version_calls(tmp_path) == 2


def test_cache_size_is_bounded(cache: Path, program: FakeRunscFactory) -> None:
    runsc = program("echo runsc version release-20260817.0")
    for number in range(releases._CACHE_ENTRIES + 5):
        copy = runsc.with_name(f"runsc-{number}")
        copy.write_bytes(runsc.read_bytes())
        copy.chmod(0o755)
        release_of(str(copy))
    assert len(json.loads(cache.read_text())) == releases._CACHE_ENTRIES
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def write_cache(cache: Path, runsc: Path, label: object) -> None:
    status = runsc.stat()
    identity = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
    cache.parent.mkdir(mode=0o700)
    cache.write_text(json.dumps({str(runsc): [identity, label]}))
    cache.chmod(0o600)


def test_cache_that_others_can_write_is_not_trusted(cache: Path, program: FakeRunscFactory) -> None:
    runsc = program("echo runsc version release-20260817.0")
    write_cache(cache, runsc, "release-20240101.0")
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
def test_malformed_cache_is_ignored(cache: Path, program: FakeRunscFactory, text: str) -> None:
    runsc = program("echo runsc version release-20260817.0")
    cache.parent.mkdir(mode=0o700)
    cache.write_text(text.replace("%s", str(runsc)))
    assert release_of(str(runsc)).label == "release-20260817.0"


def test_fifo_symlink_or_directory_as_cache_is_ignored(
    cache: Path, program: FakeRunscFactory, tmp_path: Path
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
def test_version_is_asked_each_time_without_a_cache(
    program: FakeRunscFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    runsc = program("echo runsc version release-20260817.0")
    for _ in range(2):
        assert release_of(str(runsc)).label == "release-20260817.0"
    assert version_calls(tmp_path) == 2


@pytest.mark.parametrize(
    "answer", ["exit 1", "echo runsc version x; exit 1", "echo something", "printf '\\377\\n'"]
)
def test_other_programs_are_refused_as_not_runsc(
    cache: Path, program: FakeRunscFactory, answer: str
) -> None:
    with pytest.raises(RunscError) as caught:
        release_of(str(program(answer)))
    assert caught.value.cause == "not-runsc"
    assert caught.value.remedy
    assert not cache.exists()


def test_a_filter_that_kills_runsc_is_named(cache: Path, program: FakeRunscFactory) -> None:
    with pytest.raises(RunscError) as caught:
        release_of(str(program("kill -SYS $$")))
    assert caught.value.cause == "seccomp-denies-call"
    assert not cache.exists()


def test_endless_output_is_not_read(cache: Path, program: FakeRunscFactory) -> None:
    with pytest.raises(RunscError, match="the output of --version is not runsc's"):
        release_of(str(program("exec cat /dev/zero")), seconds=600)


@pytest.mark.parametrize("answer", ["exec sleep 600", "exec >/dev/null 2>&1; exec sleep 600"])
def test_runsc_that_does_not_end_is_refused(
    cache: Path, program: FakeRunscFactory, answer: str
) -> None:
    with pytest.raises(RunscError, match="did not end within 0 seconds"):
        release_of(str(program(answer)), seconds=0.01)


@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")
def test_runsc_that_can_not_be_killed_is_not_waited_for(
    cache: Path, program: FakeRunscFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that release_of() does not wait for a set-user-ID program, which it can't kill."""
    groups = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda pid, signal: groups.append(pid))
        patch.setattr(releases, "_KILL_SECONDS", 0.01)
        with pytest.raises(RunscError, match="did not end within 0 seconds"):
            release_of(str(program("exec sleep 600")), seconds=0.01)
    os.killpg(groups[0], signal.SIGKILL)
    os.waitpid(groups[0], 0)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[int]:
    """Yield a descriptor that reads from a new FIFO, ``fifo`` in `tmp_path`."""
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    yield fd
    os.close(fd)


def test_a_wrapper_is_killed_with_its_children(
    cache: Path, program: FakeRunscFactory, tmp_path: Path, reader: int
) -> None:
    wrapper = str(program(f"exec 9>{tmp_path}/fifo; sleep 600 & exec cat /dev/zero"))
    with pytest.raises(RunscError, match="the output of --version is not runsc's"):
        release_of(wrapper, seconds=600)
    # The FIFO's reader becomes readable at end of file, once the wrapper's child, which has the
    # FIFO open for writing, has been killed.
    assert wait_readable(reader, timeout=60)


def test_runsc_is_killed_with_its_caller(
    cache: Path, program: FakeRunscFactory, tmp_path: Path, reader: int
) -> None:
    path = str(program(f"exec 9>{tmp_path}/fifo; echo >&9; exec sleep 600"))
    caller = os.fork()
    if caller == 0:
        try:
            release_of(path, seconds=600)
        finally:
            os._exit(1)
    assert wait_readable(reader, timeout=60)
    assert os.read(reader, 100) == b"\n"
    os.kill(caller, signal.SIGKILL)
    os.waitpid(caller, 0)
    # Reads of a FIFO whose writers have exited return end of file.
    assert wait_readable(reader, timeout=60)
    assert os.read(reader, 100) == b""


def test_missing_runsc_raises(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(RunscError, match="No such file"):
        release_of(str(tmp_path / "absent"))


@pytest.fixture
def side(program: FakeRunscFactory, tmp_path: Path) -> Path:
    """Return a new directory gvisor-bin, which complete releases of runsc include."""
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


def test_complete_release_is_accepted(cache: Path, side: Path, tmp_path: Path) -> None:
    check_side_programs(str(tmp_path / "runsc"), None)


def test_side_programs_are_found_behind_a_symlink(cache: Path, side: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "runsc").symlink_to(tmp_path / "runsc")
    check_side_programs(str(tmp_path / "bin" / "runsc"), None)
    (side / "gvisor_sentry").chmod(0o644)
    assert "gvisor_sentry is not executable" in refusal(tmp_path / "bin" / "runsc")


def test_runsc_without_side_programs_is_not_started(tmp_path: Path) -> None:
    check_side_programs(str(tmp_path / "absent" / "runsc"), None)


@pytest.mark.parametrize("name", SIDE_PROGRAMS)
def test_missing_side_program_is_named(cache: Path, side: Path, tmp_path: Path, name: str) -> None:
    (side / name).unlink()
    assert f"{name} is missing" in refusal(tmp_path / "runsc")


@pytest.mark.parametrize("name", SIDE_PROGRAMS)
def test_older_release_needs_no_side_programs(
    cache: Path, side: Path, tmp_path: Path, program: FakeRunscFactory, name: str
) -> None:
    for each in ("runsc", "gvisor-bin/gvisor_sentry"):
        program("echo runsc version release-20260803.0", each)
    (side / name).chmod(0o644)
    check_side_programs(str(tmp_path / "runsc"), None)
    (side / name).unlink()
    check_side_programs(str(tmp_path / "runsc"), None)


def test_side_program_of_another_release_is_refused(
    cache: Path, side: Path, tmp_path: Path, program: FakeRunscFactory
) -> None:
    program("echo runsc version release-20260907.0", "gvisor-bin/gvisor_sentry")
    message = refusal(tmp_path / "runsc")
    assert "release-20260907.0" in message
    assert LABEL in message
    program("exit 1", "gvisor-bin/gvisor_sentry")
    assert "does not print its release" in refusal(tmp_path / "runsc")


def test_side_program_directory_can_be_given(cache: Path, side: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    side.rename(other)
    check_side_programs(str(tmp_path / "runsc"), str(other))
    assert "is missing" in refusal(tmp_path / "runsc", tmp_path / "nowhere")


def test_documentation_lists_all_abilities() -> None:
    page = (Path(__file__).parents[3] / "docs" / "runsc.md").read_text().replace("`", "")
    rows = [line.split(" | ") for line in page.split("\n") if line.startswith("| 20")]
    documented = {int(since.removeprefix("| ")): what for since, what, _ in rows}
    assert documented == dict(ABILITIES.values())
