"""What is given up, as far as it can be told without giving anything up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from usernsctl import _core, hardening
from usernsctl.errors import HardeningError
from usernsctl.hardening import Hardening


def test_runsc_keeps_what_it_needs_and_no_more() -> None:
    one_id, many = hardening.for_run(), hardening.for_run(ids=65537)
    assert one_id == Hardening(no_new_privs=True, bounding=hardening.RUNSC_CAPABILITIES)
    assert many.bounding == hardening.RUNSC_CAPABILITIES | hardening.FILE_CAPABILITIES
    nothing = hardening.for_run(no_new_privs=False, drop_bounding=False)
    assert nothing == Hardening()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Hardening(pdeathsig=99), "99 is no signal number"),
        (Hardening(pdeathsig=-1), "-1 is no signal number"),
        (Hardening(bounding=frozenset({"CAP_CHOWN"})), "'CAP_CHOWN' is no capability"),
        (Hardening(securebits=frozenset({"nonsense"})), "'nonsense' is no securebit"),
    ],
)
def test_unknown_names_change_nothing(wanted: Hardening, message: str) -> None:
    before = hardening.read()
    with pytest.raises(HardeningError, match=message):
        wanted.apply()
    assert hardening.read() == before


def test_a_command_to_be_started_drops_all_but_what_is_kept() -> None:
    setup = _core.Setup()
    hardening.prepare(setup, Hardening(no_new_privs=True, bounding=frozenset({"chown", "setuid"})))
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    # CHOWN and SETUID (linux/capability.h).
    assert setup.drop_bounding == (1 << last + 1) - 1 - (1 << 0) - (1 << 7)
    assert setup.no_new_privs
    with pytest.raises(HardeningError, match="'magic' is no capability"):
        hardening.prepare(setup, Hardening(bounding=frozenset({"magic"})))
    untouched = _core.Setup()
    hardening.prepare(untouched, Hardening())
    assert untouched == _core.Setup()


def test_facts_are_those_of_proc() -> None:
    facts = hardening.read()
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert facts.no_new_privs == (status["NoNewPrivs"] == "1")
    assert facts.bounding is not None
    assert len(facts.bounding) == int(status["CapBnd"], 16).bit_count()
    assert facts.pdeathsig in {0, *signal.valid_signals()}
