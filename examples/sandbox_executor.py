"""An executor (concurrent.futures) that runs tasks in sandboxes.

    python examples/sandbox_executor.py

As with a ProcessPoolExecutor, a task is a function of a module that the sandbox can import.
Arguments and results are transferred as JSON: the output of a sandbox must not be unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import usernsctl as un

PYTHON = "/usr/bin/python3"
RUNNER = """
import importlib, json, sys
module, name, arguments = json.load(sys.stdin)
json.dump(getattr(importlib.import_module(module), name)(*arguments), sys.stdout)
"""


class TaskError(Exception):
    """Error for a failed task. The message is the task's standard error."""


class SandboxExecutor(Executor):
    """An executor that runs each task in a new sandbox, at most `max_workers` at the same time."""

    def __init__(self, max_workers: int) -> None:
        self._host = un.SandboxHost()
        self._pool = self._host.pool(max_workers)
        self._threads = ThreadPoolExecutor(max_workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if kwargs:
            raise TypeError("a task takes only positional arguments")
        task = json.dumps([fn.__module__, fn.__qualname__, args]).encode()
        return self._threads.submit(self._run, task)

    def _run(self, task: bytes) -> Any:
        with self._pool.acquire() as sandbox:
            done = sandbox.run([PYTHON, "-c", RUNNER], input=task, capture_output=True)
        if done.returncode != 0:
            raise TaskError(done.stderr.decode(errors="replace").strip())
        return json.loads(done.stdout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._pool.close()
            self._host.close()


if __name__ == "__main__":
    import math
    import platform

    with SandboxExecutor(max_workers=4) as executor:
        for number, root in enumerate(executor.map(math.isqrt, [4, 10, 100])):
            print(number, root)
        print(executor.submit(platform.release).result())
