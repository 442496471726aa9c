"""Tests of Python services that start sandboxes in an unprivileged container."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import gvisor
import pytest
from tally import Tally

from docker.conftest import PRELUDE_PYTHON
from docker.engine import TREE, Engine
from docker.matrix import NO_NEW_PRIVILEGES, NONE_LEFT, SECCOMP
from docker.recipes import build_recipe

SERVICE = "usernsctl-test/service"
AT_ONCE = 20
PATIENCE = 60

LIMITS = ["--read-only", "--tmpfs=/tmp", "--pids-limit=1000", "--memory=2g"]
AS_USER = [NONE_LEFT, NO_NEW_PRIVILEGES, SECCOMP, *LIMITS]
# Keep Docker's default capabilities: mapping uid 0 needs CAP_SETFCAP (user_namespaces(7)).
AS_ROOT = ["--user=0", NO_NEW_PRIVILEGES, SECCOMP, *LIMITS]

# PID 1 of a container, which runs the service as its child. After the service's exit, PID 1 waits
# up to ten seconds until no other process is left. Then PID 1 prints how often it has looked for
# processes, the remaining processes, and the files in /tmp.
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
    """Build the service's image from docs/docker.md; return its name."""
    context = tmp_path_factory.mktemp("service")
    shutil.copy(TREE / "examples" / "snippet_server.py", context)
    build_recipe(
        plain, "docs/docker.md", "FROM prelude-python\nCOPY snippet_", context, image=SERVICE
    )
    return SERVICE


class Service:
    """A running container of the service.

    :ivar url: the service's URL in the host's network.
    """

    def __init__(self, engine: Engine, image: str, options: list[str]) -> None:
        self._engine = engine
        self._name = f"service-{time.monotonic_ns()}"
        # Use the host's network, because the daemon has no bridge (--bridge=none).
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
        """Run a snippet in the service; return the snippet's exit status and output."""
        try:
            with urllib.request.urlopen(self.url, snippet.encode(), PATIENCE) as answer:
                return answer.headers["X-Exit-Status"], answer.read().decode()
        except urllib.error.HTTPError as error:
            error.add_note(self._engine("logs", self._name).stderr)
            raise

    def execute(self, *command: str) -> None:
        self._engine.must("exec", self._name, *command)

    def stop(self) -> str:
        """Send SIGTERM to the container; return its whole output."""
        self._engine.must("stop", f"--time={PATIENCE}", self._name)
        return self.end()

    def end(self) -> str:
        """Wait until the container exits; return its whole output."""
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


# `make test` runs only one variant, because the next two tests also send requests to the service,
# as root and as another user.
@pytest.mark.sampled(1)
def test_requests_run_in_sandboxes_and_leave_nothing(running: Service) -> None:
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
        # Wait until the request's sandbox has been leased.
        while "leased=1" not in urllib.request.urlopen(running.url).read().decode():
            time.sleep(0.1)
        output = running.stop()
        assert answer.result() == ("0", "begun\ndone\n")
    assert output.splitlines()[1:] == ["status 0 after 1 looks:"]


def test_a_killed_service_leaves_nothing(running: Service) -> None:
    assert running.post("print(1)") == ("0", "1\n")
    running.execute("sh", "-c", "kill -KILL $(cat /proc/1/task/1/children)")
    # The last line, "Killed", is the shell's message about the service.
    assert re.fullmatch(r"listening .*\nstatus 137 after \d+ looks:\nKilled\n", running.end())


