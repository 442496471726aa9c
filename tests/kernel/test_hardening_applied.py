"""Tests of hardening: each test applies restrictions to a new process."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import pytest
from processes import capture

pytestmark = pytest.mark.also_root

SCRIPT = """
import json, sys
from usernsctl import IdMap, enter, hardening
from usernsctl.errors import HardeningError
enter(IdMap.root())
wanted = json.loads(sys.argv[1])
for name in ("bounding", "securebits"):
    if wanted.get(name) is not None:
        wanted[name] = frozenset(wanted[name])
try:
    for _ in range(int(sys.argv[2])):
        hardening.Hardening(**wanted).apply()
except HardeningError as error:
    print(json.dumps(str(error)))
else:
    status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines()
                  if line.count(":\\t") == 1)
    facts = hardening.read()
    print(json.dumps({
        "no_new_privs": status["NoNewPrivs"], "bounding": status["CapBnd"],
        "dumpable": facts.dumpable, "pdeathsig": facts.pdeathsig,
        "securebits": sorted(facts.securebits),
    }))
"""


def applied(times: int = 1, **wanted: Any) -> Any:
    """Apply the hardening `wanted` to a new process; return the process's restrictions."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(wanted), str(times)]
    done = capture(command)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_new_privs() -> None:
    assert applied(no_new_privs=True)["no_new_privs"] == "1"


def test_dumpable() -> None:
    assert applied(dumpable=False)["dumpable"] is False
    assert applied(dumpable=True)["dumpable"] is True


def test_pdeathsig() -> None:
    assert applied(pdeathsig=signal.SIGTERM)["pdeathsig"] == signal.SIGTERM


@pytest.mark.parametrize("times", [1, 2])
def test_the_bounding_set_is_reduced(times: int) -> None:
    facts = applied(times, bounding=["chown", "sys_admin"])
    assert int(facts["bounding"], 16) == 1 << 0 | 1 << 21
    assert int(applied(times, bounding=[])["bounding"], 16) == 0


def test_securebits_are_added() -> None:
    assert applied(2, securebits=["noroot", "noroot_locked"])["securebits"] == [
        "noroot",
        "noroot_locked",
    ]


def test_changing_a_locked_securebit_is_reported() -> None:
    """Check that the error names the securebits if a securebit that has to change is locked."""
    script = SCRIPT.replace(
        "try:", 'hardening.Hardening(securebits=frozenset({"noroot_locked"})).apply()\ntry:', 1
    )
    wanted = json.dumps({"securebits": ["noroot"]})
    done = capture([sys.executable, "-c", script, wanted, "1"])
    assert "securebits: Operation not permitted" in json.loads(done.stdout)
