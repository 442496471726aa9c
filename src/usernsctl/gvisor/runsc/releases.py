"""Releases of runsc: which one a program is, and what that release can and wants.

The only module that knows how they differ. A release is named by the day it was cut from gVisor's
sources. If it names no day, or a later day than all that are known here, it is treated as the
newest of these.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from usernsctl._lean import TYPE_CHECKING, dataclass
from usernsctl._system.paths import open_file
from usernsctl.errors import RunscError
from usernsctl.gvisor.runsc.command import INSTALL

if TYPE_CHECKING:
    import datetime

#: The variables that name runsc; the first that is set counts. Other programs take the second, too.
VARIABLES = ("USERNSCTL_RUNSC", "RUNSC_PATH")
VARIABLE = VARIABLES[0]

#: What is in the environment of a runsc that is only asked something.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_SECONDS = 10

# release-20260817.0, or 0.0~20240729.0 as Debian has it.
_DAY = r"\b(20\d{6})\.\d+"
_FIRST_LINE = r"runsc version (\S{1,100})"

_CACHE = "runsc-releases.json"
_CACHE_BYTES = 1 << 16
_CACHE_ENTRIES = 20

# Of these, the one that tells its release: the other has no libc, and no options.
_TELLS_RELEASE = "gvisor_sentry"

#: Releases of years before can start nothing in a user namespace that is prepared for them.
FIRST_YEAR = 2023

#: What releases can or want, each with the first that does (YYYYMMDD) and what it is. The days are
#: those of the first weekly release after the change in gVisor's sources.
ABILITIES = {
    "netstack-in-namespace": (
        20240812,
        "--network=sandbox in a prepared network namespace, without a look at its sysctls",
    ),
    "host-settings": (20241014, "--host-settings, which checks this machine's settings"),
    "exec-wants-cwd": (20241111, "exec --process refuses a file without cwd"),
    "overlay-size": (20250616, "--overlay2=root:memory,size=N"),
    "bounded-first": (
        20250818,
        "has the first command keep only capabilities of its bounding set, as execve(2) does",
    ),
    "deprecated-flags": (
        20260126,
        "a warning on standard error about each flag that will be removed",
    ),
    "devices-without-mode": (
        20260223,
        "accepts linux.devices without fileMode, which crashed runsc before",
    ),
    "terminals": (20260316, "if a stream is a terminal, it is a terminal inside, too"),
    "linux-4-19": (20260427, "uname says 4.19.0-gvisor, no longer 4.4.0"),
    "features": (20260511, "the command features, of the OCI runtime specification"),
    "side-directory": (20260721, "runs programs in gvisor-bin/ beside it, if they exist"),
    "null-netns": (20260810, "leaves a mount null-netns below --root"),
    "character-devices": (
        20260817,
        "a device that you bind is gVisor's own device, or can't be opened (ENXIO)",
    ),
    "side-programs": (20260831, "fails without its programs in gvisor-bin/"),
}


@dataclass(frozen=True, slots=True)
class Release:
    """A release of runsc.

    :ivar label: as ``runsc --version`` has it, such as ``"release-20260817.0"``.
    :ivar day: of its sources; ``None``: it does not say.
    """

    label: str
    day: datetime.date | None

    @classmethod
    def parse(cls, label: str) -> Release:
        """Read a label; anything is one."""
        import datetime
        import re

        found = re.search(_DAY, label)
        day = None
        if found:
            with contextlib.suppress(ValueError):
                day = datetime.date.fromisoformat(found[1])
        return cls(label, day)

    def has(self, ability: str) -> bool:
        """Whether it has one of :data:`ABILITIES`.

        :raises KeyError: there is no such ability.
        """
        since, _ = ABILITIES[ability]
        return self.day is None or int(self.day.strftime("%Y%m%d")) >= since

    def is_too_old(self) -> bool:
        """Whether it is known to lack what usernsctl needs."""
        return self.day is not None and self.day.year < FIRST_YEAR

    def age(self, today: datetime.date) -> int | None:
        """Its age in days; ``None`` if it does not tell its day."""
        return None if self.day is None else (today - self.day).days


def release_of(path: str, *, remember: bool = True) -> Release:
    """The release that a program is: what it has answered before, or answers now.

    A program is known again by path, device, inode, size and time of its last change.

    :param path: of runsc; absolute.
    :param remember: whether its answer is kept for the next time.
    :raises RunscError: it is no runsc (cause ``"not-runsc"``), or can't be looked at.
    """
    try:
        before = _identity(path)
        label = _remembered(path, before)
        if label is None:
            label = _ask(path)
            if remember and _identity(path) == before:
                _remember(path, before, label)
    except RunscError:
        raise
    except OSError as error:
        raise not_runsc(path, error.strerror or str(error), error.errno or 0) from error
    return Release.parse(label)


def _identity(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _ask(path: str) -> str:
    import subprocess

    try:
        answer = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            cwd="/",
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise not_runsc(path, "it does not answer --version") from error
    import re

    found = re.match(_FIRST_LINE, answer.stdout.decode(errors="replace"))
    if answer.returncode != 0 or found is None:
        raise not_runsc(path, "its answer to --version is not runsc's")
    return found[1]


def not_runsc(path: str, why: str, errno: int = 0) -> RunscError:
    """The error that a file is something else."""
    return RunscError(
        f"{path} is not gVisor's runsc: {why}",
        step="runsc",
        errno=errno,
        filename=path,
        cause="not-runsc",
        remedy=f"give the path of runsc by --runsc or {VARIABLE}. To install: {INSTALL}",
    )


# ---- what was answered before -------------------------------------------------------------------


@contextlib.contextmanager
def _cache_directory(*, make: bool) -> Iterator[int]:
    """A descriptor of the directory, which nobody but this user can write to.

    :raises OSError: there is none, and none can be made, or it is somebody else's, too.
    """
    top = os.environ.get("XDG_CACHE_HOME") or _home()
    # Root with the HOME of somebody else must not leave anything there.
    _check_ours(os.stat(top), top)
    path = os.path.join(top, "usernsctl" if "XDG_CACHE_HOME" in os.environ else ".cache/usernsctl")
    if make:
        os.makedirs(path, mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_ours(os.fstat(descriptor), path)
        yield descriptor
    finally:
        os.close(descriptor)


def _home() -> str:
    found = os.path.expanduser("~")
    if not os.path.isabs(found):
        raise FileNotFoundError("this user has no home directory")
    return found


def _check_ours(status: os.stat_result, path: str) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{path} is somebody else's, or others may write to it")


def _entries(directory: int) -> dict[str, list[object]]:
    """What is remembered; nothing if that can't be trusted or read."""
    import json

    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with (
        contextlib.suppress(OSError, ValueError, RecursionError),
        open_file(os.open(_CACHE, flags, dir_fd=directory)) as file,
    ):
        status = os.fstat(file.fileno())
        _check_ours(status, _CACHE)
        if stat.S_ISREG(status.st_mode) and status.st_size <= _CACHE_BYTES:
            found = json.loads(file.read(_CACHE_BYTES))
            if isinstance(found, dict):
                return found
    return {}


def _remembered(path: str, identity: list[int]) -> str | None:
    with contextlib.suppress(OSError, RuntimeError), _cache_directory(make=False) as directory:
        match _entries(directory).get(path):
            case [known, str(label)] if known == identity and len(label) <= 100:
                return label
    return None


def _remember(path: str, identity: list[int], label: str) -> None:
    """It is only a cache: where it can't be written, runsc is asked again."""
    import json

    with (
        contextlib.suppress(OSError, RuntimeError, UnicodeError),
        _cache_directory(make=True) as directory,
    ):
        kept = {key: value for key, value in _entries(directory).items() if key != path}
        latest = [*kept.items()][1 - _CACHE_ENTRIES :]
        text = json.dumps({**dict(latest), path: [identity, label]}).encode()
        name = f"{_CACHE}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
                file.write(text)
            os.replace(name, _CACHE, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            raise
