"""Tests of an Airbyte connector's container: messages, signals, exit statuses and errors."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, Signals
from typing import Any
from urllib.parse import parse_qs, urlsplit

import gvisor
import pytest
from connector import of_type
from processes import status_of, wait_until

from docker.conftest import CONNECTOR, PRELUDE, PRELUDE_PYTHON
from docker.engine import TREE, Engine, wait_for_output
from docker.matrix import EXEC, IN_GVISOR, NO_NEW_PRIVILEGES, NONE_LEFT, SECCOMP, cause_of

PAGES, PAGE_SIZE = 30, 100
PROTECTED = [NONE_LEFT, NO_NEW_PRIVILEGES, SECCOMP]

Message = dict[str, Any]


class Station:
    """HTTP server that serves records in pages, and can delay the second page."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        station = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = int(parse_qs(urlsplit(self.path).query).get("page", ["1"])[0])
                if page == 2:
                    station.waiting.set()
                    station.go_on.wait()
                first = (page - 1) * PAGE_SIZE
                records = [
                    {"id": n, "name": f"station {n}", "metres": 17.5 * n}
                    for n in range(first, first + PAGE_SIZE)
                ]
                more = page + 1 if page < PAGES else None
                body = json.dumps({"stations": records, "next": more}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing, so that the tests print less."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def station() -> Iterator[Station]:
    made = Station()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.go_on.set()
        made.server.shutdown()
        thread.join()
        made.server.server_close()


@pytest.fixture
def files(station: Station) -> Iterator[Path]:
    """Yield a directory for the container's volume, with manifest, configuration and catalog."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-files-") as made:
        for name in ("manifest.yaml", "configured_catalog.json"):
            Path(made, name).write_text((TREE / "demo" / name).read_text())
        Path(made, "config.json").write_text(json.dumps({"url": station.url}))
        os.chmod(made, 0o755)
        yield Path(made)


def arguments(verb: str) -> list[str]:
    found = [verb, "--config", "/files/config.json", "--manifest-path", "/files/manifest.yaml"]
    return found + ["--catalog", "/files/configured_catalog.json"] * (verb == "read")


def options(files: Path, *more: str) -> list[str]:
    # Use the host's network, because the daemon has no bridge (--bridge=none).
    return ["--network=host", f"--volume={files}:/files:ro", *more]


def messages(done: subprocess.CompletedProcess[str]) -> list[Message]:
    assert done.returncode == 0, done.stderr + done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


# `make test` runs this test with only one of the Docker daemons, because test_matrix.py makes the
# connector print its spec with both.
@pytest.mark.parametrize("engine", ["plain", "remapped"], indirect=True)
@pytest.mark.sampled(1)
def test_the_connector_prints_its_spec(engine: Engine) -> None:
    found = messages(engine("run", "--rm", *PROTECTED, CONNECTOR, "spec"))
    (spec,) = of_type(found, "SPEC")
    assert "connectionSpecification" in spec


@pytest.mark.thorough
def test_the_connector_prints_its_spec_with_all_ids(plain: Engine) -> None:
    done = plain(
        *["run", "--rm", SECCOMP, IN_GVISOR, CONNECTOR],
        *["--ids=all", "--", "source-declarative-manifest", "spec"],
    )
    assert len(of_type(messages(done), "SPEC")) == 1


def test_connector_fails_without_the_seccomp_profile(plain: Engine) -> None:
    done = plain("run", "--rm", CONNECTOR, "spec")
    assert (done.returncode, done.stdout) == (125, "")
    assert cause_of(done) == "seccomp-denies-userns"
    get = "docker run --rm --entrypoint usernsctl IMAGE seccomp-profile >seccomp.json"
    assert f"    {get}\n    docker run --security-opt seccomp=seccomp.json IMAGE\n" in done.stderr


def test_the_connector_runs_in_gvisor(plain: Engine) -> None:
    done = plain(
        *["run", "--rm", *PROTECTED, "--env=SOME=thing", IN_GVISOR, CONNECTOR],
        *["python3", "-c", "import os; print(os.uname().version, os.environ['SOME'])"],
    )
    assert done.stdout == "#1 SMP Sun Jan 10 15:06:54 PST 2016 thing\n"


def test_python_variables_affect_the_program_only(plain: Engine) -> None:
    """Check that PYTHON* environment variables load modules only in gVisor, not in usernsctl."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-path-") as made:
        os.chmod(made, 0o755)
        report = "import sys; sys.stderr.write(open('/proc/version').read())\n"
        Path(made, "sitecustomize.py").write_text(report)
        done = plain(
            *["run", "--rm", *PROTECTED, f"--volume={made}:/files:ro", "--env=PYTHONPATH=/files"],
            *[IN_GVISOR, CONNECTOR, "python3", "-c", "print('ran')"],
        )
    assert done.stdout == "ran\n"
    assert gvisor.is_version(done.stderr)
    done = plain(
        *["run", "--rm", *PROTECTED, "--env=PYTHONHOME=/nowhere", IN_GVISOR],
        *[CONNECTOR, "printenv", "PYTHONHOME"],
    )
    assert done.stdout == "/nowhere\n", done.stderr


