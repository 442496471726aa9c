"""How a pool shares out what it has: with things that cost nothing to make."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import usernsctl as un
from usernsctl.gvisor.pool_leases import AsyncLease, Lease
from usernsctl.gvisor.pool_stats import PoolStats
from usernsctl.gvisor.pool_stock import Rules, Stock

PATIENCE = 20
MANY = 200
# In time there is none, or three in a row are sick.
EXPECTED = (TimeoutError, un.PoolError)


class Thing:
    """Something that a pool has.

    :ivar log: what was done with it.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.ended, self._end = os.pipe()

    def end(self) -> None:
        """Have its descriptor be readable, as that of a process that has ended."""
        end, self._end = self._end, -1
        if end >= 0:
            os.close(end)

    def forget(self) -> None:
        self.end()
        ended, self.ended = self.ended, -1
        if ended >= 0:
            os.close(ended)


class Workshop:
    """Makes things, as a test wants it to.

    :ivar made: all that there ever were.
    :ivar gate: nothing is made while it is not set.
    :ivar failure: why none can be made.
    :ivar attempts: the moments at which one was to be made.
    """

    def __init__(self) -> None:
        self.made: list[Thing] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.attempts: list[float] = []
        self.sick: Callable[[Thing], Exception | None] = lambda thing: None
        self.dirty: Exception | None = None
        self.at_once = self.most_at_once = 0

    def make(self) -> Thing:
        self.attempts.append(time.monotonic())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.gate.wait()
        self.at_once -= 1
        if self.failure is not None:
            raise self.failure
        self.made.append(Thing())
        return self.made[-1]

    def check(self, one: Thing) -> None:
        if "ended" in one.log:
            raise RuntimeError("it was ended")
        if (error := self.sick(one)) is not None:
            raise error

    async def check_async(self, one: Thing) -> None:
        await asyncio.sleep(0)
        self.check(one)

    def clean(self, one: Thing) -> None:
        one.log.append("cleaned")
        if self.dirty is not None:
            raise self.dirty

    def kill(self, one: Thing) -> None:
        one.log.append("killed")

    def end(self, one: Thing) -> None:
        one.log.append("ended")
        one.forget()

    def pidfd(self, one: Thing) -> int:
        return one.ended


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    made = Workshop()
    threads = threading.active_count()
    yield made
    made.gate.set()
    wait_until(lambda: threading.active_count() == threads)
    assert [one.log for one in made.made if "ended" not in one.log] == []


@contextlib.contextmanager
def stock(workshop: Workshop, **rules: Any) -> Iterator[Stock[Thing]]:
    given = {"size": 1, "limit": 100, "starts": 100, "pauses": (0.01, 0.02, 0.04), **rules}
    made = Stock[Thing](workshop, Rules(**given))
    try:
        yield made
    finally:
        workshop.gate.set()
        made.close()


def lease(of: Stock[Thing], timeout: float | None = PATIENCE) -> Lease[Thing]:
    return Lease(of, timeout)


def async_lease(of: Stock[Thing], timeout: float | None = PATIENCE) -> AsyncLease[Thing]:
    return AsyncLease(of, timeout)


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def stands(of: Stock[Thing], **wanted: int) -> Callable[[], bool]:
    def look() -> bool:
        return all(getattr(of.stats, name) == value for name, value in wanted.items())

    return look


def test_as_many_wait_as_were_asked_for(workshop: Workshop) -> None:
    with stock(workshop, size=3, starts=2) as pool:
        wait_until(stands(pool, waiting=3, starting=0, made=3))
        assert workshop.most_at_once <= 2
        with lease(pool) as one:
            assert one is workshop.made[0]
            # Behind it the next one is made.
            wait_until(stands(pool, waiting=3, handed_out=1, made=4))
        assert "killed" in one.log
        wait_until(stands(pool, waiting=3, handed_out=0, made=4, acquired=1))
        wait_until(lambda: "ended" in one.log)
    assert pool.stats.waiting == 0


