"""Tests of templates: checkpoints of ready commands, from which sandboxes are started."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gvisor
import pytest
from callers import MAP_OF_SEVERAL, several_ids
from conftest import EXIT_SECONDS
from processes import wait_for_threads, wait_until_gone

import usernsctl as un
from usernsctl._core import START_SECONDS

PATIENCE = 60
PYTHON = ["/usr/bin/python3", "-u", "-c"]
# Program that prints READY, answers each line of its input, and then exits with status 7.
ECHO = """
import os, sys
print("READY")
for line in sys.stdin:
    print("got", line.strip(), os.environ.get("NAME"), os.getcwd(), os.getuid())
print("over", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture(scope="module")
def echo(host: un.SandboxHost) -> Iterator[un.Template]:
    with host.template([*PYTHON, ECHO], ready="READY", env={"NAME": "x"}, cwd="/usr") as made:
        yield made


@pytest.fixture(scope="module")
def agent(host: un.SandboxHost) -> Iterator[un.Template]:
    with host.template() as made:
        yield made


def answer(box: un.Sandbox, text: bytes = b"a\n") -> bytes:
    out, _ = box.communicate(text, PATIENCE)
    assert isinstance(out, bytes)
    return out


def lines_of(template: un.Template, **options: Any) -> list[bytes]:
    with template.start(stdin=un.PIPE, stdout=un.PIPE, stderr=un.DEVNULL, **options) as box:
        return answer(box).splitlines()


# Tests of sandboxes that are started from a template.


def test_command_continues_from_its_checkpoint(echo: un.Template) -> None:
    with echo.start(stdin=un.PIPE, stdout=un.PIPE, stderr=un.PIPE) as box:
        out, err = box.communicate(b"one\ntwo\n", PATIENCE)
        assert out == b"got one x /usr 0\ngot two x /usr 0\n"
        assert err == b"over\n"
        assert box.wait(PATIENCE) == 7
    assert box.args == echo.args == (*PYTHON, ECHO)


def test_six_sandboxes_start_at_once(echo: un.Template) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: lines_of(echo), range(6)))
    assert found == [[b"got a x /usr 0"]] * 6


def test_templates_work_with_asyncio(host: un.SandboxHost) -> None:
    async def use() -> list[bytes]:
        async with host.template([*PYTHON, ECHO], ready="line:READY") as made:

            async def one() -> bytes:
                box = await made.start_async(stdin=un.PIPE, stdout=un.PIPE, stderr=un.DEVNULL)
                async with box:
                    out = await asyncio.to_thread(answer, box)
                    assert await box.wait_async() == 7
                return out

            return await asyncio.gather(*(one() for _ in range(3)))

    assert asyncio.run(use()) == [b"got a None / 0\n"] * 3


