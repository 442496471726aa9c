"""Tests of persistent interpreters: Sandbox.interpreter() and Interpreter.run()."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import settled_descriptors
from interrupts import alarm, run_interrupted
from limits import descriptors_left
from sampling import tries

import usernsctl as un

pytestmark = pytest.mark.userns_requires("runsc")

PYTHON = "/usr/bin/python3"
PATIENCE = 60
SLEEP = "import time; time.sleep(1000)"
LIMIT = 1000


@pytest.fixture(scope="module")
def box() -> Iterator[un.Sandbox]:
    with un.Sandbox(None) as made:
        yield made


@pytest.fixture
def python(box: un.Sandbox) -> Iterator[un.Interpreter]:
    with box.interpreter(PYTHON) as made:
        yield made


def wait_until_killed(box: un.Sandbox, mark: str) -> None:
    """Wait until no process `sleep MARK` is left in the sandbox."""
    deadline = time.monotonic() + PATIENCE
    while box.run(["pgrep", "-f", f"sleep {mark}"]).returncode == 0:
        assert time.monotonic() < deadline


def test_variables_and_imports_stay(python: un.Interpreter) -> None:
    assert python.run("import math\nx = 1\nx + 1") == un.Execution("", "", 2, "2")
    assert python.run("def f(): return x + math.isqrt(16)") == un.Execution("", "")
    assert python.run("x = 2; f()").value == 6
    assert python.run("__name__, __import__('__main__').x").value == ["__main__", 2]
    assert python.run(
        "import pickle\nclass A: pass\ntype(pickle.loads(pickle.dumps(A()))) is A"
    ).value
    assert python.reason is None


@pytest.mark.parametrize(
    ("code", "value", "text"),
    [
        ("", None, None),
        ("# nothing", None, None),
        ("None", None, None),
        ("x = 5", None, None),
        ("'text'", "text", "'text'"),
        ("(1, 2.5, True)", [1, 2.5, True], "(1, 2.5, True)"),
        ("{1: {'a': None}}", {"1": {"a": None}}, "{1: {'a': None}}"),
        ("{1}", None, "{1}"),
        ("b'a'", None, "b'a'"),
        ("x = 1;", None, None),
        ("'é\\ud800'", "é\ud800", "'é\\ud800'"),
        ("10 ** 4000 % 7", 10**4000 % 7, str(10**4000 % 7)),
        # The value's JSON has more digits than json.loads() accepts (sys.set_int_max_str_digits()).
        ("import sys; sys.set_int_max_str_digits(0); 10 ** 4300", None, str(10**4299) + "0"),
        ("# coding: latin-1\n'é'", "é", "'é'"),
        ("if True:\n    5", None, None),
        (
            "class S(str):\n    __bool__ = __len__ = lambda self: 1 / 0\n"
            "class A:\n    def __repr__(self): return S('exact')\nA()",
            None,
            "exact",
        ),
    ],
)
@pytest.mark.sampled(8)
def test_value_of_the_last_expression(
    python: un.Interpreter, code: str, value: Any, text: str | None
) -> None:
    assert python.run(code) == un.Execution("", "", value, text)


def test_output_of_the_code_and_of_its_processes(python: un.Interpreter) -> None:
    done = python.run(
        "import os, subprocess, sys\n"
        "print('one', end='')\n"
        "print('é\\ud800', file=sys.stderr)\n"
        "sys.stdout.flush()\n"
        "subprocess.run(['echo', 'two'])\n"
        "os.write(1, b'\\xff')\n"
        "'three'"
    )
    assert (done.stdout, done.stderr) == ("onetwo\n\N{REPLACEMENT CHARACTER}", "é\\ud800\n")
    assert (done.value, done.error, done.reason) == ("three", None, None)
    assert python.run("print('x' * 100_000)").stdout == "x" * 100_000 + "\n"
    # Check that code in the interpreter has no standard input.
    error = python.run("input()").error
    assert error is not None
    assert error[:2] == ("EOFError", "EOF when reading a line")


def test_error_of_the_code(python: un.Interpreter) -> None:
    python.run("def f():\n    kept = 1 / 0\n")
    done = python.run("kept = 1\nprint('before')\nf()")
    assert done.error is not None
    assert (done.stdout, done.value, done.text, done.reason) == ("before\n", None, None, None)
    assert done.error[:2] == ("ZeroDivisionError", "division by zero")
    lines = done.error.traceback.splitlines()
    assert [line for line in lines if "File" in line] == [
        '  File "<code 2>", line 3, in <module>',
        '  File "<code 1>", line 2, in f',
    ]
    assert "    kept = 1 / 0" in lines
    assert str(done.error) == done.error.traceback
    assert python.run("kept").value == 1


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("1 +", "SyntaxError", "invalid syntax (<code 1>, line 1)"),
        ("raise SystemExit(3)", "SystemExit", "3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("exit()", "SystemExit", "None"),
        ("class A:\n    def __repr__(self): raise ValueError('no')\nA()", "ValueError", "no"),
        (
            "class A(Exception):\n    def __str__(self): raise SystemExit\nraise A",
            "A",
            "<exception str() failed>",
        ),
        # The traceback module searches for similar names, and so calls this __dir__(), which raises
        # an exception.
        (
            "class A:\n    def __dir__(self): raise SystemExit\nA().b",
            "AttributeError",
            "'A' object has no attribute 'b'",
        ),
        (
            "class M(type):\n    __name__ = property(lambda self: 1 / 0)\n"
            "class A(Exception, metaclass=M): pass\nraise A('text')",
            "<exception name failed>",
            "text",
        ),
        ("import sys\nsys.tracebacklimit = 'a'\n1 / 0", "ZeroDivisionError", "division by zero"),
        ("'\\0'\0", None, None),
    ],
)
def test_error_keeps_the_interpreter(
    box: un.Sandbox, code: str, kind: str | None, message: str | None
) -> None:
    with box.interpreter(PYTHON) as python:
        done = python.run(code)
        assert done.error is not None
        if kind is not None:
            assert done.error[:2] == (kind, message)
        assert "interpreter_loop" not in done.error.traceback
        assert '"<string>"' not in done.error.traceback
        assert python.run("'alive'").value == "alive"


def test_variables_of_the_caller(python: un.Interpreter) -> None:
    sent = {"a": [1, {"b": None}], "text": "é\ud800\n", "long": "x" * 3_000_000, "none": None}
    done = python.run("len(long), a, text, none", variables=sent)
    assert done.value == [3_000_000, *(sent[name] for name in ("a", "text", "none"))]
    for wrong in ({"a": object()}, {"a": {1}}, {(1,): 1}):
        with pytest.raises(TypeError):
            python.run("1", variables=wrong)  # type: ignore[arg-type]
    assert python.run("a").value == sent["a"]


def test_variables_that_can_not_be_encoded_or_parsed(python: un.Interpreter) -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(ValueError, match="nested too deeply"):
        python.run("1", variables={"nested": nested})
    # Send a number that the interpreter in the sandbox can't parse, because its limit on digits is
    # lower than the caller's.
    python.run("import sys; limit = sys.get_int_max_str_digits(); sys.set_int_max_str_digits(640)")
    done = python.run("number = 0", variables={"number": 10**1000})
    assert done.error is not None
    assert (done.error.type, done.reason) == ("ValueError", None)
    assert python.run("sys.set_int_max_str_digits(limit); 'number' in vars()").value is False


def test_long_code(python: un.Interpreter) -> None:
    code = "".join(f"v{number} = {number}\n" for number in range(50_000)) + "v49999"
    assert python.run(code).value == 49_999


def test_max_output_limits_everything(box: un.Sandbox) -> None:
    with box.interpreter(PYTHON, max_output=LIMIT) as python:
        done = python.run(f"print('a' * {LIMIT}, 'b' * {LIMIT})")
        assert done.stdout == "a" * (LIMIT // 2) + "b" * (LIMIT // 2 - 1) + "\n"
        assert (done.stdout_truncated, done.stderr_truncated) == (LIMIT + 2, 0)
        # The value fits, since its JSON has exactly LIMIT characters.
        done = python.run(f"'c' * {LIMIT - 2}")
        assert done.value == "c" * (LIMIT - 2)
        done = python.run("'c' * 10_000_000")
        assert done.value is None
        assert done.text is not None
        assert done.text.startswith("'cccc")
        assert done.text.endswith("cccc'")
        assert " ... " in done.text
        assert len(done.text) < LIMIT
        done = python.run("raise type('K' * 9999, (Exception,), {})('\\N{GRINNING FACE}' * 9999)")
        assert done.error is not None
        assert done.error.type.startswith("KKK")
        assert max(map(len, done.error)) < LIMIT
    with box.interpreter(PYTHON, max_output=1) as python:
        done = python.run("print('abc'); 5")
        assert (done.stdout, done.stdout_truncated, done.value) == ("\n", 3, 5)
        assert python.run("'ab'").text == "'ab'"
        error = python.run("raise ValueError('\\N{GRINNING FACE}' * 9999)").error
        assert error is not None
        assert error.type == "ValueError"


def test_timeout_kills_the_interpreter_and_its_processes(box: un.Sandbox) -> None:
    mark = f"10{os.getpid()}"
    with box.interpreter(PYTHON) as python:
        python.run(
            f"import subprocess, sys\nsubprocess.Popen(['sleep', '{mark}'], start_new_session=True)"
        )
        started = time.monotonic()
        done = python.run(f"print('begun')\nprint('trouble', file=sys.stderr)\n{SLEEP}", timeout=3)
        assert 3 <= time.monotonic() - started < PATIENCE
        assert done == un.Execution("begun\n", "trouble\n", reason="timeout")
        assert python.reason == "timeout"
        with pytest.raises(ValueError, match=r"has ended \(timeout\)"):
            python.run("1")
    wait_until_killed(box, mark)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("os._exit(0)", "exited"),
        ("os._exit(3)", "exited"),
        ("os.kill(os.getpid(), 9)", "signalled"),
        ("os.abort()", "signalled"),
        ("import ctypes; ctypes.string_at(0)", "signalled"),
    ],
)
def test_code_that_ends_the_interpreter(box: un.Sandbox, end: str, reason: str) -> None:
    with box.interpreter(PYTHON) as python:
        done = python.run(f"import os\nprint('last')\n{end}", timeout=PATIENCE)
        assert (done.stdout, done.error, done.reason) == ("last\n", None, reason)


def test_processes_end_with_an_interpreter_that_exits(box: un.Sandbox) -> None:
    mark = f"12{os.getpid()}"
    with box.interpreter(PYTHON) as python:
        start = f"subprocess.Popen(['sleep', '{mark}'], start_new_session=True)"
        done = python.run(f"import os, subprocess\n{start}\nos._exit(0)", timeout=PATIENCE)
        assert done.reason == "exited"
    wait_until_killed(box, mark)


def test_limits_of_the_sandbox_are_the_reason() -> None:
    with un.Sandbox(None, memory="400M") as box, box.interpreter(PYTHON) as python:
        done = python.run("x = []\nwhile True: x.append(bytearray(1 << 20))", timeout=PATIENCE)
        assert done.reason == "memory-limit"
        with pytest.raises(un.SandboxEndedError):
            box.interpreter(PYTHON)
    with un.Sandbox(None, ttl=8) as box, box.interpreter(PYTHON) as python:
        assert python.run(SLEEP, timeout=PATIENCE).reason == "timeout"
        assert box.result().reason == "timeout"
    with un.Sandbox(None) as box, box.interpreter(PYTHON, rlimits=["as=300000000"]) as python:
        done = python.run("bytearray(1 << 30)")
        assert done.error is not None
        assert (done.error.type, done.reason) == ("MemoryError", None)


def test_end_of_the_sandbox() -> None:
    with un.Sandbox(None) as box, box.interpreter(PYTHON) as python:
        python.run("1")
        box.close()
        assert python.run("1").reason in ("killed", "sandbox-ended")


def test_options_and_defaults() -> None:
    with un.Sandbox(None, cwd="/tmp", user=(1000, 1000), env={"A": "b"}) as box:
        ask = "import os; [os.getcwd(), os.getuid(), os.environ.get('A'), os.environ.get('C')]"
        with box.interpreter(PYTHON) as python:
            assert python.run(ask).value == ["/tmp", 1000, "b", None]
        options: Any = {"cwd": "/usr", "user": "5:5", "env": {"C": "d"}}
        with box.interpreter(PYTHON, **options) as python:
            assert python.run(ask).value == ["/usr", 5, "b", "d"]
        box.write_file("/tmp/here.py", b"value = 7\n")
        with box.interpreter() as python:
            assert python.run("import here\nhere.value").value == 7


def test_wrong_arguments(box: un.Sandbox, python: un.Interpreter) -> None:
    with pytest.raises(un.CommandNotFoundError):
        box.interpreter("/no/python")
    with pytest.raises(TypeError):
        box.interpreter(PYTHON, stdin=un.PIPE)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        box.interpreter(PYTHON, max_output="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1 byte"):
        box.interpreter(PYTHON, max_output=0)
    with pytest.raises(TypeError, match="code must be str"):
        python.run(b"1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        python.run("1", timeout="1")  # type: ignore[arg-type]
    assert python.run("1").value == 1
    # /bin/echo is not a Python interpreter: it prints its arguments and exits.
    with box.interpreter("/bin/echo") as echo:
        done = echo.run("1", timeout=PATIENCE)
        assert done.reason == "exited"
        assert "def serve" in done.stdout


@pytest.mark.parametrize("step", [4, pytest.param(2, marks=pytest.mark.thorough)])
def test_start_without_free_descriptors_raises_and_leaves_nothing(
    box: un.Sandbox, step: int
) -> None:
    box.interpreter(PYTHON).close()
    before = settled_descriptors()
    failures = 0
    for room in range(0, 14, step):
        try:
            with descriptors_left(room), box.interpreter(PYTHON) as python:
                assert python.run("6 * 7").value == 42
        except un.UsernsError as error:
            assert (error.errno, error.cause) == (errno.EMFILE, "descriptor-limit")
            failures += 1
        assert settled_descriptors() == before
    assert 4 < failures * step < 14


def test_run_needs_no_free_descriptors(box: un.Sandbox) -> None:
    code = "import time\ntime.sleep(0.1)\n6 * 7"

    async def main() -> None:
        with box.interpreter(PYTHON) as python:
            # Use asyncio before descriptors run out, because its first use imports modules.
            await python.run_async("1")
            with descriptors_left(0):
                assert python.run(code).value == 42
                assert (await python.run_async(code)).value == 42

    asyncio.run(main())


def test_close(box: un.Sandbox) -> None:
    before = settled_descriptors()
    python = box.interpreter(PYTHON)
    python.run("1")
    python.close()
    python.close()
    assert python.closed
    assert python.reason == "killed"
    with pytest.raises(ValueError, match="has ended"):
        python.run("1")
    assert settled_descriptors() == before


def test_close_ends_the_code_of_another_thread(box: un.Sandbox) -> None:
    python = box.interpreter(PYTHON)
    results: list[un.Execution] = []
    thread = threading.Thread(target=lambda: results.append(python.run(SLEEP, timeout=PATIENCE)))
    thread.start()
    while python._unclaimed:
        time.sleep(0.001)
    with pytest.raises(RuntimeError, match="runs code already"):
        python.run("1")
    python.close()
    thread.join()
    assert results == [un.Execution("", "", reason="killed")]


def test_second_close_completes_an_interrupted_one(box: un.Sandbox) -> None:
    before = settled_descriptors()
    for number in (1, 2, 3):
        python = box.interpreter(PYTHON)
        assert run_interrupted(python.close, number, ("c_return",), {"close"})
        assert settled_descriptors() != before
        python.close()
        assert settled_descriptors() == before


def test_forgotten_interpreter_is_killed(box: un.Sandbox) -> None:
    mark = f"11{os.getpid()}"
    python = box.interpreter(PYTHON)
    python.run(f"import subprocess; subprocess.Popen(['sleep', '{mark}'])")
    forgotten = [python]
    del python
    with pytest.warns(ResourceWarning, match="an interpreter was not closed"):
        forgotten.clear()
    wait_until_killed(box, mark)


def test_interrupted_run_kills_the_interpreter(box: un.Sandbox) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    with box.interpreter(PYTHON) as python:
        python.run("1")
        with alarm(interrupt, 0.5), pytest.raises(InterruptedError):
            python.run(SLEEP, timeout=PATIENCE)
        assert python.reason == "killed"


def test_forked_child_does_not_use_the_interpreter(python: un.Interpreter) -> None:
    pid = os.fork()
    if not pid:
        with contextlib.suppress(ValueError):
            python.run("1")
            os._exit(1)
        python.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert python.run("2").value == 2


def test_output_of_background_threads_belongs_to_the_next_code(python: un.Interpreter) -> None:
    python.run(
        "import os, threading\ngo, gone = threading.Event(), threading.Event()\n"
        "def work():\n    go.wait(); os.write(1, b'late'); gone.set()\n"
        "threading.Thread(target=work).start()"
    )
    assert python.run("go.set(); gone.wait(); 1").stdout == "late"


@pytest.mark.thorough
def test_interpreters_of_a_lease_and_of_a_detached_sandbox(runtime: Path) -> None:
    with un.SandboxHost() as host:
        with host.pool(1) as pool, pool.acquire() as box, box.interpreter(PYTHON) as python:
            assert python.run("6 * 7").value == 42
        host.start(None, id="kept", detach=True).release()
        with un.Sandbox.attach("kept") as box, box.interpreter(PYTHON) as python:
            assert python.run("6 * 7").value == 42
            assert python.run(SLEEP, timeout=1).reason == "timeout"


@tries(5, 12)
def test_asyncio(box: un.Sandbox, count: int) -> None:
    async def one(number: int) -> list[Any]:
        async with await box.interpreter_async(PYTHON) as python:
            first = await python.run_async(f"x = {number}\nprint(x)\nx")
            second = await python.run_async("print('y' * 300_000)\nx + 1", timeout=PATIENCE)
            return [first.stdout, first.value, len(second.stdout), second.value]

    async def main() -> None:
        found = await asyncio.gather(*map(one, range(count)))
        assert found == [[f"{number}\n", number, 300_001, number + 1] for number in range(count)]
        async with await box.interpreter_async(PYTHON) as python:
            await python.run_async("import time")
            done = await python.run_async(f"print('begun')\n{SLEEP}", timeout=2)
            assert done == un.Execution("begun\n", "", reason="timeout")
        async with await box.interpreter_async(PYTHON) as python:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await python.run_async(SLEEP)
            assert python.reason == "killed"

    before = settled_descriptors()
    asyncio.run(main())
    assert settled_descriptors() == before
