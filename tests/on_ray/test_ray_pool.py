"""Tests of RayPool on a cluster of three nodes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import CancelledError as FutureCancelledError
from pathlib import Path
from typing import Any

import pytest
import ray
from on_ray.conftest import PER_NODE, ThreeNodes, kernels, sandbox_processes
from processes import wait_until

import usernsctl as un
import usernsctl.contrib.ray as contrib_ray
from usernsctl.contrib.ray import NodeLostError, Progress, RayPool

pytestmark = pytest.mark.timeout(600)

FULL = os.environ.get("USERNSCTL_HOSTILE") == "full"
# Number of kills, which is larger with `make hostile`.
KILLS = 20 if FULL else 2
# Number of tasks, which is larger with `make hostile`.
TASKS = 2000 if FULL else 300
# Number of tasks that a test's pool keeps in flight.
IN_FLIGHT = 3 * PER_NODE * 2


@pytest.fixture
def pool(nodes: ThreeNodes) -> Iterator[RayPool]:
    with RayPool(PER_NODE, max_uses=1000) as opened:
        yield opened


def end_sandboxes() -> None:
    """Kill gVisor's kernel in each sandbox, as the host's OOM killer does."""
    for pid in kernels():
        os.kill(pid, signal.SIGKILL)


def test_results_have_a_reason_and_a_node(pool: RayPool) -> None:
    done = pool.submit(["sh", "-c", "cat; exit 3"], input="text", text=True).result()
    assert (done.returncode, done.stdout, done.reason) == (3, "text", "exited")
    assert done.attempts == 1
    assert done.node in {node["NodeID"] for node in ray.nodes()}
    assert pool.submit(["sh", "-c", "kill -9 $$"]).result().reason == "signalled"
    cut = pool.submit(["seq", "100000"], max_output=10, on_overflow="kill").result()
    assert cut.reason == "output-limit"
    assert cut.stdout_truncated > 0
    with pytest.raises(un.TimeoutExpired):
        pool.submit(["sleep", "1000"], timeout=1).result()
    with pytest.raises(un.CalledProcessError) as error:
        pool.submit(["false"], check=True).result()
    assert error.value.returncode == 1
    with pytest.raises(un.CommandError):
        pool.submit(["no-such-command"]).result()
    assert pool.progress().retried == 0


def test_input_may_be_an_object_of_the_store(pool: RayPool) -> None:
    shared = ray.put(b"x" * 1_000_000)
    found = pool.map([["wc", "-c"]] * 3, input=shared, text=True)
    with pytest.raises(TypeError, match="input must be text, not bytes"):
        list(found)
    assert [int(one.stdout) for one in pool.map([["wc", "-c"]] * 3, input=shared)] == [10**6] * 3


def test_map_keeps_the_order_and_reads_commands_lazily(pool: RayPool) -> None:
    read: list[int] = []

    def commands() -> Iterator[list[str]]:
        for number in range(40):
            read.append(number)
            yield ["sh", "-c", f"sleep 0.0{number % 3}; echo {number}"]

    seen: list[Progress] = []
    found = pool.map(commands(), text=True, progress=seen.append)
    assert read == []
    for number, one in enumerate(found):
        assert int(one.stdout) == number
        assert len(read) <= number + IN_FLIGHT
    assert len(seen) == 40
    assert seen[-1].done == 40
    assert max(one.running for one in seen) <= IN_FLIGHT


def test_map_unordered_numbers_its_results(pool: RayPool) -> None:
    commands = [["sh", "-c", f"exit {number}"] for number in range(20)]
    found = dict(pool.map_unordered(commands))
    assert {number: one.returncode for number, one in found.items()} == {n: n for n in range(20)}


def test_return_exceptions_makes_exceptions_results(pool: RayPool) -> None:
    commands = [["true"], ["no-such-command"], ["true"]]
    found = list(pool.map(commands, return_exceptions=True))
    assert [type(one).__name__ for one in found] == [
        "RayResult",
        "CommandNotFoundError",
        "RayResult",
    ]
    with pytest.raises(un.CommandError):
        list(pool.map(commands))
    wait_until(lambda: pool.progress().running == 0)


def test_leaving_a_map_cancels_its_tasks(pool: RayPool) -> None:
    found = pool.map_unordered([["sh", "-c", "echo; sleep $0", n] for n in ("0", *["1000"] * 30)])
    assert next(found)[0] == 0
    found.close()
    wait_until(lambda: pool.progress().running == 0)
    assert pool.submit("true").result().returncode == 0


def test_cancelling_kills_the_command(nodes: ThreeNodes) -> None:
    with RayPool(1, actors=1, max_uses=1000) as pool:
        futures = [pool.submit(["sleep", "1000"]) for _ in range(5)]
        # Wait until an actor has two of the five tasks, one running and one queued. The other three
        # are queued in this process.
        wait_until(lambda: pool.progress().running == 2)
        for future in futures:
            assert future.cancel()
        done, _ = wait(futures, timeout=30)
        assert done == set(futures)
        for future in futures:
            with pytest.raises(FutureCancelledError):
                future.result()
        # Check that the pool's only sandbox contains no process of the cancelled commands.
        left = pool.submit(["sh", "-c", "cat /proc/[0-9]*/cmdline"]).result(60)
        assert b"1000" not in left.stdout
        assert pool.progress().cancelled == 5


def test_failed_command_is_not_retried(nodes: ThreeNodes, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    binds = [un.Bind(str(tmp_path), "/data", read_only=False)]
    with RayPool(1, actors=1, host={"binds": binds, "memory": "200M"}, max_uses=1000) as pool:
        for number, command in enumerate(
            ["exit 1", "kill -11 $$", "sleep 1000", "tail /dev/zero", "cat /dev/zero"]
        ):
            task = ["sh", "-c", f"echo >>/data/{number}; {command}"]
            options: dict[str, Any] = {"timeout": 1} if "sleep" in command else {}
            if "cat" in command:
                options = {"max_output": 10, "on_overflow": "kill"}
            try:
                found = pool.submit(task, **options).result()
                assert found.returncode != 0
                assert found.attempts == 1
            except (un.TimeoutExpired, un.UsernsError):
                pass
            assert (tmp_path / str(number)).read_text() == "\n"
        assert pool.progress().retried == 0


def test_command_is_retried_if_its_sandbox_ends(nodes: ThreeNodes, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    binds = [un.Bind(str(tmp_path), "/data", read_only=False)]
    task = ["sh", "-c", "echo >>/data/tries; [ $(wc -l </data/tries) -gt $0 ] || sleep 1000", "1"]
    tries = tmp_path / "tries"
    with RayPool(1, actors=1, host={"binds": binds}) as pool:
        future = pool.submit(task)
        wait_until(lambda: tries.exists() and tries.read_text())
        end_sandboxes()
        found = future.result(60)
        assert (found.returncode, found.reason, found.attempts) == (0, "exited", 2)
        assert tries.read_text() == "\n\n"

    tries.unlink()
    with RayPool(1, actors=1, host={"binds": binds}, retries=0) as pool:
        future = pool.submit(task)
        wait_until(lambda: tries.exists() and tries.read_text())
        end_sandboxes()
        found = future.result(60)
        assert (found.reason, found.attempts) == ("sandbox-ended", 1)
        assert tries.read_text() == "\n"


@pytest.mark.parametrize("number", range(KILLS))
def test_every_task_has_a_result_if_a_node_is_killed(nodes: ThreeNodes, number: int) -> None:
    commands = [["sh", "-c", f"sleep 0.1; exit {n % 7}"] for n in range(60)]
    with RayPool(PER_NODE, max_uses=1000) as pool:
        found: dict[int, Any] = {}
        for place, one in pool.map_unordered(commands):
            found[place] = one
            if len(found) == 10:
                lost = nodes.kill(number % 3)
        assert {n: one.returncode for n, one in found.items()} == {n: n % 7 for n in range(60)}
        assert all(one.attempts <= 4 for one in found.values())
        after = {one.node for n, one in found.items() if n >= 40}
        assert lost not in after
        # Check that the killed node's sandboxes have been killed, too.
        wait_until(lambda: len(kernels()) <= 2 * PER_NODE, explain=sandbox_processes)
    assert pool.progress().done == 60


def test_task_fails_if_its_nodes_are_lost(nodes: ThreeNodes) -> None:
    with RayPool(PER_NODE, actors=3, retries=0) as pool:
        wait_until(lambda: pool.progress().actors == 3, 120)
        futures = [pool.submit(["sleep", "1000"]) for _ in range(3)]
        wait_until(lambda: pool.progress().running == 3)
        nodes.kill(0)
        ended, _ = wait(futures, timeout=60, return_when=FIRST_COMPLETED)
        (one,) = ended
        with pytest.raises(NodeLostError, match="'sleep 1000' was tried 1 times"):
            one.result()


def test_new_node_replaces_a_killed_one(nodes: ThreeNodes) -> None:
    with RayPool(PER_NODE, max_uses=1000) as pool:
        wait_until(lambda: pool.progress().actors == 3, 120)
        nodes.kill(0)
        assert all(one.returncode == 0 for one in pool.map([["true"]] * 20))
        assert pool.progress().actors < 3
        nodes.restore()
        wait_until(lambda: pool.progress().actors == 3, 120)


@pytest.mark.timeout(3600)
def test_many_tasks_have_results_from_all_nodes(pool: RayPool) -> None:
    commands = (["sh", "-c", f"exit {n % 256}"] for n in range(TASKS))
    found = dict(pool.map_unordered(commands))
    assert {n: one.returncode for n, one in found.items()} == {n: n % 256 for n in range(TASKS)}
    assert len({one.node for one in found.values()}) == 3


def test_sandboxes_start_from_a_template(nodes: ThreeNodes, tmp_path: Path) -> None:
    command = ["sh", "-c", "echo saved >/tmp/state; echo ready; sleep 1000000"]
    with un.SandboxHost() as host, host.template(command, ready="line:ready") as template:
        template.save(tmp_path / "saved")
        with RayPool(1, template=template) as pool:
            found = list(pool.map([["cat", "/tmp/state"]] * 6, text=True))
            assert [one.stdout for one in found] == ["saved\n"] * 6
    with RayPool(1, actors=1, template=tmp_path / "saved") as pool:
        assert pool.submit(["cat", "/tmp/state"], text=True).result().stdout == "saved\n"


def test_template_of_another_host_raises(nodes: ThreeNodes, tmp_path: Path) -> None:
    with un.SandboxHost() as host, host.template() as template:
        template.save(tmp_path / "saved")
    options: Any = {"network": "host"}
    with (
        RayPool(1, actors=1, template=tmp_path / "saved", host=options) as pool,
        pytest.raises(un.RunscError, match="--network") as error,
    ):
        pool.submit("true").result()
    assert error.value.cause == "template-host-differs"


def test_untrusted_or_damaged_template_raises(nodes: ThreeNodes, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    with un.SandboxHost() as host:
        with host.template() as template:
            template.save(saved)
        with host.python_template() as python, pytest.raises(un.RunscError, match="interpreter"):
            RayPool(1, template=python)

    def cause_of(change: Callable[[], object]) -> str | None:
        change()
        with pytest.raises(un.RunscError) as error:
            RayPool(1, template=saved)
        return error.value.cause

    assert cause_of(lambda: saved.chmod(0o777)) == "template-untrusted"
    saved.chmod(0o700)
    (image, *_) = [file for file in saved.iterdir() if file.name != "record.json"]

    def lead_out() -> None:
        image.unlink()
        image.symlink_to("/etc/passwd")

    assert cause_of(lead_out) == "template-damaged"
    assert cause_of(image.unlink) == "template-damaged"
    assert cause_of((saved / "record.json").unlink) == "template-damaged"


def test_close_cancels_all_tasks(nodes: ThreeNodes) -> None:
    pool = RayPool(1)
    futures = [pool.submit(["sleep", "1000"]) for _ in range(20)]
    wait_until(lambda: pool.progress().running)
    pool.close()
    pool.close()
    assert all(future.cancelled() for future in futures)
    with pytest.raises(ValueError, match="the pool is closed"):
        pool.submit("true")
    with pytest.raises(ValueError, match="the pool is closed"):
        pool.map([])
    with pytest.raises(TypeError, match="create a pool in each process"):
        pool.__reduce__()


def test_pool_without_a_node_with_room_raises(nodes: ThreeNodes) -> None:
    with pytest.raises(un.PoolError, match="the most that a node offers is 2") as error:
        RayPool(PER_NODE + 1)
    assert error.value.remedy is not None
    assert '"sandboxes": 3' in error.value.remedy
    with (
        RayPool(PER_NODE + 1, actors=1, start_timeout=3) as pool,
        pytest.raises(un.PoolTimeoutError, match=r"no actor was ready within 3 s.*sandboxes: 6"),
    ):
        pool.submit("true").result()


def test_invalid_host_options_raise(nodes: ThreeNodes) -> None:
    with (
        RayPool(1, actors=2, host={"rootfs": "/no/such/directory"}) as pool,
        pytest.raises(un.BindNotFoundError, match="/no/such/directory"),
    ):
        pool.submit("true").result()
    wrong: Any = {"network": "wrong"}
    with RayPool(1, actors=2, host=wrong) as pool, pytest.raises(ValueError, match="wrong"):
        pool.submit("true").result()


WRONG_TASKS: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ([], {}, ValueError, "args is empty"),
    (7, {}, TypeError, "args must be text"),
    (["a\0b"], {}, ValueError, "NUL"),
    ("true", {"timeuot": 1}, TypeError, "timeuot"),
    ("true", {"timeout": "1"}, TypeError, "timeout"),
    ("true", {"stdout": 1}, TypeError, "stdout"),
    ("true", {"input": "text"}, TypeError, "input must be bytes"),
    ("true", {"input": b"bytes", "text": True}, TypeError, "input must be text"),
    ("true", {"max_output": -1}, ValueError, "max_output"),
    ("true", {"env": ["A=1"]}, TypeError, "env"),
    ("true", {"cwd": "here"}, un.CommandError, "not an absolute path"),
    ("true", {"user": "a b"}, ValueError, "user"),
    ("true", {"groups": "1"}, TypeError, "groups"),
]


def test_invalid_tasks_raise_before_sending(pool: RayPool) -> None:
    for args, options, kind, text in WRONG_TASKS:
        for call in (pool.submit, lambda args, **options: list(pool.map([args], **options))):
            with pytest.raises(kind, match=text):
                call(args, **options)
    with pytest.raises(ValueError, match="rlimits"):
        pool.submit("true", rlimits=["wrong"]).result()
    assert pool.progress().failed == 1


WRONG_POOLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"sandboxes": 0}, ValueError, "sandboxes must be 1 or more"),
    ({"sandboxes": "2"}, TypeError, "sandboxes must be a whole number"),
    ({"actors": 0}, ValueError, "actors must be 1 or more"),
    ({"retries": -1}, ValueError, "retries must be 0 or more"),
    ({"max_uses": 0}, ValueError, "max_uses"),
    ({"start_timeout": 0}, ValueError, "start_timeout"),
    ({"host": ["rootfs"]}, TypeError, "host must be a dictionary"),
    ({"host": {"rotfs": "/"}}, TypeError, "rotfs"),
    ({"template": 3}, TypeError, "template must be a Template or a path"),
    ({"template": "/no/such/template"}, un.RunscError, "there is no template /no/such/template"),
    ({"actor_options": 3}, TypeError, "actor_options must be a dictionary"),
    ({"actor_options": {"wrong": 1}}, ValueError, "wrong"),
]


def test_invalid_arguments_of_a_pool_raise(nodes: ThreeNodes) -> None:
    for given, kind, text in WRONG_POOLS:
        with pytest.raises(kind, match=text):
            RayPool(**{"sandboxes": 1, **given})


DRIVER = """
import sys, time
import ray
from usernsctl.contrib.ray import RayPool
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
pool = RayPool(1, actors=2)
futures = [pool.submit(["sleep", "1000"]) for _ in range(4)]
while pool.progress().running < 4:
    time.sleep(0.05)
