"""Tests of sandbox limits.

Control groups enforce the limits of root's sandboxes, and a watcher those of other users'
sandboxes.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from callers import unprivileged
from conftest import Program
from frozen import freeze
from processes import capture, causes_in

import usernsctl as un
from usernsctl import gvisor

MIB = 1 << 20
PATIENCE = 60
# Number of bytes by which a sandbox's memory may exceed its limit before usernsctl kills it, while
# other tests delay the watcher. bench/limits.py measures the excess.
EXCESS = 128 * MIB

MEMORY_HOGS = {
    "heap": "held = []\nwhile True: held.append(b'x' * 10**6)",
    "mmap": "import mmap\nheld = []\nwhile True: held.append(mmap.mmap(-1, 1 << 22)); "
    "held[-1].write(b'x' * (1 << 22))",
    "memfds": "import os\nwhile True: os.write(os.memfd_create('x'), b'x' * 10**6)",
    "shm": "import os\nn = 0\nwhile True:\n n += 1\n"
    " open(f'/dev/shm/{n}', 'wb').write(b'x' * 10**6); held = bytearray(10**6)\n"
    " globals()[f'h{n}'] = held",
    "processes": "import os, time\nwhile True:\n if os.fork() == 0:\n  held = b'x' * 10**7\n"
    "  time.sleep(100)\n time.sleep(0.02)",
    "page tables": "import mmap\nf = mmap.mmap(-1, 4096)\nimport ctypes\n"
    "libc = ctypes.CDLL(None, use_errno=True)\nlibc.mmap.restype = ctypes.c_void_p\n"
    "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + "
    "[ctypes.c_long]\nimport os\nfd = os.memfd_create('x'); os.ftruncate(fd, 4096)\n"
    "a = 1 << 40\nwhile True:\n a += 1 << 21\n p = libc.mmap(a, 4096, 3, 0x11, fd, 0)\n"
    " ctypes.c_char.from_address(a).value = b'x'",
}

FORK_BOMBS = {
    "shell": ["sh", "-c", "b() { b | b & }; b; sleep 100"],
    "python": [
        "python3",
        "-c",
        "import os, time\nwhile True:\n if os.fork() == 0: time.sleep(100)",
    ],
    "threads": [
        "python3",
        "-c",
        "import threading, time\nwhile True:\n"
        " threading.Thread(target=time.sleep, args=[99]).start()",
    ],
}


def check_report(errors: str, cause: str) -> list[float]:
    """Check that standard error has one report, with `cause`; return the report's numbers."""
    assert causes_in(errors) == [cause]
    (told,) = re.findall("^usernsctl: the sandbox was ended: (.*)$", errors, re.MULTILINE)
    return [float(number) for number in re.findall("[0-9.]+", told)]


@pytest.mark.parametrize("hog", MEMORY_HOGS)
@pytest.mark.sampled(2)
def test_memory_limit_ends_a_memory_hog(hog: str, usernsctl: Program) -> None:
    limit = 128
    command = [usernsctl.path, "run", f"--memory={limit}M", "--", "python3", "-c", MEMORY_HOGS[hog]]
    done = capture(command, timeout=PATIENCE)
    assert done.returncode == 137
    used, told = check_report(done.stderr, "memory-limit")
    assert told == limit
    assert limit <= used <= limit + EXCESS // MIB


# Program that maps one host file repeatedly. The mappings share the file's pages, but not page
# tables.
MAPPINGS = (
    "import mmap, os\nfd = os.open('/data/file', os.O_RDONLY)\nheld = []\n"
    "while True:\n held.append(mmap.mmap(fd, 1 << 33, prot=mmap.PROT_READ))\n"
    " held[-1][:: 1 << 21]"
)


