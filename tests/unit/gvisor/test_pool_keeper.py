"""Tests of the keeper of a pool, with fake sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from stocks import (
    PATIENCE,
    Thing,
    Workshop,
    async_lease,
    lease,
    open_workshop,
    stands,
    stock,
    wait_until,
)

import usernsctl as un
from usernsctl.gvisor.pool.keeper import Keeper, PoolStats, Waiter
from usernsctl.gvisor.pool.pool import AsyncLease

MANY = 200
# An acquire times out, or fails after three unhealthy sandboxes in a row.
EXPECTED = (TimeoutError, un.PoolError)


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    with open_workshop() as made:
        yield made


def test_as_many_wait_as_were_asked_for(workshop: Workshop) -> None:
    with stock(workshop, size=3, starts=2) as pool:
        wait_until(stands(pool, idle=3, starting=0, started=3))
        assert workshop.most_at_once <= 2
        with lease(pool) as one:
            assert one is workshop.made[0]
            # The keeper starts a new sandbox as soon as one is leased.
            wait_until(stands(pool, idle=3, leased=1, started=4))
        assert "killed" in one.log
        wait_until(stands(pool, idle=3, leased=0, started=4, acquired=1))
        wait_until(lambda: "ended" in one.log)
    assert pool.stats.idle == 0


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
        assert pool.stats.leased == 3
        with (
            pytest.raises(
                un.PoolTimeoutError, match="the limit is 3; 3 are leased, 0 are starting"
            ),
            lease(pool, 0.05),
        ):
            pass
        assert len(workshop.made) == 3


def test_without_patience_there_is_one_that_waits_or_none(workshop: Workshop) -> None:
    with stock(workshop, limit=1) as pool:
        wait_until(stands(pool, idle=1))
        with (
            lease(pool, 0),
            pytest.raises(un.PoolTimeoutError, match=r"within 0 s: the limit is 1; 1 are leased"),
            lease(pool, 0),
        ):
            pass
        wait_until(stands(pool, idle=1))

        async def main() -> None:
            async with async_lease(pool, 0):
                with pytest.raises(TimeoutError, match="no sandbox was free"):
                    await async_lease(pool, 0).__aenter__()

        asyncio.run(main())
        wait_until(stands(pool, queued=0, idle=1))


def test_first_come_first_served(workshop: Workshop) -> None:
    """Waiters in threads and in asyncio share one queue."""
    order: list[int] = []
    with stock(workshop, limit=1) as pool:
        wait_until(stands(pool, idle=1))

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
        wait_until(stands(pool, queued=0, leased=0, idle=1))


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
        wait_until(stands(pool, queued=0, leased=0, idle=1))
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
        wait_until(stands(pool, idle=2))
        with lease(pool) as one:
            assert one not in sick
        assert pool.stats.failed == 2
        assert str(pool.stats.last_failure) == "it is sick"
        assert pool.stats.acquired == 1
        wait_until(lambda: all("ended" in one.log for one in sick))


def test_a_failure_holds_no_frame_of_what_led_to_it(workshop: Workshop) -> None:
    class Local:
        """An object that only the frames of the failure refer to."""

    locals_of_frames: list[weakref.ref[Local]] = []

    def fail(error: BaseException) -> None:
        local = Local()
        locals_of_frames.append(weakref.ref(local))
        raise error

    def sick(_: Thing) -> Exception:
        try:
            try:
                fail(OSError("first"))
            except OSError as error:
                fail(ValueError(f"after {error}"))
        except ValueError as error:
            failure = RuntimeError("at last")
            failure.__cause__ = error
        return failure

    workshop.sick = sick
    with stock(workshop) as pool:
        with pytest.raises(un.PoolError, match="at last"), lease(pool):
            pass
        wait_until(lambda: pool.stats.failed == 3)
        # Waiters that failed have raised their own exceptions, which refer to the failure.
        gc.collect()
        assert str(pool.stats.last_failure) == "at last"
        assert len(locals_of_frames) >= 6
        assert not [one for one in locals_of_frames if one() is not None]


def test_nobody_looks_for_ever_for_one_that_can_be_used(workshop: Workshop) -> None:
    workshop.sick = lambda one: ValueError("it is sick")
    with (
        stock(workshop) as pool,
        pytest.raises(
            un.PoolError, match="pool: no sandbox could be started: it is sick"
        ) as caught,
        lease(pool),
    ):
        pass
    assert isinstance(caught.value.__cause__, ValueError)


def test_one_that_ends_while_it_waits_is_replaced(workshop: Workshop) -> None:
    with stock(workshop) as pool:
        wait_until(stands(pool, idle=1))
        dead = workshop.made[0]
        workshop.sick = lambda one: ValueError("killed") if one is dead else None
        dead.end()
        wait_until(stands(pool, started=2, idle=1, failed=1))
        assert "ended" in dead.log
        assert str(pool.stats.last_failure) == "killed"


def test_failing_starts_are_told_and_not_repeated_at_once(workshop: Workshop) -> None:
    workshop.failure = un.RunscError("broken", step="runsc", cause="runsc-missing", remedy="mend")
    # Block the first two starts, so that both are running before one of them fails.
    workshop.gate.clear()
    with stock(workshop, size=4, starts=2, pauses=(0.05, 0.2, 0.4)) as pool:
        wait_until(lambda: workshop.at_once == 2)
        workshop.gate.set()
        for _ in range(3):
            with (
                pytest.raises(
                    un.PoolError, match="no sandbox could be started: runsc: broken"
                ) as told,
                lease(pool),
            ):
                pass
            assert (told.value.cause, told.value.remedy) == ("runsc-missing", "mend")
        # The first two attempts are concurrent, without a pause between them.
        pauses = [after - before for before, after in zip(workshop.attempts[1:],
                  workshop.attempts[2:], strict=False)]  # fmt: skip
        assert all(pause >= 0.05 for pause in pauses)
        wait_until(lambda: pool.stats.failed == len(workshop.attempts))
        with (
            pytest.raises(un.PoolTimeoutError, match="the last failure: runsc: broken"),
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
        wait_until(stands(pool, idle=1))


def test_a_keeper_that_has_nothing_to_do_does_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper sleeps while a start is pending, and during a pause after failures."""
    turns = 0
    wait = Keeper._await_news

    def counted(pool: Keeper[Thing], wake: int, seconds: float) -> None:
        nonlocal turns
        turns += 1
        wait(pool, wake, seconds)

    monkeypatch.setattr(Keeper, "_await_news", counted)
    workshop.failure = ValueError("broken")
    with stock(workshop, size=2, pauses=(0.05, 0.05, 0.05)) as pool:
        wait_until(lambda: pool.stats.failed >= 4)
        workshop.gate.clear()
        wait_until(lambda: workshop.at_once > 0)
        before = turns
        time.sleep(0.2)
        assert turns - before <= 3
        workshop.failure = None
        workshop.gate.set()
        wait_until(stands(pool, idle=2))
        with lease(pool):
            wait_until(stands(pool, idle=2, started=3))
        wait_until(stands(pool, leased=0))
        # About two turns for each attempt. On a busy machine, more attempts are made meanwhile.
        assert turns < 8 * len(workshop.attempts)


