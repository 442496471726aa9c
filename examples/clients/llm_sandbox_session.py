"""Session of llm-sandbox, whose commands run in gVisor.

llm-sandbox starts its launchers without the caller's PATH, so usernsctl and runsc are started by
absolute paths. The session overrides a private method of llm-sandbox.
"""

# mypy: ignore-errors

import contextlib
import shutil

from llm_sandbox.local.session import LocalProcessSession

USERNSCTL, RUNSC = shutil.which("usernsctl"), shutil.which("runsc")


class GvisorSession(LocalProcessSession):
    @contextlib.contextmanager
    def _launch_command(self, command, workdir):
        words = [USERNSCTL, "run", "--runsc", RUNSC, "--wd", workdir]
        words += ["--bind", f"{self.workspace}:{self.config.workdir}:rw"]
        words += ["--bind", f"{self.tempdir}:/tmp:rw"]
        for name, value in self._environment().items():
            words += ["--env", f"{name}={value}"]
        yield [*words, "--", "/bin/sh", "-c", command], ()