def test_nobody_is_given_what_somebody_had(workshop: Workshop) -> None:
    with stock(workshop, size=2) as pool:
        seen = []
        for _ in range(20):
            with lease(pool) as one:
                assert one.log == []
                seen.append(id(one))
        assert len(set(seen)) == len(seen)


def test_no_more_than_the_limit(workshop: Workshop) -> None:
    with stock(workshop, size=2, limit=3) as pool, contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(lease(pool))
        assert pool.stats.handed_out == 3
        with (
            pytest.raises(un.PoolTimeoutError, match="of 3 at most, 3 are handed out, 0 are being"),
            lease(pool, 0.05),
        ):
            pass
        assert len(workshop.made) == 3


def test_without_patience_there_is_one_that_waits_or_none(workshop: Workshop) -> None:
    with stock(workshop, limit=1) as pool:
        wait_until(stands(pool, waiting=1))
        with (
            lease(pool, 0),
            pytest.raises(un.PoolTimeoutError, match=r"within 0 s: of 1 at most, 1 are handed out"),
            lease(pool, 0),
        ):
            pass
        wait_until(stands(pool, waiting=1))

        async def main() -> None:
            async with async_lease(pool, 0):
                with pytest.raises(TimeoutError, match="no sandbox was free"):
                    await async_lease(pool, 0).__aenter__()

        asyncio.run(main())
        wait_until(stands(pool, queued=0, waiting=1))


def test_first_come_first_served(workshop: Workshop) -> None:
    """Whether they wait in threads or in asyncio."""
    order: list[int] = []
    with stock(workshop, limit=1) as pool:
        wait_until(stands(pool, waiting=1))

        def in_thread(number: int) -> None:
            with lease(pool):
                order.append(number)

        async def in_task(number: int) -> None:
            async with async_lease(pool):
                order.append(number)

        async def main() -> None:
            waiting: list[Any] = []
            async with async_lease(pool):
                for number in range(20):
                    begin = in_task(number) if number % 2 else asyncio.to_thread(in_thread, number)
                    waiting.append(asyncio.ensure_future(begin))
                    while pool.stats.queued <= number:
                        await asyncio.sleep(0.001)
            await asyncio.gather(*waiting)

        loop = asyncio.new_event_loop()
        from concurrent.futures import ThreadPoolExecutor

        loop.set_default_executor(ThreadPoolExecutor(20))
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        assert order == list(range(20))
        assert pool.stats.acquired == 21
        assert pool.stats.waited >= pool.stats.longest_wait > 0


@pytest.mark.parametrize("end", ["timeout", "cancel"])
def test_who_gives_up_is_forgotten(workshop: Workshop, end: str) -> None:
    with stock(workshop, limit=1) as pool:

        async def main() -> None:
            async with async_lease(pool):
                if end == "cancel":
                    task = asyncio.ensure_future(async_lease(pool).__aenter__())
                    while not pool.stats.queued:
                        await asyncio.sleep(0.001)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    with pytest.raises(un.PoolTimeoutError):
                        await async_lease(pool, 0.01).__aenter__()
            async with async_lease(pool):
                pass

        asyncio.run(main())
        wait_until(stands(pool, queued=0, handed_out=0, waiting=1))


def test_a_loop_that_was_closed_gets_nothing(workshop: Workshop) -> None:
    with stock(workshop, limit=1) as pool:
        loop = asyncio.new_event_loop()
        with lease(pool):
            forgotten = async_lease(pool)
            coroutine = forgotten.__aenter__()
            task = loop.create_task(coroutine)
            while not pool.stats.queued:
                loop.run_until_complete(asyncio.sleep(0.001))
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            loop.close()
        wait_until(stands(pool, queued=0, handed_out=0, waiting=1))
        with lease(pool):
            pass
        del forgotten, task
        with contextlib.suppress(RuntimeError):
            coroutine.close()


