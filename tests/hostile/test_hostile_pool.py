"""Attacks on a pool: an earlier lease attacks later leases, and a signal kills the pool's owner."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from callers import MAP_OF_SEVERAL, several_ids
from conftest import EXIT_SECONDS, children, files_below, left_children
from tally import Tally

import usernsctl as un

pytestmark = pytest.mark.usefixtures("runtime")

# Maximum delay of the kill after the fork, in seconds.
HOST_SECONDS = 0.4
# Maximum delay of the kill after the creation of the pool, in seconds.
POOL_SECONDS = 1.5


def use_pool(told: int) -> None:
    """Acquire sandboxes, run commands in them and release them, in an endless loop."""
    uses = 1 + os.getpid() % 2
    with un.SandboxHost() as host, host.pool(2, max_uses=uses, idle_timeout=0.3) as pool:
        os.write(told, b"+")
        for number in range(1 << 30):
            with pool.acquire() as box:
                box.run(["true"])
                with box.popen(["sh", "-c", "setsid sleep 1000 & sleep 1000"]) as command:
                    if number % 2:
                        time.sleep(0.02)
                    command.kill_tree()


def kill_at_random(moments: random.Random) -> None:
    """Fork a child that uses a pool; kill the child after a random delay."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            use_pool(theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        if moments.random() < 0.2:
            time.sleep(moments.uniform(0, HOST_SECONDS))
        else:
            assert os.read(ours, 1) == b"+"
            time.sleep(moments.uniform(0, POOL_SECONDS))
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    finally:
        os.close(ours)


