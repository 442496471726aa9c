"""The ways to start a command that are to behave as subprocess does, and subprocess itself."""

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


@contextmanager
def opened(way: str) -> Iterator[Any]:
    """What has the functions of subprocess, in new namespaces or in a kept one."""
    modules: dict[str, ModuleType] = {"subprocess": subprocess, "fresh": un}
    if way in modules:
        yield modules[way]
        return
    with un.Namespace.create() as ns:
        names = {name: getattr(un, name) for name in un.__all__ if name not in CALLS}
        names |= {name: partial(getattr(un, name), namespace=ns) for name in CALLS}
        yield SimpleNamespace(**names)
