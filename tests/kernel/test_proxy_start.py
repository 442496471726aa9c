"""Tests of a proxy's start."""

from __future__ import annotations

import os

import pytest
from interrupts import interrupt_each

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

    # The functions that ProxyProcess calls before it starts the proxy.
    names = ("socketpair", "memfd_create", "write", "lseek", "seek", "getpid", "encode")
    interrupt_each(run, *names, minimum=3)
