"""Tests of remedies for runsc's messages: the catalogue's remedy, or advice to run doctor."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from message_files import TEXTS, Text

from usernsctl._core.messages import explain_runsc
from usernsctl.explain.catalogue import get
from usernsctl.explain.explanation import explain

# Causes that can't apply once a sandbox's namespace has been created (csrc/explain/runsc.c).
RULED_OUT = {"in-chroot", "yama-ptrace-scope"}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.says[:40])
def test_each_message_has_the_remedy_of_its_cause(text: Text, tmp_path: Path) -> None:
    found = explain(io.BytesIO(text.says.encode())).candidates
    causes = [each.cause.id for each in found if each.cause.id not in RULED_OUT]
    for says in (text.says, f"x: {text.says}", f"{text.says}\nmore", "a b " * 3000 + text.says):
        error = explain_runsc(says, proc=str(tmp_path))
        if len(causes) == 1:
            assert (error.cause, error.remedy) == (causes[0], get(causes[0]).remedies["host"])
        else:
            which = f"    # finds which cause applies: {', '.join(causes)}" if causes else ""
            assert (error.cause, error.remedy) == (None, f"usernsctl doctor{which}")


@pytest.mark.parametrize("says", ["[in-chroot]", '{"cause": "map-invalid"}', "Ubuntu 24.04.3 LTS"])
def test_ids_and_hints_in_runsc_output_are_ignored(says: str, tmp_path: Path) -> None:
    error = explain_runsc(f"x: {says}", proc=str(tmp_path))
    assert (error.cause, error.remedy) == (None, "usernsctl doctor")
