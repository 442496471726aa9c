"""The keeper of a pool: the thread that decides when to start, lease and kill sandboxes.

Other threads send messages to the keeper without blocking, so an exception that a signal handler
raises leaves no lock held and no message half handled. Worker threads start, clean and kill
sandboxes, which would block the keeper. :class:`Keeper` is generic, because tests use the class
with fake sandboxes.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from usernsctl._lean import dataclass
from usernsctl._system.descriptors import ClosedError, Shared, open_owned


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """A snapshot of a pool's counters and state.

    :ivar started: the number of sandboxes that the pool has started.
    :ivar starting: the number of sandboxes that are being started.
    :ivar idle: the number of idle sandboxes.
    :ivar leased: the number of leased sandboxes.
    :ivar queued: the number of calls of ``acquire`` that wait for a sandbox.
    :ivar acquired: the number of calls of ``acquire`` that received a sandbox.
    :ivar waited: the total time that the calls counted in `acquired` waited, in seconds.
    :ivar longest_wait: the longest time that one of these calls waited, in seconds.
    :ivar failed: the number of sandboxes that could not be started, or ended or failed after the
        start.
    :ivar last_failure: the exception of the last failure.
    """

    started: int = 0
    starting: int = 0
    idle: int = 0
    leased: int = 0
    queued: int = 0
    acquired: int = 0
    waited: float = 0
    longest_wait: float = 0
    failed: int = 0
    last_failure: BaseException | None = None


_T = TypeVar("_T")

# The number of unhealthy sandboxes that one call of acquire() may receive before the call fails.
_REJECTIONS_MAX = 3

# The delay between the start of a lease and the start of the next sandbox, in seconds, if no caller
# waits. Without the delay, the start would take CPU time from the first command of the lease.
_START_DELAY_SECONDS = 0.02


class Maker(Protocol[_T]):
    """The interface of the operations that a pool performs on its sandboxes."""

    def make(self) -> _T:
        """Start a sandbox; return it once it can be used."""

    def check(self, sandbox: _T) -> None:
        """Check that a sandbox can be used; raise if it can't."""

    async def check_async(self, sandbox: _T) -> None:
        """Check that a sandbox can be used, without blocking the event loop; raise if it can't."""

    def keep(self, sandbox: _T) -> None:
        """Stop the idle timeout of a sandbox that is not leased, until its next check."""

    def clean(self, sandbox: _T) -> None:
        """Kill everything in a sandbox so that it can be leased again; raise if anything survives.

        If this method raises, the keeper kills the sandbox.
        """

    def kill(self, sandbox: _T) -> None:
        """Kill a sandbox; return without waiting for it to end."""

    def expire(self, sandbox: _T, ttl: float, used: float) -> None:
        """Kill a sandbox whose lease has lasted `used` seconds, more than its time limit `ttl`."""

    def end(self, sandbox: _T) -> None:
        """Kill a sandbox, and return when it has ended."""

    def pidfd(self, sandbox: _T) -> int:
        """Return a descriptor that becomes readable when a sandbox ends, or -1 if it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The limits of a pool.

    :ivar size: the number of idle sandboxes that the pool maintains.
    :ivar limit: the maximum number of sandboxes, including those that are being started or killed.
    :ivar starts: the maximum number of sandboxes that are started at the same time.
    :ivar max_uses: the maximum number of leases of one sandbox.
    :ivar idle_timeout: the time without a call of acquire(), in seconds, after which the idle
        sandboxes are killed; ``None`` to keep them.
    :ivar pauses: three pauses after a failed start, in seconds: the pause after the first failure
        in a row, the maximum pause while a caller waits, and the maximum pause while none waits.
    """

    size: int
    limit: int
    starts: int
    max_uses: int = 1
    idle_timeout: float | None = None
    pauses: tuple[float, float, float] = (0.1, 5, 60)