def test_it_is_used_as_often_as_it_may_be(workshop: Workshop) -> None:
    with stock(workshop, max_uses=3) as pool:
        for _ in range(7):
            wait_until(stands(pool, idle=1))
            with lease(pool):
                pass
        wait_until(stands(pool, idle=1))
        assert [one.log.count("cleaned") for one in workshop.made] == [2, 2, 1]
        assert "killed" not in workshop.made[2].log


def test_one_that_can_not_be_cleaned_is_replaced(workshop: Workshop) -> None:
    workshop.dirty = ValueError("a process is left")
    with stock(workshop, max_uses=3) as pool:
        wait_until(stands(pool, idle=1))
        with lease(pool) as one:
            pass
        wait_until(stands(pool, idle=1, started=2, failed=1))
        assert one.log == ["cleaned", "killed", "ended"]
        assert str(pool.stats.last_failure) == "a process is left"


def test_more_than_wait_are_not_kept(workshop: Workshop) -> None:
    with stock(workshop, size=1, max_uses=9) as pool:
        with contextlib.ExitStack() as held:
            for _ in range(4):
                held.enter_context(lease(pool))
            wait_until(stands(pool, leased=4))
        wait_until(stands(pool, idle=1, leased=0))
        wait_until(lambda: sum("ended" in one.log for one in workshop.made) == 3)


