"""Tests of the security profiles for container engines, and of the commands that print them."""

from __future__ import annotations

import json
import shlex
import shutil
from typing import Any

import pytest
from conftest import Program
from processes import capture

# System calls that exploits have used to escape from containers or to attack the kernel.
DANGEROUS = {
    "acct", "add_key", "bpf", "delete_module", "fanotify_init", "finit_module", "fsmount", "fsopen",
    "init_module", "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load",
    "keyctl", "lookup_dcookie", "move_pages", "name_to_handle_at", "nfsservctl",
    "open_by_handle_at", "perf_event_open", "pidfd_getfd", "process_vm_readv",
    "process_vm_writev", "quotactl", "reboot", "request_key", "settimeofday", "setdomainname",
    "sethostname", "swapoff", "swapon", "syslog", "userfaultfd", "vhangup", "vmsplice",
}  # fmt: skip

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER = 0x20000, 0x2000000, 0x10000000
CLONE_NEWPID, CLONE_NEWTIME = 0x20000000, 0x80
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_VSOCK = 1, 2, 10, 16, 17, 40
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET = 1, 2, 3, 5
SOCK_NONBLOCK, SOCK_CLOEXEC = 0x800, 0x80000
IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_MPTCP = 6, 17, 132, 262
NETLINK_ROUTE, NETLINK_XFRM, NETLINK_NETFILTER = 0, 6, 12


@pytest.fixture(scope="module")
def profile(usernsctl: Program) -> dict[str, Any]:
    done = usernsctl("seccomp-profile")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def holds(condition: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    """Return whether a system call's arguments meet a condition of seccomp_rule_add(3)."""
    argument, value = arguments[condition["index"]], condition["value"]
    match condition["op"]:
        case "SCMP_CMP_EQ":
            return argument == value
        case "SCMP_CMP_NE":
            return argument != value
        case "SCMP_CMP_MASKED_EQ":
            return argument & value == condition["valueTwo"]
    raise AssertionError(condition)


def allows(profile: dict[str, Any], name: str, *arguments: int) -> bool:
    return any(
        name in rule["names"] and all(holds(one, arguments) for one in rule.get("args", []))
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW"
    )


def test_seccomp_profile_denies_by_default(profile: dict[str, Any]) -> None:
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    # Check that no rule depends on the container's capabilities.
    assert not any("includes" in rule or "excludes" in rule for rule in profile["syscalls"])


def test_seccomp_profile_denies_dangerous_calls(profile: dict[str, Any]) -> None:
    named = {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW"
        for name in rule["names"]
    }
    assert named & DANGEROUS == set()
    # Check that the profile allows far fewer calls than Podman's default profile, which allows 371
    # unconditionally (containers-common 0.62).
    assert len(named) < 300


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        (("unshare", CLONE_NEWUSER | CLONE_NEWNS), True),
        (("unshare", 0), True),
        (("unshare", CLONE_NEWUSER | CLONE_NEWPID), False),
        (("unshare", CLONE_NEWCGROUP), False),
        (("unshare", CLONE_NEWUSER | CLONE_NEWTIME), False),
        (("clone", CLONE_NEWUSER | CLONE_NEWPID), True),
        (("clone", CLONE_NEWCGROUP), False),
        (("socket", AF_UNIX, SOCK_SEQPACKET, 0), True),
        (("socket", AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP), True),
        (("socket", AF_INET6, SOCK_DGRAM, 0), True),
        (("socket", AF_INET, SOCK_DGRAM, IPPROTO_UDP), True),
        (("socket", AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), True),
        (("socket", AF_INET, SOCK_STREAM, IPPROTO_SCTP), False),
        (("socket", AF_INET, SOCK_STREAM, IPPROTO_MPTCP), False),
        (("socket", AF_INET, SOCK_STREAM | 0x10, 0), False),
        (("socket", AF_INET, SOCK_RAW, IPPROTO_UDP), False),
        (("socket", AF_INET6, SOCK_RAW | SOCK_CLOEXEC, 58), False),
        (("socket", AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER), False),
        (("socket", AF_NETLINK, SOCK_RAW, NETLINK_XFRM), False),
        (("socket", AF_PACKET, SOCK_RAW, 0), False),
        (("socket", AF_VSOCK, SOCK_STREAM, 0), False),
        (("personality", 0), True),
        (("personality", 0x40000), False),
    ],
)
def test_seccomp_profile_checks_arguments(
    profile: dict[str, Any], call: tuple[Any, ...], allowed: bool
) -> None:
    assert allows(profile, *call) == allowed


def test_clone3_fails_with_enosys(profile: dict[str, Any]) -> None:
    """Check that clone3() fails with ENOSYS: only then does libc call clone() instead."""
    rules = [rule for rule in profile["syscalls"] if "clone3" in rule["names"]]
    assert rules == [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]


def test_apparmor_profile_can_be_parsed(usernsctl: Program) -> None:
    done = usernsctl("apparmor-profile")
    assert done.returncode == 0
    assert "\n  userns,\n" in done.stdout
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin")
    if parser is None:
        pytest.skip("there is no apparmor_parser here")
    parsed = capture([parser, "--skip-kernel-load", "--skip-cache", "--names"], input=done.stdout)
    assert (parsed.returncode, parsed.stdout) == (0, "usernsctl\n"), parsed.stderr


def test_docker_args_drop_all_capabilities(usernsctl: Program) -> None:
    output = usernsctl.check_output("docker-args", "--no-apparmor", "--seccomp", "a file")
    assert shlex.split(output) == [
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--security-opt=seccomp=a file",
    ]


def test_docker_args_for_all_ids_keep_setuid_and_setgid(usernsctl: Program) -> None:
    done = usernsctl("docker-args", "--engine", "podman", "--ids", "all", "--apparmor")
    assert done.returncode == 0
    assert done.stderr.startswith("podman needs a loaded AppArmor profile; to load it: ")
    assert done.stdout.split() == [
        "--cap-drop=ALL",
        "--cap-add=SETUID",
        "--cap-add=SETGID",
        "--security-opt=seccomp=seccomp.json",
        "--security-opt=apparmor=usernsctl",
    ]
