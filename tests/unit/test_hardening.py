"""Tests of usernsctl.hardening that do not change the test process."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from callers import as_root
from processes import capture, check_output

from usernsctl import _core, hardening
from usernsctl.errors import HardeningError
from usernsctl.hardening import Hardening

pytestmark = pytest.mark.also_root


def test_runsc_keeps_only_the_capabilities_that_it_needs() -> None:
    one_id, many = hardening.for_run(), hardening.for_run(ids=65537)
    assert one_id == Hardening(no_new_privs=True, bounding=hardening.RUNSC_CAPABILITIES)
    assert many.bounding == hardening.RUNSC_CAPABILITIES | hardening.FILE_CAPABILITIES
    nothing = hardening.for_run(no_new_privs=False, drop_bounding=False)
    assert nothing == Hardening()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Hardening(pdeathsig=99), "99 is not a signal number"),
        (Hardening(pdeathsig=-1), "-1 is not a signal number"),
        (Hardening(bounding=frozenset({"CAP_CHOWN"})), "'CAP_CHOWN' is not a capability"),
        (Hardening(securebits=frozenset({"nonsense"})), "'nonsense' is not a securebit"),
    ],
)
def test_invalid_hardening_raises_and_changes_nothing(wanted: Hardening, message: str) -> None:
    before = hardening.read()
    with pytest.raises(HardeningError, match=message):
        wanted.apply()
    assert hardening.read() == before


def test_prepare_drops_all_other_bounding_capabilities() -> None:
    setup = _core.Setup()
    hardening.prepare(setup, Hardening(no_new_privs=True, bounding=frozenset({"chown", "setuid"})))
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    # CAP_CHOWN is capability 0, and CAP_SETUID is capability 7 (linux/capability.h).
    assert setup.drop_bounding == (1 << last + 1) - 1 - (1 << 0) - (1 << 7)
    assert setup.no_new_privs
    with pytest.raises(HardeningError, match="'magic' is not a capability"):
        hardening.prepare(setup, Hardening(bounding=frozenset({"magic"})))
    untouched = _core.Setup()
    hardening.prepare(untouched, Hardening())
    assert untouched == _core.Setup()


@as_root
def test_capability_names_do_not_depend_on_cap_last_cap(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    script = (
        f"mount --bind {empty} /proc/sys/kernel/cap_last_cap\n"
        f"exec {sys.executable} -c 'from usernsctl import hardening; print(*hardening.names())'"
    )
    done = capture(["unshare", "--mount", "sh", "-ec", script])
    assert sorted(done.stdout.split()) == sorted(hardening.names()), done.stderr


def test_hardening_is_read_as_in_proc_status() -> None:
    facts = hardening.read()
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert facts.no_new_privs == (status["NoNewPrivs"] == "1")
    assert facts.bounding is not None
    assert len(facts.bounding) == int(status["CapBnd"], 16).bit_count()
    assert facts.pdeathsig in {0, *signal.valid_signals()}


def test_missing_python_prctl_raises_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prctl", None)
    for use in (hardening.read, Hardening(no_new_privs=True).apply):
        with pytest.raises(HardeningError, match="python-prctl can't be imported") as caught:
            use()
        assert caught.value.remedy.startswith("apt-get install libcap-dev gcc")


# Program that uses functions and subcommands that need no python-prctl. The program must not import
# python-prctl.
USES = """
import sys
sys.modules["prctl"] = None
import usernsctl as un
import usernsctl.pytest_plugin, usernsctl.hardening
assert un.run(["id", "-u"], capture_output=True, text=True).stdout == "0\\n"
with un.Namespace.create(mount=True) as namespace:
    namespace.run(["true"], check=True)
un.diagnose("range", runsc=False)
usernsctl.hardening.names()
usernsctl.hardening.prepare(usernsctl._core.Setup(), usernsctl.hardening.for_run())
from usernsctl.cli import main
sys.exit(main(["plan", "-r", "--json"]))
"""


@pytest.mark.userns_requires("userns")
def test_verbs_do_not_import_python_prctl() -> None:
    check_output([sys.executable, "-c", USES])
