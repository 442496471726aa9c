"""Tests of inspect_ai with the sandbox provider in examples/clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import children
from inspect_ai.util._sandbox import self_check
from inspect_provider import GvisorSandbox

Check = Callable[[Any], Awaitable[None]]
CHECKS: list[Check] = [getattr(self_check, name) for name in self_check.__all__]


def run_in_sandbox(check: Check) -> None:
    async def main() -> None:
        environments = await GvisorSandbox.sample_init("task", None, {})
        try:
            await check(environments["default"])
        finally:
            await GvisorSandbox.sample_cleanup("task", None, environments, False)

    before = children()
    asyncio.run(main())
    assert children() == before


@pytest.mark.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])
def test_inspect_ai_accepts_the_provider(check: Check) -> None:
    run_in_sandbox(check)


def test_inspect_ai_has_the_documented_number_of_checks() -> None:
    assert len(CHECKS) == 44


def test_missing_commands_and_users_are_results_of_commands() -> None:
    async def check(box: Any) -> None:
        done = await box.exec(["/missing"])
        assert (done.success, done.returncode) == (False, 127)
        assert "/missing" in done.stderr
        done = await box.exec(["true"], user="missing")
        assert (done.success, "missing" in done.stderr) == (False, True)
        flood = await box.exec(["head", "-c", "30000000", "/dev/zero"])
        assert (flood.success, len(flood.stdout)) == (True, 10 << 20)

    run_in_sandbox(check)
