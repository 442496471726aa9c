"""Tests of the values that remedies take from a host's facts."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from callers import as_root
from doctor_machines import failed, healthy, labelled_programs, probes, report_and_needs
from processes import capture

from usernsctl import profiles
from usernsctl._text import quoted
from usernsctl.doctor import render
from usernsctl.doctor.facts import Facts, Helper, Ids, Limits, Runsc, Subordinate
from usernsctl.doctor.reading import read_facts
from usernsctl.doctor.remedies import BY_HAND
from usernsctl.doctor.rules import RULES
from usernsctl.explain.model import Probe, Purpose
from usernsctl.maps import Extent

NO_RANGE = failed("ranges", cause="no-subordinate-range")


def remedy_of(facts: Facts, probe: Probe, purpose: Purpose = "range") -> str:
    report, _ = report_and_needs(facts, probes(probe), purpose)
    cause = report.findings[0].cause
    assert cause is not None
    return render.remedy(report, cause, "host")


def test_free_range_is_granted_to_the_user() -> None:
    facts = healthy(subordinate=Subordinate(user="it", free=231072))
    wanted = "usermod --add-subuids 231072-296607 --add-subgids 231072-296607 it    # as root"
    assert remedy_of(facts, NO_RANGE) == wanted


def test_unknown_user_gets_the_remedy_of_the_catalogue() -> None:
    assert remedy_of(healthy(), NO_RANGE).endswith(" USER    # as root")


@pytest.mark.parametrize(
    ("subuid", "subgid", "free"),
    [
        ("", "", 100000),
        ("one:100000:65536\n", "", 165536),
        ("one:100000:65536\n", "two:500000:1000\n", 501000),
        ("one: 0x20000: 010\n", "x:y:z\n:\n", 0x20008),
        ("one:4294967000:65536\n", "", 100000),
        ("one:4294960000:7000\n", "", None),
        ("one:100000:4294967000\n", "", None),
        ("one:165535:5000000000\n", "", None),
        ("one:165536:5000000000\n", "", 100000),
    ],
)
def test_free_range_follows_all_granted_ranges(
    tmp_path: Path, subuid: str, subgid: str, free: int | None
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "subuid").write_text(subuid)
    (tmp_path / "etc" / "subgid").write_text(subgid)
    assert read_facts(str(tmp_path), {}).subordinate.free == free


def test_unreadable_subgid_means_no_known_free_range(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "subgid").symlink_to("subgid")
    assert read_facts(str(tmp_path), {}).subordinate.free is None


def unprivileged_helper_remedy(**changes: Any) -> str:
    """Return the remedy for a newuidmap with neither set-user-ID bit nor file capability."""
    helper = Helper(**{"path": "/usr/bin/newuidmap", "mode": 0o755, "owner": 0} | changes)
    facts = healthy(helpers={**healthy().helpers, "newuidmap": helper})
    return remedy_of(facts, failed("range-map", cause="helper-not-setuid"))


def test_paths_in_remedies_are_quoted() -> None:
    wanted = "chmod 4755 '/a b/newuidmap'    # as root"
    assert unprivileged_helper_remedy(system="/a b/newuidmap") == wanted


def test_chmod_of_a_users_own_helper_is_a_comment() -> None:
    text = unprivileged_helper_remedy(path="/home/it/bin/newuidmap", owner=1000)
    assert "\n# /home/it/bin/newuidmap\n" in text
    assert all(line.startswith("#") for line in text.splitlines())


@pytest.mark.parametrize("name", ["a\nb", "\n'; echo typed; #", "\n\\'; echo typed; #"])
def test_quoted_names_inject_no_command_in_sh(name: str) -> None:
    text = unprivileged_helper_remedy(path=f"/{name}/newuidmap", system=f"/{name}/newuidmap")
    assert all(line.startswith("#") for line in text.splitlines())
    typed = f"printf %s {quoted(name)}"
    done = capture(["/bin/sh", "-c", typed], check=True)
    assert "\\012" in done.stdout or done.stdout == name


@pytest.mark.parametrize("user", ["-G root", "-x", "a\nb"])
def test_user_names_like_options_are_not_in_remedies(user: str) -> None:
    facts = healthy(subordinate=Subordinate(user=user, free=231072))
    assert remedy_of(facts, NO_RANGE).endswith(" USER    # as root")


def test_script_asks_before_commands_only() -> None:
    own = Helper(path="/home/it/newuidmap", mode=0o755, owner=1000)
    other = Helper(path="/usr/bin/newgidmap", system="/usr/bin/newgidmap", mode=0o755, owner=0)
    facts = healthy(helpers={"newuidmap": own, "newgidmap": other})
    probe = failed("range-map", cause="helper-not-setuid")
    report, _ = report_and_needs(facts, probes(probe), "range")
    lines = render.as_script(report).splitlines()
    typed = lines.index("    chmod 4755 /usr/bin/newgidmap    # as root")
    assert any(line.startswith("if ask ") for line in lines[:typed])
    subprocess.run(["/bin/sh", "-n"], input="\n".join(lines), text=True, check=True)


@as_root
@pytest.mark.parametrize(
    ("mode", "owner", "directory", "trusted"),
    [
        (0o755, 0, 0o755, True),
        (0o755, 1000, 0o755, False),
        (0o775, 0, 0o755, False),
        (0o757, 0, 0o755, False),
        (0o755, 0, 0o1777, False),
    ],
)
def test_helpers_that_others_can_replace_are_not_trusted(
    tmp_path: Path, mode: int, owner: int, directory: int, trusted: bool
) -> None:
    tmp_path.chmod(0o755)
    for one in ("/bin", "/usr/bin", "/home"):
        (tmp_path / one[1:]).mkdir(parents=True)
    file = tmp_path / "usr/bin/newuidmap"
    file.write_text("")
    os.chown(file, owner, 0)
    file.chmod(mode)
    (tmp_path / "usr/bin").chmod(directory)
    (tmp_path / "home/newuidmap").symlink_to("../usr/bin/newuidmap")
    for path in ("/usr/bin", "/home"):
        helper = read_facts(str(tmp_path), {"PATH": path}).helpers["newuidmap"]
        assert helper.system == ("/usr/bin/newuidmap" if trusted else None)
    (tmp_path / "home/newuidmap").unlink()
    file.rename(tmp_path / "home/newuidmap")
    assert read_facts(str(tmp_path), {"PATH": "/home"}).helpers["newuidmap"].system is None


def test_remedy_names_a_runsc_that_is_not_executable() -> None:
    assert unexecutable_runsc_remedy("/opt/runsc") == "chmod a+rx /opt/runsc    # as root"
    assert (
        unexecutable_runsc_remedy(None)
        == "# if this file is runsc, as its owner: chmod a+rx /opt/runsc"
    )


def test_remedy_does_not_make_untrusted_runsc_executable() -> None:
    """Check that no remedy makes a runsc in /tmp executable, even if USERNSCTL_RUNSC names it."""
    wanted = "mount -o remount,bind,exec '/a b'    # as root"
    assert unexecutable_runsc_remedy("/a b/runsc", noexec="/a b") == wanted
    text = unexecutable_runsc_remedy(None, noexec="/tmp")
    assert all(line.startswith("#") for line in text.splitlines())
    text = unexecutable_runsc_remedy(None, noexec="/tmp", other="/usr/bin/runsc")
    assert text == "export USERNSCTL_RUNSC=/usr/bin/runsc"


def unexecutable_runsc_remedy(system: str | None, **more: Any) -> str:
    runsc = Runsc(cause="runsc-not-executable", refused="/opt/runsc", system=system, **more)
    report, _ = report_and_needs(healthy(runsc=runsc), probes())
    cause = report.findings[0].cause
    assert cause is not None
    return render.remedy(report, cause, "host")


LIMITED = failed("range-map", cause="process-limit")


@pytest.mark.parametrize(
    ("hard", "parent", "wanted"),
    [
        ({}, 7, "ulimit -S -u unlimited 2>&- || ulimit -S -p unlimited"),
        ({"processes": 200}, 7, "ulimit -S -u 200 2>&- || ulimit -S -p 200"),
        # This hard limit is too low, and only root can raise it.
        ({"processes": 9}, 7, "prlimit --pid 7 --nproc=4096:4096    # as root"),
    ],
)
def test_process_limit_is_raised_by_user_or_root(
    hard: dict[str, int], parent: int, wanted: str
) -> None:
    facts = healthy(limits=Limits(processes=9, hard=hard), parent=parent)
    assert remedy_of(facts, LIMITED) == wanted


def address_space_remedy(soft: int, hard: dict[str, int], parent: int) -> str:
    limits = Limits(address_space=soft, data=soft, hard=hard)
    facts = healthy(limits=limits, parent=parent)
    return remedy_of(facts, failed("runsc", cause="address-space-limit"), "run")


def test_address_space_limits_are_raised_together() -> None:
    ulimits = "ulimit -S -v $(ulimit -H -v)\nulimit -S -d $(ulimit -H -d)"
    assert address_space_remedy(9, {"data": 99}, 7) == ulimits
    both = "prlimit --pid 7 --as=unlimited:unlimited --data=unlimited:unlimited    # as root"
    assert address_space_remedy(9, {"data": 9}, 7) == both
    assert address_space_remedy(9, {"address_space": 9}, 7) == both
    assert address_space_remedy(9, {"address_space": 9, "data": 9}, 7) == both
    text = address_space_remedy(9, {"address_space": 9}, 0)
    assert all(line.startswith("# ") for line in text.splitlines())


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"data": 9}, ["docker run --ulimit data=-1"]),
        ({"address_space": 9}, ["LimitAS=infinity"]),
        ({"address_space": 9, "data": 9}, ["LimitAS=infinity", "docker run --ulimit data=-1"]),
    ],
)
def test_limits_that_root_can_not_raise_are_raised_outside(
    limits: dict[str, int], wanted: list[str]
) -> None:
    """Check that no remedy has --ulimit as=-1, which Docker and podman reject."""
    privileges = dataclasses.replace(healthy().privileges, bounding=0)
    facts = healthy(limits=Limits(**limits, hard=limits), privileges=privileges, parent=7)
    text = remedy_of(facts, failed("runsc", cause="address-space-limit"), "run")
    assert len(text.splitlines()) == 1 + len(wanted)
    assert all(line.startswith("# ") and len(line) <= 100 for line in text.splitlines())
    assert all(part in text for part in wanted)
    assert "as=-1" not in text


@pytest.mark.parametrize(
    ("hard", "wanted"),
    [
        ({"pending_signals": 96}, "ulimit -S -i 96 2>&- || prlimit --pid $$ --sigpending=96:"),
        ({}, "ulimit -S -i unlimited 2>&- || prlimit --pid $$ --sigpending=unlimited:"),
        ({"pending_signals": 3}, "prlimit --pid 7 --sigpending=unlimited:unlimited    # as root"),
    ],
)
def test_signal_limit_is_raised_in_any_shell(hard: dict[str, int], wanted: str) -> None:
    facts = healthy(limits=Limits(pending_signals=3, hard=hard), parent=7)
    late = Probe(name="runsc", outcome="skipped", cause="runsc-hung")
    assert remedy_of(facts, late, "run") == wanted


def test_unreadable_passwd_is_made_readable() -> None:
    facts = healthy(subordinate=Subordinate(unreadable=("/etc/passwd",)), ids=Ids(uid=9, gid=9))
    nameless = failed("ranges", cause="no-passwd-entry")
    assert remedy_of(facts, nameless) == "chmod a+r /etc/passwd    # as root"


def test_primary_group_is_set_to_the_callers() -> None:
    facts = healthy(subordinate=Subordinate(user="it's"), ids=Ids(uid=9, gid=10))
    other = failed("range-map", cause="gid-differs-from-passwd")
    assert remedy_of(facts, other) == "usermod --gid 10 " + quoted("it's") + "    # as root"


def test_working_runsc_replaces_a_killed_one() -> None:
    runsc = Runsc(path="/opt/runsc", release="release-20240729.0", other="/usr/bin/runsc")
    killed = failed("runsc", cause="runsc-killed")
    report, _ = report_and_needs(healthy(runsc=runsc), probes(killed))
    cause = report.findings[0].cause
    assert cause is not None
    assert render.remedy(report, cause, "host") == "export USERNSCTL_RUNSC=/usr/bin/runsc"


@as_root
def test_runsc_variable_does_not_make_a_secret_trusted(tmp_path: Path) -> None:
    secret = tmp_path / "runsc"
    secret.symlink_to("/etc/shadow")
    runsc = read_facts("/", {"USERNSCTL_RUNSC": str(secret)}).runsc
    assert runsc.system is None


@pytest.mark.parametrize(("answer", "typed"), [("y\n", True), ("n\n", False), ("", False)])
def test_script_executes_remedies_only_after_y(tmp_path: Path, answer: str, typed: bool) -> None:
    mark = tmp_path / "typed"
    (tmp_path / "usermod").write_text(f"#!/bin/sh\n: >{mark}\n")
    (tmp_path / "usermod").chmod(0o755)
    facts = healthy(subordinate=Subordinate(user="it", free=231072))
    report, _ = report_and_needs(facts, probes(NO_RANGE), "range")
    subprocess.run(
        ["/bin/sh"],
        input=render.as_script(report).replace("read -r answer", f"answer={answer.strip()!r}"),
        env={"PATH": str(tmp_path)},
        text=True,
        check=True,
    )
    assert mark.exists() is typed


def test_host_profile_names_existing_programs() -> None:
    text = profiles.host_profile("/bin/sh")
    paths = [line.split('"')[1] for line in text.splitlines() if line.startswith("profile ")]
    assert len(paths) == len(set(paths)) > 3
    assert all(Path(path).is_file() and not Path(path).is_symlink() for path in paths)
    assert text.count("userns,") == len(paths)


@pytest.mark.parametrize("name", ["a b", "a{b", 'a"b', "a\n}\nprofile other /** {\n  userns,"])
def test_program_names_are_escaped_in_the_profile(tmp_path: Path, name: str) -> None:
    runsc = tmp_path / name.replace("/", "")
    runsc.write_text("")
    without, text = profiles.host_profile(None), profiles.host_profile(str(runsc))
    head, _, rest = text.removeprefix(without).partition(f' "{profiles._escaped(str(runsc))}" ')
    assert re.fullmatch(r"\nprofile [A-Za-z0-9_.+-]+", head)
    assert rest == "flags=(unconfined) {\n  userns,\n}\n"


def test_wildcards_in_profile_paths_are_escaped() -> None:
    assert profiles._escaped('/a*b"c') == '/a\\*b\\"c'


def test_host_profile_names_the_scripts_of_the_commands() -> None:
    """Check that scripts have profiles: AppArmor selects a profile by the path of the script."""
    found = profiles.host_programs(None)
    for name in ("usernsctl", "usernsctl-exec"):
        assert os.path.realpath(Path(sys.executable).with_name(name)) in found


def test_host_profile_does_not_name_the_interpreter() -> None:
    """Check that no profile names the Python interpreter, since it would apply to every script."""
    for path in profiles.host_programs("/bin/true"):
        assert not os.path.samefile(path, sys.executable)
        with open(path, "rb") as file:
            begin = file.read(4)
        is_ours = begin[:2] == b"#!" and os.path.basename(path) == "usernsctl"
        assert begin == b"\x7fELF" or is_ours, path


@pytest.mark.parametrize(
    ("label", "applies"),
    [
        ("unconfined", False),
        ("usernsctl-host-7-runsc (unconfined)", True),
        ("usernsctl-host-12-runsc (unconfined)", True),
        ("usernsctl-host-3-usernsctl-probe (unconfined)", False),
        ("usernsctl-host-3-not-runsc (unconfined)", False),
        ("docker-default (enforce)", True),
        ("unconfined-programs (unconfined)", True),
    ],
)
def test_own_profile_counts_only_for_its_program(label: str, applies: bool) -> None:
    assert profiles.is_own_profile(label, "/opt/gvisor/runsc") is applies


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize(
    ("labels", "state", "found"),
    [
        (
            ("a (unconfined)", "b (enforce)"),
            "met",
            "a profile is loaded for each program of usernsctl",
        ),
        (
            ("unconfined", "unconfined"),
            "unmet",
            "no profile is loaded for the programs of usernsctl",
        ),
        (("a (unconfined)", "unconfined"), "unmet", "no profile is loaded for /opt/program1"),
    ],
)
def test_loaded_profiles_meet_the_apparmor_setting(
    restricted: bool, labels: tuple[str, ...], state: str, found: str
) -> None:
    name = "kernel.apparmor_restrict_unprivileged_userns"
    sysctls = {"kernel/apparmor_restrict_unprivileged_userns": 1 if restricted else None}
    # The label of doctor's own process must not affect the state of the setting.
    security = dataclasses.replace(healthy().security, label="mine (unconfined)")
    facts = healthy(sysctls=sysctls, security=security)
    _, settings = report_and_needs(facts, probes(labelled_programs(*labels)))
    shown = next(one for one in settings if one.name == name)
    assert shown.state == (state if restricted else "met")
    assert shown.found == f"{'1' if restricted else 'absent'}; {found}"


def test_label_of_the_process_meets_the_apparmor_setting() -> None:
    name = "kernel.apparmor_restrict_unprivileged_userns"
    sysctls = {"kernel/apparmor_restrict_unprivileged_userns": 1}
    for label, state in ((None, "unmet"), ("unconfined", "unmet"), ("mine (unconfined)", "met")):
        security = dataclasses.replace(healthy().security, label=label)
        _, settings = report_and_needs(healthy(sysctls=sysctls, security=security), probes())
        assert [one.state for one in settings if one.name == name] == [state]


#: Ids of causes whose remedy is not a command, even if all facts are known. ``BY_HAND`` lists the
#: reasons.
STAYS_BY_HAND = """
already-in-gvisor caller-id-unmapped cgroup-not-delegated child-missing
helper-failed helper-hung helper-killed helper-status-lost helper-stopped
in-chroot join-denied landlock landlock-denies-mount lsm-denies-userns map-invalid
memory-deny-write-execute
mount-by-descriptor-missing mount-denied mount-without-owned-ns multithreaded needs-setfcap
nesting-too-deep no-answer-in-time no-config-user-ns no-new-privs not-runsc outside-parent-map
path-closed-inside proc-masked ptrace-denied range-not-granted range-overlap ranges-shared
runsc-hung runsc-killed
runsc-ran-nothing seccomp-denies-call seccomp-denies-helper seccomp-denies-userns selinux-nested
setgroups-denied-on-join setgroups-order target-gone
"""


def script_for(facts: Facts, cause_id: str) -> str:
    report, _ = report_and_needs(facts, probes(failed("mount", cause=cause_id)))
    parts = render.as_script(report).split("\n\n")
    return next(part for part in parts if part.startswith(f"# {cause_id}: "))


def machine_with_all_facts() -> Facts:
    """Return simulated facts in which all values that remedies use are known."""
    inside = (Extent(0, 0, 65536),)
    return healthy(
        ids=Ids(uid=1000, gid=1000, uid_map=inside, gid_map=inside),
        subordinate=Subordinate(user="it", free=2000, free_count=60000, no_files=("/etc/subuid",)),
        limits=Limits(
            processes=9,
            open_files=9,
            file_size=9,
            address_space=9,
            pending_signals=9,
            hard={"processes": 9},
        ),
        parent=7,
        helpers={
            name: dataclasses.replace(
                helper,
                privileged=False,
                executable=False,
                file_capabilities=True,
                nosuid="/usr",
            )
            for name, helper in healthy().helpers.items()
        },
        runsc=Runsc(path="/opt/runsc", system="/opt/runsc", release="release-20240729.0"),
    )


def test_remedies_by_hand_are_listed_and_say_why() -> None:
    without = set()
    for cause_id in {rule.id for rule in RULES}:
        text = script_for(machine_with_all_facts(), cause_id)
        if not ("\nif ask " in text or "\n# remedy, in the shell that starts" in text):
            without.add(cause_id)
            assert f"by hand, since {BY_HAND[cause_id]}:" in text.replace("\n# ", " ")
    assert without == set(STAYS_BY_HAND.split())


@pytest.mark.parametrize("cause_id", sorted({rule.id for rule in RULES} - {*STAYS_BY_HAND.split()}))
def test_commands_have_no_placeholders(cause_id: str) -> None:
    text = script_for(machine_with_all_facts(), cause_id)
    asked = [line.partition("# ")[0] for line in text.splitlines() if line.startswith("    ")]
    commands = "\n".join(asked).replace("USERNSCTL_RUNSC", "")
    assert not re.search(r"\b(USER|FILE|DIR|IMAGE|COMMAND|UNIT|SERVICE|FIRST)\b", commands)


@pytest.mark.parametrize(
    ("uid_map", "subuid", "free"),
    [
        ("0 0 65536", "", (1001, 64535)),
        ("0 0 65536", "it:100000:65536\n", (1001, 64535)),
        ("0 0 65536", "other:1001:60000\n", (61001, 4535)),
        ("0 0 65536", "other:30000:1000\n", (31000, 34536)),
        ("0 0 1000", "", (None, 65536)),
        ("0 0 200000", "", (100000, 65536)),
        ("0 0 200000", "other:100000:65536\n", (None, 65536)),
        ("0 0 4294967295", "", (100000, 65536)),
    ],
)
def test_free_range_is_mapped_in_this_namespace(
    tmp_path: Path, uid_map: str, subuid: str, free: tuple[int | None, int]
) -> None:
    for name in ("etc", "proc/self"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("uid_map", "gid_map"):
        (tmp_path / "proc/self" / name).write_text(f"{uid_map}\n")
    (tmp_path / "etc/subuid").write_text(subuid)
    found = read_facts(str(tmp_path), {}).subordinate
    assert (found.free, found.free_count) == free


def test_free_range_excludes_ids_of_users_and_groups(tmp_path: Path) -> None:
    for name in ("etc", "proc/self"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("uid_map", "gid_map"):
        (tmp_path / "proc/self" / name).write_text("0 0 65536\n")
    (tmp_path / "etc/passwd").write_text("a:x:1000:7:::\nb:x:2000:2000:::\nnobody:x:65534:1:::\n")
    (tmp_path / "etc/group").write_text("c:x:3000:\n")
    assert read_facts(str(tmp_path), {}).subordinate.free == 3001


def test_comments_and_nis_entries_of_passwd_name_no_user(tmp_path: Path) -> None:
    for name in ("etc", "proc/self"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Uid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\n")
    (tmp_path / "etc/passwd").write_text("#a:x:7:7:::\n+b:x:7:7:::\n-c:x:7:7:::\n\n d:x:7:7:::\n")
    assert read_facts(str(tmp_path), {}).subordinate.user == "d"


def test_ranges_outside_the_map_are_replaced() -> None:
    probe = failed("range-map", cause="range-outside-parent")
    facts = healthy(subordinate=Subordinate(user="it", free=1001, free_count=9), ids=Ids(uid=7))
    assert remedy_of(facts, probe).splitlines() == [
        "sed -i '/^it:/d;/^7:/d' /etc/subuid /etc/subgid    # as root",
        "usermod --add-subuids 1001-1009 --add-subgids 1001-1009 it    # as root",
    ]
    facts = healthy(subordinate=Subordinate(user="i.t", free=1001))
    assert remedy_of(facts, probe).endswith(" USER")


def test_fifo_in_place_of_subgid_is_moved_away(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/subgid")
    (tmp_path / "etc/subuid").write_text("")
    found = read_facts(str(tmp_path), {}).subordinate
    assert (found.no_files, found.free) == (("/etc/subgid",), 100000)
    facts = healthy(subordinate=dataclasses.replace(found, user="it"))
    assert remedy_of(facts, failed("ranges", cause="subid-not-a-file")).splitlines() == [
        "mv /etc/subgid /etc/subgid.old && touch /etc/subgid    # as root",
        "usermod --add-subgids 100000-165535 it    # as root",
    ]


def test_file_capabilities_replace_setuid_root() -> None:
    probe = failed("range-map", cause="bounding-set")
    privileges = dataclasses.replace(healthy().privileges, bounding=1 << 6 | 1 << 7)
    assert remedy_of(healthy(privileges=privileges), probe).splitlines() == [
        "chmod u-s /usr/bin/newuidmap    # as root",
        "setcap cap_setuid=ep /usr/bin/newuidmap    # as root",
        "chmod u-s /usr/bin/newgidmap    # as root",
        "setcap cap_setgid=ep /usr/bin/newgidmap    # as root",
    ]
    privileges = dataclasses.replace(privileges, bounding=1 << 6)
    text = remedy_of(healthy(privileges=privileges), probe)
    assert text.startswith("start with CAP_SETUID and CAP_SETGID")


def denied_mount_remedy(label: str | None, seccomp: int, **more: Any) -> str:
    facts = healthy(
        security=dataclasses.replace(healthy().security, label=label),
        privileges=dataclasses.replace(healthy().privileges, seccomp=seccomp),
        **more,
    )
    return remedy_of(facts, failed("mount", 13, cause="mount-denied"), "run")


def test_remedy_names_what_denies_mounts_on_a_host() -> None:
    text = denied_mount_remedy("own-service (enforce)", 0)
    assert "by the profile own-service." in text
    assert "usernsctl apparmor-profile --host" in text
    assert "docker" not in text
    text = denied_mount_remedy("own\nservice 'x (enforce)", 0)
    assert all(line.startswith("#") for line in text.splitlines())
    text = denied_mount_remedy("unconfined", 2)
    assert "SystemCallFilter" in text
    assert "docker" not in text


@pytest.mark.parametrize(
    "cause_id", ["seccomp-denies-userns", "mount-by-descriptor-missing", "ptrace-denied"]
)
def test_remedy_on_a_host_does_not_mention_docker(cause_id: str) -> None:
    filtered = dataclasses.replace(healthy().privileges, seccomp=2)
    text = remedy_of(healthy(privileges=filtered), failed("mount", 1, cause=cause_id), "run")
    assert "docker" not in text
    assert "systemctl edit UNIT" in text
