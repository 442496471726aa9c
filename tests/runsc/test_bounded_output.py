"""Tests of `max_output` and `on_overflow`, which limit a command's captured output."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from processes import peak_memory, reset_peak_memory

import usernsctl as un
from usernsctl import gvisor

PATIENCE = 60
LIMIT = 1000
MIB = 1 << 20
# Size of a command's output in bytes. The caller's memory must grow by fewer bytes.
FLOOD_BYTES = 20_000_000
FLOOD = f"yes | head -c {FLOOD_BYTES}"

Run = Callable[..., "un.Result[Any]"]


@pytest.fixture(params=["gvisor.run", "box.run"])
def run(request: pytest.FixtureRequest, host: un.SandboxHost, box: un.Sandbox) -> Run:
    """Return a function that runs a shell script in a sandbox."""

    def run(script: str, **options: Any) -> un.Result[Any]:
        options = {"capture_output": True, "timeout": PATIENCE, **options}
        if request.param == "box.run":
            return box.run(["sh", "-c", script], **options)
        return gvisor.run(["sh", "-c", script], host=host, **options)

    return run


@pytest.mark.sampled(1)
def test_output_below_the_limit_is_kept_whole(run: Run) -> None:
    for number in (0, 1, LIMIT - 1, LIMIT):
        result = run(f"head -c {number} /dev/zero; printf error >&2", max_output=LIMIT)
        assert (result.stdout, result.stderr) == (b"\0" * number, b"error")
        assert (result.stdout_truncated, result.stderr_truncated) == (0, 0)
        assert (result.returncode, result.reason, result.limit) == (0, "exited", None)


def test_the_beginning_and_the_end_are_kept(run: Run) -> None:
    result = run("seq 1000; seq 10000 >&2; exit 3", max_output=11, text=True)
    whole = "".join(f"{n}\n" for n in range(1, 1001))
    assert result.stdout == whole[:5] + whole[-6:]
    assert result.stdout_truncated == len(whole) - 11
    assert result.stderr_truncated == len("".join(f"{n}\n" for n in range(1, 10001))) - 11
    assert (result.returncode, result.reason) == (3, "exited")
    assert run("printf abcd", max_output=1).stdout == b"d"
    assert run("printf abc", max_output=2).stdout == b"ac"


@pytest.mark.sampled(1)
def test_cut_characters_are_dropped(run: Run) -> None:
    result = run("printf ééééé", max_output=6, text=True)
    assert (result.stdout, result.stdout_truncated) == ("éé", 4)
    result = run(r"printf '\377\377\377\377\377\377\377\377'", max_output=4, errors="replace")
    assert result.stdout == "\N{REPLACEMENT CHARACTER}" * 4
    with pytest.raises(UnicodeDecodeError):
        run(r"printf '\377\377\377\377\377\377\377\377'", max_output=4, text=True)
    assert run(r"printf 'a\r\nb'", max_output=100, text=True).stdout == "a\nb"


@pytest.mark.thorough
def test_truncated_output_uses_bounded_memory(run: Run) -> None:
    before = reset_peak_memory()
    result = run(f"{FLOOD} >&2 & {FLOOD}; wait", max_output=MIB)
    assert (len(result.stdout), result.stdout_truncated) == (MIB, FLOOD_BYTES - MIB)
    assert (len(result.stderr), result.stderr_truncated) == (MIB, FLOOD_BYTES - MIB)
    assert peak_memory() - before < 16 << 10


def test_on_overflow_kill_ends_the_command(run: Run) -> None:
    started = time.monotonic()
    for script in ("yes", "yes >&2", "setsid yes & sleep 1000", "trap '' TERM; yes; sleep 1000"):
        result = run(script, max_output=LIMIT, on_overflow="kill")
        assert (result.returncode, result.reason, result.limit) == (-9, "output-limit", LIMIT)
        assert result.used is not None
        assert LIMIT < result.used < MIB
        assert LIMIT in (len(result.stdout), len(result.stderr))
    assert time.monotonic() - started < PATIENCE
    with pytest.raises(un.CalledProcessError) as caught:
        run("yes", max_output=LIMIT, on_overflow="kill", check=True)
    assert caught.value.output.startswith(b"y\n")
    enough = run(f"head -c {LIMIT} /dev/zero", max_output=LIMIT, on_overflow="kill")
    assert (enough.returncode, enough.reason) == (0, "exited")


@pytest.mark.sampled(1)
def test_timeout_expired_holds_the_output_so_far(run: Run) -> None:
    with pytest.raises(un.TimeoutExpired) as caught:
        run("echo begun; echo trouble >&2; sleep 1000", max_output=LIMIT, timeout=3)
    assert (caught.value.output, caught.value.stderr) == (b"begun\n", b"trouble\n")
    assert caught.value.timeout == 3
    with pytest.raises(un.TimeoutExpired) as caught:
        run("yes | head -c 1000000; sleep 1000", max_output=LIMIT, timeout=3)
    assert caught.value.output == b"y\n" * (LIMIT // 2)
    with pytest.raises(un.TimeoutExpired) as caught:
        run("exec >&- 2>&-; sleep 1000", max_output=LIMIT, timeout=2)
    assert (caught.value.output, caught.value.stderr) == (b"", b"")
    with pytest.raises(un.TimeoutExpired) as caught:
        run("echo begun; sleep 1000", timeout=2)
    assert caught.value.output == b"begun\n"


def test_input_is_written_while_output_is_read(run: Run) -> None:
    data = bytes(range(256)) * 8192
    result = run("cat", input=data, max_output=len(data))
    assert result.stdout == data
    assert run("wc -c", input=data, max_output=LIMIT).stdout == b"%d\n" % len(data)
    assert run("exit 0", input=data, max_output=LIMIT).returncode == 0
    assert run("cat", input="é", max_output=LIMIT, text=True).stdout == "é"


def test_max_output_works_with_one_captured_stream(run: Run) -> None:
    options: dict[str, Any] = {"capture_output": False, "stdout": un.PIPE, "stderr": un.STDOUT}
    result = run("echo out; echo error >&2", max_output=LIMIT, **options)
    assert (sorted(result.stdout.split()), result.stderr) == ([b"error", b"out"], None)
    options = {"capture_output": False, "stdout": un.DEVNULL, "stderr": un.PIPE}
    assert run("yes | head -n 999; echo e >&2", max_output=3, **options).stderr == b"e\n"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_output": 0}, ValueError, "at least 1 byte, not 0"),
        ({"max_output": -1}, ValueError, "at least 1 byte, not -1"),
        ({"max_output": "1M"}, TypeError, "a number of bytes, not '1M'"),
        ({"max_output": 1.5}, TypeError, r"a number of bytes, not 1\.5"),
        ({"max_output": True}, TypeError, "a number of bytes, not True"),
        ({"max_output": 1, "capture_output": False}, ValueError, "add capture_output=True"),
        ({"max_output": 1, "on_overflow": "stop"}, ValueError, "'truncate' or 'kill', not 'stop'"),
        ({"on_overflow": "kill"}, ValueError, "needs max_output"),
    ],
)
def test_invalid_limits_raise_before_the_start(
    run: Run, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        run("echo never", **options)
