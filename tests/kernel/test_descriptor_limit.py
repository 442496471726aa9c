"""Tests of starting commands without free descriptors: errors name the cause; nothing leaks."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import open_descriptors
from limits import descriptors_left

import usernsctl as un
from usernsctl.namespaces import named


@contextmanager
def out_of_descriptors() -> Iterator[list[un.UsernsError]]:
    """Suppress an error with the cause descriptor-limit in a ``with`` block.

    Yields a list, to which the error is appended.
    """
    failed: list[un.UsernsError] = []
    try:
        yield failed
    except un.UsernsError as error:
        assert (error.errno, error.cause) == (errno.EMFILE, "descriptor-limit")
        failed.append(error)


@pytest.mark.parametrize("streams", [{}, {"stdin": un.PIPE, "stdout": un.PIPE, "stderr": un.PIPE}])
def test_run_without_free_descriptors_raises_and_leaves_nothing(streams: dict[str, Any]) -> None:
    before = open_descriptors()
    failures = 0
    for room in range(16):
        with descriptors_left(room), out_of_descriptors() as failed:
            un.run(["true"], **streams)
        failures += bool(failed)
        assert open_descriptors() == before
    assert failures


def test_no_holder_stays_when_descriptors_run_out(runtime: Path) -> None:
    before = open_descriptors()
    failures = 0
    for room in range(24):
        with descriptors_left(room), out_of_descriptors() as failed:
            named.create_named("name", ["--user"])
        failures += bool(failed)
        assert open_descriptors() == before
        assert [one.name for one in named.list_named()] == ([] if failed else ["name"])
        if not failed:
            named.remove_named("name")
    assert failures
