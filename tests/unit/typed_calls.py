"""Right and wrong calls, which are never executed. test_typing.py runs type checkers on them.

mypy and basedpyright must report each line that is marked `type error`, and no other line.
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import IO, Any, assert_type

import usernsctl as un
from usernsctl.commands.aio import Process

KEYWORDS: dict[str, Any] = {"stdin": un.DEVNULL}


def run_results(ns: un.Namespace, is_text: bool) -> None:
    assert_type(un.run(["id"], text=True).stdout, str)
    assert_type(un.run(["id"]).stdout, bytes)
    assert_type(un.run("id", capture_output=True, check=True).stderr, bytes)
    assert_type(un.run(["id"], encoding="utf-8", input="x").stdout, str)
    assert_type(un.run(["id"], text=is_text), subprocess.CompletedProcess[Any])
    assert_type(un.run(["id"], errors="replace"), subprocess.CompletedProcess[Any])
    un.run(["id"], **KEYWORDS)
    assert_type(ns.run(["id"], text=True).stdout, str)
    assert_type(ns.run([Path("id")], input=b"x").stdout, bytes)
    assert_type(un.check_output(["id"], text=True), str)
    assert_type(un.check_output(["id"], timeout=1.5), bytes)
    assert_type(ns.check_output(["id"], encoding="utf-8"), str)
    assert_type(ns.check_output(["id"]), bytes)
    assert_type(un.call(["id"], timeout=1, text=True), int)
    assert_type(un.check_call(["id"], -1, stdout=un.PIPE), int)


def popen_results(ns: un.Namespace) -> None:
    assert_type(un.Popen(["id"], stdout=un.PIPE, text=True), un.Popen[str])
    assert_type(un.Popen(["id"], stdout=un.PIPE), un.Popen[bytes])
    assert_type(ns.popen(["id"], encoding="utf-8"), un.Popen[str])
    assert_type(ns.popen(["id"]), un.Popen[bytes])
    assert_type(un.Popen[Any](["id"], **KEYWORDS), un.Popen[Any])


def right(ns: un.Namespace, file: IO[bytes], connection: socket.socket) -> None:
    un.run(["id"], idmap="auto", mount=True, pid=True, propagation="slave", pdeathsig=9)
    un.run(["id"], idmap=un.IdMap.root(), in_cgroup="/sys/fs/cgroup/x", user=1, umask=0o77)
    un.run(["id"], pid=True, init=True)
    un.run(["id"], idmap=["0:1000:1", "1:100000:10"])
    un.run(["id"], idmap=("0:1000:1", (1, 100000, 10), un.Extent(20, 5, 1)))
    un.run(["id"], namespace=ns, stdin=file, stdout=connection, stderr=un.STDOUT)
    un.run(["id"], env={"A": "b"}, cwd=Path("/"), pass_fds=[3], started=print)
    un.run(["id"], env={b"A": b"b"}, start_new_session=True, process_group=0)
    assert_type(un.spawn(["id"], net=True, stdout=1, stderr=un.DEVNULL).pidfd, int)
    ns.spawn(["id"], stdin=file, cwd="/", pdeathsig=15)
    un.Namespace.create("subids", mount=True, time=True).close()
    un.Namespace.open_or_create("a", pid=True).close()
    assert_type(un.plan("all").uid, tuple[un.Extent, ...])
    un.enter("root", mount=True, propagation="unchanged")


def wrong(ns: un.Namespace) -> None:
    un.run(["id"], moutn=True)  # type error
    un.run(["id"], capure_output=True)  # type error
    un.run(["id"], stdin="nope")  # type error
    un.run("ls", "-l")  # type error
    un.run(["id"], preexec_fn=print)  # type error
    un.run(["id"], shell=True)  # type error
    un.run(["id"], idmap="autp")  # type error
    un.run(["id"], idmap=7)  # type error
    un.run(["id"], propagation="sideways")  # type error
    un.run(["id"], mount="yes")  # type error
    un.run(["id"], timeout="1")  # type error
    un.run([7])  # type error
    un.call(["id"], capture_output=True)  # type error
    un.check_call(["id"], moutn=True)  # type error
    un.check_output(["id"], stdout=un.PIPE)  # type error
    un.check_output(["id"], check=True)  # type error
    un.Popen(["id"], capture_output=True)  # type error
    un.Popen(["id"], moutn=True)  # type error
    un.spawn(["id"], text=True)  # type error
    un.spawn(["id"], stdout="nope")  # type error
    un.enter("root", pid=True)  # type error


def wrong_in_a_namespace(ns: un.Namespace) -> None:
    ns.run(["id"], moutn=True)  # type error
    ns.run(["id"], capure_output=True)  # type error
    ns.run(["id"], stdin="nope")  # type error
    ns.run(["id"], idmap="auto")  # type error
    ns.popen(["id"], moutn=True)  # type error
    ns.check_output(["id"], stdout=un.PIPE)  # type error
    ns.spawn(["id"], sdtout=1)  # type error
    un.Namespace.create("auto", pid=True)  # type error
    un.Namespace.create("auto", moutn=True)  # type error
    un.Namespace.open_or_create("a", moutn=True)  # type error
    ns.exec(["id"], pid=True)  # type error


def wrong_exec() -> None:
    un.exec(["id"], stdout=1)  # type error


def sandbox_results(box: un.Sandbox, is_text: bool) -> None:
    assert_type(box.run(["id"], text=True).stdout, str)
    assert_type(box.run(["id"]).stdout, bytes)
    assert_type(box.run("id", capture_output=True, check=True, timeout=1).stderr, bytes)
    assert_type(box.run(["id"], encoding="utf-8", input="x").stdout, str)
    assert_type(box.run(["id"], text=is_text), un.Result[Any])
    box.run(["id"], **KEYWORDS)
    assert_type(box.check_output(["id"], text=True), str)
    assert_type(box.check_output([Path("id")], input=b"x"), bytes)
    assert_type(box.popen(["id"], encoding="utf-8"), un.SandboxPopen[str])
    assert_type(box.popen(["id"], stdout=un.PIPE), un.SandboxPopen[bytes])
    assert_type(box.popen(["id"], text=is_text), un.SandboxPopen[Any])
    assert_type(box.stdin, IO[bytes] | None)
    assert_type(box.stdout, IO[bytes] | None)
    assert_type(box.stderr, IO[bytes] | None)
    assert_type(box.wait(timeout=1.5), int)


def sandboxes(box: un.Sandbox, host: un.SandboxHost, file: IO[bytes]) -> None:
    box.run(["id"], env={"A": "b"}, cwd="/", user=(1, 1), groups=[2], rlimits=["nofile=9"])
    box.popen(["id"], terminal=(80, 24), umask=0o77, start_new_session=True, stdin=file)
    box.popen(["id"], rlimits=[un.Rlimit("as", 1, 2)], process_group=0)
    un.Sandbox(["id"], network="host", platform="systrap", stdout=file, detach=True)
    un.SandboxHost("auto", network="none", binds=["/data", un.Bind("/a", "/b")])
    with host.start(["id"], stdin=un.PIPE, timeout=1) as started:
        started.communicate(b"x")


def gvisor_results(host: un.SandboxHost, is_text: bool) -> None:
    assert_type(un.gvisor.run(["id"], text=True).stdout, str)
    assert_type(un.gvisor.run(["id"], capture_output=True, host=host).stdout, bytes)
    assert_type(un.gvisor.run(["id"], encoding="utf-8", input="x", timeout=1).stdout, str)
    assert_type(un.gvisor.run(["id"], text=is_text), un.Result[Any])
    assert_type(un.gvisor.run(bundle="/b", network="host").returncode, int)
    un.gvisor.run(["id"], **KEYWORDS)


def wrong_in_a_sandbox(box: un.Sandbox) -> None:
    box.run(["id"], txet=True)  # type error
    box.run(["id"], stdin="nope")  # type error
    box.run(["id"], idmap="auto")  # type error
    box.run(["id"], user=0)  # type error
    box.run("ls", "-l")  # type error
    box.check_output(["id"], txet=True)  # type error
    box.check_output(["id"], stdout=un.PIPE)  # type error
    box.popen(["id"], txet=True)  # type error
    box.popen(["id"], capture_output=True)  # type error
    box.popen(["id"], terminal=80)  # type error
    box.communicate("x")  # type error


def interpreters(box: un.Sandbox) -> None:
    with box.interpreter("python3", max_output=9, env={"A": "b"}, user="app") as python:
        assert_type(python, un.Interpreter)
        done = python.run("a", variables={"a": 1}, timeout=1.5)
        assert_type(done, un.Execution)
        assert_type(done.error and done.error.message, str | None)
    box.interpreter(stdin=un.PIPE)  # type error
    python.run(b"1")  # type error


async def interpreters_of_a_loop(box: un.Sandbox) -> None:
    async with await box.interpreter_async(cwd="/") as python:
        assert_type(await python.run_async("1", timeout=None), un.Execution)
    await box.interpreter_async(cdw="/")  # type error


def wrong_sandboxes(host: un.SandboxHost) -> None:
    un.gvisor.run(["id"], txet=True)  # type error
    un.gvisor.run(["id"], network="sandbox")  # type error
    un.Sandbox(["id"], stdin="nope")  # type error
    un.Sandbox(["id"], txet=True)  # type error
    un.SandboxHost(networkk="host")  # type error
    un.SandboxHost(platform="xen")  # type error
    host.start(["id"], stdot=1)  # type error


async def sandboxes_of_a_loop(box: un.Sandbox, host: un.SandboxHost) -> None:
    assert_type(await host.start_async(["id"], detach=True), un.Sandbox)
    started = await box.create_subprocess_exec("id", "-u", stdout=un.PIPE, limit=9, user=(1, 1))
    assert_type(started, un.SandboxProcess)
    assert_type(await un.SandboxHost.create_async(network="host"), un.SandboxHost)
    await host.start_async(["id"], stdot=1)  # type error
    await box.create_subprocess_exec("id", text=True)  # type error
    await box.create_subprocess_exec("id", stdot=1)  # type error
    await un.SandboxHost.create_async(networkk="host")  # type error


def templates(host: un.SandboxHost) -> None:
    with host.template(["id"], ready="port:1", env={"A": "b"}, timeout=1) as template:
        assert_type(template, un.Template)
        assert_type(template.start(stdout=un.PIPE, id="a"), un.Sandbox)
        host.pool(1, template=template, stdin=un.DEVNULL)
    with host.python_template(preload=["json"], code="1", cwd="/") as python:
        assert_type(python.start(["-c", "1"], env={"A": "b"}), un.Sandbox)
    host.template(["id"], redy="port:1")  # type error
    host.template(["id"], ready="port:1", stdin=1)  # type error
    host.python_template(prelaod=["json"])  # type error
    template.start(stdot=1)  # type error
    template.start(stdout="nope")  # type error
    python.start(["-c", "1"], evn={"A": "b"})  # type error


async def templates_of_a_loop(template: un.Template, python: un.PythonTemplate) -> None:
    assert_type(await template.start_async(stdin=un.PIPE), un.Sandbox)
    assert_type(await python.start_async(["-c", "1"], cwd="/"), un.Sandbox)
    await template.start_async(stdot=1)  # type error
    await python.start_async(["-c", "1"], stdot=1)  # type error


def pools(host: un.SandboxHost) -> None:
    with host.pool(2, max_uses=3, idle_timeout=1.5, env={"A": "b"}) as pool:
        with pool.acquire(timeout=1) as box:
            assert_type(box, un.Sandbox)
        assert_type(pool.stats(), un.PoolStats)
    host.pool("2")  # type error
    host.pool(2, maxuses=1)  # type error
    pool.acquire(timeout="1")  # type error


async def pools_of_a_loop(host: un.SandboxHost) -> None:
    async with host.pool(2) as pool, pool.acquire_async() as box:
        assert_type(box, un.Sandbox)


async def streams(ns: un.Namespace) -> None:
    assert_type(await un.create_subprocess_exec("id", "-u", stdout=un.PIPE, limit=9), Process)
    assert_type(await ns.create_subprocess_exec("id", cwd="/", pid=True), Process)
    await un.create_subprocess_exec("id", idmap="auto", net=True)
    async with await ns.create_subprocess_exec("id") as process:
        assert_type(process, Process)
    await un.create_subprocess_exec(["id"])  # type error
    await un.create_subprocess_exec("id", text=True)  # type error
    await un.create_subprocess_exec("id", moutn=True)  # type error
    await ns.create_subprocess_exec("id", stdin="nope")  # type error
    await ns.create_subprocess_exec("id", capture_output=True)  # type error
    await ns.create_subprocess_exec("id", idmap="auto")  # type error
