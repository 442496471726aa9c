"""Pools of sandboxes that are started in advance, and the leases of such sandboxes."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from usernsctl._system.descriptors import AsyncClosing, Closing, deadline_after, seconds_left
from usernsctl.commands.arguments import Stream, StrOrBytesPath, check_timeout
from usernsctl.commands.popen import DEVNULL
from usernsctl.errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    PoolError,
    PoolTimeoutError,
    RunscError,
)
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent.activity import Activity
from usernsctl.gvisor.agent.protocol import agent_error
from usernsctl.gvisor.launch.limits import check_duration
from usernsctl.gvisor.launch.options import iterable
from usernsctl.gvisor.pool.keeper import Closed, Keeper, PoolStats, PoolTimeout, Rules, Waiter
from usernsctl.gvisor.pool.leftovers import check_leftovers, read_leftovers
from usernsctl.gvisor.sandbox.host_namespace import HostBase, check_host
from usernsctl.gvisor.sandbox.records import SandboxEnd
from usernsctl.gvisor.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = LateModule("asyncio")

#: The timeout for the agent's answer when an idle sandbox is checked before a lease, in seconds.
CHECK_SECONDS = 5

# The timeout for killing the processes of a lease that has ended, in seconds.
_CLEAN_SECONDS = 10

# A command that tests the agent without any program of the root filesystem. The agent forks, and
# its child's execve(2) of a directory fails with EACCES.
_PROBE_COMMAND = "/"
_WARMING_COMMAND = ("true",)
_STREAMS: dict[str, Any] = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}


class SandboxMaker:
    """The operations of a pool on its sandboxes: the implementation of ``keeper.Maker``."""

    def __init__(
        self,
        start: Callable[[], Sandbox],
        start_seconds: float,
        *,
        warms: bool = False,
        reuses: bool = False,
    ) -> None:
        """Store the settings, without starting a sandbox.

        :param start: a function that starts a sandbox, and returns it once it runs.
        :param start_seconds: the timeout for the first answer of the sandbox's agent, in seconds.
        :param warms: whether to run ``true`` in each new sandbox. gVisor then keeps the files of
            the C library open, so the next command starts faster.
        :param reuses: whether a sandbox is leased more than once.
        """
        self._start = start
        self._start_seconds = start_seconds
        self._warms = warms
        self._reuses = reuses
        # The kernel settings and the files in /dev/shm of each sandbox, as they were before its
        # first lease.
        self._initial_leftovers: WeakKeyDictionary[Sandbox, set[tuple[bytes, bytes]] | None] = (
            WeakKeyDictionary()
        )
        # The activities that stop the idle timeouts of sandboxes that are not leased.
        self._kept: WeakKeyDictionary[Sandbox, Activity] = WeakKeyDictionary()

    def make(self) -> Sandbox:
        """Start a sandbox and its agent, and return the sandbox.

        :raises PoolError: the sandbox is detached, so it would outlive the pool.
        :raises BaseException: the exception of the step that failed. If the sandbox had been
            started, it was closed.
        """
        box = self._start()
        try:
            if box.detached:
                raise PoolError(
                    "the pool's template has started a detached sandbox, which would outlive the "
                    "pool",
                    step="pool",
                    remedy="leave out detach=True in the start() of the template",
                )
            self._probe(box, self._start_seconds)
            self.keep(box)
            if self._warms:
                self._warm(box)
            if self._reuses:
                self._initial_leftovers[box] = read_leftovers(box, self._start_seconds)
        except BaseException:
            box.close()
            raise
        return box

    def keep(self, box: Sandbox) -> None:
        """Stop the idle timeout of a sandbox, until :meth:`check` lets it begin.

        :raises SandboxEndedError: the sandbox has ended.
        :raises ValueError: the sandbox was closed.
        """
        if box not in self._kept and (activity := box._commands.begin()) is not None:
            self._kept[box] = activity

    def _end_keeping(self, box: Sandbox) -> None:
        if (activity := self._kept.pop(box, None)) is not None:
            activity.end()

    def _warm(self, box: Sandbox) -> None:
        with contextlib.suppress(CommandNotFoundError, CommandNotExecutableError):
            box.run(_WARMING_COMMAND, **_STREAMS, timeout=self._start_seconds)

    def check(self, box: Sandbox) -> None:
        """Check that the agent of a sandbox starts commands; if so, let the idle timeout begin.

        :raises TimeoutExpired: the agent does not answer.
        :raises UsernsError: the agent failed, or the sandbox has ended.
        """
        self._probe(box, CHECK_SECONDS)
        self._end_keeping(box)

    def _probe(self, box: Sandbox, seconds: float) -> None:
        try:
            box.run([_PROBE_COMMAND], **_STREAMS, timeout=seconds)
        except CommandNotExecutableError:
            return
        raise _invalid_answer_error(box)

    async def check_async(self, box: Sandbox) -> None:
        """Perform the steps of :meth:`check` without blocking the event loop.

        :raises TimeoutError: the agent does not answer.
        :raises UsernsError: the agent failed, or the sandbox has ended.
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                process = await box.create_subprocess_exec(_PROBE_COMMAND, **_STREAMS)
        except CommandNotExecutableError:
            self._end_keeping(box)
            return
        process.kill()
        raise _invalid_answer_error(box)

    def clean(self, box: Sandbox) -> None:
        """Kill all processes of a lease; check that settings and shared memory are unchanged.

        :raises TimeoutExpired: the agent does not answer.
        :raises UsernsError: a process survived, or a kernel setting or shared memory was changed.
        """
        self.keep(box)
        box._end_others(_CLEAN_SECONDS)
        self._probe(box, self._start_seconds)
        check_leftovers(box, self._initial_leftovers[box], self._start_seconds)

    def kill(self, box: Sandbox) -> None:
        """Kill all processes in a sandbox."""
        box.kill()

    def expire(self, box: Sandbox, ttl: float, used: float) -> None:
        """Kill a sandbox whose lease has exceeded its time limit, for the reason ``timeout``."""
        box._end_by(
            SandboxEnd(
                reason="timeout",
                limit=round(ttl * 1000),
                used=round(used * 1000),
                text=f"the sandbox was ended: its lease took {used:.3f} s, and the time limit of "
                f"the lease is {ttl:.3f} s",
            )
        )

    def end(self, box: Sandbox) -> None:
        """Kill a sandbox, and remove its files."""
        self._end_keeping(box)
        box.close()

    def pidfd(self, box: Sandbox) -> int:
        """Return the pidfd of the host process that exits when the sandbox ends."""
        return box.init.pidfd


