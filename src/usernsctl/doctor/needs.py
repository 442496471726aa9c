"""Settings that production use requires on a host and in its containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from usernsctl._lean import dataclass
from usernsctl.doctor.facts import NO_LIMIT, Facts
from usernsctl.doctor.probes import PROFILES
from usernsctl.doctor.rules import without_profile
from usernsctl.explain.model import Probe, Purpose

#: The number of ids that a container with userns-remap, or a Pod with hostUsers: false, gets.
_CONTAINER_IDS = 65536
_ALL_IDS = 2**32 - 1
_YEAR = 366  # The maximum age, in days, of a runsc release that counts as recent.


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A setting that a purpose, such as "run" or "docker", requires.

    :ivar name: the name of the setting in the documentation of the kernel or container engine.
    :ivar state: ``"met"``, ``"unmet"``, or ``"open"`` if this process can't see the setting.
    :ivar found: the current value.
    :ivar wanted: the required value.
    """

    name: str
    state: Literal["met", "unmet", "open"]
    found: str
    wanted: str


def needs(facts: Facts, probes: Mapping[str, Probe], purpose: Purpose) -> tuple[Need, ...]:
    """Return the settings that `purpose` requires, including settings of a container or a Pod."""
    found = [_switch(facts), _limit(facts), _apparmor(facts, probes), *_release(facts)]
    engine = facts.container.engine
    if purpose == "docker" or engine == "docker":
        inside = engine == "docker"
        found += [_remap(facts, inside), _docker_seccomp(probes, inside)]
        found.append(_docker_privileges(facts, inside))
    if purpose == "kubernetes" or engine == "kubernetes":
        inside = engine == "kubernetes"
        found += [_host_users(facts, inside), _escalation(facts, inside)]
        found += [_pod_seccomp(probes, inside), _proc_mount(facts, inside)]
    return tuple(found)


def _state(good: bool) -> Literal["met", "unmet"]:
    return "met" if good else "unmet"


def _switch(facts: Facts) -> Need:
    value = facts.sysctls.get("kernel/unprivileged_userns_clone")
    return Need(
        name="kernel.unprivileged_userns_clone",
        state=_state(value != 0),
        found="absent" if value is None else str(value),
        wanted="1, or absent: only Debian's kernels have this sysctl",
    )


def _limit(facts: Facts) -> Need:
    value = facts.sysctls.get("user/max_user_namespaces")
    shown = "no limit" if value is not None and value >= NO_LIMIT else str(value)
    return Need(
        name="user.max_user_namespaces",
        state="open" if value is None else _state(value > 0),
        found="not readable" if value is None else shown,
        wanted="three for each sandbox that runs at the same time",
    )


def _label(facts: Facts) -> str:
    return f"this process has the profile {facts.security.label}"


def _has_profile(facts: Facts) -> bool:
    """Return whether an AppArmor profile other than unconfined applies to this process."""
    label = facts.security.label
    return bool(label) and not str(label).startswith("unconfined")


def _profiles(facts: Facts, probes: Mapping[str, Probe]) -> tuple[bool, str]:
    """Return whether usernsctl's programs have AppArmor profiles, and a text for `Need.found`."""
    probe = probes.get(PROFILES)
    if probe is None or not probe.detail:
        return _has_profile(facts), _label(facts) if _has_profile(facts) else ""
    bare = without_profile(probes)
    if not bare:
        return True, "a profile is loaded for each program of usernsctl"
    if len(bare) == len(probe.detail.split("\n")):
        return False, "no profile is loaded for the programs of usernsctl"
    return False, f"no profile is loaded for {', '.join(bare)}"


def _apparmor(facts: Facts, probes: Mapping[str, Probe]) -> Need:
    value = facts.sysctls.get("kernel/apparmor_restrict_unprivileged_userns")
    has_profiles, label = _profiles(facts, probes)
    shown = "absent" if value is None else str(value)
    return Need(
        name="kernel.apparmor_restrict_unprivileged_userns",
        state=_state(value != 1 or has_profiles),
        found=f"{shown}; {label}" if label else shown,
        wanted="0 or absent, or a profile with userns, for usernsctl-exec and runsc",
    )


