"""Tests of the seccomp profile: it must suffice, be minimal, and deny all other calls."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tally import Tally

from docker.conftest import PRELUDE, PRELUDE_PYTHON
from docker.engine import TREE, Engine

PROFILE = TREE / "docker" / "seccomp.json"
SOURCE = tomllib.loads((TREE / "docker" / "seccomp.toml").read_text())
ADDITIONS = [entry["name"] for entry in SOURCE["addition"]]

# Commands that together use all system calls of the profile. If all ids are mapped (--map-auto),
# usernsctl makes more calls than for one id, because it enters the namespaces by setns(2).
RUNS = [["run"], ["run", "--map-auto"], ["run", "--network=host"]]

# Program that tries system calls as root with CAP_SYS_ADMIN, so that only the filter can deny them.
# The program contains the calls' numbers on x86-64 and Arm64 (asm/unistd.h), and harmless
# arguments.
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


# Domain, type and protocol for socket(2), by the socket's name.
SOCKETS = {
    "unix": (1, 1, 0), "unix seqpacket": (1, 5, 0), "tcp": (2, 1, 0), "tcp6": (10, 1, 6),
    "tcp cloexec nonblock": (2, 1 | 0x80800, 0), "udp": (2, 2, 0), "udp6": (10, 2, 17),
    "route": (16, 3, 0), "route dgram": (16, 2, 0),
}  # fmt: skip
NO_SOCKETS = {
    "raw": (2, 3, 1), "raw6": (10, 3, 58), "packet": (17, 3, 0), "packet dgram": (17, 2, 0),
    "alg": (38, 5, 0), "vsock": (40, 1, 0), "xdp": (44, 3, 0), "can": (29, 3, 1),
    "bluetooth": (31, 3, 1), "tipc": (30, 1, 0), "rds": (21, 5, 0), "x25": (9, 5, 0),
    "sctp": (2, 1, 132), "mptcp": (2, 1, 262), "udplite": (2, 2, 136), "l2tp": (2, 2, 115),
    "dccp": (2, 6, 33), "smc": (43, 1, 0), "wrapped": (2 | 1 << 32, 1, 0),
}  # fmt: skip
# Sockets that the profile denies with the errno of a kernel that lacks them. Programs that don't
# need these sockets then continue.
ABSENT_SOCKETS = {
    "nf_tables": (16, 3, 12), "xfrm": (16, 3, 6), "audit": (16, 3, 9), "uevent": (16, 2, 15),
    "generic": (16, 3, 16), "crypto": (16, 3, 21), "rdma": (16, 3, 20), "sock_diag": (16, 3, 4),
}  # fmt: skip
SOCKET_PROBE = """
import ctypes, errno, json, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
number = 198 if platform.machine() == "aarch64" else 41
found = {}
for name, words in json.loads(sys.argv[1]).items():
    ctypes.set_errno(0)
    libc.syscall(number, *map(ctypes.c_long, words))
    found[name] = errno.errorcode.get(ctypes.get_errno(), "")
print(json.dumps(found))
"""

# CLONE_NEW* flags of sched.h, which Docker's profile denies without CAP_SYS_ADMIN.
KINDS = {
    "mount": 0x00020000,
    "UTS": 0x04000000,
    "IPC": 0x08000000,
    "user": 0x10000000,
    "PID": 0x20000000,
    "network": 0x40000000,
}
ALL_KINDS = 0x7E020000
# Pairs of a system call and a type of namespace that this call can create under the profile.
CALLS_BY_KIND = [("unshare", kind) for kind in ("user", "mount")]
CALLS_BY_KIND += [("clone", kind) for kind in KINDS]


def forbid(profile: dict[str, Any], call: str, bits: int) -> None:
    """Change a profile to allow `call` only if its first argument has none of `bits` set."""
    for rule in profile["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name != call]
    profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]]
    condition = {"index": 0, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rule = {"names": [call], "action": "SCMP_ACT_ALLOW", "args": [condition]}
    profile["syscalls"].append(rule)


def without(call: str) -> dict[str, Any]:
    """Return usernsctl's profile, but with `call` allowed only as in Docker's profile."""
    profile: dict[str, Any] = json.loads(PROFILE.read_text())
    for rule in profile["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name != call]
    profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]]
    if call == "clone":
        # As Docker's profile does, allow clone(2) without flags for namespaces.
        forbid(profile, "clone", ALL_KINDS)
    return profile


def without_kind(call: str, kind: str) -> dict[str, Any]:
    """Return usernsctl's profile, changed to deny `call` with the namespace type `kind`."""
    profile: dict[str, Any] = json.loads(PROFILE.read_text())
    (rule,) = [rule for rule in profile["syscalls"] if rule["names"] == [call]]
    forbid(profile, call, rule["args"][0]["value"] | KINDS[kind])
    return profile


def fails(plain: Engine, directory: Path, profile: dict[str, Any]) -> bool:
    """Return whether any command of RUNS fails with `profile`.

    Check that each failing command has exit status 125 and prints nothing to standard output.
    """
    file = directory / "seccomp.json"
    file.write_text(json.dumps(profile))
    failed = []
    for run in RUNS:
        done = plain(
            *["run", "--rm", f"--security-opt=seccomp={file}", PRELUDE_PYTHON],
            *[*run, "--", "echo", "ran"],
        )
        assert done.returncode == 0 or (done.returncode, done.stdout) == (125, ""), done.stderr
        failed.append(done.returncode != 0)
    return any(failed)


