"""The sandboxes of templates: the one that is saved, and those that go on from there."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from usernsctl._records import dataclass
from usernsctl._system.owned import Connection, socket_pair
from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.commands.keywords import check_timeout
from usernsctl.commands.popen import DEVNULL, TimeoutExpired
from usernsctl.gvisor import oci
from usernsctl.gvisor.agent import Agent, seconds_left
from usernsctl.gvisor.asking import ask
from usernsctl.gvisor.begun import Begun
from usernsctl.gvisor.decide import AGENT_INSIDE
from usernsctl.gvisor.detached import Detached
from usernsctl.gvisor.files import Files
from usernsctl.gvisor.held import Held
from usernsctl.gvisor.prepared import PreparedNamespace
from usernsctl.gvisor.sandbox import Sandbox, check_streams, chosen_id
from usernsctl.gvisor.stdio import prepared_streams
from usernsctl.gvisor.template.errors import unsavable

# How long what the agent has started may take to be gone, in seconds.
_GONE_SECONDS = 3
_LOOK_SECONDS = 0.01

# The agent's name, as far as it fits in (PR_SET_NAME(2const)): runsc lists processes by that.
_AGENT = os.path.basename(AGENT_INSIDE)[:15]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a sandbox is made of.

    :ivar config: its config.json.
    :ivar image: the directory of the image that it goes on from, by its path inside; ``None``: it
        is a new one.
    """

    host: PreparedNamespace
    args: tuple[str, ...]
    config: dict[str, Any]
    image: str | None = None


class TemplateSandbox(Sandbox):
    """A sandbox that is to be saved, or was."""

    def __init__(
        self,
        source: Source,
        *,
        id: str | None = None,
        stdin: Any = DEVNULL,
        stdout: Any = None,
        stderr: Any = None,
        detach: bool = False,
        in_cgroup: StrOrBytesPath | int | None = None,
        timeout: float | None = None,
        connect: Callable[[TemplateSandbox, Connection], None] | None = None,
    ) -> None:
        """Start it, and return when it runs: :class:`usernsctl.Sandbox` has the arguments.

        :param connect: is called when it runs, with our end of a connection to it, and takes that
            over; the other one is its standard input, in place of `stdin`.
        :raises UsernsError: it could not be started; nothing is left of it.
        """
        wanted = chosen_id(id)
        check_streams(stdin, stdout, stderr)
        check_timeout(timeout)
        self._become(wanted, source.args)

        def begin() -> None:
            files = Files(source.host, self.id, oci.serialise(source.config), source.image)
            self._files = files
            with contextlib.ExitStack() as undo:
                given = stdin
                if connect is not None:
                    ours, theirs = socket_pair()
                    undo.callback(ours.close)
                    given = undo.enter_context(theirs)
                streams = prepared_streams(given, stdout, stderr, detach)
                how = {**streams, "in_cgroup": in_cgroup}
                self._start(source.host, files, how, detach=detach, terminal=False, timeout=timeout)
                if connect is not None:
                    theirs.close()
                    connect(self, ours)
                undo.pop_all()

        self._begun = Begun(lambda: self._undone_unless_whole(begin))

    @property
    def life(self) -> Held | Detached:
        """What holds it, once it has started, and while its start comes to its end."""
        if self._life is None:
            return self._get()
        return self._life

    def adopt(self, agent: Agent) -> None:
        """Have its commands started by an agent that is its process 1."""
        self._adopt(agent)

    def end_agent(self, deadline: float) -> None:
        """End the agent, which is not process 1, and all that it has started and still runs.

        They have files of this machine open, and so can't be saved.

        :param deadline: until when, by the monotonic clock.
        :raises TimeoutExpired: that took longer.
        :raises RunscError: it does not end, or runsc is not answered by then.
        """
        self._commands.close()
        end = time.monotonic() + _GONE_SECONDS
        while any(name == _AGENT for name in self._other_processes(deadline)):
            now = time.monotonic()
            if now > deadline:
                raise TimeoutExpired(self.args, 0)
            if now > end:
                raise unsavable("what was started beside the command of the template does not end")
            time.sleep(_LOOK_SECONDS)

    def _other_processes(self, deadline: float) -> list[str]:
        """The names of the processes inside, but for process 1."""
        words = ("ps", "--format=table", self.id)
        told = ask(self.life, self.id, *words, seconds=seconds_left(deadline)) or ""
        # CMD is the last column, which others are before it differs.
        head, *lines = [line.split() for line in told.splitlines()] or [["PID"]]
        number = head.index("PID")
        return [line[-1] for line in lines if len(line) > number and line[number] != "1"]
