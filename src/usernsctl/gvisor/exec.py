"""Another command beside that of a sandbox: ``runsc exec``."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from usernsctl.commands.arguments import Args
from usernsctl.commands.popen import Popen
from usernsctl.errors import NamespaceError
from usernsctl.gvisor import checks, logs, oci
from usernsctl.gvisor.detached import Detached
from usernsctl.gvisor.held import Held, SandboxEnded

# These would be about runsc, which is outside, and do nothing, or harm, for the command.
_REFUSED = (
    *("idmap", "namespace", "mount", "net", "pid", "ipc", "uts", "cgroup", "time", "propagation"),
    *("executable", "group", "extra_groups", "umask", "pass_fds", "in_cgroup"),
)


# How long after a failure of runsc the end of a sandbox is taken for its reason, in seconds: from
# the end of its command to its own, it answers no more.
ENDING_SECONDS = 1

# What ``runsc exec`` says if it can't tell how a command ended that it had started.
LOST = "waiting on pid"


@contextlib.contextmanager
def command_in(
    life: Held | Detached, id: str, args: Args, options: Mapping[str, Any]
) -> Iterator[tuple[list[str], dict[str, Any], Callable[[], str | None]]]:
    """The command of runsc that runs `args` in the sandbox `id`, to be started in the block.

    What it is to run goes through a file in memory: ``--env`` of runsc takes a comma for the end of
    a value, and everybody on the machine can read the words of a command.

    :param options: `env`, `cwd`, `user` of the command, and arguments of a Popen.
    :returns: the words, the arguments of a Popen, and what tells afterwards why runsc failed, if it
        was not the command that did.
    :raises TypeError: one of `options` can't be had here.
    :raises ValueError: likewise.
    :raises BundleError: something can't be in a config.json, such as text that is not UTF-8.
    :raises SandboxEnded: it has ended.
    """
    refused = [name for name in _REFUSED if name in options]
    if refused:
        raise ValueError(
            f"{', '.join(refused)}: this can't be had for a command in a sandbox; "
            "env, cwd and user can"
        )
    arguments = dict(options)
    process = _process(
        life,
        args,
        arguments.pop("env", None),
        arguments.pop("cwd", None),
        arguments.pop("user", None),
    )
    with (
        open(os.memfd_create("process.json", os.MFD_CLOEXEC), "wb") as file,
        open(os.memfd_create("errors", os.MFD_CLOEXEC), "wb") as errors,
    ):
        file.write(json.dumps(process).encode())
        file.flush()
        log = [f"--log=/proc/self/fd/{errors.fileno()}", "--log-format=json"]
        process_file = f"--process=/proc/self/fd/{file.fileno()}"
        with life.runsc(*log, "exec", process_file, id) as (command, needed), known_end(life, id):
            fds = [*needed["pass_fds"], file.fileno(), errors.fileno()]
            told = functools.partial(logs.own_failure, errors.fileno())
            yield command, {**arguments, **needed, "pass_fds": fds}, told


@contextlib.contextmanager
def known_end(life: Held | Detached, id: str) -> Iterator[None]:
    """Say that the sandbox has ended where that is why nothing could be started in the block.

    In a PID namespace without process 1 there is no memory for another one (ENOMEM,
    pid_namespaces(7)).

    :raises SandboxEnded: so it was.
    """
    try:
        yield
    except NamespaceError as error:
        if not life.ends_within(ENDING_SECONDS):
            raise
        raise SandboxEnded.of(id) from error


def _process(life: Held | Detached, args: Args, env: Any, cwd: Any, user: Any) -> dict[str, Any]:
    """The ``process`` of the OCI runtime specification; what is left out is as for the first."""
    words = checks.words(args)
    if not words:
        raise ValueError("args is empty: it must hold a command")
    uid, gid = (0, 0) if user is None else checks.user_ids(user)
    process: dict[str, Any] = {
        "args": list(words),
        "user": {"uid": uid, "gid": gid},
        # The specification wants it, and so does runsc since it looks.
        "cwd": "/" if cwd is None else checks.path("cwd", cwd),
    }
    added = checks.variables(env)
    kept = [entry for entry in life.env if entry.partition("=")[0] not in added]
    process["env"] = [*kept, *(f"{name}={value}" for name, value in added.items())]
    oci.validate({"process": process, "root": {"path": "/"}})
    return process


def note(arguments: Mapping[str, Any]) -> Callable[[Popen[Any]], None]:
    """What notes a command that was started with `arguments` as one to be collected at the end."""
    commands: Callable[[Popen[Any]], None] = arguments["namespace"].commands.add
    return commands