def _invalid_answer_error(box: Sandbox) -> RunscError:
    return agent_error(box.id, "sent an invalid message: execve(2) of a directory succeeded")


_T = TypeVar("_T")


class _Lease(Generic[_T]):
    """Base class of the context managers that lease a sandbox.

    The finaliser ends the lease, too, because ``__exit__`` is not called if a signal handler raises
    an exception just before or after the ``with`` body.
    """

    _waiter: Waiter[_T] | None = None
    _is_leased = False
    _is_released = False

    def __init__(self, keeper: Keeper[_T], timeout: float | None, ttl: float | None = None) -> None:
        """Store the options of a lease; the lease begins when the ``with`` block is entered.

        :param timeout: how long to wait for a sandbox, in seconds; ``None`` means no limit.
        :param ttl: the time limit of the lease, in seconds; ``None`` means no limit.
        """
        self._ttl = math.inf if ttl is None else ttl
        self._keeper = keeper
        self._timeout = timeout

    def _deadline(self) -> float | None:
        """Return the deadline for receiving a sandbox, or ``None``.

        :raises ValueError: this context manager has been entered before.
        """
        if self._waiter is not None:
            raise ValueError("a lease can be entered only once: call acquire again")
        return deadline_after(self._timeout)

    def _enqueue(self, tell: Callable[[], object]) -> Waiter[_T]:
        self._waiter = waiter = Waiter[_T](tell, self._ttl)
        try:
            self._keeper.enqueue(waiter)
        except Closed:
            raise _closed_error() from None
        return waiter

    def _result_of(self, waiter: Waiter[_T]) -> _T:
        """Return the sandbox that a waiter has received; raise the error if the waiter failed.

        :raises PoolError: no sandbox could be started.
        :raises PoolTimeoutError: no sandbox became idle before the deadline.
        :raises ValueError: the pool is closed.
        """
        failure = waiter.failure
        if isinstance(failure, Closed):
            raise _closed_error()
        if isinstance(failure, PoolTimeout):
            self._raise_timeout()
        if failure is not None:
            raise PoolError(
                f"no sandbox could be started: {failure}", step="pool", **_diagnosis_of(failure)
            ) from failure
        assert waiter.slot is not None
        return waiter.slot.sandbox

    @contextlib.contextmanager
    def _reject_on_error(self, waiter: Waiter[_T]) -> Iterator[None]:
        """Reject the waiter's sandbox if the ``with`` body raises an :class:`Exception`.

        The exception is suppressed, so that the waiter can wait for another sandbox.
        """
        try:
            yield
        except Exception as error:
            self._keeper.reject(waiter, error)

    def _raise_timeout(self) -> NoReturn:
        stats, limit = self._keeper.stats, self._keeper.rules.limit
        text = (
            f"no sandbox was free within {self._timeout:g} s: the limit is {limit}; "
            f"{stats.leased} leased, {stats.starting} starting, {stats.idle} idle; "
            f"{stats.queued} other calls wait"
        )
        failure = stats.last_failure
        if failure is None:
            raise PoolTimeoutError(text, step="pool")
        text += f"; the last failure: {failure}"
        raise PoolTimeoutError(text, step="pool", **_diagnosis_of(failure)) from failure

    def _abandon(self) -> None:
        """Leave the pool's queue; return a sandbox that was not used yet to the pool."""
        self._is_leased = False
        if self._waiter is not None:
            self._keeper.abandon(self._waiter)
        self._is_released = True

    def _release(self) -> None:
        if self._is_leased and self._waiter is not None:
            self._keeper.release(self._waiter)
            self._is_released = True
            self._is_leased = False

    def __reduce__(self) -> NoReturn:
        # The finaliser of a copy would end the lease.
        raise TypeError("a lease can't be copied or pickled: call acquire again")

    def __del__(self) -> None:
        if self._is_leased:
            self._release()
        elif not self._is_released and self._waiter is not None:
            self._abandon()


