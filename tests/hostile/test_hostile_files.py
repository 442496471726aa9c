"""Attacks by programs in a sandbox on the copying of files into the sandbox and out of it."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import settled_descriptors
from tally import Tally

import usernsctl as un

pytestmark = pytest.mark.userns_requires("runsc")

PATIENCE = 20
PYTHON = ["/usr/bin/python3", "-c"]

# First lines of each attacker's program, which prints "begun" before its first attack.
PRELUDE = """
import os, signal, struct, sys, time

os.chdir("/tmp")

def quietly(call, *arguments):
    try:
        return call(*arguments)
    except OSError:
        return None

def copiers():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = open(f"/proc/{name}/cmdline", "rb").read().split(b"\\0")
            except OSError:
                continue
            if words[:2] == [b"/.usernsctl-agent", b"--files"]:
                yield int(name)

def record(kind, mode=0, text=b"", length=0):
    return struct.pack("<IIIIqQ", kind, mode, len(text), 0, 0, length) + text
"""

# Shell commands that create /tmp/t, which the tests copy, and /tmp/other/file, whose content must
# not get into the copies.
SCENE = "mkdir -p /tmp/t/sub /tmp/other; echo secret >/tmp/other/file; echo usual >/tmp/t/sub/file"

# Attacker that replaces a directory with a symbolic link, and a file with a link, a FIFO, a
# directory and a large file.
SWAP = """
print("begun", flush=True)
while True:
    quietly(os.rename, "t/sub", "away")
    quietly(os.symlink, "../other", "t/sub")
    quietly(os.unlink, "t/sub")
    quietly(os.rename, "away", "t/sub")
    for replace in (
        lambda: os.mkfifo("t/sub/file"),
        lambda: os.symlink("../../other/file", "t/sub/file"),
        lambda: os.symlink("/dev/zero", "t/sub/file"),
        lambda: os.mkdir("t/sub/file"),
        lambda: open("t/sub/file", "w").write("usual" * 50_000),
    ):
        quietly(os.unlink, "t/sub/file")
        quietly(os.rmdir, "t/sub/file")
        quietly(replace)
"""

# Attacker that appends to a file as fast as possible, up to 256 MiB.
GROW = """
with open("t/growing", "wb", buffering=0) as file:
    file.write(b"x" * 65536)
    print("begun", flush=True)
    while file.tell() < 256 << 20:
        file.write(b"x" * 65536)
    time.sleep(1000)
"""

# Attacker that moves away each directory of a copy as soon as the directory exists, and puts a link
# in its place.
REDIRECT = """
print("begun", flush=True)
number = 0
while True:
    for name in ("in/sub", "in"):
        if quietly(os.rename, name, f"moved{number}") is None and os.path.lexists(f"moved{number}"):
            quietly(os.symlink, "/tmp/other", name)
            number += 1
            time.sleep(0.0005)
            quietly(os.unlink, name)
    quietly(os.symlink, "/tmp/other", "in/sub")
"""

# Attacker that sends a signal to every program that copies files.
SIGNAL = """
number = int(sys.argv[1])
print("begun", flush=True)
while True:
    for pid in copiers():
        quietly(os.kill, pid, number)
"""

# Attacker that writes forged records into the output of every program that copies files.
IMITATE = """
lies = [
    record(1, 0o755, b"..") + record(2, 0o6777, b"evil") + record(5, 0, b"x"),
    record(2, 0o6777, b"../../evil") + record(5, 0, b"x") + record(6),
    record(2, 0o6777, b"/tmp/evil") + record(5, 0, b"x") + record(6),
    record(3, 0, b"out/etc/passwd", 3) + record(2, 0o644, b"out") + record(5, 0, b"x") + record(6),
    record(3, 0, b"up../../canary", 2) + record(1, 0o755, b"up") + record(2, 0o644, b"evil"),
    record(3, 0, b"sub../canary", 3),
    record(4, 0o20666, b"device"),
    record(6) * 5,
    record(5, 0, b"x" * 1000),
    record(7, 5, b"../" * 20),
    record(8),
    os.urandom(64),
]
print("begun", flush=True)
while True:
    for pid in copiers():
        try:
            output = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            continue
        with open(output, "wb", buffering=0) as file:
            for lie in lies:
                quietly(file.write, lie)
        lies.append(lies.pop(0))
"""

MANY = """
os.mkdir("many")
for number in range(int(sys.argv[1])):
    open(f"many/{number}", "w").close()
