"""Tests of the causes that follow from facts and probes, and of their order."""

from __future__ import annotations

import dataclasses
import errno

import pytest
from doctor_machines import (
    POWERLESS,
    failed,
    healthy,
    held,
    ids,
    judged,
    nested,
    privileges,
    probes,
    profiled,
    refused,
)

from usernsctl.doctor.facts import Container, Facts, Helper, Ids, Kernel, Limits, Runsc, Subordinate
from usernsctl.doctor.facts import SecurityModules as Modules
from usernsctl.doctor.findings import STANDS_IN_THE_WAY_OF, attributed
from usernsctl.doctor.probes import LATE
from usernsctl.doctor.rules import CONSEQUENCES, RULES
from usernsctl.explain.catalogue import catalogue
from usernsctl.explain.model import Probe
from usernsctl.maps import Extent

EPERM, EACCES, EINVAL, ENOSPC, EAGAIN = (
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.ENOSPC,
    errno.EAGAIN,
)
RESTRICTED = {
    "kernel/apparmor_restrict_unprivileged_userns": 1,
    "user/max_user_namespaces": 30000,
}
FEW = (Extent(0, 100000, 10),)
REFUSED = refused("unshare-user")

#: Cause, facts, probes: each cause is the only finding for its facts and probes.
BLOCKING: list[tuple[str, Facts, dict[str, Probe]]] = [
    ("already-in-gvisor", healthy(kernel=Kernel(gvisor=True)), probes()),
    ("no-proc", healthy(has_proc=False), probes()),
    ("no-config-user-ns", healthy(supported=False), probes(failed("unshare-user", EINVAL))),
    ("seccomp-denies-userns", healthy(), refused("unshare-nothing", "unshare-user")),
    (
        "seccomp-denies-userns",
        healthy(privileges=privileges(seccomp=2)),
        probes(failed("unshare-user", EPERM, cause="seccomp-denies-userns")),
    ),
    ("seccomp-denies-userns", healthy(), probes(failed("unshare-nothing", detail="killed"))),
    (
        "unprivileged-userns-clone-off",
        healthy(sysctls={"kernel/unprivileged_userns_clone": 0}),
        REFUSED,
    ),
    ("max-user-namespaces", healthy(), probes(failed("unshare-user", ENOSPC))),
    (
        "max-user-namespaces",
        healthy(initial=False, sysctls={"user/max_user_namespaces": 5}),
        probes(failed("unshare-user", ENOSPC, cause="nesting-too-deep")),
    ),
    ("nesting-too-deep", nested(), probes(failed("unshare-user", ENOSPC))),
    ("nesting-too-deep", nested(), probes(failed("nested-user", errno.EUSERS))),
    ("in-chroot", healthy(container=Container(chroot=True)), REFUSED),
    ("caller-id-unmapped", healthy(ids=Ids(uid=1000, gid=5, uid_map=FEW, gid_map=FEW)), REFUSED),
    ("caller-id-unmapped", healthy(ids=Ids(uid=5, gid=1000, uid_map=FEW, gid_map=FEW)), REFUSED),
    ("lsm-denies-userns", healthy(), probes(failed("unshare-user", EACCES))),
    (
        "lsm-denies-userns",
        healthy(security=Modules(label="mine (enforce)")),
        probes(failed("setgroups", EACCES)),
    ),
    (
        "apparmor-restricts-userns",
        healthy(sysctls=RESTRICTED, security=Modules(label="mine (unconfined)")),
        probes(failed("mount", EACCES), profiled("mine (unconfined)", "unconfined")),
    ),
    ("process-limit", healthy(), probes(failed("start", EAGAIN))),
    ("apparmor-restricts-userns", healthy(sysctls=RESTRICTED), refused("one-id-map")),
    ("apparmor-restricts-userns", healthy(sysctls=RESTRICTED), REFUSED),
    (
        "apparmor-restricts-userns",
        healthy(sysctls=RESTRICTED, security=Modules(label="unconfined")),
        probes(failed("mount", EACCES)),
    ),
    ("proc-read-only", healthy(), probes(failed("one-id-map", errno.EROFS))),
    ("not-dumpable", healthy(), probes(failed("one-id-map", cause="not-dumpable"))),
    ("needs-setfcap", healthy(), probes(failed("one-id-map", cause="needs-setfcap"))),
    ("landlock", healthy(), probes(failed("one-id-map", EACCES, cause="landlock"))),
    ("mount-denied", healthy(privileges=privileges(seccomp=2)), refused("mount")),
    (
        "mount-denied",
        healthy(security=Modules(label="docker-default (enforce)")),
        probes(failed("mount", EACCES)),
    ),
    (
        "yama-ptrace-scope",
        healthy(sysctls={"kernel/yama/ptrace_scope": 3}),
        refused("ptrace"),
    ),
    ("ptrace-denied", healthy(privileges=privileges(seccomp=2)), refused("ptrace")),
    (
        "runsc-missing",
        healthy(runsc=Runsc(cause="runsc-missing", problem="not found along PATH")),
        probes(failed("runsc", cause="runsc-missing", detail="not found")),
    ),
    (
        "wrong-architecture",
        healthy(runsc=Runsc(cause="wrong-architecture", problem="for Arm64")),
        probes(failed("runsc", detail="for Arm64")),
    ),
    (
        "runsc-too-old",
        healthy(),
        probes(failed("runsc", detail="flag provided but not defined: -overlay2")),
    ),
    (
        "runsc-too-old",
        healthy(runsc=Runsc(path="/usr/bin/runsc", release="0.0~20221219.0")),
        probes(failed("runsc", detail="waiting for sandbox to start: EOF")),
    ),
    (
        "mapped-sandbox-eof-unknown",
        healthy(),
        probes(failed("runsc", detail="waiting for sandbox to start: EOF")),
    ),
    (
        "duplicate-id",
        healthy(),
        probes(failed("runsc", detail="creating container: container already exists")),
    ),
    ("unknown", healthy(), REFUSED),
    ("unknown", healthy(), refused("mount")),
    ("unknown", healthy(), refused("ptrace")),
    ("unknown", healthy(), probes(failed("runsc", detail="something new"))),
]


