"""Remedies are filled in from what is known of this machine."""

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
from doctor_machines import examined, failed, healthy, probes, profiled

from usernsctl import profiles
from usernsctl._text import quoted
from usernsctl.doctor import render
from usernsctl.doctor.facts import Facts, Helper, Ids, Limits, Runsc, Subordinate
from usernsctl.doctor.reading import read_facts
from usernsctl.explain.model import Probe

NO_RANGE = failed("ranges", cause="no-subordinate-range")


def remedy_of(facts: Facts, probe: Probe) -> str:
    report, _ = examined(facts, probes(probe), "range")
    cause = report.findings[0].cause
    assert cause is not None
    return render.remedy(report, cause, "host")


def test_a_range_is_granted_to_the_user_that_nobody_has() -> None:
    facts = healthy(subordinate=Subordinate(user="it", free=231072))
    wanted = "usermod --add-subuids 231072-296607 --add-subgids 231072-296607 it"
    assert remedy_of(facts, NO_RANGE) == wanted


def test_who_is_not_known_gets_the_words_of_the_catalogue() -> None:
    assert remedy_of(healthy(), NO_RANGE).endswith(" USER")


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
def test_what_is_free_is_behind_all_that_is_granted(
    tmp_path: Path, subuid: str, subgid: str, free: int | None
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "subuid").write_text(subuid)
    (tmp_path / "etc" / "subgid").write_text(subgid)
    assert read_facts(str(tmp_path), {}).subordinate.free == free


def test_nothing_is_known_to_be_free_where_the_ranges_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "etc" / "subgid").mkdir(parents=True)
    assert read_facts(str(tmp_path), {}).subordinate.free is None


def powerless(**changes: Any) -> str:
    """What mends a newuidmap without its privilege."""
    helper = Helper(**{"path": "/usr/bin/newuidmap", "mode": 0o755, "owner": 0} | changes)
    facts = healthy(helpers={**healthy().helpers, "newuidmap": helper})
    return remedy_of(facts, failed("range-map", cause="helper-not-setuid"))


def test_paths_can_be_pasted() -> None:
    assert powerless(system="/a b/newuidmap") == "chmod 4755 '/a b/newuidmap'"


def test_root_makes_no_program_privileged_that_others_can_change() -> None:
    text = powerless(path="/home/it/bin/newuidmap", owner=1000)
    assert "\n# /home/it/bin/newuidmap\n" in text
    assert all(line.startswith("#") for line in text.splitlines())


@pytest.mark.parametrize("name", ["a\nb", "\n'; echo typed; #", "\n\\'; echo typed; #"])
def test_a_shell_without_dollar_quotes_types_nothing_else(name: str) -> None:
    text = powerless(path=f"/{name}/newuidmap", system=f"/{name}/newuidmap")
    assert all(line.startswith("#") for line in text.splitlines())
    typed = f"printf %s {quoted(name)}"
    done = subprocess.run(["/bin/sh", "-c", typed], capture_output=True, text=True, check=True)
    assert "\\012" in done.stdout or done.stdout == name


@pytest.mark.parametrize("user", ["-G root", "-x", "a\nb"])
def test_no_range_is_granted_to_what_may_be_an_option(user: str) -> None:
    facts = healthy(subordinate=Subordinate(user=user, free=231072))
    assert remedy_of(facts, NO_RANGE).endswith(" USER")


