"""Tests of the settings that doctor says production use requires, and of each setting's state."""

from __future__ import annotations

import dataclasses

import pytest
from doctor_machines import eperm_probes, healthy, nested, privileges, probes

from usernsctl.doctor.facts import Container, Facts, Ids, Runsc
from usernsctl.doctor.needs import Need, needs
from usernsctl.explain.model import Purpose
from usernsctl.maps import Extent

DOCKER = Container(engine="docker", sign="it is")
POD = Container(engine="kubernetes", sign="it is")
FEW = Ids(uid=0, gid=0, uid_map=(Extent(0, 100000, 65536),), gid_map=(Extent(0, 100000, 65536),))


def by_name(facts: Facts, purpose: Purpose = "run", refuse: bool = False) -> dict[str, Need]:
    tried = eperm_probes("unshare-user") if refuse else probes()
    return {need.name: need for need in needs(facts, tried, purpose)}


@pytest.mark.parametrize(
    ("name", "value", "state", "found"),
    [
        ("kernel.unprivileged_userns_clone", None, "met", "absent"),
        ("kernel.unprivileged_userns_clone", 1, "met", "1"),
        ("kernel.unprivileged_userns_clone", 0, "unmet", "0"),
        ("user.max_user_namespaces", None, "open", "not readable"),
        ("user.max_user_namespaces", 0, "unmet", "0"),
        ("user.max_user_namespaces", 1, "met", "1"),
        ("user.max_user_namespaces", 2**31 - 1, "met", "no limit"),
        ("kernel.apparmor_restrict_unprivileged_userns", None, "met", "absent"),
        ("kernel.apparmor_restrict_unprivileged_userns", 1, "unmet", "1"),
    ],
)
def test_state_of_sysctl_settings(name: str, value: int | None, state: str, found: str) -> None:
    need = by_name(healthy(sysctls={name.replace(".", "/", 1): value}))[name]
    assert (need.state, need.found) == (state, found)


@pytest.mark.parametrize(
    ("runsc", "state", "found"),
    [
        (Runsc(path="/r", release="release-20260817.0", age=90), "met", "90 days old"),
        (Runsc(path="/r", release="0.0~20240729.0", age=800), "unmet", "0.0~20240729.0, 800 days"),
        (Runsc(path="/r", release="VERSION_MISSING"), "open", "of unknown age, /r"),
    ],
)
def test_state_of_runsc_depends_on_its_age(runsc: Runsc, state: str, found: str) -> None:
    need = by_name(healthy(runsc=runsc))["runsc"]
    assert need.state == state
    assert found in need.found


def test_missing_runsc_is_not_a_setting() -> None:
    assert "runsc" not in by_name(healthy(runsc=Runsc(cause="runsc-missing", problem="none")))


def test_settings_of_the_host_exclude_those_of_containers() -> None:
    assert len(by_name(healthy(runsc=None))) == 3
    assert not any("docker" in name for name in by_name(nested(), "kubernetes"))


def test_docker_seccomp_setting_is_known_only_inside() -> None:
    outside = by_name(healthy(), "docker")
    assert outside["docker run --security-opt seccomp"].state == "open"
    inside = by_name(healthy(container=DOCKER), "docker")
    assert inside["docker run --security-opt seccomp"].state == "met"
    refusing = by_name(healthy(container=DOCKER), "run", refuse=True)
    assert refusing["docker run --security-opt seccomp"].state == "unmet"


def test_state_of_userns_remap() -> None:
    name = "userns-remap"
    assert by_name(healthy(), "docker")[name].state == "open"
    daemon = Container(docker_daemon=True)
    assert by_name(healthy(container=daemon), "docker")[name].state == "met"
    remap = dataclasses.replace(daemon, userns_remap="default")
    need = by_name(healthy(container=remap), "docker")[name]
    assert (need.state, need.found) == ("open", "default")
    assert by_name(nested(container=DOCKER, ids=FEW))[name].state == "unmet"


def test_state_of_pod_settings() -> None:
    given_up = privileges(no_new_privs=True)
    masked = {"/": (), "/proc": (), "/proc/kcore": ()}
    found = by_name(nested(container=POD, ids=FEW, privileges=given_up, mounts=masked))
    assert found["hostUsers"].found == "the Pod has 65536 ids"
    assert found["allowPrivilegeEscalation"].state == "unmet"
    assert found["seccompProfile"].state == "met"
    assert found["procMount"].found == "mounts below /proc: 1"
    outside = by_name(healthy(), "kubernetes")
    kubernetes = ("hostUsers", "allowPrivilegeEscalation", "seccompProfile", "procMount")
    assert [outside[name].state for name in kubernetes] == ["open"] * 4
