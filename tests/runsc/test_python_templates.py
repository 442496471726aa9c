"""Tests of Python templates: checkpoints of interpreters that have imported modules."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import EXIT_SECONDS, open_descriptors
from processes import wait_until_gone

import usernsctl as un

PATIENCE = 60
PYTHON = "/usr/bin/python3"
PRELOAD = ["random", "json.tool", "multiprocessing"]


@pytest.fixture(scope="module")
def shown_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shown")
    (path / "script.py").write_text("import sys; print(sys.argv, __name__, __file__, sys.path[0])")
    (path / "fails.py").write_text("def fail():\n    1 / 0\n\nfail()\n")
    return path


@pytest.fixture(scope="module")
def host(shown_dir: Path) -> Iterator[un.SandboxHost]:
    with un.SandboxHost(binds=[f"{shown_dir}:/shown"]) as made:
        yield made


@pytest.fixture(scope="module")
def template(host: un.SandboxHost) -> Iterator[un.PythonTemplate]:
    code = "import random, decimal; random.random(); decimal.loaded = 'by code'"
    with host.python_template(preload=PRELOAD, code=code, env={"A": "1"}) as made:
        yield made


def run_from_template(
    template: un.PythonTemplate, *args: Any, **options: Any
) -> tuple[int, str, str]:
    input = options.pop("input", None)
    options = {"stdin": un.PIPE, "stdout": un.PIPE, "stderr": un.PIPE, **options}
    with template.start(args, **options) as box:
        out, err = box.communicate(input, PATIENCE)
        return box.wait(PATIENCE), out.decode(), err.decode()


def run_without_template(host: un.SandboxHost, *args: Any) -> tuple[int, str, str]:
    done = un.gvisor.run([PYTHON, *args], host=host, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["/shown/script.py", "a", "-b"],
        ["/shown/fails.py"],
        ["/shown/none.py"],
        ["-m", "json.tool", "--help"],
        ["-m", "no_such_module"],
        ["-c", "import sys; print(sys.argv, __name__, sorted(vars()), sys.path[0])", "a"],
        ["-c", "raise SystemExit(7)"],
        ["-c", "raise SystemExit('text')"],
        ["-c", "import sys; sys.stdout.write('no end of line'); sys.stderr.write('err')"],
        ["-c", "import atexit; atexit.register(print, 'at exit'); print(undefined)"],
        ["-c", "import os; print(os.getuid(), sorted(os.listdir('/proc/self/fd')), os.getcwd())"],
        ["-c", "import os; os._exit(9)"],
        ["-c", "import threading; threading.Thread(target=print, args=('in a thread',)).start()"],
    ],
)
@pytest.mark.sampled(5)
def test_programs_behave_as_without_a_template(
    host: un.SandboxHost, template: un.PythonTemplate, args: list[str]
) -> None:
    status, out, err = run_from_template(template, *args)
    wanted = run_without_template(host, *args)
    assert (status, out) == wanted[:2]
    # Ignore quoted source lines: newer Python releases quote the source text of -c in tracebacks,
    # but not in an interpreter from a template.
    shown = [line for line in wanted[2].splitlines() if "^" not in line and "~" not in line]
    kept = [line for line in err.splitlines() if line in shown or "line" not in line]
    assert [line for line in shown if not line.startswith("    ")] == [
        line for line in kept if not line.startswith("    ") and "^" not in line
    ]


def test_programs_have_preloaded_modules(template: un.PythonTemplate) -> None:
    code = "import sys; print('json.tool' in sys.modules, sys.modules['decimal'].loaded)"
    assert run_from_template(template, "-c", code)[:2] == (0, "True by code\n")


def test_start_sets_environment_and_cwd(template: un.PythonTemplate) -> None:
    code = "import os; print(os.environ.get('A'), os.environ.get('B'), os.getcwd())"
    assert run_from_template(template, "-c", code)[1] == "1 None /\n"
    assert (
        run_from_template(template, "-c", code, env={"A": "2", "B": "é"}, cwd="/usr")[1]
        == "2 é /usr\n"
    )
    child = "import subprocess; subprocess.run(['printenv', 'B'])"
    assert run_from_template(template, "-c", child, env={"B": "3"})[1] == "3\n"
    with pytest.raises(un.CommandNotFoundError):
        template.start(["-c", ""], cwd="/none")
    with pytest.raises(un.CommandNotADirectoryError):
        template.start(["-c", ""], cwd="/shown/script.py")


def test_programs_may_be_long_or_come_from_stdin(template: un.PythonTemplate) -> None:
    long = "#" * 1_200_000 + "\nprint('end')"
    assert run_from_template(template, "-c", long)[:2] == (0, "end\n")
    assert run_from_template(template, "-", input=b"print('read')")[:2] == (0, "read\n")
    assert run_from_template(template, input=b"print('read')")[:2] == (0, "read\n")


def test_streams_may_be_files_or_terminals(template: un.PythonTemplate, tmp_path: Path) -> None:
    code = "import sys; print(sys.stdin.read(), end='.', flush=True); print('e', file=sys.stderr)"
    (tmp_path / "in").write_bytes(b"file")
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as taken:
        with template.start(["-c", code], stdin=given, stdout=taken, stderr=un.STDOUT) as box:
            assert box.wait(PATIENCE) == 0
        assert os.get_blocking(taken.fileno())
    assert (tmp_path / "out").read_bytes() == b"file.e\n"
    master, slave = os.openpty()
    with open(master, "rb", buffering=0) as ours, open(slave, "wb", buffering=0) as theirs:
        with template.start(["-c", "print('shown')"], stdout=theirs) as box:
            assert box.wait(PATIENCE) == 0
        assert ours.read(100) == b"shown\r\n"


def test_random_numbers_differ_between_starts(template: un.PythonTemplate) -> None:
    code = """
