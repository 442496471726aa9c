"""Tests of parsing limits, and of choosing the mechanisms that enforce them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from usernsctl.errors import RunscError
from usernsctl.gvisor.launch import limits

MIB = 1 << 20
MACHINE = limits.Machine(memory=8 << 30, processors=4, pids=32768)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("1", 1), ("512", 512), ("512M", 512 * MIB), ("512m", 512 * MIB), ("1g", 1 << 30)),
        *(("1GiB", 1 << 30), ("1gb", 1 << 30), ("1.5GiB", 3 << 29), ("2k", 2048), ("3b", 3)),
        *(("0.5M", MIB // 2), ("10TB", 10 << 40), ("1P", 1 << 50)),
    ],
)
def test_sizes_are_parsed_as_by_docker(text: str, size: int) -> None:
    assert limits.parse_size(text) == size
    assert limits.check_size("memory", text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("2m", 120), ("1.5", 1.5), ("1.5h", 5400), ("1d", 86400), ("0.001", 0.001)],
)
def test_durations_are_parsed_as_by_timeout(text: str, seconds: float) -> None:
    assert limits.parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (limits.parse_size, ["", "-1", "0", "0M", "1e9", "1.5x", "1.5", "M", "1 M", "1ib"]),
        (limits.parse_size, ["9" * 20, "1.M", "+1", "1MiBs", "inf", "1\n", "0.1b", "\uff11"]),
        (limits.parse_count, ["", "-1", "0", "1e3", "1.5", "x", "2 ", "9" * 20]),
        (limits.parse_cpus, ["", "-1", "0", "0.000", "1e1", "1.5x", "1.2345", "inf", "nan"]),
        (limits.parse_duration, ["", "-1", "0", "1e3", "1.5x", "1ms", "0.0001", "inf"]),
    ],
)
def test_invalid_values_raise_and_are_quoted(parse: Callable[[str], Any], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValueError, match=r"is not|must be|too large") as error:
            parse(text)
        assert repr(text) in str(error.value)


@pytest.mark.parametrize("given", [True, 1.5, b"1M", [1], object()])
def test_size_of_a_wrong_type_raises_typeerror(given: object) -> None:
    with pytest.raises(TypeError, match="memory must be a number of bytes"):
        limits.check_size("memory", given)


def test_numbers_are_accepted_as_limits() -> None:
    assert limits.check_size("memory", 5 * MIB) == 5 * MIB
    assert limits.check_count("pids", 7) == 7
    assert limits.check_cpus("cpus", 2) == 2
    assert limits.check_cpus("cpus", 0.5) == 0.5
    for check in (limits.check_size, limits.check_count, limits.check_cpus):
        assert check("name", None) is None
        for number in (0, -1):
            with pytest.raises(ValueError, match=r"^name: "):
                check("name", number)


def test_floats_are_rounded_to_thousandths() -> None:
    assert limits.check_duration("ttl", 10 / 3) == 3.333
    assert limits.check_duration("ttl", 1e6 + 0.0004) == 1e6
    assert limits.check_cpus("cpus", 2 / 3) == 0.667
    for few in (1e-9, 0.0004):
        with pytest.raises(ValueError, match="must be at least a millisecond"):
            limits.check_duration("ttl", few)
    for check in (limits.check_duration, limits.check_cpus):
        for wrong in (math.inf, math.nan, -1.5):
            with pytest.raises(ValueError, match=r"name: .* is not a number of"):
                check("name", wrong)
        with pytest.raises(ValueError, match=r"name: .* is too large: at most 9 digits"):
            check("name", 1e30)


@pytest.mark.parametrize(
    ("parse", "text", "digits"),
    [
        (limits.parse_size, "9" * 20, 19),
        (limits.parse_size, "9" * 20 + ".5G", 19),
        (limits.parse_count, "9" * 20, 19),
        (limits.parse_cpus, "9" * 20, 9),
        (limits.parse_duration, "9" * 20 + "s", 9),
    ],
)
def test_numbers_with_too_many_digits_are_too_large(
    parse: Callable[[str], Any], text: str, digits: int
) -> None:
    with pytest.raises(ValueError, match="is too large") as error:
        parse(text)
    assert str(error.value) == f"{text!r} is too large: at most {digits} digits are allowed"


@pytest.mark.parametrize(
    ("wanted", "cause", "text"),
    [
        ({"memory": 512}, "memory-limit-too-low", "memory=512 bytes .* gVisor alone needs 24M"),
        ({"memory": 10 << 40}, "limit-out-of-range", "=10T is too high: this machine has only 8G"),
        (
            {"pids": 9},
            "limit-out-of-range",
            "limit pids=9 is too low: gVisor alone needs 30 processes",
        ),
        ({"pids": 99999}, "limit-out-of-range", "only 32768 processes"),
        ({"cpus": 5.0}, "limit-out-of-range", "=5 is too high: this machine has only 4 processors"),
        ({"cpus": 1.5}, "limit-unenforceable", "only a control group"),
        ({"disk": 512}, "limit-out-of-range", "disk=512 bytes is too low: the least is 1M"),
        ({"disk": 10 << 40}, "limit-out-of-range", "=10T is too high: this machine has only 8G"),
    ],
)
def test_impossible_limits_raise(wanted: dict[str, Any], cause: str, text: str) -> None:
    with pytest.raises(RunscError, match=text) as error:
        limits.enforce(limits.Limits(**wanted), MACHINE)
    assert error.value.cause == cause
    assert error.value.remedy


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1 bytes"), (1000, "1000 bytes"), (10 * MIB, "10M"), (1 << 30, "1G"), (1536, "1536 bytes"),
     (3 << 29, "1536M"), (5 << 10, "5K"), (1 << 50, "1P")],
)  # fmt: skip
def test_formatted_sizes_can_be_parsed(size: int, text: str) -> None:
    assert limits.shown_size(size) == text
    assert limits.parse_size(text.removesuffix(" bytes")) == size


def test_watcher_gets_limits_as_integers() -> None:
    wanted = limits.Limits(memory=64 * MIB, pids=100, cpus=2.0, timeout=1.5)
    enforced = limits.enforce(wanted, MACHINE)
    assert enforced.words == f"memory={64 * MIB},pids=100,processors=2,timeout=1500"
    assert (enforced.memory, enforced.processors) == (64 * MIB, 2)
    assert all(part.means for part in enforced.parts)


@pytest.mark.parametrize(
    ("is_root", "command"),
    [(False, "systemd-run --user --scope -p Delegate=yes"), (True, "systemd-run --scope -p ")],
)
def test_remedy_starts_a_delegated_group(*, is_root: bool, command: str) -> None:
    machine = limits.Machine(memory=8 << 30, processors=4, pids=999, is_root=is_root)
    with pytest.raises(RunscError) as error:
        limits.enforce(limits.Limits(cpus=0.5), machine)
    assert command in str(error.value.remedy)


def test_best_effort_skips_a_fraction_of_a_cpu() -> None:
    tried = limits.enforce(limits.Limits(cpus=1.5), MACHINE, best_effort=True)
    assert (tried.words, tried.processors) == ("", 0)
    assert str(tried.parts[0]) == "cpus 1.5: not enforced"


def test_disk_limit_with_a_writable_bind_mount_raises() -> None:
    machine = limits.Machine(memory=8 << 30, processors=4, pids=999, writable="/data")
    wanted = limits.Limits(disk=MIB)
    with pytest.raises(RunscError, match="may write to /data on this machine") as error:
        limits.enforce(wanted, machine)
    assert error.value.cause == "limit-unenforceable"
    tried = limits.enforce(wanted, machine, best_effort=True)
    assert tried.disk == limits.enforce(wanted, MACHINE).disk == MIB


def test_rlimit_nproc_does_not_limit_root() -> None:
    for machine in (
        limits.Machine(memory=8 << 30, processors=4, pids=999, is_root=True),
        limits.Machine(memory=8 << 30, processors=4, pids=999, counts_by_namespace=False),
    ):
        with pytest.raises(RunscError, match="RLIMIT_NPROC does not limit the processes of ") as e:
            limits.enforce(limits.Limits(pids=100), machine)
        assert e.value.cause == "limit-unenforceable"
        (part,) = limits.enforce(limits.Limits(pids=100), machine, best_effort=True).parts
        assert part.means == "a watcher ends the sandbox"
    (part,) = limits.enforce(limits.Limits(pids=100), MACHINE).parts
    assert part.means is not None
    assert part.means.startswith("RLIMIT_NPROC")


def test_control_groups_are_preferred() -> None:
    groups = {"memory": 2, "pids": 2, "cpus": 2}
    machine = limits.Machine(memory=8 << 30, processors=4, pids=999, is_root=True, groups=groups)
    wanted = limits.Limits(memory=64 * MIB, pids=100, cpus=1.5, timeout=2)
    enforced = limits.enforce(wanted, machine)
    assert [part.means for part in enforced.parts] == [
        *["a control group, version 2"] * 3,
        "a watcher ends the sandbox",
    ]
    words = f"memory={64 * MIB},pids=100,processors=2,timeout=2000,quota=1500,groups=7"
    assert enforced.words == words
    machine = limits.Machine(memory=8 << 30, processors=4, pids=999, groups={"cpus": 1})
    enforced = limits.enforce(limits.Limits(memory=64 * MIB, cpus=2), machine)
    assert enforced.words == f"memory={64 * MIB},processors=2,quota=2000,groups=4"
