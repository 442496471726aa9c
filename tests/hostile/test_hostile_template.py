"""Attacks on a process that starts a template: by the payload, and with replaced files."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EXIT_SECONDS, open_descriptors
from processes import wait_until_gone
from tally import Tally

import usernsctl as un
from usernsctl._system.records import Directory
from usernsctl.gvisor.template import store, template
from usernsctl.gvisor.template.record import TemplateRecord

pytestmark = pytest.mark.userns_requires("runsc")

PATIENCE = 60
SCRIPT = ["sh", "-c", "echo READY; read line; echo $line"]

# Time in which a creator creates a host and a template, in seconds. The creator is killed within
# the sum of CREATE_SECONDS and START_SECONDS.
CREATE_SECONDS = 1.2
# Time in which the creator then starts a sandbox and a command, in seconds.
START_SECONDS = 0.6


@pytest.fixture(scope="module")
def saved(host: un.SandboxHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("templates") / "saved"
    with host.template(SCRIPT, ready="READY") as made:
        made.save(path)
    return path


# Tests of attacks on the files of saved templates.


def try_to_start(tally: Tally, directory: Path, host: un.SandboxHost) -> None:
    """Load and start a template; check that the saved program works or that an error is raised."""
    tally.tried()
    before = open_descriptors()
    try:
        with un.Template.load(directory, host=host) as found:
            with found.start(stdin=un.PIPE, stdout=un.PIPE, stderr=un.DEVNULL, timeout=20) as box:
                out, _ = box.communicate(b"word\n", PATIENCE)
            if out != b"word\n":
                tally.succeeded(f"it said {out!r}")
    except un.UsernsError as error:
        if not error.cause:
            tally.succeeded(f"an error without a cause: {error}")
    if open_descriptors() != before:
        tally.succeeded("descriptors are left")


def test_images_with_random_damage_never_start(
    tally: Tally, host: un.SandboxHost, saved: Path, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    names = sorted(os.listdir(saved))
    for number in range(tally.rounds(12, 200)):
        copy = tmp_path / str(number)
        shutil.copytree(saved, copy)
        victim = copy / chosen.choice(names)
        content = bytearray(victim.read_bytes())
        for _ in range(chosen.choice((1, 1, 5, 100))):
            content[chosen.randrange(len(content))] = chosen.randrange(256)
        if chosen.random() < 0.2:
            del content[chosen.randrange(len(content)) :]
        changed = bytes(content) != victim.read_bytes()
        victim.write_bytes(bytes(content))
        if victim.name != "record.json" and changed:
            tally.tried()
            with pytest.raises(un.RunscError) as caught:
                un.Template.load(copy, host=host)
            assert caught.value.cause == "template-damaged"
        else:
            try_to_start(tally, copy, host)
        shutil.rmtree(copy)


def put(directory: Path, **fields: Any) -> None:
    record = directory / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **fields}))


def test_a_record_can_not_add_binds_to_a_host(
    tally: Tally, host: un.SandboxHost, saved: Path, tmp_path: Path
) -> None:
    """Check that load() rejects a record with additional mounts, hooks or other host settings."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    config = json.loads((saved / "record.json").read_text())["config"]
    bind = {"destination": "/tmp/x", "source": str(tmp_path), "type": "bind", "options": ["bind"]}
    hook = {"createRuntime": [{"path": "/usr/bin/touch", "args": ["touch", f"{tmp_path}/hooked"]}]}
    changes: list[dict[str, Any]] = [
        {"mounts": [*config["mounts"], bind]},
        {"hooks": hook},
        {"root": {**config["root"], "path": str(tmp_path)}},
        {"annotations": {"dev.gvisor.spec.rootfs.source": str(tmp_path)}},
        {"linux": {**config["linux"], "uidMappings": []}},
        {"linux": {**config["linux"], "namespaces": []}},
        {"process": {**config["process"], "rlimits": [{"type": "X", "soft": 1, "hard": 1}]}},
    ]
    for number, change in enumerate(changes):
        copy = tmp_path / str(number)
        shutil.copytree(saved, copy)
        put(copy, config={**config, **change})
        tally.tried()
        with pytest.raises(un.RunscError) as caught:
            un.Template.load(copy, host=host)
        assert caught.value.cause in ("template-outdated", "template-damaged")
    assert not (tmp_path / "hooked").exists()


