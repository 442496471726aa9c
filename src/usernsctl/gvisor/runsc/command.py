"""Command lines of runsc, and the paths of its log files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from usernsctl._lean import Literal, dataclass
from usernsctl.errors import RunscError

# The umask of runsc, because runsc's state and logs may contain secrets of the command.
PRIVATE_UMASK = 0o077

Network = Literal["none", "host", "private"]
Platform = Literal["systrap", "ptrace", "kvm"]
NETWORKS: tuple[Network, ...] = ("none", "host", "private")
PLATFORMS: tuple[Platform, ...] = ("systrap", "ptrace", "kvm")

# Exit statuses of `runsc run` after an error of runsc, and after a crash of runsc (a panic of a Go
# program). A command in the sandbox may exit with the same statuses.
FAILED = 128
CRASHED = 2

#: The exit status of usernsctl-init and usernsctl-detach for a sandbox that has exceeded a timeout.
TIME_IS_OVER = 124

_SIGNAL_MAX = 64


def returncode_of(status: int) -> int:
    """Convert an exit status of runsc to a return code as in :mod:`subprocess`.

    runsc exits with 128+N if signal N has killed the command, but a command may exit with the same
    status.
    """
    return 128 - status if 128 < status <= 128 + _SIGNAL_MAX else status


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """Absolute paths of runsc's log files.

    :ivar errors: the file for the fatal errors of all processes of runsc (``--log``).
    :ivar crash: the file for Go's report of a crashed process (``--panic-log``).
    :ivar debug: the files for all other messages (``--debug-log``); runsc replaces ``%COMMAND%`` by
        the name of the process: run, boot or gofer.
    """

    errors: str
    crash: str
    debug: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options for the command line of ``runsc run`` or ``runsc restore``.

    :ivar state: the directory for runsc's own state, an absolute path (``--root``).
    :ivar bundle: the directory with config.json, an absolute path.
    :ivar container_id: an id that is unique in `state`.
    :ivar network: one of :data:`NETWORKS`; runsc uses the network namespace in which it runs for
        every network but ``none``.
    :ivar platform: one of :data:`PLATFORMS`, or ``None`` for runsc's default.
    :ivar logs: the log files.
    :ivar debug: whether the debug logs contain all messages, instead of only errors.
    :ivar disk: a directory for the file with the writes to the root filesystem, or ``None`` to
        store the writes in memory.
    :ivar image: the directory of a checkpoint to restore, an absolute path, or ``None`` to start a
        new container.
    """

    state: str
    bundle: str
    container_id: str
    logs: Logs
    network: str = "none"
    platform: str | None = None
    debug: bool = False
    disk: str | None = None
    image: str | None = None


def not_runsc(path: str, why: str, errno: int = 0) -> RunscError:
    """Return the error for a program that is not runsc."""
    return RunscError(
        f"{path} is not gVisor's runsc: {why}",
        step="runsc",
        errno=errno,
        filename=path,
        cause="not-runsc",
        remedy=f"give the path of runsc by --runsc or {VARIABLES[0]}. To install: {INSTALL}",
    )


# The maximum number of files that gVisor caches for each mount. Each cached file takes up to three
# of a sandbox's descriptors (UN_SANDBOX_FILES_MAX).
_CACHED_FILES = 2000


def command_line(runsc: str, options: RunOptions) -> list[str]:
    """Return the argv, beginning with `runsc`, that runs a container in the foreground.

    - ``--ignore-cgroups``: an unprivileged user usually may not configure control groups.
    - ``--overlay2=root:memory``: by default, runsc creates a file in the root filesystem.
    - ``--host-uds=none``: this is runsc's default, but a default may change.
    - ``--dcache``: by default gVisor caches 1,000 files for each mount and keeps them open, so with
      many bind mounts, no descriptors would remain for the programs in the sandbox.
    """
    command = [
        runsc,
        # `runsc restore` refuses --rootless, and does not need it in a prepared namespace.
        *(["--rootless"] if options.image is None else []),
        f"--root={options.state}",
        "--ignore-cgroups",
        f"--network={'none' if options.network == 'none' else 'host'}",
        f"--overlay2=root:{'memory' if options.disk is None else f'dir={options.disk}'}",
        "--host-uds=none",
        f"--dcache={_CACHED_FILES}",
        f"--log={options.logs.errors}",
        "--log-format=json",
        f"--panic-log={options.logs.crash}",
        f"--debug-log={options.logs.debug}",
    ]
    if options.platform is not None:
        command.append(f"--platform={options.platform}")
    if options.debug:
        command.append("--debug")
    verb = ["run"] if options.image is None else ["restore", f"--image-path={options.image}"]
    return [*command, *verb, f"--bundle={options.bundle}", options.container_id]


