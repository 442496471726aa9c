"""Tests of the virtual machine's AppArmor, and of all programs installed there."""

from __future__ import annotations

from pathlib import Path

import gvisor
from logins import Login, blocking


def test_machine_has_the_expected_kernel_and_systemd() -> None:
    modules = Path("/sys/kernel/security/lsm").read_text().split(",")
    assert {"apparmor", "yama", "landlock"} <= set(modules)
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert " - cgroup2 " in Path("/proc/self/mountinfo").read_text()
    assert Path("/proc/sys/kernel/unprivileged_userns_clone").exists()


def test_kernel_lacks_the_apparmor_sysctl_of_ubuntu() -> None:
    """Check that the kernel lacks the sysctl that only Ubuntu's kernels have.

    Without this sysctl, the cause apparmor-restricts-userns can't occur.
    """
    assert not Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists()
    features = Path("/sys/kernel/security/apparmor/features")
    assert "userns_create" in (features / "namespaces/mask").read_text()


def test_user_runs_a_program_in_gvisor(user: Login) -> None:
    done = user("usernsctl", "run", "--", "cat", "/proc/version")
    assert (done.returncode, done.stderr) == (0, "")
    assert gvisor.is_version(done.stdout)


def test_user_runs_a_program_with_all_ids(user: Login) -> None:
    done = user("usernsctl", "run", "--map-auto", "--", "sh", "-c", "chown 1000 /tmp; ls -nd /tmp")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[2] == "1000"


def test_doctor_has_no_blocking_findings(user: Login) -> None:
    report = user.diagnose()
    assert (report["ready"], blocking(report)) == (True, [])
    for name in ("runsc", "range-map", "range-mount"):
        assert report["probes"][name]["outcome"] == "ok"