class Lease(_Lease[_T], contextlib.AbstractContextManager[_T]):
    """A context manager that leases a sandbox for a ``with`` block."""

    def __enter__(self) -> _T:
        deadline = self._deadline()
        notified = threading.Lock()
        notified.acquire()
        try:
            waiter = self._enqueue(notified.release)
            while True:
                left = seconds_left(deadline)
                if not notified.acquire(
                    timeout=-1 if left is None else min(left, _LOCK_SECONDS_MAX)
                ):
                    self._keeper.expire(waiter)
                    notified.acquire()
                sandbox = self._result_of(waiter)
                with self._reject_on_error(waiter):
                    self._keeper.maker.check(sandbox)
                    self._keeper.begin(waiter)
                    self._is_leased = True
                    return sandbox
        except BaseException:
            self._abandon()
            raise

    def __exit__(self, *_: object) -> None:
        self._release()


class AsyncLease(_Lease[_T], contextlib.AbstractAsyncContextManager[_T]):
    """A context manager that leases a sandbox for an ``async with`` block."""

    async def __aenter__(self) -> _T:
        deadline = self._deadline()
        loop = asyncio.get_running_loop()
        notified = asyncio.Event()
        try:
            waiter = self._enqueue(lambda: loop.call_soon_threadsafe(notified.set))
            while True:
                try:
                    async with asyncio.timeout(seconds_left(deadline)):
                        await notified.wait()
                except TimeoutError:
                    self._keeper.expire(waiter)
                    await notified.wait()
                notified.clear()
                sandbox = self._result_of(waiter)
                with self._reject_on_error(waiter):
                    await self._keeper.maker.check_async(sandbox)
                    self._keeper.begin(waiter)
                    self._is_leased = True
                    return sandbox
        except BaseException:
            self._abandon()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()


# The greatest timeout that Lock.acquire() accepts, in seconds.
_LOCK_SECONDS_MAX = threading.TIMEOUT_MAX


def _closed_error() -> ValueError:
    return ValueError("the pool is closed")


def _diagnosis_of(failure: BaseException) -> dict[str, Any]:
    """Return the cause and the remedy of `failure`, as keyword arguments for a PoolError."""
    return {name: getattr(failure, name, None) for name in ("cause", "remedy")}


#: The default timeout for starting a sandbox, in seconds.
START_SECONDS = 30


@runtime_checkable
class Starter(Protocol):
    """The interface of an object that starts a pool's sandboxes, such as a template."""

    def start(
        self,
        *,
        stdin: Stream = DEVNULL,
        stdout: Stream = DEVNULL,
        stderr: Stream = DEVNULL,
        in_cgroup: StrOrBytesPath | int | None = None,
        timeout: float | None = None,
    ) -> Sandbox:
        """Start a sandbox, and return it once it is ready: see :class:`usernsctl.Sandbox`."""


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
    publish: Iterable[str | int]
    stdin: Stream
    stdout: Stream
    stderr: Stream


class _ReusableSandbox(Sandbox):
    """A sandbox for several leases.

    At the end of a lease, all processes except PID 1 are killed. PID 1 must be an agent, because
    processes of the lease could take over any other program by ptrace(2). This agent keeps running
    when its connection is closed.
    """

    _agent_outlives = True


