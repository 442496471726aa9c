"""Executor of smolagents that runs the code of an agent in a gVisor sandbox.

    agent = CodeAgent(tools, model, executor=GvisorExecutor([], AgentLogger()))

The code can import what the program itself can import from its virtual environment, which must have
the packages that the agent's tools require: numpy and pillow. The sandbox has no network. It ends
after an hour, with the agent, or by cleanup(). Variables and imports stay between the steps of the
agent. Answers of the sandbox are JSON and never unpickled.
"""

# mypy: ignore-errors

import json
import sys

from smolagents.local_python_executor import CodeOutput
from smolagents.remote_executors import RemotePythonExecutor
from smolagents.utils import AgentError

import usernsctl as un

LONGEST = 1 << 20
INTERPRETER = """
import contextlib, io, json, sys
names = {"__name__": "__main__"}
for line in sys.stdin:
    final = error = None
    with contextlib.redirect_stdout(io.StringIO()) as logs:
        try:
            exec(json.loads(line), names)
        except BaseException as caught:
            final, error = getattr(caught, "value", None), repr(caught)
    print(json.dumps([logs.getvalue(), final, error]), flush=True)
"""


class GvisorExecutor(RemotePythonExecutor):
    def __init__(self, additional_imports, logger, **options):
        super().__init__(additional_imports, logger)
        command = [sys.executable, "-c", INTERPRETER]
        options = {"binds": [sys.prefix], "ttl": "1h", **options}
        self.box = un.Sandbox(command, stdin=un.PIPE, stdout=un.PIPE, **options)

    def run_code_raise_errors(self, code):
        self.box.stdin.write(json.dumps(code).encode() + b"\n")
        self.box.stdin.flush()
        try:
            logs, final, error = json.loads(self.box.stdout.readline(LONGEST))
        except ValueError:
            raise AgentError("the sandbox has ended, or wrote too much", self.logger) from None
        if isinstance(final, str) and final.startswith("safe:"):
            return CodeOutput(self._deserialize_final_answer(final), logs, True)
        if error is not None:
            raise AgentError(f"{logs}\n{error}", self.logger)
        return CodeOutput(None, logs, False)

    def install_packages(self, additional_imports):
        return additional_imports

    def cleanup(self):
        self.box.close()