def test_none_wait_whom_nobody_wants(workshop: Workshop) -> None:
    with stock(workshop, size=2, idle_timeout=0.1) as pool:
        # Waits for the final state: the number of idle sandboxes before that depends on the timing.
        wait_until(stands(pool, started=2, idle=0))
        wait_until(lambda: all("ended" in one.log for one in workshop.made))
        assert pool.stats.started == 2
        with lease(pool):
            wait_until(stands(pool, started=5))
        wait_until(stands(pool, idle=0, leased=0))


def test_a_lease_ends_at_its_time(workshop: Workshop) -> None:
    with stock(workshop, size=2, max_uses=9) as pool:
        with lease(pool, ttl=0.05) as one:
            assert one.log == []
            wait_until(lambda: one.log == ["expired"])
            time.sleep(0.1)
            assert one.log == ["expired"]
        with lease(pool, ttl=1000) as other:
            assert other is not one or "cleaned" in one.log
            time.sleep(0.1)
            assert "expired" not in other.log


def test_a_check_takes_nothing_from_the_time(workshop: Workshop) -> None:
    def check(one: Thing) -> Exception | None:
        time.sleep(0.2)
        return RuntimeError("it was killed") if "expired" in one.log else None

    async def main() -> None:
        async with AsyncLease(pool, PATIENCE, 0.1) as one:
            assert one.log == []
            await asyncio.to_thread(wait_until, lambda: one.log == ["expired"])

    workshop.sick = check
    with stock(workshop) as pool:
        with lease(pool, ttl=0.1) as one:
            assert one.log == []
            wait_until(lambda: one.log == ["expired"])
        asyncio.run(main())
        assert pool.stats.failed == 0


def test_a_rejected_sandbox_leaves_no_time(workshop: Workshop) -> None:
    with stock(workshop) as pool:
        notified = threading.Semaphore(0)
        waiter = Waiter[Thing](notified.release, 0.05)
        pool.enqueue(waiter)
        assert notified.acquire(timeout=PATIENCE)
        pool.begin(waiter)
        pool.reject(waiter, ValueError("a signal handler raised this"))
        assert notified.acquire(timeout=PATIENCE)
        time.sleep(0.1)
        assert waiter.slot is not None
        assert waiter.slot.sandbox.log == []
        pool.release(waiter)


def test_the_end_of_the_time_is_no_failure(workshop: Workshop) -> None:
    workshop.dirty = ValueError("it was killed")
    with stock(workshop, max_uses=9) as pool:
        with lease(pool, ttl=0.05) as one:
            wait_until(lambda: one.log == ["expired"])
        wait_until(lambda: "ended" in one.log)
        wait_until(stands(pool, idle=1, leased=0))
        assert one.log == ["expired", "killed", "ended"]
        assert (pool.stats.failed, pool.stats.last_failure) == (0, None)


def test_a_block_is_entered_once(workshop: Workshop) -> None:
    with stock(workshop) as pool:
        used = lease(pool)
        with used as one:
            with pytest.raises(ValueError, match="call acquire again"), used:
                pass
            assert one.log == []
            assert pool.stats.leased == 1


def test_who_forgets_it_gives_it_back(workshop: Workshop) -> None:
    with stock(workshop) as pool:
        lease(pool).__enter__()
        wait_until(stands(pool, leased=0, acquired=1, idle=1))
        assert "killed" in workshop.made[0].log


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
        wait_until(stands(pool, queued=0, leased=0, idle=3))
        assert pool.stats.started - sum("ended" in one.log for one in workshop.made) <= 6


def test_stats_do_not_change() -> None:
    with pytest.raises(AttributeError):
        PoolStats().started = 1  # type: ignore[misc]
    assert PoolStats(started=1) == PoolStats(started=1)
