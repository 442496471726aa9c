"""Tests of a proxy's start."""

from __future__ import annotations

import itertools
import os

import pytest
from conftest import settled_descriptors
from interrupts import run_interrupted

from usernsctl._system.descriptors import open_owned, pipe, wait_readable
from usernsctl.network.names import parse_rules
from usernsctl.network.proxy_process import ProxyProcess


def test_proxy_prints_nothing_if_its_creator_has_closed_the_connection() -> None:
    reader, writer = pipe()
    with reader, writer:
        proxy = ProxyProcess(parse_rules(["allowed.example"]), log=writer.fileno())
        with open_owned(os.pidfd_open, proxy.pid) as process:
            proxy.handover.close()
            ended = wait_readable(process.fileno(), timeout=30)
        proxy.close()
        writer.close()
        assert (ended, reader.read()) == (True, b"")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_interrupt_before_the_start_of_a_proxy_leaks_no_descriptor() -> None:
    def run() -> None:
        ProxyProcess(parse_rules(["allowed.example"])).close()

    run()
    before = settled_descriptors()
    # The functions that ProxyProcess calls before it starts the proxy.
    names = ("socketpair", "memfd_create", "write", "lseek", "seek", "getpid", "encode")
    for call in itertools.count(1):
        was_interrupted = run_interrupted(run, call, places=("c_return",), names=names)
        assert settled_descriptors() == before, call
        if not was_interrupted:
            break
    assert call > 3
