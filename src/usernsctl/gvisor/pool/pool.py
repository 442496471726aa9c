"""Pools of sandboxes that are started ahead: making and cleaning sandboxes, and leasing them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NoReturn,
    Protocol,
    TypedDict,
    TypeVar,
    runtime_checkable,
)
from weakref import WeakKeyDictionary

from usernsctl._lean import LateModule
from usernsctl._system.deadlines import seconds_left
from usernsctl._system.descriptors import AsyncClosing, Closing
from usernsctl.commands.arguments import Stream, StrOrBytesPath
from usernsctl.commands.keywords import check_timeout
from usernsctl.commands.popen import DEVNULL
from usernsctl.errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    PoolError,
    PoolTimeoutError,
    RunscError,
)
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent.protocol import agent_error
from usernsctl.gvisor.pool.keeper import Closed, Keeper, PoolStats, PoolTimeout, Rules, Waiter
from usernsctl.gvisor.pool.leftovers import check_leftovers, read_leftovers
from usernsctl.gvisor.sandbox.host_namespace import HostBase
from usernsctl.gvisor.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = LateModule("asyncio")

#: How long the agent of a sandbox that waits is waited for when it is handed out, in seconds.
CHECK_SECONDS = 5

# How long that may take which is still to end, when a sandbox is cleaned.
_CLEAN_SECONDS = 10

# No program: whatever is inside, the agent starts a process for it, which can't be executed, and
# says so (EACCES, execve(2)).
_NOTHING = "/"
_WARMING = ("true",)
_STREAMS: dict[str, Any] = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}


class SandboxMaker:
    """What a pool does with its sandboxes, wherever they come from."""

    def __init__(
        self,
        start: Callable[[], Sandbox],
        start_seconds: float,
        *,
        warms: bool = False,
        reuses: bool = False,
    ) -> None:
        """Have them started in some way.

        :param start: starts one, and returns when it runs.
        :param start_seconds: how long its agent may take then until it answers.
        :param warms: whether a command that does nothing is run in each. By that, gVisor gets to
            know the files that most programs need, so that the next command starts sooner.
        :param reuses: whether they have several users, one after the other.
        """
        self._start = start
        self._start_seconds = start_seconds
        self._warms = warms
        self._reuses = reuses
        # What each had before its first user.
        self._before: WeakKeyDictionary[Sandbox, set[tuple[bytes, bytes]] | None] = (
            WeakKeyDictionary()
        )

    def make(self) -> Sandbox:
        """Start one, and its agent.

        :raises PoolError: the sandbox is detached, and so would outlive the pool.
        :raises BaseException: what the start raises, and :meth:`check`.
        """
        box = self._start()
        try:
            if box.detached:
                raise PoolError(
                    "the pool's template has started a detached sandbox, which would outlive the "
                    "pool",
                    step="pool",
                    remedy="let start() of the template leave out detach=True",
                )
            self._look(box, self._start_seconds)
            if self._warms:
                self._warm(box)
            if self._reuses:
                self._before[box] = read_leftovers(box, self._start_seconds)
        except BaseException:
            box.close()
            raise
        return box

    def _warm(self, box: Sandbox) -> None:
        with contextlib.suppress(CommandNotFoundError, CommandNotExecutableError):
            box.run(_WARMING, **_STREAMS, timeout=self._start_seconds)

    def check(self, box: Sandbox) -> None:
        """See whether its agent starts commands.

        :raises TimeoutExpired: it does not answer.
        :raises UsernsError: it is of no use, or the sandbox has ended.
        """
        self._look(box, CHECK_SECONDS)

    def _look(self, box: Sandbox, seconds: float) -> None:
        try:
            box.run([_NOTHING], **_STREAMS, timeout=seconds)
        except CommandNotExecutableError:
            return
        raise _lied(box)

    async def check_async(self, box: Sandbox) -> None:
        """The same from asyncio.

        :raises TimeoutError: it does not answer.
        :raises UsernsError: it is of no use, or the sandbox has ended.
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                process = await box.create_subprocess_exec(_NOTHING, **_STREAMS)
        except CommandNotExecutableError:
            return
        process.kill()
        raise _lied(box)

    def clean(self, box: Sandbox) -> None:
        """End all that was started in it, and check that nothing is left of that.

        :raises TimeoutExpired: its agent does not answer.
        :raises UsernsError: that could not be done, or something is left.
        """
        box._end_others(_CLEAN_SECONDS)
        self._look(box, self._start_seconds)
        check_leftovers(box, self._before[box], self._start_seconds)

    def kill(self, box: Sandbox) -> None:
        """End all that is in it."""
        box.kill()

    def end(self, box: Sandbox) -> None:
        """Close it."""
        box.close()

    def pidfd(self, box: Sandbox) -> int:
        """That of its process 1, on this side."""
        return box.init.pidfd


