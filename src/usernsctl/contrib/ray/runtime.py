"""Ray's sandbox interface (``ray.experimental.sandbox``), implemented with usernsctl.

docs/ray.md lists the differences from Ray's own implementation.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray.experimental import sandbox as ray_sandbox
from ray.experimental.sandbox.config import parse_memory_bytes

from usernsctl.commands.popen import PIPE, TimeoutExpired
from usernsctl.errors import CommandError, SandboxEndedError, SandboxFileNotFoundError, UsernsError
from usernsctl.gvisor.sandbox.host_namespace import HostOptions
from usernsctl.gvisor.sandbox.sandbox import Sandbox

# Exit status, as in shells, for a command that can't be started.
_NOT_FOUND = 127
# Exit status, as in shells, for a command killed by signal N, minus N.
_SIGNALLED = 128

# If one of these steps of a start fails, exec_command() returns a result with exit status 127, as
# Ray's own backend does, instead of raising an exception.
_START_STEPS = ("chdir", "exec", "lookup")

# The annotation that selects where gVisor keeps writes to the root filesystem: in memory or in a
# file.
_OVERLAY = "dev.gvisor.spec.rootfs.overlay"


if TYPE_CHECKING:

    class _Base:
        """Stand-in for Ray's base classes, so that type checkers work without Ray."""

        def __init__(self, *arguments: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    _Images = _Base
    _Backend = _Base
    _Runtime = _Base
    _Actor = _Base
else:
    _Images = ray_sandbox.ImageManager
    _Backend = ray_sandbox.BaseSandboxBackend
    _Runtime = ray_sandbox.SandboxRuntime
    _Actor = ray_sandbox.Sandbox.__ray_actor_class__


class _ImageManager(_Images):
    """Ray's image manager, which also accepts the directory of a root filesystem as an image.

    Images are stored in a directory of this user. Ray's default is a directory below /tmp, which
    any user of the host could create first.
    """

    def __init__(self) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        super().__init__(os.path.join(cache, "usernsctl", "ray-images"))

    def pull_image(
        self, image: str, timeout_seconds: float = 120.0, instance_id: str | None = None
    ) -> str:
        """Return the directory of an image; download the image if necessary."""
        if os.path.isdir(image):
            return image
        os.makedirs(self.images_dir, mode=0o700, exist_ok=True)
        found: str = super().pull_image(image, timeout_seconds, instance_id)  # type: ignore[misc]
        return found

    def release_image(self, image: str, instance_id: str) -> None:
        """Let Ray remove an image from its cache, unless other sandboxes use the image."""
        if not os.path.isdir(image):
            super().release_image(image, instance_id)  # type: ignore[misc]

    def get_workdir(self, image: str) -> str | None:
        """Return the working directory of an image, or None if the image defines none."""
        return None if os.path.isdir(image) else super().get_workdir(image)  # type: ignore[misc]


class UsernsctlBackend(_Backend):
    """A backend for Ray's sandboxes that starts each as a :class:`usernsctl.Sandbox`.

    :param image_manager: an image manager of Ray.
    """

    def __init__(self, image_manager: Any = None) -> None:
        super().__init__(image_manager or _ImageManager())
        # Ray's actor reads the sandboxes' configuration from this attribute.
        self._sandbox_metadata: dict[str, dict[str, Any]] = {}

    def create_sandbox(self, config: Any) -> str:
        """Start a sandbox, and return its id.

        :param config: the configuration, a ``SandboxConfig`` of Ray.
        :raises SandboxTimeoutError: the sandbox did not start within ``config.timeout_seconds``.
        :raises SandboxCreationError: the sandbox could not be started.
        """
        name = f"ray-sandbox-{uuid.uuid4().hex[:12]}"
        if config.network not in ("none", "host"):
            raise ray_sandbox.SandboxCreationError(
                f"network={config.network!r} is not available with usernsctl: "
                "choose 'none' or 'host'"
            )
        with contextlib.ExitStack() as undo, _errors(ray_sandbox.SandboxCreationError):
            self.image_manager.pull_image(config.image, config.timeout_seconds, name)
            undo.callback(self.image_manager.release_image, config.image, name)
            box = Sandbox(
                None,
                id=name,
                timeout=config.timeout_seconds,
                env=config.env,
                **self._host_options(config, undo),
            )
            undo.callback(box.close)
            cwd = config.workdir or self.image_manager.get_workdir(config.image) or "/"
            if config.workdir:
                with tempfile.TemporaryDirectory() as empty:
                    os.chmod(empty, 0o777)  # noqa: S103
                    box.put(empty, config.workdir, merge=True, parents=True)
            self._sandbox_metadata[name] = {
                "config": config,
                "box": box,
                "cwd": cwd,
                "undo": undo.pop_all(),
            }
        return name

    def _host_options(self, config: Any, undo: contextlib.ExitStack) -> HostOptions:
        """Return the arguments of SandboxHost for a sandbox with the configuration `config`."""
        options: HostOptions = {"network": config.network, "limits": "best-effort"}
        if memory := parse_memory_bytes(config.memory):
            options["memory"] = memory
        if config.cpu:
            options["cpus"] = config.cpu
        if os.path.isdir(config.image):
            if config.capabilities is not None:
                raise ray_sandbox.SandboxCreationError(
                    f"capabilities needs an image, but {config.image!r} is a root filesystem"
                )
            if os.path.realpath(config.image) != "/":
                options["rootfs"] = config.image
            return options | HostOptions(writable_root=not config.readonly)
        bundle = tempfile.mkdtemp(prefix="usernsctl-ray-")
        undo.callback(shutil.rmtree, bundle, ignore_errors=True)
        self.image_manager.prepare_oci_bundle(
            root_dir=bundle,
            workdir_path=None,
            container_cwd="/",
            image=config.image,
            readonly=False,
            capabilities=config.capabilities,
            network=config.network,
            dns=config.dns,
            _oci_spec_transform_fn=lambda spec: _change(spec, config._oci_spec_transform_fn),
        )
        return options | HostOptions(bundle=bundle, trust=True)

    def delete_sandbox(self, sandbox_id: str) -> None:
        """Kill a sandbox, and remove its files. Does nothing if no sandbox has this id."""
        found = self._sandbox_metadata.pop(sandbox_id, None)
        if found is not None:
            found["undo"].close()

    def exec_command(
        self,
        sandbox_id: str,
        command: str | list[str],
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        shell: str | None = None,
        user: str | None = None,
    ) -> Any:
        """Run a command in a sandbox, and return its ``ExecResult``.

        The exit status is 127 if the command can't be started, and 128+N if signal N killed the
        command.

        :param command: a list of arguments, or a command line for the shell.
        :param timeout: the timeout, in seconds, after which the command and all processes that it
            has started are killed.
        :raises SandboxTimeoutError: the command took more than `timeout` seconds.
        :raises SandboxNotFoundError: no sandbox has this id.
        :raises SandboxExecError: the sandbox has ended, or an argument is wrong.
        """
        found = self._get(sandbox_id)
        argv = (
            command
            if isinstance(command, list)
            else [shell or found["config"].shell, "-c", command]
        )
        start = time.monotonic()
        status, out, err = _NOT_FOUND, "", ""
        with _errors(ray_sandbox.SandboxExecError):
            try:
                done = found["box"].run(
                    argv,
                    # If the user is a uid without a group, select gid 0, as runsc does.
                    user=f"{user}:0" if user is not None and user.isdigit() else user,
                    cwd=cwd or found["cwd"],
                    env=env,
                    timeout=timeout,
                    stdout=PIPE,
                    stderr=PIPE,
                    encoding="utf-8",
                    errors="replace",
                )
                status, out, err = done.returncode, done.stdout, done.stderr
            except CommandError as error:
                if isinstance(error, SandboxEndedError) or error.step not in _START_STEPS:
                    raise
                err = f"{error}\n"
        return ray_sandbox.ExecResult(
            exit_code=_SIGNALLED - status if status < 0 else status,
            stdout=out,
            stderr=err,
            duration_seconds=time.monotonic() - start,
        )

    def write_file(
        self, sandbox_id: str, path: str, content: str | bytes, append: bool = False
    ) -> None:
        """Write a file in a sandbox, and create missing directories above it.

        :param path: the path in the sandbox; a relative path starts at the working directory.
        :param bool append: whether to append to the existing content.
        :raises SandboxError: the file can't be written.
        """
        found = self._get(sandbox_id)
        inside = os.path.join(found["cwd"], path)
        data = content.encode() if isinstance(content, str) else bytes(content)
        with _errors(ray_sandbox.SandboxError):
            before = b""
            if append:
                with contextlib.suppress(SandboxFileNotFoundError):
                    before = found["box"].read_file(inside)
            found["box"].write_file(inside, before + data, parents=True)

    def read_file(self, sandbox_id: str, path: str) -> bytes:
        """Return the content of a file in a sandbox.

        :param path: the path in the sandbox; a relative path starts at the working directory.
        :raises SandboxError: the file can't be read.
        """
        found = self._get(sandbox_id)
        with _errors(ray_sandbox.SandboxError):
            content: bytes = found["box"].read_file(os.path.join(found["cwd"], path))
        return content

    def get_status(self, sandbox_id: str) -> Any:
        """Return the state of a sandbox, a ``SandboxStatus``."""
        found = self._sandbox_metadata.get(sandbox_id)
        is_running = found is not None and found["box"].poll() is None
        states = ray_sandbox.SandboxStatus
        return states.RUNNING if is_running else states.TERMINATED

    def _get(self, sandbox_id: str) -> dict[str, Any]:
        found = self._sandbox_metadata.get(sandbox_id)
        if found is None:
            raise ray_sandbox.SandboxNotFoundError(f"there is no sandbox {sandbox_id!r}")
        return found


def _change(spec: dict[str, Any], change: Any) -> Any:
    """Keep writes to the root filesystem in memory (gVisor's overlay), then call `change`.

    :param spec: the config.json of the sandbox.
    :param change: the function that changes the config.json, or None.
    """
    spec["annotations"][_OVERLAY] = "memory"
    return change(spec) if change else None


@contextlib.contextmanager
def _errors(kind: Any) -> Iterator[None]:
    """Convert an exception from the body of the ``with`` statement to one of Ray's interface.

    :param kind: the class of the resulting exception. A timeout always raises SandboxTimeoutError.
    """
    try:
        yield
    except TimeoutExpired as error:
        raise ray_sandbox.SandboxTimeoutError(
            f"the time limit of {error.timeout:g} s was reached"
        ) from error
    except (UsernsError, TypeError, ValueError) as error:
        remedy = getattr(error, "remedy", None)
        raise kind(f"{error}; remedy: {remedy}" if remedy else str(error)) from error


class UsernsctlRuntime(_Runtime):
    """Ray's ``SandboxRuntime`` with :class:`UsernsctlBackend` as its backend.

    In contrast to Ray's own class, `image` may be the directory of a root filesystem, such as
    ``"/"``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._image_manager = _ImageManager()
        self._backend = UsernsctlBackend(self._image_manager)


class RaySandbox(_Actor):
    """Ray's actor class ``Sandbox`` with :class:`UsernsctlRuntime` as its runtime.

    :param str image: the name of an image, or an archive or the directory of a root filesystem.
    :param cpu: the number of CPUs; by default the number that the actor reserves.
    :param memory: the memory limit, a number of bytes or a text such as ``"1Gi"``; by default the
        limit of the actor.
    :param options: the other arguments of ``SandboxRuntime.create``.
    """

    def __init__(
        self,
        image: str,
        cpu: float | None = None,
        memory: str | float | None = None,
        **options: Any,
    ) -> None:
        assigned = ray.get_runtime_context().get_assigned_resources()
        self.runtime: UsernsctlRuntime = UsernsctlRuntime()
        self.instance_id: str = self.runtime.create(
            image=image,
            cpu=cpu or assigned.get("CPU", 0),
            memory=int(assigned.get("memory", 0)) if memory is None else memory,
            **options,
        )


def create(
    image: str,
    cpu: float | None = None,
    memory: str | float | None = None,
    resources: dict[str, float] | None = None,
    **options: Any,
) -> Any:
    """Start a sandbox on a node of the cluster, like ``ray.experimental.sandbox.create``.

    :param image: see :class:`RaySandbox`.
    :param cpu: the number of CPUs.
    :param memory: the memory limit, a number of bytes or a text such as ``"1Gi"``.
    :param resources: custom resources that the actor takes.
    :param options: the other arguments of ``ray.experimental.sandbox.create``.
    :returns: the handle of the actor, which has the methods of Ray's ``Sandbox``.
    """
    actor: dict[str, Any] = {}
    if cpu is not None:
        actor["num_cpus"] = cpu
    if number := parse_memory_bytes(memory):
        actor["memory"] = number
    if resources:
        actor["resources"] = resources
    remote = ray.remote(RaySandbox).options(**actor)
    return remote.remote(image=image, cpu=cpu, memory=memory, **options)
