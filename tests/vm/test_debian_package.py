"""Tests of the native programs' Debian package, on a host with AppArmor enabled."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from logins import PATIENCE, Login

NAME = "usernsctl-prelude"
PROFILE = Path("/etc/apparmor.d/usernsctl-host")


def run_as_root(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def loaded_profiles() -> dict[str, str]:
    """Return usernsctl's loaded profiles, with their modes."""
    lines = Path("/sys/kernel/security/apparmor/profiles").read_text().splitlines()
    profiles = (line.removesuffix(")").rsplit(" (", 1) for line in lines)
    return {name: mode for name, mode in profiles if name.startswith("usernsctl-host-")}


@pytest.fixture
def package() -> Iterator[None]:
    """Install the native package alone: the Python package's dependencies would need a network."""
    [file] = Path("build/debian").glob(f"{NAME}_*.deb")
    assert loaded_profiles() == {}
    run_as_root("dpkg", "--install", str(file))
    yield
    run_as_root("dpkg", "--purge", NAME)


@pytest.mark.usefixtures("package")
def test_profiles_are_loaded_while_the_package_is_installed(user: Login) -> None:
    names = re.findall(r'^profile (\S+) "/usr/', PROFILE.read_text(), re.MULTILINE)
    assert loaded_profiles() == dict.fromkeys(names, "unconfined")
    shown = user("/usr/bin/usernsctl-exec", "-r", "--", "cat", "/proc/self/attr/apparmor/current")
    assert re.fullmatch(r"usernsctl-host-\d+-usernsctl-exec \(unconfined\)\n", shown.stdout)
    run_as_root("dpkg", "--remove", NAME)
    assert loaded_profiles() == {}
    run_as_root("dpkg", "--purge", NAME)
    assert not PROFILE.exists()


def test_upgrade_keeps_the_profiles_loaded(package: None, user: Login) -> None:
    before = loaded_profiles()
    [file] = Path("build/debian").glob(f"{NAME}_*.deb")
    run_as_root("dpkg", "--install", str(file))
    assert loaded_profiles() == before != {}
