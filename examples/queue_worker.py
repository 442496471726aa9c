r"""A worker that takes commands from a queue in Redis, and runs each in a sandbox.

    python examples/queue_worker.py redis://127.0.0.1 8
    redis-cli XADD tasks '*' command 'echo hello'
    redis-cli BLPOP results 0

Any number of workers, on any number of machines, serve the same queue; each runs as many commands
at a time as its second argument says. The queue is a stream of Redis, with a consumer group: a
command stays in the stream until a worker has written its result. If a worker is lost, another one
takes the command over after two minutes. So a command may run more than once, but at most three
times, and never again after it has ended by itself, whatever its exit status.

A result is a JSON object with the id of the task, the exit status, the output and the reason of the
end. A command has no network. It is killed after a minute, or when it has printed 64 KiB. After
SIGTERM, the worker takes no more commands, and ends when those that it has taken have ended.

It needs redis-py (``pip install redis``). docs/kubernetes.md runs it in a cluster.
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
# The time limits of a command, of a wait for a task, and of a wait for a free sandbox, in seconds.
SECONDS = 60
WAIT = 2
PATIENCE = 60
LONGEST = 64 * 1024
TRIES = 3


class Task:
    """A task of the queue, which this worker has taken.

    :ivar tries: the number of workers that have taken the task, this one included.
    """

    def __init__(self, id: bytes, fields: dict[bytes, bytes], tries: int = 1) -> None:
        self.id = id
        self.command = fields.get(b"command", b"").decode(errors="replace")
        self.tries = tries


class Queue:
    """The queue, as the consumer `name` of its group sees it.

    :param redis: a client of Redis, a ``redis.Redis``.
    """

    def __init__(self, redis: Any, name: str) -> None:
        self._redis = redis
        self._name = name

    def create(self) -> None:
        """Create the consumer group, unless there is one."""
        try:
            self._redis.xgroup_create(TASKS, GROUP, id="0", mkstream=True)
        except Exception as error:
            if "BUSYGROUP" not in str(error):
                raise

    def take(self) -> Task | None:
        """Return a task of a lost worker, or the next new one, or None after WAIT seconds."""
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
        """Write the result of a task and remove the task, both or neither."""
        pipeline = self._redis.pipeline()
        pipeline.rpush(RESULTS, json.dumps({"id": task.id.decode(), **result}))
        pipeline.xack(TASKS, GROUP, task.id)
        pipeline.xdel(TASKS, task.id)
        pipeline.execute()


def run(pool: un.SandboxPool, task: Task) -> dict[str, Any] | None:
    """Run a task in a sandbox, and return its result; None if the sandbox has ended first."""
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
    """Take tasks and run them until `stop` is set."""
    while not stop.is_set():
        task = queue.take()
        while task is not None:
            result = run(pool, task)
            if result is not None:
                queue.finish(task, result)
                break
            task.tries += 1


def serve(queues: Iterable[Queue], pool: un.SandboxPool, stop: threading.Event) -> int:
    """Serve each queue in a thread; return 1 if a thread has failed, such as without Redis."""
    failures: list[BaseException] = []

    def serve_one(queue: Queue) -> None:
        try:
            work(queue, pool, stop)
        except Exception as error:
            # Exit, so that a supervisor starts another process.
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
