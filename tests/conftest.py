"""Fixtures for all tests, such as the installed commands and a check for leaks.

usernsctl's pytest plugin skips tests whose directory requires something that the host lacks
(docs/pytest.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import importlib.util
import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Container, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import networks
import prctl
import pytest
from callers import may_map_any_id
from processes import capture, check_output

import usernsctl as un

pytest_plugins = ["pytester", "sampling", "score", "strangers", "tally"]

# Hypothesis must not limit the time of an example or of generating its input: both depend on the
# load of the host.
hypothesis.settings.register_profile(
    "usernsctl", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("usernsctl")

TESTS = Path(__file__).parent
TREE = TESTS.parent
# Tests of the tools import the tools' modules from these directories.
sys.path += [str(TREE / "tools"), str(TREE / "tools" / "dist")]
SCRIPTS = Path(sysconfig.get_path("scripts"))
# `make ray` runs tests/on_ray in an environment with Ray.
collect_ignore: list[str] = [] if importlib.util.find_spec("ray") else ["on_ray"]
# Timeout in seconds for the exit of processes that a test leaves behind.
EXIT_SECONDS = 30

# Requirements of all tests in a directory, by the directory's name. `nothing_left` checks only the
# tests in these directories.
REQUIRED = {
    "clients": ["userns", "runsc"],
    "environments": ["userns", "runsc"],
    "faults": ["userns"],
    "hostile": ["userns"],
    "kernel": ["userns"],
    "on_ray": ["userns", "runsc"],
    "runsc": ["userns", "runsc"],
}
# Directories whose tests may run in parallel.
PARALLEL = {"environments", "fuzz", "kernel", "runsc", "unit"}
# Marks of tests that run as root or as a user without subordinate ranges. `make test` runs all
# other tests only as the user with subordinate ranges.
MARKS_OF_USERS = {"each_user", "also_root", "as_root"}
# Marks of tests that the current user can't run, with the reasons.
UNFIT = {}
if not may_map_any_id():
    UNFIT["as_root"] = "only root, outside of containers, may map any id"
if os.geteuid() == 0:
    UNFIT["unprivileged"] = "root may do it"


@dataclass(frozen=True)
class Program:
    """An installed command, run as users run it."""

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
        """Run the command for at most `timeout` seconds. `env` is its whole environment."""
        return capture(
            [self.path, *args], input=input, env=env, timeout=timeout, cwd=cwd, pass_fds=pass_fds
        )

    def check_output(self, *args: str | Path, **options: Any) -> str:
        """Run the command; check that it succeeds and prints no errors; return its output."""
        return check_output([self.path, *args], **options)


@pytest.fixture(scope="session")
def usernsctl() -> Program:
    """Return the command `usernsctl` of the environment that runs the tests."""
    return Program(SCRIPTS / "usernsctl")


@pytest.fixture(scope="session")
def prelude() -> Program:
    """Return the native command `usernsctl-exec` of the environment that runs the tests."""
    return Program(SCRIPTS / "usernsctl-exec")


@pytest.fixture(scope="module")
def host() -> Iterator[un.SandboxHost]:
    """Yield a SandboxHost that all tests of a file share; its sandboxes see the host's programs."""
    with un.SandboxHost() as made:
        yield made


