"""The operations in which matrix.py makes system calls fail; each is a class."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import usernsctl as un
from usernsctl.cli import cp
from usernsctl.gvisor.launch.network import private_command
from usernsctl.gvisor.sandbox import records as sandbox_records
from usernsctl.namespaces import named

BIN = Path(sys.executable).parent
#: Payload of each operation; its output shows that the payload ran.
PAYLOAD = ["sh", "-c", "echo ran"]
RAN = "ran\n"
START_SECONDS = 30


class Refused(Exception):
    """A native program has failed, with an error report that :func:`check_report` accepts."""


class Killed(Exception):
    """A signal has killed a native program or its child."""


class Misbehaved(Exception):
    """A program has failed, with an error report that :func:`check_report` rejects."""


class FaultPath:
    """An operation that starts PAYLOAD with `output` as standard output.

    :ivar native_only: whether faults are injected into native programs only.
    :ivar is_sandbox: whether the operation starts a sandbox, which takes tenths of a second.
    :ivar starts_program: whether the operation executes a program that is not part of usernsctl,
        such as runsc or the payload. If a call before that execve(2) fails, and the operation with
        it, the payload must not run.
    """

    name = ""
    native_only = False
    is_sandbox = False
    starts_program = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def set_up(self) -> None:
        """Create the objects that all runs of the operation share."""

    def prepare(self) -> None:
        """Prepare a run; no faults are injected during this call."""

    def run(self, output: IO[str]) -> None:
        """Start the payload; wait until it has exited."""
        raise NotImplementedError

    def settle(self) -> None:
        """Remove the objects that a run has created; no faults are injected during this call."""

    def clean(self) -> None:
        """Remove namespaces and detached sandboxes that a killed run may have left behind."""

    def remove_partial(self) -> None:
        """Remove the incomplete copy that a killed copying process has left behind."""

    def tear_down(self) -> None:
        """Remove the objects that :meth:`set_up` has created."""


class Native(FaultPath):
    """A run of usernsctl-exec."""

    native_only = True

    def __init__(self, directory: Path, name: str, *options: str) -> None:
        super().__init__(directory)
        self.name = name
        self.options = options

    def command(self) -> list[str]:
        return [str(BIN / "usernsctl-exec"), *self.options, "--", *PAYLOAD]

    def run(self, output: IO[str]) -> None:
        done = subprocess.run(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode < 0 or (done.returncode > 128 and not done.stderr):
            raise Killed(done.returncode)
        if done.returncode:
            check_report(done.returncode, done.stderr)
            raise Refused(done.stderr)


def check_report(status: int, text: str) -> None:
    """Check the form of a native program's error report: the exit status, and each line of `text`.

    :raises Misbehaved: the form is not the one that usernsctl documents.
    """
    first, *rest = text.splitlines() or [""]
    is_form = first.startswith(("usernsctl-exec: ", "usernsctl-watch: ", "usernsctl: ", "warning"))
    if status not in (125, 126, 127) or not is_form:
        raise Misbehaved(f"status {status}: {text!r}")
    if not all(line.startswith(("  why: ", "  remedy:", "    ", "usernsctl")) for line in rest):
        raise Misbehaved(f"status {status}: {text!r}")


class LaunchFile(Native):
    """A launch of a sandbox from a launch file."""

    is_sandbox = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "launch from a file")

    def set_up(self) -> None:
        freeze = [BIN / "usernsctl", "freeze", "-o", self.directory / "launch", "--", *PAYLOAD]
        subprocess.run(freeze, check=True, stdin=subprocess.DEVNULL)

    def command(self) -> list[str]:
        return [str(BIN / "usernsctl-exec"), "--launch", str(self.directory / "launch")]


class Call(FaultPath):
    """An operation of the Python API: the function that is passed to the constructor."""

    def __init__(self, directory: Path, name: str, function: Callable[[IO[str]], Any]) -> None:
        super().__init__(directory)
        self.name = name
        self.run = function  # type: ignore[method-assign]


class InNamespace(FaultPath):
    """A command in an existing Namespace that all runs share."""

    name = "spawn in a kept namespace"

    def set_up(self) -> None:
        self.namespace = un.Namespace.create()

    def run(self, output: IO[str]) -> None:
        self.namespace.run(PAYLOAD, stdout=output, check=True)

    def tear_down(self) -> None:
        self.namespace.close()


class NamedCreate(FaultPath):
    """Creation of a named namespace, and start of a command in it."""

    name = "ns create, exec"
    is_created = False

    def run(self, output: IO[str]) -> None:
        with un.Namespace.open_or_create("faults") as namespace:
            self.is_created = True
            namespace.run(PAYLOAD, stdout=output, check=True)

    def settle(self) -> None:
        if self.is_created:
            self.clean()
        self.is_created = False

    def clean(self) -> None:
        if any(one.name == "faults" for one in named.list_named()):
            named.remove_named("faults")


class NamedRemove(NamedCreate):
    """Removal of a named namespace."""

    name = "ns remove"
    starts_program = False

    def prepare(self) -> None:
        un.Namespace.open_or_create("faults").close()
        self.is_created = True

    def run(self, output: IO[str]) -> None:
        named.remove_named("faults")
        output.write(RAN)
        output.flush()


class InHost(FaultPath):
    """An operation that starts sandboxes in a `SandboxHost` that all runs share."""

    is_sandbox = True

    def set_up(self) -> None:
        self.host = un.SandboxHost()

    def tear_down(self) -> None:
        self.host.close()


class HostItself(FaultPath):
    name = "host"
    is_sandbox = True

    def run(self, output: IO[str]) -> None:
        with un.SandboxHost() as host, host.start(PAYLOAD, stdout=output) as box:
            box.wait(START_SECONDS)


class Start(InHost):
    name = "start"

    def run(self, output: IO[str]) -> None:
        with self.host.start(PAYLOAD, stdout=output, timeout=START_SECONDS) as box:
            box.wait(START_SECONDS)


class InSandbox(InHost):
    """An operation in a sandbox. All runs share this sandbox as long as it lives."""

    starts_program = False

    box: un.Sandbox | None = None

    def prepare(self) -> None:
        if self.box is None:
            self.box = self.host.start(None)
            self.box.run(["true"])

    def settle(self) -> None:
        """Close the sandbox if a fault has killed it."""
        if self.box is not None and self.box.poll() is not None:
            self.tear_down_box()

    def clean(self) -> None:
        self.settle()

    def tear_down_box(self) -> None:
        if self.box is not None:
            self.box.close()
        self.box = None

    def tear_down(self) -> None:
        self.tear_down_box()
        super().tear_down()


class AgentCommand(InSandbox):
    name = "agent command"

    def run(self, output: IO[str]) -> None:
        assert self.box is not None
        self.box.run(PAYLOAD, stdout=output, check=True, timeout=START_SECONDS)


class Files(InSandbox):
    name = "files in and out"

    def run(self, output: IO[str]) -> None:
        assert self.box is not None
        self.box.write_file("/tmp/faults", RAN.encode())
        output.write(self.box.read_file("/tmp/faults").decode())
        output.flush()


def make_tree(tree: Path) -> None:
    """Create the directory tree for :func:`read_tree`, unless it exists."""
    if not tree.exists():
        (tree / "inner").mkdir(parents=True)
        (tree / "inner" / "file").write_text(RAN)
        (tree / "link").symlink_to("inner/file")


def read_tree(tree: Path, output: IO[str]) -> None:
    """Read the file in a copy of the directory tree; write the file's content to `output`."""
    assert (tree / "link").is_symlink()
    output.write((tree / "inner" / "file").read_text())
    output.flush()


