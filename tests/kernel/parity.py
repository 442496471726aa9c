"""Wrappers of subprocess and of the APIs that must behave like subprocess.

Tests run with each wrapper. A wrapper has the names that the module subprocess has, such as run,
Popen and PIPE.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import usernsctl as un

WAYS = ["subprocess", "fresh", "kept"]
CALLS = ["Popen", "run", "call", "check_call", "check_output"]
# Name of the API of sandboxes, which only tests in tests/runsc use.
SANDBOX = "sandbox"


@contextmanager
def opened(way: str) -> Iterator[Any]:
    """Yield an object with functions that run commands by the API `way`.

    "subprocess" is the module itself, "fresh" the module usernsctl, "kept" an open Namespace, and
    SANDBOX a sandbox.
    """
    modules: dict[str, ModuleType] = {"subprocess": subprocess, "fresh": un}
    if way in modules:
        yield modules[way]
        return
    if way == SANDBOX:
        with (
            un.SandboxHost(expose_root=True) as host,
            host.start(["sleep", "1000"], stdout=un.DEVNULL, stderr=un.DEVNULL) as box,
        ):
            yield of_sandbox(box)
        return
    with un.Namespace.create() as ns:
        names = {name: getattr(un, name) for name in un.__all__ if name not in CALLS}
        names |= {name: partial(getattr(un, name), namespace=ns) for name in CALLS}
        yield SimpleNamespace(**names)


def of_sandbox(box: un.Sandbox) -> Any:
    """Return an object with the functions of subprocess that run commands in `box`."""

    def call(args: Any, **options: Any) -> int:
        return box.run(args, **options).returncode

    def check_call(args: Any, **options: Any) -> int:
        return box.run(args, check=True, **options).returncode

    names = {name: getattr(un, name) for name in un.__all__ if name not in CALLS}
    ways = {"Popen": box.popen, "run": box.run, "check_output": box.check_output}
    return SimpleNamespace(**names, **ways, call=call, check_call=check_call)