def _lied(box: Sandbox) -> RunscError:
    return agent_error(box.id, "is not to be believed: it says that it runs a directory")


_T = TypeVar("_T")


class _Lease(Generic[_T]):
    """What is the same for threads and for asyncio.

    An interrupt may come at any time, also just before or just after a block: so whoever forgets
    this object has given back what it has.
    """

    _ticket: Waiter[_T] | None = None
    _has = False
    _is_over = False

    def __init__(self, stock: Keeper[_T], timeout: float | None) -> None:
        """Want one, as soon as the block is entered.

        :param timeout: how long to wait then, in seconds.
        """
        self._stock = stock
        self._timeout = timeout

    def _begin(self) -> float | None:
        """Until when to wait, by the monotonic clock; ``None``: without an end.

        :raises ValueError: this was entered before.
        """
        if self._ticket is not None:
            raise ValueError("a block was entered by this before: call acquire once more")
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _ask(self, tell: Callable[[], object]) -> Waiter[_T]:
        self._ticket = ticket = Waiter[_T](tell)
        try:
            self._stock.ask(ticket)
        except Closed:
            raise _closed() from None
        return ticket

    def _given(self, ticket: Waiter[_T]) -> _T:
        """What the ticket was told of.

        :raises PoolError: a failure.
        :raises PoolTimeoutError: that nothing was there in time.
        :raises ValueError: the pool is closed.
        """
        failure = ticket.failure
        if isinstance(failure, Closed):
            raise _closed()
        if isinstance(failure, PoolTimeout):
            self._raise_late()
        if failure is not None:
            raise PoolError(
                f"no sandbox could be had: {failure}", step="pool", **_why(failure)
            ) from failure
        assert ticket.member is not None
        return ticket.member.one

    @contextlib.contextmanager
    def _refused_on_error(self, ticket: Waiter[_T]) -> Iterator[None]:
        """Refuse what the ticket was given if a check in the block fails; it is asked for again."""
        try:
            yield
        except Exception as error:
            self._stock.refuse(ticket, error)

    def _raise_late(self) -> NoReturn:
        stats, limit = self._stock.stats, self._stock.rules.limit
        text = (
            f"no sandbox was free within {self._timeout:g} s: of {limit} at most, "
            f"{stats.handed_out} are handed out, {stats.starting} are being made and "
            f"{stats.waiting} wait; {stats.queued} other calls want one"
        )
        failure = stats.last_failure
        if failure is None:
            raise PoolTimeoutError(text, step="pool")
        text += f"; the last one that failed: {failure}"
        raise PoolTimeoutError(text, step="pool", **_why(failure)) from failure

    def _undo(self) -> None:
        """Want nothing any more."""
        self._has = False
        if self._ticket is not None:
            self._stock.abandon(self._ticket)
        self._is_over = True

    def _give_back(self) -> None:
        if self._has and self._ticket is not None:
            self._stock.give_back(self._ticket)
            self._is_over = True
            self._has = False

    def __del__(self) -> None:
        if self._has:
            self._give_back()
        elif not self._is_over and self._ticket is not None:
            self._undo()


class Lease(_Lease[_T], contextlib.AbstractContextManager[_T]):
    """The one for threads."""

    def __enter__(self) -> _T:
        deadline = self._begin()
        told = threading.Lock()
        told.acquire()
        try:
            ticket = self._ask(told.release)
            while True:
                left = seconds_left(deadline)
                if not told.acquire(timeout=-1 if left is None else min(left, _WAIT_MAX)):
                    self._stock.hurry(ticket)
                    told.acquire()
                one = self._given(ticket)
                with self._refused_on_error(ticket):
                    self._stock.maker.check(one)
                    self._has = True
                    return one
        except BaseException:
            self._undo()
            raise

    def __exit__(self, *_: object) -> None:
        self._give_back()


