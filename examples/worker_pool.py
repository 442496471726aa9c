"""Eight sandboxes work through a queue: an asyncio program.

    python examples/worker_pool.py 20

Each worker is one sandbox that stays; a task is a command that is run in it.
"""

from __future__ import annotations

import asyncio
import sys

import usernsctl as un

WORKERS = 8
PYTHON = "/usr/bin/python3"
TASK = "import sys; n = int(sys.argv[1]); print(sum(i * i for i in range(n)))"


async def work(host: un.SandboxHost, queue: asyncio.Queue[int], results: dict[int, int]) -> None:
    """Start a sandbox, and run the tasks of the queue in it until there are no more."""
    async with await host.start_async(["sleep", "infinity"]) as sandbox:
        while not queue.empty():
            number = queue.get_nowait()
            command = (PYTHON, "-c", TASK, str(number))
            # If this task is cancelled, the block kills the command.
            async with await sandbox.create_subprocess_exec(*command, stdout=un.PIPE) as process:
                output, _ = await process.communicate()
            results[number] = int(output)


async def main(tasks: int) -> dict[int, int]:
    queue: asyncio.Queue[int] = asyncio.Queue()
    for number in range(tasks):
        queue.put_nowait(number)
    results: dict[int, int] = {}
    async with un.SandboxHost() as host, asyncio.TaskGroup() as group:
        for _ in range(min(WORKERS, tasks)):
            group.create_task(work(host, queue, results))
    return results


if __name__ == "__main__":
    for number, result in sorted(asyncio.run(main(int(sys.argv[1]))).items()):
        print(number, result)