class Trees(InSandbox):
    """Copying a directory tree into a sandbox and out of it."""

    name = "trees in and out"

    def set_up(self) -> None:
        super().set_up()
        make_tree(self.directory / "tree")

    def run(self, output: IO[str]) -> None:
        assert self.box is not None
        self.box.put(self.directory / "tree", "/tmp/faults/tree", merge=True, parents=True)
        self.box.get("/tmp/faults/tree", self.directory / "copy")
        read_tree(self.directory / "copy", output)

    def settle(self) -> None:
        """Remove the directory tree that a run has copied to the host, if the copy is complete."""
        remove_complete_copy(self.directory / "copy")
        super().settle()

    def remove_partial(self) -> None:
        shutil.rmtree(self.directory / "copy", ignore_errors=True)


def remove_complete_copy(copy: Path) -> None:
    """Remove `copy` if it is complete; a partial copy stays, and then counts as a leftover."""
    if (copy / "link").is_symlink() and (copy / "inner" / "file").exists():
        shutil.rmtree(copy)


class Pool(InHost):
    name = "pool"

    def run(self, output: IO[str]) -> None:
        with self.host.pool(1) as pool, pool.acquire(timeout=START_SECONDS) as box:
            box.run(PAYLOAD, stdout=output, check=True, timeout=START_SECONDS)


class TemplateCreate(InHost):
    name = "template create"

    def run(self, output: IO[str]) -> None:
        with self.host.template(timeout=START_SECONDS) as template, template.start() as box:
            box.run(PAYLOAD, stdout=output, check=True, timeout=START_SECONDS)


class TemplateRestore(InHost):
    name = "template restore"

    def set_up(self) -> None:
        super().set_up()
        self.template = self.host.template()

    def run(self, output: IO[str]) -> None:
        with self.template.start(timeout=START_SECONDS) as box:
            box.run(PAYLOAD, stdout=output, check=True, timeout=START_SECONDS)

    def tear_down(self) -> None:
        self.template.close()
        super().tear_down()


class Detach(InHost):
    """Start of a detached sandbox."""

    name = "detach"
    is_started = False

    def run(self, output: IO[str]) -> None:
        with self.host.start(PAYLOAD, id="faults", detach=True, stdout=output) as box:
            self.is_started = True
            box.wait(START_SECONDS)
            box.release()

    def settle(self) -> None:
        if self.is_started:
            self.clean()
        self.is_started = False

    def clean(self) -> None:
        for record in sandbox_records.list_detached():
            un.Sandbox.attach(record.id).close()


