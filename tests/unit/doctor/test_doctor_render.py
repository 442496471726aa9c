"""Tests of the output formats of doctor's report: text, JSON, a script and a table."""

from __future__ import annotations

import json
import subprocess
from importlib import resources
from typing import Any

import jsonschema
import pytest
from doctor_machines import (
    HELPER_WITHOUT_SETUID,
    eperm_probes,
    failed,
    healthy,
    probes,
    report_and_needs,
)

from usernsctl.doctor import render, render_rich
from usernsctl.doctor.facts import Container, Facts
from usernsctl.explain.catalogue import catalogue
from usernsctl.explain.model import Place, Probe, Purpose

BLOCKED = eperm_probes("unshare-nothing", "unshare-user")


def schema() -> Any:
    return json.loads((resources.files("usernsctl.doctor") / "schema.json").read_text())


CASES = {
    "healthy": report_and_needs(healthy(), probes()),
    "blocked": report_and_needs(healthy(helpers=HELPER_WITHOUT_SETUID), BLOCKED),
    "unknown": report_and_needs(healthy(), eperm_probes("mount")),
    "skipped": report_and_needs(healthy(), {"mount": Probe(name="mount", outcome="skipped")}),
    "pod": report_and_needs(
        healthy(container=Container(engine="kubernetes", sign="it is")), BLOCKED
    ),
    "docker": report_and_needs(healthy(), probes(), "docker"),
    "bare": report_and_needs(Facts(has_proc=False), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_json_matches_its_schema(case: str) -> None:
    value = json.loads(json.dumps(render.as_json(*CASES[case])))
    jsonschema.validate(value, schema())


def test_schema_is_valid_and_refuses_unknown_keys() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    value = render.as_json(*CASES["healthy"]) | {"more": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema())


def test_json_has_findings_and_probes_of_the_report() -> None:
    report, settings = CASES["blocked"]
    value = render.as_json(report, settings)
    assert value["ready"] is False
    assert [finding["id"] for finding in value["findings"]] == [f.id for f in report.findings]
    assert value["probes"]["unshare-user"]["error"] == "EPERM"


@pytest.mark.parametrize("case", CASES)
def test_plain_text_fits_into_80_columns(case: str) -> None:
    text = render.plain(*CASES[case])
    assert text.isascii()
    copied = {
        line.strip()
        for finding in CASES[case][0].findings
        if finding.cause
        for remedy in finding.cause.remedies.values()
        for line in remedy.split("\n")
    }
    for line in text.split("\n"):
        # Commands to copy may be longer, because they are not wrapped.
        assert len(line) <= 80 or line.strip().removeprefix("remedy").strip() in copied


def test_plain_text_says_that_a_healthy_machine_is_ready() -> None:
    text = render.plain(*CASES["healthy"])
    assert text.startswith("Ready for a command in gVisor\n\nTried:\n")
    assert "blocks" not in text


def test_plain_text_names_causes_in_order() -> None:
    text = render.plain(*CASES["blocked"])
    assert text.startswith("Not ready for a command in gVisor: 1 cause, 1 warning\n")
    first = text.index("1. seccomp-denies-userns")
    assert first < text.index("2. helper-not-setuid")
    assert "seen     unshare-nothing: Operation not permitted" in text


def test_failed_step_that_the_purpose_does_not_need_is_advice() -> None:
    probe = failed("tun", 13, "/dev/net/tun: Permission denied", "tun-missing")
    assert render.reason(probe) == "[tun-missing] /dev/net/tun: Permission denied"
    assert render.outcome(probe, "run") == "advice"
    assert render.outcome(failed("range-map", 1), "run") == "advice"
    assert render.outcome(failed("range-map", 1), "range") == "failed"
    assert render.outcome(failed("mount", 1), "run") == "failed"
    report, needs = report_and_needs(healthy(), probes(probe))
    assert "   advice  tun " in render.plain(report, needs)


@pytest.mark.parametrize(
    ("facts", "purpose", "place"),
    [
        (healthy(), "run", "host"),
        (healthy(), "docker", "docker"),
        (healthy(), "kubernetes", "kubernetes"),
        (healthy(container=Container(engine="podman")), "run", "podman"),
        (healthy(container=Container(engine="docker")), "kubernetes", "docker"),
        (healthy(container=Container(engine="other")), "run", "host"),
    ],
)
def test_remedies_are_for_the_detected_engine(facts: Facts, purpose: Purpose, place: Place) -> None:
    report, _ = report_and_needs(facts, BLOCKED, purpose)
    assert render.place(report) == place
    cause = report.findings[0].cause
    assert render.remedy(report, cause, place) == cause.remedies[place]


@pytest.mark.parametrize("case", CASES)
def test_script_has_valid_shell_syntax(case: str) -> None:
    text = render.as_script(CASES[case][0])
    assert text.startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_script_has_the_commands_for_the_engine() -> None:
    lines = iter(render.as_script(CASES["pod"][0]).split("\n"))
    assert "    cd /var/lib/kubelet/seccomp" in lines
    profile = "docker run --rm --entrypoint usernsctl IMAGE seccomp-profile >usernsctl.json"
    assert next(lines) == f"    {profile}"


@pytest.mark.parametrize("purpose", ["run", "docker", "kubernetes"])
@pytest.mark.parametrize("cause_id", sorted(catalogue()))
@pytest.mark.sampled
def test_script_executes_nothing_without_asking(cause_id: str, purpose: Purpose) -> None:
    report, _ = report_and_needs(healthy(), probes(failed("mount", cause=cause_id)), purpose)
    text = render.as_script(report)
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    lines = iter(text.splitlines())
    for line in lines:
        if line == "ask() {":
            assert "}" in lines
        elif line.startswith("if ask "):
            assert "fi" in lines
        else:
            assert not line or line.startswith(("#", "set -eu"))


def test_evidence_stays_in_comments_of_the_script() -> None:
    nasty = probes(failed("mount", 1, "x\nrm -rf /tmp/nothing\r\x1b[1mreboot\u2028halt"))
    text = render.as_script(report_and_needs(healthy(), nasty)[0])
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert commands == ["set -eu"]


@pytest.mark.parametrize("case", CASES)
def test_terminal_output_has_all_causes(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    report, settings = CASES[case]
    render_rich.show(report, settings)
    shown = capsys.readouterr().out
    assert shown.startswith(render.headline(report))
    for finding in report.findings:
        assert finding.id in shown


@pytest.mark.parametrize("case", CASES)
def test_terminal_of_80_columns_gets_all_settings(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    report, settings = CASES[case]
    render_rich.show(report, settings)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert "…" not in text
    start = next(line for line in lines if line.startswith("setting")).index("found")
    for need in settings:
        assert any(line.startswith(need.name) for line in lines)
        # The table wraps long words, so compare without spaces.
        text_of_need = need.found + ("" if need.state == "met" else f"wanted:{need.wanted}")
        found = "".join(line[start:] for line in lines)
        assert text_of_need.replace(" ", "") in found.replace(" ", "")


def test_text_has_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = probes(failed("mount", 1, "\x1b[31mred\x07\r\x9b2J"))
    report, settings = report_and_needs(healthy(), nasty)
    render_rich.show(report, settings)
    for text in (capsys.readouterr().out, render.plain(report, settings)):
        assert r"\x1b[31mred\x07" in text
        assert not any(char in text for char in "\x1b\x07\r\x9b")


def test_remedies_are_not_wrapped_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report, settings = CASES["pod"]
    render_rich.show(report, settings)
    cause = report.findings[0].cause
    lines = [line.strip() for line in capsys.readouterr().out.split("\n")]
    assert set(cause.remedies["kubernetes"].split("\n")) <= set(lines)
