"""Private Docker daemons for the tests, and functions that build images."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).parent.parent.parent
# Directory in which images and the build cache are kept between test runs.
CACHE = Path("/var/cache/usernsctl/docker")

_FORWARDS = Path("/proc/sys/net/ipv4/ip_forward")

# Warning that docker run prints on a host that forwards no packets. These tests need no forwarding.
_WARNING = "WARNING: IPv4 forwarding is disabled. Networking will not work.\n"

START_SECONDS = 60
STOP_SECONDS = 60
BUILD_SECONDS = 900

# Command line of a dockerd that creates no bridge or firewall rules and leaves packet forwarding
# unchanged.
_DAEMON = [
    "dockerd",
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--ip-forward=false",
    "--storage-driver=overlay2",
    "--log-level=warn",
]


class EngineError(Exception):
    """A Docker daemon or a docker command has failed."""


@dataclass(frozen=True)
class Engine:
    """A running Docker daemon.

    :ivar directory: the temporary directory with the daemon's socket and the settings of docker(1).
    """

    directory: Path

    def command(self, *arguments: str) -> list[str]:
        return ["docker", f"--host=unix://{self.directory}/socket", *arguments]

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_CONFIG": f"{self.directory}/client"}

    def __call__(
        self, *arguments: str, input: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a docker command in the source tree for at most `timeout` seconds.

        Docker's warning that the host forwards no packets is removed from standard error.
        """
        done = subprocess.run(
            self.command(*arguments),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=TREE,
            env=self.environ,
        )
        done.stderr = done.stderr.removeprefix(_WARNING)
        return done

    def must(self, *arguments: str, timeout: float = BUILD_SECONDS) -> str:
        """Run a docker command and check that it succeeds; return its output.

        :raises EngineError: the command fails.
        """
        done = self(*arguments, timeout=timeout)
        if done.returncode != 0:
            raise EngineError(f"docker {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def has(self, image: str) -> bool:
        return self("image", "inspect", image).returncode == 0

    def image_id(self, image: str) -> str:
        return self.must("image", "inspect", "--format={{.Id}}", image).strip()


def wait_for_output(engine: Engine, container: str) -> None:
    """Wait until a container has written output.

    :raises EngineError: the container has exited.
    """
    while not (written := engine("logs", container)).stdout:
        if engine.must("inspect", "--format={{.State.Running}}", container).strip() != "true":
            raise EngineError(f"{container} has ended: {written.stderr}")
        # Poll: docker logs --follow would not return before the container exits.
        time.sleep(0.1)


@contextlib.contextmanager
def started(name: str, *options: str) -> Iterator[Engine]:
    """Start a Docker daemon for the ``with`` block; then stop the daemon and check for leftovers.

    :param name: the name of the daemon's data directory, which only one daemon at a time can use.
    :raises EngineError: the daemon does not start, changes the host's packet forwarding, or leaves
        a process, mount or socket behind.
    """
    forwards = _FORWARDS.read_text()
    data = CACHE / name
    data.mkdir(parents=True, exist_ok=True)
    with (
        open(CACHE / f"{name}.lock", "w") as lock,
        tempfile.TemporaryDirectory(prefix="usernsctl-docker-") as scratch,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        # With userns-remap, the containers' root is an unprivileged user on the host, who must be
        # able to search the parent of --exec-root.
        os.chmod(scratch, 0o711)
        directory = Path(scratch)
        log = directory / "log"
        with open(log, "w") as output:
            daemon = subprocess.Popen(
                [
                    *_DAEMON,
                    f"--data-root={data}",
                    f"--exec-root={directory}/exec",
                    f"--host=unix://{directory}/socket",
                    f"--pidfile={directory}/pid",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        engine = Engine(directory)
        try:
            _wait_for(engine, daemon, log)
            if _FORWARDS.read_text() != forwards:
                raise EngineError(f"dockerd changed {_FORWARDS}, which was {forwards.strip()}")
            yield engine
        finally:
            _stop(engine, daemon)
            unmount_below(directory, data)


def _wait_for(engine: Engine, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while engine("version").returncode != 0:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise EngineError(f"dockerd did not start: {log.read_text()[-4000:]}")
        # Poll: the socket exists before the daemon answers.
        time.sleep(0.1)


def _stop(engine: Engine, daemon: subprocess.Popen[bytes]) -> None:
    if daemon.poll() is None:
        containers = engine("ps", "--all", "--quiet").stdout.split()
        if containers:
            engine("rm", "--force", *containers)
        daemon.terminate()
    try:
        daemon.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
        raise EngineError("dockerd did not end when told to") from None


def unmount_below(*directories: Path) -> None:
    """Unmount all that a Docker daemon has left mounted below `directories`."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    for point in sorted(points, reverse=True):
        if any(point.startswith(f"{directory}/") for directory in directories):
            subprocess.run(["umount", point], check=True)


def make_base(engine: Engine, image: str, suite: str) -> None:
    """Build a minimal Debian image with debootstrap, unless the daemon already has `image`.

    :raises EngineError: debootstrap fails.
    """
    if engine.has(image):
        return
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="base-") as root:
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", suite, root], capture_output=True, text=True
        )
        if made.returncode != 0:
            raise EngineError(f"debootstrap: {made.stderr}{made.stdout[-4000:]}")
        # All users must be able to search the image's root directory.
        os.chmod(root, 0o755)
        for kept in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(Path(root, kept))
        Path(root, "var/cache/apt/archives/partial").mkdir(parents=True)
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            done = subprocess.run(
                engine.command("import", "-", image),
                stdin=tar.stdout,
                capture_output=True,
                text=True,
                env=engine.environ,
            )
        if done.returncode != 0 or tar.returncode != 0:
            raise EngineError(f"docker import: {done.stderr}")


def build(engine: Engine, target: str, image: str, base: str, *options: str) -> None:
    """Build a target of Dockerfile.gvisor, with the host's CA certificates for pip.

    :param options: additional options of `docker build`.
    :raises EngineError: the build fails.
    """
    named = [f"--target={target}", f"--tag={image}", f"--build-arg=BASE={base}", *options]
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if certificates:
        named.append(f"--secret=id=ca,src={certificates}")
    # Build with the host's network, because the daemon has no bridge (--bridge=none).
    engine.must("build", "--network=host", "--file=Dockerfile.gvisor", *named, ".")


def hand_over(images: Sequence[str], source: Engine, target: Engine) -> None:
    """Copy images from one Docker daemon to another, unless `target` already has all of them.

    :raises EngineError: an image can't be copied.
    """
    if all(target.has(one) and target.image_id(one) == source.image_id(one) for one in images):
        return
    with subprocess.Popen(
        source.command("save", *images), stdout=subprocess.PIPE, env=source.environ
    ) as saving:
        done = subprocess.run(
            target.command("load", "--quiet"),
            stdin=saving.stdout,
            capture_output=True,
            text=True,
            env=target.environ,
        )
    if done.returncode != 0 or saving.returncode != 0:
        raise EngineError(f"docker load: {done.stderr}")
