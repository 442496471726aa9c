"""Tests of limits enforced by cgroups v2, in root's services and in a user's scopes."""

from __future__ import annotations

import json
import pwd
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from logins import PATIENCE, SCRIPTS, USER
from processes import causes_in

MIB = 1 << 20
# Number of bytes by which memory.peak may exceed a memory limit.
SLACK = 1 << 16
MEMORY_HOG = "held = []\nwhile True: held.append(b'x' * 10**6)"
FORK_BOMB = "import os, time\nwhile True:\n if os.fork() == 0: time.sleep(1000)"
BURN = "import os\nos.fork()\nprint('burns', flush=True)\nwhile True: pass"
BY_GROUP = "a control group, version 2"

# Program that starts two sandboxes, and prints how their limits are enforced and why they ended.
HOST = f"""
import json, usernsctl as un
with un.SandboxHost(memory="160M", pids=80) as host:
    told = []
    for hog in {[MEMORY_HOG, FORK_BOMB]!r}:
        with host.start(None) as box:
            ended = box.run(["python3", "-c", hog])
            try:
                box.wait(300)
            except un.LimitError as error:
                cause, used = error.cause, error.used
            told.append([[part.means for part in box.limits], ended.reason, cause, used])
    print(json.dumps(told))
"""


#: Command prefixes that start a command in a system service or in a user's scope.
SYSTEM = ("systemd-run", "--quiet", "--pipe", "--wait", "--collect")
SCOPE = ("systemd-run", "--user", "--scope")
DELEGATED = ("-p", "Delegate=yes")