print("begun", flush=True)
"""

DEEP = """
os.mkdir("deep")
os.chdir("deep")
for _ in range(int(sys.argv[1])):
    os.mkdir("d" * 255)
    os.chdir("d" * 255)
print("begun", flush=True)
"""


@pytest.fixture
def box(host: un.SandboxHost) -> Iterator[un.Sandbox]:
    with host.start(None) as made:
        made.run(["sh", "-c", SCENE], check=True)
        yield made


@contextlib.contextmanager
def attacker(box: un.Sandbox, code: str, *args: str) -> Iterator[None]:
    """Run the program `code` in the sandbox during the ``with`` block."""
    with box.popen([*PYTHON, PRELUDE + code, *args], stdout=un.PIPE, stderr=un.STDOUT) as process:
        assert process.stdout.readline() == b"begun\n", process.stdout.read()
        yield
        assert process.poll() is None, process.stdout.read()
        process.kill_tree()


class Outside:
    """Host directory for a copy. The file and the directory beside the copy must not change."""

    def __init__(self, tmp_path: Path) -> None:
        self.place = tmp_path / "place"
        self.place.mkdir()
        (self.place / "canary").mkdir()
        (self.place / "canary" / "file").write_text("canary")
        self.copy = self.place / "copy"

    def check(self, tally: Tally) -> None:
        """Check the copy and the files beside it; remove the copy."""
        around = sorted(os.listdir(self.place))
        if around not in (["canary"], ["canary", "copy"]):
            tally.succeeded(f"files beside the copy: {around}")
        if os.listdir(self.place / "canary") != ["file"]:
            tally.succeeded("a file in another directory")
        if (self.place / "canary" / "file").read_text() != "canary":
            tally.succeeded("another file was changed")
        if os.path.lexists("/tmp/evil"):
            tally.succeeded("a file in /tmp")
        for path in [self.copy, *self.copy.rglob("*")]:
            if os.path.lexists(path):
                self._check_file(tally, path)
        if os.path.lexists(self.copy):
            self._remove()

    def _check_file(self, tally: Tally, path: Path) -> None:
        status = path.lstat()
        if status.st_mode & 0o7000:
            tally.succeeded(f"{path} has the mode {status.st_mode:o}")
        if stat.S_ISLNK(status.st_mode):
            if not path.resolve().is_relative_to(self.copy):
                tally.succeeded(f"{path} leads to {path.resolve()}")
        elif stat.S_ISREG(status.st_mode):
            if b"secret" in path.read_bytes():
                tally.succeeded(f"{path} is a file that was not in the tree")
        elif not stat.S_ISDIR(status.st_mode):
            tally.succeeded(f"{path} has the mode {status.st_mode:o}")

    def _remove(self) -> None:
        import shutil

        if self.copy.is_dir() and not self.copy.is_symlink():
            shutil.rmtree(self.copy)
        else:
            self.copy.unlink()


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path)


def attempt(tally: Tally, call: Callable[[], object]) -> None:
    """Check that a call returns, or raises a SandboxFileError, within PATIENCE seconds.

    The error must name a path, and say whether the path is inside or outside the sandbox.
    """
    begin = time.monotonic()
    tally.tried()
    try:
        call()
    except un.SandboxFileError as error:
        if error.step not in ("inside", "outside") or not error.filename:
            tally.succeeded(f"an error without a side or a path: {error!r}")
    except un.UsernsError as error:
        tally.succeeded(f"another error: {error!r}")
    if time.monotonic() - begin > PATIENCE:
        tally.succeeded(f"a call took {time.monotonic() - begin} seconds")


def test_files_swapped_during_a_copy_lead_nowhere(
    box: un.Sandbox, outside: Outside, tally: Tally
) -> None:
    with attacker(box, SWAP):
        for _ in range(tally.rounds(10, 1000)):
            attempt(tally, lambda: box.get("/tmp/t", outside.copy, max_bytes=1 << 20, timeout=15))
            outside.check(tally)
            attempt(tally, lambda: box.read_file("/tmp/t/sub/file", max_bytes=1 << 20, timeout=15))
            attempt(tally, lambda: box.list_dir("/tmp/t/sub", timeout=15))


def test_a_file_that_grows_during_a_copy_has_an_end(
    box: un.Sandbox, outside: Outside, tally: Tally
) -> None:
    for _ in range(tally.rounds(2, 20)):
        with attacker(box, GROW):
            tally.tried()
            report = box.get("/tmp/t", outside.copy, timeout=PATIENCE)
            size = (outside.copy / "growing").stat().st_size
            if size > 256 << 20 or report.bytes < size:
                tally.succeeded(f"the file has {size} bytes")
            outside.check(tally)


@pytest.mark.parametrize("merge", [False, True])
def test_links_made_during_a_copy_do_not_leave_the_directory(
    box: un.Sandbox, tmp_path: Path, tally: Tally, merge: bool
) -> None:
    (tmp_path / "in" / "sub" / "sub").mkdir(parents=True)
    for directory in ("in", "in/sub", "in/sub/sub"):
        for number in range(20):
            (tmp_path / directory / f"put{number}").write_text("x")
    with attacker(box, REDIRECT):
        for _ in range(tally.rounds(5, 1000)):
            attempt(tally, lambda: box.put(tmp_path / "in", "/tmp/in", merge=merge, timeout=15))
            box.run(["rm", "-rf", "/tmp/in"])
    # If the attacker replaces /tmp/in itself with a link, put() may follow the link. put() must
    # follow no link below /tmp/in.
    found = box.check_output(["find", "/tmp/other", "-path", "*put*"], text=True)
    if found:
        tally.succeeded(found)


@pytest.mark.parametrize("number", [9, 19, 15])
@pytest.mark.sampled(1)
def test_signals_to_the_copying_program_give_one_error(
    box: un.Sandbox, outside: Outside, tally: Tally, number: int
) -> None:
    box.write_file("/tmp/t/large", b"x" * (4 << 20))
    before = settled_descriptors()
    timeout = 1 if number == 19 else 15
    with attacker(box, SIGNAL, str(number)):
        for _ in range(tally.rounds(1, 50)):
            attempt(tally, lambda: box.get("/tmp/t", outside.copy, timeout=timeout))
            outside.check(tally)
            attempt(tally, lambda: box.put(outside.place, "/tmp/new", merge=True, timeout=timeout))
            attempt(tally, lambda: box.write_file("/tmp/x", b"x" * (1 << 20), timeout=timeout))
            attempt(tally, lambda: box.read_file("/tmp/t/large", timeout=timeout))
    if (left := settled_descriptors() - before) and len(left) > 1:
        tally.succeeded(f"open descriptors: {left}")
    # Check that the sandbox still works after the failed copies.
    assert box.read_file("/tmp/other/file") == b"secret\n"


def test_a_false_copying_program_writes_only_to_the_copy(
    box: un.Sandbox, outside: Outside, tally: Tally
) -> None:
    box.write_file("/tmp/t/large", b"x" * (1 << 20))
    with attacker(box, IMITATE), attacker(box, IMITATE):
        for _ in range(tally.rounds(10, 1000)):
            attempt(tally, lambda: box.get("/tmp/t", outside.copy, max_bytes=4 << 20, timeout=15))
            outside.check(tally)
            attempt(tally, lambda: box.read_file("/tmp/t/large", timeout=15))
            attempt(tally, lambda: box.list_dir("/tmp/t", timeout=15))


def test_files_in_proc_and_dev_neither_block_nor_fill_the_disk(
    box: un.Sandbox, outside: Outside, tally: Tally
) -> None:
    for path in ("/dev/zero", "/dev/urandom", "/dev/tty", "/proc/self/mem", "/proc/kmsg"):
        attempt(tally, lambda path=path: box.read_file(path, timeout=15))
        attempt(tally, lambda path=path: box.get(path, outside.copy, timeout=15))
        outside.check(tally)
    for path in ("/proc", "/dev", "/sys"):
        attempt(tally, lambda path=path: box.get(path, outside.copy, max_bytes=1 << 20, timeout=15))
        outside.check(tally)


def test_many_and_deep_files_are_limited(box: un.Sandbox, outside: Outside, tally: Tally) -> None:
    count = tally.rounds(1_000, 100_001)
    box.run([*PYTHON, PRELUDE + MANY, str(count)], check=True, stdout=un.DEVNULL)
    box.run([*PYTHON, PRELUDE + DEEP, "3000"], check=True, stdout=un.DEVNULL)
    for call in (
        lambda: box.get("/tmp/many", outside.copy, max_files=count),
        lambda: box.list_dir("/tmp/many", max_entries=count - 1),
        lambda: box.get("/tmp/deep", outside.copy),
    ):
        tally.tried()
        with pytest.raises(un.SandboxFileError):
            call()
        if outside.copy.exists():
            tally.succeeded("a partial copy")
        outside.check(tally)
    assert box.get("/tmp/many", outside.copy, max_files=count + 1).files == count
    assert len(box.list_dir("/tmp/many", max_entries=count)) == count
