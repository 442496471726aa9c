"""Tests of usernsctl's implementation of Ray's sandbox interface."""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from on_ray.conftest import ThreeNodes, kernels, sandbox_processes
from processes import wait_until
from ray.experimental import sandbox as ray_sandbox

from usernsctl.contrib.ray import UsernsctlRuntime, create

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def runtime_of_ray() -> Iterator[UsernsctlRuntime]:
    runtime = UsernsctlRuntime()
    yield runtime
    for name in list(runtime.backend._sandbox_metadata):
        runtime.delete(name)
    wait_until(lambda: not kernels(), explain=sandbox_processes)


@pytest.fixture
def box(runtime_of_ray: UsernsctlRuntime) -> tuple[UsernsctlRuntime, str]:
    name = runtime_of_ray.create("/", env={"SET": "by the sandbox"}, workdir="/work")
    return runtime_of_ray, name


def test_runtime_executes_commands(box: tuple[UsernsctlRuntime, str]) -> None:
    runtime, name = box
    done = runtime.exec(name, "pwd; echo $SET $OWN; echo error >&2; exit 3", env={"OWN": "and own"})
    assert isinstance(done, ray_sandbox.ExecResult)
    assert (done.exit_code, done.stdout) == (3, "/work\nby the sandbox and own\n")
    assert done.stderr == "error\n"
    assert done.duration_seconds > 0
    assert runtime.exec(name, ["pwd"], cwd="/tmp").stdout == "/tmp\n"
    assert runtime.exec(name, "echo $0", shell="/bin/sh").stdout == "/bin/sh\n"
    assert runtime.exec(name, "kill -9 $$").exit_code == 128 + 9
    assert runtime.exec(name, "id -u; id -g", user="12:34").stdout == "12\n34\n"
    assert runtime.exec(name, "id -g", user="12").stdout == "0\n"
    assert runtime.exec(name, ["printf", r"\377"]).stdout == "\ufffd"
    missing = runtime.exec(name, ["no-such-command"])
    assert missing.exit_code == 127
    assert "no-such-command" in missing.stderr
    with pytest.raises(ray_sandbox.SandboxExecError, match="no-such-user"):
        runtime.exec(name, "id", user="no-such-user")


