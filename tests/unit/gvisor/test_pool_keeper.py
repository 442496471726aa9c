"""Tests of a pool's keeper, the thread that starts, leases and kills sandboxes, with fakes."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import pickle
import random
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from pool_fakes import (
    PATIENCE,
    FakeFactory,
    FakeSandbox,
    async_lease,
    lease,
    open_factory,
    open_keeper,
    stats_are,
)
from processes import wait_until

import usernsctl as un
from usernsctl.gvisor.pool.keeper import Keeper, PoolStats, Waiter
from usernsctl.gvisor.pool.pool import AsyncLease

MANY = 200
# Exceptions that acquire() raises after a timeout, and after three unhealthy sandboxes in a row.
EXPECTED = (TimeoutError, un.PoolError)


@pytest.fixture
def factory() -> Iterator[FakeFactory]:
    with open_factory() as opened:
        yield opened


def test_pool_keeps_size_idle_sandboxes(factory: FakeFactory) -> None:
    with open_keeper(factory, size=3, starts=2) as pool:
        wait_until(stats_are(pool, idle=3, starting=0, started=3))
        assert factory.most_at_once <= 2
        with lease(pool) as one:
            assert one is factory.made[0]
            # Check that the keeper starts another sandbox as soon as an idle one is leased.
            wait_until(stats_are(pool, idle=3, leased=1, started=4))
        assert "killed" in one.log
        wait_until(stats_are(pool, idle=3, leased=0, started=4, acquired=1))
        wait_until(lambda: "ended" in one.log)
    assert pool.stats.idle == 0


def test_sandboxes_are_leased_only_once_by_default(factory: FakeFactory) -> None:
    with open_keeper(factory, size=2) as pool:
        seen = []
        for _ in range(20):
            with lease(pool) as one:
                assert one.log == []
                seen.append(id(one))
        assert len(set(seen)) == len(seen)


def test_acquire_beyond_the_limit_times_out(factory: FakeFactory) -> None:
    with open_keeper(factory, size=2, limit=3) as pool, contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(lease(pool))
        assert pool.stats.leased == 3
        with (
            pytest.raises(un.PoolTimeoutError, match="the limit is 3; 3 leased, 0 starting"),
            lease(pool, 0.05),
        ):
            pass
        assert len(factory.made) == 3


def test_acquire_with_timeout_0_needs_an_idle_sandbox(factory: FakeFactory) -> None:
    with open_keeper(factory, limit=1) as pool:
        wait_until(stats_are(pool, idle=1))
        with (
            lease(pool, 0),
            pytest.raises(un.PoolTimeoutError, match=r"within 0 s: the limit is 1; 1 leased"),
            lease(pool, 0),
        ):
            pass
        wait_until(stats_are(pool, idle=1))

        async def main() -> None:
            async with async_lease(pool, 0):
                with pytest.raises(TimeoutError, match="no sandbox was free"):
                    await async_lease(pool, 0).__aenter__()

        asyncio.run(main())
        wait_until(stats_are(pool, queued=0, idle=1))


def test_waiters_are_served_in_order(factory: FakeFactory) -> None:
    """Check that waiters from threads and from asyncio share one queue."""
    order: list[int] = []
    with open_keeper(factory, limit=1) as pool:
        wait_until(stats_are(pool, idle=1))

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
def test_timed_out_and_cancelled_waiters_leave_the_queue(factory: FakeFactory, end: str) -> None:
    with open_keeper(factory, limit=1) as pool:

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
        wait_until(stats_are(pool, queued=0, leased=0, idle=1))


def test_waiter_of_a_closed_event_loop_gets_no_sandbox(factory: FakeFactory) -> None:
    with open_keeper(factory, limit=1) as pool:
        loop = asyncio.new_event_loop()
        with lease(pool):
            forgotten = async_lease(pool)
            coroutine = forgotten.__aenter__()
            task = loop.create_task(coroutine)
            while not pool.stats.queued:
                loop.run_until_complete(asyncio.sleep(0.001))
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            loop.close()
        wait_until(stats_are(pool, queued=0, leased=0, idle=1))
        with lease(pool):
            pass
        del forgotten, task
        with contextlib.suppress(RuntimeError):
            coroutine.close()


def test_unhealthy_sandbox_is_replaced(factory: FakeFactory) -> None:
    sick: list[FakeSandbox] = []

    def first_two(one: FakeSandbox) -> Exception | None:
        if len(sick) < 2:
            sick.append(one)
        return ValueError("it is sick") if one in sick else None

    factory.sick = first_two
    with open_keeper(factory, size=2) as pool:
        wait_until(stats_are(pool, idle=2))
        with lease(pool) as one:
            assert one not in sick
        assert pool.stats.failed == 2
        assert str(pool.stats.last_failure) == "it is sick"
        assert pool.stats.acquired == 1
        wait_until(lambda: all("ended" in one.log for one in sick))


def test_last_failure_keeps_no_frames_alive(factory: FakeFactory) -> None:
    class Local:
        """Object that only the stack frames of a failure refer to."""

    locals_of_frames: list[weakref.ref[Local]] = []

    def fail(error: BaseException) -> None:
        local = Local()
        locals_of_frames.append(weakref.ref(local))
        raise error

    def sick(_: FakeSandbox) -> Exception:
        try:
            try:
                fail(OSError("first"))
            except OSError as error:
                fail(ValueError(f"after {error}"))
        except ValueError as error:
            failure = RuntimeError("at last")
            failure.__cause__ = error
        return failure

    factory.sick = sick
    with open_keeper(factory) as pool:
        with pytest.raises(un.PoolError, match="at last"), lease(pool):
            pass
        wait_until(lambda: pool.stats.failed == 3)
        # The exceptions of failed waiters refer to the failure, so first collect them as garbage.
        gc.collect()
        assert str(pool.stats.last_failure) == "at last"
        assert len(locals_of_frames) >= 6
        assert not [one for one in locals_of_frames if one() is not None]


def test_acquire_raises_after_several_unhealthy_sandboxes(factory: FakeFactory) -> None:
    factory.sick = lambda one: ValueError("it is sick")
    with (
        open_keeper(factory) as pool,
        pytest.raises(
            un.PoolError, match="pool: no sandbox could be started: it is sick"
        ) as caught,
        lease(pool),
    ):
        pass
    assert isinstance(caught.value.__cause__, ValueError)


def test_idle_sandbox_that_ends_is_replaced(factory: FakeFactory) -> None:
    with open_keeper(factory) as pool:
        wait_until(stats_are(pool, idle=1))
        dead = factory.made[0]
        factory.sick = lambda one: ValueError("killed") if one is dead else None
        dead.end()
        wait_until(stats_are(pool, started=2, idle=1, failed=1))
        assert "ended" in dead.log
        assert str(pool.stats.last_failure) == "killed"


def test_failed_starts_are_reported_and_retried_after_a_pause(factory: FakeFactory) -> None:
    factory.failure = un.RunscError("broken", step="runsc", cause="runsc-missing", remedy="mend")
    # Let both starts begin before either fails.
    factory.gate.clear()
    with open_keeper(factory, size=4, starts=2, pauses=(0.05, 0.2, 0.4)) as pool:
        wait_until(lambda: factory.at_once == 2)
        factory.gate.set()
        for _ in range(3):
            with (
                pytest.raises(
                    un.PoolError, match="no sandbox could be started: runsc: broken"
                ) as told,
                lease(pool),
            ):
                pass
            assert (told.value.cause, told.value.remedy) == ("runsc-missing", "mend")
        # Begin with the second start: the first two were concurrent, without a pause between them.
        pauses = [after - before for before, after in zip(factory.attempts[1:],
                  factory.attempts[2:], strict=False)]  # fmt: skip
        assert all(pause >= 0.05 for pause in pauses)
        wait_until(lambda: pool.stats.failed == len(factory.attempts))
        with (
            pytest.raises(un.PoolTimeoutError, match="the last failure: runsc: broken"),
            lease(pool, 0),
        ):
            pass
        factory.failure = None
        with lease(pool):
            pass


def test_pauses_between_failed_starts_grow_up_to_a_limit(factory: FakeFactory) -> None:
    factory.failure = ValueError("broken")
    with open_keeper(factory, pauses=(0.01, 0.02, 0.08)) as pool:
        wait_until(lambda: len(factory.attempts) >= 6)
        pauses = [b - a for a, b in zip(factory.attempts, factory.attempts[1:], strict=False)]
        for pause, least in zip(pauses, (0.01, 0.02, 0.04, 0.08, 0.08), strict=False):
            assert pause >= least
        factory.failure = None
        wait_until(stats_are(pool, idle=1))


def test_idle_keeper_does_not_wake_up(
    factory: FakeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that the keeper sleeps while a start is pending or retries are paused."""
    turns = 0
    wait = Keeper._await_news

    def counted(pool: Keeper[FakeSandbox], wake: int, seconds: float) -> None:
        nonlocal turns
        turns += 1
        wait(pool, wake, seconds)

    monkeypatch.setattr(Keeper, "_await_news", counted)
    factory.failure = ValueError("broken")
    with open_keeper(factory, size=2, pauses=(0.05, 0.05, 0.05)) as pool:
        wait_until(lambda: pool.stats.failed >= 4)
        factory.gate.clear()
        wait_until(lambda: factory.at_once > 0)
        before = turns
        time.sleep(0.2)
        assert turns - before <= 3
        factory.failure = None
        factory.gate.set()
        wait_until(stats_are(pool, idle=2))
        with lease(pool):
            wait_until(stats_are(pool, idle=2, started=3))
        wait_until(stats_are(pool, leased=0))
        # Each attempt to start a sandbox takes about two iterations of the keeper's loop. The
        # number of attempts depends on the host's load, so limit the iterations per attempt.
        assert turns < 8 * len(factory.attempts)