class SandboxPool(Closing, AsyncClosing):
    """A pool of sandboxes that are started in advance, and leased to threads and to asyncio tasks.

    :meth:`usernsctl.SandboxHost.pool` creates a pool. Threads of the pool start the sandboxes, and
    replace leased ones. All sandboxes of the pool, including leased ones, end when the pool is
    closed, or when the process that created the pool exits.

    A SandboxPool is a context manager, also an asynchronous one, that closes the pool on exit.

    :param SandboxHost host: the host in which the sandboxes are started.
    :param int size: the number of idle sandboxes that the pool maintains, including released ones
        that can be leased again.
    :param template: the object that starts the sandboxes: a :class:`Template`, or another object
        with a method ``start`` like a template's. By default, the sandboxes have no first command.
    :param int max_uses: the maximum number of leases of one sandbox, 1 by default. If it is
        greater, the pool kills all processes of a lease before the next lease, and kills a sandbox
        whose kernel settings or files in /dev/shm were changed. Other changed files, including
        programs, are not restored.
    :param float idle_timeout: the time without a call of :meth:`acquire`, in seconds, after which
        the pool kills its idle sandboxes, and starts none until the next call; ``None`` to keep
        them.
    :param int limit: the maximum number of sandboxes, including sandboxes that are being started or
        killed. If all are in use, :meth:`acquire` waits. The default is twice `size`.
    :param int starts: the maximum number of sandboxes that are started at the same time; the
        default is the number of processors.
    :param float start_timeout: the timeout for starting one sandbox, in seconds.
    :param env: environment variables of the sandboxes, as for :class:`usernsctl.Sandbox`; not with
        `template`, whose command has its variables already.
    :param in_cgroup: the cgroup of the sandboxes, as for :class:`usernsctl.Sandbox`.
    :param publish: ports of the host that are forwarded to ports of each sandbox, as for
        :class:`usernsctl.Sandbox`; not with `template`. A port of the host can be forwarded to one
        sandbox only. With a `limit` greater than 1, the kernel must therefore choose the port: pass
        ``[ADDR:]0:INSIDE``, or INSIDE as a number. ``box.ports`` contains the chosen port.
    :param stdin: the standard input of the template's command, DEVNULL by default. `stdout` and
        `stderr` are its standard output and error, also DEVNULL by default.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: an argument has a wrong value, or `host` is closed.
    """

    _what = "a SandboxPool"
    _keeper: Keeper[Sandbox] | None = None

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
        publish: Iterable[str | int] = (),
        stdin: Stream = DEVNULL,
        stdout: Stream = DEVNULL,
        stderr: Stream = DEVNULL,
    ) -> None:
        """Start the pool's threads, which start sandboxes; return without waiting for sandboxes."""
        check_host(host)._check_open()
        if template is not None and not isinstance(template, Starter):
            raise TypeError(f"template must have a method start, not {template!r}")
        rules = _rules(size, limit, starts, max_uses, idle_timeout)
        seconds = checks.seconds("start_timeout", start_timeout)
        how: dict[str, Any] = {"stdout": stdout, "stderr": stderr}
        if stdin != DEVNULL:
            # Pass stdin only if the caller has set it: a sandbox without a first command does not
            # accept it.
            how["stdin"] = stdin
        for name, stream in how.items():
            checks.stream(name, stream)
            if template is None and stream != DEVNULL:
                raise ValueError(f"{name} needs a template: other pools start no command")
        checks.variables(env)
        if template is not None and env is not None:
            raise ValueError(
                "env and template exclude each other: the template's command has its variables"
            )
        ports = _check_ports(publish, host, rules)
        if template is not None and ports:
            raise ValueError("publish: the sandboxes of a template have no published ports")
        how |= {"in_cgroup": in_cgroup, "timeout": seconds}

        def start() -> Sandbox:
            if template is not None:
                return template.start(**how)
            kind = Sandbox if rules.max_uses == 1 else _ReusableSandbox
            return kind(None, host=host, env=env, publish=ports, **how)

        boxes = SandboxMaker(start, seconds, warms=template is None, reuses=rules.max_uses > 1)
        self._keeper = Keeper[Sandbox](boxes, rules)

    def _get(self) -> Keeper[Sandbox]:
        assert self._keeper is not None
        return self._keeper

    def acquire(
        self, timeout: float | None = None, *, ttl: float | str | None = None
    ) -> AbstractContextManager[Sandbox]:
        """Lease a sandbox for a ``with`` block.

        The caller that has waited longest, in a thread or in asyncio, receives the next sandbox,
        after a check that the sandbox's agent answers.

        At the end of the block, all processes in the sandbox are killed. The sandbox is closed,
        unless `max_uses` permits another lease. If the body of the ``with`` statement closes the
        sandbox, the pool starts a new sandbox.

        :param timeout: how long to wait for a sandbox, in seconds; ``None`` means no limit.
        :param ttl: the time limit of the ``with`` block, as seconds, or as a text such as ``"2m"``.
            At the time limit, the pool kills the sandbox, and the results of its commands have the
            reason ``"timeout"``.
        :returns: a context manager that waits for a sandbox when the ``with`` block is entered.
            Entering the block raises the following errors.
        :raises PoolTimeoutError: no sandbox became idle within `timeout` seconds.
        :raises PoolError: no sandbox could be started. `__cause__` is the exception of the failed
            start, from which `cause` and `remedy` are copied.
        :raises ValueError: the pool is closed before or during the wait, or the pool was created
            before this process was forked.
        """
        check_timeout(timeout)
        return Lease(self._get(), timeout, check_duration("ttl", ttl))

    def acquire_async(
        self, timeout: float | None = None, *, ttl: float | str | None = None
    ) -> AbstractAsyncContextManager[Sandbox]:
        """Lease a sandbox for an ``async with`` block: see :meth:`acquire`.

        If the task is cancelled before the body of the ``async with`` statement, the sandbox goes
        to the next waiter; if the task is cancelled in the body, the lease ends.

        :param timeout: how long to wait for a sandbox, in seconds; ``None`` means no limit.
        :param ttl: the time limit of the lease, as for :meth:`acquire`.
        """
        check_timeout(timeout)
        return AsyncLease(self._get(), timeout, check_duration("ttl", ttl))

    def stats(self) -> PoolStats:
        """Return the counters of the pool, and its current state."""
        return self._get().stats

    @property
    def closed(self) -> bool:
        """Return whether the pool is closed."""
        return self._get().closed

    def close(self) -> None:
        """Kill all sandboxes, including leased ones, and return when they have ended.

        Pending calls of :meth:`acquire` raise ValueError. A sandbox that is being started delays
        the return, by `start_timeout` at most. Any thread may call this method at any time. In a
        forked child of the process that created the pool, the method only closes descriptors.
        """
        if self._keeper is not None:
            self._keeper.close()

    async def close_async(self) -> None:
        """Kill all sandboxes, without blocking the event loop: see :meth:`close`."""
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.close)))

    def _holds(self) -> bool:
        keeper = self._keeper
        return keeper is not None and not keeper.closed and os.getpid() == keeper.creator

    def __repr__(self) -> str:
        keeper = self._get()
        stats, end = keeper.stats, ", closed" if keeper.closed else ""
        return (
            f"<SandboxPool: {stats.idle} idle, {stats.leased} leased, "
            f"{stats.starting} starting{end}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SandboxPool can't be copied or pickled: create a pool in each process")


