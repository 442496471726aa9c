"""Facts and probe results of simulated hosts, for the tests of doctor."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import Any

from usernsctl.doctor.facts import (
    NO_LIMIT,
    Container,
    Facts,
    Helper,
    Ids,
    Kernel,
    Privileges,
    Runsc,
)
from usernsctl.doctor.findings import findings, hold
from usernsctl.doctor.needs import Need, needs
from usernsctl.doctor.rules import Seen
from usernsctl.explain.model import Finding, Probe, Purpose, Report
from usernsctl.maps import Extent

HELPER_WITHOUT_SETUID = {"newuidmap": Helper(path="/usr/bin/newuidmap", mode=0o755, owner=0)}
ALL = (Extent(0, 0, 2**32 - 1),)
STEPS = (
    "unshare-nothing",
    "unshare-user",
    "ranges",
    "setgroups",
    "one-id-map",
    "range-map",
    "nested-user",
    "namespaces",
    "mount",
    "mount-proc",
    "mount-bind",
    "pivot-root",
    "ptrace",
    "tun",
    "pasta",
    "nft",
    "kvm",
    "cgroup",
    "runsc",
)


def healthy(**changes: Any) -> Facts:
    """Return the facts of a host without problems, as an unprivileged user sees them."""
    helper = Helper(mode=0o4755, owner=0, privileged=True)
    facts = Facts(
        supported=True,
        initial=True,
        kernel=Kernel(release="6.12.0"),
        ids=Ids(uid=1000, gid=1000, uid_map=ALL, gid_map=ALL),
        privileges=Privileges(
            effective=0, bounding=2**41 - 1, no_new_privs=False, seccomp=0, dumpable=True
        ),
        sysctls={"user/max_user_namespaces": 30000},
        container=Container(chroot=False),
        mounts={"/": (), "/proc": ()},
        helpers={
            name: dataclasses.replace(helper, path=f"/usr/bin/{name}", system=f"/usr/bin/{name}")
            for name in ("newuidmap", "newgidmap")
        },
        runsc=Runsc(path="/usr/bin/runsc", release="release-20240729.0"),
    )
    return dataclasses.replace(facts, **changes)


def nested(**changes: Any) -> Facts:
    """Return the facts of a host without problems, as seen in a nested user namespace."""
    return healthy(initial=False, sysctls={"user/max_user_namespaces": NO_LIMIT}, **changes)


def privileges(**changes: Any) -> Privileges:
    return dataclasses.replace(healthy().privileges, **changes)


def failed(name: str, number: int = 0, detail: str = "", cause: str | None = None) -> Probe:
    detail = detail or os.strerror(number)
    return Probe(name=name, outcome="failed", errno=number, detail=detail, cause=cause)


def probes(*broken: Probe) -> dict[str, Probe]:
    """Return the results of all probes, which succeed except those in `broken`."""
    found = {name: Probe(name=name, outcome="ok") for name in STEPS}
    return found | {probe.name: probe for probe in broken}


def labelled_programs(*labels: str) -> Probe:
    """Return the result of the probe that lists programs with AppArmor labels."""
    lines = [f"{label}\t/opt/program{number}" for number, label in enumerate(labels)]
    return Probe(name="profiles", outcome="ok", detail="\n".join(lines))


def eperm_probes(*names: str) -> dict[str, Probe]:
    return probes(*(failed(name, errno.EPERM) for name in names))


def findings_of(
    facts: Facts, tried: dict[str, Probe] | None = None, purpose: Purpose = "run"
) -> tuple[Finding, ...]:
    return findings(facts, probes() if tried is None else tried, purpose)


def ids(found: tuple[Finding, ...]) -> list[str]:
    return [finding.id for finding in found]


def cause_ids(facts: Facts, tried: dict[str, Probe]) -> set[str]:
    """Return the ids of all causes that apply, blocking or not."""
    return {rule.id for rule, _ in hold(Seen(facts, tried))}


def report_and_needs(
    facts: Facts, tried: dict[str, Probe], purpose: Purpose = "run"
) -> tuple[Report, tuple[Need, ...]]:
    report = Report(
        purpose=purpose,
        findings=findings_of(facts, tried, purpose),
        probes=tried,
        facts=facts.plain(),
    )
    return report, needs(facts, tried, purpose)
