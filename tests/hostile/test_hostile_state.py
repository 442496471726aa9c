"""Attacks by a program that can write to the state directory, as through a wrong bind mount."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import usernsctl as un
from usernsctl._system.processes import ProcessIdentity
from usernsctl.gvisor.launch.request import Bind
from usernsctl.namespaces import named

pytestmark = [pytest.mark.also_root, pytest.mark.userns_requires("runsc")]

SCRIPTS = Path(sysconfig.get_path("scripts"))
FOREVER = ["sleep", "1000"]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the test's state directory, which is empty."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert un.Sandbox.list_detached() == []
    return runtime / "usernsctl"


@contextlib.contextmanager
def victim(command: list[str] | None = None) -> Iterator[int]:
    """Start a process and yield its pid; check afterwards that nothing has killed the process."""
    script = "echo ready; exec sleep 1000"
    words = ["sh", "-c", script] if command is None else command
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        is_alive = process.poll() is None
        process.kill()
    assert is_alive, "the victim was killed"


def named_as_a_holder() -> list[str]:
    script = (
        "import prctl, time\n"
        "prctl.set_name('usernsctl-hold')\n"
        "print('ready', flush=True)\n"
        "time.sleep(1000)\n"
    )
    return [sys.executable, "-c", script]


def in_a_namespace_of_another_purpose() -> list[str]:
    return [str(SCRIPTS / "usernsctl-exec"), "-r", "--", "sh", "-c", "echo ready; exec sleep 1000"]


def in_execve() -> list[str]:
    """Return a command that executes itself endlessly, so that its command line is often empty."""
    again = 'exec sh -c "$0" "$0"'
    words = ["sh", "-c", 'echo ready; exec sh -c "$0" "$0"', again]
    return [str(SCRIPTS / "usernsctl-exec"), "-r", "--", *words]


def with_the_words_of_a_sandbox() -> list[str]:
    """Return a command that has a sandbox process's arguments, but creates no namespace."""
    script = "import time; print('ready', flush=True); time.sleep(1000)"
    return [sys.executable, "-c", script, "--bundle=/mnt/usernsctl/boxes/box"]


VICTIMS: list[Callable[[], list[str] | None]] = [
    lambda: None,
    named_as_a_holder,
    in_a_namespace_of_another_purpose,
    in_execve,
]


def forge_box(state: Path, *pids: int, **more: Any) -> Path:
    directory = state / "sandboxes" / "box"
    (directory / "state").mkdir(parents=True, exist_ok=True)
    record = {
        "id": "box",
        "args": ["true"],
        "created": 1.0,
        "processes": [asdict(ProcessIdentity.of(pid)) for pid in pids],
        # Also forge fields that earlier versions of usernsctl trusted. This version ignores them.
        "runsc": "/bin/false",
        "env": [],
    }
    file = directory / "record.json"
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(record | more))
    return directory


def use_box() -> None:
    """Make all calls that read records and might kill the recorded processes."""
    un.Sandbox.list_detached()
    with contextlib.suppress(un.UsernsError):
        un.Sandbox.attach("box").close()
    with contextlib.suppress(un.UsernsError):
        un.Sandbox(FOREVER, id="box", detach=True).close()


@pytest.mark.parametrize("make", [*VICTIMS, with_the_words_of_a_sandbox])
@pytest.mark.parametrize("place", ["first", "beside a dead one"])
def test_hostile_record_names_a_foreign_process_to_kill(
    state: Path, tally: Any, make: Callable[[], list[str] | None], place: str
) -> None:
    for _ in range(tally.rounds(1, 20)):
        try:
            with victim(make()) as pid:
                directory = forge_box(state, pid)
                if place != "first":
                    file = directory / "record.json"
                    record = json.loads(file.read_text())
                    ended = record["processes"][0] | {"start_time": 1}
                    file.write_text(
                        json.dumps(record | {"processes": [ended, *record["processes"]]})
                    )
                tally.tried(3)
                use_box()
        except AssertionError as error:
            tally.succeeded(str(error))


def test_hostile_record_names_another_sandbox(
    state: Path, host: un.SandboxHost, tally: Any
) -> None:
    with host.start(FOREVER, id="victim", detach=True) as box, host.start(FOREVER) as held:
        record = json.loads((state / "sandboxes" / "victim" / "record.json").read_text())
        forge_box(state, os.getpid(), processes=record["processes"])
        tally.tried(3)
        use_box()
        forge_box(state, held.init.pid)
        tally.tried(3)
        use_box()
        for name, one in (("detached", box), ("held", held)):
            if one.poll() is not None:
                tally.succeeded(f"the end of the {name} sandbox")