@pytest.mark.parametrize(
    ("verb", "kind", "field"),
    [("check", "CONNECTION_STATUS", "status"), ("discover", "CATALOG", "streams")],
)
@pytest.mark.sampled(1)
def test_the_connector_checks_and_discovers(
    verb: str, kind: str, field: str, plain: Engine, files: Path
) -> None:
    done = plain("run", "--rm", *PROTECTED, *options(files), CONNECTOR, *arguments(verb))
    (body,) = of_type(messages(done), kind)
    assert body[field] == "SUCCEEDED" or body[field][0]["name"] == "stations"


def test_the_connector_reads_the_same_records_as_without_gvisor(plain: Engine, files: Path) -> None:
    bare = ["--entrypoint=source-declarative-manifest"]
    sandboxed, plainly = (
        plain("run", "--rm", *PROTECTED, *options(files, *how), CONNECTOR, *arguments("read"))
        for how in ([], bare)
    )
    records = [record["data"] for record in of_type(messages(sandboxed), "RECORD")]
    assert records == [record["data"] for record in of_type(messages(plainly), "RECORD")]
    assert [record["id"] for record in records] == list(range(PAGES * PAGE_SIZE))


def test_docker_stop_ends_a_read(plain: Engine, files: Path, station: Station) -> None:
    station.go_on.clear()
    name = f"usernsctl-stop-{os.getpid()}"
    command = plain.command(
        *["run", "--rm", f"--name={name}", *PROTECTED, *options(files), CONNECTOR],
        *arguments("read"),
    )
    with subprocess.Popen(
        command, cwd=TREE, env=plain.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as reading:
        assert station.waiting.wait(120)
        plain.must("stop", "--time=60", name)
        reading.communicate(timeout=30)
    # Exit status 143 shows that SIGTERM sufficed. If docker stop timed out, it would send SIGKILL,
    # and the status would be 137.
    assert reading.returncode == 143


def takes_signal(pid: int, signal: Signals) -> bool:
    """Return whether the process, a container's PID 1, blocks or handles a signal."""
    status = status_of(pid)
    masks = int(status["SigBlk"], 16) | int(status["SigCgt"], 16)
    # usernsctl-watch receives every signal in sigtimedwait(2). While it waits there, /proc does not
    # show the signals as blocked.
    return bool(masks & 1 << signal - 1) or status["Name"] == "usernsctl-watch"


@pytest.mark.parametrize(
    "start",
    [
        [IN_GVISOR, PRELUDE],
        [EXEC, PRELUDE, "--launch", "/etc/usernsctl/launch", "--"],
        [PRELUDE_PYTHON, "run", "--"],
    ],
    ids=["in-gvisor", "launch", "run"],
)
@pytest.mark.parametrize("signal", [SIGHUP, SIGINT, SIGQUIT, SIGTERM])
@pytest.mark.sampled
def test_a_signal_before_the_sandbox_starts_is_not_lost(
    signal: Signals, start: list[str], plain: Engine
) -> None:
    """Check that a signal ends the container as soon as the entrypoint handles or blocks it.

    Until then, the kernel discards signals to a container's PID 1.
    """
    name = f"usernsctl-early-{os.getpid()}-{signal.name}"
    run = ["run", "--detach", f"--name={name}", *PROTECTED, *start]
    plain.must(*run, "sleep", "1000")
    try:
        first = int(plain.must("inspect", "--format={{.State.Pid}}", name))
        wait_until(lambda: takes_signal(first, signal))
        plain.must("kill", f"--signal={signal.name}", name)
        ended = plain.must("wait", name, timeout=60)
    finally:
        plain.must("rm", "--force", name)
    assert int(ended) == 128 + signal


def test_a_failure_of_the_connector_is_passed_on(plain: Engine, files: Path) -> None:
    (files / "config.json").write_text("{}")
    bare = ["--entrypoint=source-declarative-manifest"]
    sandboxed, plainly = (
        plain("run", "--rm", *PROTECTED, *options(files, *how), CONNECTOR, *arguments("read"))
        for how in ([], bare)
    )
    assert sandboxed.returncode == plainly.returncode == 1
    assert sandboxed.stderr == plainly.stderr
    kinds = [json.loads(line)["type"] for line in sandboxed.stdout.splitlines()]
    assert kinds == [json.loads(line)["type"] for line in plainly.stdout.splitlines()]


def test_volumes_are_read_only_and_writes_are_lost(plain: Engine, files: Path) -> None:
    script = (
        "cat /files/config.json; touch /files/new 2>/dev/null || echo read-only;"
        "touch /home/airbyte/new && echo in memory"
    )
    done = plain(
        *["run", "--rm", *PROTECTED, *options(files), IN_GVISOR, CONNECTOR],
        *["sh", "-c", script],
    )
    config = (files / "config.json").read_text()
    assert done.stdout == f"{config}read-only\nin memory\n"
    assert not (files / "new").exists()


@pytest.mark.parametrize("name", ["USERNSCTL_NETWORK", "USERNSCTL_IDS"])
def test_an_obsolete_variable_is_named(name: str, plain: Engine) -> None:
    done = plain("run", "--rm", *PROTECTED, f"--env={name}=none", CONNECTOR, "spec")
    assert (done.returncode, done.stdout) == (125, "")
    assert f"{name} is set, but has no effect" in done.stderr


def test_docker_exec_runs_outside_unless_it_names_the_entrypoint(plain: Engine) -> None:
    name = f"usernsctl-exec-{os.getpid()}"
    plain.must("run", "--detach", f"--name={name}", *PROTECTED, IN_GVISOR, CONNECTOR, "sleep", "99")
    try:
        outside = plain.must("exec", name, "cat", "/proc/version")
        inside = plain.must("exec", name, "/usr/local/bin/in-gvisor", "--", "cat", "/proc/version")
    finally:
        plain.must("rm", "--force", name)
    assert ("Jan 10 15:06:54 PST 2016" in outside, "Jan 10 15:06:54 PST 2016" in inside) == (
        False,
        True,
    )


@pytest.mark.parametrize("user", ["1000", "0", "12345"])
@pytest.mark.sampled(2)
def test_the_health_check_works_in_a_running_container(plain: Engine, user: str) -> None:
    """Check that the health check succeeds, but fails while SIGSTOP stops the sandbox process."""
    shown = plain.must("image", "inspect", "--format={{json .Config.Healthcheck.Test}}", CONNECTOR)
    kind, *command = json.loads(shown)
    assert kind == "CMD"
    name = f"usernsctl-health-{os.getpid()}-{user}"
    run = ["run", "--detach", f"--name={name}", f"--user={user}", SECCOMP, IN_GVISOR, CONNECTOR]
    plain.must(*run, "sh", "-c", "echo begun; exec sleep 99")
    # The image has no pkill(1), so search /proc for the process.
    find = "for p in /proc/[0-9]*; do grep -q ^runsc-sandbox $p/cmdline && "
    stop = f"{find} kill -$0 ${{p#/proc/}}; done"
    try:
        wait_for_output(plain, name)
        healthy = plain("exec", name, *command)
        inside = plain("exec", name, *command, "--", "cat", "/proc/version")
        plain("exec", name, "sh", "-c", stop, "STOP")
        stopped = plain("exec", name, *command)
        plain("exec", name, "sh", "-c", stop, "CONT")
        again = plain("exec", name, *command)
    finally:
        plain.must("rm", "--force", name)
    assert (healthy.returncode, healthy.stdout, healthy.stderr) == (0, "", "")
    assert (inside.returncode, gvisor.BUILD in inside.stdout) == (0, True)
    assert (stopped.returncode, cause_of(stopped)) == (1, "sandbox-unresponsive")
    assert again.returncode == 0


# With the lowest of these process limits, runsc crashes. The highest limit is still too low for a
# sandbox.
@pytest.mark.parametrize("limit", [5, 7, 8, 10, 12, 16])
@pytest.mark.sampled(3)
def test_a_low_pids_limit_is_named(limit: int, plain: Engine) -> None:
    done = plain("run", "--rm", *PROTECTED, f"--pids-limit={limit}", CONNECTOR, "spec")
    assert (done.returncode, done.stdout) == (125, "")
    assert "usernsctl: runsc: " in done.stderr
    assert "--pids-limit" in done.stderr.partition("  remedy:")[2]


# Docker can't start a container with a limit on descriptors below 10.
@pytest.mark.parametrize("limit", [10, 12, 16, 20, 24, 32, 64, 100])
@pytest.mark.sampled(3)
def test_a_low_descriptor_limit_is_named(limit: int, plain: Engine) -> None:
    done = plain("run", "--rm", *PROTECTED, f"--ulimit=nofile={limit}", CONNECTOR, "spec")
    assert (done.returncode, done.stdout) == (125, "")
    assert cause_of(done) == "descriptor-limit"


def test_a_low_memory_limit_is_named(plain: Engine) -> None:
    """Let the command exceed the container's memory limit; check that an OOM kill is reported."""
    grow = "held = []\nwhile True: held.append(b'x' * 10**7)"
    limits = ["--memory=300m", "--memory-swap=300m", IN_GVISOR]
    done = plain("run", "--rm", *PROTECTED, *limits, CONNECTOR, "python3", "-c", grow)
    assert done.returncode not in (0, 125)
    assert cause_of(done) == "out-of-memory"


def test_hostname_and_working_directory_of_the_container_apply(plain: Engine) -> None:
    options = ["--hostname=station", IN_GVISOR]
    show = ["sh", "-c", "hostname; pwd"]
    done = plain("run", "--rm", *PROTECTED, *options, "--workdir=/opt", CONNECTOR, *show)
    assert done.stdout == "station\n/opt\n", done.stderr
    done = plain("run", "--rm", *PROTECTED, *options, "--workdir=/tmp/mine", CONNECTOR, *show)
    assert (done.returncode, done.stdout) == (125, "")
    absent = "/tmp/mine, the working directory of the launch, does not exist in the sandbox"
    assert absent in done.stderr


def test_doctor_is_plain_on_a_terminal(plain: Engine) -> None:
    """Check that doctor prints no colours, because the image lacks the package rich."""
    done = plain("run", "--rm", "--tty", SECCOMP, PRELUDE_PYTHON, "doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("Ready for a command in gVisor")
    assert "\x1b" not in done.stdout
