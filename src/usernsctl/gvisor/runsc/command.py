"""Command lines of runsc, and the paths of its log files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from usernsctl._lean import Literal, dataclass
from usernsctl.errors import RunscError

# The umask of runsc: runsc's state and logs may contain secrets of the command.
PRIVATE_UMASK = 0o077

Network = Literal["none", "host", "private"]
Platform = Literal["systrap", "ptrace", "kvm"]
NETWORKS: tuple[Network, ...] = ("none", "host", "private")
PLATFORMS: tuple[Platform, ...] = ("systrap", "ptrace", "kvm")

# The exit status of `runsc run` after an error. A command in the sandbox may exit with the same
# status.
FAILED = 128
# The exit status of `runsc run` after a crash (a Go panic). A command in the sandbox may exit with
# the same status.
CRASHED = 2

#: The exit status of usernsctl-init and usernsctl-detach for a sandbox that has exceeded a timeout.
TIME_IS_OVER = 124

_SIGNAL_MAX = 64


def returncode_of(status: int) -> int:
    """Convert an exit status of runsc to a return code as :mod:`subprocess` defines it.

    runsc exits with 128+N if signal N killed the command, but also if the command exited with the
    status 128+N. In both cases, the result is -N.
    """
    return 128 - status if 128 < status <= 128 + _SIGNAL_MAX else status


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """The absolute paths of runsc's log files.

    :ivar errors: the file for the fatal errors of all processes of runsc (``--log``).
    :ivar crash: the file for the report that the Go runtime writes when a process of runsc crashes
        (``--panic-log``).
    :ivar debug: the files for all other messages (``--debug-log``). In this path, runsc replaces
        ``%COMMAND%`` by the name of the process: run, boot or gofer.
    """

    errors: str
    crash: str
    debug: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options for the command line of ``runsc run`` or ``runsc restore``.

    :ivar state: the directory for runsc's own state, an absolute path (``--root``).
    :ivar bundle: the directory with config.json, an absolute path.
    :ivar container_id: the id of the container, unique in `state`.
    :ivar network: one of :data:`NETWORKS`. For each network but ``none``, runsc uses the network
        namespace in which it runs.
    :ivar platform: one of :data:`PLATFORMS`, or ``None`` for runsc's default.
    :ivar logs: the log files.
    :ivar debug: whether the debug logs contain all messages. If not, they contain only errors.
    :ivar disk: a directory for the file in which gVisor stores writes to the root filesystem, or
        ``None`` to store them in memory.
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


# The size of gVisor's dentry cache, which all mounts of a sandbox share. gVisor keeps the files of
# cached dentries open; each takes up to three descriptors (UN_SANDBOX_FILES_MAX).
_CACHED_FILES = 2000


def command_line(runsc: str, options: RunOptions) -> list[str]:
    """Return the argv, beginning with `runsc`, that runs or restores a container in the foreground.

    - ``--ignore-cgroups``: an unprivileged user usually may not configure cgroups.
    - ``--overlay2=root:memory``: by default, runsc creates a file in the root filesystem.
    - ``--host-uds=none``: runsc's current default, which a later release may change.
    - ``--dcache``: the size of one dentry cache for all mounts. By default, each mount has a cache
      of 1,000 dentries, whose files gVisor keeps open, so with many bind mounts, no descriptors
      would remain for the programs in the sandbox.
    """
    command = [
        runsc,
        # `runsc restore` refuses --rootless, and doesn't need the flag in a prepared namespace.
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
    """Return the argv of ``runsc kill`` for the container; the caller appends the signal."""
    return [runsc, "--rootless", f"--root={options.state}", "kill", options.container_id]


def raise_command(runsc: str, options: RunOptions, verifier: str) -> list[str]:
    """Return the argv that sends a real-time signal to a container's command.

    The caller appends the number of the signal. The signal is sent by the verifier in the sandbox,
    because ``runsc kill`` does not support real-time signals.

    :param verifier: the path of usernsctl-verify in the container.
    """
    exec_options = ["--cap=CAP_KILL", options.container_id, verifier, "--signal"]
    return [runsc, "--rootless", f"--root={options.state}", "exec", *exec_options]


INSTALL = (
    "sudo apt install runsc (Debian), or follow 'Installation' in gVisor's user guide at gvisor.dev"
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def search_path(settings: Iterable[str]) -> str:
    """Return the value of PATH in `settings` (``NAME=VALUE`` entries), or the default PATH."""
    found = DEFAULT_PATH
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "PATH":
            found = value
    return found


#: The environment variables that may name runsc. The first variable that is set is used. Other
#: projects use RUNSC_PATH, too.
VARIABLES = ("USERNSCTL_RUNSC", "RUNSC_PATH")

#: The maximum total size of all crash reports, in bytes. A report contains the stacks of all
#: threads, which may take megabytes.
CRASH_BYTES = 1 << 20

_COMMANDS = ("run", "boot", "gofer")

#: The file names of debug logs that are symbolic links to /dev/null if the caller has not requested
#: debug logs.
DISCARDED_LOGS = tuple(f"{command}.txt" for command in _COMMANDS[1:])


def private_log_paths(directory: str, crash: str) -> Logs:
    """Return the log paths of a run without debug logs.

    :param directory: the run's own log directory, which :func:`make_log_directory` has prepared.
    :param crash: the path of the crash report.
    """
    return Logs(errors=f"{directory}/errors", debug=f"{directory}/%COMMAND%.txt", crash=crash)


def make_log_directory(directory: str, dir_fd: int | None = None) -> None:
    """Create symbolic links to /dev/null in place of the logs in :data:`DISCARDED_LOGS`.

    :param directory: the existing directory that :func:`private_log_paths` uses.
    :param dir_fd: a descriptor of the directory against which a relative `directory` is resolved.
    """
    for name in DISCARDED_LOGS:
        os.symlink(os.devnull, f"{directory}/{name}", dir_fd=dir_fd)


def seen_from(logs: Logs, here: str, there: str) -> Logs:
    """Return `logs` with the directory `there` in place of `here` in all paths."""
    return Logs(
        errors=there + logs.errors.removeprefix(here),
        crash=there + logs.crash.removeprefix(here),
        debug=there + logs.debug.removeprefix(here),
    )


def debug_log_files(stamp: str) -> list[str]:
    """Return the file names of a run's debug logs; the last name is that of the crash report."""
    return [f"runsc.log.{stamp}.{name}.txt" for name in (*_COMMANDS, "panic")]


def debug_log_paths(directory: str, own: str, stamp: str) -> Logs:
    """Return the log paths of a run with debug logs; the files must exist.

    :param directory: the directory for the debug logs. The logs have the file names that runsc
        chooses by default.
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
    """Create the debug logs of a run, with mode 0600, and return the log paths of the run.

    :param directory: the directory for the debug logs. The logs have the file names that runsc
        chooses by default.
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