@pytest.fixture(scope="module")
def box(host: un.SandboxHost) -> Iterator[un.Sandbox]:
    """Yield a sandbox, started without a command, that all tests of a file share."""
    with host.start(None) as box:
        # The first run() starts the agent. If the first test started it, the agent would count as a
        # leaked process.
        box.run(["true"], check=True)
        yield box


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[networks.World]:
    """Yield a virtual network (networks.py) that all tests of a file share."""
    with networks.world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def let_init_reap() -> Iterator[None]:
    """Reset PR_SET_CHILD_SUBREAPER for a test, so that PID 1 reaps orphans as usual."""
    prctl.set_child_subreaper(False)
    yield
    prctl.set_child_subreaper(True)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes usernsctl use a script in place of runsc."""

    def use(script: str) -> None:
        fake = tmp_path / "runsc"
        fake.write_text(script)
        fake.chmod(0o755)
        monkeypatch.setenv("USERNSCTL_RUNSC", str(fake))

    return use


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set $XDG_RUNTIME_DIR to the test's temporary directory; return the directory."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def detached_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the directory of detached sandboxes' records; then check that it is empty."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    directory = runtime / "usernsctl" / "sandboxes"
    yield directory
    left = sorted(os.listdir(directory)) if directory.exists() else []
    for id in left:
        un.Sandbox.attach(id).close()
    assert left == []


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Return a Pytester, which runs nested pytest sessions in a separate directory."""
    monkeypatch.delenv("USERNSCTL_MUST_WORK", raising=False)
    options = "-p no:cacheprovider -p no:hypothesispytest --strict-markers -ra"
    pytester.makeini(f"[pytest]\naddopts = {options}\nfilterwarnings = error\n")
    return pytester


RunTests = Callable[..., pytest.RunResult]


@pytest.fixture
def run_tests(session: pytest.Pytester) -> RunTests:
    """Return a function that runs test code in a nested session, with os and pytest imported."""

    def run(code: str, *options: str) -> pytest.RunResult:
        session.makepyfile(f"import os\nimport pytest\n\n{textwrap.dedent(code)}")
        return session.runpytest_subprocess(*options)

    return run


