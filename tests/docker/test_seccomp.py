"""The seccomp profile in a real container: enough, no more than that, and it refuses the rest."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from docker.conftest import PRELUDE
from docker.engine import TREE, Engine

PROFILE = TREE / "docker" / "seccomp.json"
SOURCE = tomllib.loads((TREE / "docker" / "seccomp.toml").read_text())
ADDITIONS = [entry["name"] for entry in SOURCE["addition"]]

# One id needs less than all of them, which are entered by setns(2).
RUNS = [["run"], ["run", "--map-auto"], ["run", "--network=host"]]

# Called as root with CAP_SYS_ADMIN, so that it is the filter that refuses. Numbers of x86-64 and
# Arm64 (asm/unistd.h); the arguments are such that nothing would come of a call.
PROBE = """
import ctypes, errno, json, platform
calls = {
    "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273),
    "bpf": (321, 280), "userfaultfd": (323, 282), "add_key": (248, 217), "keyctl": (250, 219),
    "open_by_handle_at": (304, 265), "perf_event_open": (298, 241), "io_uring_setup": (425, 425),
    "quotactl": (179, 60), "reboot": (169, 142), "swapon": (167, 224), "fsopen": (430, 430),
    "process_vm_readv": (310, 270), "clone3": (435, 435), "getpid": (39, 172),
}
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for name, numbers in calls.items():
    ctypes.set_errno(0)
    libc.syscall(numbers[platform.machine() == "aarch64"], -1, 0, 0, 0, 0, 0)
    found[name] = errno.errorcode.get(ctypes.get_errno(), "")
print(json.dumps(found))
"""


def without(call: str) -> dict[str, Any]:
    """The profile, had the addition `call` not been made to what Docker allows."""
    profile: dict[str, Any] = json.loads(PROFILE.read_text())
    for rule in profile["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name != call]
    profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]]
    if call == "clone":
        # Docker allows it, but no namespaces (CLONE_NEW*).
        condition = {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        rule = {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [condition]}
        profile["syscalls"].append(rule)
    return profile


@pytest.mark.parametrize("call", ADDITIONS)
def test_every_addition_is_needed(call: str, plain: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps(without(call)))
    failed = []
    for run in RUNS:
        done = plain(
            "run", "--rm", f"--security-opt=seccomp={profile}", PRELUDE, *run, "--", "echo", "ran"
        )
        assert done.returncode == 0 or (done.returncode, done.stdout) == (125, ""), done.stderr
        failed.append(done.returncode != 0)
    assert any(failed)


def test_a_filter_that_refuses_setns_is_named(plain: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps(without("setns")))
    done = plain(
        "run",
        "--rm",
        f"--security-opt=seccomp={profile}",
        PRELUDE,
        *["run", "--map-auto", "--", "true"],
    )
    assert done.returncode == 125
    assert "[seccomp-denies-userns]" in done.stderr


def test_what_is_dangerous_is_refused(plain: Engine) -> None:
    done = plain(
        "run",
        "--rm",
        "--user=0",
        "--cap-add=ALL",
        f"--security-opt=seccomp={PROFILE}",
        "--entrypoint=python3",
        PRELUDE,
        "-c",
        PROBE,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # As a check of the probe itself: what is allowed is not refused.
    assert found.pop("getpid") == ""
    assert found.pop("clone3") == "ENOSYS"
    assert set(found.values()) == {"EPERM"}, found


def test_the_image_is_ready_with_it(plain: Engine) -> None:
    """HEALTHCHECK asks the doctor, too."""
    done = plain("run", "--rm", f"--security-opt=seccomp={PROFILE}", PRELUDE, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Ready for a command in gVisor\n")


def test_the_image_prints_the_options_that_work(plain: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    printed = plain("run", "--rm", PRELUDE, "seccomp-profile")
    assert printed.stdout == PROFILE.read_text()
    profile.write_text(printed.stdout)
    for ids, options in (("one", []), ("all", ["--map-auto"])):
        wanted = plain(
            *["run", "--rm", PRELUDE, "docker-args", "--no-apparmor"],
            *[f"--seccomp={profile}", f"--ids={ids}"],
        )
        done = plain(
            "run", "--rm", *wanted.stdout.split(), PRELUDE, "run", *options, "--", "echo", "ran"
        )
        assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