def name_of(value: object) -> str | None:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("cause", "facts", "tried"), BLOCKING, ids=name_of)
def test_a_cause_that_blocks(cause: str, facts: Facts, tried: dict[str, Probe]) -> None:
    found = judged(facts, tried)
    assert ids(found) == [cause]
    assert found[0].blocks
    assert found[0].evidence


NOSUID = {"newuidmap": Helper(path="/home/newuidmap", privileged=True, nosuid="/home")}
UNREADY = probes(failed("range-map", cause="helper-failed", detail="newuidmap failed"))

#: Cause, facts, probes for maps of more than one id.
OF_RANGES: list[tuple[str, Facts, dict[str, Probe]]] = [
    ("helper-missing", healthy(helpers={"newgidmap": Helper()}), probes()),
    ("helper-not-setuid", healthy(helpers=POWERLESS), UNREADY),
    ("helper-on-nosuid", healthy(helpers=NOSUID), UNREADY),
    ("no-new-privs", healthy(privileges=privileges(no_new_privs=True)), UNREADY),
    ("bounding-set", healthy(privileges=privileges(bounding=0)), UNREADY),
    (
        "helper-caps-other-userns",
        healthy(),
        probes(failed("range-map", detail="newuidmap: Value too large for defined data type")),
    ),
    (
        "range-overlap",
        healthy(),
        probes(
            failed(
                "range-map",
                cause="helper-failed",
                detail="newuidmap: write to uid_map failed: Invalid argument",
            )
        ),
    ),
    (
        "subgid-by-gid",
        healthy(subordinate=Subordinate(gid_entries=("100:1:2",))),
        probes(failed("ranges", cause="no-subordinate-range")),
    ),
    (
        "nss-subid",
        healthy(subordinate=Subordinate(source="sss")),
        probes(failed("ranges", cause="no-subordinate-range")),
    ),
    ("helper-failed", healthy(), UNREADY),
    ("unknown", healthy(), probes(failed("range-map", EPERM))),
    *(
        (cause, healthy(), probes(failed("ranges", cause=cause)))
        for cause in (
            "no-passwd-entry",
            "gid-differs-from-passwd",
            "no-subordinate-range",
            "range-not-granted",
            "range-outside-parent",
            "subid-file-unreadable",
            "map-invalid",
        )
    ),
    *(
        (cause, healthy(), probes(failed("range-map", cause=cause)))
        for cause in (
            "seccomp-denies-helper",
            "helper-hung",
            "helper-killed",
            "helper-stopped",
            "helper-status-lost",
            "map-not-written",
        )
    ),
]


