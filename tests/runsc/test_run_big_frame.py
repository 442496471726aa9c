"""Tests of usernsctl.bigframe, which avoids mmap(2) calls because they are slow in gVisor."""

from __future__ import annotations

import sys
from pathlib import Path

from conftest import Program

from usernsctl import bigframe

LAUNCHER = Path(bigframe.__file__)
CROSSINGS = Path(__file__).parents[1] / "crossings.py"


def test_bigframe_avoids_mmap_at_every_call_depth(usernsctl: Program) -> None:
    interpreter = Path(sys.executable)
    shown = [LAUNCHER, CROSSINGS, interpreter.parent.parent]
    if not interpreter.resolve().is_relative_to("/usr"):
        shown.append(interpreter.resolve().parent.parent)
    binds = [word for path in shown for word in ("--bind", str(path))]

    def run(*args: str | Path) -> str:
        return usernsctl.check_output("run", *binds, "--", interpreter, *args)

    look = "import runpy, sys; print(runpy.run_path(sys.argv[1])['thrashes']())"
    thrashes = run("-c", look, LAUNCHER) == "True\n"
    assert (int(run(CROSSINGS)) > 0) == thrashes
    assert run(LAUNCHER, CROSSINGS) == "0\n"
    assert run(LAUNCHER, "-c", look, LAUNCHER) == "False\n"
