"""What every test can ask for: the installed commands, and what this machine must be able to do.

Tests in tests/kernel and tests/runsc are skipped where the machine can't do what they are about.
USERNSCTL_MUST_WORK, a list with commas of the words in PROBES, makes such a skip a failure.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import prctl
import pytest

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
MUST_WORK = "USERNSCTL_MUST_WORK"
# How long a process may take to go once its test is over.
EXIT_SECONDS = 10

PROBES = {
    "userns": [str(SCRIPTS / "usernsctl-exec"), "-r", "true"],
    "subid": ["unshare", "--map-root-user", "--map-auto", "true"],
    "runsc": [str(SCRIPTS / "usernsctl"), "run", "--", "true"],
    "docker": ["docker", "info"],
}
DIRECTORY_NEEDS = {
    "faults": ["needs_userns", "nothing_left"],
    "kernel": ["needs_userns", "nothing_left"],
    "runsc": ["needs_userns", "needs_runsc", "nothing_left"],
}


@dataclass(frozen=True)
class Program:
    """An installed command, called as a user calls it."""

    path: Path

    def __call__(
        self,
        *args: str | Path,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        cwd: Path | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; `env` is the whole environment, `timeout` is in seconds."""
        return subprocess.run(
            [self.path, *args],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            env=env,
            timeout=timeout,
            cwd=cwd,
            pass_fds=pass_fds,
        )


@pytest.fixture(scope="session")
def usernsctl() -> Program:
    """The command `usernsctl` of the environment that runs the tests."""
    return Program(SCRIPTS / "usernsctl")


@pytest.fixture(scope="session")
def prelude() -> Program:
    """The native command `usernsctl-exec` of the environment that runs the tests."""
    return Program(SCRIPTS / "usernsctl-exec")


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for sessions of pytest of their own."""
    monkeypatch.delenv("USERNSCTL_MUST_WORK", raising=False)
    options = "-p no:cacheprovider -p no:hypothesispytest --strict-markers -ra"
    pytester.makeini(f"[pytest]\naddopts = {options}\nfilterwarnings = error\n")
    return pytester


def must_work() -> frozenset[str]:
    words = frozenset(word for word in os.environ.get(MUST_WORK, "").split(",") if word)
    if unknown := sorted(words - PROBES.keys()):
        known = ", ".join(PROBES)
        raise pytest.UsageError(f"{MUST_WORK}: unknown: {', '.join(unknown)}; known: {known}")
    return words


def pytest_configure(config: pytest.Config) -> None:
    must_work()
    # A process that outlives its parent becomes our child, so that `nothing_left` sees it.
    prctl.set_child_subreaper(True)


@cache
def objection(word: str) -> str | None:
    """Why this machine can't do `word`, found out once by really doing it; None if it can."""
    command = PROBES[word]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return f"{word}: {failure}"
    if done.returncode == 0:
        return None
    return f"{word}: {' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}"


def need(word: str) -> None:
    """Skip the test if this machine can't do `word`; fail it if it must be able to."""
    if reason := objection(word):
        if word in must_work():
            pytest.fail(f"{MUST_WORK} has {word}, but {reason}", pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def needs_userns() -> None:
    """Namespaces can be made, and one's own id mapped."""
    need("userns")


@pytest.fixture
def needs_subid() -> None:
    """The user has subordinate ranges, and newuidmap and newgidmap can map them."""
    need("subid")


@pytest.fixture
def needs_runsc() -> None:
    """Programs can be run in gVisor."""
    need("runsc")


@pytest.fixture
def needs_docker() -> None:
    """A Docker daemon answers."""
    need("docker")


@pytest.fixture(autouse=True)
def directory_needs(request: pytest.FixtureRequest) -> None:
    """What all tests of a directory need."""
    directory = request.path.relative_to(TESTS).parts[0]
    for fixture in DIRECTORY_NEEDS.get(directory, []):
        request.getfixturevalue(fixture)


def open_descriptors() -> set[str]:
    """Our descriptors and what they refer to, without the one that lists them."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} -> {entry.readlink()}")
        except FileNotFoundError:
            continue
    return found


def mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def children() -> dict[int, str]:
    """Our children by process id, each with its command's name, and whether it is a zombie."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, fields = text.split("(", 1)[1].rsplit(") ", 1)
        state, parent = fields.split()[:2]
        if int(parent) == os.getpid():
            # Between running and sleeping it goes to and fro.
            found[int(stat.parent.name)] = f"{name} (zombie)" if state == "Z" else name
    return found


def reap(pid: int) -> bool:
    """Collect a child that has come to its end, or does within EXIT_SECONDS; else kill it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ended, _, _ = select.select([pidfd], [], [], EXIT_SECONDS)
        if not ended:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        return bool(ended)
    finally:
        os.close(pidfd)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves a process, a descriptor or a mount behind."""
    left: dict[str, Callable[[], set[str]]] = {"descriptors": open_descriptors, "mounts": mounts}
    before = {what: look() for what, look in left.items()}
    old_children = children()
    yield
    alive = {pid: who for pid, who in children().items() if pid not in old_children}
    alive = {pid: who for pid, who in alive.items() if not reap(pid)}
    extra = {what: look() - before[what] for what, look in left.items()}
    assert not alive, "the test left processes behind"
    for what, found in extra.items():
        assert not found, f"the test left {what} behind"