@pytest.mark.parametrize(("cause", "facts", "tried"), OF_RANGES, ids=name_of)
def test_a_cause_that_stands_in_the_way_of_ranges_only(
    cause: str, facts: Facts, tried: dict[str, Probe]
) -> None:
    wanted = judged(facts, tried, "range")
    assert ids(wanted) == [cause]
    assert wanted[0].blocks
    # For a run with one id, the finding about ranges is only a warning.
    found = judged(facts, tried, "run")
    assert ids(found) == [cause]
    assert not found[0].blocks


def test_a_healthy_machine_has_no_finding() -> None:
    assert judged(healthy()) == ()
    assert judged(healthy(), purpose="range") == ()
    assert judged(nested(), purpose="kubernetes") == ()


def test_what_nobody_needs_is_no_finding_but_is_attributed() -> None:
    tried = probes(*(failed(name, EACCES) for name in ("tun", "kvm", "cgroup")))
    tried |= {name: failed(name, errno.ENOENT) for name in ("pasta", "nft")}
    facts = healthy(mounts={"/": (), "/proc": (), "/proc/kcore": ()})
    tried |= {"mount-proc": failed("mount-proc", EPERM)}
    assert judged(facts, tried) == ()
    causes = {name: probe.cause for name, probe in attributed(facts, tried).items() if probe.cause}
    assert causes == {
        "tun": "tun-missing",
        "pasta": "pasta-missing",
        "nft": "nft-missing",
        "kvm": "kvm-denied",
        "cgroup": "cgroup-not-delegated",
        "mount-proc": "proc-masked",
    }


@pytest.mark.parametrize(
    "cause",
    [
        "clone-flags-conflict",
        "join-denied",
        "mount-without-owned-ns",
        "outside-parent-map",
        "setgroups-denied-on-join",
        "setgroups-order",
        "target-gone",
        "unprivileged-map",
    ],
)
def test_what_only_the_core_can_tell_is_taken_from_it(cause: str) -> None:
    tried = probes(failed("one-id-map", EPERM, cause=cause))
    assert held(healthy(), tried) == {cause}
    found = judged(healthy(), tried)
    assert ids(found) == [cause]
    assert found[0].blocks


def test_threads_are_told_and_block_nothing() -> None:
    (found,) = judged(healthy(threads=4))
    assert (found.id, found.blocks) == ("multithreaded", False)


def test_shared_ranges_are_told_and_block_nothing() -> None:
    line = "/etc/subuid, line 2 grants bob ids that this user has too: 100000:65536"
    tried = probes(Probe(name="ranges", outcome="ok", detail=f"something\n{line}"))
    (found,) = judged(healthy(), tried, "range")
    assert (found.id, found.blocks, found.evidence) == ("ranges-shared", False, (line,))


def test_selinux_in_a_container() -> None:
    facts = healthy(security=Modules(selinux_enforcing=True))
    tried = probes(failed("runsc", detail="error remounting chroot in read-only"))
    assert ids(judged(facts, tried, "docker")) == ["selinux-nested"]
    assert "selinux-nested" not in held(healthy(), tried)


def test_two_causes_are_both_named_and_the_blocking_one_is_first() -> None:
    facts = healthy(
        container=Container(chroot=True),
        helpers=POWERLESS,
    )
    tried = refused("unshare-nothing", "unshare-user")
    found = judged(facts, tried)
    assert ids(found) == ["seccomp-denies-userns", "in-chroot", "helper-not-setuid"]
    assert [finding.blocks for finding in found] == [True, True, False]


def test_what_systemd_mounts_below_proc_masks_nothing() -> None:
    mounts = {"/": (), "/proc": (), "/proc/sys/fs/binfmt_misc": ()}
    assert healthy(mounts=mounts).masked_proc() == ()
    assert healthy(mounts=mounts | {"/proc/uptime": ()}).masked_proc() == ("/proc/uptime",)


