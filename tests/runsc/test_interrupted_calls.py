"""Tests of signal handlers that raise an exception after any C call while a command starts."""

from __future__ import annotations

import itertools

import pytest
from conftest import EXIT_SECONDS, children, left_children, open_descriptors
from interrupts import run_interrupted

import usernsctl as un
from usernsctl.gvisor.template.image import Image

# Ignore the warnings of objects that are dropped without close(). pytest would report these
# warnings as errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FOREVER = ["sleep", "1000"]
# C functions that create a descriptor without opening a path.
CREATORS = ("dup", "memfd_create", "pidfd_open", "pipe", "pipe2", "socketpair")


def run(box: un.Sandbox, call: int, **streams: int) -> bool:
    """Interrupt box.run() at its `call`-th C call; return False if box.run() makes fewer."""
    return run_interrupted(lambda: box.run(["true"], **streams), call, places=("c_return",))


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param({}, id="default"),
        pytest.param(
            dict.fromkeys(["stdin", "stdout", "stderr"], un.DEVNULL),
            id="DEVNULL",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_interrupted_run_leaks_no_descriptor(host: un.SandboxHost, streams: dict[str, int]) -> None:
    with host.start(FOREVER) as box:
        box.run(["true"])
        before = open_descriptors(), children()
        for call in itertools.count(1):
            was_interrupted = run(box, call, **streams)
            assert (open_descriptors(), children()) == before, f"after call {call}"
            if not was_interrupted:
                break
    assert call > 100


@pytest.mark.thorough
def test_interrupted_agent_start_leaks_no_descriptor(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as box:
        before, processes = open_descriptors(), children()
        for call in itertools.count(1):
            assert run(box, call)
            new = open_descriptors() - before
            if new:
                break
        # Check that the only new descriptor is the connection to the agent, which stays open.
        box.run(["true"])
        assert open_descriptors() - before == new
        assert children() == processes
    assert call > 100


@pytest.mark.parametrize("args", [FOREVER, None], ids=["command", "agent"])
def test_interrupted_sandbox_start_leaks_no_descriptor(
    host: un.SandboxHost, args: list[str] | None
) -> None:
    host.start(args).close()
    before = open_descriptors(), children()
    for call in itertools.count(1):
        was_interrupted = run_interrupted(
            lambda: host.start(args).close(), call, places=("c_return",), names=CREATORS
        )
        assert (open_descriptors(), left_children(before[1], EXIT_SECONDS)) == (before[0], {}), call
        if not was_interrupted:
            break


def test_interrupted_image_leaks_no_descriptor(host: un.SandboxHost) -> None:
    Image(host.prepared).close()
    before = open_descriptors()
    for call in itertools.count(1):
        made: list[Image] = []
        was_interrupted = run_interrupted(
            lambda made=made: made.append(Image(host.prepared)),
            call,
            places=("c_return",),
            names=("fcntl", "mkdir", "open"),
        )
        # close() runs uninterrupted, because an interrupted shutil.rmtree() may itself leak a
        # descriptor.
        for image in made:
            image.close()
        assert open_descriptors() == before, call
        if not was_interrupted:
            break
    assert call > 1
