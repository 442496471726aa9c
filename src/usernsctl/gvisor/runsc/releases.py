"""Releases of runsc: the differences between them, and detection of a program's release.

The name of a release contains the day on which it was cut from gVisor's sources. A release whose
name contains no day is treated as having all ABILITIES.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Iterator

from usernsctl._lean import TYPE_CHECKING, dataclass
from usernsctl._system.descriptors import empty_input, seconds_left, wait_readable
from usernsctl._system.paths import OpenFile, open_file
from usernsctl._system.target import OwnNamespaces
from usernsctl.errors import RunscError
from usernsctl.gvisor.runsc.command import not_runsc

if TYPE_CHECKING:
    import datetime

    from usernsctl.commands.popen import Popen

#: The environment in which ``runsc --version`` is executed.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
# The default timeout of ``runsc --version``, in seconds.
_SECONDS = 10.0
# The timeout for a killed process to exit, in seconds.
_KILL_SECONDS = 2
# The maximum number of bytes to read of the output of ``runsc --version``. runsc itself prints
# about 60 bytes, but a crash prints the stacks of all goroutines.
_OUTPUT_MAX = 1 << 16

# Errnos of a failed program start that mean a lack of resources, with the ids of their causes.
_NO_RESOURCE = {errno.EMFILE: "descriptor-limit", errno.EAGAIN: "process-limit"}

# A pattern for the day in release-20260817.0, and in Debian's 0.0~20240729.0.
_DAY = r"\b(20\d{6})\.\d+"
# A pattern for the line with the release in the output of ``runsc --version``. Warnings may come
# before that line: if membarrier(2) fails, gVisor's runsc logs that to standard error.
_VERSION_LINE = r"(?m)^runsc version (\S{1,100})"

_CACHE = "runsc-releases.json"
_CACHE_BYTES = 1 << 16
_CACHE_ENTRIES = 20

#: The year of the first usable releases: older releases can't run in a prepared user namespace.
FIRST_YEAR = 2023

#: Differences between releases, each with the first release that has the ability (YYYYMMDD), and a
#: description. The first release is the first weekly release after the change in gVisor's sources.
ABILITIES = {
    "netstack-in-namespace": (
        20240812,
        "allows --network=sandbox in a prepared network namespace, without a check of its sysctls",
    ),
    "host-settings": (20241014, "--host-settings, which checks this machine's settings"),
    "exec-wants-cwd": (20241111, "exec --process rejects a file without cwd"),
    "overlay-size": (20250616, "--overlay2=root:memory,size=N"),
    "bounded-first": (
        20250818,
        "limits the first command's capabilities to its bounding set, as execve(2) does",
    ),
    "deprecated-flags": (
        20260126,
        "prints a warning to standard error for each flag that will be removed",
    ),
    "devices-without-mode": (
        20260223,
        "accepts linux.devices without fileMode, which crashed runsc before",
    ),
    "terminals": (
        20260316,
        "a standard stream that is a terminal outside is a terminal inside, too",
    ),
    "linux-4-19": (20260427, "uname -r prints 4.19.0-gvisor instead of 4.4.0"),
    "features": (20260511, "the command features, of the OCI runtime specification"),
    "side-directory": (20260721, "runs the programs in gvisor-bin/, next to runsc, if they exist"),
    "null-netns": (20260810, "does not remove a mount null-netns below --root"),
    "character-devices": (
        20260817,
        "a device in a bind mount is gVisor's own device, or can't be opened (ENXIO)",
    ),
    "side-programs": (20260831, "fails without its programs in gvisor-bin/"),
}


@dataclass(frozen=True, slots=True)
class Release:
    """A release of runsc.

    :ivar label: the release as ``runsc --version`` prints it, such as ``"release-20260817.0"``.
    :ivar day: the day on which the release was cut from the sources, or ``None`` if the label has
        no day.
    """

    label: str
    day: datetime.date | None

    @classmethod
    def parse(cls, label: str) -> Release:
        """Parse the label of a release; any text is a valid label."""
        import datetime
        import re

        found = re.search(_DAY, label)
        day = None
        if found:
            with contextlib.suppress(ValueError):
                day = datetime.date.fromisoformat(found[1])
        return cls(label, day)

    def has(self, ability: str) -> bool:
        """Return whether the release has an ability, which is a key of :data:`ABILITIES`.

        :raises KeyError: no ability has this name.
        """
        since, _ = ABILITIES[ability]
        return self.day is None or int(self.day.strftime("%Y%m%d")) >= since

    def is_too_old(self) -> bool:
        """Return whether the release is known to lack a feature that usernsctl needs."""
        return self.day is not None and self.day.year < FIRST_YEAR

    def age(self, today: datetime.date) -> int | None:
        """Return the release's age in days, or None if its label has no day."""
        return None if self.day is None else (today - self.day).days