class Slot(Generic[_T]):
    """A sandbox of a pool, with the number of its leases.

    :ivar uses: the number of leases that the sandbox has had, including the current lease.
    """

    __slots__ = ("sandbox", "uses")

    def __init__(self, sandbox: _T) -> None:
        """Create a slot for a sandbox that has not been leased yet."""
        self.sandbox: _T = sandbox
        self.uses: int = 0


class Waiter(Generic[_T]):
    """A pending call of acquire().

    :ivar slot: the leased sandbox, or ``None``.
    :ivar failure: the exception with which the call fails, or ``None``.
    :ivar waited: how long the call has waited for :attr:`slot`, in seconds.
    :ivar is_last: whether this is the last lease of the sandbox.
    :ivar ttl: the time limit of the lease, in seconds; infinity means no limit.
    :ivar end: the deadline of the lease, as a :func:`time.monotonic` time; infinity until the time
        limit begins, and after it has expired.
    :ivar is_expired: whether the sandbox was killed because the time limit expired.
    """

    def __init__(self, notify: Callable[[], object], ttl: float = math.inf) -> None:
        """Create a waiter that is not in the queue yet.

        :param notify: a function that is called when :attr:`slot` or :attr:`failure` is set. The
            function raises RuntimeError if the event loop of the caller is closed.
        :param ttl: the time limit of the lease, in seconds.
        """
        self.notify = notify
        self.since: float = time.monotonic()
        self.slot: Slot[_T] | None = None
        self.failure: BaseException | None = None
        self.waited: float = 0.0
        self.is_last = False
        self.ttl: float = ttl
        self.end: float = math.inf
        self.is_expired = False
        self.rejections = 0


class Closed(Exception):
    """The error for a call on a closed pool."""


class PoolTimeout(Exception):
    """The error for a call of acquire() that received no sandbox before its deadline."""


