"""Attacks that kill a supervisor after a random delay. The command must be killed, too."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
from typing import Any

import pytest
import supervisors
from tally import Tally

PATIENCE = 20


@pytest.mark.parametrize("kind", supervisors.KINDS)
def test_hostile_kill_of_a_supervisor_leaves_its_command(
    prelude: Any, tally: Tally, kind: str
) -> None:
    supervisor = supervisors.words(kind, prelude.path)
    chance = random.Random(kind)
    for _ in range(tally.rounds(short=100, full=5000)):
        output, held = os.pipe()
        process = subprocess.Popen([*supervisor, "sleep", "1000"], stdout=held)
        os.close(held)
        select.select([output], [], [], chance.uniform(0, 0.01))
        process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP]))
        # Send SIGKILL last, because a supervisor that is PID 1 of a PID namespace may ignore
        # SIGTERM and SIGHUP.
        select.select([output], [], [], chance.uniform(0, 0.005))
        process.kill()
        process.wait()
        tally.tried()
        # End of file shows that the last process with the pipe's write end has exited.
        left = not select.select([output], [], [], PATIENCE)[0]
        os.close(output)
        if left:
            tally.succeeded("a command without its supervisor")
            return
        reap_orphans()


def reap_orphans() -> None:
    """Wait for all orphans, which have been reparented to this process, and reap them."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
