"""Tests of the causes of failures, and their order, that doctor derives from facts and probes."""

from __future__ import annotations

import dataclasses
import errno
from typing import Any

import pytest
from doctor_machines import (
    HELPER_WITHOUT_SETUID,
    cause_ids,
    eperm_probes,
    failed,
    findings_of,
    healthy,
    ids,
    labelled_programs,
    nested,
    privileges,
    probes,
)

from usernsctl.doctor import diagnose
from usernsctl.doctor.facts import Container, Facts, Helper, Ids, Kernel, Limits, Runsc, Subordinate
from usernsctl.doctor.facts import SecurityModules as Modules
from usernsctl.doctor.findings import STANDS_IN_THE_WAY_OF, attributed
from usernsctl.doctor.probes import HUNG
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
REFUSED = eperm_probes("unshare-user")

#: Tuples of the id of a cause, facts and probe results. The cause must be the only finding.
BLOCKING: list[tuple[str, Facts, dict[str, Probe]]] = [
    ("already-in-gvisor", healthy(kernel=Kernel(gvisor=True)), probes()),
    ("no-proc", healthy(has_proc=False), probes()),
    ("no-config-user-ns", healthy(supported=False), probes(failed("unshare-user", EINVAL))),
    (
        "seccomp-denies-userns",
        healthy(),
        eperm_probes("unshare-nothing", "unshare-user"),
    ),
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
        probes(failed("mount", EACCES), labelled_programs("mine (unconfined)", "unconfined")),
    ),
    ("process-limit", healthy(), probes(failed("start", EAGAIN))),
    (
        "apparmor-restricts-userns",
        healthy(sysctls=RESTRICTED),
        eperm_probes("one-id-map"),
    ),
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
    ("mount-denied", healthy(privileges=privileges(seccomp=2)), eperm_probes("mount")),
    (
        "mount-denied",
        healthy(security=Modules(label="docker-default (enforce)")),
        probes(failed("mount", EACCES)),
    ),
    (
        "yama-ptrace-scope",
        healthy(sysctls={"kernel/yama/ptrace_scope": 3}),
        eperm_probes("ptrace"),
    ),
    (
        "ptrace-denied",
        healthy(privileges=privileges(seccomp=2)),
        eperm_probes("ptrace"),
    ),
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
    ("unknown", healthy(), eperm_probes("mount")),
    ("unknown", healthy(), eperm_probes("ptrace")),
    ("unknown", healthy(), probes(failed("runsc", detail="something new"))),
]


def name_of(value: object) -> str | None:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("cause", "facts", "tried"), BLOCKING, ids=name_of)
def test_blocking_cause_is_the_only_finding(
    cause: str, facts: Facts, tried: dict[str, Probe]
) -> None:
    found = findings_of(facts, tried)
    assert ids(found) == [cause]
    assert found[0].blocks
    assert found[0].evidence


NOSUID = {"newuidmap": Helper(path="/home/newuidmap", privileged=True, nosuid="/home")}
UNREADY = probes(failed("range-map", cause="helper-failed", detail="newuidmap failed"))

#: Tuples of a cause's id, facts and probe results. Each of the causes prevents maps of more than
#: one id.
RANGE_CAUSES: list[tuple[str, Facts, dict[str, Probe]]] = [
    ("helper-missing", healthy(helpers={"newgidmap": Helper()}), probes()),
    ("helper-not-setuid", healthy(helpers=HELPER_WITHOUT_SETUID), UNREADY),
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


@pytest.mark.parametrize(("cause", "facts", "tried"), RANGE_CAUSES, ids=name_of)
def test_range_cause_is_only_a_warning_for_run(
    cause: str, facts: Facts, tried: dict[str, Probe]
) -> None:
    wanted = findings_of(facts, tried, "range")
    assert ids(wanted) == [cause]
    assert wanted[0].blocks
    # A run needs only one id, so a cause that concerns ranges is only a warning.
    found = findings_of(facts, tried, "run")
    assert ids(found) == [cause]
    assert not found[0].blocks


def test_healthy_machine_has_no_findings() -> None:
    assert findings_of(healthy()) == ()
    assert findings_of(healthy(), purpose="range") == ()
    assert findings_of(nested(), purpose="kubernetes") == ()


def test_optional_probe_failures_get_a_cause_but_no_finding() -> None:
    tried = probes(*(failed(name, EACCES) for name in ("tun", "kvm", "cgroup")))
    tried |= {name: failed(name, errno.ENOENT) for name in ("pasta", "nft")}
    facts = healthy(mounts={"/": (), "/proc": (), "/proc/kcore": ()})
    tried |= {"mount-proc": failed("mount-proc", EPERM)}
    assert findings_of(facts, tried) == ()
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
        "join-denied",
        "mount-without-owned-ns",
        "outside-parent-map",
        "setgroups-denied-on-join",
        "setgroups-order",
        "target-gone",
    ],
)
def test_causes_that_only_the_core_detects_are_kept(cause: str) -> None:
    tried = probes(failed("one-id-map", EPERM, cause=cause))
    assert cause_ids(healthy(), tried) == {cause}
    found = findings_of(healthy(), tried)
    assert ids(found) == [cause]
    assert found[0].blocks


