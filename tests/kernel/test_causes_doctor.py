"""Tests of doctor on the test host: output, processes, required programs and duration."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken_machine import DOCTOR, ENVIRONMENT, USERNSCTL, Diagnosis, diagnose, run_broken
from callers import as_root
from processes import capture

from usernsctl.doctor import diagnose as in_process
from usernsctl.doctor.probes import PROGRAM
from usernsctl.gvisor.launch.network import PROGRAMS

pytestmark = pytest.mark.each_user

# Program that calls main() as the script usernsctl does, in an interpreter that can't import rich.
WITHOUT_RICH = """
import sys
sys.modules["rich"] = None
from usernsctl.cli import main
sys.exit(main(["doctor", "--no-runsc"]))
"""


def test_a_healthy_machine_has_no_finding() -> None:
    found = diagnose([])
    assert (found.status, found.blocking, found.report["ready"]) == (0, [], True)
    if os.geteuid() == 0:
        assert found.ids == []
        assert diagnose([], "range").ids == []


def test_doctor_reports_a_tun_device_that_can_not_be_opened() -> None:
    # diagnose() runs doctor as a user other than root, so the device's mode decides whether it can
    # be opened.
    found = diagnose([])
    probe = found.report["probes"]["tun"]
    device = Path("/dev/net/tun")
    expected = None
    try:
        os.close(os.open(device, os.O_RDWR))
        if device.stat().st_mode & 0o006 != 0o006:
            expected = errno.EACCES
    except OSError as error:  # for example, ENODEV without the kernel module tun
        expected = error.errno
    assert probe["outcome"] == ("ok" if expected is None else "failed")
    assert probe["errno"] == (expected or 0)
    assert probe["cause"] == (None if expected is None else "tun-missing")
    # doctor diagnoses a run with --network=none, which needs no TUN device. So the probe's cause
    # must not be a finding.
    assert "tun-missing" not in found.ids


def test_doctor_reports_the_programs_for_a_private_network() -> None:
    found = diagnose([])
    for name, directories in PROGRAMS.items():
        probe = found.report["probes"][name]
        path = found.report["facts"]["programs"][name]
        assert path in {None, *(f"{directory}/{name}" for directory in directories)}
        assert probe["outcome"] == ("failed" if path is None else "ok")
        assert probe["cause"] == (f"{name}-missing" if path is None else None)
    assert not {"pasta-missing", "nft-missing"} & set(found.ids)


@pytest.mark.userns_requires("runsc")
def test_doctor_runs_a_program_in_gvisor() -> None:
    found = Diagnosis([])
    assert found.report["probes"]["runsc"]["outcome"] == "ok"
    assert found.blocking == []


@pytest.mark.userns_requires("runsc")
def test_doctor_in_a_sandbox_names_already_in_gvisor() -> None:
    shown = [option for place in {sys.prefix, sys.base_prefix} for option in ("--bind", place)]
    doctor = [*DOCTOR, "--no-runsc", "--json"]
    # Use a long timeout: in the virtual machine of `make vm`, under load, doctor takes more than a
    # minute.
    done = capture([USERNSCTL, "run", *shown, "--", *doctor], env=ENVIRONMENT, timeout=110)
    assert done.returncode == 1, done.stderr
    # Other probes fail in gVisor as well, but doctor does not report their causes.
    assert [finding["id"] for finding in json.loads(done.stdout)["findings"]] == [
        "already-in-gvisor"
    ]


@as_root
@pytest.mark.userns_requires("runsc")
def test_doctor_works_in_a_read_only_container() -> None:
    assert run_broken(["read-only"], ["touch", "/tmp/written"]).returncode != 0
    found = Diagnosis(["read-only"])
    assert (found.status, found.ids) == (0, [])


@as_root
def test_doctor_works_without_proc_sys() -> None:
    found = diagnose(["no-proc-sys"])
    assert (found.status, found.ids) == (0, [])
    assert set(found.report["facts"]["sysctls"].values()) == {None}


def test_plain_text_needs_no_rich_and_no_locale() -> None:
    env = ENVIRONMENT | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_RICH], capture_output=True, env=env)
    assert done.returncode == 0
    assert done.stderr == b""
    lines = done.stdout.decode("ascii").split("\n")
    assert lines[0].startswith("Ready for a command in gVisor")
    # Only the line with the remedy, which users copy, may be longer than 80 columns, because it
    # contains the user's name and a free subordinate range.
    assert all(len(line) <= 80 or line.startswith("   remedy   ") for line in lines)


def test_the_python_report_has_the_probes_and_facts() -> None:
    report = in_process(runsc=False)
    assert report.ready
    assert report.probes["one-id-map"].outcome == "ok"
    assert report.facts["threads"] == len(os.listdir("/proc/self/task"))


TELL_CALLED = """
import ctypes, json, sys
libc = ctypes.CDLL(None)
deny = sys.argv[1:] == ["deny"]
if deny and libc.prctl(65, 1, 0, 0, 0):
    sys.exit(77)
from usernsctl.doctor.reading import read_facts
facts = read_facts()
asked = libc.syscall(444, None, 0, 1)
print(json.dumps([facts.privileges.denies_write_execute, facts.security.landlock, max(asked, 0)]))
"""


@pytest.mark.parametrize("deny", [[], ["deny"]])
def test_facts_include_mdwe_and_landlock(deny: list[str]) -> None:
    """Check that the facts include memory-deny-write-execute (PR_SET_MDWE) and Landlock."""
    done = subprocess.run([sys.executable, "-c", TELL_CALLED, *deny], capture_output=True)
    if done.returncode == 77:
        pytest.skip("the kernel has no PR_SET_MDWE")
    denies, landlock, asked = json.loads(done.stdout)
    assert denies is bool(deny)
    assert landlock == asked


@pytest.mark.parametrize("arguments", [["--for", "nothing"], ["--nothing"], ["more"]])
def test_doctor_with_wrong_arguments_exits_with_2(arguments: list[str]) -> None:
    done = capture([*DOCTOR, *arguments])
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr


def test_doctor_prints_a_script_of_remedies() -> None:
    done = run_broken(["seccomp-engine"], [*DOCTOR, "--no-runsc", "--script"])
    assert done.returncode == 1
    assert "# seccomp-denies-userns: " in done.stdout
    subprocess.run(["sh", "-n"], input=done.stdout, text=True, check=True)


def own_cgroup() -> list[str]:
    directory = in_process(runsc=False).facts["cgroup"]["directory"]  # type: ignore[index]
    return sorted(os.listdir(directory)) if directory else []


@pytest.mark.userns_requires("runsc")
def test_no_file_and_no_control_group_is_left(tmp_path: Path) -> None:
    before = own_cgroup()
    env = ENVIRONMENT | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([*DOCTOR, "--json"], capture_output=True, env=env, cwd=tmp_path)
    assert json.loads(done.stdout)["ready"]
    assert list(tmp_path.iterdir()) == []
    assert own_cgroup() == before


@pytest.mark.parametrize("arguments", [[], ["nothing", "more"], ["device"], ["no-such-step"]])
def test_the_program_of_the_probes_refuses_a_wrong_call(arguments: list[str]) -> None:
    done = capture([PROGRAM, *arguments])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: ")


def test_the_program_of_the_probes_leaves_no_control_group(tmp_path: Path) -> None:
    done = capture([PROGRAM, "cgroup", tmp_path])
    assert (done.returncode, done.stdout) == (0, "")
    assert list(tmp_path.iterdir()) == []
