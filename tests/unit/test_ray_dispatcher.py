"""Tests of the dispatcher of a pool on a Ray cluster, with a stand-in for Ray."""

from __future__ import annotations

import sys

from processes import capture

# Define a module `ray` whose actors start at once, and never answer a task.
STAND_IN = """
import sys, types
from concurrent.futures import Future

class ObjectRef:
    def __init__(self, *results):
        self._future = Future()
        for result in results:
            self._future.set_result(result)

    def future(self):
        return self._future

class Method:
    def __init__(self, *results):
        self._results = results

    def remote(self, *arguments):
        return ObjectRef(*self._results)

class Actor:
    start, run, close = Method("node"), Method(), Method(None)

ray = types.ModuleType("ray")
ray.ObjectRef = ObjectRef
ray.connected = True
ray.is_initialized = lambda: ray.connected
ray.exceptions = types.ModuleType("ray.exceptions")
for name in (
    "RayActorError", "NodeDiedError", "WorkerCrashedError", "OutOfMemoryError",
    "ActorUnschedulableError", "ObjectLostError", "TaskCancelledError",
):
    setattr(ray.exceptions, name, type(name, (Exception,), {}))
sys.modules |= {"ray": ray, "ray.exceptions": ray.exceptions}
"""


def test_a_task_that_is_submitted_after_a_disconnection_fails() -> None:
    code = """
import time
from usernsctl.contrib.ray.dispatcher import Dispatcher
from usernsctl.contrib.ray.tasks import check_task

task = check_task(["true"], {})
dispatcher = Dispatcher(Actor, count=1, at_once=2, retries=0, start_timeout=60)
futures = [dispatcher.submit(task)]
while not dispatcher.progress.running:
    time.sleep(0.01)
ray.connected = False
futures.append(dispatcher.submit(task))
for future in futures:
    print(future.exception(60))
dispatcher.close()
"""
    done = capture([sys.executable, "-c", STAND_IN + code])
    assert done.stderr == ""
    assert (
        done.stdout.splitlines() == ["pool: this process is disconnected from the Ray cluster"] * 2
    )
