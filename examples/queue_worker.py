r"""A worker that takes commands from a queue in Redis, and runs each in a sandbox.

    python examples/queue_worker.py redis://127.0.0.1 8
    redis-cli XADD tasks '*' command 'echo hello'
    redis-cli BLPOP results 0

Any number of workers on any number of hosts can serve the same queue. The second argument is how
many commands a worker runs at the same time.

The queue is a Redis stream with a consumer group. A command stays in the stream until a worker has
written its result. If a worker is lost, another worker takes over its commands after two minutes.
So a command may run more than once, but at most three times. A command whose result was written
never runs again, whatever its exit status.

A result is a JSON object: the id of the task, the exit status, the output, and why the command
ended. A command has no network. It is killed after a minute, or when it has printed 64 KiB. After
SIGTERM, the worker takes no more commands, and exits when its commands have exited.

The worker requires redis-py (``pip install redis``). docs/kubernetes.md runs workers in a cluster.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterable
from typing import Any

import usernsctl as un

TASKS = "tasks"
RESULTS = "results"
GROUP = "workers"
# Timeout for a command, in seconds.
SECONDS = 60
# Timeout for waiting for a task, in seconds.
WAIT = 2
# Timeout for waiting for a free sandbox, in seconds.
PATIENCE = 60
LONGEST = 64 * 1024
TRIES = 3


class Task:
    """A task that this worker has taken from the queue.

    :ivar tries: how often the task has been tried, including this time.
    """

    def __init__(self, id: bytes, fields: dict[bytes, bytes], tries: int = 1) -> None:
        self.id = id
        self.command = fields.get(b"command", b"").decode(errors="replace")
        self.tries = tries


class Queue:
    """The queue of tasks, as seen by the consumer `name` of the workers' group.

    :param redis: a client of Redis, a ``redis.Redis``.
    """

    def __init__(self, redis: Any, name: str) -> None:
        self._redis = redis
        self._name = name

    def create(self) -> None:
        """Create the consumer group unless it exists."""
        try:
            self._redis.xgroup_create(TASKS, GROUP, id="0", mkstream=True)
        except Exception as error:
            if "BUSYGROUP" not in str(error):
                raise

    def take(self) -> Task | None:
        """Return a lost worker's task, or else a new task; None if none comes in WAIT seconds."""
        idle = 2 * SECONDS * 1000
        _, lost, *_ = self._redis.xautoclaim(TASKS, GROUP, self._name, idle, count=1)
        for id, fields in lost:
            (pending,) = self._redis.xpending_range(TASKS, GROUP, id, id, 1)
            return Task(id, fields, pending["times_delivered"])
        new = self._redis.xreadgroup(GROUP, self._name, {TASKS: ">"}, count=1, block=WAIT * 1000)
        for _, entries in new or ():
            for id, fields in entries:
                return Task(id, fields)
        return None

    def finish(self, task: Task, result: dict[str, Any]) -> None:
        """Write the result of a task and remove the task, in one transaction."""
        pipeline = self._redis.pipeline()
        pipeline.rpush(RESULTS, json.dumps({"id": task.id.decode(), **result}))
        pipeline.xack(TASKS, GROUP, task.id)
        pipeline.xdel(TASKS, task.id)
        pipeline.execute()


def run(pool: un.SandboxPool, task: Task) -> dict[str, Any] | None:
    """Run a task in a sandbox; return its result, or None if the sandbox ended before the task."""
    if task.tries > TRIES:
        return {"status": None, "reason": "lost", "output": ""}
    try:
        with pool.acquire(PATIENCE) as sandbox:
            done = sandbox.run(
                ["sh", "-c", task.command],
                stdout=un.PIPE,
                stderr=un.STDOUT,
                timeout=SECONDS,
                max_output=LONGEST,
                on_overflow="kill",
            )
    except un.TimeoutExpired as expired:
        output = expired.output or b""
        return {"status": None, "reason": "timeout", "output": output.decode(errors="replace")}
    except un.SandboxEndedError:
        return None
    except un.CommandError as error:
        return {"status": None, "reason": "start-failed", "output": str(error)}
    if done.reason == "sandbox-ended":
        return None
    output = done.stdout.decode(errors="replace")
    return {"status": done.returncode, "reason": done.reason, "output": output}


def work(queue: Queue, pool: un.SandboxPool, stop: threading.Event) -> None:
    """Take tasks from the queue and run them, until the event `stop` is set."""
    while not stop.is_set():
        task = queue.take()
        while task is not None:
            result = run(pool, task)
            if result is not None:
                queue.finish(task, result)
                break
            task.tries += 1


def serve(queues: Iterable[Queue], pool: un.SandboxPool, stop: threading.Event) -> int:
    """Serve each queue in a thread; return 1 if a thread fails, for example if Redis is down."""
    failures: list[BaseException] = []

    def serve_one(queue: Queue) -> None:
        try:
            work(queue, pool, stop)
        except Exception as error:
            # Stop all threads, so that the process exits and a supervisor starts a new process.
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=serve_one, args=[queue]) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failures:
        print(f"queue_worker: {error}", file=sys.stderr)
    return 1 if failures else 0


def main(url: str, at_once: int) -> int:
    import redis

    client = redis.Redis.from_url(url, socket_timeout=WAIT + 10)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    names = [f"{os.uname().nodename}-{os.getpid()}-{number}" for number in range(at_once)]
    queues = [Queue(client, name) for name in names]
    try:
        queues[0].create()
    except redis.RedisError as error:
        sys.exit(f"queue_worker: {url}: {error}")
    with un.SandboxHost(memory="512M", pids=64) as host, host.pool(at_once) as pool:
        return serve(queues, pool, stop)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal() or int(sys.argv[2]) < 1:
        sys.exit("usage: queue_worker.py REDIS-URL COMMANDS-AT-ONCE")
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
