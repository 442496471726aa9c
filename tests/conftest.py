"""What every test can ask for: the installed commands, and that nothing is left behind.

What the tests of a directory require of the machine is said by usernsctl's own pytest plugin, which
skips them, with the reason, where it is lacking (docs/pytest.md).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import prctl
import pytest

import usernsctl as un

pytest_plugins = ["pytester", "score", "strangers", "tally"]

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("usernsctl", deadline=None)
hypothesis.settings.load_profile("usernsctl")

TESTS = Path(__file__).parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
# How long a process may take to go once its test is over.
EXIT_SECONDS = 10
# Children that were cloned without SIGCHLD, too (wait(2)).
WALL = 0x40000000

# What all tests of a directory require; these must also leave nothing behind.
REQUIRED = {
    "environments": ["userns", "runsc"],
    "faults": ["userns"],
    "hostile": ["userns"],
    "kernel": ["userns"],
    "runsc": ["userns", "runsc"],
}
# Directories whose tests are the same whoever runs them, but for those with the mark each_user.
FOR_ANYBODY = {"fuzz", "unit"}
# Directories whose tests don't mind others beside them.
PARALLEL = {"environments", "fuzz", "kernel", "runsc", "unit"}


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


@pytest.fixture(scope="module")
def host() -> Iterator[un.SandboxHost]:
    """One with this machine's programs, for all tests of a file."""
    with un.SandboxHost() as made:
        yield made


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has usernsctl take a script for runsc."""

    def use(script: str) -> None:
        fake = tmp_path / "runsc"
        fake.write_text(script)
        fake.chmod(0o755)
        monkeypatch.setenv("USERNSCTL_RUNSC", str(fake))

    return use


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for sessions of pytest of their own."""
    monkeypatch.delenv("USERNSCTL_MUST_WORK", raising=False)
    options = "-p no:cacheprovider -p no:hypothesispytest --strict-markers -ra"
    pytester.makeini(f"[pytest]\naddopts = {options}\nfilterwarnings = error\n")
    return pytester


def pytest_configure(config: pytest.Config) -> None:
    # That of a timer which a test has stopped may come a little later, by way of another thread.
    signal.signal(signal.SIGALRM, lambda *_: None)
    if not is_controller(config):
        # A process that outlives its parent becomes our child, so that `nothing_left` sees it.
        prctl.set_child_subreaper(True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Say that all tests were run: for a test that executes a program in place of pytest, none are.

    `$USERNSCTL_SESSION_ENDED` names the file for that (tools/to-the-end).
    """
    file = os.environ.get("USERNSCTL_SESSION_ENDED")
    if file and not hasattr(session.config, "workerinput"):
        Path(file).touch()


def is_controller(config: pytest.Config) -> bool:
    """Whether this process runs no tests, but starts the workers of pytest-xdist that do.

    What a worker leaves is found in the worker.
    """
    return not hasattr(config, "workerinput") and bool(getattr(config.option, "numprocesses", None))


def pytest_userns_needs() -> dict[str, Callable[[], str | None]]:
    return {"strace": try_strace, "valgrind": try_valgrind}


def try_strace() -> str | None:
    """Why strace(1) can't be used, to make system calls fail, or ``None`` if it can."""
    try:
        done = subprocess.run(
            ["strace", "-o", os.devnull, "true"], capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else None


def try_valgrind() -> str | None:
    """Why valgrind(1) can't be used, to count instructions, or ``None`` if it can."""
    try:
        done = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else None


def directory_of(path: Path) -> str:
    return path.relative_to(TESTS).parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        directory = directory_of(item.path)
        if words := REQUIRED.get(directory):
            item.add_marker(pytest.mark.userns_requires(*words))
        if directory in PARALLEL:
            item.add_marker(pytest.mark.parallel)
        if directory not in FOR_ANYBODY:
            item.add_marker(pytest.mark.each_user)


def pytest_collection_finish() -> None:
    # The tests themselves stay: a look for what they leave need not go through them each time.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def cleanliness(request: pytest.FixtureRequest) -> None:
    if directory_of(request.path) in REQUIRED:
        request.getfixturevalue("nothing_left")


def open_descriptors() -> set[str]:
    """Our descriptors and what they refer to, without the one that lists them."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} -> {entry.readlink()}")
        except FileNotFoundError:
            continue
    return found


def settled_descriptors() -> set[str]:
    """The same, once what earlier tests have left to the garbage collector is gone.

    Otherwise it might go between two looks.
    """
    gc.collect()
    return open_descriptors()


def mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def files_below(directory: Path) -> set[str]:
    """The paths of all that is in there."""
    return {str(path) for path in directory.rglob("*")}


def are_any_children() -> bool:
    """Whether we have any, ended or not; it costs less than a look through /proc."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | WALL)
    except ChildProcessError:
        return False
    return True


def children() -> dict[int, str]:
    """Our children by process id, each with its command's name, and whether it is a zombie."""
    found: dict[int, str] = {}
    if not are_any_children():
        return found
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # Any process may give itself a name that is no UTF-8.
            text = stat.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, fields = text.split("(", 1)[1].rsplit(") ", 1)
        state, parent = fields.split()[:2]
        if int(parent) == os.getpid():
            # A live process changes between running and sleeping: report no state for it.
            found[int(stat.parent.name)] = f"{name} (zombie)" if state == "Z" else name
    return found


def end(pid: int) -> None:
    """Kill a child and collect it, if others let it end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + EXIT_SECONDS
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)


def left_children(before: Container[int], seconds: float) -> dict[int, str]:
    """Who has become our child and lives on after so many seconds; none, as a rule.

    Whoever has ended is collected, in any order: process 1 of a PID namespace comes to its end when
    all others in there were collected, and those may be ours.
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
    """Fails a test that leaves a process, a descriptor or a mount behind."""
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
