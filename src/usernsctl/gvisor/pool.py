"""Pools: sandboxes that wait until somebody wants one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, NoReturn, Protocol, TypedDict, runtime_checkable

from usernsctl._system.descriptors import AsyncClosing, Closing
from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.commands.keywords import check_timeout
from usernsctl.commands.popen import DEVNULL
from usernsctl.gvisor import checks
from usernsctl.gvisor.pool_boxes import Boxes
from usernsctl.gvisor.pool_leases import AsyncLease, Lease
from usernsctl.gvisor.pool_stats import PoolStats
from usernsctl.gvisor.pool_stock import Rules, Stock
from usernsctl.gvisor.prepared import HostBase
from usernsctl.gvisor.sandbox import Sandbox

#: How long a start may take where nobody says how long, in seconds.
START_SECONDS = 30


@runtime_checkable
class Starter(Protocol):
    """What starts sandboxes that are ready, such as a template."""

    def start(
        self,
        *,
        stdin: Any = DEVNULL,
        stdout: Any = DEVNULL,
        stderr: Any = DEVNULL,
        in_cgroup: StrOrBytesPath | int | None = None,
        timeout: float | None = None,
    ) -> Sandbox:
        """Start one, and return when it can be used: the options are those of a Sandbox."""


class PoolOptions(TypedDict, total=False):
    """Arguments of :class:`usernsctl.SandboxPool` that have to be named."""

    template: Starter | None
    max_uses: int
    idle_timeout: float | None
    limit: int | None
    starts: int | None
    start_timeout: float
    env: Mapping[str, str] | None
    in_cgroup: StrOrBytesPath | int | None
    stdin: Any
    stdout: Any
    stderr: Any


class _UsedAgain(Sandbox):
    """One that is to be cleaned, and so outlives the agent's connection.

    Its process 1 stays when all else in it is killed. So that is the agent: whoever was root there
    could have traced any other program, and made it his own.
    """

    _agent_outlives = True


class SandboxPool(Closing, AsyncClosing):
    """Sandboxes that wait, for any thread and for asyncio: :meth:`usernsctl.SandboxHost.pool`.

    Threads of its own make them, the next one as soon as one is handed out. All of them, those that
    are handed out too, end when the pool is closed, and when the process that has made it ends,
    however that ends.

    It is a context manager, also an asynchronous one, that closes it at its end.

    :param SandboxHost host: where.
    :param int size: how many wait. Those that come back, to be used again, are among them.
    :param template: what starts them, such as a template; by default they have no command of their
        own, and nothing runs in them but what is started in them.
    :param int max_uses: how often one is handed out. By default no two users share one. If it is
        more, all that a user has left running is killed before the next one has it, and one whose
        kernel has other settings than before is ended. But the files that he has written stay, such
        as programs that he has put in the place of others.
    :param float idle_timeout: after so many seconds in which nobody has asked for one, none wait,
        until somebody does; ``None``: they wait as long as it takes.
    :param int limit: how many there are at once: those that wait, are handed out, are being made or
        are being ended. Who wants one waits if there are that many. By default twice `size`.
    :param int starts: how many are made at once; by default as many as there are processors.
    :param float start_timeout: how long one start may take, in seconds.
    :param env: as for :class:`usernsctl.Sandbox`, and so `in_cgroup`, `stdin`, `stdout` and
        `stderr`, which are DEVNULL by default: without a template there is no command to have them.
        A template has variables already.
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: one can't have its value.
    """

    _what = "a SandboxPool"
    _stock: Stock[Sandbox] | None = None

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
        stdin: Any = DEVNULL,
        stdout: Any = DEVNULL,
        stderr: Any = DEVNULL,
    ) -> None:
        """Begin to make sandboxes, and return: the class has the arguments."""
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

        boxes = Boxes(start, seconds, warms=template is None, reuses=rules.max_uses > 1)
        self._stock = Stock[Sandbox](boxes, rules)

    def _get(self) -> Stock[Sandbox]:
        assert self._stock is not None
        return self._stock

    def acquire(self, timeout: float | None = None) -> AbstractContextManager[Sandbox]:
        """Have a sandbox for a ``with`` block.

        Whoever has waited longest, in a thread or in asyncio, is given the next one. Its agent has
        answered just before. At the end of the block all that runs in it is killed, and it is
        closed, unless it is to be used more than once. One that was closed in the block is
        replaced.

        :param timeout: how long to wait for one, in seconds; ``None``: as long as it takes.
        :raises PoolTimeoutError: that was not long enough.
        :raises PoolError: none could be made; `__cause__` is the reason, which `cause` and `remedy`
            are those of.
        :raises ValueError: the pool is closed, or is closed meanwhile; or belongs to the process
            that this one is a fork of.
        """
        check_timeout(timeout)
        return Lease(self._get(), timeout)

    def acquire_async(self, timeout: float | None = None) -> AbstractAsyncContextManager[Sandbox]:
        """The same from asyncio, for an ``async with`` block.

        If it is cancelled, the sandbox goes to somebody else, or is ended where it was used.
        """
        check_timeout(timeout)
        return AsyncLease(self._get(), timeout)

    def stats(self) -> PoolStats:
        """What it has done, and what it has at this moment."""
        return self._get().stats

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._get().closed

    def close(self) -> None:
        """End all sandboxes, also those that are handed out, and return when they have ended.

        Who waits for one gets a ValueError. A start that is under way is waited for, for
        `start_timeout` at most. Any thread may call this at any time, and so may a handler of
        signals. In a fork of the process that has made the pool, this closes descriptors and no
        more.
        """
        if self._stock is not None:
            self._stock.close()

    async def close_async(self) -> None:
        """The same from asyncio."""
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