def test_hostile_record_names_a_program(
    state: Path, host: un.SandboxHost, tally: Any, tmp_path: Path
) -> None:
    """Check that a record's fields that could name a program, such as runsc's path, are ignored."""
    program, mark = tmp_path / "program", tmp_path / "mark"
    program.write_text(f'#!/bin/sh\necho $0 >>{mark}\nexec runsc "$@"\n')
    program.chmod(0o755)
    with host.start(FOREVER, id="box", detach=True):
        file = state / "sandboxes" / "box" / "record.json"
        record = json.loads(file.read_text())
        path = str(program)
        more = {"runsc": path, "env": [f"USERNSCTL_RUNSC={path}"], "command": [path], "root": path}
        file.write_text(json.dumps(record | more | {"args": [path]}))
        with un.Sandbox.attach("box") as again:
            tally.tried(4)
            statuses = [
                again.run(["true"], **more).returncode for more in ({}, {"env": {"A": "b"}})
            ]
            if mark.exists():
                tally.succeeded("a run of his program")
            assert again.state()["status"] == "running"
            again.kill()
    assert statuses == [0, 0]


def test_hostile_state_has_no_values_of_the_environment(
    state: Path, host: un.SandboxHost, tally: Any
) -> None:
    with host.start(FOREVER, id="box", detach=True, env={"TOKEN": "s3cret-value"}):
        tally.tried()
        if "s3cret-value" in (state / "sandboxes" / "box" / "record.json").read_text():
            tally.succeeded("a value in our record")
        for file in (state / "sandboxes" / "box").rglob("*"):
            tally.tried()
            if file.lstat().st_mode & 0o077:
                tally.succeeded(f"{file.name} is open to others")
        with un.Sandbox.attach("box") as again:
            done = again.run(["sh", "-c", "echo $TOKEN $A"], env={"A": "b"}, stdout=un.PIPE)
            assert done.stdout == b"s3cret-value b\n"


@pytest.mark.parametrize("make", VICTIMS)
@pytest.mark.sampled(2)
def test_hostile_record_of_a_name(
    state: Path, tally: Any, usernsctl: Any, make: Callable[[], list[str] | None]
) -> None:
    """Write another process into the record of a named namespace.

    `ns remove` must not kill that process, and `ns exec` must not join its user namespace.
    """
    environment = dict(os.environ)
    entry = state / "namespaces" / "name"
    for _ in range(tally.rounds(1, 20)):
        try:
            with victim(make()) as pid:
                inside = os.stat(f"/proc/{pid}/ns/user").st_ino
                record = {
                    **asdict(ProcessIdentity.of(pid)),
                    "created": 1.0,
                    "namespaces": ["user"],
                    "uid": [[0, os.geteuid(), 1]],
                    "gid": [[0, os.getegid(), 1]],
                    "notice": "",
                }
                for call in (["exec", "name", "--", "readlink", "/proc/self/ns/user"],
                             ["remove", "name"], ["list"], ["create", "name"]):  # fmt: skip
                    entry.mkdir(parents=True, exist_ok=True)
                    (entry / "record.json").write_text(json.dumps(record))
                    tally.tried()
                    done = usernsctl("ns", *call, env=environment)
                    if str(inside) in done.stdout:
                        tally.succeeded("a command in his namespace")
                    if call[0] == "create" and done.returncode == 0:
                        named.remove_named("name")
        except AssertionError as error:
            tally.succeeded(str(error))
        shutil.rmtree(entry, ignore_errors=True)


def test_hostile_record_hides_the_others(state: Path, host: un.SandboxHost, tally: Any) -> None:
    """Check that a forged record, for example with a thread id as pid, hides no other sandbox."""
    with host.start(FOREVER, id="live", detach=True), threading_pid() as thread:
        for pid in (thread, 1, 1 << 21):
            record = me() | {"pid": pid}
            forge_box(state, processes=[record])
            tally.tried()
            if [one.id for one in un.Sandbox.list_detached()] != ["live"]:
                tally.succeeded("a list without the one that lives")


def me() -> dict[str, Any]:
    return asdict(ProcessIdentity.of(os.getpid()))


@contextlib.contextmanager
def threading_pid() -> Iterator[int]:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        yield thread.native_id
    finally:
        over.set()
        thread.join()


WRITE_STATE = (
    "import os, sys\n"
    "for top, _, files in os.walk('/shown'):\n"
    "    for name in files:\n"
    "        if name == 'record.json': print('READ', os.path.join(top, name))\n"
    "        if name == 'record.json' and os.access(os.path.join(top, name), 2): print('WRITE')\n"
)


def ways_to_the_state(state: Path, tmp_path: Path) -> dict[str, Path]:
    link = tmp_path / "link"
    link.symlink_to(state.parent)
    to_root = tmp_path / "to-root"
    to_root.symlink_to("/")
    return {
        "itself": state,
        "its parent": state.parent,
        "above": tmp_path,
        "a link to its parent": link,
        "a link in the middle": to_root / str(state)[1:],
        "dots": tmp_path / "runtime" / ".." / "runtime",
        "what is in it": state / "sandboxes",
        "a record": state / "sandboxes" / "box" / "record.json",
    }