# Program that uses each kind of sandbox, and prints the processes that remain at the end.
USES = """
import asyncio, contextlib, os, pathlib, subprocess, sys, time
import usernsctl as un

def version(box):
    return box.check_output(["cat", "/proc/version"], text=True).split("#")[1]

async def from_asyncio(host):
    async with await host.start_async(["sleep", "1000"]) as box:
        process = await box.create_subprocess_exec("cat", "/proc/version", stdout=un.PIPE)
        return (await process.communicate())[0].decode().split("#")[1]

shown = [un.gvisor.run(["cat", "/proc/version"], capture_output=True).stdout.decode().split("#")[1]]
with un.SandboxHost() as host:
    with host.start(None) as box:
        shown.append(version(box))
        assert box.run(["sh", "-c", "exit 7"]).returncode == 7
    with host.pool(2, max_uses=2) as pool:
        for _ in range(4):
            with pool.acquire(60) as box:
                shown.append(version(box))
    with host.template(["sh", "-c", "echo READY; read line"], ready="READY") as template:
        with template.start(stdin=un.PIPE) as box:
            shown.append(version(box))
            box.communicate(b"end", 60)
    with host.python_template(python="/usr/bin/python3", preload=["json"]) as template:
        show = ["-c", "print(end=open('/proc/version').read())"]
        with template.start(show, stdout=un.PIPE) as box:
            shown.append(box.communicate(timeout=60)[0].decode().split("#")[1])
    shown.append(asyncio.run(from_asyncio(host)))
    host.start(["sleep", "1000"], id="web", detach=True).release()
attach = "import usernsctl as un; un.Sandbox.attach('web').run(['touch', '/tmp/mine'], check=True)"
subprocess.run([sys.executable, "-Ic", attach], check=True)
with un.Sandbox.attach("web") as box:
    assert box.run(["test", "-e", "/tmp/mine"]).returncode == 0
    shown.append(version(box))
print(len(shown), *set(shown), sep="\\n", end="")
def left():
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        if int(stat.parent.name) not in (1, os.getpid()):
            with contextlib.suppress(OSError):
                yield stat.read_text()

# With docker run --init, PID 1 reaps the last processes of the detached sandbox.
deadline = time.monotonic() + 10
while list(left()) and time.monotonic() < deadline:
    time.sleep(0.01)
print(*left(), sep="\\n", end="")
print(*[path for path in pathlib.Path("/tmp").rglob("*") if not path.is_dir()], sep="\\n")
"""


@pytest.mark.parametrize("options", [AS_USER, AS_ROOT], ids=["user", "root"])
@pytest.mark.parametrize("engine", ["plain", "remapped"], indirect=True)
@pytest.mark.sampled
def test_every_kind_of_sandbox_works(engine: Engine, options: list[str]) -> None:
    run = ["run", "--rm", "--init", "--interactive", *options]
    python = ["--entrypoint=/opt/usernsctl/bin/python", PRELUDE_PYTHON, "-I", "-"]
    done = engine(*run, *python, input=USES)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"10\n{gvisor.BUILD.removeprefix('#')}\n\n"


SECRET = "what only the service may know"

