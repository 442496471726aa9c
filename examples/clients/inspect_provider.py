"""Provider of gVisor sandboxes for evaluations with inspect_ai.

    inspect eval task.py --sandbox usernsctl

Each sample has its own sandbox, which contains the host's programs and has no network. Commands run
in /tmp as an ordinary user; the user root can add accounts and install packages. All changes are
stored in memory. Import this module in the file of the task.
"""

# mypy: ignore-errors

import asyncio

from inspect_ai.util import ExecResult, OutputLimitExceededError, SandboxEnvironment, sandboxenv
from inspect_ai.util import SandboxEnvironmentLimits as Limits

import usernsctl as un


@sandboxenv(name="usernsctl")
class GvisorSandbox(SandboxEnvironment):
    @classmethod
    async def sample_init(cls, task_name, config, metadata):
        made = cls()
        made.box = await un.Sandbox.create_async(
            None, cwd="/tmp", user=(1000, 1000), writable_root=True, memory="2g", pids=500
        )
        return {"default": made}

    @classmethod
    async def sample_cleanup(cls, task_name, config, environments, interrupted):
        await environments["default"].box.close_async()

    async def exec(
        self, cmd, input=None, *, timeout=None, timeout_retry=True, concurrency=True, **options
    ):
        try:
            done = await asyncio.wait_for(
                self.box.run_async(
                    cmd,
                    input=input.encode() if isinstance(input, str) else input,
                    capture_output=True,
                    max_output=Limits.MAX_EXEC_OUTPUT_SIZE,
                    **options,
                ),
                timeout,
            )
        except (un.CommandNotFoundError, un.UserUnknownError) as error:
            return ExecResult(False, error.exit_status, "", str(error))
        return ExecResult(
            done.exit_status == 0,
            done.exit_status,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    async def write_file(self, file, contents):
        await self.box.write_file_async(
            file, contents.encode() if isinstance(contents, str) else contents, parents=True
        )

    async def read_file(self, file, text=True):
        try:
            data = await self.box.read_file_async(file, max_bytes=Limits.MAX_READ_FILE_SIZE)
        except un.SandboxFileTooLargeError as error:
            raise OutputLimitExceededError(Limits.MAX_READ_FILE_SIZE_STR, None) from error
        return data.decode() if text else data