def test_sandbox_is_used_max_uses_times(factory: FakeFactory) -> None:
    with open_keeper(factory, max_uses=3) as pool:
        for _ in range(7):
            wait_until(stats_are(pool, idle=1))
            with lease(pool):
                pass
        wait_until(stats_are(pool, idle=1))
        assert [one.log.count("cleaned") for one in factory.made] == [2, 2, 1]
        assert "killed" not in factory.made[2].log


def test_sandbox_that_can_not_be_cleaned_is_replaced(factory: FakeFactory) -> None:
    factory.dirty = ValueError("a process is left")
    with open_keeper(factory, max_uses=3) as pool:
        wait_until(stats_are(pool, idle=1))
        with lease(pool) as one:
            pass
        wait_until(stats_are(pool, idle=1, started=2, failed=1))
        assert one.log == ["cleaned", "killed", "ended"]
        assert str(pool.stats.last_failure) == "a process is left"


def test_released_sandboxes_beyond_size_are_ended(factory: FakeFactory) -> None:
    with open_keeper(factory, size=1, max_uses=9) as pool:
        with contextlib.ExitStack() as held:
            for _ in range(4):
                held.enter_context(lease(pool))
            wait_until(stats_are(pool, leased=4))
        wait_until(stats_are(pool, idle=1, leased=0))
        wait_until(lambda: sum("ended" in one.log for one in factory.made) == 3)