# Snippets that try to access something outside their sandbox, and print what they could access.
ATTACKS = {
    "files of the container": """
import os
for top in ("/home", "/tmp", "/run", "/mnt", "/root", "/srv", "/var", "/media"):
    for directory, _, names in os.walk(top):
        for name in names:
            print(directory, name)
for path in ("/etc/shadow", "/etc/gshadow", "/proc/1/environ", "/proc/1/root/opt", "/.dockerenv"):
    try:
        found = os.listdir(path) if os.path.isdir(path) else open(path, "rb").read()
    except OSError:
        continue
    if found and found != b"HOME=/root\\0":
        print(path, found)
""",
    "variables and memory": f"""
import os
for name in os.listdir("/proc"):
    for file in ("environ", "cmdline") if name.isdecimal() else ():
        try:
            text = open(f"/proc/{{name}}/{{file}}", "rb").read()
        except OSError:
            continue
        if {SECRET.split()[-1]!r} in text.decode() and b"import" not in text:
            print(text)
        if b"snippet_server" in text or b"runsc" in text:
            print(text)
""",
    "descriptors": """
import os, stat
for name in os.listdir("/proc/self/fd"):
    try:
        target, mode = os.readlink(f"/proc/self/fd/{name}"), os.fstat(int(name)).st_mode
    except OSError:
        continue
    if not stat.S_ISFIFO(mode) and not target.startswith("/proc/"):
        print(name, target, oct(mode))
for process in os.listdir("/proc"):
    if process.isdecimal() and process != str(os.getpid()):
        for name in os.listdir(f"/proc/{process}/fd"):
            try:
                fd = os.open(f"/proc/{process}/fd/{name}", os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            target, mode = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_mode
            is_null = stat.S_ISCHR(mode) and not os.read(fd, 1)
            if not stat.S_ISFIFO(mode) and not is_null and target != "/proc":
                print(process, name, target, oct(mode))
""",
    "the service by its port": """
import socket
for address in ("127.0.0.1", "169.254.169.254", "172.17.0.1", "0.0.0.0"):
    try:
        socket.create_connection((address, PORT), 0.3).close()
        print(address)
    except OSError:
        pass
""",
    "sockets with a name": """
import socket
for line in open("/proc/net/unix").read().splitlines()[1:]:
    name = line.split()[7:]
    if name:
        print(name)
""",
    "signals and tracing": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for pid in range(1, 3000):
    if pid == os.getpid():
        continue
    try:
        os.kill(pid, 0)
    except OSError:
        continue
    command = open(f"/proc/{pid}/cmdline").read()
    if "usernsctl-agent" not in command and "usernsctl/agent" not in command:
        print(pid, command)
""",
    "mounts and devices": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.unshare(0x10020000)
for source, kind in ((b"proc", b"proc"), (b"sysfs", b"sysfs"), (b"/dev/vda", b"ext4")):
    os.makedirs("/tmp/mine", exist_ok=True)
    if libc.mount(source, b"/tmp/mine", kind, 0, None) == 0:
        for name in ("1/environ", "kcore", "fs/cgroup", "etc/shadow"):
            try:
                text = open(f"/tmp/mine/{name}", "rb").read(200)
                if b"snippet" in text or b"TOKEN" in text or name == "etc/shadow":
                    print(source, name, text)
            except OSError:
                pass
for name, major, minor in (("disk", 254, 0), ("memory", 1, 1), ("kvm", 10, 232)):
    try:
        os.mknod(f"/tmp/{name}", 0o600 | (0o20000 if name != "disk" else 0o60000),
                 os.makedev(major, minor))
        print(name, os.read(os.open(f"/tmp/{name}", os.O_RDONLY), 16))
    except OSError:
        pass
""",
}

# Snippets that exhaust resources that the service's sandboxes share.
HOGS = {
    "processes": """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    "threads": """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(99,)).start()
""",
    "memory": """
import os, time
for _ in range(3):
    os.fork()
hog = [bytearray(1 << 20) for _ in range(400)]
time.sleep(99)
""",
    "files in memory": """
file = open("/tmp/hog", "wb")
while True:
    file.write(bytes(1 << 20))
""",
    "open files": """
import os
files = []
while True:
    try:
        files.append(os.open("/usr/bin/env", os.O_RDONLY))
    except OSError:
        pass
""",
}


def test_hostile_snippet_gets_nothing_of_the_service(
    plain: Engine, service: str, tally: Tally
) -> None:
    running = Service(plain, service, [*AS_USER, f"--env=TOKEN={SECRET}"])
    try:
        running.execute("sh", "-c", f"echo '{SECRET}' > /tmp/secret")
        port = running.url.rstrip("/").rpartition(":")[2]
        with ThreadPoolExecutor(4) as threads:
            # Start other sandboxes, which the snippet must not find.
            others = [threads.submit(running.post, "import time; time.sleep(4)") for _ in range(2)]
            for name, snippet in ATTACKS.items() if others else ():
                tally.tried()
                status, output = running.post(snippet.replace("PORT", port))
                if (status, output) != ("0", ""):
                    tally.succeeded(f"{name}: {status} {output}")
    finally:
        running.remove()


def test_hostile_hog_leaves_the_service_usable(plain: Engine, service: str, tally: Tally) -> None:
    running = Service(plain, service, AS_USER)
    try:
        for name, snippet in HOGS.items():
            tally.tried()
            with contextlib.suppress(urllib.error.HTTPError):
                running.post(snippet)
            if running.post("print(1)") != ("0", "1\n"):
                tally.succeeded(name)
        # Ignore the reports of sandboxes that ran out of memory, which begin with "503: ".
        lines = [line for line in running.stop().splitlines() if not line.startswith("503: ")]
        assert lines[-1] == "status 0 after 1 looks:"
    finally:
        running.remove()