def swap_link(directory: Path) -> None:
    os.rename(directory, f"{directory}.moved")
    directory.symlink_to(f"{directory}.moved")


def link_image(directory: Path) -> None:
    (directory / "pages.img").unlink()
    (directory / "pages.img").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    "swap",
    [
        swap_link,
        lambda path: (
            (path / "pages.img").unlink() or (path / "pages.img").symlink_to("/etc/passwd")
        ),
        lambda path: os.link(path / "record.json", path / "other.json"),
    ],
)
def test_links_are_not_followed(
    tally: Tally, host: un.SandboxHost, saved: Path, tmp_path: Path, swap: Callable[[Path], None]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    swap(copy)
    tally.tried()
    with pytest.raises(un.RunscError):
        un.Template.load(copy, host=host)


def test_numbers_of_a_record_may_be_too_large(
    tally: Tally, host: un.SandboxHost, saved: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    for change, cause in (
        ({"runsc": ["x", 2**70, 2**70]}, "template-outdated"),
        ({"runsc": ["x", float("inf"), 0]}, "template-damaged"),
        ({"files": [["/usr", 2**70, float("nan")]]}, "template-damaged"),
    ):
        put(copy, **{"files": [], **change})
        tally.tried()
        with pytest.raises(un.RunscError) as caught:
            un.Template.load(copy, host=host)
        assert caught.value.cause == cause


@pytest.mark.parametrize("replaces", [True, False])
def test_a_template_removed_during_load_is_not_called_damaged(
    tally: Tally,
    host: un.SandboxHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replaces: bool,
) -> None:
    """Check load() of a template that is replaced or removed while load() reads it.

    load() must succeed if the template is replaced, and raise no-such-template if it is removed.
    """
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    read = template.read

    def change(directory: Directory) -> TemplateRecord:
        found = read(directory)
        monkeypatch.setattr(template, "read", read)
        if replaces:
            store.keep(made.save, "some", replace=True)
        else:
            store.remove("some")
        return found

    with host.template(SCRIPT, ready="READY") as made:
        store.keep(made.save, "some", replace=False)
        monkeypatch.setattr(template, "read", change)
        if replaces:
            tally.tried()
            un.Template.load(store.path_of("some"), host=host).close()
            return
        tally.tried()
        with pytest.raises(un.RunscError) as caught:
            un.Template.load(store.path_of("some"), host=host)
        assert caught.value.cause == "no-such-template"


# Tests of attacks by programs in templates.

# Program that searches for files and descriptors of its own checkpoint image, before the checkpoint
# and after the restore, and prints those found.
ATTACK = """
import ctypes, json, os, socket, sys, threading, time
found = []
for fd in range(3, 64):
    try:
        found.append((fd, os.readlink(f"/proc/self/fd/{fd}")))
    except OSError:
        pass
for path in ("/mnt/usernsctl", "/proc/1/root/mnt/usernsctl", "/checkpoint.img", "/.images"):
    if os.path.exists(path):
        found.append(path)
print("READY", flush=True)
sys.stdin.readline()
for fd in range(3, 64):
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        continue
    if "img" in target or "usernsctl" in target:
        found.append((fd, target))
print(json.dumps(found))
"""


def test_a_payload_can_not_read_its_image(tally: Tally, host: un.SandboxHost) -> None:
    command = ["/usr/bin/python3", "-c", ATTACK]
    with host.template(command, ready="READY") as made:
        for _ in range(tally.rounds(2, 20)):
            tally.tried()
            with made.start(stdin=un.PIPE, stdout=un.PIPE) as box:
                out, _ = box.communicate(b"\n", PATIENCE)
            if json.loads(out):
                tally.succeeded(out.decode())


# Code by which a hostile interpreter abuses its connection to the host, which is descriptor 0.
LIES = [
    "os.write(0, b'x' * 200_000)",
    "os.write(0, json.dumps({'error': ['x'] * 10}).encode())",
    "os.write(0, json.dumps({'files': ['/../' * 1000, 7, None, '\\0'], 'threads': []}).encode())",
    "os.write(0, json.dumps({'files': ['/proc/self/mem'] * 10_000}).encode()[:100_000])",
    "os.write(0, b'[' * 100_000)",
    "os.write(0, b'\\xff\\xfe')",
    "os.close(0)",
    "os.kill(1, 9)",
    "s = socket.socket(fileno=os.dup(0)); s.sendmsg([b'{}'], [(1, 1, (0).to_bytes(4, 'little'))])",
]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.sampled(4)
def test_a_lying_interpreter_is_detected_or_harmless(
    tally: Tally, host: un.SandboxHost, lie: str
) -> None:
    """Check that preloaded code that abuses the connection to the host leaks no descriptors."""
    before = open_descriptors()
    code = f"import json, os, socket, time\n{lie}\ntime.sleep(1000)"
    tally.tried()
    try:
        with host.python_template(code=code, timeout=4) as made:
            made.start(["-c", ""], timeout=4).close()
    except (un.UsernsError, un.TimeoutExpired):
        pass
    if open_descriptors() != before:
        tally.succeeded("descriptors are left")


@pytest.mark.parametrize("script", ["exec sleep 1000", "exec yes", "printf '\\377\\n'"])
def test_a_false_cat_does_not_delay_a_template(tally: Tally, tmp_path: Path, script: str) -> None:
    """Check that a hostile cat(1), which usernsctl runs to read ports, delays nothing."""
    (tmp_path / "cat").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "cat").chmod(0o755)
    env = {"PATH": "/mnt/evil:/usr/bin:/bin"}
    tally.tried()
    with un.SandboxHost(binds=[un.Bind.shown(str(tmp_path), "/mnt/evil")]) as host:
        before = open_descriptors()
        with pytest.raises((un.TimeoutExpired, un.RunscError)) as caught:
            host.template(["sleep", "1000"], ready="port:8080", timeout=3, env=env)
        if isinstance(caught.value, un.RunscError):
            assert caught.value.cause == "template-not-ready"
        assert open_descriptors() == before


# Tests that kill the process that creates a template.


def create_sandboxes(id: str) -> None:
    with un.SandboxHost() as host, host.template(SCRIPT, ready="READY") as made:
        for _ in range(100):
            with made.start(id=id, stdin=un.PIPE, stdout=un.PIPE) as box:
                box.run(["true"])


def collect_all() -> None:
    """Reap all orphans, which have been reparented to this process, in any order.

    A PID 1 of a PID namespace exits only when all other processes there have been reaped.
    """
    deadline = time.monotonic() + EXIT_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            ended, _ = os.waitpid(-1, os.WNOHANG)
            if not ended:
                time.sleep(0.01)


def test_a_killed_creator_leaves_nothing(
    tally: Tally, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(runtime))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for number in range(tally.rounds(8, 200)):
        id = f"template-{os.getpid()}-{number}"
        pid = os.fork()
        if pid == 0:
            try:
                create_sandboxes(id)
            finally:
                os._exit(1)
        time.sleep(moments.uniform(0, CREATE_SECONDS + START_SECONDS))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        collect_all()
        tally.tried()
        if left := wait_until_gone(id, EXIT_SECONDS):
            tally.succeeded(f"processes are left: {left}")
    # While a template is being saved, its processes don't have `id` in their arguments. So search
    # for the script.
    assert wait_until_gone("echo READY; read line; echo $line", EXIT_SECONDS) == []
    assert list(runtime.iterdir()) == []


def test_many_restores_leave_nothing(tally: Tally, host: un.SandboxHost) -> None:
    with host.template(SCRIPT, ready="READY") as made:
        made.start().close()
        before = open_descriptors(), os.listdir(f"/proc/self/fd/{host.directory}")
        for number in range(tally.rounds(5, 1000)):
            word = str(number).encode()
            tally.tried()
            with made.start(stdin=un.PIPE, stdout=un.PIPE) as box:
                out, _ = box.communicate(word + b"\n", PATIENCE)
            if out != word + b"\n":
                tally.succeeded(f"restore {number} said {out!r}")
        after = open_descriptors(), os.listdir(f"/proc/self/fd/{host.directory}")
        assert after == before
