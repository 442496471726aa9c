"""Make each system call of each operation fail, one per run, and check for leftovers.

The injector runs this script: ``injector PYTHON matrix.py [OPTION...]``. The script prints one JSON
object per operation (:class:`Outcome`).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import fnmatch
import gc
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import errnos
import paths

import usernsctl as un

MARK = -4242
SECONDS = 60
GRACE_SECONDS = 30
# Operation of prctl(2) that makes this process the new parent of orphaned descendants.
PR_SET_CHILD_SUBREAPER = 36

# The values of enum order in injector.c.
ARM, DISARM, BEFORE, NR, WHO, HIT = range(6)
# The values of enum fault in injector.c.
NOTHING, ERROR, SHORTENED, SIGNAL, PAUSE, VICTIM = range(6)

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def order(what: int, *arguments: int) -> int:
    """Send the order `what` to the injector; return the injector's answer."""
    words = (MARK, what, *arguments, *(0 for _ in range(4 - len(arguments))))
    return int(libc.syscall(*(ctypes.c_long(word) for word in (3, *words))))


@dataclass(frozen=True)
class Fault:
    """An event that is injected into a system call.

    :ivar label: the event's name in the table.
    """

    kind: int
    value: int
    label: str

    @classmethod
    def error(cls, name: str) -> Fault:
        return cls(ERROR, getattr(errno, name), name)


SHORT = Fault(SHORTENED, 0, "short")
#: Signals to the process that makes the call. These signals don't kill a Python program: in Python,
#: SIGINT raises KeyboardInterrupt.
HARMLESS = (
    Fault(SIGNAL, signal.SIGCHLD, "SIGCHLD"),
    Fault(PAUSE, 0, "SIGSTOP, SIGCONT"),
    Fault(SIGNAL, signal.SIGINT, "SIGINT"),
)
DEADLY = (
    Fault(SIGNAL, signal.SIGTERM, "SIGTERM"),
    Fault(SIGNAL, signal.SIGKILL, "SIGKILL"),
)
CREATOR = Fault(VICTIM, 0, "creator killed")


INTERRUPTED = "KeyboardInterrupt"
NO_FAULT = Fault(NOTHING, 0, "")


@dataclass(frozen=True)
class Site:
    """A system call in a run: its number, and its position among the calls with that number."""

    number: int
    occurrence: int

    @property
    def call(self) -> str:
        return errnos.names().get(self.number, f"call {self.number}")

    def encoded(self) -> int:
        return self.number | self.occurrence << 32


NOWHERE = Site(0, 0)


@dataclass
class Outcome:
    """The results of one operation with all its faults."""

    path: str
    user: str
    sites: int = 0
    calls: int = 0
    pairs: int = 0
    tried: collections.Counter[str] = field(default_factory=collections.Counter)
    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    defects: list[str] = field(default_factory=list)


class Hung(BaseException):
    """An operation has not returned within SECONDS."""


def descriptors() -> set[str]:
    gc.collect()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
    return {one for one in found if "/proc/" not in one}


def children() -> set[str]:
    """Reap zombies; return this process's living children."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        for pid in Path(f"/proc/self/task/{task}/children").read_text().split():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/stat").read_text()
                if text.rpartition(")")[2].split()[0] == "Z":
                    os.waitpid(int(pid), os.WNOHANG)
                else:
                    found.add(text.partition(")")[0] + ")")
    return found


def unused(group: Path) -> bool:
    """Return whether a control group is empty and unlocked, as after its sandbox's exit."""
    try:
        descriptor = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return not (group / "cgroup.procs").read_text()
    except OSError:
        return False
    finally:
        os.close(descriptor)


@dataclass
class State:
    """Descriptors, children, mounts, files and unused control groups at one point in time.

    After a run, no item may exist that did not exist before the run.
    """

    descriptors: set[str]
    children: set[str]
    mounts: set[str]
    files: set[str]
    groups: set[str]

    @classmethod
    def now(cls, directory: Path) -> State:
        mounts = set(Path("/proc/self/mountinfo").read_text().splitlines())
        files = {str(path) for path in directory.rglob("*")}
        groups = {str(path) for path in Path("/sys/fs/cgroup").rglob("usernsctl-*") if unused(path)}
        return cls(descriptors(), children(), mounts, files, groups)

    def extra(self, before: State) -> dict[str, set[str]]:
        found = {
            one.name: getattr(self, one.name) - getattr(before, one.name)
            for one in dataclasses.fields(self)
        }
        return {name: more for name, more in found.items() if more}


