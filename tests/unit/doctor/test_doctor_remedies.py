"""Remedies are filled in from what is known of this machine."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from doctor_machines import examined, failed, healthy, probes

from usernsctl import profiles
from usernsctl.doctor import render
from usernsctl.doctor.facts import Facts, Helper, Runsc, Subordinate
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
    ],
)
def test_what_is_free_is_behind_all_that_is_granted(
    tmp_path: Path, subuid: str, subgid: str, free: int | None
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "subuid").write_text(subuid)
    (tmp_path / "etc" / "subgid").write_text(subgid)
    assert read_facts(str(tmp_path), {}).subordinate.free == free


def test_paths_can_be_pasted() -> None:
    helper = Helper(path="/a b/newuidmap", mode=0o755, owner=5)
    facts = healthy(helpers={**healthy().helpers, "newuidmap": helper})
    text = remedy_of(facts, failed("range-map", cause="helper-not-setuid"))
    assert text == "chown root:root '/a b/newuidmap'\nchmod 4755 '/a b/newuidmap'"


def test_a_runsc_that_is_there_is_named() -> None:
    facts = healthy(runsc=Runsc(cause="runsc-not-executable", refused="/opt/runsc"))
    report, _ = examined(facts, probes())
    cause = report.findings[0].cause
    assert cause is not None
    assert render.remedy(report, cause, "host") == "chmod a+rx /opt/runsc"


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


def test_a_path_is_no_pattern() -> None:
    assert profiles._escaped('/a*b"c') == '/a\\*b\\"c'


def test_facts_of_a_profile_meet_the_setting() -> None:
    name = "kernel.apparmor_restrict_unprivileged_userns"
    sysctls = {"kernel/apparmor_restrict_unprivileged_userns": 1}
    for label, state in ((None, "unmet"), ("unconfined", "unmet"), ("mine (unconfined)", "met")):
        security = dataclasses.replace(healthy().security, label=label)
        _, settings = examined(healthy(sysctls=sysctls, security=security), probes())
        assert [one.state for one in settings if one.name == name] == [state]
