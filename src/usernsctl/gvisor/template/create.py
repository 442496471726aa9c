"""How a template comes to be: its command is started, waited for, saved and ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from usernsctl._records import dataclass
from usernsctl._system.owned import Connection, memory_file
from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.commands.popen import DEVNULL, PIPE, TimeoutExpired
from usernsctl.commands.popen import run as run_command
from usernsctl.errors import RunscError
from usernsctl.gvisor import agent_wire as wire
from usernsctl.gvisor import checks, logs
from usernsctl.gvisor.agent import Agent, AgentGone, AgentLate, await_hello, seconds_left
from usernsctl.gvisor.agent_start import known_end
from usernsctl.gvisor.prepared import HostBase, PreparedNamespace
from usernsctl.gvisor.template import record
from usernsctl.gvisor.template.errors import not_ready, unsavable
from usernsctl.gvisor.template.image import Image
from usernsctl.gvisor.template.ready import Ready, Told
from usernsctl.gvisor.template.record import TemplateRecord
from usernsctl.gvisor.template.sandboxes import Source, TemplateSandbox

# Of what runsc says where a process has a file of this machine open.
_FILES_OPEN = "is not savable"

# How long that may be so, in seconds.
_GONE_SECONDS = 3
_LOOK_SECONDS = 0.05

# Of what older releases say.
_HOST_NETWORK = "not supported when using hostinet"

#: How long a command may take to be ready where nobody says how long, in seconds.
READY_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be started and saved.

    :ivar kind: one of :data:`usernsctl.gvisor.template.record.KINDS`.
    :ivar stdin: what it has as its standard input; ``None``: a pipe.
    :ivar wait: waits until it is ready; it is told the sandbox, what that writes, and until when.
        Returns the paths inside of further files that decide.
    """

    kind: str
    args: tuple[str, ...]
    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: tuple[int, int] | None
    timeout: float | None
    stdin: Connection | None = None
    wait: Callable[[TemplateSandbox, Told, float], list[str]]


def for_command(ready: Ready) -> Callable[[TemplateSandbox, Told, float], list[str]]:
    """What waits until a command is ready."""

    def wait(box: TemplateSandbox, told: Told, deadline: float) -> list[str]:
        ready.wait(box, told, deadline)
        return []

    return wait


def for_agent(
    ours: Connection, ready: Ready | None
) -> Callable[[TemplateSandbox, Told, float], list[str]]:
    """What waits until an agent that is process 1 is ready, and what it is to do before is done.

    :param ours: our end of the connection to it.
    """

    def wait(box: TemplateSandbox, told: Told, deadline: float) -> list[str]:
        try:
            pid = await_hello(ours, deadline)
        except AgentLate:
            raise TimeoutExpired(box.args, 0) from None
        except AgentGone:
            raise not_ready(f"the agent has ended at once: {told.last_line()}") from None
        except wire.Lie as error:
            raise not_ready(f"the agent is none: {error}") from None
        agent = Agent(ours, pid)
        box.adopt(agent)
        if ready is not None:
            ready.wait(box, told, deadline)
        return []

    return wait


def create(host: HostBase, wanted: Wanted) -> tuple[TemplateRecord, Image]:
    """Start a command, save it once it is ready, and end it.

    :raises TimeoutExpired: it was not ready in time.
    :raises RunscError: it ended before, or can't be saved.
    :raises UsernsError: as :class:`usernsctl.Sandbox` does.
    """
    seconds = READY_SECONDS if wanted.timeout is None else wanted.timeout
    deadline = time.monotonic() + seconds
    prepared = host.prepared
    try:
        config = _config(prepared, wanted)
        source = Source(host=prepared, args=wanted.args, config=config)
        # The others are pipes: nothing else comes through in all releases.
        stdin = PIPE if wanted.stdin is None else wanted.stdin.fileno()
        with TemplateSandbox(source, timeout=seconds, stdin=stdin, stdout=PIPE, stderr=PIPE) as box:
            if wanted.stdin is not None:
                wanted.stdin.close()
            told = Told(box)
            try:
                files = wanted.wait(box, told, deadline)
                if wanted.kind != "agent":
                    box.end_agent(deadline)
                image = Image(prepared)
                try:
                    _checkpoint(box, image, deadline)
                    made = _record(prepared, host, wanted, config, files)
                except BaseException:
                    image.close()
                    raise
            finally:
                told.close()
    except TimeoutExpired as expired:
        raise TimeoutExpired(wanted.args, seconds) from expired
    return made, image


def _config(prepared: PreparedNamespace, wanted: Wanted) -> dict[str, Any]:
    args = None if wanted.kind == "agent" else wanted.args
    cwd = checks.directory_inside(wanted.cwd)
    # Where its connection does not come through a restore, another agent is started beside it.
    given = prepared.config_for(args, env=wanted.env, cwd=cwd, user=wanted.user, outlives=True)
    found: dict[str, Any] = json.loads(given)
    return found


def _checkpoint(box: TemplateSandbox, image: Image, deadline: float) -> None:
    """Have runsc save a sandbox.

    Commands that an agent has started let go of their files a moment after their end is told.

    :param deadline: until when, by the monotonic clock.
    :raises TimeoutExpired: that took longer.
    :raises RunscError: it can't be saved, or has ended.
    """
    end = time.monotonic() + _GONE_SECONDS
    while True:
        status, told = _checkpoint_once(box, image, deadline)
        if status == 0:
            return
        if told is None or _FILES_OPEN not in told or time.monotonic() > end:
            raise _unsaved(told, status)
        image.clear()
        time.sleep(_LOOK_SECONDS)


def _checkpoint_once(box: TemplateSandbox, image: Image, deadline: float) -> tuple[int, str | None]:
    """Have runsc save a sandbox; its exit status, and what it says."""
    with memory_file("errors") as errors:
        log = [f"--log=/proc/self/fd/{errors.fileno()}", "--log-format=json"]
        # Compressed, it would take longer to read. And where it does not go on, its end is the end
        # of all in its PID namespace, and so of this runsc, perhaps before that has ended.
        options = [f"--image-path={image.inside}", "--compression=none", "--leave-running"]
        words = ["checkpoint", *options, box.id]
        life = box.life
        with life.runsc(*log, *words) as (command, needed), known_end(life, box.id):
            fds = [*needed["pass_fds"], errors.fileno()]
            needed = {**needed, "pass_fds": fds, "timeout": seconds_left(deadline)}
            done = run_command(command, **needed, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        return done.returncode, logs.own_failure(errors.fileno())


def _unsaved(told: str | None, status: int) -> RunscError:
    """Why a sandbox was not saved, by what runsc says."""
    if told is None:
        return unsavable(f"runsc could not save the sandbox, and ended with status {status}")
    remedy = None
    if _HOST_NETWORK in told:
        remedy = (
            "leave out network='host' (--network host), or use a release of runsc that can: "
            "those from 20260817 on do"
        )
    # The stacks of its threads follow.
    said = logs.said(told.partition("\n")[0])
    return unsavable(f"runsc could not save the sandbox: {said}", remedy)


def _record(
    prepared: PreparedNamespace,
    host: HostBase,
    wanted: Wanted,
    config: dict[str, Any],
    files: list[str],
) -> TemplateRecord:
    return TemplateRecord(
        kind=wanted.kind,
        args=wanted.args,
        version=record.version(),
        runsc=record.runsc_of(prepared),
        flags=record.flags_of(prepared),
        scratch=prepared.prepared.scratch,
        config=config,
        files=record.stamps(prepared, [*record.deciding_files(config), *files]),
        options=record.options_of(host.request),
    )
