"""Tests of GitHub workflows, issue templates and pre-commit hooks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

TREE = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((TREE / ".github" / "workflows").iterdir())
FORMS = sorted(set((TREE / ".github" / "ISSUE_TEMPLATE").iterdir()) - {
    TREE / ".github" / "ISSUE_TEMPLATE" / "config.yml"
})  # fmt: skip
# Pairs of a workflow and a job that may have write permission: only the job that publishes
# releases.
MAY_WRITE = {("release.yml", "publish")}
OWN_WORKFLOWS = "./.github/workflows/"


def read(path: Path) -> Any:
    # Use BaseLoader, which parses the key "on" as a string. Other loaders parse it as true (YAML
    # 1.1).
    return yaml.load(path.read_text(), yaml.BaseLoader)


def targets() -> set[str]:
    """Return the names of the phony targets in the Makefile."""
    text = (TREE / "Makefile").read_text().replace("\\\n", " ")
    [listed] = re.findall(r"^\.PHONY:(.*)", text, re.MULTILINE)
    return set(listed.split())


def commands(workflow: Any) -> Iterator[str]:
    """Return the commands that a workflow passes to in-debian.yml, a workflow that it calls."""
    for job in workflow["jobs"].values():
        if "with" in job:
            command = job["with"]["command"]
            matrix = re.fullmatch(r"\$\{\{ matrix\.(\w+) \}\}", command)
            yield from job["strategy"]["matrix"][matrix[1]] if matrix else [command]


def name_of(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_have_only_read_permission(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        wanted = {"contents": "write"} if (path.name, name) in MAY_WRITE else None
        assert job.get("permissions") == wanted
    assert "pull_request_target" not in workflow["on"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_actions_of_workflows_are_local_or_pinned(path: Path) -> None:
    for job in read(path)["jobs"].values():
        if "uses" in job:
            assert job["uses"].startswith(OWN_WORKFLOWS)
            assert (TREE / job["uses"]).is_file()
            continue
        assert job["timeout-minutes"].isdigit()
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
            else:
                # Allow no ${{ }} expressions in scripts, because GitHub inserts their values
                # without quoting them.
                assert "${{" not in step["run"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_call_only_public_make_targets(path: Path) -> None:
    workflow = read(path)
    called = list(commands(workflow))
    assert called or "workflow_call" in workflow["on"]
    for command in called:
        # Omit words with "=", which set variables and are not targets.
        program, *words = (word for word in command.split() if "=" not in word)
        assert program == ".ci/run" or (program == "make" and words)
        assert {*words} <= targets()


def test_release_workflow_keeps_the_results_of_release_check() -> None:
    release = read(TREE / ".github" / "workflows" / "release.yml")
    assert release["jobs"]["check"]["with"] == {
        "command": "make release-check",
        "keep": "build/release",
    }
    assert release["jobs"]["publish"]["needs"] == "check"


@pytest.mark.parametrize("path", FORMS, ids=name_of)
def test_issue_forms_are_complete(path: Path) -> None:
    form = read(path)
    assert form.keys() == {"name", "description", "body"}
    asked = [item for item in form["body"] if item["type"] != "markdown"]
    assert len({item["id"] for item in asked}) == len(asked)
    assert all(item["attributes"]["label"] for item in asked)
    assert any("usernsctl doctor --json" in item["attributes"]["label"] for item in asked)
    for item in form["body"]:
        assert item["type"] in ("markdown", "textarea", "input", "dropdown")
        assert item["attributes"].get("options") or item["type"] != "dropdown"


def test_problem_form_requires_the_output_of_doctor() -> None:
    form = read(TREE / ".github" / "ISSUE_TEMPLATE" / "problem.yml")
    [doctor] = [item for item in form["body"] if item.get("id") == "doctor"]
    assert doctor["validations"] == {"required": "true"}


def test_pre_commit_hooks_call_make_targets() -> None:
    config = read(TREE / ".pre-commit-config.yaml")
    [repository] = config["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert hooks.keys() == {"format", "lint"}
    for name, hook in hooks.items():
        assert hook["entry"] == f"make {name}"
        assert name in targets()
        assert (hook["language"], hook["pass_filenames"]) == ("system", "false")
        assert set(hook["stages"]) <= set(config["default_install_hook_types"])