import multiprocessing, random, tempfile, uuid
key = multiprocessing.current_process().authkey
print(random.random(), tempfile.mktemp(), uuid.uuid4(), bytes(key).hex())
"""
    found = [run_from_template(template, "-c", code)[1].split() for _ in range(2)]
    assert all(one != other for one, other in zip(*found, strict=True))


def test_signals_reach_the_program(template: un.PythonTemplate) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with template.start(["-c", "import time; time.sleep(1000)"]) as box:
            box.send_signal(number)
            assert box.wait(PATIENCE) == -number
    code = (
        "import signal; signal.signal(signal.SIGUSR1, lambda *_: print('heard', flush=True));"
        "print('up', flush=True); signal.pause()"
    )
    with template.start(["-c", code], stdout=un.PIPE) as box:
        assert box.stdout.readline() == b"up\n"
        box.send_signal(signal.SIGUSR1)
        assert box.stdout.readline() == b"heard\n"


def test_background_processes_end_with_the_program(template: un.PythonTemplate) -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '1000']); print('out', flush=True)"
    with template.start(["-c", code], stdout=un.PIPE) as box:
        assert box.communicate(timeout=PATIENCE)[0] == b"out\n"
        assert box.wait(PATIENCE) == 0


def test_start_may_be_detached_or_asynchronous(template: un.PythonTemplate) -> None:
    with template.start(["-c", "import time; time.sleep(1000)"], detach=True) as box:
        assert box.run(["true"]).returncode == 0

    async def use() -> list[bytes]:
        async def one(word: str) -> bytes:
            command = ["-c", f"print({word!r})"]
            async with await template.start_async(command, stdout=un.PIPE) as box:
                out = await asyncio.to_thread(box.stdout.read)
                assert isinstance(out, bytes)
                return out

        return await asyncio.gather(one("a"), one("b"))

    assert asyncio.run(use()) == [b"a\n", b"b\n"]


def test_template_is_saved_and_loaded(
    host: un.SandboxHost, template: un.PythonTemplate, tmp_path: Path
) -> None:
    template.save(tmp_path / "saved")
    with un.PythonTemplate.load(tmp_path / "saved", host=host) as found:
        assert run_from_template(found, "-c", "print('loaded')")[:2] == (0, "loaded\n")
    with pytest.raises(un.RunscError, match="template of an interpreter"):
        un.Template.load(tmp_path / "saved", host=host)


# Tests of interpreters that can't be saved.


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "import threading, time;"
            "threading.Thread(target=time.sleep, args=(1000,), name='mine', daemon=True).start()",
            "threads: mine",
        ),
        (
            "import builtins, socket; builtins.kept = socket.create_server(('127.0.0.1', 80))",
            r"open sockets: descriptor \d+, AF_INET \('127.0.0.1', 80\)",
        ),
        ("import builtins, socket; builtins.kept = socket.socketpair()", "AF_UNIX"),
    ],
)
def test_threads_and_sockets_are_refused_by_name(
    host: un.SandboxHost, code: str, told: str
) -> None:
    with pytest.raises(un.RunscError, match=told) as caught:
        host.python_template(code=code)
    assert caught.value.cause == "template-unsavable"


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"code": "1 / 0"}, "ZeroDivisionError: division by zero"),
        ({"code": "syntax error"}, "SyntaxError"),
        ({"code": "import os; os._exit(3)"}, "has ended with status 3"),
        ({"preload": ["no_such_module"]}, "No module named 'no_such_module'"),
        ({"code": "import os; os.write(0, b'{')"}, "sent an invalid message"),
        ({"code": "import os; os.write(0, b'[]')"}, "sent an invalid message"),
    ],
)
def test_failing_preload_code_raises(
    host: un.SandboxHost, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(un.RunscError, match=told) as caught:
        host.python_template(**options)
    is_raised = "Error" in told or "module" in told
    assert ("-c 'import MODULE'" in (caught.value.remedy or "")) == is_raised


def test_preload_timeout_kills_the_interpreter(host: un.SandboxHost) -> None:
    word = f"11{os.getpid()}"
    code = f"import os; os.execvp('sleep', ['sleep', '{word}'])"
    with pytest.raises(un.TimeoutExpired):
        host.python_template(code=code, timeout=2)
    assert wait_until_gone(f"sleep {word}", EXIT_SECONDS) == []


def test_interpreter_that_hangs_or_exits_after_restore_raises(host: un.SandboxHost) -> None:
    """Check that start() raises if the restored interpreter hangs, exits or sends garbage.

    So that the template can be saved, the preload code itself sends the report that the interpreter
    sends after the preload code has run.
    """
    say = "import os, json; os.write(0, json.dumps({'files': 7, 'threads': 7}).encode());"
    for code, kind in (
        (say + "import time; time.sleep(1000)", un.TimeoutExpired),
        (say + "os.read(0, 100); os._exit(1)", un.RunscError),
        (say + "os.read(0, 100); os.write(0, b'x' * 100)", un.RunscError),
    ):
        seconds = 3 if kind is un.TimeoutExpired else PATIENCE
        with host.python_template(code=code) as made, pytest.raises(kind) as caught:
            made.start(["-c", ""], timeout=seconds)
        if isinstance(caught.value, un.TimeoutExpired):
            assert caught.value.timeout == seconds


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"preload": "json"}, TypeError),
        ({"preload": ["a b"]}, ValueError),
        ({"preload": [7]}, ValueError),
        ({"preload": 7}, TypeError),
        ({"code": b""}, TypeError),
        ({"python": None}, TypeError),
        ({"python": "no-such-python"}, un.UsernsError),
        ({"python": "/usr/bin/true"}, un.RunscError),
    ],
)
def test_invalid_arguments_raise(host: un.SandboxHost, options: Any, kind: type) -> None:
    with pytest.raises(kind):
        host.python_template(**options)


def test_failed_start_closes_its_pipes(template: un.PythonTemplate) -> None:
    streams: Any = {"stdin": un.PIPE, "stdout": un.PIPE, "stderr": un.PIPE}
    before = open_descriptors()
    with pytest.raises(un.CommandNotFoundError) as missing:
        template.start(["-c", ""], cwd="/no/such", **streams)
    with pytest.raises(ValueError, match="stderr: -1 is not a descriptor") as invalid:
        template.start(["-c", ""], **streams | {"stderr": closed_socket()})
    # The tracebacks keep the pipes' files alive, so the garbage collector can't have closed them.
    assert missing.tb is not None
    assert invalid.tb is not None
    assert open_descriptors() == before


def closed_socket() -> socket.socket:
    made = socket.socket()
    made.close()
    return made


def test_texts_about_a_template_omit_the_interpreter_program(
    host: un.SandboxHost, template: un.PythonTemplate
) -> None:
    assert repr(template) == "<PythonTemplate ['python3']>"
    with pytest.raises(un.TimeoutExpired) as late:
        host.python_template(code="import time; time.sleep(1000)", timeout=0.01)
    assert (late.value.cmd, late.value.timeout) == (("python3",), 0.01)
