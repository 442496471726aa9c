"""A pool of sandboxes on the nodes of a Ray cluster."""

from __future__ import annotations

import itertools
import os
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NoReturn, Unpack

import ray

from usernsctl.commands.arguments import Args, StrOrBytesPath, check_keywords
from usernsctl.commands.async_start import ClosingMixin
from usernsctl.contrib.ray.actor import SandboxActor
from usernsctl.contrib.ray.dispatcher import CLOSED, Dispatcher
from usernsctl.contrib.ray.tasks import Progress, RayResult, TaskOptions, check_task
from usernsctl.contrib.ray.template_files import TemplateFiles
from usernsctl.errors import PoolError
from usernsctl.gvisor import checks
from usernsctl.gvisor.sandbox.host_namespace import HostOptions
from usernsctl.gvisor.template.template import Template

#: The custom Ray resource that a node offers. An actor takes one unit for each of its sandboxes.
RESOURCE = "sandboxes"

# The number of tasks that are sent to an actor for each of its sandboxes: one to run, and one to
# start as soon as the sandbox becomes free.
_TASKS_PER_SANDBOX = 2

#: The default of `start_timeout`, in seconds.
START_SECONDS = 120.0

_Outcome = RayResult[Any] | Exception
_OnProgress = Callable[[Progress], object]