@pytest.mark.parametrize("call", ADDITIONS)
@pytest.mark.sampled(3)
def test_every_call_of_the_profile_is_needed(call: str, plain: Engine, tmp_path: Path) -> None:
    assert fails(plain, tmp_path, without(call))


@pytest.mark.parametrize(("call", "kind"), CALLS_BY_KIND)
@pytest.mark.sampled(3)
def test_every_kind_of_namespace_of_the_profile_is_needed(
    call: str, kind: str, plain: Engine, tmp_path: Path
) -> None:
    assert fails(plain, tmp_path, without_kind(call, kind))


def test_all_runs_work_with_the_whole_profile(plain: Engine, tmp_path: Path) -> None:
    """Check that all RUNS work with the whole profile; otherwise failures would prove nothing."""
    assert not fails(plain, tmp_path, json.loads(PROFILE.read_text()))


def test_profile_denies_other_kinds_of_namespaces() -> None:
    for call, allowed in (("unshare", ["user", "mount"]), ("clone", list(KINDS))):
        (rule,) = [one for one in without("")["syscalls"] if one["names"] == [call]]
        refused = rule["args"][0]["value"]
        assert ALL_KINDS & ~refused == sum(KINDS[kind] for kind in allowed)


def sockets(plain: Engine, wanted: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the errno name with which socket(2) fails for each socket, or "" if it succeeds.

    The program that opens the sockets runs as root with all capabilities.
    """
    done = plain(
        *["run", "--rm", "--user=0", "--cap-add=ALL", f"--security-opt=seccomp={PROFILE}"],
        *["--entrypoint=python3", PRELUDE_PYTHON, "-c", SOCKET_PROBE, json.dumps(wanted)],
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_sockets_of_the_profile_are_allowed(plain: Engine) -> None:
    assert set(sockets(plain, SOCKETS).values()) == {""}
    # ICMP sockets may fail with EACCES although the profile allows them: the sysctl
    # ping_group_range can deny them.
    echo = sockets(plain, {"icmp": (2, 2, 1), "icmp6": (10, 2, 58)})
    assert set(echo.values()) <= {"", "EACCES"}


def test_hostile_sockets_are_refused(plain: Engine, tally: Tally) -> None:
    for expected, wanted in (("EPERM", NO_SOCKETS), ("EPROTONOSUPPORT", ABSENT_SOCKETS)):
        for name, told in sockets(plain, wanted).items():
            tally.tried()
            if told != expected:
                tally.succeeded(f"{name}: {told!r}")


def test_users_can_be_added(plain: Engine) -> None:
    """Check that useradd(8) works, although the profile denies its audit socket.

    The profile's errno is EPROTONOSUPPORT, as from a kernel without audit. With EPERM, useradd(8)
    would fail.
    """
    done = plain(
        *["run", "--rm", "--user=0", f"--security-opt=seccomp={PROFILE}", "--entrypoint=sh"],
        *[PRELUDE, "-c", "useradd new && usermod --add-subuids 5000-5999 new && id -un new"],
    )
    assert done.stdout == "new\n", done.stderr


def test_a_filter_that_refuses_setns_is_named(plain: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps(without("setns")))
    done = plain(
        "run",
        "--rm",
        f"--security-opt=seccomp={profile}",
        PRELUDE,
        *["--ids=all", "--", "true"],
    )
    assert done.returncode == 125
    assert "[seccomp-denies-userns]" in done.stderr


def test_the_profile_denies_dangerous_calls(plain: Engine) -> None:
    done = plain(
        "run",
        "--rm",
        "--user=0",
        "--cap-add=ALL",
        f"--security-opt=seccomp={PROFILE}",
        "--entrypoint=python3",
        PRELUDE_PYTHON,
        "-c",
        PROBE,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Check that the probe reports success of an allowed call.
    assert found.pop("getpid") == ""
    assert found.pop("clone3") == "ENOSYS"
    assert set(found.values()) == {"EPERM"}, found


def test_the_image_is_ready_under_the_profile(plain: Engine) -> None:
    """Check that doctor and the HEALTHCHECK program report readiness with the profile."""
    with_it = ["run", "--rm", f"--security-opt=seccomp={PROFILE}"]
    done = plain(*with_it, PRELUDE_PYTHON, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Ready for a command in gVisor\n")
    done = plain(*with_it, PRELUDE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Ready for a command in gVisor; runsc itself was not started\n")


def test_docker_args_prints_working_options(plain: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    for image in (PRELUDE, PRELUDE_PYTHON):
        printed = plain("run", "--rm", "--entrypoint=usernsctl", image, "seccomp-profile")
        assert printed.stdout == PROFILE.read_text(), printed.stderr
    profile.write_text(printed.stdout)
    for ids, options in (("one", []), ("all", ["--map-auto"])):
        wanted = plain(
            *["run", "--rm", PRELUDE_PYTHON, "docker-args", "--no-apparmor"],
            *[f"--seccomp={profile}", f"--ids={ids}"],
        )
        for start in ([PRELUDE_PYTHON, "run", *options], [PRELUDE, f"--ids={ids}"]):
            done = plain("run", "--rm", *wanted.stdout.split(), *start, "--", "echo", "ran")
            assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