def _release(facts: Facts) -> list[Need]:
    """Return a list with the Need for a recent runsc; empty if runsc's release is unknown."""
    runsc = facts.runsc
    if runsc is None or runsc.release is None:
        return []
    age = "of unknown age" if runsc.age is None else f"{runsc.age} days old"
    return [
        Need(
            name="runsc",
            state="open" if runsc.age is None else _state(runsc.age <= _YEAR),
            found=f"{runsc.release}, {age}, {runsc.path}",
            wanted="a release of the last twelve months (gVisor's start time: 203 ms in 2024, "
            "147 ms in 2026)",
        )
    ]


def _own(name: str, inside: bool, look: Callable[[], tuple[bool, str]], wanted: str) -> Need:
    """Return the Need for a container's setting that only a process in the container can read."""
    if not inside:
        return Need(
            name=name, state="open", found="visible only inside the container", wanted=wanted
        )
    good, found = look()
    return Need(name=name, state=_state(good), found=found, wanted=wanted)


def _id_count(facts: Facts) -> int | None:
    extents = facts.ids.uid_map
    return None if extents is None else sum(extent.count for extent in extents)


def _remap(facts: Facts, inside: bool) -> Need:
    wanted = f"unset; or subordinate ranges in the image that lie below {_CONTAINER_IDS}"
    if inside:
        return _own("userns-remap", True, lambda: _ids_found(facts), wanted)
    remap = facts.container.userns_remap
    return Need(
        name="userns-remap",
        state="open" if remap or not facts.container.docker_daemon else "met",
        found=remap or "not set in /etc/docker/daemon.json",
        wanted=wanted,
    )


def _ids_found(facts: Facts) -> tuple[bool, str]:
    count = _id_count(facts)
    return count is None or count > _CONTAINER_IDS, f"the container has {count or 'unknown'} ids"


def _seccomp_found(probes: Mapping[str, Probe]) -> tuple[bool, str]:
    probe = probes.get("unshare-user")
    if probe is None:
        return True, "not tried"
    return probe.outcome == "ok", f"unshare(CLONE_NEWUSER): {probe.outcome}"


def _docker_seccomp(probes: Mapping[str, Probe], inside: bool) -> Need:
    return _own(
        "docker run --security-opt seccomp",
        inside,
        lambda: _seccomp_found(probes),
        "the profile that usernsctl seccomp-profile prints; usernsctl docker-args has all options",
    )


def _privileges_found(facts: Facts) -> tuple[bool, str]:
    return (
        not facts.privileges.no_new_privs,
        f"NoNewPrivs: {int(bool(facts.privileges.no_new_privs))}",
    )


def _docker_privileges(facts: Facts, inside: bool) -> Need:
    return _own(
        "docker run --security-opt no-new-privileges",
        inside,
        lambda: _privileges_found(facts),
        "left out, if newuidmap is to map more than one id",
    )


def _host_users(facts: Facts, inside: bool) -> Need:
    def look() -> tuple[bool, str]:
        count = _id_count(facts)
        return True, f"the Pod has {'all' if count == _ALL_IDS else count or 'unknown'} ids"

    wanted = f"either; with false, subordinate ranges must lie below {_CONTAINER_IDS}"
    return _own("hostUsers", inside, look, wanted)


def _escalation(facts: Facts, inside: bool) -> Need:
    return _own(
        "allowPrivilegeEscalation",
        inside,
        lambda: _privileges_found(facts),
        "true, if newuidmap is to map more than one id",
    )


def _pod_seccomp(probes: Mapping[str, Probe], inside: bool) -> Need:
    return _own(
        "seccompProfile",
        inside,
        lambda: _seccomp_found(probes),
        "type: Localhost, with the profile that usernsctl seccomp-profile prints",
    )


def _proc_mount(facts: Facts, inside: bool) -> Need:
    def look() -> tuple[bool, str]:
        masked = facts.masked_proc()
        return True, f"mounts below /proc: {len(masked)}" if masked else "/proc is not masked"

    return _own("procMount", inside, look, "Default will do; Unmasked only for --mount-proc")
