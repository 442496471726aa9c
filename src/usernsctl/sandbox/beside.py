"""Another command beside that of a sandbox: ``runsc exec``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from usernsctl import oci
from usernsctl.arguments import Args
from usernsctl.errors import CommandError
from usernsctl.sandbox import checks, environment

if TYPE_CHECKING:
    from usernsctl.sandbox.detached import Detached
    from usernsctl.sandbox.held import Held

# These would be about runsc, which is outside, and do nothing, or harm, for the command.
_REFUSED = (
    *("idmap", "namespace", "mount", "net", "pid", "ipc", "uts", "cgroup", "time", "propagation"),
    *("executable", "group", "extra_groups", "umask", "pass_fds", "in_cgroup"),
)


@contextlib.contextmanager
def command_in(
    life: Held | Detached, id: str, args: Args, options: Mapping[str, Any]
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The command of runsc that runs `args` in the sandbox `id`, to be started in the block.

    What it is to run goes through a file in memory: ``--env`` of runsc takes a comma for the end of
    a value, and everybody on the machine can read the words of a command.

    :param options: `env`, `cwd`, `user` of the command, and arguments of a Popen.
    :returns: the words, and the arguments of a Popen.
    :raises TypeError, ValueError: one of `options` can't be had here.
    :raises BundleError: something can't be in a config.json, such as text that is not UTF-8.
    :raises CommandError: the sandbox has ended.
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
    place = life.place()
    if place is None:
        raise CommandError(f"the sandbox {id} has ended", step="sandbox")
    with open(os.memfd_create("process.json", os.MFD_CLOEXEC), "wb") as file:
        file.write(json.dumps(process).encode())
        file.flush()
        yield (
            [*life.runsc, "exec", f"--process=/proc/self/fd/{file.fileno()}", id],
            {
                **arguments,
                "namespace": place,
                "env": environment.RUNSC,
                "cwd": "/",
                "pass_fds": [file.fileno()],
            },
        )


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