def test_threads_are_a_warning() -> None:
    (found,) = findings_of(healthy(threads=4))
    assert (found.id, found.blocks) == ("multithreaded", False)


def test_shared_ranges_are_a_warning() -> None:
    line = "/etc/subuid, line 2: the ids 100000:65536 of bob overlap a range of this user"
    tried = probes(Probe(name="ranges", outcome="ok", detail=f"something\n{line}"))
    (found,) = findings_of(healthy(), tried, "range")
    assert (found.id, found.blocks, found.evidence) == ("ranges-shared", False, (line,))


def test_remount_failure_with_selinux_is_selinux_nested() -> None:
    facts = healthy(security=Modules(selinux_enforcing=True))
    tried = probes(failed("runsc", detail="error remounting chroot in read-only"))
    assert ids(findings_of(facts, tried, "docker")) == ["selinux-nested"]
    assert "selinux-nested" not in cause_ids(healthy(), tried)


def test_blocking_causes_come_before_warnings() -> None:
    facts = healthy(
        container=Container(chroot=True),
        helpers=HELPER_WITHOUT_SETUID,
    )
    tried = eperm_probes("unshare-nothing", "unshare-user")
    found = findings_of(facts, tried)
    assert ids(found) == ["seccomp-denies-userns", "in-chroot", "helper-not-setuid"]
    assert [finding.blocks for finding in found] == [True, True, False]


def test_binfmt_misc_mount_does_not_mask_proc() -> None:
    mounts = {"/": (), "/proc": (), "/proc/sys/fs/binfmt_misc": ()}
    assert healthy(mounts=mounts).masked_proc() == ()
    assert healthy(mounts=mounts | {"/proc/uptime": ()}).masked_proc() == ("/proc/uptime",)


def test_programs_without_apparmor_profile_are_named() -> None:
    facts = healthy(sysctls=RESTRICTED, security=Modules(label="mine (unconfined)"))
    tried = probes(failed("mount", EACCES), labelled_programs("mine (unconfined)", "unconfined"))
    evidence = next(iter(findings_of(facts, tried))).evidence
    assert "no profile applies to /opt/program1" in evidence
    tried = probes(failed("mount", EACCES), labelled_programs("mine (unconfined)"))
    assert "apparmor-restricts-userns" not in cause_ids(facts, tried)


def test_single_facts_do_not_prove_a_cause() -> None:
    # Give each host only one of the two facts that together prove a cause.
    assert findings_of(healthy(container=Container(chroot=True))) == ()
    assert findings_of(healthy(sysctls=RESTRICTED)) == ()
    assert findings_of(healthy(privileges=privileges(seccomp=2))) == ()
    assert findings_of(healthy(sysctls={"kernel/unprivileged_userns_clone": 0})) == ()
    assert findings_of(healthy(sysctls={"kernel/yama/ptrace_scope": 3})) == ()
    # The program has an AppArmor profile, so the restriction of unconfined programs does not apply
    # to it.
    confined = healthy(sysctls=RESTRICTED, security=Modules(label="mine (enforce)"))
    assert "apparmor-restricts-userns" not in cause_ids(confined, eperm_probes("one-id-map"))


