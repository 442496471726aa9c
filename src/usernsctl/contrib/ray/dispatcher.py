"""The thread that sends the tasks of a pool to actors, and receives their results.

Only this thread reads and changes the state. Other threads, and Ray's callbacks, put functions into
the thread's queue, and the thread calls them one after the other.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
from ray import exceptions as ray_errors

from usernsctl.contrib.ray.tasks import (
    NodeLostError,
    Progress,
    RayResult,
    Spec,
    describe_command,
    finished,
    last_line,
)
from usernsctl.errors import PoolError, PoolTimeoutError, SandboxEndedError
from usernsctl.gvisor.result import Result

# Number of failed starts after which an actor is not replaced any more: see Slot.errors.
_ERRORS_MAX = 3
# Maximum delay before a lost actor is replaced, in seconds. Ray may need that time to notice that a
# node was lost; until then, it starts new actors on the lost node.
_DELAY_MAX = 16.0
# Timeout, in seconds, for the actors to close their sandboxes. After the timeout, the actors are
# killed, which ends their sandboxes as well.
_CLOSE_SECONDS = 10
# Interval between checks that this process is connected to the cluster, in seconds.
_CHECK_SECONDS = 5.0

# Exceptions that Ray raises if an actor or its node was lost.
_ACTOR_LOST = (
    ray_errors.RayActorError,
    ray_errors.NodeDiedError,
    ray_errors.WorkerCrashedError,
    ray_errors.OutOfMemoryError,
    ray_errors.ActorUnschedulableError,
)
# Exceptions that Ray raises if a result, or the node that stored the result, was lost.
_LOST = (*_ACTOR_LOST, ray_errors.ObjectLostError)

#: The message of the ValueError for a call of a closed pool.
CLOSED = "the pool is closed"


class Task:
    """A task, from its submission to its result.

    :ivar ref: Ray's reference to the result, while an actor has the task; else None.
    :ivar attempts: the number of times that the task was sent to an actor.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.future: Future[RayResult[Any]] = Future()
        self.ref: Any = None
        self.attempts = 0
        self.is_queued = False
        self.is_finished = False


class Slot:
    """A slot of the pool, for one actor at a time.

    :ivar node: the id of the actor's node, or ``""`` until the actor is ready.
    :ivar lost: the number of previous actors in this slot that were lost since the last result.
    :ivar errors: the number of previous actors in this slot that could not start a sandbox, since
        the last result.
    :ivar tasks: the number of tasks that were sent to the actor and have no result yet.
    """

    def __init__(self, actor: Any, lost: int = 0, errors: int = 0) -> None:
        self.actor = actor
        self.lost = lost
        self.errors = errors
        self.node = ""
        self.is_retired = False
        self.tasks = 0