def test_idle_timeout_ends_sandboxes(factory: FakeFactory) -> None:
    with open_keeper(factory, size=2, idle_timeout=0.1) as pool:
        # Wait for the final number of idle sandboxes: earlier numbers depend on timing.
        wait_until(stats_are(pool, started=2, idle=0))
        wait_until(lambda: all("ended" in one.log for one in factory.made))
        assert pool.stats.started == 2
        with lease(pool):
            wait_until(stats_are(pool, started=5))
        wait_until(stats_are(pool, idle=0, leased=0))


def test_lease_expires_after_its_ttl(factory: FakeFactory) -> None:
    with open_keeper(factory, size=2, max_uses=9) as pool:
        begun = time.monotonic()
        with lease(pool, ttl=0.05) as one:
            wait_until(lambda: one.log == ["expired"])
            assert one.expired - begun >= 0.05
            time.sleep(0.1)
            assert one.log == ["expired"]
        with lease(pool, ttl=1000) as other:
            assert other is not one or "cleaned" in one.log
            time.sleep(0.1)
            assert "expired" not in other.log


def test_health_check_does_not_shorten_the_ttl(factory: FakeFactory) -> None:
    checked = []

    def check(one: FakeSandbox) -> Exception | None:
        time.sleep(0.2)
        checked.append(time.monotonic())
        return RuntimeError("it was killed") if "expired" in one.log else None

    async def main() -> None:
        async with AsyncLease(pool, PATIENCE, 0.1) as one:
            await asyncio.to_thread(wait_until, lambda: one.log == ["expired"])
            assert one.expired - checked[-1] >= 0.1

    factory.sick = check
    with open_keeper(factory) as pool:
        with lease(pool, ttl=0.1) as one:
            wait_until(lambda: one.log == ["expired"])
            assert one.expired - checked[-1] >= 0.1
        asyncio.run(main())
        assert len(checked) == 2
        assert pool.stats.failed == 0


