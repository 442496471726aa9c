"""Attacks by a program in a sandbox on the directory of templates."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SCRIPTS, Program
from tally import Tally

import usernsctl as un
from usernsctl.gvisor.launch.request import Bind

pytestmark = pytest.mark.userns_requires("runsc")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a template in a directory that XDG_DATA_HOME names through a symbolic link."""
    place = tmp_path / "data" / "usernsctl" / "templates"
    (place / "one").mkdir(parents=True, mode=0o700)
    (place / "one" / "record.json").write_text("{}")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "data").symlink_to("../data")
    (tmp_path / "beside").mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", f"{tmp_path}/links/data")
    return place


def ways_to(place: Path, tmp_path: Path) -> dict[str, Path]:
    link, to_root = tmp_path.parent / f"{tmp_path.name}-link", tmp_path / "to-root"
    link.symlink_to(place)
    to_root.symlink_to("/")
    return {
        "itself": place,
        "its parent": place.parent,
        "above": place.parents[1],
        "far above": tmp_path,
        "a link to it": link,
        "a link in the middle": to_root / str(place)[1:],
        "dots": place / ".." / "templates",
        "a template": place / "one",
        "a record": place / "one" / "record.json",
        "the directory of a link on the way": tmp_path / "links",
    }


def run(usernsctl: Program, prelude: Program, bind: str, launch: Path) -> list[str]:
    """Try to bind-mount a directory, with `run` and with launch files; return the errors."""
    found = [usernsctl("run", "--bind", bind, "--", "ls", "/shown", env=dict(os.environ)).stderr]
    frozen = usernsctl("freeze", "--bind", bind, "-o", launch, "--", "ls", env=dict(os.environ))
    found.append(frozen.stderr)
    # Write the launch file with another $XDG_DATA_HOME: usernsctl-exec must find the templates by
    # the environment of the user who performs the launch.
    env = {**os.environ, "XDG_DATA_HOME": "/nonexistent"}
    frozen = usernsctl("freeze", "--bind", bind, "-o", launch, "--", "ls", "/shown", env=env)
    assert frozen.returncode == 0, frozen.stderr
    found.append(prelude("--launch", launch, env=dict(os.environ)).stderr)
    return found


@pytest.mark.parametrize("mode", ["ro", "rw"])
@pytest.mark.sampled(1)
def test_hostile_bind_shows_the_templates(
    tally: Tally, usernsctl: Program, prelude: Program, place: Path, tmp_path: Path, mode: str
) -> None:
    launch = tmp_path / "beside" / "launch"
    for name, path in ways_to(place, tmp_path).items():
        for told in run(usernsctl, prelude, f"{path}:/shown:{mode}", launch):
            tally.tried()
            if "[bind-shows-state]" not in told and "[launch-untrusted]" not in told:
                tally.succeeded(f"{name}: {told}")
        tally.tried()
        with pytest.raises(un.BindError) as caught:
            un.SandboxHost(binds=[Bind(str(path), "/shown", mode == "ro")])
        assert caught.value.cause == "bind-shows-state"
    (tmp_path / "other").mkdir()
    assert run(usernsctl, prelude, f"{tmp_path}/other:/shown:{mode}", launch) == ["", "", ""]


def test_a_home_without_templates_may_be_read(
    usernsctl: Program, prelude: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", f"{tmp_path}/home/data")
    bind = f"{tmp_path}/home:/shown"
    assert run(usernsctl, prelude, bind, tmp_path / "launch") == ["", "", ""]
    (tmp_path / "home" / "data" / "usernsctl" / "templates").mkdir(parents=True)
    for told in run(usernsctl, prelude, bind, tmp_path / "launch"):
        assert "[bind-shows-state]" in told


def in_home(place: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.rename(home / "templates")
    (home / ".local" / "share" / "usernsctl").mkdir(parents=True)
    (home / "templates").rename(home / ".local/share/usernsctl/templates")
    monkeypatch.setenv("HOME", str(home))


def none_yet(place: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".local").mkdir()
    monkeypatch.setenv("HOME", str(home))


def replaced_by_a_link(place: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".local" / "share").mkdir(parents=True)
    (home / ".local" / "share" / "usernsctl").symlink_to(place.parent)
    monkeypatch.setenv("HOME", str(home))


@pytest.mark.parametrize("arrange", [in_home, none_yet, replaced_by_a_link])
@pytest.mark.parametrize("data", [None, "", "relative"])
@pytest.mark.sampled
def test_hostile_bind_shows_templates_in_a_home(
    tally: Tally,
    usernsctl: Program,
    prelude: Program,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arrange: Callable[[Path, Path, pytest.MonkeyPatch], None],
    data: str | None,
) -> None:
    """Check that bind mounts of $HOME are rejected if $XDG_DATA_HOME is not an absolute path.

    The directory of templates is then below $HOME.
    """
    home = tmp_path / "home"
    home.mkdir()
    arrange(place, home, monkeypatch)
    if data is None:
        monkeypatch.delenv("XDG_DATA_HOME")
    else:
        monkeypatch.setenv("XDG_DATA_HOME", data)
    for path in (home, home / ".local"):
        for told in run(usernsctl, prelude, f"{path}:/shown:rw", tmp_path / "launch"):
            tally.tried()
            if "[bind-shows-state]" not in told:
                tally.succeeded(f"{path}: {told}")


def test_hostile_bind_shows_the_templates_by_another_mount(
    tally: Tally, place: Path, tmp_path: Path
) -> None:
    other = tmp_path.parent / f"{tmp_path.name}-other"
    (other / "below" / "mount").mkdir(parents=True)
    script = (
        f"mount --bind {place.parent} {other}/below/mount && for path in {other}/below/mount "
        f"{other}/below {other} {other}/below/mount/templates {other}/below/mount/templates/one; "
        f"do {SCRIPTS}/usernsctl run --bind $path:/shown:rw -- ls -R /shown; done"
    )
    with un.Namespace.create(mount=True) as namespace:
        done = namespace.run(["sh", "-c", script], stdout=un.PIPE, stderr=un.STDOUT, text=True)
    tally.tried(5)
    if "record.json" in done.stdout or done.stdout.count("[bind-shows-state]") != 5:
        tally.succeeded(done.stdout)
