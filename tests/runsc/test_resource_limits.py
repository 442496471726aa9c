"""Tests of the causes of failures due to resource limits of the caller (getrlimit(2))."""

from __future__ import annotations

import re
import resource

import gvisor
import pytest
from conftest import SCRIPTS
from processes import capture

RUN = ("run", "--", "true")
TEMPLATE = ("template", "create", "limited", "--ready", "line:ready", "--", "echo", "ready")
ADDRESSES, SIZE = "address-space-limit", "file-size-limit"


@pytest.mark.skipif(gvisor.is_of_2026(), reason="the limits were measured with runsc 20240729")
@pytest.mark.parametrize(
    ("command", "limit", "most", "cause"),
    [
        (RUN, "AS", 100_000 << 10, ADDRESSES),
        (RUN, "AS", 1_100_000 << 10, ADDRESSES),
        (RUN, "AS", 2_000_000 << 10, ADDRESSES),
        (RUN, "DATA", 35_000 << 10, ADDRESSES),
        (RUN, "FSIZE", 0, SIZE),
        (RUN, "FSIZE", 1_000_000 << 10, SIZE),
        (("ns", "create", "limited"), "FSIZE", 0, SIZE),
        (TEMPLATE, "FSIZE", 0, SIZE),
        (TEMPLATE, "FSIZE", 8 << 10, SIZE),
    ],
)
def test_the_cause_names_the_limit(
    command: tuple[str, ...], limit: str, most: int, cause: str
) -> None:
    def lower() -> None:
        number = getattr(resource, f"RLIMIT_{limit}")
        resource.setrlimit(number, (most, resource.getrlimit(number)[1]))

    done = capture([f"{SCRIPTS / 'usernsctl'}", *command], timeout=90, preexec_fn=lower)
    assert (done.returncode, done.stdout) == (125, ""), done
    assert re.findall(r"^  why: .*\[(.*)\]$", done.stderr, re.MULTILINE) == [cause], done.stderr
    assert "\n    ulimit " in done.stderr