def as_user(*command: str) -> tuple[str, ...]:
    """Return the argv that runs a command as a user who has a systemd user manager."""
    become = ("setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "--")
    runtime = f"XDG_RUNTIME_DIR=/run/user/{pwd.getpwnam(USER).pw_uid}"
    return (*become, "env", runtime, *command)


@dataclass(frozen=True)
class Service:
    """Runner of commands in a delegated control group."""

    results: Path
    start: tuple[str, ...] = (*SYSTEM, *DELEGATED)

    def words(self, *command: str, properties: tuple[str, ...] = ()) -> list[str]:
        words = list(self.start)
        for text in properties:
            words += ["-p", text]
        return [*words, "--", "env", f"PATH={SCRIPTS}:/usr/sbin:/usr/bin", "LANG=C.UTF-8", *command]

    def __call__(
        self, *command: str, properties: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(*command, properties=properties),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            timeout=PATIENCE,
        )
        print(done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def run_limited(
        self, *options: str, code: str, properties: tuple[str, ...] = ()
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        """Run Python code in a sandbox with limits; return the finished process and the result."""
        file = self.results / "result"
        command = ["usernsctl", "run", *options, "--result", str(file), "--", "python3", "-c", code]
        done = self(*command, properties=properties)
        return done, json.loads(file.read_text())


@pytest.fixture
def results() -> Iterator[Path]:
    """Yield a directory that all users may write to; then check that no control group is left."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)
    assert sandbox_groups() == []


@pytest.fixture
def scope(results: Path) -> Iterator[Service]:
    """Yield a runner in a user's delegated scopes; then check that systemd removes the scopes."""
    yield Service(results, as_user(*SCOPE, *DELEGATED))
    deadline = time.monotonic() + PATIENCE
    while list(Path("/sys/fs/cgroup/user.slice").glob("**/run-*.scope")):
        assert time.monotonic() < deadline
        time.sleep(1)


@pytest.fixture(params=["root", "user"])
def service(results: Path, request: pytest.FixtureRequest) -> Service:
    if request.param == "root":
        return Service(results)
    scope: Service = request.getfixturevalue("scope")
    return scope


def sandbox_groups() -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob("**/usernsctl-sandbox-*"))


def test_dry_run_shows_limits_by_control_group(service: Service) -> None:
    options = ("--memory=128M", "--pids=60", "--cpus=0.5")
    done = service("usernsctl", "run", "--dry-run", "--json", *options, "--", "true")
    shown = json.loads(done.stdout)["enforced"]
    assert [part["name"] for part in shown] == ["memory", "pids", "cpus"]
    assert {part["means"] for part in shown} == {BY_GROUP}


def test_memory_limit_ends_a_memory_hog(service: Service) -> None:
    done, result = service.run_limited("--memory=128M", code=MEMORY_HOG)
    assert (done.returncode, result["reason"]) == (137, "memory-limit")
    assert result["limit"] == 128 * MIB
    assert 0.9 * 128 * MIB <= result["used"] <= 128 * MIB + SLACK
    assert causes_in(done.stderr) == ["memory-limit"]


def test_pids_limit_ends_a_fork_bomb(service: Service) -> None:
    done, result = service.run_limited("--pids=60", code=FORK_BOMB)
    assert (done.returncode, result["reason"]) == (137, "pids-limit")
    assert (result["limit"], result["used"]) == (60, 60)


def test_cpus_limit_of_half_a_processor_is_enforced(service: Service) -> None:
    command = ["usernsctl", "run", "--cpus=0.5", "--", "python3", "-c", BURN]
    with subprocess.Popen(
        service.words(*command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "burns\n"
        (group,) = sandbox_groups()
        used, start = seconds_of(group), time.monotonic()
        time.sleep(10)
        share = (seconds_of(group) - used) / (time.monotonic() - start)
        (group / "cgroup.kill").write_text("1")
        run.wait(PATIENCE)
    assert 0.3 < share <= 0.6


def seconds_of(group: Path) -> float:
    """Return the CPU time that a control group has used, in seconds."""
    found = re.search(r"^usage_usec (\d+)$", (group / "cpu.stat").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1e6


def test_memory_limit_of_the_service_is_out_of_memory(service: Service) -> None:
    """Check the error after an OOM kill by the memory limit of the caller's own control group."""
    done, result = service.run_limited(code=MEMORY_HOG, properties=("MemoryMax=250M",))
    assert (done.returncode, result["reason"]) == (137, "memory-limit")
    assert causes_in(done.stderr) == ["out-of-memory"]
    assert "250.0 MiB" in done.stderr


def test_sandboxes_of_a_host_have_control_groups(service: Service) -> None:
    done = service(sys.executable, "-c", HOST)
    memory, pids = json.loads(done.stdout)
    assert memory[:3] == [[BY_GROUP, BY_GROUP], "memory-limit", "memory-limit"]
    assert 0.9 * 160 * MIB <= memory[3] <= 160 * MIB + SLACK
    assert pids == [[BY_GROUP, BY_GROUP], "pids-limit", "pids-limit", 80]


def test_the_remedy_starts_usernsctl_in_a_delegated_scope(scope: Service) -> None:
    """Check that the remedy's systemd-run command starts usernsctl in a delegated scope.

    An error in a scope without delegation names this remedy.
    """
    limits = ("--memory=128M", "--cpus=0.5")
    done = Service(scope.results, as_user(*SCOPE))("usernsctl", "run", *limits, "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "[limit-unenforceable]" in done.stderr
    typed = re.search(r"(systemd-run .*) -- usernsctl run", done.stderr)
    assert typed, done.stderr
    words = as_user(*shlex.split(typed[1]))
    assert words == scope.start
    done = Service(scope.results, words)("usernsctl", "run", *limits, "--", "echo", "limited")
    assert (done.returncode, done.stdout) == (0, "limited\n")


UNIT = f"""
[Service]
Type=oneshot
Environment=PATH={SCRIPTS}:/usr/sbin:/usr/bin LANG=C.UTF-8
ExecStart={SCRIPTS}/usernsctl run --memory=128M --cpus=0.5 -- echo limited
StandardOutput=append:%t/usernsctl-test
StandardError=append:%t/usernsctl-test
"""
DROP_IN = """
[Service]
Delegate=cpu memory
DelegateSubgroup=usernsctl-callers
"""


def test_a_service_of_a_user_delegates_by_a_subgroup(scope: Service) -> None:
    """Check that the drop-in in docs/limits.md delegates a control group to a user's service."""
    output = Path(f"/run/user/{pwd.getpwnam(USER).pw_uid}/usernsctl-test")
    unit = Path("/run/systemd/user/usernsctl-test.service")
    drop_in = Path(f"{unit}.d/delegate.conf")
    control = as_user("systemctl", "--user")
    try:
        unit.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text(UNIT)
        for is_delegated in (False, True):
            if is_delegated:
                drop_in.parent.mkdir()
                drop_in.write_text(DROP_IN)
            subprocess.run([*control, "daemon-reload"], check=True, timeout=PATIENCE)
            done = subprocess.run([*control, "start", unit.name], check=False, timeout=PATIENCE)
            assert (done.returncode == 0) == is_delegated
            expected = "limited\n" if is_delegated else "[limit-unenforceable]"
            assert expected in output.read_text()
            output.unlink()
    finally:
        for file in (drop_in, unit, output):
            file.unlink(missing_ok=True)
        if drop_in.parent.exists():
            drop_in.parent.rmdir()
