"""Attacks by code in a persistent interpreter on the process that started the interpreter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from processes import peak_memory, reset_peak_memory
from tally import Tally

import usernsctl as un

pytestmark = pytest.mark.userns_requires("runsc")

PYTHON = "/usr/bin/python3"
# Timeout for code that never answers, in seconds.
SECONDS = 4
# Maximum duration of an attack on a loaded host, in seconds.
AT_MOST = 40
# Maximum growth of this process's memory, in KiB.
GROWTH = 64 << 10
# Size in bytes of an answer that must not make the memory grow by more than GROWTH.
FLOOD = 1 << 28

# Functions for attackers. find() returns the descriptor of the connection to the host. request()
# returns the id of the current request, from a frame of the interpreter's loop.
FIND = """
import os, json, socket, stat, sys, threading, time
def find():
    for fd in range(3, 100):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                return fd
        except OSError:
            pass
def request():
    frame = sys._getframe()
    while "request" not in frame.f_locals or "answer" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["request"]["id"]
fd = find()
def send(*value, **fields):
    parts = {"error": None, "text": None, **fields}, *value
    os.write(fd, "\\t".join(map(json.dumps, parts)).encode() + b"\\n")
"""

INVALID = {
    "an id of its own": "send('forged', id='0' * 32)",
    "no JSON": "os.write(fd, b'forged\\n')",
    "other JSON": "os.write(fd, b'[1]\\n')",
    "no text": "os.write(fd, b'\\n')",
    "another type": "send('forged', id=request(), text=5)",
    "no value": "send(id=request())",
    "another error": "send(1, id=request(), error=['a', 'b'])",
    "an error of objects": "send(1, id=request(), error=[[], {}, 1])",
    "two lines": "os.write(fd, b'1\\n1\\n')",
    "broken JSON": "json.dumps = None",
    "deep JSON": "os.write(fd, b'[' * 60000 + b'\\n')",
    "a long number": "os.write(fd, b'9' * 60000 + b'\\n')",
    "bytes": "os.write(fd, b'\\xff\\xfe\\0\\n')",
    "an answer without an end": f"[os.write(fd, b'x' * 65536) for _ in range({FLOOD} >> 16)]",
    "the end of the connection": "os.close(fd); time.sleep(1000)",
    "a shutdown": "socket.socket(fileno=fd).shutdown(socket.SHUT_RDWR); time.sleep(1000)",
    "an empty message": "socket.socket(fileno=fd).send(b''); time.sleep(1000)",
}
SILENT = {
    "silence": "time.sleep(1000)",
    "a busy loop": "while True: pass",
    "a stop": "os.kill(os.getpid(), 19)",
    "a part of an answer": "os.write(fd, b'{'); time.sleep(1000)",
    "output without an end": "while True: os.write(1, b'x' * 65536)",
    "errors without an end": "while True: os.write(2, b'x' * 65536)",
    "output of a process": "import subprocess; subprocess.run(['yes'])",
    "closed streams": "[os.close(n) for n in (0, 1, 2)]; time.sleep(1000)",
    "ignored signals": (
        "import signal\n[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]\ntime.sleep(1000)"
    ),
    "a hanging repr": "class A:\n    def __repr__(self):\n        while True: pass\nA()",
    "a hanging value": ("class A(dict):\n    def items(self):\n        while True: pass\nA(a=1)"),
    "a hanging str": (
        "class A(Exception):\n    def __str__(self):\n        while True: pass\nraise A"
    ),
    "processes": "for _ in range(30):\n    if not os.fork(): time.sleep(1000)\ntime.sleep(1000)",
    "children that hold the connection": (
        "if os.fork(): os.kill(os.getpid(), 19)\nos.setsid(); time.sleep(1000)"
    ),
    "a replaced function": "json.dumps = lambda *_: time.sleep(1000)",
}
ENDING = {
    "an exit": "os._exit(0)",
    "a signal": "os.kill(os.getpid(), 9)",
    "an exit after a part of an answer": "os.close(fd); os._exit(0)",
    "a replaced program": "os.execv('/bin/true', ['true'])",
    "broken builtins": "import builtins; vars(builtins).clear()",
    "a broken loop": "sys._getframe(1).f_globals['_encode'] = None",
    "a child that holds the streams": "if not os.fork(): time.sleep(1000)\nos._exit(0)",
}
IN_VAIN = {
    "a kill of everything": "os.kill(-1, 9)",
    "a fork that answers, too": "os.fork() and None",
    "a descriptor": "socket.send_fds(socket.socket(fileno=os.dup(fd)), [b'x\\n'], [0])",
    "a closed standard output": "sys.stdout.close(); sys.stderr = None",
    "an exception without a text": "raise type('E', (Exception,), {'__str__': None})",
    "a deep recursion": "def f(): f()\nf()",
    "a value without an end": "x = []; x.append(x); x",
    "a long number": "2 ** 100000",
}


@pytest.fixture(scope="module")
def box() -> Iterator[un.Sandbox]:
    with un.Sandbox(None) as made:
        yield made


def attack(box: un.Sandbox, code: str, tally: Tally, timeout: float = AT_MOST / 2) -> un.Execution:
    """Run an attack's code; check that this process neither blocks nor uses much more memory."""
    tally.tried()
    before = reset_peak_memory()
    with box.interpreter(PYTHON) as python:
        python.run(FIND)
        started = time.monotonic()
        done = python.run(code, timeout=timeout)
        if time.monotonic() - started > AT_MOST:
            tally.succeeded(f"{time.monotonic() - started} seconds")
        if done.reason is not None and done.value is not None:
            tally.succeeded(f"an answer: {done}")
    if peak_memory() - before > GROWTH:
        tally.succeeded(f"{peak_memory() - before} KiB")
    assert box.run(["true"]).returncode == 0
    return done