def release_of(path: str, *, remember: bool = True, seconds: float | None = None) -> Release:
    """Return the release of a runsc program, from the cache or from ``runsc --version``.

    The cache identifies a program by its path, device, inode, size and modification time.

    :param path: the absolute path of runsc.
    :param remember: whether to add the release to the cache if it is absent.
    :param seconds: the timeout of ``runsc --version``, in seconds, by default 10.
    :raises RunscError: the program is not runsc (cause ``"not-runsc"``), or can't be read.
    """
    try:
        before = _identity(path)
        label = _cached_label(path, before)
        if label is None:
            label = _query_label(path, _SECONDS if seconds is None else seconds)
            if remember and _identity(path) == before:
                _cache_label(path, before, label)
    except RunscError:
        raise
    except OSError as error:
        raise _query_error(path, error) from error
    return Release.parse(label)


def _query_error(path: str, error: OSError) -> RunscError:
    """Return the error for a ``runsc --version`` that could not be started."""
    if error.errno not in _NO_RESOURCE:
        return not_runsc(path, error.strerror or str(error), error.errno or 0)
    what, cause = f"{path} --version", _NO_RESOURCE[error.errno]
    return RunscError.from_os_error(error, what, step="runsc", filename=path, cause=cause)


def _identity(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _query_label(path: str, seconds: float) -> str:
    import re
    import signal

    output, status = _run_version(path, seconds)
    found = re.search(_VERSION_LINE, output.decode(errors="replace"))
    if status == 0 and found is not None:
        return found[1]
    from usernsctl.explain.logs import only_cause

    # In practice, only a seccomp filter causes SIGSYS. After another exit status, search the output
    # for a cause: the program may be a wrapper around a runsc that crashed, as for lack of memory.
    cause = "seccomp-denies-call" if status == -signal.SIGSYS else only_cause(output)
    if cause:
        raise RunscError(f"{path} --version failed", step="runsc", filename=path, cause=cause)
    raise not_runsc(path, "the output of --version is not runsc's")


def _run_version(path: str, seconds: float) -> tuple[bytes, int | None]:
    """Run ``runsc --version``, and return its output and its exit status.

    The exit status is None if the program was killed because it printed at least _OUTPUT_MAX bytes.

    :raises RunscError: the program did not exit within `seconds`.
    """
    import signal
    import time

    from usernsctl.commands.popen import PIPE, STDOUT, Popen, TimeoutExpired

    deadline = time.monotonic() + seconds
    with empty_input() as nothing:
        process = Popen[bytes](
            [path, "--version"],
            namespace=OwnNamespaces(),
            stdin=nothing,
            stdout=PIPE,
            stderr=STDOUT,
            env=_ENVIRONMENT,
            cwd="/",
            # Start a new session, so that all processes of a wrapper can be killed as a process
            # group.
            start_new_session=True,
            # If this process is killed, nothing else kills the new session.
            pdeathsig=signal.SIGKILL,
        )
    with _killed(process):
        assert process.stdout is not None
        pipe, output = process.stdout.fileno(), b""
        while wait_readable(pipe, process.pidfd, timeout=seconds_left(deadline)):
            # Do not wait for end of file after the program's exit: a child that another thread has
            # forked may keep the pipe open.
            if not wait_readable(pipe, timeout=0):
                return output, process.wait()
            block = os.read(pipe, _OUTPUT_MAX - len(output))
            output += block
            if len(output) == _OUTPUT_MAX:
                return output, None
            if not block:
                with contextlib.suppress(TimeoutExpired):
                    return output, process.wait(seconds_left(deadline))
                break
    raise not_runsc(path, f"--version did not end within {round(seconds, 1):g} seconds")


@contextlib.contextmanager
def _killed(process: Popen[bytes]) -> Iterator[None]:
    """Kill the process group of `process` after the ``with`` body, unless `process` was reaped.

    A process with another user's uid, such as a set-user-id program, may survive.
    """
    import signal

    from usernsctl.commands.popen import TimeoutExpired

    try:
        yield
    finally:
        assert process.stdout is not None
        process.stdout.close()
        # While the process has not been reaped, its pid can't be reused, so it is the id of the
        # process group.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutExpired):
                process.wait(_KILL_SECONDS)


# ---- the cache of releases of programs -----------------------------------------------------------


@contextlib.contextmanager
def _cache_directory(*, make: bool) -> Iterator[int]:
    """Yield a descriptor of the cache directory, to which only this user may write.

    :raises OSError: the directory is missing and can't be created, or other users may write to it.
    """
    top = os.environ.get("XDG_CACHE_HOME") or _home()
    # Reject a home directory of another user: with sudo, root would create files in it.
    _check_ours(os.stat(top), top)
    path = os.path.join(top, "usernsctl" if "XDG_CACHE_HOME" in os.environ else ".cache/usernsctl")
    if make:
        os.makedirs(path, mode=0o700, exist_ok=True)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with OpenFile.own(path, os.open, path, flags) as opened:
        _check_ours(os.fstat(opened.fd), path)
        yield opened.fd


def _home() -> str:
    found = os.path.expanduser("~")
    if not os.path.isabs(found):
        raise FileNotFoundError("this user has no home directory")
    return found


def _check_ours(status: os.stat_result, path: str) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{path} belongs to another user, or other users may write to it")


def _entries(directory: int) -> dict[str, list[object]]:
    """Return the entries of the cache; empty if the file can't be read or trusted."""
    import json

    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with (
        contextlib.suppress(OSError, ValueError, RecursionError),
        open_file(_CACHE, flags, directory) as file,
    ):
        status = os.fstat(file.fileno())
        _check_ours(status, _CACHE)
        if stat.S_ISREG(status.st_mode) and status.st_size <= _CACHE_BYTES:
            found = json.loads(file.read(_CACHE_BYTES))
            if isinstance(found, dict):
                return found
    return {}


def _cached_label(path: str, identity: list[int]) -> str | None:
    with contextlib.suppress(OSError, RuntimeError), _cache_directory(make=False) as directory:
        match _entries(directory).get(path):
            case [known, str(label)] if known == identity and len(label) <= 100:
                return label
    return None


def _cache_label(path: str, identity: list[int], label: str) -> None:
    """Add a label to the cache. Ignore errors: ``runsc --version`` can be executed again."""
    import json

    with (
        contextlib.suppress(OSError, RuntimeError, UnicodeError),
        _cache_directory(make=True) as directory,
    ):
        kept = {key: value for key, value in _entries(directory).items() if key != path}
        latest = [*kept.items()][1 - _CACHE_ENTRIES :]
        text = json.dumps({**dict(latest), path: [identity, label]}).encode()
        name = f"{_CACHE}.{os.getpid()}"
        opener = functools.partial(os.open, mode=0o600, dir_fd=directory)
        try:
            with open(name, "xb", opener=opener) as file:
                file.write(text)
            os.replace(name, _CACHE, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            raise