def test_rejected_sandbox_leaves_no_ttl_behind(factory: FakeFactory) -> None:
    with open_keeper(factory) as pool:
        notified = threading.Semaphore(0)
        waiter = Waiter[FakeSandbox](notified.release, 0.05)
        pool.enqueue(waiter)
        assert notified.acquire(timeout=PATIENCE)
        pool.begin(waiter)
        pool.reject(waiter, ValueError("a signal handler raised this"))
        assert notified.acquire(timeout=PATIENCE)
        time.sleep(0.1)
        assert waiter.slot is not None
        assert waiter.slot.sandbox.log == []
        pool.release(waiter)


def test_leases_that_do_not_begin_are_not_counted(factory: FakeFactory) -> None:
    with open_keeper(factory) as pool:
        for undo in (pool.abandon, lambda waiter: pool.reject(waiter, ValueError("it is sick"))):
            notified = threading.Semaphore(0)
            waiter = Waiter[FakeSandbox](notified.release)
            waiter.since -= 1000
            pool.enqueue(waiter)
            assert notified.acquire(timeout=PATIENCE)
            undo(waiter)
        assert notified.acquire(timeout=PATIENCE)
        assert pool.stats.acquired == 1
        assert 1000 <= pool.stats.waited < 1000 + PATIENCE
        pool.release(waiter)


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_lease_can_not_be_pickled_or_copied(factory: FakeFactory, how: Any) -> None:
    with open_keeper(factory) as pool:
        leased = lease(pool)
        with leased as one:
            with pytest.raises(TypeError, match="a lease can't be copied or pickled"):
                how(leased)
            gc.collect()
            assert one.log == []


def test_expired_lease_is_not_counted_as_failure(factory: FakeFactory) -> None:
    factory.dirty = ValueError("it was killed")
    with open_keeper(factory, max_uses=9) as pool:
        with lease(pool, ttl=0.05) as one:
            wait_until(lambda: one.log == ["expired"])
        wait_until(lambda: "ended" in one.log)
        wait_until(stats_are(pool, idle=1, leased=0))
        assert one.log == ["expired", "killed", "ended"]
        assert (pool.stats.failed, pool.stats.last_failure) == (0, None)


def test_lease_can_not_be_entered_twice(factory: FakeFactory) -> None:
    with open_keeper(factory) as pool:
        used = lease(pool)
        with used as one:
            with pytest.raises(ValueError, match="call acquire again"), used:
                pass
            assert one.log == []
            assert pool.stats.leased == 1


def test_garbage_collected_lease_is_released(factory: FakeFactory) -> None:
    with open_keeper(factory) as pool:
        lease(pool).__enter__()
        wait_until(stats_are(pool, leased=0, acquired=1, idle=1))
        assert "killed" in factory.made[0].log


def test_concurrent_random_leases_keep_stats_consistent(factory: FakeFactory) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    sick = random.Random(seed)
    factory.sick = lambda one: ValueError("it is sick") if sick.random() < 0.02 else None
    with open_keeper(factory, size=3, limit=6, starts=2, max_uses=2) as pool:

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
        wait_until(stats_are(pool, queued=0, leased=0, idle=3))
        assert pool.stats.started - sum("ended" in one.log for one in factory.made) <= 6


def test_pool_stats_are_immutable() -> None:
    with pytest.raises(AttributeError):
        PoolStats().started = 1  # type: ignore[misc]
    assert PoolStats(started=1) == PoolStats(started=1)