"""


@pytest.fixture
def drive(nodes: ThreeNodes) -> Callable[[str], subprocess.Popen[str]]:
    """Return a function that starts another Ray driver, a process whose pool runs four tasks."""

    def start(rest: str) -> subprocess.Popen[str]:
        code = DRIVER + textwrap.dedent(rest)
        argv = [sys.executable, "-c", code, nodes.cluster.address]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    return start


def test_killed_driver_ends_all_sandboxes(drive: Callable[[str], subprocess.Popen[str]]) -> None:
    with drive("print('ready', flush=True); time.sleep(1000)") as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        assert sandbox_processes()
        driver.kill()
    wait_until(lambda: not sandbox_processes())


def test_tasks_fail_if_the_driver_disconnects(
    drive: Callable[[str], subprocess.Popen[str]],
) -> None:
    code = """
    ray.shutdown()
    for future in futures:
        print(type(future.exception(60)).__name__)
    try:
        pool.submit("true")
    except OSError as error:
        print(error)
    pool.close()
    """
    with drive(code) as driver:
        out, _ = driver.communicate(timeout=120)
    assert out.splitlines() == ["NodeLostError"] * 4 + [
        "pool: this process is disconnected from the Ray cluster"
    ]


def test_ray_reference_has_every_public_name() -> None:
    page = Path(__file__).parents[2] / "docs" / "api" / "ray.rst"
    found = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", page.read_text(), re.M)
    assert sorted(found) == sorted(contrib_ray.__all__)
    assert {name for name in dir(contrib_ray) if name[0] != "_"} >= set(found)


def test_pool_without_a_cluster_raises() -> None:
    code = "from usernsctl.contrib.ray import RayPool; RayPool(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "not connected to a Ray cluster: call ray.init first" in done.stderr


def test_timeout_excludes_time_in_queues(nodes: ThreeNodes) -> None:
    with RayPool(1, actors=1, max_uses=1000) as pool:
        start = time.monotonic()
        futures = [pool.submit(["sleep", "1"], timeout=20) for _ in range(4)]
        assert all(future.result().returncode == 0 for future in futures)
        assert time.monotonic() - start >= 4
