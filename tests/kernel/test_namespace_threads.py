"""Tests of usernsctl.Namespace in concurrent threads, one of which may close the Namespace."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import prctl
import pytest
from conftest import children, open_descriptors
from kept import LINK, MAP_WITHOUT_US, without_us

import usernsctl as un
from usernsctl.namespaces.namespace import Namespace

THREADS = 16


def test_many_threads_start_commands_in_it() -> None:
    with Namespace.create(mount=True, uts=True) as ns:
        inside = ns.check_output(LINK)

        def start(index: int) -> bytes:
            if index % 3 == 0:
                with pytest.raises(un.CommandNotFoundError):
                    ns.run(["no-such-tool"], pid=index % 2 == 0)
            return bytes(ns.check_output(LINK, pid=index % 2 == 0))

        with ThreadPoolExecutor(THREADS) as pool:
            assert set(pool.map(start, range(10 * THREADS))) == {inside}


@without_us
def test_changing_ids_does_not_disturb_other_threads() -> None:
    """Check that starts with a change of ids leave this process dumpable (/proc/self readable)."""
    with Namespace.create(MAP_WITHOUT_US) as ns, ThreadPoolExecutor(THREADS) as pool:
        starts = [pool.submit(ns.run, ["true"], check=True) for _ in range(5 * THREADS)]
        while not all(start.done() for start in starts):
            assert prctl.get_dumpable() == 1
            Namespace.create().close()
        for start in starts:
            start.result()
    assert prctl.get_dumpable() == 1


def test_many_threads_make_namespaces() -> None:
    before = open_descriptors(), children()

    def make(index: int) -> bytes:
        with Namespace.create(uts=index % 2 == 0) as ns:
            return bytes(ns.check_output(LINK))

    with ThreadPoolExecutor(THREADS) as pool:
        assert b"" not in set(pool.map(make, range(5 * THREADS)))
    assert (open_descriptors(), children()) == before


@without_us
def test_a_wide_map_is_written_for_many_threads_at_once() -> None:
    idmap = MAP_WITHOUT_US
    planned = [str(number) for extent in un.plan(idmap).uid for number in extent]

    def make(_: int) -> list[str]:
        with Namespace.create(idmap) as ns:
            return str(ns.check_output(["cat", "/proc/self/uid_map"], text=True)).split()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(make, range(16))) == [planned] * 16


@pytest.mark.parametrize("round_number", range(5))
def test_closing_waits_for_starts_and_ends_the_rest(round_number: int) -> None:
    """Check that each start either enters the namespace or raises the error of a closed Namespace.

    A start must not fail with EBADF. Nor may it enter another namespace because that namespace's
    descriptor has got the number of a closed descriptor.
    """
    ns = Namespace.create(uts=True)
    inside = ns.check_output(LINK)
    started = threading.Barrier(THREADS + 1)

    def use() -> int:
        started.wait()
        count = 0
        while True:
            try:
                assert ns.check_output(LINK) == inside
            except ValueError as error:
                assert "closed" in str(error)
                return count
            count += 1

    with ThreadPoolExecutor(THREADS) as pool:
        results = [pool.submit(use) for _ in range(THREADS)]
        started.wait()
        for _ in range(round_number):
            ns.check_output(LINK)
        ns.close()
        # The new files reuse the closed descriptor numbers at once, so the use of a stale number is
        # detected.
        others = [os.open("/", os.O_RDONLY) for _ in range(4)]
        assert all(result.result() >= 0 for result in results)
    for fd in others:
        os.close(fd)
