"""Commands of runsc about a running sandbox."""

from __future__ import annotations

import errno

from usernsctl.commands.popen import DEVNULL, PIPE, TimeoutExpired
from usernsctl.commands.popen import run as run_command
from usernsctl.errors import RunscError
from usernsctl.gvisor.agent_start import ENDING_SECONDS, known_end
from usernsctl.gvisor.detached import Detached
from usernsctl.gvisor.held import Held, SandboxEnded

# How long runsc may take. It asks gVisor, which does not answer where it was stopped, or where
# somebody has broken it.
_ANSWER_SECONDS = 60


def ask(life: Held | Detached, id: str, *words: str, seconds: float | None = None) -> str | None:
    """What a command of runsc prints; ``None``: the sandbox has ended.

    :param id: of the sandbox.
    :param seconds: how long it may take; by default 60.
    :raises RunscError: it failed, or took longer.
    """
    limit = _ANSWER_SECONDS if seconds is None else seconds
    try:
        with life.runsc(*words) as (command, needed), known_end(life, id):
            needed |= {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE}
            done = run_command(command, **needed, text=True, timeout=limit)
    except SandboxEnded:
        return None
    except TimeoutExpired:
        raise RunscError(
            f"runsc {words[0]} was not answered by the sandbox {id} within {limit:g} seconds",
            step="runsc",
            errno=errno.ETIMEDOUT,
            remedy="kill() and close() end it, whatever it does",
        ) from None
    if done.returncode == 0:
        return str(done.stdout)
    if life.ends_within(ENDING_SECONDS):
        return None
    raise RunscError(_last_line(done.stderr), step="runsc")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "runsc failed without a word"
