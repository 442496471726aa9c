"""Tests of examples/queue_worker.py, with a fake Redis client."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import usernsctl as un

PROGRAM = Path(__file__).parents[2] / "examples" / "queue_worker.py"


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("queue_worker", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Redis:
    """Fake Redis client with the worker's commands, for one stream with one consumer group."""

    def __init__(self, *commands: str) -> None:
        self.new = [(b"%d-0" % n, {b"command": c.encode()}) for n, c in enumerate(commands)]
        # `pending` maps the ids of delivered entries to their fields and delivery counts. `lost`
        # lists the ids of entries whose worker has died.
        self.pending: dict[bytes, tuple[dict[bytes, bytes], int]] = {}
        self.lost: list[bytes] = []
        self.results: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.calls: list[tuple[str, Any]] = []

    def xgroup_create(self, *_: Any, **__: Any) -> None:
        raise ValueError("BUSYGROUP Consumer Group name already exists")

    def xautoclaim(self, *_: Any, count: int) -> tuple[bytes, list[Any], list[Any]]:
        with self.lock:
            taken = [self.lost.pop(0) for _ in range(min(count, len(self.lost)))]
            for id in taken:
                fields, tries = self.pending[id]
                self.pending[id] = fields, tries + 1
            return b"0-0", [(id, self.pending[id][0]) for id in taken], []

    def xpending_range(self, _: str, __: str, id: bytes, *___: Any) -> list[dict[str, Any]]:
        return [{"times_delivered": self.pending[id][1]}]

    def xreadgroup(self, *_: Any, count: int, block: int) -> list[Any]:
        with self.lock:
            found, self.new = self.new[:count], self.new[count:]
            self.pending |= {id: (fields, 1) for id, fields in found}
        if not found:
            time.sleep(0.05)
        return [[b"tasks", found]] if found else []

    def pipeline(self) -> Redis:
        made = Redis()
        made.results, made.pending, made.lock = self.results, self.pending, self.lock
        return made

    def rpush(self, _: str, text: str) -> None:
        self.calls.append(("result", json.loads(text)))

    def xack(self, _: str, __: str, id: bytes) -> None:
        self.calls.append(("ack", id))

    def xdel(self, *_: Any) -> None:
        pass

    def execute(self) -> None:
        with self.lock:
            for kind, value in self.calls:
                if kind == "result":
                    self.results.append(value)
                else:
                    del self.pending[value]


def serve(worker: ModuleType, redis: Redis, host: un.SandboxHost, wanted: int) -> None:
    """Let two workers serve the queue until `wanted` results have arrived."""
    stop = threading.Event()
    queues = [worker.Queue(redis, f"worker-{number}") for number in range(2)]
    queues[0].create()
    with host.pool(2, max_uses=100) as pool:
        thread = threading.Thread(target=worker.serve, args=[queues, pool, stop])
        thread.start()
        deadline = time.monotonic() + 60
        while len(redis.results) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()
        thread.join()
    assert len(redis.results) == wanted
    assert redis.pending == {}


@pytest.mark.thorough
def test_each_task_of_a_queue_has_one_result(worker: ModuleType, host: un.SandboxHost) -> None:
    redis = Redis(*(f"echo {n}; exit {n}" for n in range(10)), "kill -9 $$", "yes")
    serve(worker, redis, host, 12)
    found = {int(one["id"].partition("-")[0]): one for one in redis.results}
    for number in range(10):
        one = found[number]
        assert (one["status"], one["output"], one["reason"]) == (number, f"{number}\n", "exited")
    assert found[10]["reason"] == "signalled"
    assert found[11]["reason"] == "output-limit"
    assert len(found[11]["output"]) <= worker.LONGEST


def test_timeout_kills_a_task_of_the_queue(
    worker: ModuleType, host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SECONDS", 1)
    redis = Redis("echo begun; sleep 1000")
    serve(worker, redis, host, 1)
    assert redis.results == [
        {"id": "0-0", "status": None, "reason": "timeout", "output": "begun\n"}
    ]


def test_tasks_of_lost_workers_are_retried(worker: ModuleType, host: un.SandboxHost) -> None:
    redis = Redis()
    for id, tries in ((b"1-0", 1), (b"2-0", worker.TRIES)):
        redis.pending[id] = {b"command": b"echo again"}, tries
        redis.lost.append(id)
    serve(worker, redis, host, 2)
    found = {one["id"]: one["reason"] for one in redis.results}
    assert found == {"1-0": "exited", "2-0": "lost"}


def test_worker_exits_if_its_queue_is_unreachable(
    worker: ModuleType, host: un.SandboxHost, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Redis):
        def xreadgroup(self, *_: Any, **__: Any) -> list[Any]:
            raise ConnectionError("no connection to Redis")

    with host.pool(1) as pool:
        queues = [worker.Queue(Broken(), str(number)) for number in range(3)]
        assert worker.serve(queues, pool, threading.Event()) == 1
    assert "queue_worker: no connection to Redis" in capsys.readouterr().err