def left_over(before: State, directory: Path) -> dict[str, set[str]]:
    """Wait up to GRACE_SECONDS until nothing is new since `before`; return what is still new."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (found := State.now(directory).extra(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Hung

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Matrix:
    """Runs of an operation (`path`), each with one fault."""

    def __init__(self, path: paths.FaultPath, user: str) -> None:
        self.path = path
        # Pid of a process whose calls are not counted. Special values: 0 to count all calls, and 1
        # to count only native programs' calls.
        self.excluded = 1 if path.native_only else 0
        self.outcome = Outcome(path.name, user)
        self.output = path.directory / "output"

    def run_once(self, site: Site, fault: Fault) -> str:
        """Run the operation with one fault; return the result."""
        self.path.prepare()
        with self.output.open("w+") as output, limited():
            end = self._end(output, site, fault)
            output.seek(0)
            ran = output.read()
        return self._judged(end, ran, fault)

    def _end(self, output: IO[str], site: Site, fault: Fault) -> str:
        value = os.getpid() if fault.kind == VICTIM else fault.value
        try:
            order(ARM, site.encoded(), fault.kind, value, self.excluded)
            try:
                self.path.run(output)
            finally:
                order(DISARM)
        except (paths.Refused, un.UsernsError) as error:
            self.error = repr(error)
            return "documented error"
        except un.CalledProcessError as error:
            is_signal = fault.kind in (SIGNAL, VICTIM)
            return (
                "documented error" if is_signal or error.returncode == 125 else f"defect: {error!r}"
            )
        except un.TimeoutExpired as error:
            return f"defect: {error!r}"
        except paths.Killed as error:
            is_signal = fault.kind == SIGNAL
            return "killed by the signal" if is_signal else f"defect: {error!r}"
        except KeyboardInterrupt:
            return INTERRUPTED
        except OSError as error:
            self.error = "".join(traceback.format_tb(error.__traceback__)[-3:])
            is_same = fault.kind == ERROR and error.errno == fault.value
            return "OSError of the call" if is_same else f"defect: {error!r}"
        except MemoryError:
            return "MemoryError"
        except Hung:
            return "defect: hangs"
        except Exception as error:
            self.error = "".join(traceback.format_tb(error.__traceback__)[-3:])
            return f"defect: {error!r}"
        return "success"

    def _judged(self, end: str, ran: str, fault: Fault) -> str:
        if end == "success":
            return end if ran == paths.RAN else f"defect: success, but the output is {ran!r}"
        is_early = self.path.starts_program and 0 < order(HIT) <= order(BEFORE)
        if ran and fault.kind in (ERROR, SHORTENED) and is_early:
            return f"defect: {end}, but the payload ran"
        return end

    def run_in_child(self, site: Site, fault: Fault) -> str:
        """Run the operation in a forked child, which the fault may kill; return the result."""
        pid = os.fork()
        if pid == 0:
            self._child(site, fault)
        deadline = time.monotonic() + 2 * SECONDS
        while not (waited := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return "defect: hangs"
            time.sleep(0.005)
        order(DISARM)
        if waited.si_code == os.CLD_KILLED:
            return f"killed by {signal.Signals(waited.si_status).name}"
        return {0: "success", 3: "documented error"}.get(waited.si_status, "defect: see stderr")

    def _child(self, site: Site, fault: Fault) -> None:
        status = 4
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            path = self.path
            if isinstance(path, paths.InHost | paths.InNamespace):
                path = type(path)(path.directory)
                path.set_up()
            path.prepare()
            self.path, self.excluded = path, os.getppid()
            with self.output.open("w+") as output:
                end = self._end(output, site, fault)
            status = {"success": 0, "documented error": 3}.get(end, 4)
            if status == 4:
                print(end, file=sys.stderr)
            path.tear_down()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def record(self) -> list[Site]:
        """Run the operation without a fault; return the sites of its system calls."""
        end = self.run_once(NOWHERE, NO_FAULT)
        self.path.settle()
        if end != "success":
            raise SystemExit(f"{self.path.name} fails without any fault: {end}")
        counted: collections.Counter[int] = collections.Counter()
        found = []
        for index in range(order(DISARM)):
            number = order(NR, index)
            counted[number] += 1
            found.append(Site(number, counted[number]))
        return found

    def faults(self, sites: list[Site]) -> Iterator[tuple[Site, Fault]]:
        """Yield each of `sites`, system calls of the operation, with each fault for this call."""
        for site in sites:
            call = site.call
            for name in errnos.errors_of(call):
                yield site, Fault.error(name)
            if call in errnos.SHORT:
                yield site, SHORT
            for fault in (*HARMLESS, *DEADLY):
                yield site, fault
            if not self.path.native_only:
                yield site, CREATOR

    def try_all(self, rounds: int) -> Outcome:
        """Try `rounds` random pairs of a site and a fault, or all pairs if `rounds` is 0."""
        self.path.set_up()
        try:
            for _ in range(2):
                self.record()  # Discard the sites: these runs also import modules and fill caches.
            sites = self.record()
            every = list(self.faults(sites))
            self.outcome.sites, self.outcome.pairs = len(sites), len(every)
            self.outcome.calls = len({site.number for site in sites})
            chosen = random.sample(every, min(rounds, len(every))) if rounds else every
            for done, (site, fault) in enumerate(chosen):
                self.try_one(site, fault)
                if not self.path.is_sandbox or done % 5 == 0:
                    self.expect_success(f"after {self.last}")
            self.expect_success("at the end")
        finally:
            self.path.tear_down()
        return self.outcome

    # Description of the last fault and of the error that the operation then raised.
    last = error = ""

    def try_one(self, site: Site, fault: Fault) -> None:
        self.error = ""
        self.path.prepare()
        before = State.now(self.path.directory)
        is_deadly = fault in DEADLY or fault.kind == VICTIM
        if is_deadly and not self.path.native_only:
            end = self.run_in_child(site, fault)
        else:
            end = self.run_once(site, fault)
        hit = order(HIT)
        if not hit:
            self.outcome.ends["not reached"] += 1
            return
        who = order(WHO, hit - 1).to_bytes(7, "little").rstrip(b"\0").decode()
        self.last = f"{who}: {site.call} {site.occurrence}: {fault.label}"
        if is_deadly or end in (INTERRUPTED, "killed by the signal"):
            with contextlib.suppress(un.UsernsError):
                self.path.clean()
        if is_deadly:
            self.path.remove_partial()
        self.path.settle()
        left = left_over(before, self.path.directory)
        if is_deadly and "files" in left:
            # A killed process may leave files behind. Check that the next run of the operation
            # removes them.
            self.expect_success(f"after {self.last}")
            left = left_over(before, self.path.directory)
        if left and not end.startswith("defect"):
            end = f"defect: {end}, and left {left}"
        self.note(fault, end)

    def note(self, fault: Fault, end: str) -> None:
        self.outcome.tried[fault.label] += 1
        if end.startswith("defect"):
            self.outcome.defects.append(f"{self.last}: {end} {self.error}")
            end = "defect"
        self.outcome.ends[end] += 1

    def expect_success(self, when: str) -> None:
        """Check that the operation succeeds when no fault is injected."""
        with contextlib.suppress(un.UsernsError):
            self.path.clean()
        end = self.run_once(NOWHERE, NO_FAULT)
        self.path.settle()
        if end != "success":
            self.outcome.defects.append(f"{when}: the next call: {end} {self.error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", action="append", help="a pattern of path names")
    parser.add_argument("--rounds", type=int, default=0, help="faults for each path; 0: all")
    parser.add_argument("--seed", default="0")
    given = parser.parse_args()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    user = "root" if os.geteuid() == 0 else "user"
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        for part in ("runtime", "work"):
            (top / part).mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(top / "runtime")
        tempfile.tempdir = os.environ["TMPDIR"] = str(top / "work")
        (top / "output").touch()
        for path in paths.every_path(top):
            if any(fnmatch.fnmatch(path.name, one) for one in given.path or ["*"]):
                random.seed(f"{given.seed} {path.name}")
                outcome = Matrix(path, user).try_all(given.rounds)
                print(json.dumps(vars(outcome)), flush=True)


if __name__ == "__main__":
    main()