def test_cancelled_start_leaves_no_process(echo: un.Template) -> None:
    id = f"cancelled-{os.getpid()}"

    async def is_cancelled(pause: float) -> bool:
        task = asyncio.ensure_future(echo.start_async(id=id))
        await asyncio.sleep(pause)
        task.cancel()
        (started,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(started, un.Sandbox):
            await started.close_async()
        return isinstance(started, asyncio.CancelledError)

    # On a busy host, the sandbox may have started before task.cancel(), so also try shorter pauses.
    assert any(asyncio.run(is_cancelled(pause)) for pause in (0.05, 0.01, 0))
    wait_for_threads()
    assert wait_until_gone(id, EXIT_SECONDS) == []


def test_detached_sandbox_outlives_its_template(host: un.SandboxHost) -> None:
    script = ["sh", "-c", "echo READY; read line; echo $line; exec sleep 1000"]
    with (
        host.template(script, ready="READY") as made,
        made.start(stdin=un.PIPE, stdout=un.PIPE, detach=True) as box,
    ):
        made.close()
        box.stdin.write(b"word\n")
        box.stdin.flush()
        assert box.stdout.readline() == b"word\n"
        with un.Sandbox.attach(box.id) as found:
            assert found.args == ("sh", "-c", script[-1])
            assert found.run(["true"]).returncode == 0


def test_streams_may_be_files_or_terminals(echo: un.Template, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"file\n")
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("w+b") as taken:
        taken.write(b"before\n")
        taken.flush()
        with echo.start(stdin=given, stdout=taken, stderr=taken) as box:
            assert box.wait(PATIENCE) == 7
    assert (tmp_path / "out").read_bytes() == b"before\ngot file x /usr 0\nover\n"
    master, slave = os.openpty()
    with open(master, "rb", buffering=0) as ours, open(slave, "wb", buffering=0) as theirs:
        with echo.start(stdin=un.DEVNULL, stdout=theirs, stderr=un.STDOUT) as box:
            assert box.wait(PATIENCE) == 7
        assert ours.read(100) == b"over\r\n"


def test_further_commands_run_in_a_restored_sandbox(echo: un.Template) -> None:
    with echo.start(stdin=un.PIPE) as box:
        assert box.check_output(["printenv", "NAME"]) == b"x\n"
        assert box.state()["status"] == "running"
        box.terminate()
        assert box.wait(PATIENCE) == -signal.SIGTERM


def test_restored_sandboxes_have_private_copies_of_saved_files(host: un.SandboxHost) -> None:
    script = "echo saved >/tmp/file; echo READY; read line; echo $line >>/tmp/file; cat /tmp/file"
    with host.template(["sh", "-c", script], ready="READY") as made:
        for word in (b"one", b"two"):
            with made.start(stdin=un.PIPE, stdout=un.PIPE) as box:
                assert answer(box, word + b"\n") == b"saved\n" + word + b"\n"


def test_only_restored_processes_keep_saved_addresses(host: un.SandboxHost) -> None:
    """Check that a new command in a restored sandbox gets new random addresses (ASLR).

    Restored processes keep the saved addresses. The test compares auxiliary vectors (getauxval(3)),
    which contain addresses of the stack and the vDSO.
    """
    show = "print(open('/proc/self/auxv', 'rb').read())"
    code = f"print('READY'); input(); {show}"
    saved, new = set(), set()
    with host.template([*PYTHON, code], ready="READY") as template:
        for _ in range(3):
            with template.start(stdin=un.PIPE, stdout=un.PIPE) as box:
                new.add(box.check_output([*PYTHON, show]))
                saved.add(answer(box))
    assert (len(saved), len(new)) == (1, 3)


@several_ids
def test_restored_command_keeps_uid_and_capabilities() -> None:
    with un.SandboxHost(MAP_OF_SEVERAL) as many:
        with many.template([*PYTHON, ECHO], ready="READY", user=(5, 6)) as made:
            assert lines_of(made) == [b"got a None / 5"]
            with made.start(stdin=un.PIPE) as box:
                assert box.check_output(["id", "-u"], user=(7, 7)) == b"7\n"
        with many.template() as made, made.start() as box:
            shown = box.check_output(["grep", "Cap[EB]", "/proc/self/status"])
        with many.start(["grep", "Cap[EB]", "/proc/self/status"], stdout=un.PIPE) as box:
            assert box.stdout.read() == shown


# Tests of the conditions for readiness, and of commands that never become ready.


@pytest.mark.parametrize(
    ("before", "ready"),
    [
        ("", lambda box: box.run(["true"], check=True)),
        ("time.sleep(0.3); open('/tmp/a file', 'w'); print('no')", "/tmp/a file"),
        ("time.sleep(0.3); os.mkdir('/tmp/directory')", "file:/tmp/directory"),
        ("s = socket.create_server(('127.0.0.1', 8080))", "port:8080"),
        ("s = socket.create_server(('::1', 8080), family=socket.AF_INET6)", "port:8080"),
        ("print('x' * 100_000); print('a: line')", "line:a: line"),
        ("print('/not a file')", "line:/not a file"),
    ],
)
@pytest.mark.sampled(4)
def test_ready_conditions_are_detected(host: un.SandboxHost, before: str, ready: Any) -> None:
    code = f"import os, socket, sys, time; {before}\nprint(sys.stdin.read() + '.')"
    with host.template([*PYTHON, code], ready=ready) as made:
        assert lines_of(made)[-2:] == [b"a", b"."]


@pytest.mark.parametrize("ready", ["never", "/never", "port:9"])
def test_command_that_exits_before_ready_raises_with_its_stderr(
    host: un.SandboxHost, ready: str
) -> None:
    script = ["sh", "-c", "echo out; sleep 0.1; echo why >&2; exit 3"]
    with pytest.raises(un.RunscError, match=r"status 3 before it was ready: why") as caught:
        host.template(script, ready=ready)
    assert (caught.value.step, caught.value.cause) == ("template", "template-not-ready")


@pytest.mark.parametrize("slow", ["ps", "checkpoint"])
def test_command_that_exits_before_it_is_saved_raises_with_its_status(
    stand_in: Any, slow: str
) -> None:
    """Check the error if the command ends after its line, before `slow` or during it."""
    delay = f'case " $* " in *" {slow} "*) sleep 1;; esac'
    stand_in(f'#!/bin/sh\n{delay}\nexec {gvisor.path()} "$@"\n')
    script = ["sh", "-c", "echo READY; sleep 0.5; exit 3"]
    with (
        un.SandboxHost() as host,
        pytest.raises(un.RunscError, match=r"status 3 before it was saved: READY") as caught,
    ):
        host.template(script, ready="line:READY")
    assert (caught.value.step, caught.value.cause) == ("template", "template-not-ready")
    assert "let CMD run on" in str(caught.value.remedy)


@pytest.mark.parametrize("ready", ["never", "/never", "port:9"])
def test_command_that_is_never_ready_is_killed_by_the_timeout(
    host: un.SandboxHost, ready: str
) -> None:
    begin = time.monotonic()
    word = f"10{os.getpid()}"
    with pytest.raises(un.TimeoutExpired) as caught:
        host.template(["sleep", word], ready=ready, timeout=1)
    assert (caught.value.cmd, caught.value.timeout) == (("sleep", word), 1)
    assert time.monotonic() - begin < PATIENCE
    assert wait_until_gone(f"sleep {word}", EXIT_SECONDS) == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize("ready", ["/never", "port:9"])
def test_command_that_stops_the_agent_is_killed_by_the_timeout(
    host: un.SandboxHost, ready: str
) -> None:
    code = "import os\nwhile True:\n try: os.kill(-1, 19)\n except OSError: pass"
    begin = time.monotonic()
    with pytest.raises(un.TimeoutExpired) as caught:
        host.template([*PYTHON, code], ready=ready, timeout=3)
    assert caught.value.timeout == 3
    assert time.monotonic() - begin < START_SECONDS


def test_checkpoint_that_takes_too_long_is_killed(stand_in: Any) -> None:
    begin = time.monotonic()
    word, real = f"11{os.getpid()}", gvisor.path()
    case = f"case \"$*\" in *' checkpoint '*) exec sleep {word};; esac"
    stand_in(f'#!/bin/sh\n{case}\nexec {real} "$@"\n')
    with un.SandboxHost() as host, pytest.raises(un.TimeoutExpired) as caught:
        host.template(["sleep", word], ready=lambda box: None, timeout=3)
    assert (caught.value.cmd, caught.value.timeout) == (("sleep", word), 3)
    assert time.monotonic() - begin < PATIENCE
    assert wait_until_gone(f"sleep {word}", EXIT_SECONDS) == []


def test_exception_of_the_ready_function_is_raised(host: un.SandboxHost) -> None:
    def fail(box: un.Sandbox) -> None:
        raise LookupError(box.args[0])

    with pytest.raises(LookupError, match="sleep"):
        host.template(["sleep", "1000"], ready=fail)


def test_further_commands_are_killed_before_the_checkpoint(host: un.SandboxHost) -> None:
    started = []

    def leave(box: un.Sandbox) -> None:
        box.run(["sh", "-c", "sleep 1000 &"], check=True)
        started.append(box.popen(["sleep", "1000"]))

    with host.template([*PYTHON, ECHO], ready=leave) as made:
        assert started[0].wait(PATIENCE) == -signal.SIGKILL
        assert lines_of(made)[-1] == b"got a None / 0"
        with made.start(stdin=un.PIPE) as box:
            assert "sleep" not in box.check_output(["ps", "-eo", "args"], text=True)


def test_template_with_open_host_files_raises(host: un.SandboxHost) -> None:
    def leave(box: un.Sandbox) -> None:
        box.run(["sh", "-c", "sleep 1000 &"], check=True)

    with pytest.raises(un.RunscError, match="is not savable") as caught:
        host.template(ready=leave)
    assert caught.value.cause == "template-unsavable"


def test_template_with_network_host_works_or_raises() -> None:
    with un.SandboxHost(network="host") as host:
        if gvisor.saves_host_network():
            with host.template([*PYTHON, ECHO], ready="READY") as made:
                assert lines_of(made) == [b"got a None / 0"]
        else:
            with pytest.raises(un.RunscError, match="hostinet") as caught:
                host.template([*PYTHON, ECHO], ready="READY")
            assert caught.value.cause == "template-unsavable"
            assert "20260817" in str(caught.value.remedy)


# Tests of templates without a command, which contain only the agent.


def test_commands_of_a_restored_agent_start_without_runsc(
    agent: un.Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agent.start() as box:
        monkeypatch.setattr("usernsctl.gvisor.agent.commands.start_agent", None)
        assert box.check_output(["cat"], input=b"word") == b"word"
        assert box.run(["sh", "-c", "kill -9 $$"]).returncode == -9
        assert box.run(["grep", "-c", "0000000000000000", "/proc/self/status"]).returncode == 0
    assert box.poll() is not None


def test_files_of_the_ready_function_are_restored(host: un.SandboxHost) -> None:
    def prepare(box: un.Sandbox) -> None:
        box.run(["sh", "-c", "echo prepared >/tmp/file"], check=True)

    with host.template(ready=prepare) as made, made.start() as one, made.start() as two:
        one.run(["rm", "/tmp/file"], check=True)
        assert two.check_output(["cat", "/tmp/file"]) == b"prepared\n"


def test_detached_agent_outlives_its_template(host: un.SandboxHost) -> None:
    with host.template() as made, made.start(detach=True) as box:
        made.close()
        assert box.check_output(["echo", "one"]) == b"one\n"
        with un.Sandbox.attach(box.id) as found:
            assert found.check_output(["echo", "two"]) == b"two\n"


def test_stdin_without_a_command_raises(agent: un.Template) -> None:
    with pytest.raises(ValueError, match="stdin needs a first command"):
        agent.start(stdin=un.PIPE)


# Fake runsc that restores the agent with a connection whose other end is closed, as some builds of
# runsc did.
CONNECTION_CLOSING_RUNSC = f"""#!{sys.executable} -I
import os, socket, sys
if "restore" in sys.argv:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.dup2(theirs.fileno(), 0)
os.execv({gvisor.path()!r}, ["runsc", *sys.argv[1:]])
"""


@pytest.mark.parametrize("detach", [False, True])
def test_agent_with_a_closed_connection_is_replaced(tmp_path: Path, detach: bool) -> None:
    runsc = tmp_path / "runsc"
    runsc.write_text(CONNECTION_CLOSING_RUNSC)
    runsc.chmod(0o755)
    with (
        un.SandboxHost(runsc=runsc) as host,
        host.template() as made,
        made.start(detach=detach) as box,
    ):
        assert box.check_output(["cat"], input=b"word", timeout=PATIENCE) == b"word"
        assert box.check_output(["echo", "again"], timeout=PATIENCE) == b"again\n"
        assert box.poll() is None


# Tests of invalid arguments, closed templates, and replaced runsc programs.


@pytest.mark.parametrize(
    ("args", "ready", "kind"),
    [
        (["cat"], None, ValueError),
        (["cat"], "", ValueError),
        (["cat"], "line:", ValueError),
        (["cat"], "a\nb", ValueError),
        (["cat"], "file:relative", ValueError),
        (["cat"], "port:0", ValueError),
        (["cat"], "port:65536", ValueError),
        (["cat"], "port:x", ValueError),
        (["cat"], 7, TypeError),
        ([None], "x", TypeError),
        (["none-such"], "x", un.UsernsError),
    ],
)
def test_invalid_args_or_ready_raise(
    host: un.SandboxHost, args: Any, ready: Any, kind: type
) -> None:
    with pytest.raises(kind):
        host.template(args, ready=ready)


def test_invalid_options_raise(host: un.SandboxHost, echo: un.Template) -> None:
    with pytest.raises(TypeError):
        host.template(["cat"], ready="x", stdin=un.PIPE)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        echo.start(env={})  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        echo.start(stdin="path")
    with pytest.raises(ValueError, match="id"):
        echo.start(id="a/b")
    with echo.start(id="twice", stdin=un.PIPE), pytest.raises(un.RunscError, match="twice"):
        echo.start(id="twice")
    with pytest.raises(un.TimeoutExpired):
        echo.start(timeout=0.001)


def test_closed_template_raises(host: un.SandboxHost) -> None:
    made = host.template([*PYTHON, ECHO], ready="READY")
    with made.start(stdin=un.PIPE, stdout=un.PIPE, stderr=un.DEVNULL) as box:
        made.close()
        made.close()
        assert answer(box) == b"got a None / 0\n"
    for use in (made.start, lambda: made.args):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert "closed" in repr(made)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(made)


def test_close_removes_the_checkpoint_image(host: un.SandboxHost) -> None:
    def images() -> list[str]:
        return os.listdir(f"/proc/self/fd/{host.directory}/.images")

    with host.template([*PYTHON, ECHO], ready="READY"):
        before = len(images())
    assert len(images()) == before - 1


def test_dropped_template_is_closed_with_a_warning(host: un.SandboxHost) -> None:
    made = host.template([*PYTHON, ECHO], ready="READY")
    with pytest.warns(ResourceWarning, match="a template was not closed"):
        del made


def test_changed_runsc_raises_template_outdated(echo: un.Template) -> None:
    """Change the recorded size or mtime, as if runsc was upgraded; check that a load then fails."""
    from dataclasses import replace

    parts = echo._parts
    label, size, when = parts.record.runsc
    for changed in ((label, size + 1, when), (label, size, when + 1)):
        other = replace(parts.record, runsc=changed)
        with pytest.raises(un.RunscError, match="another build") as caught:
            other.check_runsc(parts.host.prepared.runsc)
        assert caught.value.cause == "template-outdated"


def test_removed_runsc_raises_runsc_missing(tmp_path: Path) -> None:
    """Check the error of start() and load() if runsc was removed.

    A package upgrade removes runsc before it installs the new version.
    """
    own = tmp_path / "runsc"
    shutil.copy(gvisor.path(), own)
    with un.SandboxHost(runsc=own) as host, host.template([*PYTHON, ECHO], ready="READY") as made:
        made.save(tmp_path / "saved")
        own.unlink()
        with pytest.raises(un.RunscError) as caught:
            made.start()
        assert caught.value.cause == "runsc-missing"
        with pytest.raises(un.RunscError) as caught:
            un.Template.load(tmp_path / "saved", host=host)
        assert caught.value.cause == "runsc-missing"