def pytest_configure(config: pytest.Config) -> None:
    # The kernel may deliver SIGALRM to another thread after a test has stopped its timer, so ignore
    # a late signal.
    signal.signal(signal.SIGALRM, lambda *_: None)
    if not is_controller(config):
        # As a child subreaper, this process becomes the parent of orphans, so `nothing_left` finds
        # them.
        prctl.set_child_subreaper(True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Create the file $USERNSCTL_SESSION_ENDED, whose existence tools/to-the-end checks.

    The exit status alone does not prove that all tests were run: a test could replace the pytest
    process by another program.
    """
    file = os.environ.get("USERNSCTL_SESSION_ENDED")
    if file and not hasattr(session.config, "workerinput"):
        Path(file).touch()


def is_controller(config: pytest.Config) -> bool:
    """Return whether this process is pytest-xdist's controller, which runs no tests.

    The controller need not check for leaks: each worker checks its own process.
    """
    return not hasattr(config, "workerinput") and bool(getattr(config.option, "numprocesses", None))


def pytest_userns_needs() -> dict[str, Callable[[], str | None]]:
    return {"strace": try_strace, "valgrind": try_valgrind}


def try_strace() -> str | None:
    """Return why strace(1) can't run, or None if it works."""
    try:
        done = capture(["strace", "-o", os.devnull, "true"])
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else None


def try_valgrind() -> str | None:
    """Return why valgrind(1) can't run, or None if it works."""
    try:
        done = capture(["valgrind", "--version"])
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else None


@functools.cache
def directory_of(path: Path) -> str:
    return path.relative_to(TESTS).parts[0]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the first worker of pytest-xdist collect the tests alone, before all other workers.

    The first worker compiles the tests, and all other workers read the compiled modules.
    """
    lock = os.open(TESTS, os.O_RDONLY)
    try:
        if "PYTEST_XDIST_WORKER" in os.environ:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_SH)
    try:
        return (yield)
    finally:
        os.close(lock)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip a directory or file if the mark expression deselects all of its tests.

    Each worker would need seconds to collect the deselected tests. tools/test-as passes the
    expression with -m.
    """
    if not str(collection_path).startswith(f"{TESTS}/"):
        return None
    expression = config.option.markexpr
    is_parallel = directory_of(collection_path) in PARALLEL
    if expression.endswith(" and not parallel" if is_parallel else " and parallel"):
        return True
    return True if lacks_marks(collection_path, expression) else None


def lacks_marks(path: Path, expression: str) -> bool:
    """Return whether a test file contains none of the marks in the first part of `expression`.

    The first part of "(also_root or as_root) and not thorough", for example, contains two marks. A
    file with either mark may contain tests that the expression selects.
    """
    marks = set(expression.partition(" and ")[0].strip("()").split(" or "))
    if path.suffix != ".py" or not marks <= MARKS_OF_USERS:
        return False
    text = path.read_text()
    return not any(mark in text for mark in marks)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        directory = directory_of(item.path)
        if words := REQUIRED.get(directory):
            item.add_marker(pytest.mark.userns_requires(*words))
        if directory in PARALLEL:
            item.add_marker(pytest.mark.parallel)
        for mark, reason in UNFIT.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    # The leak check often runs the garbage collector. Exclude all present objects, such as the
    # collected tests, which make each garbage collection slow.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def cleanliness(request: pytest.FixtureRequest) -> None:
    # A Ray cluster's processes and descriptors outlive a test, so tests/on_ray checks for leaks
    # itself.
    if directory_of(request.path) in REQUIRED.keys() - {"on_ray"}:
        request.getfixturevalue("nothing_left")


def open_descriptors() -> set[str]:
    """Return this process's open descriptors with their targets."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} -> {entry.readlink()}")
        except FileNotFoundError:
            continue
    return found


def settled_descriptors() -> set[str]:
    """Collect garbage, then return the open descriptors.

    Otherwise, the garbage collector could close descriptors of earlier tests between two calls
    whose results a test compares.
    """
    gc.collect()
    return open_descriptors()


def mounts() -> set[str]:
    """Return the lines of mountinfo, without mounts of tests that other xdist workers run."""
    own = os.environ.get("PYTEST_XDIST_WORKER", "")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line for line in lines if "/popen-gw" not in line or f"/popen-{own}/" in line}


def files_below(directory: Path) -> set[str]:
    """Return the paths of all files and directories below a directory."""
    return {str(path) for path in directory.rglob("*")}


def children() -> dict[int, str]:
    """Return the names of this process's children by pid; a zombie's name ends with " (zombie)"."""
    pids: list[str] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # The thread has exited.
            pids += (thread / "children").read_text().split()
    found = {}
    for pid in pids:
        try:
            # A process name may contain bytes that are not UTF-8, so replace them.
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, fields = text.split("(", 1)[1].rsplit(") ", 1)
        # A live child's state alternates between running and sleeping, so only a zombie's state is
        # added.
        found[int(pid)] = f"{name} (zombie)" if fields[0] == "Z" else name
    return found


def end(pid: int) -> None:
    """Kill a child; reap it if it exits within EXIT_SECONDS.

    The child may take longer if it is PID 1 of a PID namespace: all other processes there must be
    reaped first. Some of those may be this process's children (see :func:`left_children`).
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + EXIT_SECONDS
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)


def left_children(before: Container[int], seconds: float) -> dict[int, str]:
    """Reap exited children that are not in `before`; return those still alive after `seconds`.

    Children are reaped repeatedly and in any order. PID 1 of a PID namespace exits only when all
    other processes there have been reaped, and some of these may be this process's children, too.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = {pid: name for pid, name in children().items() if pid not in before}
        for pid, name in found.items():
            if name.endswith("(zombie)"):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(0.01)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Check that the test leaves no process, descriptor or mount behind."""
    left: dict[str, Callable[[], set[str]]] = {"descriptors": open_descriptors, "mounts": mounts}
    before = {what: look() for what, look in left.items()}
    old_children = children()
    yield
    alive = left_children(old_children, EXIT_SECONDS)
    for pid in alive:
        end(pid)
    extra = {what: look() - before[what] for what, look in left.items()}
    assert not alive, "the test left processes behind"
    for what, found in extra.items():
        assert not found, f"the test left {what} behind"