class RayPool(ClosingMixin):
    """A pool of sandboxes for commands, on the nodes of a Ray cluster.

    Each node offers a number of sandboxes: ``ray start --resources='{"sandboxes": 8}'``. The pool
    starts actors (:class:`SandboxActor`) on the nodes, and replaces actors that exit. Each actor
    has a number of sandboxes. The caller must be connected to the cluster (``ray.init``).

    A task is retried if its sandbox, its actor or its node has failed, so a command may run more
    than once. A task is never retried because of its command's exit status, timeout or limits.

    All actors and sandboxes end when the pool is closed, and when the process that created the pool
    exits. A RayPool is a context manager, also for ``async with``, that closes the pool at the end
    of the block.

    :param int sandboxes: the number of sandboxes of each actor, and of units of the resource
        ``sandboxes`` that each actor takes.
    :param int actors: the number of actors; by default, the number for which the cluster has room
        when the pool is created.
    :param host: a dictionary of the arguments of :class:`usernsctl.SandboxHost` on each node. Paths
        are paths on the nodes.
    :param template: a :class:`usernsctl.Template`, or the directory of a saved template, from which
        to start the sandboxes. Ray copies the template to each node once. The nodes need the same
        usernsctl, runsc and root filesystem (:meth:`usernsctl.Template.load`).
    :param int max_uses: the number of commands that a sandbox runs; see
        :class:`usernsctl.SandboxPool`.
    :param int retries: the maximum number of retries of a task.
    :param float start_timeout: the timeout, in seconds, for starting a sandbox. Queued tasks fail
        if no actor has been ready for this time.
    :param actor_options: a dictionary of additional options with which Ray creates the actors, such
        as ``memory``, ``num_cpus``, ``runtime_env`` and ``scheduling_strategy``.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: an argument has an invalid value, or this process is not connected to a
        cluster.
    :raises PoolError: `actors` is not given, and no node of the cluster has room for an actor.
    :raises UsernsError: the template can't be read.
    """

    _what = "a RayPool"
    _dispatcher: Dispatcher | None = None

    def __init__(
        self,
        sandboxes: int,
        *,
        actors: int | None = None,
        host: HostOptions | None = None,
        template: Template | StrOrBytesPath | None = None,
        max_uses: int = 1,
        retries: int = 3,
        start_timeout: float = START_SECONDS,
        actor_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the actors; do not wait until they are ready."""
        checks.count("sandboxes", sandboxes)
        checks.count("max_uses", max_uses)
        checks.count("retries", retries, 0)
        seconds = checks.seconds("start_timeout", start_timeout)
        options = _host_options(host)
        if actor_options is not None and not isinstance(actor_options, Mapping):
            raise TypeError(f"actor_options must be a dictionary, not {actor_options!r}")
        if not ray.is_initialized():
            raise ValueError("this process is not connected to a Ray cluster: call ray.init first")
        count = _room_for(sandboxes) if actors is None else checks.count("actors", actors)
        # Keep a reference to the files, because Ray removes objects without references from the
        # object store.
        self._template = None if template is None else ray.put(_files_of(template))
        remote = ray.remote(SandboxActor).options(
            **{
                "num_cpus": 0,
                "resources": {RESOURCE: sandboxes},
                "scheduling_strategy": "SPREAD",
                "max_restarts": 0,
                "max_concurrency": _TASKS_PER_SANDBOX * sandboxes + 10,
                **(actor_options or {}),
            }
        )
        given = (sandboxes, options, self._template, max_uses, seconds)
        self._in_flight = count * sandboxes * _TASKS_PER_SANDBOX
        self._dispatcher = Dispatcher(
            lambda: remote.remote(*given),
            count,
            sandboxes * _TASKS_PER_SANDBOX,
            retries,
            seconds,
        )

    def _get(self) -> Dispatcher:
        if self._is_closed or self._dispatcher is None:
            raise ValueError(CLOSED)
        if os.getpid() != self._creator:
            raise ValueError("the pool belongs to the parent of this process")
        return self._dispatcher

    def submit(self, args: Args, **options: Unpack[TaskOptions]) -> Future[RayResult[Any]]:
        """Queue a task; do not wait for its result.

        At most two tasks for each sandbox are sent to the cluster at a time; the other tasks wait
        in this process.

        :param args: the command and its arguments, or a string, the name of a command without
            arguments.
        :param options: options such as `input`, `timeout` and `check`; see :class:`TaskOptions`.
        :returns: the future of the result. ``future.cancel()`` cancels the task at any time until
            it is done, and kills its command. ``future.result()`` raises
            :class:`subprocess.TimeoutExpired` if the command took more than `timeout` seconds;
            :class:`subprocess.CalledProcessError` if the command failed and `check` is true;
            :class:`usernsctl.CommandError` if the command could not be started;
            :class:`NodeLostError` or :class:`usernsctl.SandboxEndedError` if all retries failed;
            :class:`usernsctl.PoolError` if no sandbox could be started on any node.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises ValueError: an argument has an invalid value, or the pool is closed.
        :raises CommandError: `cwd` is relative.
        """
        return self._get().submit(check_task(args, options))

    def map(
        self,
        commands: Iterable[Args],
        *,
        progress: _OnProgress | None = None,
        return_exceptions: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Iterator[Any]:
        """Run commands, and return an iterator of their results, in the order of the commands.

        The iterator takes commands from `commands` as its results are consumed: at most two tasks
        for each sandbox are pending. If the iterator is closed or raises an exception, the pending
        tasks are cancelled.

        :param commands: the commands; see :meth:`submit`.
        :param progress: a function that is called after each result, with the value of
            :meth:`progress`.
        :param bool return_exceptions: whether the iterator yields the exception of a failed task in
            place of its result, and continues. By default the iterator raises the exception.
        :param options: the options of each task; see :class:`TaskOptions`.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises ValueError: an argument has an invalid value, or the pool is closed.
        :raises CommandError: `cwd` is relative.
        """
        check_task("true", options)
        self._get()
        return self._in_order(iter(commands), progress, return_exceptions, options)

    def _in_order(
        self,
        commands: Iterator[Args],
        progress: _OnProgress | None,
        return_exceptions: bool,
        options: TaskOptions,
    ) -> Iterator[Any]:
        pending: deque[Future[RayResult[Any]]] = deque()
        try:
            while True:
                for command in itertools.islice(commands, self._in_flight - len(pending)):
                    pending.append(self.submit(command, **options))
                if not pending:
                    return
                outcome = _outcome(pending[0], return_exceptions)
                pending.popleft()
                if progress is not None:
                    progress(self.progress())
                yield outcome
        finally:
            _cancel_all(pending)

    def map_unordered(
        self,
        commands: Iterable[Args],
        *,
        progress: _OnProgress | None = None,
        return_exceptions: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Iterator[tuple[int, Any]]:
        """Run commands; return an iterator of pairs (number, result), in the order of completion.

        The number is the position of the command in `commands`, from 0 on. For everything else, see
        :meth:`map`.

        :param commands: the commands; see :meth:`submit`.
        :param progress: a function that is called after each result, with the value of
            :meth:`progress`.
        :param bool return_exceptions: see :meth:`map`.
        :param options: the options of each task; see :class:`TaskOptions`.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises ValueError: an argument has an invalid value, or the pool is closed.
        :raises CommandError: `cwd` is relative.
        """
        check_task("true", options)
        self._get()
        return self._as_completed(iter(commands), progress, return_exceptions, options)

    def _as_completed(
        self,
        commands: Iterator[Args],
        progress: _OnProgress | None,
        return_exceptions: bool,
        options: TaskOptions,
    ) -> Iterator[tuple[int, Any]]:
        ended: queue.SimpleQueue[Future[RayResult[Any]]] = queue.SimpleQueue()
        numbers: dict[Future[RayResult[Any]], int] = {}
        counted = enumerate(commands)
        try:
            while True:
                for number, command in itertools.islice(counted, self._in_flight - len(numbers)):
                    future = self.submit(command, **options)
                    numbers[future] = number
                    future.add_done_callback(ended.put)
                if not numbers:
                    return
                future = ended.get()
                number = numbers.pop(future)
                outcome = _outcome(future, return_exceptions)
                if progress is not None:
                    progress(self.progress())
                yield number, outcome
        finally:
            _cancel_all(numbers)

    def progress(self) -> Progress:
        """Return the current numbers of tasks and actors."""
        return Progress() if self._dispatcher is None else self._dispatcher.progress

    def close(self) -> None:
        """Cancel all tasks, kill their commands, and end all actors and sandboxes.

        Safe to call from several threads. In a forked child of the process that created the pool,
        the method does nothing.
        """
        if os.getpid() != self._creator or self._dispatcher is None:
            return
        self._is_closed = True
        self._dispatcher.close()
        self._template = None

    def _holds(self) -> bool:
        return self._dispatcher is not None and not self._is_closed

    def __repr__(self) -> str:
        numbers = self.progress()
        end = ", closed" if self._is_closed else ""
        return (
            f"<RayPool: {numbers.actors} actors, {numbers.running} running, "
            f"{numbers.queued} queued, {numbers.done} done{end}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RayPool can't be copied or pickled: create a pool in each process")


def _outcome(future: Future[RayResult[Any]], return_exceptions: bool) -> _Outcome:
    """Wait for a task; return its result, or its exception if `return_exceptions` is true."""
    if not return_exceptions:
        return future.result()
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, Exception):
        raise error
    return error


def _cancel_all(futures: Iterable[Future[RayResult[Any]]]) -> None:
    for future in list(futures):
        future.cancel()


def _host_options(host: HostOptions | None) -> HostOptions:
    """Check the names of the host's arguments, and return the arguments.

    The nodes check the values.

    :raises TypeError: `host` is not a dictionary, or contains an unknown name.
    """
    if host is None:
        return {}
    if not isinstance(host, dict):
        raise TypeError(f"host must be a dictionary of arguments of SandboxHost, not {host!r}")
    check_keywords("SandboxHost", host, HostOptions.__annotations__)
    return host


def _files_of(template: Template | StrOrBytesPath) -> TemplateFiles:
    """Return the files of a template, or of the directory of a saved template.

    :raises TypeError: `template` is neither a template nor a path.
    """
    if isinstance(template, Template):
        return TemplateFiles.of(template)
    if not isinstance(template, str | bytes | os.PathLike):
        raise TypeError(f"template must be a Template or a path, not {template!r}")
    return TemplateFiles.read(template)


def _room_for(sandboxes: int) -> int:
    """Return how many actors the nodes of the cluster have room for.

    :raises PoolError: no node has room for an actor.
    """
    found = [node["Resources"].get(RESOURCE, 0) for node in ray.nodes() if node["Alive"]]
    count = sum(int(amount // sandboxes) for amount in found)
    if count == 0:
        most = max(found, default=0)
        raise PoolError(
            f"no node of the cluster offers {sandboxes} of the resource {RESOURCE!r}; the most "
            f"that a node offers is {most:g}",
            step="pool",
            remedy=f"ray start --address=ADDRESS --resources='{{\"{RESOURCE}\": {sandboxes}}}'",
        )
    return count