class Attach(Detach):
    """Code path that runs a command in a detached sandbox. All runs share it while it is alive."""

    name = "attach"
    starts_program = False

    def prepare(self) -> None:
        if not sandbox_records.list_detached():
            self.host.start(None, id="faults", detach=True).release()

    def run(self, output: IO[str]) -> None:
        box = un.Sandbox.attach("faults")
        try:
            box.run(PAYLOAD, stdout=output, check=True, timeout=START_SECONDS)
        finally:
            box.release()

    def tear_down(self) -> None:
        self.clean()
        super().tear_down()


class Copy(Attach):
    """Copying a directory tree into a detached sandbox and out of it with usernsctl cp."""

    name = "cp"

    def set_up(self) -> None:
        super().set_up()
        make_tree(self.directory / "tree")

    def run(self, output: IO[str]) -> None:
        more: dict[str, Any] = {"user": None, "max_bytes": 1 << 20, "max_files": 9, "timeout": 30}
        tree, copy = str(self.directory / "tree"), self.directory / "copy"
        cp.copy(tree, "faults:/tmp", force=True, parents=False, **more)
        cp.copy("faults:/tmp/tree", str(copy), force=False, parents=False, **more)
        read_tree(copy, output)

    def settle(self) -> None:
        remove_complete_copy(self.directory / "copy")
        super().settle()

    def remove_partial(self) -> None:
        shutil.rmtree(self.directory / "copy", ignore_errors=True)


class NetworkedHost(HostItself):
    """A sandbox with a private network, and a server that is reached through a published port."""

    name = "published port"
    server = (
        "import socket; server = socket.create_server(('127.0.0.1', 8000));"
        "print('ready', flush=True); client = server.accept()[0];"
        # Call recv() to wait until the client has read the data and closed the connection: if the
        # sandbox exited before that, data in transit would be lost.
        "client.sendall(b'ran\\n'); client.recv(1)"
    )

    def run(self, output: IO[str]) -> None:
        command = ["/usr/bin/python3", "-c", self.server]
        with (
            un.SandboxHost(network="private") as host,
            host.start(command, stdout=un.PIPE, publish=[8000], timeout=START_SECONDS) as box,
        ):
            assert box.stdout is not None
            try:
                box.stdout.readline()
                with socket.create_connection(box.ports[8000], START_SECONDS) as client:
                    output.write(client.makefile().readline())
            except ConnectionError as error:
                # The network has failed, so the sandbox was killed.
                raise un.CalledProcessError(box.wait(START_SECONDS), command) from error
            output.flush()
            if status := box.wait(START_SECONDS):
                raise un.CalledProcessError(status, command)


class NetworkedNamespace(NamedCreate):
    """Creation of a named namespace with a private network, and start of a command in it."""

    name = "ns create with a private network"

    def run(self, output: IO[str]) -> None:
        named.create_named("faults", ["-r"], private_command())
        self.is_created = True
        with un.Namespace.open("faults") as namespace:
            namespace.run(PAYLOAD, stdout=output, check=True)


def limited_run(output: IO[str]) -> None:
    """Run the payload with all limits, enforced by control groups (root) or by watchers."""
    limits: dict[str, Any] = {"memory": "512M", "pids": 200, "cpus": 1, "disk": "64M"}
    un.gvisor.run(PAYLOAD, stdout=output, check=True, timeout=START_SECONDS, **limits)


def every_path(directory: Path) -> Iterator[FaultPath]:
    """Yield all operations that this user can run."""
    is_root = os.geteuid() == 0
    yield Native(directory, "exec, one id", "-r")
    yield Native(directory, "exec, forked, with namespaces", "-rmpinu", "-f", "--mount-proc")
    if is_root:
        wide = ("--map-users=0:100000:9", "--map-groups=0:100000:9")
        yield Native(directory, "exec, map by the parent", *wide)
    else:
        yield Native(directory, "exec, ranges by helpers", "--map-auto")
    yield Call(
        directory, "spawn", lambda out: un.run(PAYLOAD, idmap="root", stdout=out, check=True)
    )
    yield Call(
        directory,
        "spawn, ranges" if not is_root else "spawn, map by the parent",
        lambda out: un.run(
            PAYLOAD, idmap=["0:100000:9"] if is_root else "auto", stdout=out, check=True
        ),
    )
    yield InNamespace(directory)
    yield NamedCreate(directory)
    yield NamedRemove(directory)
    yield LaunchFile(directory)
    yield Call(
        directory,
        "run",
        lambda out: un.gvisor.run(PAYLOAD, stdout=out, check=True, timeout=START_SECONDS),
    )
    yield Call(directory, "run with control groups" if is_root else "run with limits", limited_run)
    yield Call(
        directory,
        "run, private network",
        lambda out: un.gvisor.run(
            PAYLOAD, stdout=out, check=True, timeout=START_SECONDS, network="private"
        ),
    )
    for kind in (
        NetworkedNamespace,
        NetworkedHost,
        HostItself,
        Start,
        AgentCommand,
        Files,
        Trees,
        Copy,
        Pool,
        TemplateCreate,
        TemplateRestore,
        Detach,
        Attach,
    ):
        yield kind(directory)