def test_one_that_can_not_be_used_is_replaced(workshop: Workshop) -> None:
    sick: list[Thing] = []

    def first_two(one: Thing) -> Exception | None:
        if len(sick) < 2:
            sick.append(one)
        return ValueError("it is sick") if one in sick else None

    workshop.sick = first_two
    with stock(workshop, size=2) as pool:
        wait_until(stands(pool, waiting=2))
        with lease(pool) as one:
            assert one not in sick
        assert pool.stats.failed == 2
        assert str(pool.stats.last_failure) == "it is sick"
        assert pool.stats.acquired == 1
        wait_until(lambda: all("ended" in one.log for one in sick))


def test_nobody_looks_for_ever_for_one_that_can_be_used(workshop: Workshop) -> None:
    workshop.sick = lambda one: ValueError("it is sick")
    with (
        stock(workshop) as pool,
        pytest.raises(un.PoolError, match="pool: no sandbox could be had: it is sick") as caught,
        lease(pool),
    ):
        pass
    assert isinstance(caught.value.__cause__, ValueError)


def test_one_that_ends_while_it_waits_is_replaced(workshop: Workshop) -> None:
    with stock(workshop) as pool:
        wait_until(stands(pool, waiting=1))
        dead = workshop.made[0]
        workshop.sick = lambda one: ValueError("killed") if one is dead else None
        dead.end()
        wait_until(stands(pool, made=2, waiting=1, failed=1))
        assert "ended" in dead.log
        assert str(pool.stats.last_failure) == "killed"


def test_failing_starts_are_told_and_not_repeated_at_once(workshop: Workshop) -> None:
    workshop.failure = un.RunscError("broken", step="runsc", cause="runsc-missing", remedy="mend")
    with stock(workshop, size=4, starts=2, pauses=(0.05, 0.2, 0.4)) as pool:
        for _ in range(3):
            with (
                pytest.raises(un.PoolError, match="no sandbox could be had: runsc: broken") as told,
                lease(pool),
            ):
                pass
            assert (told.value.cause, told.value.remedy) == ("runsc-missing", "mend")
        # Those two at first that were made at once.
        pauses = [after - before for before, after in zip(workshop.attempts[1:],
                  workshop.attempts[2:], strict=False)]  # fmt: skip
        assert all(pause >= 0.05 for pause in pauses)
        assert pool.stats.failed == len(workshop.attempts)
        with (
            pytest.raises(un.PoolTimeoutError, match="the last one that failed: runsc: broken"),
            lease(pool, 0),
        ):
            pass
        workshop.failure = None
        with lease(pool):
            pass


def test_pauses_grow_up_to_a_limit(workshop: Workshop) -> None:
    workshop.failure = ValueError("broken")
    with stock(workshop, pauses=(0.01, 0.02, 0.08)) as pool:
        wait_until(lambda: len(workshop.attempts) >= 6)
        pauses = [b - a for a, b in zip(workshop.attempts, workshop.attempts[1:], strict=False)]
        for pause, least in zip(pauses, (0.01, 0.02, 0.04, 0.08, 0.08), strict=False):
            assert pause >= least
        workshop.failure = None
        wait_until(stands(pool, waiting=1))


