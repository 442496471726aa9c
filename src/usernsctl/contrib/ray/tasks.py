"""Tasks of a pool on a Ray cluster: options, results and errors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from subprocess import CalledProcessError
from typing import Any, AnyStr, NamedTuple, TypedDict

import ray

from usernsctl.commands.arguments import (
    TEXT_ARGUMENTS,
    Args,
    StrOrBytesPath,
    check_keywords,
    check_timeout,
)
from usernsctl.errors import PoolError
from usernsctl.gvisor import checks
from usernsctl.gvisor.oci import Rlimit
from usernsctl.gvisor.output import OnOverflow
from usernsctl.gvisor.result import Result

#: The default of `max_output`, in bytes.
OUTPUT_BYTES = 16 << 20


class TaskOptions(TypedDict, total=False):
    """Keyword arguments of the methods of :class:`RayPool` that submit tasks.

    :ivar input: the standard input of the command: text with `text` or `encoding`, otherwise bytes;
        or a reference to text or bytes in Ray's object store (``ray.put``), which Ray copies to
        each node once.
    :ivar timeout: the timeout of the command in seconds, without the time in queues; by default
        ``None``, no timeout.
    :ivar check: whether an exit status other than 0 raises :class:`subprocess.CalledProcessError`.
    :ivar max_output: the maximum number of bytes of standard output, and of standard error, in the
        result: 16 MiB by default; no limit if ``None``.
    :ivar on_overflow: ``"truncate"`` (the default) to drop output beyond `max_output`, or
        ``"kill"`` to kill the command when it exceeds `max_output`.

    :meth:`usernsctl.Sandbox.run` describes the other arguments.
    """

    input: Any
    timeout: float | None
    check: bool
    text: bool | None
    encoding: str | None
    errors: str | None
    max_output: int | None
    on_overflow: OnOverflow
    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: str | tuple[int, int] | None
    groups: Iterable[int] | None
    rlimits: Iterable[Rlimit | str] | None


class RayResult(Result[AnyStr]):
    """The result of a task, a :class:`usernsctl.Result`.

    :ivar str node: the id of the cluster node that ran the command, in hexadecimal.
    :ivar int attempts: the number of times that the task was sent to an actor.
    """

    node: str = ""
    attempts: int = 1


class NodeLostError(PoolError):
    """A task has no result because the nodes or actors that ran it were lost.

    On each lost node, the command may have run, even to its end.
    """


class Progress(NamedTuple):
    """A snapshot of the numbers of tasks and actors of a pool.

    :ivar queued: the number of tasks that wait for an actor.
    :ivar running: the number of tasks that were sent to an actor and have no result yet.
    :ivar done: the number of tasks with a result, whatever the exit status.
    :ivar failed: the number of tasks that ended with an exception.
    :ivar cancelled: the number of tasks that were cancelled.
    :ivar retried: the number of retries of tasks.
    :ivar actors: the number of actors that are ready.
    """

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    actors: int = 0


class Spec(NamedTuple):
    """The checked arguments of a task.

    :ivar args: the command as the caller passed it, for the result.
    :ivar options: the options of ``Sandbox.run``, without `input` and `check`.
    """

    args: Args
    argv: tuple[str, ...]
    input: Any
    check: bool
    options: dict[str, Any]


def check_task(args: Args, options: Mapping[str, Any]) -> Spec:
    """Check and return the arguments of a task, as far as possible without a sandbox host.

    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises ValueError: an argument has an invalid value.
    :raises CommandError: `cwd` is relative.
    """
    check_keywords("submit", options, TaskOptions.__annotations__)
    argv = checks.argv(args)
    if not argv:
        raise ValueError("args is empty: args must contain a command")
    wanted = {"max_output": OUTPUT_BYTES, **options}
    check_timeout(wanted.get("timeout"))
    if wanted["max_output"] is not None:
        checks.count("max_output", wanted["max_output"], 0)
    if wanted.get("env") is not None:
        wanted["env"] = checks.variables(wanted["env"])
    if wanted.get("cwd") is not None:
        wanted["cwd"] = checks.directory_inside(wanted["cwd"])
    if wanted.get("user") is not None:
        checks.user_of(wanted["user"])
    if wanted.get("groups") is not None:
        wanted["groups"] = checks.gids(wanted["groups"])
    if wanted.get("rlimits") is not None:
        wanted["rlimits"] = list(wanted["rlimits"])
    given = wanted.pop("input", None)
    if not isinstance(given, ray.ObjectRef):
        check_input(given, wanted)
    return Spec(args, argv, given, bool(wanted.pop("check", False)), wanted)


def check_input(given: Any, options: Mapping[str, Any]) -> None:
    """Check the standard input of a task.

    :param options: the options of the task; they determine whether the input is text or bytes.
    :raises TypeError: the input has the wrong type.
    """
    is_text = any(options.get(name) for name in TEXT_ARGUMENTS)
    if given is not None and not isinstance(given, str if is_text else bytes):
        kind = "text" if is_text else "bytes, unless text=True is given"
        raise TypeError(f"input must be {kind}, not {type(given).__name__}")


def finished(spec: Spec, found: Result[Any], node: str, attempts: int) -> RayResult[Any]:
    """Return the result of a task as the caller receives it.

    :raises CalledProcessError: the task had ``check=True``, and the exit status is not 0.
    """
    result = RayResult[Any](spec.args, found.returncode, found.stdout, found.stderr)
    vars(result).update(vars(found), args=spec.args, node=node, attempts=attempts)
    if spec.check and result.returncode:
        error = CalledProcessError(result.returncode, spec.args, result.stdout, result.stderr)
        error.add_note(f"reason: {result.reason}; node: {node}")
        raise error
    return result


def last_line(error: BaseException) -> str:
    """Return the last line of an exception's text; Ray's exceptions begin with a traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def describe_command(argv: tuple[str, ...]) -> str:
    """Return the command line, cut to a limited length, for messages."""
    text = " ".join(map(os.fsdecode, argv))
    return text if len(text) <= 60 else f"{text[:57]}..."