class Dispatcher:
    """The dispatcher's thread, with methods that other threads may call.

    :param make_actor: a function that creates an actor with the methods of :class:`SandboxActor`,
        and returns its handle.
    :param count: the number of actors.
    :param at_once: the maximum number of tasks that an actor has at the same time.
    :param retries: the maximum number of retries of a task.
    :param start_timeout: the time in seconds after which queued tasks fail if no actor is ready.
    :ivar progress: the current numbers of tasks and actors.
    """

    def __init__(
        self,
        make_actor: Callable[[], Any],
        count: int,
        at_once: int,
        retries: int,
        start_timeout: float,
    ) -> None:
        self._make_actor = make_actor
        self._at_once = at_once
        self._retries = retries
        self._start_timeout = start_timeout
        self._events: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._queue: deque[Task] = deque()
        self._running: set[Task] = set()
        self._slots: list[Slot] = []
        # A heap of the actors that can take a task: tuples of the actor's number of tasks, a serial
        # number, and the actor's slot. When the number of tasks changes, a new tuple is added, and
        # the tuple with the outdated number is ignored from then on.
        self._free: list[tuple[int, int, Slot]] = []
        self._serial = itertools.count()
        # A heap of the actors to start later: tuples of the start time (time.monotonic()), and the
        # values of `lost` and `errors` for the new slot.
        self._delayed: list[tuple[float, int, int]] = []
        self._counts: Counter[str] = Counter()
        self._last_failure: Exception | None = None
        self._unready_since: float | None = time.monotonic()
        self._is_closing = False
        self._has_ended = False
        self._error: Exception | None = None
        self.progress: Progress = Progress()
        self._thread = threading.Thread(target=self._run, args=(count,), name="usernsctl-ray")
        self._thread.daemon = True
        self._thread.start()

    def submit(self, spec: Spec) -> Future[RayResult[Any]]:
        """Queue a task, and return the future of its result.

        :raises ValueError: the pool is closed.
        :raises UsernsError: the pool has failed, for example because the cluster was lost.
        """
        task = Task(spec)
        task.future.add_done_callback(
            lambda future: self._put(self._cancel, task) if future.cancelled() else None
        )
        self._put(self._enqueue, task)
        if self._has_ended:
            task.future.cancel()
            raise self._error or ValueError(CLOSED)
        return task.future

    def close(self) -> None:
        """Cancel all tasks; close the actors, or kill them after a timeout; end the thread."""
        self._put(self._close)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _put(self, function: Callable[..., object], *arguments: Any) -> None:
        self._events.put(partial(function, *arguments))

    def _run(self, count: int) -> None:
        try:
            for _ in range(count):
                self._start_actor()
            while not self._is_closing:
                event = self._next_event()
                try:
                    self._check_connection()
                except NodeLostError:
                    # Put the event back for the loop below: the event may queue a task, whose
                    # future would stay pending.
                    self._events.put(event)
                    raise
                event()
                self._start_delayed()
                self._check_deadlines()
                self._dispatch()
                self._tell()
        except Exception as error:
            self._error = error
        # Make submit() cancel each task that it queues from now on, so that no future stays
        # pending.
        self._has_ended = True
        self._is_closing = True
        while True:
            try:
                self._events.get_nowait()()
            except queue.Empty:
                break
            except Exception as error:
                self._error = self._error or error
        self._end_all(self._error)

    def _tell(self) -> None:
        counts = {name: self._counts[name] for name in Progress._fields}
        self.progress = Progress(**counts | {"running": len(self._running)})

    # ---- events about actors ---------------------------------------------------------------------

    def _next_event(self) -> Callable[[], object]:
        """Return the next queued function, or a no-op when a delayed start or a check is due."""
        seconds = _CHECK_SECONDS
        if self._delayed:
            seconds = max(0, min(seconds, self._delayed[0][0] - time.monotonic()))
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return lambda: None

    def _check_connection(self) -> None:
        """Check that this process is connected to the cluster; raise NodeLostError if it is not.

        Without a connection, most Ray calls would start a new cluster on this host.
        """
        if not ray.is_initialized():
            raise NodeLostError("this process is disconnected from the Ray cluster", step="pool")

    def _start_delayed(self) -> None:
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            _, lost, errors = heapq.heappop(self._delayed)
            self._start_actor(lost, errors)

    def _start_actor(self, lost: int = 0, errors: int = 0) -> None:
        if self._is_closing:
            return
        slot = Slot(self._make_actor(), lost, errors)
        self._slots.append(slot)
        self._await(slot.actor.start.remote(), partial(self._started, slot))

    def _await(self, ref: Any, function: Callable[[Future[Any]], object]) -> None:
        """Let the dispatcher's thread call `function` with the completed future of `ref`.

        Ray would call `function` in a thread of its own. If `function` called Ray there, the call
        could wait forever for that same thread.
        """
        ref.future().add_done_callback(partial(self._put, function))

    def _started(self, slot: Slot, future: Future[Any]) -> None:
        if slot.is_retired:
            return
        answer = _answer_of(future)
        if isinstance(answer, BaseException):
            self._retire(slot, answer)
            return
        slot.node = answer
        self._unready_since = None
        self._counts["actors"] += 1
        self._offer(slot)

    def _retire(self, slot: Slot, why: BaseException) -> None:
        """Kill an actor, and schedule the start of another, unless too many starts have failed.

        The remaining tasks of the killed actor fail with an error of Ray, and are retried.
        """
        if slot.is_retired or self._is_closing:
            return
        slot.is_retired = True
        self._slots.remove(slot)
        # Kill the actor even if its node seems lost, because the node may still be connected to
        # other nodes, and run the actor's tasks.
        ray.kill(slot.actor)
        self._counts["actors"] -= bool(slot.node)
        self._last_failure = _failure_of(why)
        lost, errors = slot.lost, slot.errors
        if isinstance(why, _ACTOR_LOST):
            lost += 1
        else:
            # Do not start another actor with arguments that this actor has rejected, because they
            # are wrong on every node.
            errors = _ERRORS_MAX if isinstance(why, TypeError | ValueError) else errors + 1
        if errors < _ERRORS_MAX:
            delay = min(2.0 ** (lost + errors - 2), _DELAY_MAX)
            heapq.heappush(self._delayed, (time.monotonic() + delay, lost, errors))
        if not self._counts["actors"] and self._unready_since is None:
            self._unready_since = time.monotonic()

    def _check_deadlines(self) -> None:
        """Fail the queued tasks if no actor is left, or none was ready for `start_timeout`."""
        if self._unready_since is None or not self._queue:
            return
        if not self._slots and not self._delayed:
            assert self._last_failure is not None
            self._fail_queued(self._last_failure)
        elif time.monotonic() >= self._unready_since + self._start_timeout:
            self._unready_since = time.monotonic()
            last = f"; the last failure: {self._last_failure}" if self._last_failure else ""
            error = PoolTimeoutError(
                f"no actor was ready within {self._start_timeout:g} s; actors that start or wait "
                f"for a node: {len(self._slots) + len(self._delayed)}; the cluster has "
                f"{_resources()}{last}",
                step="pool",
                remedy="ray start --address=ADDRESS --resources='{\"sandboxes\": 8}'",
            )
            self._fail_queued(error)

    # ---- tasks -----------------------------------------------------------------------------------

    def _enqueue(self, task: Task) -> None:
        if task.is_finished:
            return
        task.is_queued = True
        self._counts["queued"] += 1
        self._queue.append(task)

    def _take(self, task: Task) -> None:
        """Remove a task from the count of queued tasks."""
        self._counts["queued"] -= task.is_queued
        task.is_queued = False

    def _offer(self, slot: Slot) -> None:
        """Put an actor into the heap of free actors if the actor can take another task."""
        if not slot.is_retired and slot.tasks < self._at_once:
            heapq.heappush(self._free, (slot.tasks, next(self._serial), slot))

    def _dispatch(self) -> None:
        """Send queued tasks to actors, each to the actor with the fewest tasks."""
        while self._queue and self._free:
            number, _, slot = self._free[0]
            if slot.is_retired or number != slot.tasks:
                heapq.heappop(self._free)
                continue
            task = self._queue.popleft()
            self._take(task)
            if not task.is_finished:
                heapq.heappop(self._free)
                self._send(task, slot)
                self._offer(slot)

    def _send(self, task: Task, slot: Slot) -> None:
        spec = task.spec
        task.attempts += 1
        try:
            task.ref = slot.actor.run.remote(spec.argv, spec.input, spec.options)
        except Exception as error:
            # Fail the task: its arguments can't be pickled, or the object store is full.
            self._fail(task, error)
            return
        slot.tasks += 1
        self._running.add(task)
        self._await(task.ref, partial(self._answered, slot, task))

    def _answered(self, slot: Slot, task: Task, future: Future[Any]) -> None:
        slot.tasks -= 1
        self._running.discard(task)
        self._offer(slot)
        task.ref = None
        answer = _answer_of(future)
        if isinstance(answer, (*_ACTOR_LOST, PoolError)):
            self._retire(slot, answer)
        if task.is_finished:
            return
        if isinstance(answer, ray_errors.TaskCancelledError):
            task.future.cancel()
        elif isinstance(answer, (*_LOST, SandboxEndedError, PoolError)):
            # Retry the task: the command has not run, or its result was lost.
            self._retry(task, answer)
        elif isinstance(answer, BaseException):
            self._fail(task, _failure_of(answer))
        elif answer.reason == "sandbox-ended" and task.attempts <= self._retries:
            self._retry(task, None)
        else:
            slot.lost = slot.errors = 0
            self._finish(task, answer, slot.node)

    def _retry(self, task: Task, error: Exception | None) -> None:
        if error is not None and task.attempts > self._retries:
            command = describe_command(task.spec.argv)
            failure = _failure_of(error, f"{command!r} was tried {task.attempts} times: ")
            self._fail(task, failure)
            return
        self._counts["retried"] += 1
        task.is_queued = True
        self._counts["queued"] += 1
        # Put the task at the front of the queue, because it has waited in the queue once already.
        self._queue.appendleft(task)

    def _finish(self, task: Task, found: Result[Any], node: str) -> None:
        try:
            result = finished(task.spec, found, node, task.attempts)
        except Exception as error:
            self._fail(task, error)
            return
        task.is_finished = True
        self._counts["done"] += 1
        if task.future.set_running_or_notify_cancel():
            self._tell()
            task.future.set_result(result)

    def _fail(self, task: Task, error: Exception) -> None:
        task.is_finished = True
        self._counts["failed"] += 1
        if task.future.set_running_or_notify_cancel():
            self._tell()
            task.future.set_exception(error)

    def _fail_queued(self, error: Exception) -> None:
        queued, self._queue = self._queue, deque()
        for task in queued:
            self._take(task)
            if not task.is_finished:
                self._fail(task, error)

    def _cancel(self, task: Task) -> None:
        """Finish a task whose future was cancelled, and kill the task's command."""
        if task.is_finished:
            return
        task.is_finished = True
        self._take(task)
        self._counts["cancelled"] += 1
        # Notify the future, because concurrent.futures.wait() notices a cancellation only after
        # this call.
        task.future.set_running_or_notify_cancel()
        if task.ref is not None and ray.is_initialized():
            ray.cancel(task.ref, recursive=False)

    def _end_all(self, error: Exception | None) -> None:
        """Fail all tasks with `error`, or cancel them if `error` is None."""
        for task in (*self._queue, *self._running):
            self._take(task)
            if task.is_finished:
                continue
            if error is None:
                task.future.cancel()
                self._cancel(task)
            else:
                self._fail(task, error)
        self._queue.clear()
        self._tell()

    def _close(self) -> None:
        """Cancel all tasks, and close or kill the actors."""
        self._is_closing = True
        self._end_all(None)
        if not ray.is_initialized():
            return
        closing = [slot.actor.close.remote() for slot in self._slots if slot.node]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
        for slot in self._slots:
            with contextlib.suppress(Exception):
                ray.kill(slot.actor)


def _answer_of(future: Future[Any]) -> Any:
    """Return the result of a finished future, or the exception that its result() would raise."""
    error = future.exception()
    return future.result() if error is None else error


def _failure_of(error: BaseException, beginning: str = "") -> Exception:
    """Convert an exception of Ray or of an actor to the exception that the caller receives."""
    if isinstance(error, _LOST):
        lost = NodeLostError(f"{beginning}{last_line(error)}", step="pool")
        lost.__cause__ = error
        return lost
    if isinstance(error, Exception):
        return error
    return PoolError(f"{beginning}{last_line(error)}", step="pool")


def _resources() -> str:
    found = ray.cluster_resources()
    return ", ".join(f"{name}: {found[name]:g}" for name in sorted(found) if ":" not in name)