@pytest.mark.parametrize("name", INVALID)
@pytest.mark.sampled(6)
def test_hostile_interpreter_with_an_invalid_answer(
    box: un.Sandbox, name: str, tally: Tally
) -> None:
    assert attack(box, INVALID[name], tally).reason == "invalid-answer"


@pytest.mark.parametrize("name", SILENT)
@pytest.mark.sampled(3)
def test_hostile_interpreter_without_an_answer(box: un.Sandbox, name: str, tally: Tally) -> None:
    assert attack(box, SILENT[name], tally, SECONDS).reason == "timeout"


@pytest.mark.parametrize("name", ENDING)
def test_hostile_interpreter_that_ends(box: un.Sandbox, name: str, tally: Tally) -> None:
    assert attack(box, ENDING[name], tally).reason in ("exited", "signalled", "killed")


@pytest.mark.parametrize("name", IN_VAIN)
def test_hostile_interpreter_that_continues(box: un.Sandbox, name: str, tally: Tally) -> None:
    tally.tried()
    with box.interpreter(PYTHON) as python:
        python.run(FIND)
        if python.run(IN_VAIN[name], timeout=AT_MOST).value is not None:
            tally.succeeded("a value")
        assert python.run("6 * 7", timeout=AT_MOST).value == 42


def test_hostile_answer_in_advance_is_not_of_later_code(box: un.Sandbox, tally: Tally) -> None:
    """Let code forge a second result; check that later code does not get the forged result."""
    for _ in range(Tally.rounds(2, 100)):
        tally.tried()
        with box.interpreter(PYTHON) as python:
            python.run(FIND)
            first = python.run("send('forged', id=request())")
            # This code may choose its own value, so "forged" is a valid result of this code.
            assert first.value in ("forged", None)
            if first.reason is None:
                second = python.run("'honest'")
                if second.value == "forged":
                    tally.succeeded(str(second))
                assert second.reason == "invalid-answer"


def test_hostile_output_of_earlier_code_is_not_kept(box: un.Sandbox, tally: Tally) -> None:
    """Flood the output from a thread of earlier code; check that each result has at most 1 MiB."""
    tally.tried()
    with box.interpreter(PYTHON) as python:
        python.run(
            "import os, threading\ndef flood():\n    while True: os.write(1, b'x' * 65536)\n"
            "threading.Thread(target=flood, daemon=True).start()"
        )
        before = reset_peak_memory()
        for _ in range(3):
            done = python.run("2", timeout=AT_MOST)
            assert done.value == 2
            assert len(done.stdout) <= 1 << 20
        if peak_memory() - before > GROWTH:
            tally.succeeded(f"{peak_memory() - before} KiB")


@pytest.mark.parametrize("name", ["output without an end", "a part of an answer"])
def test_hostile_interpreter_does_not_block_an_event_loop(
    box: un.Sandbox, name: str, tally: Tally
) -> None:
    async def attacked() -> None:
        tally.tried()
        turns = 0
        async with await box.interpreter_async(PYTHON) as python:
            await python.run_async(FIND)
            attack = asyncio.ensure_future(python.run_async(SILENT[name], timeout=SECONDS))
            while not attack.done():
                turns += 1
                await asyncio.sleep(0.01)
            assert attack.result().reason == "timeout"
        if turns < 10:
            tally.succeeded(f"{turns} turns")

    asyncio.run(attacked())


def test_hostile_forked_child_does_not_answer(box: un.Sandbox, tally: Tally) -> None:
    tally.tried()
    with box.interpreter(PYTHON) as python:
        for number in range(5):
            done = python.run(f"import os\npid = os.fork()\n{number}, pid > 0", timeout=AT_MOST)
            assert done.value == [number, True]
