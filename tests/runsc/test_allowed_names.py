"""Tests of sandboxes in gVisor that reach only allowed names."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SCRIPTS, Program
from network_world import PUBLIC, World, made
from processes import children_of
from proxied import FETCH, Server

import usernsctl as un
from usernsctl._system.processes import command_line_of
from usernsctl.gvisor.sandbox import attached, detached
from usernsctl.network import proxy_process
from usernsctl.network.proxy_process import ProxyProcess, is_proxy

USERNSCTL = SCRIPTS / "usernsctl"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    names = {"good.example": [PUBLIC], "inner.example": ["10.0.0.5"]}
    with made(tmp_path_factory.mktemp("world"), names) as world:
        yield world


def test_run_connects_only_to_allowed_names(world: World, tmp_path: Path) -> None:
    urls = ["http://good.example/", "http://evil.example/", "http://inner.example/"]
    rules = ["--allow", "good.example", "--allow=*.wild.example:8080", "--allow", "inner.example"]
    with Server(world) as server:
        done = world.run(
            "machine",
            *(USERNSCTL, "run", *rules, "--result", str(tmp_path / "result"), "--"),
            *("/usr/bin/python3", "-c", FETCH, *urls),
        )
    assert done.stdout.splitlines() == [
        "200 ok",
        "403 usernsctl: no --allow option allows this host and port",
        "403 usernsctl: inner.example has 10.0.0.5, a private address",
    ], done.stderr
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "usernsctl: refused evil.example:80: no --allow option allows this host and port",
        "usernsctl: refused inner.example:80: inner.example has 10.0.0.5, a private address",
    ]
    assert len(server.received) == 1
    assert json.loads((tmp_path / "result").read_text())["denied"] == 2


# Program that tries to connect to a server directly, without the proxy.
AROUND = f"""
import socket
for host, port in ("{PUBLIC}", 80), ("93.184.216.2", 80), ("127.0.0.1", 8000), ("::1", 8000):
    try:
        socket.create_connection((host, port), 5)
    except OSError as error:
        print(error.strerror)
try:
    socket.getaddrinfo("good.example", 80)
except OSError as error:
    print(error.strerror)
"""


def test_a_command_can_not_bypass_the_proxy(world: World) -> None:
    with Server(world), Server(world, "0.0.0.0", 8000, where="machine") as machine:
        done = world.run(
            "machine",
            *(USERNSCTL, "run", "--allow", "good.example", "--", "/usr/bin/python3", "-c", AROUND),
        )
    assert done.stdout.splitlines()[:4] == [
        "Network is unreachable",
        "Network is unreachable",
        "Connection refused",
        "Connection refused",
    ], done.stderr
    assert "resol" in done.stdout.splitlines()[4]
    assert machine.received == []


HOST = f"""
import json, usernsctl as un
with un.SandboxHost(allow=["good.example"]) as host, host.start(None) as box:
    fetch = ["/usr/bin/python3", "-c", {FETCH!r}]
    good = box.run([*fetch, "http://good.example/"], capture_output=True, text=True)
    evil = box.run([*fetch, "http://evil.example/"], capture_output=True, text=True)
    listed = [[each.text, each.count] for each in box.refusals()]
    print(json.dumps([good.stdout, good.denied, evil.stdout, evil.denied, box.denied, listed]))
with un.Sandbox([*fetch, "http://evil.example/"], allow=["good.example"], stdout=-3) as box:
    print(box.result().denied)