def _check_ports(given: Iterable[str | int], host: HostBase, rules: Rules) -> tuple[str | int, ...]:
    """Check the argument `publish` of a pool, and return it as a tuple.

    :raises TypeError: the argument has the wrong type.
    :raises ValueError: the argument has a wrong value, or the pool's sandboxes can't publish these
        ports.
    """
    if given == ():
        return ()
    from usernsctl.gvisor.sandbox.ports import check_network, parse_ports

    given = tuple(iterable("publish", given))
    ports = parse_ports(given)
    check_network(ports, host.request.network)
    for port in ports:
        if port.outside and rules.limit > 1:
            raise ValueError(
                f"publish: up to {rules.limit} sandboxes can't share port {port.outside}; "
                "0 stands for a free port for each"
            )
    return given


def _rules(
    size: int,
    limit: int | None,
    starts: int | None,
    max_uses: int,
    idle_timeout: float | None,
) -> Rules:
    """Check the numeric arguments of a pool, and return its limits.

    :raises TypeError: an argument has the wrong type.
    :raises ValueError: an argument has a wrong value.
    """
    checks.count("size", size)
    processors = len(os.sched_getaffinity(0))
    limit = 2 * size if limit is None else checks.count("limit", limit)
    if limit < size:
        raise ValueError(
            f"limit={limit} must be at least size={size}: idle sandboxes count toward the limit"
        )
    return Rules(
        size=size,
        limit=limit,
        starts=processors if starts is None else checks.count("starts", starts),
        max_uses=checks.count("max_uses", max_uses),
        idle_timeout=None if idle_timeout is None else checks.seconds("idle_timeout", idle_timeout),
    )