@unprivileged
def test_memory_limit_counts_page_tables_of_mapped_host_files(
    usernsctl: Program, tmp_path: Path
) -> None:
    """Check that the memory limit applies to the page tables of mapped host files.

    A program in the sandbox maps a host file repeatedly; Linux allocates page tables each time.
    """
    with open(tmp_path / "file", "wb") as file:
        file.truncate(1 << 33)
        for offset in range(0, 1 << 33, 1 << 21):
            os.pwrite(file.fileno(), b"x", offset)
    limit = 256
    options = ["run", f"--memory={limit}M", "--bind", f"{tmp_path}:/data"]
    done = capture([usernsctl.path, *options, "--", "python3", "-c", MAPPINGS], timeout=PATIENCE)
    assert done.returncode == 137
    used, told = check_report(done.stderr, "memory-limit")
    assert told == limit <= used <= limit + EXCESS // MIB


@pytest.mark.parametrize("bomb", ["shell", "python"])
def test_pids_limit_ends_a_fork_bomb(bomb: str, usernsctl: Program) -> None:
    command = [usernsctl.path, "run", "--pids=100", "--", *FORK_BOMBS[bomb]]
    done = capture(command, timeout=PATIENCE)
    assert done.returncode == 137
    assert check_report(done.stderr, "pids-limit") == [100, 100]


@pytest.mark.thorough
@pytest.mark.parametrize("detach", [None, False, True])
def test_too_many_threads_have_a_cause(
    detach: bool | None, usernsctl: Program, host: un.SandboxHost
) -> None:
    """Check the cause that is reported if gVisor's kernel crashes because of too many threads.

    The kernel crashes if one process starts more than 4,000 threads.
    """
    patience = 5 * PATIENCE
    if detach is None:
        command = [usernsctl.path, "run", "--", *FORK_BOMBS["threads"]]
        done = capture(command, timeout=patience)
        assert done.returncode == 125
        assert causes_in(done.stderr) == ["too-many-threads"]
        return
    with host.start(FORK_BOMBS["threads"], detach=detach, memory="2G") as box:
        with pytest.raises(un.RunscError, match="had more threads") as error:
            box.wait(patience)
        assert error.value.cause == "too-many-threads"
        assert box.result(patience).reason == "sandbox-ended"


# Program that fills a file, prints the number of bytes that fit, and removes the file.
FILL = (
    "import os, sys\nn = 0\n"
    "fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
    "try:\n while True: n += os.write(fd, b'x' * 65536)\n"
    "except OSError as error: print(error.errno, n)\nos.unlink(sys.argv[1])"
)


def check_fill(output: str, limit: int) -> None:
    errnum, size = map(int, output.split())
    assert errnum == errno.ENOSPC
    assert limit * 0.9 <= size <= limit


