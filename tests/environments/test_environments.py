"""Tests of usernsctl's commands in each environment of table.py; root creates the environments."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from callers import as_root
from control_groups import process_group, within
from judging import faults
from pairs import COUNT, REMEMBERED, SEED, draw, faults_of_pair, find
from processes import capture
from table import ENVIRONMENTS, HEALED, Environment
from trial import USERNSCTL, WORDS

TRIAL = Path(__file__).parent / "trial.py"


def trial(*words: str) -> Any:
    done = capture([sys.executable, "-B", TRIAL, *words], timeout=110)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def answers(environment: Environment) -> dict[str, Any]:
    tried = [[command] for command in environment.tried] if environment.apart else [[]]
    return {
        command: answer
        for names in tried
        for command, answer in trial(environment.name, *names).items()
    }


@as_root
@pytest.mark.parametrize("name", HEALED)
@pytest.mark.sampled(4)
def test_what_doctor_says_mends_it(name: str, score: Counter[str]) -> None:
    answer = trial(name, "heal")["heal"]
    assert (answer["status"], answer["stdout"]) == (0, "ran\n"), answer
    score["healed"] += 1


@as_root
@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.sampled(10)
def test_the_truth_is_told(name: str, score: Counter[str]) -> None:
    wrong = []
    environment = ENVIRONMENTS[name]
    for command, answer in answers(environment).items():
        found = list(faults(environment, command, answer))
        score["wrong" if found else "right"] += 1
        wrong += [f"{command}: {fault}" for fault in found]
    assert not wrong, "\n".join(wrong)


@as_root
@pytest.mark.parametrize("command", ["run", "doctor"])
@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 10, 15, 20])
@pytest.mark.sampled(3)
def test_the_limit_of_processes_of_a_control_group_is_named(most: int, command: str) -> None:
    environment = Environment(name="pids", kind="limits", run="process-limit", auto="process-limit")
    with process_group(most) as group:
        done = capture(within(group, USERNSCTL, *WORDS[command]))
    answer = {
        "status": done.returncode,
        "stdout": done.stdout,
        "stderr": done.stderr,
        "left": [],
        "mounts": True,
    }
    assert list(faults(environment, command, answer)) == []


DRAWN, IN_VAIN = draw(COUNT, SEED)


@as_root
@pytest.mark.parametrize("name", dict.fromkeys((*REMEMBERED, *DRAWN)))
@pytest.mark.sampled(4)
def test_the_truth_is_told_of_two_faults(name: str, score: Counter[str]) -> None:
    pair = find(name)
    wrong = list(faults_of_pair(pair, answers(pair)))
    score[f"pairs of seed {SEED} are {'wrong' if wrong else 'right'}"] += 1
    assert not wrong, "\n".join((f"USERNSCTL_PAIRS_SEED={SEED}", *wrong))


@as_root
def test_a_seed_gives_the_same_pairs_again(score: Counter[str]) -> None:
    assert draw(COUNT, SEED) == (DRAWN, IN_VAIN)
    assert draw(COUNT, SEED + 1)[0] != DRAWN
    for reason, count in IN_VAIN.items():
        score[f"pairs of seed {SEED} were not tried: {reason}"] += count
