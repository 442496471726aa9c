"""Tests of AppArmor profiles that allow or deny usernsctl's programs to create namespaces."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from logins import PATIENCE, Login, blocking, remedy, run_as_root

SETTING = "kernel.apparmor_restrict_unprivileged_userns"
RULES = ("file", "network", "signal", "ptrace", "unix", "capability", "mount", "umount")
RULES += ("pivot_root", "userns")
CAUSE = "lsm-denies-userns"

Confined = Callable[..., list[str]]


@pytest.fixture
def load_profile(tmp_path: Path) -> Iterator[Confined]:
    """Yield a function that loads a profile and returns a command prefix that applies it."""
    file, name = tmp_path / "profile", "usernsctl-vm-confined"

    def load(*omitted: str) -> list[str]:
        rules = "".join(f"  {rule},\n" for rule in RULES if rule not in omitted)
        head = "abi <abi/4.0>,\ninclude <tunables/global>\n"
        flags = "flags=(attach_disconnected)"
        file.write_text(f"{head}profile {name} {flags} {{\n{rules}}}\n")
        subprocess.run(["apparmor_parser", "-r", file], check=True, timeout=PATIENCE)
        return ["aa-exec", "-p", name, "--"]

    yield load
    subprocess.run(["apparmor_parser", "-R", file], check=True, timeout=PATIENCE)


def test_profile_that_allows_all_has_no_finding(user: Login, load_profile: Confined) -> None:
    words = load_profile()
    assert user(*words, "usernsctl-exec", "-r", "--map-auto", "--", "true").returncode == 0
    report = user.diagnose(*words)
    assert report["facts"]["security"]["label"] == "usernsctl-vm-confined (enforce)"
    assert (report["ready"], blocking(report)) == (True, [])


@pytest.mark.parametrize("omitted", ["userns", "capability"])
def test_profile_without_userns_is_lsm_denies_userns(
    user: Login, load_profile: Confined, omitted: str
) -> None:
    words = load_profile(omitted)
    for command in (["usernsctl-exec", "-r", "--", "true"], ["usernsctl", "run", "--", "true"]):
        done = user(*words, *command)
        assert (done.returncode, f"[{CAUSE}]" in done.stderr) == (125, True), done.stderr
    report = user.diagnose(*words, runsc=False)
    assert blocking(report) == [CAUSE]
    assert "AppArmor" in remedy(report, CAUSE)


def test_profile_without_mount_is_mount_denied(user: Login, load_profile: Confined) -> None:
    report = user.diagnose(*load_profile("mount"), runsc=False)
    assert blocking(report) == ["mount-denied"]
    evidence = next(one["evidence"] for one in report["findings"] if one["blocks"])
    assert "AppArmor label: usernsctl-vm-confined (enforce)" in evidence
    text = remedy(report, "mount-denied")
    assert "by the profile usernsctl-vm-confined." in text
    assert "usernsctl apparmor-profile --host" in text
    assert "docker" not in text


def apparmor_setting(user: Login) -> str:
    return next(
        one["found"] for one in user.diagnose(runsc=False)["settings"] if one["name"] == SETTING
    )


def test_doctor_knows_whether_the_host_profile_is_loaded(user: Login) -> None:
    assert apparmor_setting(user) == "absent; no profile is loaded for the programs of usernsctl"
    printed = user("usernsctl", "apparmor-profile", "--host").stdout
    file = Path("/etc/apparmor.d/usernsctl-host")
    file.write_text(printed)
    try:
        run_as_root(f"apparmor_parser -r {file}")
        assert apparmor_setting(user) == "absent; a profile is loaded for each program of usernsctl"
        # doctor's processes have the profile's label: AppArmor attaches the profile by the path of
        # doctor's script, and child processes inherit it.
        report = user.diagnose(runsc=False)
        assert report["facts"]["security"]["label"].startswith("usernsctl-host-")
        shown = user("usernsctl-exec", "-r", "--", "cat", "/proc/self/attr/apparmor/current")
        assert shown.stdout.startswith("usernsctl-host-"), shown.stdout
        for name in Path("/sys/kernel/security/apparmor/policy/profiles").glob("*-runsc.*/name"):
            Path("/sys/kernel/security/apparmor/.remove").write_text(name.read_text().strip())
        assert apparmor_setting(user) == "absent; no profile is loaded for /usr/bin/runsc"
    finally:
        subprocess.run(["apparmor_parser", "-R", file], timeout=PATIENCE)
        file.unlink()