"""


def test_sandboxes_of_a_host_connect_only_to_allowed_names(world: World) -> None:
    with Server(world):
        done = world.run("machine", sys.executable, "-c", HOST)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    reason = "no --allow option allows this host and port"
    assert json.loads(first) == [
        "200 ok\n",
        0,
        f"403 usernsctl: {reason}\n",
        1,
        1,
        [[f"evil.example:80: {reason}", 1]],
    ]
    assert second == "1"


def test_variables_name_the_proxy(usernsctl: Program) -> None:
    done = usernsctl("run", "--allow", "good.example", "--", "env")
    shown = {line for line in done.stdout.splitlines() if "proxy" in line.lower()}
    assert shown == {
        f"{name}={value}"
        for name, value in [
            ("HTTP_PROXY", "http://127.0.0.1:3128"),
            ("HTTPS_PROXY", "http://127.0.0.1:3128"),
            ("NO_PROXY", "localhost,127.0.0.1,::1"),
            ("http_proxy", "http://127.0.0.1:3128"),
            ("https_proxy", "http://127.0.0.1:3128"),
            ("no_proxy", "localhost,127.0.0.1,::1"),
        ]
    }, done.stderr


def test_refusals_are_logged_as_json(world: World) -> None:
    done = world.run(
        "machine",
        *(USERNSCTL, "run", "--log=json", "--allow", "good.example", "--"),
        *("/usr/bin/python3", "-c", FETCH, "http://evil.example/"),
    )
    (line,) = done.stderr.splitlines()
    message = json.loads(line)
    assert message.pop("time").endswith("Z")
    assert message == {
        "level": "notice",
        "program": "usernsctl",
        "message": "refused evil.example:80: no --allow option allows this host and port",
    }


def proxies_below(pid: int) -> list[int]:
    """Return the pids of the proxies among a process's children."""
    found = []
    for child in children_of(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"proxy_child" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


HELD = """
import time, usernsctl as un
box = un.Sandbox(["/bin/sleep", "1000"], allow=["good.example"])
print("started", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    "command",
    [
        [USERNSCTL, "run", "--allow", "good.example", "--", "/bin/sh", "-c", "echo started; cat"],
        [sys.executable, "-c", HELD],
    ],
    ids=["run", "host"],
)
def test_the_proxy_ends_when_its_creator_is_killed(command: list[str]) -> None:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        (proxy,) = proxies_below(process.pid)
        pidfd = os.pidfd_open(proxy)
        process.kill()
    try:
        assert select.select([pidfd], [], [], 30)[0]
    finally:
        os.close(pidfd)


def test_record_of_a_sandbox_can_not_name_the_proxy_of_an_attached_one() -> None:
    with un.Sandbox(["sleep", "1000"], allow=["good.example"], id="attached") as box:
        proxy = box._get().proxy
        assert isinstance(proxy, ProxyProcess)
        words = command_line_of(proxy.pid)
    assert is_proxy(words, "")
    assert not is_proxy(words, "attached")


def test_a_killed_proxy_blocks_all_connections(world: World) -> None:
    code = (
        "import usernsctl as un\n"
        "with un.SandboxHost(allow=['good.example']) as host, host.start(None) as box:\n"
        "    box._life.proxy._process.kill()\n"
        "    box._life.proxy._process.wait()\n"
        f"    done = box.run(['/usr/bin/python3', '-c', {FETCH!r}, 'http://good.example/'],\n"
        "        capture_output=True, text=True)\n"
        "    print(done.stdout)\n"
    )
    with Server(world) as server:
        done = world.run("machine", sys.executable, "-c", code)
    assert "refused" in done.stdout, done.stderr
    assert server.received == []


@pytest.mark.parametrize(
    ("allow", "error"),
    [
        ("good.example", TypeError),
        ([b"good.example"], TypeError),
        ([1], TypeError),
        (["10.0.0.1/33"], ValueError),
        (["a.*.b"], ValueError),
        (["good.example:99999"], ValueError),
    ],
)
def test_invalid_allow_rules_of_a_host_raise(allow: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="allow"):
        un.SandboxHost(allow=allow)


def test_allow_with_network_host_raises() -> None:
    with pytest.raises(ValueError, match="allow needs network='none'"):
        un.SandboxHost(allow=["good.example"], network="host")


def test_dry_run_shows_the_listening_proxy(usernsctl: Program) -> None:
    done = usernsctl("run", "--allow", "good.example", "--dry-run", "--", "true")
    assert "--listen=3128:FD" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--allow", "127.0.1"], "is not CIDR[:PORT]"),
        (["--allow", "good.example:0"], "'0' is not a port from 1 to 65535"),
        (["--allow", "a.*.example"], "* must be the whole first label"),
        (["--allow", ""], "the name is empty"),
        (["--allow", "good.example", "--network", "host"], "exclude each other"),
    ],
)
def test_invalid_allow_options_start_nothing(
    words: list[str], message: str, usernsctl: Program, tmp_path: Path
) -> None:
    done = usernsctl("run", *words, "--bind", f"{tmp_path}:/m:rw", "--", "touch", "/m/ran")
    assert done.returncode == 125
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_freeze_refuses_allow(usernsctl: Program, tmp_path: Path) -> None:
    done = usernsctl("freeze", "-o", tmp_path / "x.launch", "--allow", "good.example", "--", "true")
    assert done.returncode == 125
    assert "--allow can't be frozen" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failed_start_or_close_ends_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many files")

    with un.SandboxHost(allow=["good.example"]) as host:
        before = children_of(os.getpid())
        with monkeypatch.context() as patched:
            patched.setattr(attached, "pipe", fail)
            with pytest.raises(OSError, match="too many files"):
                host.start(["sleep", "60"])
        assert children_of(os.getpid()) == before
        with host.start(["sleep", "60"]) as box:
            life = box._get()
            assert isinstance(life, attached.AttachedSandbox)
            assert life.proxy is not None
            with monkeypatch.context() as patched:
                patched.setattr(life, "kill", fail)
                with pytest.raises(OSError, match="too many files"):
                    life.close()
            assert life.proxy._process.returncode is not None
        assert children_of(os.getpid()) == before


both_kinds = pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])


@both_kinds
@pytest.mark.usefixtures("runtime")
def test_timeout_limits_the_start_of_the_proxy(
    detach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_process, "_command", lambda *_: ["/bin/sleep", "1000"])
    before = children_of(os.getpid())
    with pytest.raises(un.TimeoutExpired) as caught:
        un.Sandbox(["echo", "word"], allow=["good.example"], timeout=0.5, detach=detach)
    assert (caught.value.cmd, caught.value.timeout) == (("echo", "word"), 0.5)
    assert children_of(os.getpid()) == before


@both_kinds
@pytest.mark.usefixtures("runtime")
def test_start_of_the_proxy_counts_for_the_timeout(
    detach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def expire(timeout: float, args: list[str], **_: Any) -> None:
        given.append(timeout)
        raise un.TimeoutExpired(args, timeout)

    monkeypatch.setattr(detached if detach else attached, "start_within", expire)
    with pytest.raises(un.TimeoutExpired) as caught:
        un.Sandbox(["echo", "word"], allow=["good.example"], timeout=60, detach=detach)
    assert caught.value.timeout == 60
    assert [seconds < 60 for seconds in given] == [True]