class AsyncLease(_Lease[_T], contextlib.AbstractAsyncContextManager[_T]):
    """The one for asyncio."""

    async def __aenter__(self) -> _T:
        deadline = self._begin()
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        try:
            ticket = self._ask(lambda: loop.call_soon_threadsafe(told.set))
            while True:
                try:
                    async with asyncio.timeout(seconds_left(deadline)):
                        await told.wait()
                except TimeoutError:
                    self._stock.hurry(ticket)
                    await told.wait()
                told.clear()
                one = self._given(ticket)
                with self._refused_on_error(ticket):
                    await self._stock.maker.check_async(one)
                    self._has = True
                    return one
        except BaseException:
            self._undo()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._give_back()


# As long as a lock can be waited for.
_WAIT_MAX = threading.TIMEOUT_MAX


def _closed() -> ValueError:
    return ValueError("the pool is closed")


def _why(failure: BaseException) -> dict[str, Any]:
    """The cause and the remedy of a failure, for an error that tells of it."""
    return {name: getattr(failure, name, None) for name in ("cause", "remedy")}


#: How long a start may take where nobody says how long, in seconds.
START_SECONDS = 30


@runtime_checkable
class Starter(Protocol):
    """An object that starts sandboxes, such as a template."""

    def start(
        self,
        *,
        stdin: Stream = DEVNULL,
        stdout: Stream = DEVNULL,
        stderr: Stream = DEVNULL,
        in_cgroup: StrOrBytesPath | int | None = None,
        timeout: float | None = None,
    ) -> Sandbox:
        """Start a sandbox, and return when it is ready: see :class:`usernsctl.Sandbox`."""


class PoolOptions(TypedDict, total=False):
    """Keyword arguments of :class:`usernsctl.SandboxPool`."""

    template: Starter | None
    max_uses: int
    idle_timeout: float | None
    limit: int | None
    starts: int | None
    start_timeout: float
    env: Mapping[str, str] | None
    in_cgroup: StrOrBytesPath | int | None
    stdin: Stream
    stdout: Stream
    stderr: Stream


class _UsedAgain(Sandbox):
    """One that is to be cleaned, and so outlives the agent's connection.

    Its process 1 stays when all else in it is killed. So that is the agent: whoever was root there
    could have traced any other program, and made it his own.
    """

    _agent_outlives = True