def test_root_needs_no_helper() -> None:
    root = dataclasses.replace(privileges(), effective=2**41 - 1)
    assert (
        findings_of(healthy(privileges=root, helpers={"newuidmap": Helper()}), purpose="range")
        == ()
    )


def test_unknown_failure_shows_its_errno() -> None:
    (found,) = findings_of(healthy(), eperm_probes("pivot-root"))
    assert found.cause is None
    assert found.evidence[-1] == "errno 1 (EPERM)"


@pytest.mark.parametrize(
    ("most", "queued", "found"),
    [
        (0, 0, "signal-limit"),
        (99, None, "signal-limit"),
        (5000, 4901, "signal-limit"),
        (0, 7, "signal-limit"),
        (100, 0, HUNG),
        (5000, 4900, HUNG),
        (None, 4900, HUNG),
    ],
)
def test_hung_runsc_is_attributed_to_the_signal_limit(
    most: int | None, queued: int | None, found: str
) -> None:
    facts = healthy(limits=Limits(pending_signals=most, pending_signals_current=queued))
    late = Probe(name="runsc", outcome="skipped", detail="late", cause=HUNG)
    (finding,) = findings_of(facts, probes(late))
    assert finding.blocks
    assert ids([finding]) == [found]
    assert findings_of(facts, probes()) == ()
    # Check that a failed probe is not attributed to the signal limit: a failed probe has exited,
    # and only a hung probe is a sign of this limit.
    assert "signal-limit" not in ids(findings_of(facts, probes(failed("runsc"))))


def test_a_program_that_hangs_instead_of_runsc_is_the_only_finding() -> None:
    facts = healthy(runsc=Runsc(cause="not-runsc", problem="--version did not end"))
    late = Probe(name="runsc", outcome="skipped", detail="late", cause=HUNG)
    assert ids(findings_of(facts, probes(late))) == ["not-runsc"]


def test_inside_gvisor_is_the_only_finding() -> None:
    tried = probes(
        failed("one-id-map", errno.ENOENT, cause="target-gone"),
        failed("ranges", cause="no-subordinate-range"),
        failed("mount", EPERM),
    )
    facts = healthy(kernel=Kernel(gvisor=True), helpers=HELPER_WITHOUT_SETUID)
    assert ids(findings_of(facts, tried)) == ["already-in-gvisor"]


def test_rules_match_the_catalogue() -> None:
    known = catalogue()
    assert [rule.id for rule in RULES if rule.id not in known] == []
    # Check that at most one rule proves each cause. Further rules may guess the same cause.
    sure = [rule.id for rule in RULES if not rule.guessed]
    assert len(set(sure)) == len(sure)
    assert set(CONSEQUENCES) <= {rule.id for rule in RULES}
    explained = {name for rule in RULES for name in rule.explains}
    advice = {"mount-proc", "null", "tun", "pasta", "nft", "kvm", "cgroup"}
    assert explained == set(STANDS_IN_THE_WAY_OF) | advice


def test_denied_call_of_ranges_does_not_block_run() -> None:
    seen = probes(failed("ranges", detail="statfs(2) is denied", cause="seccomp-denies-call"))
    assert [(one.id, one.blocks) for one in findings_of(healthy(), seen, "run")] == [
        ("seccomp-denies-call", False)
    ]
    assert [(one.id, one.blocks) for one in findings_of(healthy(), seen, "range")] == [
        ("seccomp-denies-call", True)
    ]


@pytest.mark.parametrize("name", ["pasta", "nft", "tun", "kvm", "cgroup"])
def test_denied_call_of_an_optional_probe_does_not_block(name: str) -> None:
    filtered = healthy(privileges=privileges(seccomp=2))
    tried = probes(failed(name, EPERM, cause="seccomp-denies-call"))
    assert not any(finding.blocks for finding in findings_of(filtered, tried))
    # runsc is not an optional probe, so its failure blocks.
    tried |= probes(failed(name, EPERM, cause="seccomp-denies-call"), failed("runsc"))
    found = findings_of(filtered, tried)
    assert [finding.id for finding in found if finding.blocks] == ["seccomp-denies-call"]


def test_unknown_purpose_raises() -> None:
    wrong: Any = "gvisor"
    with pytest.raises(ValueError, match="purpose must be one of run, range, docker, kubernetes"):
        diagnose(wrong)
