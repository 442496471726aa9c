"""An asyncio program that runs many tasks in eight sandboxes.

    python examples/worker_pool.py 20

A task is a command that runs in one sandbox of a pool.
"""

from __future__ import annotations

import asyncio
import sys

import usernsctl as un

WORKERS = 8
PYTHON = "/usr/bin/python3"
TASK = "import sys; n = int(sys.argv[1]); print(sum(i * i for i in range(n)))"


async def work(pool: un.SandboxPool, number: int) -> int:
    """Run a task in the next free sandbox, and return its result."""
    command = (PYTHON, "-c", TASK, str(number))
    # If this task is cancelled, the ``async with`` block kills the command and releases the
    # sandbox.
    async with (
        pool.acquire_async() as sandbox,
        await sandbox.create_subprocess_exec(*command, stdout=un.PIPE) as process,
    ):
        output, _ = await process.communicate()
    return int(output)


async def main(tasks: int) -> dict[int, int]:
    # The tasks trust each other, so a sandbox may be reused for another task.
    async with (
        un.SandboxHost() as host,
        host.pool(WORKERS, limit=WORKERS, max_uses=100) as pool,
    ):
        return dict(enumerate(await asyncio.gather(*(work(pool, n) for n in range(tasks)))))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("usage: worker_pool.py TASKS")
    for number, result in sorted(asyncio.run(main(int(sys.argv[1]))).items()):
        print(number, result)
