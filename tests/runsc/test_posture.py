"""Tests of the attributes and descriptors of a sandbox's processes, as seen from the host.

`tests/posture_table.py` contains the expected values. The tests fail if the table lacks a process
or an attribute.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from callers import may_map_any_id, several_ids
from conftest import SCRIPTS, Program
from frozen import freeze
from posture import Caller, Family, Posture, family_of, lasting_differences
from posture_table import (
    DETACHED,
    HELD,
    HELD_WITH_BINDS,
    POOLED,
    RESTORED,
    RESTORED_DETACHED,
    RUN,
    RUN_IN_KEPT,
    RUN_WITH_BINDS,
    RUN_WITH_EXPOSED_ROOT,
    RUN_WITH_NETWORK,
    RUN_WITH_SEVERAL_IDS,
)

import usernsctl as un
from usernsctl.namespaces.named import find_named

pytestmark = pytest.mark.also_root

# Timeout for a start, in seconds.
PATIENCE = 20
# Timeout for the disappearance of short-lived processes and mounts, in seconds.
SETTLING = 30

# Secrets that only the command in the sandbox may read.
SECRETS = {"SECRET": "in the environment", "TOKEN": "handed over", "argument": "of the command"}
COMMAND = ["sh", "-c", f"echo ready; : {SECRETS['argument']}; read line"]


@dataclass
class Scene:
    """Caller of a sandbox, with its secrets and with the descriptors for the command."""

    caller: Caller
    directory: Path
    streams: dict[str, int]
    secret: int
    output: int

    def wait_until_ready(self) -> None:
        ready, _, _ = select.select([self.output], [], [], PATIENCE)
        assert ready, (self.directory / "err").read_text()
        assert os.read(self.output, 6) == b"ready\n"

    def check(self, expected: Mapping[str, Posture], look: Callable[[], Iterable[int]]) -> None:
        found = lasting_differences(expected, lambda: Family(self.caller, look()), SETTLING)
        assert not found, "\n".join(["", *found])


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    for name in ("home", "runtime", "shown", "open"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("SECRET", SECRETS["SECRET"])
    monkeypatch.setenv("TOKEN", SECRETS["TOKEN"])
    with contextlib.ExitStack() as undo:

        def own(*descriptors: int) -> tuple[int, ...]:
            for descriptor in descriptors:
                undo.callback(os.close, descriptor)
            return descriptors

        stdin, _ = own(*os.pipe())
        output, stdout = own(*os.pipe())
        (stderr,) = own(os.open(tmp_path / "err", os.O_CREAT | os.O_APPEND | os.O_WRONLY))
        (secret,) = own(os.open(tmp_path / "home", os.O_RDONLY))
        os.set_inheritable(secret, True)
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        secrets = {**SECRETS, "home": str(tmp_path / "home")}
        caller = Caller({**streams, "secret": secret}, secrets, ["/shown", "/open"])
        yield Scene(caller, tmp_path, streams, secret, output)


@contextlib.contextmanager
def start_run(scene: Scene, *options: str) -> Iterator[int]:
    """Start `usernsctl run` with `options`; yield the pid of usernsctl."""
    argv = [str(SCRIPTS / "usernsctl"), "run", *options, "--", *COMMAND]
    with start_command(scene, argv) as pid:
        yield pid


@contextlib.contextmanager
def start_launch(scene: Scene, *options: str) -> Iterator[int]:
    """Freeze a launch with `options` and start it with usernsctl-exec; yield the pid."""
    file = freeze(scene.directory / "launch", *options)
    argv = [str(SCRIPTS / "usernsctl-exec"), "--launch", str(file), "--", *COMMAND]
    with start_command(scene, argv) as pid:
        yield pid


@contextlib.contextmanager
def start_command(scene: Scene, argv: list[str]) -> Iterator[int]:
    process = subprocess.Popen(argv, **scene.streams, pass_fds=[scene.secret])
    try:
        scene.wait_until_ready()
        yield process.pid
    finally:
        process.kill()
        process.wait(PATIENCE)


Start = Callable[..., contextlib.AbstractContextManager[int]]
STARTS = (start_run, start_launch)

several = (
    ["--map-users=1:100001:9", "--map-groups=1:100001:9"] if may_map_any_id() else ["--map-auto"]
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param([], RUN, id="plain"),
        pytest.param(["--env", "TOKEN"], RUN, id="env"),
        pytest.param(["--env-all"], RUN, id="env-all"),
        pytest.param(["--network=host"], RUN_WITH_NETWORK, id="network"),
        pytest.param(["--expose-root"], RUN_WITH_EXPOSED_ROOT, id="expose-root"),
        pytest.param(several, RUN_WITH_SEVERAL_IDS, id="several-ids", marks=several_ids),
    ],
)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.sampled
def test_processes_of_run_have_the_expected_attributes(
    scene: Scene, options: list[str], expected: Mapping[str, Posture], start: Start
) -> None:
    with start(scene, *options) as pid:
        scene.check(expected, lambda: family_of(pid))


@pytest.mark.parametrize("start", STARTS)
def test_processes_of_run_with_binds_have_the_expected_attributes(
    scene: Scene, start: Start
) -> None:
    binds = [f"--bind={scene.directory}/shown:/shown", f"--bind={scene.directory}/open:/open:rw"]
    with start(scene, *binds) as pid:
        scene.check(RUN_WITH_BINDS, lambda: family_of(pid))


def test_processes_of_run_in_a_named_namespace_have_the_attributes(
    scene: Scene, usernsctl: Program
) -> None:
    made = usernsctl("ns", "create", "kept", "-r")
    assert made.returncode == 0, made.stderr
    try:
        holder = find_named("kept").pid
        with start_run(scene, "--in", "kept") as pid:
            scene.check(RUN_IN_KEPT, lambda: [holder, *family_of(pid)])
    finally:
        usernsctl("ns", "remove", "kept")


@pytest.mark.parametrize(
    ("binds", "expected"),
    [pytest.param(False, HELD, id="plain"), pytest.param(True, HELD_WITH_BINDS, id="binds")],
)
def test_processes_of_a_host_have_the_expected_attributes(
    scene: Scene, binds: bool, expected: Mapping[str, Posture]
) -> None:
    asked = [
        un.Bind(str(scene.directory / "shown"), "/shown"),
        un.Bind(str(scene.directory / "open"), "/open", read_only=False),
    ]
    with (
        un.SandboxHost(binds=asked if binds else []) as host,
        host.start(COMMAND, **scene.streams) as box,
    ):
        scene.wait_until_ready()
        scene.check(expected, lambda: family_of(box.init.pid))


def test_processes_of_a_pool_have_the_expected_attributes(scene: Scene) -> None:
    with un.SandboxHost() as host, host.pool(1, limit=1) as pool, pool.acquire(PATIENCE) as box:
        scene.check(POOLED, lambda: family_of(box.init.pid))


def test_processes_of_a_detached_sandbox_have_the_attributes(scene: Scene) -> None:
    def family() -> Iterator[int]:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"posture-detached" in path.read_bytes():
                    yield from family_of(int(path.parent.name))

    detached = {"id": "posture-detached", "detach": True}
    with un.SandboxHost() as host, host.start(COMMAND, **detached, **scene.streams):
        scene.wait_until_ready()
        scene.check(DETACHED, family)


def continue_command(scene: Scene) -> None:
    """Write a line to a restored command; wait until the command has read it."""
    with open(f"/proc/self/fd/{scene.streams['stdin']}", "wb", buffering=0) as input:
        input.write(b"\n")
    scene.wait_until_ready()


@pytest.mark.parametrize("detach", [False, True], ids=["held", "detached"])
def test_processes_of_a_template_have_the_expected_attributes(scene: Scene, detach: bool) -> None:
    id = f"posture-restored-{detach}"

    def family() -> Iterator[int]:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"/boxes/{id}".encode() in path.read_bytes():
                    yield from family_of(int(path.parent.name))

    command = ["sh", "-c", f"echo saved; read line; {COMMAND[-1]}"]
    with (
        un.SandboxHost() as host,
        host.template(command, ready="saved") as template,
        template.start(id=id, detach=detach, **scene.streams) as box,
    ):
        continue_command(scene)
        if detach:
            scene.check(RESTORED_DETACHED, family)
        else:
            scene.check(RESTORED, lambda: family_of(box.init.pid))