def test_runtime_timeout_kills_all_processes(box: tuple[UsernsctlRuntime, str]) -> None:
    runtime, name = box
    start = time.monotonic()
    with pytest.raises(ray_sandbox.SandboxTimeoutError, match="1 s"):
        runtime.exec(name, "sleep 1000 & sleep 1000", timeout=1)
    assert time.monotonic() - start < 60
    left = runtime.exec(name, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert "sleep 1000" not in left.replace("sleep 1000' ", "")


def test_runtime_reads_writes_and_copies_files(
    box: tuple[UsernsctlRuntime, str], tmp_path: Path
) -> None:
    runtime, name = box
    runtime.write_file(name, "new/file", "one\n")
    runtime.write_file(name, "/work/new/file", b"two\n", append=True)
    assert runtime.read_file(name, "new/file") == b"one\ntwo\n"
    runtime.download_file(name, "new/file", str(tmp_path / "deep" / "copy"))
    runtime.upload_file(name, str(tmp_path / "deep" / "copy"), "/tmp/copy")
    assert runtime.exec(name, "cat /tmp/copy", user="1000").stdout == "one\ntwo\n"
    with pytest.raises(ray_sandbox.SandboxError, match="/no/such/file"):
        runtime.read_file(name, "/no/such/file")
    with pytest.raises(ray_sandbox.SandboxError, match="/proc/new"):
        runtime.write_file(name, "/proc/new", "text")


def test_runtime_reports_ended_and_deleted_sandboxes(box: tuple[UsernsctlRuntime, str]) -> None:
    runtime, name = box
    states = ray_sandbox.SandboxStatus
    assert runtime.get_status(name) is states.RUNNING
    for pid in kernels():
        os.kill(pid, 9)
    wait_until(lambda: runtime.get_status(name) is states.TERMINATED)
    with pytest.raises(ray_sandbox.SandboxExecError, match="ended"):
        runtime.exec(name, "true")
    runtime.delete(name)
    runtime.delete(name)
    assert runtime.get_status(name) is states.TERMINATED
    for call in (
        lambda: runtime.exec(name, "true"),
        lambda: runtime.read_file(name, "/a"),
        lambda: runtime.write_file(name, "/a", ""),
    ):
        with pytest.raises(ray_sandbox.SandboxNotFoundError, match=name):
            call()


def test_runtime_ends_sandboxes_after_their_ttl(runtime_of_ray: UsernsctlRuntime) -> None:
    name = runtime_of_ray.create("/", ttl_seconds=1)
    wait_until(lambda: runtime_of_ray.get_status(name) is ray_sandbox.SandboxStatus.TERMINATED)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"network": "public"}, ray_sandbox.SandboxCreationError, "choose 'none' or 'host'"),
        ({"network": "wrong"}, ValueError, "wrong"),
        ({"capabilities": []}, ray_sandbox.SandboxCreationError, "capabilities needs an image"),
        ({"memory": "1Mi"}, ray_sandbox.SandboxCreationError, "memory"),
        ({"env": {"A=B": ""}}, ray_sandbox.SandboxCreationError, "'A', with a ="),
        ({"image": "/no/such/image.tar"}, ray_sandbox.SandboxCreationError, "not found"),
        ({"timeout_seconds": 0.001}, ray_sandbox.SandboxTimeoutError, "0.001 s"),
    ],
)
def test_runtime_refuses_invalid_arguments(
    runtime_of_ray: UsernsctlRuntime, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        runtime_of_ray.create(**{"image": "/", **options})
    assert runtime_of_ray.backend._sandbox_metadata == {}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Create an archive of a root filesystem with those host programs that the tests use."""
    tree = tmp_path / "tree"
    for name in ("bin", "etc", "tmp", "lib", "lib64"):
        (tree / name).mkdir(parents=True)
    for program in ("sh", "cat", "touch", "true"):
        found = shutil.which(program)
        assert found is not None
        shutil.copy(os.path.realpath(found), tree / "bin" / program)
    for library in ("libc.so.6", "ld-linux-x86-64.so.2"):
        source = next(Path("/usr/lib").rglob(library))
        shutil.copy(source, tree / "lib" / library)
        shutil.copy(source, tree / "lib64" / library)

    def of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        return entry

    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        tar.add(tree, arcname=".", filter=of_root)
    return tmp_path / "image.tar"


@pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="Ray needs mkfs.erofs for images")
def test_runtime_starts_sandboxes_from_an_image(
    runtime_of_ray: UsernsctlRuntime, archive: Path
) -> None:
    env = {"PATH": "/bin", "LD_LIBRARY_PATH": "/lib"}
    first, second = (
        runtime_of_ray.create(str(archive), env=env, memory="300Mi", readonly=readonly)
        for readonly in (False, True)
    )
    touched = runtime_of_ray.exec(first, "touch /bin/new && cat /etc/hosts", shell="/bin/sh")
    assert (touched.exit_code, "localhost" in touched.stdout) == (0, True), touched
    assert runtime_of_ray.exec(second, ["cat", "/bin/new"]).exit_code == 1


def test_runtime_sandboxes_work_as_ray_actors(nodes: ThreeNodes) -> None:
    made: Callable[..., Any] = create
    sandbox = made("/", cpu=1, memory="200Mi", resources={"sandboxes": 1})
    done = ray.get(sandbox.exec.remote("echo hello"), timeout=120)
    assert (done.exit_code, done.stdout) == (0, "hello\n")
    assert ray.get(sandbox.get_config.remote()).memory == "200Mi"
    ray.get(sandbox.write_file.remote("/tmp/file", "content"))
    assert ray.get(sandbox.read_file.remote("/tmp/file")) == b"content"
    assert kernels()
    ray.get(sandbox.delete.remote())
    wait_until(lambda: not kernels())
    left = made("/")
    ray.get(left.get_instance_id.remote(), timeout=120)
    assert kernels()
    ray.kill(left)