@pytest.mark.parametrize("path", ["/root/x", "/tmp/x"])
def test_disk_limit_fails_writes_with_enospc(path: str, usernsctl: Program) -> None:
    script = f'for i in 1 2; do python3 -c "$1" {path} || exit; done'
    command = [usernsctl.path, "run", "--disk=32M", "--", "sh", "-c", script, "sh", FILL]
    done = capture(command, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    for line in done.stdout.splitlines():
        check_fill(line, 32 * MIB)


def test_disk_limit_with_a_writable_bind_is_refused(usernsctl: Program, tmp_path: Path) -> None:
    options = ["run", "--disk=32M", "--bind", f"{tmp_path}:/data:rw"]
    done = capture([usernsctl.path, *options, "--", "true"], timeout=PATIENCE)
    assert done.returncode == 125
    assert "[limit-unenforceable]" in done.stderr
    options.append("--limits=best-effort")
    command = [usernsctl.path, *options, "--", "python3", "-c", FILL, "/root/x"]
    done = capture(command, timeout=PATIENCE)
    check_fill(done.stdout, 32 * MIB)


@pytest.mark.parametrize("detach", [False, True])
def test_disk_limit_applies_to_sandboxes_of_a_host(detach: bool, host: un.SandboxHost) -> None:
    with host.start(None, detach=detach, disk="8M", memory="200M") as box:
        for path in ("/root/x", "/tmp/x"):
            filled = box.run(["python3", "-c", FILL, path], capture_output=True, text=True)
            check_fill(filled.stdout, 8 * MIB)


def test_timeout_option_ends_the_run(usernsctl: Program) -> None:
    start = time.monotonic()
    command = [usernsctl.path, "run", "--timeout=1.5", "--", "sleep", "100"]
    done = capture(command, timeout=PATIENCE)
    assert done.returncode == 124
    used, limit = check_report(done.stderr, "timeout")
    assert limit == 1.5 <= used <= time.monotonic() - start


def test_program_within_its_limits_is_not_affected(usernsctl: Program) -> None:
    limits = ["--memory=128M", "--pids=60", "--cpus=1", "--timeout=1m"]
    script = "head -n 1 /proc/meminfo; nproc; exit 7"
    done = capture([usernsctl.path, "run", *limits, "--", "sh", "-c", script], timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == "MemTotal:         131072 kB\n1\n"


def test_limits_do_not_hide_a_signal_of_the_command(usernsctl: Program) -> None:
    command = [usernsctl.path, "run", "--pids=60", "--", "sh", "-c", "kill -SEGV $$"]
    done = capture(command, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (128 + signal.SIGSEGV, "")


def test_frozen_launches_enforce_limits(prelude: Program, tmp_path: Path) -> None:
    freeze(tmp_path / "launch", "--memory=256M", "--timeout=30")
    launch = [prelude.path, "--launch", tmp_path / "launch", "--"]
    done = capture([*launch, "head", "-n", "1", "/proc/meminfo"], timeout=PATIENCE)
    assert done.stdout == "MemTotal:         262144 kB\n"
    done = capture([*launch, "python3", "-c", MEMORY_HOGS["heap"]], timeout=PATIENCE)
    assert done.returncode == 137
    check_report(done.stderr, "memory-limit")


@unprivileged
def test_dry_run_names_the_mechanism_of_each_limit(usernsctl: Program) -> None:
    options = ["--dry-run", "--memory=128M", "--pids=60", "--cpus=1.5", "--limits=best-effort"]
    done = capture([usernsctl.path, "run", *options, "--", "true"], timeout=PATIENCE)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    start = lines.index("Limits, with the mechanism that enforces each:")
    assert lines[start + 1] == "  memory 128M: a watcher ends the sandbox"
    assert lines[start + 3] == "  cpus 1.5: not enforced"
    done = capture([usernsctl.path, "run", "--json", *options, "--", "true"], timeout=PATIENCE)
    shown = json.loads(done.stdout)
    assert shown["limits"]["memory"] == 128 * MIB
    assert [part["name"] for part in shown["enforced"]] == ["memory", "pids", "cpus"]


@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ("--memory=512", "memory-limit-too-low"),
        ("--memory=10TB", "limit-out-of-range"),
        ("--pids=9", "limit-out-of-range"),
        ("--cpus=4000", "limit-out-of-range"),
        pytest.param("--cpus=0.5", "limit-unenforceable", marks=unprivileged),
    ],
)
def test_unenforceable_limits_are_refused(option: str, cause: str, usernsctl: Program) -> None:
    done = capture([usernsctl.path, "run", option, "--", "echo", "x"], timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (125, "")
    assert causes_in(done.stderr) == [cause]


@pytest.mark.parametrize("option", ["--memory=1.5x", "--pids=-1", "--cpus=0", "--timeout=1e9"])
def test_malformed_limits_are_refused(option: str, usernsctl: Program) -> None:
    done = capture([usernsctl.path, "run", option, "--", "echo", "x"], timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (125, "")
    assert f"Error: {option.partition('=')[0]}: " in done.stderr


@pytest.fixture(scope="module")
def host() -> Iterator[un.SandboxHost]:
    with un.SandboxHost(memory="300M") as host:
        yield host


def test_limits_of_a_host_apply_to_its_sandboxes(host: un.SandboxHost) -> None:
    with host.start(None) as box:
        assert [(part.name, part.limit) for part in box.limits] == [("memory", 300 * MIB)]
        ended = box.run(["python3", "-c", MEMORY_HOGS["heap"]])
        # run() reports the limit although the kernel may first kill only the gVisor process that
        # runs the program. Then usernsctl kills the sandbox.
        assert ended.reason == "memory-limit"
        assert ended.returncode != 0
        with pytest.raises(un.RunscError, match=r"its limit is 300\.0 MiB") as error:
            box.wait(PATIENCE)
    assert error.value.cause == "memory-limit"


@pytest.mark.thorough
def test_start_may_replace_limits_of_the_host(host: un.SandboxHost) -> None:
    with host.start(None, memory="250M", pids=70) as box:
        limits = {part.name: part.limit for part in box.limits}
        assert limits == {"memory": 250 * MIB, "pids": 70}
        seen = box.run(["head", "-n", "1", "/proc/meminfo"], capture_output=True, text=True)
        assert seen.stdout == "MemTotal:         256000 kB\n"
        assert box.run(FORK_BOMBS["python"]).reason == "pids-limit"


@pytest.mark.thorough
def test_memory_limit_applies_after_every_restore(host: un.SandboxHost) -> None:
    # gVisor's kernel replaces its memfd during a restore. Restore often, because the watcher opens
    # the memfd sometimes before, and sometimes after that.
    with host.template() as template:
        for _ in range(12):
            with template.start() as box:
                ended = box.run(["python3", "-c", MEMORY_HOGS["heap"]], timeout=20)
                assert ended.reason == "memory-limit"


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.sampled(1)
def test_limits_apply_to_detached_sandboxes(attached: bool, host: un.SandboxHost) -> None:
    with ExitStack() as opened:
        box = opened.enter_context(host.start(None, detach=True, memory="100M", pids=70))
        other = opened.enter_context(un.Sandbox.attach(box.id)) if attached else box
        seen = other.run(["head", "-n", "1", "/proc/meminfo"], capture_output=True, text=True)
        assert seen.stdout == "MemTotal:         102400 kB\n"
        assert other.run(["python3", "-c", MEMORY_HOGS["heap"]]).reason == "memory-limit"
        with pytest.raises(un.RunscError, match=r"its limit is 100\.0 MiB"):
            other.wait(PATIENCE)
    with host.start(FORK_BOMBS["python"], detach=True, pids=70) as box:
        assert box.result(PATIENCE).reason == "pids-limit"


@pytest.mark.parametrize("name", ["memory", "pids", "cpus"])
def test_invalid_limits_raise(name: str, host: un.SandboxHost) -> None:
    for wrong in ("x", 0, -1):
        with pytest.raises(ValueError, match=f"^{name}: "):
            host.start(["true"], **{name: wrong})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"^{name}: "):
            un.SandboxHost(**{name: wrong})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"^{name} must be "):
        host.start(["true"], **{name: [1]})  # type: ignore[arg-type]


def test_gvisor_run_accepts_limits() -> None:
    done = gvisor.run(["nproc"], cpus=1, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "1\n"
    done = gvisor.run(FORK_BOMBS["python"], pids=80, timeout=PATIENCE)
    assert done.reason == "pids-limit"


def test_limit_of_one_sandbox_does_not_end_another(host: un.SandboxHost) -> None:
    """Check that each sandbox has its own limit, although the sandboxes share a user namespace."""
    with host.start(None, pids=60) as other, host.start(None, pids=60, memory="100M") as box:
        assert box.run(FORK_BOMBS["python"]).reason == "pids-limit"
        assert other.run(["true"]).returncode == 0
        assert other.poll() is None
