"""Executor of smolagents that runs an agent's code in a gVisor sandbox.

    agent = CodeAgent(tools, model, executor=GvisorExecutor([], AgentLogger()))

The code can import the modules of this program's virtual environment. The environment must contain
what the agent's tools import, and numpy and Pillow, which smolagents itself imports in the sandbox.
Variables and imports persist between the steps of an agent.

The sandbox has no network. It ends when cleanup() is called, when the agent ends, or after an hour.
A step of more than five minutes ends the interpreter. Data from the sandbox are parsed as JSON, and
never unpickled.
"""

# mypy: ignore-errors

import sys

from smolagents.local_python_executor import CodeOutput
from smolagents.remote_executors import RemotePythonExecutor
from smolagents.utils import AgentError

import usernsctl as un


class GvisorExecutor(RemotePythonExecutor):
    def __init__(self, additional_imports, logger, **options):
        super().__init__(additional_imports, logger)
        self.box = un.Sandbox(None, **{"binds": [sys.prefix], "ttl": "1h", **options})
        self.python = self.box.interpreter(sys.executable)

    def run_code_raise_errors(self, code):
        done = self.python.run(code)
        if done.error and done.error.type == self.FINAL_ANSWER_EXCEPTION:
            answer = self._deserialize_final_answer(done.error.message)
            return CodeOutput(answer, done.stdout, True)
        if done.error or done.reason:
            raise AgentError(f"{done.stdout}\n{done.error or done.reason}", self.logger)
        return CodeOutput(done.text, done.stdout, False)

    def install_packages(self, additional_imports):
        return additional_imports

    def cleanup(self):
        self.python.close()
        self.box.close()