def test_each_helper_is_asked_for_and_comments_are_not() -> None:
    own = Helper(path="/home/it/newuidmap", mode=0o755, owner=1000)
    other = Helper(path="/usr/bin/newgidmap", system="/usr/bin/newgidmap", mode=0o755, owner=0)
    facts = healthy(helpers={"newuidmap": own, "newgidmap": other})
    probe = failed("range-map", cause="helper-not-setuid")
    report, _ = examined(facts, probes(probe), "range")
    lines = render.as_script(report).splitlines()
    typed = lines.index("    chmod 4755 /usr/bin/newgidmap")
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
def test_what_others_can_replace_is_not_the_systems(
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


def test_a_runsc_that_is_there_is_named() -> None:
    assert closed_runsc("/opt/runsc") == "chmod a+rx /opt/runsc"
    assert closed_runsc(None) == "# only if it is a runsc, and as its owner: chmod a+rx /opt/runsc"


def test_root_lets_nobody_execute_what_others_write() -> None:
    """USERNSCTL_RUNSC may name a file in /tmp, which is a mount of its own with noexec."""
    wanted = "mount -o remount,bind,exec '/a b'"
    assert closed_runsc("/a b/runsc", noexec="/a b") == wanted
    text = closed_runsc(None, noexec="/tmp")
    assert all(line.startswith("#") for line in text.splitlines())
    text = closed_runsc(None, noexec="/tmp", other="/usr/bin/runsc")
    assert text == "export USERNSCTL_RUNSC=/usr/bin/runsc"


def closed_runsc(system: str | None, **more: Any) -> str:
    runsc = Runsc(cause="runsc-not-executable", refused="/opt/runsc", system=system, **more)
    report, _ = examined(healthy(runsc=runsc), probes())
    cause = report.findings[0].cause
    assert cause is not None
    return render.remedy(report, cause, "host")


LIMITED = failed("range-map", cause="process-limit")


@pytest.mark.parametrize(
    ("hard", "parent", "wanted"),
    [
        ({}, 7, "ulimit -S -u unlimited 2>&- || ulimit -S -p unlimited"),
        ({"processes": 200}, 7, "ulimit -S -u 200 2>&- || ulimit -S -p 200"),
        # Only root goes further than that.
        ({"processes": 9}, 7, "prlimit --pid 7 --nproc=4096:4096"),
        ({"processes": 9}, 0, "ulimit -S -u 9 2>&- || ulimit -S -p 9"),
    ],
)
def test_a_limit_is_raised_by_whoever_may(hard: dict[str, int], parent: int, wanted: str) -> None:
    facts = healthy(limits=Limits(processes=9, hard=hard), parent=parent)
    assert remedy_of(facts, LIMITED) == wanted


def test_a_closed_user_database_is_opened() -> None:
    facts = healthy(subordinate=Subordinate(unreadable=("/etc/passwd",)), ids=Ids(uid=9, gid=9))
    nameless = failed("ranges", cause="no-passwd-entry")
    assert remedy_of(facts, nameless) == "chmod a+r /etc/passwd"


def test_a_group_is_that_of_the_caller() -> None:
    facts = healthy(subordinate=Subordinate(user="it's"), ids=Ids(uid=9, gid=10))
    other = failed("range-map", cause="gid-differs-from-passwd")
    assert remedy_of(facts, other) == "usermod --gid 10 " + quoted("it's")


def test_a_runsc_that_works_is_named_in_place_of_another() -> None:
    runsc = Runsc(path="/opt/runsc", release="release-20240729.0", other="/usr/bin/runsc")
    killed = failed("runsc", cause="runsc-killed")
    report, _ = examined(healthy(runsc=runsc), probes(killed))
    cause = report.findings[0].cause
    assert cause is not None
    assert render.remedy(report, cause, "host") == "export USERNSCTL_RUNSC=/usr/bin/runsc"


@as_root
def test_a_variable_does_not_have_root_open_a_secret(tmp_path: Path) -> None:
    secret = tmp_path / "runsc"
    secret.symlink_to("/etc/shadow")
    runsc = read_facts("/", {"USERNSCTL_RUNSC": str(secret)}).runsc
    assert runsc is not None
    assert runsc.system is None


@pytest.mark.parametrize(("answer", "typed"), [("y\n", True), ("n\n", False), ("", False)])
def test_a_script_asks_before_each_remedy(tmp_path: Path, answer: str, typed: bool) -> None:
    mark = tmp_path / "typed"
    (tmp_path / "usermod").write_text(f"#!/bin/sh\n: >{mark}\n")
    (tmp_path / "usermod").chmod(0o755)
    facts = healthy(subordinate=Subordinate(user="it", free=231072))
    report, _ = examined(facts, probes(NO_RANGE), "range")
    subprocess.run(
        ["/bin/sh"],
        input=render.as_script(report).replace("read -r answer", f"answer={answer.strip()!r}"),
        env={"PATH": str(tmp_path)},
        text=True,
        check=True,
    )
    assert mark.exists() is typed


def test_the_profile_of_this_machine_names_programs_that_are_there() -> None:
    text = profiles.host_profile("/bin/sh")
    paths = [line.split('"')[1] for line in text.splitlines() if line.startswith("profile ")]
    assert len(paths) == len(set(paths)) > 3
    assert all(Path(path).is_file() and not Path(path).is_symlink() for path in paths)
    assert text.count("userns,") == len(paths)


@pytest.mark.parametrize("name", ["a b", "a{b", 'a"b', "a\n}\nprofile other /** {\n  userns,"])
def test_a_name_does_not_get_out_of_its_profile(tmp_path: Path, name: str) -> None:
    runsc = tmp_path / name.replace("/", "")
    runsc.write_text("")
    without, text = profiles.host_profile(None), profiles.host_profile(str(runsc))
    head, _, rest = text.removeprefix(without).partition(f' "{profiles._escaped(str(runsc))}" ')
    assert re.fullmatch(r"\nprofile [A-Za-z0-9_.+-]+", head)
    assert rest == "flags=(unconfined) {\n  userns,\n}\n"


def test_a_path_is_no_pattern() -> None:
    assert profiles._escaped('/a*b"c') == '/a\\*b\\"c'


def test_the_profile_of_this_machine_names_the_script_of_the_command() -> None:
    """AppArmor goes by the path of a script, and not by its interpreter's."""
    found = profiles.host_programs(None)
    for name in ("usernsctl", "usernsctl-exec"):
        assert os.path.realpath(Path(sys.executable).with_name(name)) in found


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
def test_a_profile_of_ours_counts_for_the_program_that_it_is_named_after(
    label: str, applies: bool
) -> None:
    assert profiles.is_own_profile(label, "/opt/gvisor/runsc") is applies


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize(
    ("labels", "state", "found"),
    [
        (("a (unconfined)", "b (enforce)"), "met", "a profile is loaded for each of our programs"),
        (("unconfined", "unconfined"), "unmet", "no profile is loaded for our programs"),
        (("a (unconfined)", "unconfined"), "unmet", "no profile is loaded for /opt/program1"),
    ],
)
def test_profiles_that_are_loaded_meet_the_setting(
    restricted: bool, labels: tuple[str, ...], state: str, found: str
) -> None:
    name = "kernel.apparmor_restrict_unprivileged_userns"
    sysctls = {"kernel/apparmor_restrict_unprivileged_userns": 1 if restricted else None}
    # Whatever doctor itself runs as.
    security = dataclasses.replace(healthy().security, label="mine (unconfined)")
    facts = healthy(sysctls=sysctls, security=security)
    _, settings = examined(facts, probes(profiled(*labels)))
    shown = next(one for one in settings if one.name == name)
    assert shown.state == (state if restricted else "met")
    assert shown.found == f"{'1' if restricted else 'absent'}; {found}"


def test_facts_of_a_profile_meet_the_setting() -> None:
    name = "kernel.apparmor_restrict_unprivileged_userns"
    sysctls = {"kernel/apparmor_restrict_unprivileged_userns": 1}
    for label, state in ((None, "unmet"), ("unconfined", "unmet"), ("mine (unconfined)", "met")):
        security = dataclasses.replace(healthy().security, label=label)
        _, settings = examined(healthy(sysctls=sysctls, security=security), probes())
        assert [one.state for one in settings if one.name == name] == [state]