def test_hostile_bind_shows_the_state(
    state: Path, tmp_path: Path, usernsctl: Any, tally: Any
) -> None:
    forge_box(state, os.getpid())
    ways = ways_to_the_state(state, tmp_path)
    for number in range(tally.rounds(len(ways), 2 * len(ways))):
        name = sorted(ways)[number % len(ways)]
        path, mode = ways[name], ("ro", "rw")[(number + number // len(ways)) % 2]
        tally.tried()
        done = usernsctl("run", "--bind", f"{path}:/shown:{mode}", "--", "python3", "-c",
                         WRITE_STATE, env=dict(os.environ))  # fmt: skip
        if "READ" in done.stdout or done.returncode != 125:
            tally.succeeded(f"{name}: {done.stdout}{done.stderr}")
        assert "[bind-shows-state]" in done.stderr
        if number < tally.rounds(2, 2 * len(ways)):
            tally.tried()
            with pytest.raises(un.BindError) as caught:
                un.SandboxHost(binds=[Bind(str(path), "/shown", mode == "ro")])
            assert caught.value.cause == "bind-shows-state"


def test_hostile_bind_shows_a_future_state_directory(
    tmp_path: Path, tally: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "later"
    later.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(later))
    for path in (later, tmp_path):
        tally.tried()
        try:
            un.SandboxHost(binds=[Bind(str(path), "/shown", False)]).close()
            tally.succeeded(f"{path} is shown")
        except un.BindError as error:
            assert error.cause == "bind-shows-state"
    # Check that a directory beside the state directory can be mounted.
    (later / "data").mkdir()
    un.SandboxHost(binds=[Bind(str(later / "data"), "/shown", False)]).close()


def test_hostile_bind_shows_the_state_by_another_mount(
    state: Path, tmp_path: Path, tally: Any
) -> None:
    """Check that a bind mount is rejected if it shows the state directory by a second mount."""
    other = tmp_path.parent / f"{tmp_path.name}-other"
    (other / "below" / "mount").mkdir(parents=True)
    script = (
        f"mount --bind {state.parent} {other}/below/mount && "
        f"for path in {other}/below/mount {other}/below {other} {other}/below/mount/usernsctl; do "
        f'{SCRIPTS}/usernsctl run --bind $path:/shown:rw -- ls -R /shown; echo "status $?"; done'
    )
    forge_box(state, os.getpid())
    with un.Namespace.create(mount=True) as namespace:
        done = namespace.run(["sh", "-c", script], stdout=un.PIPE, stderr=un.STDOUT, text=True)
    tally.tried(4)
    if "record.json\n" in done.stdout or done.stdout.count("status 125") != 4:
        tally.succeeded(done.stdout)
    assert done.stdout.count("[bind-shows-state]") == 4, done.stdout


def test_hostile_full_disk_moves_the_state(tmp_path: Path, tally: Any) -> None:
    """Fill the disk of $TMPDIR; check that usernsctl still finds and hides its state there."""
    script = (
        "mount -t tmpfs -o size=64k none /mnt && "
        f"{SCRIPTS}/usernsctl ns create name -r && "
        "{ cat /dev/zero >/mnt/filled 2>/dev/null; "
        f"{SCRIPTS}/usernsctl ns list; "
        f"{SCRIPTS}/usernsctl run --bind /mnt:/shown:rw -- "
        "sh -c 'cat /shown/*/namespaces/name/record.json'; "
        "rm /mnt/filled; "
        f"{SCRIPTS}/usernsctl ns remove name; }}"
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": "/mnt"}
    with un.Namespace.create(mount=True) as namespace:
        done = namespace.run(
            ["sh", "-c", script], stdout=un.PIPE, stderr=un.STDOUT, text=True, env=env
        )
    tally.tried(2)
    if '"pid"' in done.stdout:
        tally.succeeded("the record of a namespace")
    if not re.search("^name +[0-9]", done.stdout, re.MULTILINE):
        tally.succeeded("a namespace that nobody knows any more")
    assert "[bind-shows-state]" in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout


def test_hostile_bundle_shows_the_state(
    state: Path, tmp_path: Path, usernsctl: Any, tally: Any
) -> None:
    bundle = tmp_path.parent / f"{tmp_path.name}-bundle"
    (bundle / "rootfs").mkdir(parents=True)
    link = bundle / "data"
    link.symlink_to(state.parent)
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/shown", "type": "bind", "source": "data", "options": ["rbind", "rw"]}
        ],
    }
    (bundle / "config.json").write_text(json.dumps(config))
    tally.tried()
    done = usernsctl("run", "--bundle", bundle, env=dict(os.environ))
    if done.returncode != 125:
        tally.succeeded(done.stdout + done.stderr)