def kill_command(runsc: str, options: RunOptions) -> list[str]:
    """Return the argv of ``runsc kill`` for the container, without the signal."""
    return [runsc, "--rootless", f"--root={options.state}", "kill", options.container_id]


def raise_command(runsc: str, options: RunOptions, verifier: str) -> list[str]:
    """Return the argv that sends a real-time signal to the command in a container.

    The caller appends the number of the signal.

    ``runsc kill`` does not support real-time signals, so the verifier in the sandbox sends them.

    :param verifier: the path of usernsctl-verify in the container.
    """
    exec_options = ["--cap=CAP_KILL", options.container_id, verifier, "--signal"]
    return [runsc, "--rootless", f"--root={options.state}", "exec", *exec_options]


INSTALL = (
    "sudo apt install runsc (Debian), or follow 'Installation' in gVisor's user guide at gvisor.dev"
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def search_path(settings: Iterable[str]) -> str:
    """Return the value of PATH in `settings`, ``NAME=VALUE`` entries, or the default PATH."""
    found = DEFAULT_PATH
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "PATH":
            found = value
    return found


#: Environment variables that name runsc. The first one that is set is used. Other programs use the
#: second one, too.
VARIABLES = ("USERNSCTL_RUNSC", "RUNSC_PATH")

#: Maximum size of all crash reports together, in bytes. A report has the stacks of all threads, up
#: to megabytes.
CRASH_BYTES = 1 << 20

_COMMANDS = ("run", "boot", "gofer")

#: Names of the debug logs that are symbolic links to /dev/null, unless the caller has requested
#: debug logs.
DISCARDED_LOGS = tuple(f"{command}.txt" for command in _COMMANDS[1:])


def private_log_paths(directory: str, crash: str) -> Logs:
    """Return the log files of a run without debug logs.

    :param directory: the run's own log directory, prepared by :func:`make_log_directory`.
    :param crash: the path of the crash report.
    """
    return Logs(errors=f"{directory}/errors", debug=f"{directory}/%COMMAND%.txt", crash=crash)


def make_log_directory(directory: str, dir_fd: int | None = None) -> None:
    """Create the links to /dev/null for the discarded logs of :func:`private_log_paths`.

    :param directory: the log directory, which exists already.
    :param dir_fd: a descriptor of the directory to which a relative `directory` refers.
    """
    for name in DISCARDED_LOGS:
        os.symlink(os.devnull, f"{directory}/{name}", dir_fd=dir_fd)


def seen_from(logs: Logs, here: str, there: str) -> Logs:
    """Return the paths of the logs for a process that sees the directory `here` as `there`."""
    return Logs(
        errors=there + logs.errors.removeprefix(here),
        crash=there + logs.crash.removeprefix(here),
        debug=there + logs.debug.removeprefix(here),
    )


def debug_log_files(stamp: str) -> list[str]:
    """Return the file names of the debug logs of one start; the last is the crash report."""
    return [f"runsc.log.{stamp}.{name}.txt" for name in (*_COMMANDS, "panic")]


def debug_log_paths(directory: str, own: str, stamp: str) -> Logs:
    """Return the log files of a run with debug logs; the files must exist.

    :param directory: the directory for the debug logs, which have runsc's default names.
    :param own: the run's own directory, for the error log.
    :param stamp: the time of the start, in runsc's format.
    """
    files = debug_log_files(stamp)
    return Logs(
        errors=f"{own}/errors",
        debug=f"{directory}/runsc.log.{stamp}.%COMMAND%.txt",
        crash=f"{directory}/{files[-1]}",
    )


def create_debug_logs(directory: str, own: str) -> Logs:
    """Create the debug logs of a run, with mode 0600, and return the log files of the run.

    :param directory: the directory for the debug logs, which have runsc's default names.
    :param own: the run's own directory, for the error log.
    :raises OSError: a file can't be created.
    """
    while True:
        now = time.time()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}"
        try:
            for name in debug_log_files(stamp):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(f"{directory}/{name}", flags, 0o600))
        except FileExistsError:
            continue  # another run has created files in the same microsecond
        return debug_log_paths(directory.rstrip("/"), own, stamp)