def test_a_pool_ends_with_its_creator(
    tally: Tally,
    runtime: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    # Use a SandboxHost before the test lists files, because the first use leaves files behind.
    un.SandboxHost().close()
    before, kept = set(children()), files_below(runtime)
    for _ in range(tally.rounds(3, 200)):
        kill_at_random(moments)
        tally.tried()
        if found := left_children(before, EXIT_SECONDS):
            tally.succeeded(f"processes: {found}")
        if more := files_below(runtime) - kept:
            tally.succeeded(f"files: {more}")
        if stay := list(temporary.iterdir()):
            tally.succeeded(f"temporary files: {stay}")


# Program that sets Yama's ptrace_scope in gVisor to 0, so that the user may trace all of the user's
# processes, and then prints each process of the sandbox that can be traced.
TAKING = """
import ctypes, os

libc, own = ctypes.CDLL(None), os.getpid()

def set_scope(value):
    with open("/proc/sys/kernel/yama/ptrace_scope", "w") as scope:
        scope.write(value)

set_scope("0")
print("ready")
for pid in [name for name in os.listdir("/proc") if name.isdigit() and int(name) != own]:
    if libc.ptrace(0x4206, int(pid), None, None) == 0:
        print(pid, open(f"/proc/{pid}/cmdline").read())
# If ptrace_scope stayed 0, the pool would close the sandbox.
set_scope("1")
"""


@pytest.mark.userns_requires("runsc")
@pytest.mark.parametrize("idmap", [(), pytest.param((MAP_OF_SEVERAL,), marks=several_ids)])
def test_process_1_of_a_leased_sandbox_can_not_be_taken_over(
    idmap: tuple[un.IdMap], tally: Tally
) -> None:
    """Check that the sandbox's user can't trace PID 1, which survives the lease."""
    with un.SandboxHost(*idmap) as host, host.pool(1, limit=1, max_uses=2) as pool:
        with pool.acquire(EXIT_SECONDS) as one:
            output = one.check_output(["/usr/bin/python3", "-c", TAKING], text=True).splitlines()
            assert output[0] == "ready"
            tally.tried()
            for line in output[1:]:
                tally.succeeded(line)
        with pool.acquire(EXIT_SECONDS) as again:
            assert again is one
            again.run(["true"], check=True)


# Program that creates the object that its argument names. The object outlives the program. The
# program then prints all such objects, and the writable settings in /proc/sys. Without an argument,
# the program only prints.
LEAVING = """
import ctypes, os, socket, struct, sys

libc, rt = ctypes.CDLL(None), ctypes.CDLL("librt.so.1")
KEY, CREATE, READ_WRITE = 0x7573, 0o1000, 0o600
USER, MOUNT = 0x10000000, 0x00020000
NEW_LINK, REQUEST, ACKNOWLEDGE, MAKE = 16, 1, 4, 0x600
NAME, INFO, KIND = 3, 18, 1

def set_value(path, value):
    with open(path, "w") as file:
        file.write(value)

def mount_proc(where):
    assert libc.unshare(USER | MOUNT) == 0
    assert libc.mount(b"none", where, b"proc", 0, None) == 0

def attribute(number, content):
    return struct.pack("=HH", 4 + len(content), number) + content + bytes(-len(content) % 4)

def make_interface():
    assert libc.unshare(USER) == 0
    kind = attribute(INFO, attribute(KIND, b"veth"))
    body = struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0) + attribute(NAME, b"veth9") + kind
    head = struct.pack("=IHHII", 16 + len(body), NEW_LINK, REQUEST | ACKNOWLEDGE | MAKE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.send(head + body)
        assert struct.unpack_from("=i", kernel.recv(4096), 16)[0] == 0

def open_shared(number):
    os.close(rt.shm_open(b"/secret%d" % number, os.O_CREAT | os.O_RDWR, READ_WRITE))

def leave(name):
    if name == "shared memory":
        assert libc.shmget(KEY, 4096, CREATE | READ_WRITE) >= 0
    elif name == "semaphores":
        assert libc.semget(KEY, 3, CREATE | READ_WRITE) >= 0
    elif name == "message queue":
        assert libc.msgget(KEY, CREATE | READ_WRITE) >= 0
    elif name == "POSIX message queue":
        assert rt.mq_open(b"/secret", os.O_CREAT | os.O_RDWR, READ_WRITE, None) >= 0
    elif name == "POSIX shared memory":
        open_shared(0)
    elif name == "much POSIX shared memory":
        for number in range(5000):
            open_shared(number)
    elif name == "interface":
        make_interface()
    elif name == "setting of another /proc":
        mount_proc(b"/tmp")
        set_value("/tmp/sys/net/ipv4/tcp_sack", "0")
    else:
        set_value(*name.split("="))

def found():
    if libc.shmget(KEY, 0, 0) >= 0:
        yield "shared memory"
    if libc.semget(KEY, 0, 0) >= 0:
        yield "semaphores"
    if libc.msgget(KEY, 0) >= 0:
        yield "message queue"
    if rt.mq_open(b"/secret", os.O_RDWR) >= 0:
        yield "POSIX message queue"
    yield from (name for _, name in socket.if_nameindex())
    yield from os.listdir("/dev/shm")
    # Read the settings in a new mount of /proc, which has cached no settings.
    mount_proc(b"/proc")
    for where, _, names in os.walk("/proc/sys"):
        for path in [f"{where}/{name}" for name in names]:
            if os.stat(path).st_mode & 0o222:
                yield f"{path}={open(path).read()}"

if len(sys.argv) > 1:
    # Create the object in a child, because leave() may enter a new user namespace.
    pid = os.fork()
    if pid == 0:
        leave(sys.argv[1])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print(sorted(found()))
"""
# Objects that the kernel removes together with the last process of their namespace.
OF_NAMESPACES = [
    *("shared memory", "semaphores", "message queue", "POSIX message queue", "interface"),
]
OF_KERNEL = [
    "/proc/sys/kernel/yama/ptrace_scope=0",
    "/proc/sys/net/ipv4/tcp_rmem=4096 8192 16384",
    "/proc/sys/net/ipv4/ip_local_port_range=60000 60001",
    *("setting of another /proc", "POSIX shared memory", "much POSIX shared memory"),
]


def leave_and_look(box: un.Sandbox, *left: str) -> str:
    command = ["/usr/bin/python3", "-c", LEAVING, *left]
    return str(box.check_output(command, text=True, timeout=EXIT_SECONDS))


@pytest.mark.userns_requires("runsc")
@pytest.mark.parametrize("left", [*OF_NAMESPACES, *OF_KERNEL])
@pytest.mark.parametrize("idmap", [(), pytest.param((MAP_OF_SEVERAL,), marks=several_ids)])
@pytest.mark.sampled(2)
def test_only_files_remain_for_the_next_lease(
    idmap: tuple[un.IdMap], left: str, tally: Tally
) -> None:
    with un.SandboxHost(*idmap) as host, host.pool(1, limit=1, max_uses=4) as pool:
        with pool.acquire(EXIT_SECONDS) as box:
            fresh = leave_and_look(box)
        used = set()
        # Take three leases, because the first lease of a sandbox uses another agent than the later
        # leases.
        for _ in range(3):
            with pool.acquire(EXIT_SECONDS) as box:
                used.add(box.id)
                tally.tried()
                if (seen := leave_and_look(box)) != fresh:
                    tally.succeeded(seen)
                assert leave_and_look(box, left) != fresh
        assert len(used) == (1 if left in OF_NAMESPACES else 3)
