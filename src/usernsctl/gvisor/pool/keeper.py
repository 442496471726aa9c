"""What a pool has, makes and hands out, whatever that is: decided by one thread, the keeper.

Other threads tell the keeper what happens by messages, which never wait. So a thread that a signal
handler interrupts by an exception leaves no lock behind, and nothing half done. What takes long, to
make one and to end one, is done in other threads.
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
from usernsctl._system.descriptors import ClosedError, Shared


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """Counters of a pool, and its state at one moment.

    :ivar made: the number of sandboxes that the pool has started.
    :ivar starting: the number of sandboxes that are being started.
    :ivar waiting: the number of idle sandboxes.
    :ivar handed_out: the number of leased sandboxes.
    :ivar queued: the number of pending calls of ``acquire``.
    :ivar acquired: the number of calls of ``acquire`` that got a sandbox.
    :ivar waited: the time that these calls waited, in seconds, in total.
    :ivar longest_wait: the longest time that one of these calls waited, in seconds.
    :ivar failed: the number of sandboxes that could not be started, or failed while idle.
    :ivar last_failure: the exception of the last such failure.
    """

    made: int = 0
    starting: int = 0
    waiting: int = 0
    handed_out: int = 0
    queued: int = 0
    acquired: int = 0
    waited: float = 0
    longest_wait: float = 0
    failed: int = 0
    last_failure: BaseException | None = None


_T = TypeVar("_T")

# An acquire that was given so many which did not answer is not given another one.
_REFUSALS_MAX = 3

# So long after one was handed out the next one is begun, if nobody waits for it, in seconds: what
# is done first with the one is not to wait for a processor that the other one has.
_BEHIND_SECONDS = 0.02


class Maker(Protocol[_T]):
    """What is known of that which a pool has."""

    def make(self) -> _T:
        """Make one, and return when it can be used."""

    def check(self, one: _T) -> None:
        """See whether it can be used; an exception says why not."""

    async def check_async(self, one: _T) -> None:
        """The same from asyncio."""

    def clean(self, one: _T) -> None:
        """Make it fit for another user; an exception says why it is not."""

    def kill(self, one: _T) -> None:
        """Have it do nothing any more, without a wait."""

    def end(self, one: _T) -> None:
        """End it, and return when it has ended."""

    def pidfd(self, one: _T) -> int:
        """A descriptor that can be read once it has ended; -1: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How many there are, and for how long.

    :ivar size: how many wait.
    :ivar limit: how many there are at once, whatever they do.
    :ivar starts: how many are made at once.
    :ivar max_uses: how often one is handed out.
    :ivar idle_timeout: after so many seconds in which nobody has asked for one, none wait.
    :ivar pauses: how long is paused after the first failure in a row, how long at most while
        somebody waits, and how long at most while nobody does, in seconds.
    """

    size: int
    limit: int
    starts: int
    max_uses: int = 1
    idle_timeout: float | None = None
    pauses: tuple[float, float, float] = (0.1, 5, 60)


class Slot(Generic[_T]):
    """One that was made.

    :ivar one: it.
    :ivar uses: how often it was handed out.
    """

    __slots__ = ("one", "uses")

    def __init__(self, one: _T) -> None:
        """Take one that nobody has used."""
        self.one: _T = one
        self.uses: int = 0


class Waiter(Generic[_T]):
    """Somebody who wants one.

    :ivar member: what he was given.
    :ivar failure: why he is given none.
    :ivar is_last: whether nobody else will be given that.
    """

    def __init__(self, tell: Callable[[], object]) -> None:
        """Want one.

        :param tell: says that there is one, or a failure. RuntimeError: nobody hears that.
        """
        self.tell = tell
        self.asked: float = time.monotonic()
        self.member: Slot[_T] | None = None
        self.failure: BaseException | None = None
        self.is_last = False
        self.refusals = 0


class Closed(Exception):
    """There is no pool any more."""


class PoolTimeout(Exception):
    """There was none in time."""


class Keeper(Generic[_T]):
    """The keeper, and what it has.

    :ivar rules: by which it keeps them.
    :ivar maker: what makes them.
    :ivar creator: the process that it belongs to.
    :ivar stats: what it had when it was last looked at.
    """

    def __init__(self, maker: Maker[_T], rules: Rules) -> None:
        """Begin to make some.

        :raises RuntimeError: no thread can be started.
        :raises OSError: there are no descriptors left.
        """
        self.maker = maker
        self.rules = rules
        self.creator: int = os.getpid()
        self.stats: PoolStats = PoolStats()
        self._inbox: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._queue: deque[Waiter[_T]] = deque()
        self._ready: deque[Slot[_T]] = deque()
        self._out: dict[Waiter[_T], Slot[_T]] = {}
        self._to_tell: list[Waiter[_T]] = []
        self._starting = self._cleaning = self._ending = 0
        self._made = self._acquired = self._failed = 0
        self._waited = self._longest_wait = 0.0
        self._last_failure: BaseException | None = None
        self._troubles = 0
        self._is_failing = False
        self._failed_at = 0.0
        self._served_at = -math.inf
        self._wanted_at = time.monotonic()
        self._is_dormant = self._is_closing = self._is_over = False
        self._threads: set[threading.Thread] = set()
        self._over: Future[None] = Future()
        self._wake = Shared("the pool", [_event()])
        try:
            threading.Thread(target=self._keep, name="usernsctl-pool", daemon=True).start()
        except BaseException:
            # An interrupt may come after the thread has begun.
            self._post(self._on_close, None)
            raise

    # What others say to the keeper.

    def ask(self, ticket: Waiter[_T]) -> None:
        """Want one: the ticket is told when there is one.

        :raises Closed: there is no pool any more.
        :raises ValueError: this is a fork of the process that it belongs to.
        """
        if os.getpid() != self.creator:
            raise ValueError(
                f"the pool belongs to process {self.creator}, which has made it: make one in each "
                "process"
            )
        if self._is_closing:
            raise Closed
        self._post(self._on_ask, ticket)

    def hurry(self, ticket: Waiter[_T]) -> None:
        """Have the ticket be told at once, be it that there is none."""
        self._post(self._on_hurry, ticket)

    def abandon(self, ticket: Waiter[_T]) -> None:
        """Want none any more; one that was given was not used."""
        self._post(self._on_abandon, ticket)

    def refuse(self, ticket: Waiter[_T], error: BaseException) -> None:
        """Say that what was given is of no use: the ticket is the next one that is given one."""
        self._post(self._on_refuse, (ticket, error))

    def give_back(self, ticket: Waiter[_T]) -> None:
        """Say that what was given is not used any more. In a fork, only forget it."""
        member = ticket.member
        assert member is not None
        if os.getpid() != self.creator:
            self.maker.end(member.one)
        elif ticket.is_last:
            # Nothing is done in it any more, though it takes a moment until nothing is left.
            with contextlib.suppress(Exception):
                self.maker.kill(member.one)
        self._post(self._on_back, ticket)

    def close(self) -> None:
        """End all, and wait for that. In a fork of the process that has it, only forget it."""
        if os.getpid() != self.creator:
            self._is_closing = True
            with contextlib.suppress(IndexError):
                while True:
                    self.maker.end(self._ready.popleft().one)
            self._wake.close()
            return
        self._post(self._on_close, None)
        # Whose end it is may be found out by any thread, such as the keeper's (__del__).
        if not sys.is_finalizing() and threading.current_thread() not in self._threads:
            self._over.result()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closing

    def _post(self, act: Callable[[Any], None], about: Any) -> None:
        if os.getpid() != self.creator:
            return
        self._inbox.append((act, about))
        with contextlib.suppress(ClosedError), self._wake.use() as (wake,):
            os.eventfd_write(wake, 1)
        if self._is_over:
            self._read_inbox()

    # What the keeper does.

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
                    self._rest()
                    self._serve()
        except BaseException as error:
            # A mistake of ours: nobody is to wait for a keeper that has gone.
            bug = error
            self._on_close(None)
        finally:
            self._publish()
            self._is_over = True
            # What comes from here on is read by whoever sends it.
            self._read_inbox()
            if bug is None:
                # They have done their work, but may still hold what wakes the keeper.
                for thread in self._threads - {keeper}:
                    thread.join()
            self._wake.close()
            self._over.set_result(None) if bug is None else self._over.set_exception(bug)

    def _count_alive(self) -> int:
        busy = self._starting + self._cleaning + self._ending
        return busy + len(self._ready) + len(self._out)

    def _fill(self) -> float:
        """Have as many made as are to be; how long until there may be more, in seconds."""
        rules = self.rules
        to_come_back = sum(one.uses < rules.max_uses for one in self._out.values())
        stock = 0 if self._is_dormant else max(rules.size - to_come_back, 0)
        wanted = len(self._queue) + stock
        coming = len(self._ready) + self._starting + self._cleaning
        # After failures, one tries it for all.
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
            self._work(self.maker.make, self._on_made)
            self._publish()
        return math.inf

    def _earliest_start(self) -> float:
        """Before when none is made, by the monotonic clock."""
        behind = -math.inf if self._queue else self._served_at + _BEHIND_SECONDS
        if not self._is_failing:
            return behind
        first, while_waited_for, longest = self.rules.pauses
        most = while_waited_for if self._queue else longest
        pause = min(first * (1 << min(max(self._troubles - 1, 0), 20)), most)
        return max(behind, self._failed_at + pause)

    def _idle_left(self) -> float:
        """How long those that wait still do so if nobody asks for one, in seconds."""
        timeout = self.rules.idle_timeout
        if timeout is None or self._is_dormant or self._queue:
            return math.inf
        return self._wanted_at + timeout - time.monotonic()

    def _publish(self) -> None:
        """Say how it stands, and then tell those who have waited for it."""
        self.stats = PoolStats(
            made=self._made,
            starting=self._starting,
            waiting=len(self._ready),
            handed_out=len(self._out),
            queued=len(self._queue),
            acquired=self._acquired,
            waited=self._waited,
            longest_wait=self._longest_wait,
            failed=self._failed,
            last_failure=self._last_failure,
        )
        to_tell, self._to_tell = self._to_tell, []
        for ticket in to_tell:
            try:
                ticket.tell()
            except RuntimeError:
                self.abandon(ticket)

    def _await_news(self, wake: int, seconds: float) -> None:
        """Wait for a message, the end of one that waits, or the time to do something.

        :param seconds: how long at most.
        """
        left = min(seconds, self._idle_left())
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        watched = {fd: one for one in self._ready if (fd := self.maker.pidfd(one.one)) >= 0}
        for fd in watched:
            poll.register(fd, select.POLLIN)
        # A day is as good as no end, and poll(2) can count it.
        most = None if left == math.inf else math.ceil(1000 * min(max(left, 0), 86400))
        for fd, _ in poll.poll(most):
            if fd == wake:
                os.eventfd_read(wake)
            else:
                self._ready.remove(watched[fd])
                self._bury(watched[fd])

    def _read_inbox(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                act, about = self._inbox.popleft()
                act(about)

    def _rest(self) -> None:
        """Have none wait that nobody has wanted for so long."""
        if self._idle_left() <= 0:
            self._is_dormant = True
            self._end_behind(self._ready)
            self._ready.clear()

    def _serve(self) -> None:
        while self._queue and self._ready:
            ticket, member = self._queue.popleft(), self._ready.popleft()
            member.uses += 1
            ticket.member = member
            ticket.is_last = member.uses >= self.rules.max_uses
            self._out[ticket] = member
            self._served_at = time.monotonic()
            waited = self._served_at - ticket.asked
            self._acquired += 1
            self._waited += waited
            self._longest_wait = max(self._longest_wait, waited)
            self._to_tell.append(ticket)

    # Messages.

    def _on_ask(self, ticket: Waiter[_T]) -> None:
        if self._is_closing:
            self._fail([ticket], Closed())
            return
        self._wanted_at = time.monotonic()
        self._is_dormant = False
        self._queue.append(ticket)

    def _on_hurry(self, ticket: Waiter[_T]) -> None:
        self._serve()
        with contextlib.suppress(ValueError):
            self._queue.remove(ticket)
            self._fail([ticket], PoolTimeout())

    def _on_abandon(self, ticket: Waiter[_T]) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(ticket)
        member = self._out.pop(ticket, None)
        if member is not None:
            self._acquired -= 1
            member.uses -= 1
            self._keep_ready(member, first=True)

    def _on_refuse(self, told: tuple[Waiter[_T], BaseException]) -> None:
        ticket, error = told
        member = self._out.pop(ticket, None)
        if member is None:
            # It was closed meanwhile.
            self._fail([ticket], Closed())
            return
        self._acquired -= 1
        self._end_behind([member])
        self._note_failure(error)
        ticket.refusals += 1
        if ticket.refusals < _REFUSALS_MAX and not self._is_closing:
            self._queue.appendleft(ticket)
        else:
            self._fail([ticket], error)

    def _on_back(self, ticket: Waiter[_T]) -> None:
        member = self._out.pop(ticket, None)
        if member is None:
            return
        self._troubles = 0
        self._wanted_at = time.monotonic()
        if ticket.is_last or self._is_closing:
            self._end_behind([member])
            return

        def clean() -> Slot[_T]:
            try:
                self.maker.clean(member.one)
            except BaseException:
                self._end([member])
                raise
            return member

        self._cleaning += 1
        self._work(clean, self._on_cleaned)

    def _on_cleaned(self, result: Slot[_T] | BaseException) -> None:
        self._cleaning -= 1
        if isinstance(result, BaseException):
            # That is its user's doing.
            self._failed += 1
            self._last_failure = _bare(result)
        else:
            self._keep_ready(result)

    def _on_made(self, result: _T | BaseException) -> None:
        self._starting -= 1
        if isinstance(result, BaseException):
            self._note_failure(result)
            if not self._starting and not self._ready and not self._cleaning:
                self._fail(self._queue, result)
                self._queue.clear()
            return
        self._made += 1
        self._is_failing = False
        self._keep_ready(Slot(result))

    def _on_close(self, _: None) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._fail(self._queue, Closed())
        self._queue.clear()
        self._end_behind([*self._ready, *self._out.values()])
        self._ready.clear()
        self._out.clear()

    def _keep_ready(self, member: Slot[_T], *, first: bool = False) -> None:
        most = self.rules.size + len(self._queue)
        if self._is_closing or self._is_dormant or len(self._ready) >= most:
            self._end_behind([member])
        elif first:
            self._ready.appendleft(member)
        else:
            self._ready.append(member)

    def _fail(self, tickets: Iterable[Waiter[_T]], failure: BaseException) -> None:
        for ticket in tickets:
            ticket.failure = failure
            self._to_tell.append(ticket)
        if self._is_over:
            self._publish()

    def _note_failure(self, error: BaseException) -> None:
        self._failed += 1
        self._last_failure = _bare(error)
        self._troubles += 1
        self._is_failing = True
        self._failed_at = time.monotonic()

    # What takes long.

    def _work(self, work: Callable[[], Any], tell: Callable[[Any], None]) -> None:
        """Have another thread do something, and tell what came of it."""

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
            # There are no more threads; without one none is made, but what there is comes to its
            # end.
            self._post(tell, error if work == self.maker.make else _result_of(work))

    def _bury(self, member: Slot[_T]) -> None:
        """Find out why one has ended that was waiting, and end what is left of it."""

        def look() -> BaseException:
            try:
                self.maker.check(member.one)
            except BaseException as error:
                return error
            finally:
                self._end([member])
            return RuntimeError("it has ended while it waited")

        def note(error: BaseException) -> None:
            self._ending -= 1
            self._note_failure(error)

        self._ending += 1
        self._work(look, note)

    def _end_behind(self, members: Iterable[Slot[_T]]) -> None:
        ended = list(members)
        if not ended:
            return
        if self._is_over:
            self._end(ended)
            return

        def note(_: object) -> None:
            self._ending -= len(ended)

        self._ending += len(ended)
        self._work(lambda: self._end(ended), note)

    def _end(self, members: Iterable[Slot[_T]]) -> None:
        """End some, all at once."""
        for act in (self.maker.kill, self.maker.end):
            for member in members:
                # One that can't be ended has ended, or ends with this process.
                with contextlib.suppress(Exception):
                    act(member.one)


def _event() -> int:
    """A descriptor for :func:`os.eventfd_write`, which is none of a standard stream's."""
    low = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(low)


def _result_of(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BaseException as error:
        return error


def _bare(error: BaseException) -> BaseException:
    """An error without the frames that it has passed, and what those have."""
    return error.with_traceback(None)