class SandboxPool(Closing, AsyncClosing):
    """Sandboxes that are started ahead and leased, to threads and to asyncio.

    :meth:`usernsctl.SandboxHost.pool` creates a pool. Threads of the pool start the sandboxes, the
    next one as soon as one is leased. All sandboxes of the pool, leased ones included, end when the
    pool is closed, and when the process that created it ends.

    A SandboxPool is a context manager, also an asynchronous one, that closes the pool at its end.

    :param SandboxHost host: the host to start the sandboxes in.
    :param int size: the number of idle sandboxes, with released ones that are leased again.
    :param template: a :class:`Template` or another object with its method ``start``, to start the
        sandboxes; by default the sandboxes have no first command.
    :param int max_uses: the number of leases of one sandbox, 1 by default. If it is more, the pool
        kills all processes of a lease before the next one, and ends a sandbox in which settings of
        the kernel were changed. The files of a lease stay, such as programs that it has replaced.
    :param float idle_timeout: the time without a call of :meth:`acquire`, in seconds, after which
        the pool ends its idle sandboxes until the next call; ``None``: never.
    :param int limit: the maximum number of sandboxes, including those being started or ended. A
        call of :meth:`acquire` waits if all are in use. By default twice `size`.
    :param int starts: the maximum number of simultaneous starts; by default the number of
        processors.
    :param float start_timeout: the time limit of one start, in seconds.
    :param env: variables of the sandboxes, as for :class:`usernsctl.Sandbox`; not with `template`,
        which has its variables.
    :param in_cgroup: the control group of the sandboxes, as for :class:`usernsctl.Sandbox`.
    :param stdin: the standard input of the template's command, DEVNULL by default; the same holds
        for `stdout` and `stderr`.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: an argument has a wrong value.
    """

    _what = "a SandboxPool"
    _stock: Keeper[Sandbox] | None = None

    def __init__(
        self,
        host: HostBase,
        size: int,
        *,
        template: Starter | None = None,
        max_uses: int = 1,
        idle_timeout: float | None = None,
        limit: int | None = None,
        starts: int | None = None,
        start_timeout: float = START_SECONDS,
        env: Mapping[str, str] | None = None,
        in_cgroup: StrOrBytesPath | int | None = None,
        stdin: Stream = DEVNULL,
        stdout: Stream = DEVNULL,
        stderr: Stream = DEVNULL,
    ) -> None:
        """Begin to start sandboxes, and return at once."""
        rules = _rules(size, limit, starts, max_uses, idle_timeout)
        seconds = checks.seconds("start_timeout", start_timeout)
        how: dict[str, Any] = {"stdout": stdout, "stderr": stderr}
        if stdin != DEVNULL:
            # What has no command of its own has no use for one.
            how["stdin"] = stdin
        for name, stream in how.items():
            checks.stream(name, stream)
            if template is None and stream != DEVNULL:
                raise ValueError(f"{name}: without a template there is no command to have it")
        checks.variables(env)
        if template is not None and env is not None:
            raise ValueError("env is the template's: it was made with it")
        how |= {"in_cgroup": in_cgroup, "timeout": seconds}

        def start() -> Sandbox:
            if template is not None:
                return template.start(**how)
            kind = Sandbox if rules.max_uses == 1 else _UsedAgain
            return kind(None, host=host, env=env, **how)

        boxes = SandboxMaker(start, seconds, warms=template is None, reuses=rules.max_uses > 1)
        self._stock = Keeper[Sandbox](boxes, rules)

    def _get(self) -> Keeper[Sandbox]:
        assert self._stock is not None
        return self._stock

    def acquire(self, timeout: float | None = None) -> AbstractContextManager[Sandbox]:
        """Lease a sandbox for a ``with`` block.

        The caller that has waited longest, in a thread or in asyncio, gets the next sandbox, after
        its agent has answered. At the end of the block, all processes in the sandbox are killed,
        and the sandbox is closed, unless `max_uses` permits a further lease. The pool replaces a
        sandbox that the block has closed.

        :param timeout: the time limit, in seconds; ``None``: no limit.
        :returns: a context manager, which waits when the block is entered, and raises the errors
            below.
        :raises PoolTimeoutError: no sandbox became free within `timeout` seconds.
        :raises PoolError: no sandbox could be started; `__cause__` is the reason, which also gives
            `cause` and `remedy`.
        :raises ValueError: the pool is closed, also while the call waits, or belongs to the parent
            of this forked process.
        """
        check_timeout(timeout)
        return Lease(self._get(), timeout)

    def acquire_async(self, timeout: float | None = None) -> AbstractAsyncContextManager[Sandbox]:
        """Lease a sandbox for an ``async with`` block: see :meth:`acquire`.

        If the task is cancelled, an unused sandbox goes to the next waiter, and a used one is
        closed.

        :param timeout: the time limit, in seconds; ``None``: no limit.
        """
        check_timeout(timeout)
        return AsyncLease(self._get(), timeout)

    def stats(self) -> PoolStats:
        """Return the counters of the pool, and its present state."""
        return self._get().stats

    @property
    def closed(self) -> bool:
        """Return whether the pool is closed."""
        return self._get().closed

    def close(self) -> None:
        """End all sandboxes, leased ones included, and return when they have ended.

        Pending calls of :meth:`acquire` raise ValueError. A start in progress delays the return by
        `start_timeout` at most. Any thread may call this at any time. In a forked child of the
        process that created the pool, it only closes descriptors.
        """
        if self._stock is not None:
            self._stock.close()

    async def close_async(self) -> None:
        """End all sandboxes from asyncio: see :meth:`close`."""
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.close)))

    def _holds(self) -> bool:
        stock = self._stock
        return stock is not None and not stock.closed and os.getpid() == stock.creator

    def __repr__(self) -> str:
        stock = self._get()
        stats, end = stock.stats, ", closed" if stock.closed else ""
        return (
            f"<SandboxPool: {stats.waiting} wait, {stats.handed_out} are handed out, "
            f"{stats.starting} are being made{end}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a SandboxPool can't be copied or pickled: it holds sandboxes; make one in each process"
        )


def _rules(
    size: int,
    limit: int | None,
    starts: int | None,
    max_uses: int,
    idle_timeout: float | None,
) -> Rules:
    """The rules of a pool.

    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: one can't have its value.
    """
    checks.count("size", size)
    processors = len(os.sched_getaffinity(0))
    limit = 2 * size if limit is None else checks.count("limit", limit)
    if limit < size:
        raise ValueError(f"limit: with at most {limit} sandboxes, {size} (size) can't wait")
    return Rules(
        size=size,
        limit=limit,
        starts=processors if starts is None else checks.count("starts", starts),
        max_uses=checks.count("max_uses", max_uses),
        idle_timeout=None if idle_timeout is None else checks.seconds("idle_timeout", idle_timeout),
    )
