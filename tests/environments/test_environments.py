"""Each environment of table.py, as root makes it: what the commands do there is what is true."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from callers import as_root
from judging import faults
from table import ENVIRONMENTS

TRIAL = Path(__file__).parent / "trial.py"


@as_root
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_truth_is_told(name: str, score: Counter[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-B", TRIAL, name], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    wrong = []
    for command, answer in json.loads(done.stdout).items():
        found = list(faults(ENVIRONMENTS[name], command, answer))
        score["wrong" if found else "right"] += 1
        wrong += [f"{command}: {fault}" for fault in found]
    assert not wrong, "\n".join(wrong)
