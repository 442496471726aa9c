"""Tests of the commands in each environment of table.py, which root sets up."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from callers import as_root
from judging import faults
from processes import capture
from table import ENVIRONMENTS, HEALED

TRIAL = Path(__file__).parent / "trial.py"


def trial(*words: str) -> Any:
    done = capture([sys.executable, "-B", TRIAL, *words], timeout=110)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@as_root
@pytest.mark.parametrize("name", HEALED)
def test_what_doctor_says_mends_it(name: str, score: Counter[str]) -> None:
    answer = trial(name, "heal")["heal"]
    assert (answer["status"], answer["stdout"]) == (0, "ran\n"), answer
    score["healed"] += 1


@as_root
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_truth_is_told(name: str, score: Counter[str]) -> None:
    wrong = []
    environment = ENVIRONMENTS[name]
    tried = [[command] for command in environment.tried] if environment.apart else [[]]
    for command, answer in (item for names in tried for item in trial(name, *names).items()):
        found = list(faults(environment, command, answer))
        score["wrong" if found else "right"] += 1
        wrong += [f"{command}: {fault}" for fault in found]
    assert not wrong, "\n".join(wrong)