def test_a_keeper_that_has_nothing_to_do_does_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it waits for a start that comes after failures, or for the end of a pause."""
    turns = 0
    wait = Stock._await_news

    def counted(pool: Stock[Thing], wake: int, seconds: float) -> None:
        nonlocal turns
        turns += 1
        wait(pool, wake, seconds)

    monkeypatch.setattr(Stock, "_await_news", counted)
    workshop.failure = ValueError("broken")
    with stock(workshop, size=2, pauses=(0.05, 0.05, 0.05)) as pool:
        wait_until(stands(pool, failed=4))
        workshop.gate.clear()
        wait_until(lambda: workshop.at_once > 0)
        before = turns
        time.sleep(0.2)
        assert turns - before <= 3
        workshop.failure = None
        workshop.gate.set()
        wait_until(stands(pool, waiting=2))
        with lease(pool):
            wait_until(stands(pool, waiting=2, made=3))
        wait_until(stands(pool, handed_out=0))
        assert turns < 60


def test_it_is_used_as_often_as_it_may_be(workshop: Workshop) -> None:
    with stock(workshop, max_uses=3) as pool:
        for _ in range(7):
            wait_until(stands(pool, waiting=1))
            with lease(pool):
                pass
        wait_until(stands(pool, waiting=1))
        assert [one.log.count("cleaned") for one in workshop.made] == [2, 2, 1]
        assert "killed" not in workshop.made[2].log


def test_one_that_can_not_be_cleaned_is_replaced(workshop: Workshop) -> None:
    workshop.dirty = ValueError("a process is left")
    with stock(workshop, max_uses=3) as pool:
        wait_until(stands(pool, waiting=1))
        with lease(pool) as one:
            pass
        wait_until(stands(pool, waiting=1, made=2, failed=1))
        assert one.log == ["cleaned", "killed", "ended"]
        assert str(pool.stats.last_failure) == "a process is left"


def test_more_than_wait_are_not_kept(workshop: Workshop) -> None:
    with stock(workshop, size=1, max_uses=9) as pool:
        with contextlib.ExitStack() as held:
            for _ in range(4):
                held.enter_context(lease(pool))
            wait_until(stands(pool, handed_out=4))
        wait_until(stands(pool, waiting=1, handed_out=0))
        wait_until(lambda: sum("ended" in one.log for one in workshop.made) == 3)


def test_none_wait_whom_nobody_wants(workshop: Workshop) -> None:
    with stock(workshop, size=2, idle_timeout=0.1) as pool:
        wait_until(stands(pool, waiting=2))
        wait_until(stands(pool, waiting=0))
        wait_until(lambda: all("ended" in one.log for one in workshop.made))
        assert pool.stats.made == 2
        with lease(pool):
            wait_until(stands(pool, waiting=2))
        wait_until(stands(pool, waiting=0, handed_out=0))


def test_close_ends_all_and_tells_who_waits(workshop: Workshop) -> None:
    told: list[BaseException] = []
    with stock(workshop, size=2, limit=2) as pool:
        first, second = lease(pool), lease(pool)
        with first as one, second as two:

            def wait() -> None:
                try:
                    lease(pool, None).__enter__()
                except ValueError as error:
                    told.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            wait_until(stands(pool, queued=1))
            pool.close()
            thread.join(PATIENCE)
            assert str(told[0]) == "the pool is closed"
            assert one.log == two.log == ["killed", "ended"]
            pool.close()
        with pytest.raises(ValueError, match="the pool is closed"), lease(pool):
            pass


def test_close_waits_for_what_is_being_made(workshop: Workshop) -> None:
    workshop.gate.clear()
    pool = Stock[Thing](workshop, Rules(size=3, limit=3, starts=3))
    wait_until(lambda: workshop.at_once == 3)
    closing = threading.Thread(target=pool.close)
    closing.start()
    wait_until(lambda: pool.closed)
    assert closing.is_alive()
    workshop.gate.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert [one.log for one in workshop.made] == [["killed", "ended"]] * 3


def test_a_block_is_entered_once(workshop: Workshop) -> None:
    with stock(workshop) as pool:
        used = lease(pool)
        with used as one:
            with pytest.raises(ValueError, match="call acquire once more"), used:
                pass
            assert one.log == []
            assert pool.stats.handed_out == 1


def test_who_forgets_it_gives_it_back(workshop: Workshop) -> None:
    with stock(workshop) as pool:
        lease(pool).__enter__()
        wait_until(stands(pool, handed_out=0, acquired=1, waiting=1))
        assert "killed" in workshop.made[0].log


def use_until_closed(pool: Stock[Thing]) -> None:
    while True:
        with lease(pool):
            pass


def test_a_handler_of_signals_closes_whatever_it_interrupts(workshop: Workshop) -> None:
    for pause in range(1, 6):
        with stock(workshop, size=2) as pool:

            def handle(number: int, frame: FrameType | None, pool: Stock[Thing] = pool) -> None:
                pool.close()

            before = signal.signal(signal.SIGALRM, handle)
            try:
                signal.setitimer(signal.ITIMER_REAL, pause * 0.003)
                with pytest.raises(ValueError, match="the pool is closed"):
                    use_until_closed(pool)
            finally:
                signal.signal(signal.SIGALRM, before)


class Interrupt(BaseException):
    """As an interrupt is."""


def interrupted(pool: Stock[Thing], step: int) -> bool:
    """Use a thing, with an interrupt before the line of ours that is executed as the `step`-th.

    :returns: whether there are so many.
    """
    lines = 0

    def trace(frame: FrameType, event: str, value: object) -> Any:
        nonlocal lines
        name = frame.f_code.co_filename
        if "pool_" not in name or "test_" in name or frame.f_code.co_name == "__del__":
            return None
        lines += event == "line"
        if event == "line" and lines == step:
            raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        with lease(pool):
            pass
    except Interrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_an_interrupt_at_any_line_leaves_nothing(workshop: Workshop) -> None:
    with stock(workshop, size=2) as pool:
        step = 1
        while interrupted(pool, step):
            wait_until(stands(pool, queued=0, handed_out=0, waiting=2))
            step += 1
        assert step > 20


def test_many_at_random_moments(workshop: Workshop) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    sick = random.Random(seed)
    workshop.sick = lambda one: ValueError("it is sick") if sick.random() < 0.02 else None
    with stock(workshop, size=3, limit=6, starts=2, max_uses=2) as pool:

        def use() -> None:
            for _ in range(MANY // 8):
                with contextlib.suppress(*EXPECTED), lease(pool, moments.choice([None, 0.01])):
                    time.sleep(moments.uniform(0, 0.002))

        async def use_async() -> None:
            for _ in range(MANY // 8):
                with contextlib.suppress(*EXPECTED):
                    async with asyncio.timeout(moments.choice([None, 0.01])), async_lease(pool):
                        await asyncio.sleep(moments.uniform(0, 0.002))

        async def all_async() -> None:
            await asyncio.gather(*(use_async() for _ in range(4)))

        threads = [threading.Thread(target=use) for _ in range(4)]
        threads.append(threading.Thread(target=asyncio.run, args=[all_async()]))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        wait_until(stands(pool, queued=0, handed_out=0, waiting=3))
        assert pool.stats.made - sum("ended" in one.log for one in workshop.made) <= 6


def test_after_a_fork_it_is_the_creators(workshop: Workshop) -> None:
    with stock(workshop) as pool:
        wait_until(stands(pool, waiting=1))
        ours, theirs = os.pipe()
        with warnings.catch_warnings():
            # Of threads: the child does nothing that would wait for them.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                try:
                    lease(pool).__enter__()
                except ValueError as error:
                    os.write(theirs, str(error).encode())
                pool.close()
                os.write(theirs, b" closed")
            finally:
                os._exit(0)
        os.close(theirs)
        with open(ours) as told:
            said = told.read()
        os.waitpid(pid, 0)
        assert said.startswith(f"the pool belongs to process {os.getpid()}")
        assert said.endswith(" closed")
        assert pool.stats.waiting == 1
        with lease(pool) as one:
            assert one.log == []


def test_what_should_not_happen_ends_all(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ArithmeticError("a bug")

    pool = Stock[Thing](workshop, Rules(size=1, limit=2, starts=1))
    wait_until(stands(pool, waiting=1))
    monkeypatch.setattr(pool, "_on_back", fail)
    with lease(pool):
        pass
    with pytest.raises(ValueError, match="the pool is closed"), lease(pool):
        pass
    with pytest.raises(ArithmeticError, match="a bug"):
        pool.close()


def test_stats_do_not_change() -> None:
    with pytest.raises(AttributeError):
        PoolStats().made = 1  # type: ignore[misc]
    assert PoolStats(made=1) == PoolStats(made=1)
