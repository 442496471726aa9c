"""Tests of Python programs that start sandboxes in an unprivileged container."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import gvisor
import pytest

from docker.engine import TREE, Engine
from docker.matrix import NO_NEW_PRIVILEGES, NONE_LEFT, SECCOMP
from docker.recipes import build_recipe

SERVICE = "usernsctl-test/service"
AT_ONCE = 20
PATIENCE = 60

LIMITS = ["--read-only", "--tmpfs=/tmp", "--pids-limit=1000", "--memory=2g"]
AS_USER = [NONE_LEFT, NO_NEW_PRIVILEGES, SECCOMP, *LIMITS]
# Mapping root requires the capability SETFCAP, which a container's root has by default.
AS_ROOT = ["--user=0", NO_NEW_PRIVILEGES, SECCOMP, *LIMITS]

# Process 1 of a container, which runs the service as its child. Afterwards, process 1 waits up to
# ten seconds until no other process is left, and prints how often it has looked, and what is left.
WATCH = """
trap 'kill -TERM $service' TERM
"$@" &
service=$!
wait $service
wait $service
status=$?
looks=0
while :; do
    left=
    looks=$((looks + 1))
    for process in /proc/[0-9]*; do
        stat=$(cat $process/stat 2>/dev/null) || continue
        case $stat in "1 "*|*") Z "*) ;; *) left="$left $stat" ;; esac
    done
    [ "$left" ] && [ $looks -lt 100 ] || break
    sleep 0.1
done
echo "status $status after $looks looks:$left"
find /tmp ! -type d
"""


@pytest.fixture(scope="module")
def service(plain: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the image of the documentation."""
    context = tmp_path_factory.mktemp("service")
    (context / "examples").mkdir()
    shutil.copy(TREE / "examples" / "snippet_server.py", context / "examples")
    build_recipe(
        plain, "docs/docker.md", "FROM prelude-python\nCOPY examples/", context, image=SERVICE
    )
    return SERVICE


class Service:
    """A running service.

    :ivar url: the address of the service, in the host's network.
    """

    def __init__(self, engine: Engine, image: str, options: list[str]) -> None:
        self._engine = engine
        self._name = f"service-{time.monotonic_ns()}"
        # The engine has no bridge.
        run = ["run", "--detach", f"--name={self._name}", "--network=host", *options]
        command = ["/opt/usernsctl/bin/python", "-I", "/opt/snippet_server.py", "127.0.0.1:0"]
        engine.must(*run, "--entrypoint=sh", image, "-c", WATCH, "sh", *command)
        self.url = self._wait_for_line("listening on ").split()[-1]

    def _wait_for_line(self, start: str) -> str:
        with subprocess.Popen(
            self._engine.command("logs", "--follow", self._name),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._engine.environ,
        ) as logs:
            assert logs.stdout is not None
            seen = []
            for line in logs.stdout:
                seen.append(line)
                if line.startswith(start):
                    logs.kill()
                    return line
        raise AssertionError("".join(seen))

    def post(self, snippet: str) -> tuple[str, str]:
        """Return the exit status of a snippet, and its output."""
        with urllib.request.urlopen(self.url, snippet.encode(), PATIENCE) as answer:
            return answer.headers["X-Exit-Status"], answer.read().decode()

    def execute(self, *command: str) -> None:
        self._engine.must("exec", self._name, *command)

    def stop(self) -> str:
        """Send SIGTERM, and return all output of the container."""
        self._engine.must("stop", f"--time={PATIENCE}", self._name)
        return self.end()

    def end(self) -> str:
        """Wait for the end of the container, and return its output."""
        self._engine.must("wait", self._name)
        done = self._engine("logs", self._name)
        return done.stdout + done.stderr

    def remove(self) -> None:
        self._engine.must("rm", "--force", self._name)


@pytest.fixture(params=[AS_USER, AS_ROOT], ids=["user", "root"])
def running(plain: Engine, service: str, request: pytest.FixtureRequest) -> Iterator[Service]:
    started = Service(plain, service, request.param)
    yield started
    started.remove()


SHOW = "import os; print({}, open('/proc/version').read(), end='')"


def test_requests_run_in_sandboxes_and_nothing_is_left(running: Service) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(running.post, (SHOW.format(n) for n in range(AT_ONCE))))
    for number, (status, output) in enumerate(answers):
        word, _, version = output.partition(" ")
        assert (status, word, gvisor.is_version(version)) == ("0", str(number), True)
    url, *rest = running.stop().splitlines()
    assert (url, rest) == (f"listening on {running.url}", ["status 0 after 1 looks:"])


def test_requests_that_were_received_are_answered_after_sigterm(running: Service) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        snippet = "import time; print('begun', flush=True); time.sleep(2); print('done')"
        answer = threads.submit(running.post, snippet)
        # Wait until the request has a sandbox.
        while "leased=1" not in urllib.request.urlopen(running.url).read().decode():
            time.sleep(0.1)
        output = running.stop()
        assert answer.result() == ("0", "begun\ndone\n")
    assert output.splitlines()[1:] == ["status 0 after 1 looks:"]


def test_nothing_is_left_of_a_service_that_was_killed(running: Service) -> None:
    assert running.post("print(1)") == ("0", "1\n")
    running.execute("sh", "-c", "kill -KILL $(cat /proc/1/task/1/children)")
    # The shell also prints that the service was killed.
    *_, rest = running.end().splitlines()
    assert re.fullmatch(r"status 137 after \d+ looks:", rest)