def test_the_programs_without_a_profile_are_named() -> None:
    facts = healthy(sysctls=RESTRICTED, security=Modules(label="mine (unconfined)"))
    tried = probes(failed("mount", EACCES), profiled("mine (unconfined)", "unconfined"))
    evidence = next(iter(judged(facts, tried))).evidence
    assert "no profile applies to /opt/program1" in evidence
    tried = probes(failed("mount", EACCES), profiled("mine (unconfined)"))
    assert "apparmor-restricts-userns" not in held(facts, tried)


def test_a_cause_without_evidence_is_not_named() -> None:
    # Each machine has only one of the two facts that together prove a cause.
    assert judged(healthy(container=Container(chroot=True))) == ()
    assert judged(healthy(sysctls=RESTRICTED)) == ()
    assert judged(healthy(privileges=privileges(seccomp=2))) == ()
    assert judged(healthy(sysctls={"kernel/unprivileged_userns_clone": 0})) == ()
    assert judged(healthy(sysctls={"kernel/yama/ptrace_scope": 3})) == ()
    # The program has a profile, so the restriction of unconfined programs does not apply.
    confined = healthy(sysctls=RESTRICTED, security=Modules(label="mine (enforce)"))
    assert "apparmor-restricts-userns" not in held(confined, refused("one-id-map"))


def test_whoever_may_map_any_id_needs_no_helper() -> None:
    root = dataclasses.replace(privileges(), effective=2**41 - 1)
    assert judged(healthy(privileges=root, helpers={"newuidmap": Helper()}), purpose="range") == ()


def test_an_unknown_failure_comes_with_its_errno() -> None:
    (found,) = judged(healthy(), refused("pivot-root"))
    assert found.cause is None
    assert found.evidence[-1] == "errno 1 (EPERM)"


@pytest.mark.parametrize(
    ("most", "queued", "found"),
    [
        (0, 0, "signal-limit"),
        (99, None, "signal-limit"),
        (5000, 4901, "signal-limit"),
        (0, 7, "signal-limit"),
        (100, 0, LATE),
        (5000, 4900, LATE),
        (None, 4900, LATE),
    ],
)
def test_a_sandbox_that_never_began_may_have_lost_a_signal(
    most: int | None, queued: int | None, found: str
) -> None:
    facts = healthy(limits=Limits(pending_signals=most, pending_signals_current=queued))
    late = Probe(name="runsc", outcome="skipped", detail="late", cause=LATE)
    (finding,) = judged(facts, probes(late))
    assert finding.blocks
    assert ids([finding]) == [found]
    assert judged(facts, probes()) == ()
    # A probe that has ended did not hang because of a signal limit.
    assert "signal-limit" not in ids(judged(facts, probes(failed("runsc"))))


def test_in_gvisor_nothing_else_means_anything() -> None:
    tried = probes(
        failed("one-id-map", errno.ENOENT, cause="target-gone"),
        failed("ranges", cause="no-subordinate-range"),
        failed("mount", EPERM),
    )
    facts = healthy(kernel=Kernel(gvisor=True), helpers=POWERLESS)
    assert ids(judged(facts, tried)) == ["already-in-gvisor"]


def test_rules_and_catalogue_fit_together() -> None:
    known = catalogue()
    assert [rule.id for rule in RULES if rule.id not in known] == []
    # Only one rule may prove a cause, but others may guess it.
    sure = [rule.id for rule in RULES if not rule.guessed]
    assert len(set(sure)) == len(sure)
    assert set(CONSEQUENCES) <= {rule.id for rule in RULES}
    explained = {name for rule in RULES for name in rule.explains}
    advice = {"mount-proc", "null", "tun", "pasta", "nft", "kvm", "cgroup"}
    assert explained == set(STANDS_IN_THE_WAY_OF) | advice


def test_a_call_that_only_ranges_need_does_not_block_a_run() -> None:
    seen = probes(failed("ranges", detail="statfs(2) is denied", cause="seccomp-denies-call"))
    assert [(one.id, one.blocks) for one in judged(healthy(), seen, "run")] == [
        ("seccomp-denies-call", False)
    ]
    assert [(one.id, one.blocks) for one in judged(healthy(), seen, "range")] == [
        ("seccomp-denies-call", True)
    ]
