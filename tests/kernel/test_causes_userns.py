"""Tests of the errors of user namespaces and id maps, each test with one misconfiguration."""

from __future__ import annotations

import os
import sys

import pytest
from broken_machine import PRELUDE, Diagnosis, diagnose, named_by_command, run_broken
from callers import as_root

from usernsctl.explain.catalogue import get

pytestmark = pytest.mark.each_user

#: Tuples of a misconfiguration (see broken.py), options of usernsctl-exec that fail because of the
#: misconfiguration, and the id of the cause.
CASES = [
    ("seccomp-engine", ["-r"], "seccomp-denies-userns"),
    ("seccomp-flags", ["-r"], "seccomp-denies-userns"),
    ("seccomp-mount", ["-r", "-m"], "mount-denied"),
    ("landlock", ["-r"], "landlock"),
    ("no-processes", ["-r", "-f"], "process-limit"),
    ("unmapped", ["-r"], "caller-id-unmapped"),
    ("nested-deep", ["-r"], "nesting-too-deep"),
    ("nested-no-more", ["-r"], "max-user-namespaces"),
    pytest.param("chroot", ["-r"], "in-chroot", marks=as_root),
    pytest.param("proc-read-only", ["-r"], "proc-read-only", marks=as_root),
    pytest.param("no-proc", ["-r"], "no-proc", marks=as_root),
]


@pytest.mark.parametrize(("way", "options", "cause"), CASES)
@pytest.mark.sampled(10)
def test_doctor_and_the_failing_command_name_the_cause(
    way: str, options: list[str], cause: str
) -> None:
    assert named_by_command([way], *options) == cause
    found = diagnose([way])
    assert found.status == 1
    assert found.blocking == [cause]
    if os.geteuid() == 0:
        # Compare all causes only if root runs the tests: doctor then runs as NOBODY, who has
        # subordinate ranges. For another user without ranges, doctor would also report
        # no-subordinate-range.
        assert [one for one in found.ids if one != "no-subordinate-range"] == [cause]


def test_a_limit_of_cgroup_namespaces_is_named_and_raised_by_the_remedy() -> None:
    way = ["no-cgroup-namespaces"]
    assert named_by_command(way, "-r", "--cgroup") == "max-cgroup-namespaces"
    remedy = get("max-cgroup-namespaces").remedies["host"]
    healed = f"{remedy}\nexec {PRELUDE} -r --cgroup -- echo ran"
    assert run_broken(way, ["sh", "-e", "-c", healed]).stdout.endswith("\nran\n")


def test_doctor_names_a_kernel_without_open_tree() -> None:
    assert diagnose(["seccomp-mount-bind"]).blocking == ["mount-by-descriptor-missing"]


def test_a_refused_call_of_usernsctl_is_named_as_such() -> None:
    done = run_broken(["seccomp-pidfd"], [PRELUDE, "-rf", "--", "true"])
    said, why, *_ = done.stderr.splitlines()
    assert said == "usernsctl-exec: pdeathsig: pidfd_open: Operation not permitted"
    assert why.startswith("  why: A seccomp filter denies a system call")
    assert why.endswith(" [seccomp-denies-call]")


@as_root
def test_root_without_capabilities_needs_setfcap() -> None:
    assert named_by_command(["powerless-root"], "-r") == "needs-setfcap"
    assert diagnose(["powerless-root"]).blocking == ["needs-setfcap"]


@as_root
@pytest.mark.parametrize(
    ("ways", "causes"),
    [
        (["seccomp-engine", "chroot"], ["seccomp-denies-userns", "in-chroot"]),
        (["chroot", "landlock"], ["in-chroot"]),
        (["proc-read-only", "seccomp-mount"], ["proc-read-only"]),
    ],
)
def test_two_causes_are_named_in_the_order_in_which_they_block(
    ways: list[str], causes: list[str]
) -> None:
    # doctor reports the second cause only if it can prove that cause despite the first.
    assert diagnose(ways).blocking == causes
    assert named_by_command(ways, "-r", "-m") == causes[0]


@pytest.mark.userns_requires("runsc")
def test_a_filter_of_ptrace_is_named_for_runsc() -> None:
    found = Diagnosis(["seccomp-ptrace"])
    assert found.report["probes"]["runsc"]["outcome"] == "failed"
    assert found.blocking == ["ptrace-denied"]
    assert found.report["probes"]["runsc"]["cause"] == "ptrace-denied"


@as_root
def test_a_masked_proc_fails_mount_proc_only() -> None:
    options = ["-r", "-m", "-p", "-f", "--mount-proc"]
    assert named_by_command(["proc-masked"], *options) == "proc-masked"
    found = diagnose(["proc-masked"])
    assert (found.status, found.ids) == (0, [])
    assert found.report["probes"]["mount-proc"]["cause"] == "proc-masked"


def test_proc_of_a_foreign_pid_namespace_can_not_be_mounted() -> None:
    assert named_by_command([], "-r", "-m", "--mount-proc") == "mount-without-owned-ns"


def test_setgroups_can_not_stay_allowed() -> None:
    assert named_by_command([], "-r", "--setgroups", "allow") == "setgroups-order"


def test_a_denied_kvm_device_does_not_block(needs_plain_devices: None) -> None:
    found = diagnose([])
    assert found.blocking == []
    assert found.report["probes"]["kvm"]["cause"] == "kvm-denied"


@pytest.fixture
def needs_plain_devices() -> None:
    if not os.path.exists("/dev/kvm"):
        pytest.skip("there is no /dev/kvm")
    mode = os.stat("/dev/kvm").st_mode
    if mode & 0o006 or (os.geteuid() != 0 and os.access("/dev/kvm", os.R_OK | os.W_OK)):
        pytest.skip("everybody may use /dev/kvm")


UNDUMPABLE = """
import prctl
import usernsctl as un
from usernsctl.doctor import diagnose

prctl.set_dumpable(0)
print(un.run(["true"]).returncode)
report = diagnose(runsc=False)
print(*[finding.id for finding in report.findings if finding.blocks])
"""

THREADED = """
import threading
import usernsctl as un
from usernsctl.doctor import diagnose

stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
try:
    un.enter(un.IdMap.root())
except un.UsernsError as error:
    print(error.cause)
report = diagnose(runsc=False)
print(report.ready, [f.id for f in report.findings if f.id == "multithreaded"])
stop.set()
thread.join()
"""


def test_a_process_that_is_not_dumpable_starts_commands() -> None:
    done = run_broken([], [sys.executable, "-c", UNDUMPABLE])
    assert done.stdout.split() == ["0"]


def test_threads_block_enter_only() -> None:
    done = run_broken([], [sys.executable, "-c", THREADED])
    assert done.stdout == "multithreaded\nTrue ['multithreaded']\n"