class Keeper(Generic[_T]):
    """The state of a pool, and the thread that manages the sandboxes of the pool.

    :ivar rules: the limits of the pool.
    :ivar maker: the operations on sandboxes.
    :ivar creator: the pid of the process that created the pool.
    :ivar stats: the pool's counters and state. The keeper replaces the object, and never changes
        it.
    """

    def __init__(self, maker: Maker[_T], rules: Rules) -> None:
        """Start the keeper's thread, which immediately begins to start sandboxes.

        :raises RuntimeError: no thread can be started.
        :raises OSError: the process or the host has no free file descriptor.
        """
        self.maker = maker
        self.rules = rules
        self.creator: int = os.getpid()
        self.stats: PoolStats = PoolStats()
        self._inbox: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._queue: deque[Waiter[_T]] = deque()
        self._ready: deque[Slot[_T]] = deque()
        self._leased: dict[Waiter[_T], Slot[_T]] = {}
        self._to_notify: list[Waiter[_T]] = []
        self._starting = self._cleaning = self._ending = 0
        self._started = self._acquired = self._failed = 0
        self._waited = self._longest_wait = 0.0
        self._last_failure: BaseException | None = None
        self._failures_in_row = 0
        self._is_failing = False
        self._failed_at = 0.0
        self._last_lease = -math.inf
        self._last_acquire = time.monotonic()
        self._is_dormant = self._is_closing = self._has_ended = False
        self._threads: set[threading.Thread] = set()
        self._end_future: Future[None] = Future()
        self._wake = _event()
        try:
            threading.Thread(target=self._keep, name="usernsctl-pool", daemon=True).start()
        except BaseException:
            # Stop the keeper's thread, which already runs if a signal handler raised the exception
            # after the thread's start.
            self._post(self._on_close, None)
            raise

    # Methods that other threads call.

    def enqueue(self, waiter: Waiter[_T]) -> None:
        """Add a waiter to the queue; the keeper notifies the waiter of a sandbox or a failure.

        :raises Closed: the pool is closed.
        :raises ValueError: this process is a forked child of the process that created the pool.
        """
        if os.getpid() != self.creator:
            raise ValueError(
                f"the pool belongs to its creator, process {self.creator}: create a pool in each "
                "process"
            )
        if self._is_closing:
            raise Closed
        self._post(self._on_acquire, waiter)

    def expire(self, waiter: Waiter[_T]) -> None:
        """Lease an idle sandbox to a waiter now, or make the waiter fail with PoolTimeout."""
        self._post(self._on_expire, waiter)

    def abandon(self, waiter: Waiter[_T]) -> None:
        """Remove a waiter from the queue; if the waiter has a sandbox, make that sandbox idle."""
        self._post(self._on_abandon, waiter)

    def reject(self, waiter: Waiter[_T], error: BaseException) -> None:
        """Kill an unhealthy leased sandbox, and put its waiter back at the head of the queue.

        After _REJECTIONS_MAX rejections, the waiter fails with `error` instead.
        """
        self._post(self._on_reject, (waiter, error))

    def begin(self, waiter: Waiter[_T]) -> None:
        """Begin the time limit of a lease. Called once the sandbox has been checked."""
        if waiter.ttl != math.inf:
            self._post(self._on_begin, waiter)

    def release(self, waiter: Waiter[_T]) -> None:
        """Release a leased sandbox. In a forked child, only close the sandbox's descriptors."""
        slot = waiter.slot
        assert slot is not None
        if os.getpid() != self.creator:
            self.maker.end(slot.sandbox)
        elif waiter.is_last:
            # Kill the sandbox now, so that nothing runs in it once this method returns. The keeper
            # waits for the sandbox's end.
            with contextlib.suppress(Exception):
                self.maker.kill(slot.sandbox)
        self._post(self._on_release, waiter)

    def close(self) -> None:
        """Kill all sandboxes, and wait until they have ended.

        A forked child only closes its descriptors.
        """
        if os.getpid() != self.creator:
            self._is_closing = True
            with contextlib.suppress(IndexError):
                while True:
                    self.maker.end(self._ready.popleft().sandbox)
            self._wake.close()
            return
        self._post(self._on_close, None)
        # Do not wait if this thread belongs to the pool: a finaliser can call this method in such a
        # thread, which would then wait for itself.
        if not sys.is_finalizing() and threading.current_thread() not in self._threads:
            self._end_future.result()

    @property
    def closed(self) -> bool:
        """Return whether :meth:`close` was called."""
        return self._is_closing

    def _post(self, act: Callable[[Any], None], about: Any) -> None:
        if os.getpid() != self.creator:
            return
        self._inbox.append((act, about))
        with contextlib.suppress(ClosedError), self._wake.use() as (wake,):
            os.eventfd_write(wake, 1)
        if self._has_ended:
            self._read_inbox()

    # Methods that only the keeper's thread calls.

    def _keep(self) -> None:
        bug: BaseException | None = None
        keeper = threading.current_thread()
        self._threads.add(keeper)
        try:
            with self._wake.use() as (wake,):
                while not (self._is_closing and not self._count_alive()):
                    self._publish()
                    self._await_news(wake, self._fill())
                    self._read_inbox()
                    self._end_idle()
                    self._end_overdue()
                    self._lease_ready()
        except BaseException as error:
            # Only a bug in this module can cause this exception. Close the pool, so that all
            # waiters fail, because no thread serves them any more.
            bug = error
            self._on_close(None)
        finally:
            self._publish()
            self._has_ended = True
            # Handle the last messages. From now on, a thread that sends a message also handles it
            # (see _post()).
            self._read_inbox()
            if bug is None:
                # Wait for the worker threads before closing self._wake, whose descriptor they use
                # to report that their work is done.
                for thread in self._threads - {keeper}:
                    thread.join()
            self._wake.close()
            self._end_future.set_result(None) if bug is None else self._end_future.set_exception(
                bug
            )

    def _count_alive(self) -> int:
        busy = self._starting + self._cleaning + self._ending
        return busy + len(self._ready) + len(self._leased)

    def _fill(self) -> float:
        """Start the sandboxes that the pool lacks; return the seconds until the next call is due.

        :returns: ``math.inf`` unless :meth:`_earliest_start` delays the starts.
        """
        rules = self.rules
        reusable = sum(slot.uses < rules.max_uses for slot in self._leased.values())
        stock = 0 if self._is_dormant else max(rules.size - reusable, 0)
        wanted = len(self._queue) + stock
        coming = len(self._ready) + self._starting + self._cleaning
        # After a failure, start only one sandbox at a time, until a start succeeds.
        starts = 1 if self._is_failing else rules.starts
        room = min(rules.limit - self._count_alive(), starts - self._starting)
        count = min(wanted - coming, room)
        if self._is_closing or count <= 0:
            return math.inf
        left = self._earliest_start() - time.monotonic()
        if left > 0:
            return left
        for _ in range(count):
            self._starting += 1
            self._run_in_thread(self.maker.make, self._on_started)
            self._publish()
        return math.inf

    def _earliest_start(self) -> float:
        """Return the earliest start of the next sandbox, as a :func:`time.monotonic` time."""
        delayed = -math.inf if self._queue else self._last_lease + _START_DELAY_SECONDS
        if not self._is_failing:
            return delayed
        first, while_waited_for, longest = self.rules.pauses
        most = while_waited_for if self._queue else longest
        pause = min(first * (1 << min(max(self._failures_in_row - 1, 0), 20)), most)
        return max(delayed, self._failed_at + pause)

    def _seconds_until_dormant(self) -> float:
        """Return the seconds until the idle sandboxes are killed if acquire() is not called."""
        timeout = self.rules.idle_timeout
        if timeout is None or self._is_dormant or self._queue:
            return math.inf
        return self._last_acquire + timeout - time.monotonic()

    def _publish(self) -> None:
        """Update :attr:`stats`, then notify the waiters that received a sandbox or failed."""
        self.stats = PoolStats(
            started=self._started,
            starting=self._starting,
            idle=len(self._ready),
            leased=len(self._leased),
            queued=len(self._queue),
            acquired=self._acquired,
            waited=self._waited,
            longest_wait=self._longest_wait,
            failed=self._failed,
            last_failure=self._last_failure,
        )
        to_notify, self._to_notify = self._to_notify, []
        for waiter in to_notify:
            try:
                waiter.notify()
            except RuntimeError:
                self.abandon(waiter)

    def _await_news(self, wake: int, seconds: float) -> None:
        """Wait for a message, the end of an idle sandbox, or the next deadline.

        :param seconds: the time until the next start of a sandbox, in seconds; may be infinite.
        """
        overdue = min((waiter.end for waiter in self._leased), default=math.inf)
        left = min(seconds, self._seconds_until_dormant(), overdue - time.monotonic())
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        pidfds = ((self.maker.pidfd(slot.sandbox), slot) for slot in self._ready)
        watched = {fd: slot for fd, slot in pidfds if fd >= 0}
        for fd in watched:
            poll.register(fd, select.POLLIN)
        # Wait for at most a day, because the timeout of poll(2) is an int of milliseconds.
        most = None if left == math.inf else math.ceil(1000 * min(max(left, 0), 86400))
        for fd, _ in poll.poll(most):
            if fd == wake:
                os.eventfd_read(wake)
            else:
                self._ready.remove(watched[fd])
                self._replace_ended(watched[fd])

    def _read_inbox(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                act, about = self._inbox.popleft()
                act(about)

    def _end_idle(self) -> None:
        """Kill the idle sandboxes if acquire() was not called for `idle_timeout` seconds."""
        if self._seconds_until_dormant() <= 0:
            self._is_dormant = True
            self._end_in_background(self._ready)
            self._ready.clear()

    def _end_overdue(self) -> None:
        """Kill the sandboxes whose leases have exceeded `ttl`.

        The sandboxes stay leased until they are released.
        """
        now = time.monotonic()
        for waiter in [one for one in self._leased if one.end <= now]:
            used = now - waiter.end + waiter.ttl
            waiter.end = math.inf
            waiter.is_expired = True
            # Ignore errors: a sandbox that can't be killed has ended already, or ends when this
            # process exits.
            with contextlib.suppress(Exception):
                self.maker.expire(self._leased[waiter].sandbox, waiter.ttl, used)

    def _lease_ready(self) -> None:
        while self._queue and self._ready:
            waiter, slot = self._queue.popleft(), self._ready.popleft()
            slot.uses += 1
            waiter.slot = slot
            waiter.is_last = slot.uses >= self.rules.max_uses
            # Reset the time limit, which may have begun for a sandbox that this waiter rejected.
            waiter.end, waiter.is_expired = math.inf, False
            self._leased[waiter] = slot
            self._last_lease = time.monotonic()
            waiter.waited = self._last_lease - waiter.since
            self._acquired += 1
            self._waited += waiter.waited
            self._longest_wait = max(self._longest_wait, waiter.waited)
            self._to_notify.append(waiter)

    # Handlers of messages.

    def _on_acquire(self, waiter: Waiter[_T]) -> None:
        if self._is_closing:
            self._fail([waiter], Closed())
            return
        self._last_acquire = time.monotonic()
        self._is_dormant = False
        self._queue.append(waiter)

    def _on_expire(self, waiter: Waiter[_T]) -> None:
        self._lease_ready()
        with contextlib.suppress(ValueError):
            self._queue.remove(waiter)
            self._fail([waiter], PoolTimeout())

    def _on_begin(self, waiter: Waiter[_T]) -> None:
        waiter.end = time.monotonic() + waiter.ttl

    def _on_abandon(self, waiter: Waiter[_T]) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(waiter)
        slot = self._leased.pop(waiter, None)
        if slot is not None:
            self._forget_lease(waiter)
            slot.uses -= 1
            if waiter.is_expired:
                self._end_in_background([slot])
            else:
                # Ignore errors: if the sandbox has ended, it is replaced.
                with contextlib.suppress(Exception):
                    self.maker.keep(slot.sandbox)
                self._keep_ready(slot, first=True)

    def _on_reject(self, told: tuple[Waiter[_T], BaseException]) -> None:
        waiter, error = told
        slot = self._leased.pop(waiter, None)
        if slot is None:
            # The pool was closed after the waiter had sent the message, so the waiter receives no
            # other sandbox.
            self._fail([waiter], Closed())
            return
        self._forget_lease(waiter)
        self._end_in_background([slot])
        self._note_failure(error)
        waiter.rejections += 1
        if waiter.rejections < _REJECTIONS_MAX and not self._is_closing:
            self._queue.appendleft(waiter)
        else:
            self._fail([waiter], error)

    def _forget_lease(self, waiter: Waiter[_T]) -> None:
        """Remove a lease that has not begun from the counters."""
        self._acquired -= 1
        self._waited -= waiter.waited

    def _on_release(self, waiter: Waiter[_T]) -> None:
        slot = self._leased.pop(waiter, None)
        if slot is None:
            return
        self._failures_in_row = 0
        self._last_acquire = time.monotonic()
        if waiter.is_last or waiter.is_expired or self._is_closing:
            self._end_in_background([slot])
            return

        def clean() -> Slot[_T]:
            try:
                self.maker.clean(slot.sandbox)
            except BaseException:
                self._end([slot])
                raise
            return slot

        self._cleaning += 1
        self._run_in_thread(clean, self._on_cleaned)

    def _on_cleaned(self, result: Slot[_T] | BaseException) -> None:
        self._cleaning -= 1
        if isinstance(result, BaseException):
            # Count the failure, but do not delay the next start: processes of the lease caused the
            # failure, so other sandboxes can start.
            self._failed += 1
            self._last_failure = _without_traceback(result)
        else:
            self._keep_ready(result)

    def _on_started(self, result: _T | BaseException) -> None:
        self._starting -= 1
        if isinstance(result, BaseException):
            self._note_failure(result)
            if not self._starting and not self._ready and not self._cleaning:
                self._fail(self._queue, result)
                self._queue.clear()
            return
        self._started += 1
        self._is_failing = False
        self._keep_ready(Slot(result))

    def _on_close(self, _: None) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._fail(self._queue, Closed())
        self._queue.clear()
        self._end_in_background([*self._ready, *self._leased.values()])
        self._ready.clear()
        self._leased.clear()

    def _keep_ready(self, slot: Slot[_T], *, first: bool = False) -> None:
        most = self.rules.size + len(self._queue)
        if self._is_closing or self._is_dormant or len(self._ready) >= most:
            self._end_in_background([slot])
        elif first:
            self._ready.appendleft(slot)
        else:
            self._ready.append(slot)

    def _fail(self, waiters: Iterable[Waiter[_T]], failure: BaseException) -> None:
        for waiter in waiters:
            waiter.failure = failure
            self._to_notify.append(waiter)
        if self._has_ended:
            self._publish()

    def _note_failure(self, error: BaseException) -> None:
        self._failed += 1
        self._last_failure = _without_traceback(error)
        self._failures_in_row += 1
        self._is_failing = True
        self._failed_at = time.monotonic()

    # Methods that run work in other threads.

    def _run_in_thread(self, work: Callable[[], Any], tell: Callable[[Any], None]) -> None:
        """Call `work` in a new thread, and send its result or exception to the keeper.

        :param tell: the handler that the keeper calls with the result or exception.
        """

        def run() -> None:
            try:
                result = work()
            except BaseException as error:
                result = error
            self._post(tell, result)

        self._threads = {thread for thread in self._threads if thread.is_alive()}
        thread = threading.Thread(target=run, name="usernsctl-pool-work", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.discard(thread)
            # No thread can be started. If `work` starts a sandbox, report this error as its result;
            # otherwise, `work` cleans or kills a sandbox, so call it in this thread.
            self._post(tell, error if work == self.maker.make else _result_of(work))

    def _replace_ended(self, slot: Slot[_T]) -> None:
        """Close an idle sandbox that has ended, and count the end as a failure."""

        def look() -> BaseException:
            try:
                self.maker.check(slot.sandbox)
            except BaseException as error:
                return error
            finally:
                self._end([slot])
            return RuntimeError("an idle sandbox has ended")

        def note(error: BaseException) -> None:
            self._ending -= 1
            self._note_failure(error)

        self._ending += 1
        self._run_in_thread(look, note)

    def _end_in_background(self, slots: Iterable[Slot[_T]]) -> None:
        ended = list(slots)
        if not ended:
            return
        if self._has_ended:
            self._end(ended)
            return

        def note(_: object) -> None:
            self._ending -= len(ended)

        self._ending += len(ended)
        self._run_in_thread(lambda: self._end(ended), note)

    def _end(self, slots: Iterable[Slot[_T]]) -> None:
        """Kill all of `slots` first, then wait until they have ended."""
        for act in (self.maker.kill, self.maker.end):
            for slot in slots:
                # Ignore errors: a sandbox that can't be killed has already ended, or ends when this
                # process exits.
                with contextlib.suppress(Exception):
                    act(slot.sandbox)


def _event() -> Shared:
    """Create an eventfd with a number above those of the standard streams."""
    with open_owned(os.eventfd, 0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) as low:
        return Shared("the pool", map(fcntl.fcntl, [low], [fcntl.F_DUPFD_CLOEXEC], [3]))


def _result_of(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BaseException as error:
        return error


def _without_traceback(error: BaseException) -> BaseException:
    """Remove the tracebacks of an exception, its causes and its contexts; return the exception.

    The frames in the tracebacks would keep sandboxes and descriptors alive.
    """
    left, seen = [error], set()
    while left:
        one = left.pop()
        seen.add(id(one))
        one.__traceback__ = None
        led_to = (one.__cause__, one.__context__)
        left += [other for other in led_to if other is not None and id(other) not in seen]
    return error
