"""How runsc is called: its command lines, the files it logs to, and where it is looked for."""

from __future__ import annotations

import os
import time

from usernsctl._lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    pass

# Of runsc: what it writes outside, its state and its logs, may hold secrets of the command.
PRIVATE_UMASK = 0o077

NETWORKS = ("none", "host")
PLATFORMS = ("systrap", "ptrace", "kvm")

# The exit statuses of `runsc run` where runsc itself failed, and where it crashed, as each program
# in Go does. A command may end with them too.
FAILED = 128
CRASHED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """Files that runsc writes to, absolute paths.

    :ivar errors: the errors that its processes end of.
    :ivar crash: Go's report of a crash of one that ``runsc run`` has started.
    :ivar debug: all else; ``%COMMAND%`` stands for which process it is of.
    """

    errors: str
    crash: str
    debug: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What decides the command line of ``runsc run``.

    :ivar state: the directory for runsc's own state, an absolute path (``--root``).
    :ivar bundle: the directory with config.json, an absolute path.
    :ivar container_id: unique in `state`.
    :ivar network: one of :data:`NETWORKS`.
    :ivar platform: one of :data:`PLATFORMS`, or ``None`` for runsc's default.
    :ivar logs: where it writes what it has to say.
    :ivar debug: whether the debug logs tell everything, or only what went wrong.
    :ivar image: the directory of a checkpoint to go on from, an absolute path; ``None``: the
        container is a new one.
    """

    state: str
    bundle: str
    container_id: str
    logs: Logs
    network: str = "none"
    platform: str | None = None
    debug: bool = False
    image: str | None = None


# Each takes up to three descriptors of those that a sandbox has (UN_SANDBOX_FILES_MAX).
_REMEMBERED_FILES = 2000


def command_line(runsc: str, options: RunOptions) -> list[str]:
    """The arguments that run a container in the foreground, from `runsc` on.

    Control groups are left alone, since a plain user is seldom given one to configure. Whatever
    is written to the root filesystem stays in memory: runsc's default would put a file of its own
    into the root filesystem. Sockets of the host are out of reach, which is runsc's default too,
    but not one to depend on. By default gVisor remembers 1,000 files for each mount, and holds each
    open: many binds would leave no room for what programs open.
    """
    command = [
        runsc,
        # It refuses to restore with that, and needs it for nothing where it has the capabilities.
        *(["--rootless"] if options.image is None else []),
        f"--root={options.state}",
        "--ignore-cgroups",
        f"--network={options.network}",
        "--overlay2=root:memory",
        "--host-uds=none",
        f"--dcache={_REMEMBERED_FILES}",
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
    """The arguments that send a signal to the command, but for the signal."""
    return [runsc, "--rootless", f"--root={options.state}", "kill", options.container_id]


INSTALL = (
    "sudo apt install runsc (Debian), or follow 'Installation' in gVisor's user guide at gvisor.dev"
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: So large may the reports of crashes become: with the stacks of all threads, megabytes.
CRASH_BYTES = 1 << 20

_COMMANDS = ("run", "boot", "gofer")

#: In the directory of a run's own logs: what is thrown away.
UNWANTED = tuple(f"{command}.txt" for command in _COMMANDS[1:])


def private_log_paths(directory: str, crash: str) -> Logs:
    """Where runsc is to write; :func:`prepare` makes ready.

    :param directory: one of the run's own.
    :param crash: the file for the report of a crash.
    """
    return Logs(errors=f"{directory}/errors", debug=f"{directory}/%COMMAND%.txt", crash=crash)


def make_log_directory(directory: str, dir_fd: int | None = None) -> None:
    """Have the logs that are not wanted thrown away: see :func:`quiet`."""
    for name in UNWANTED:
        os.symlink(os.devnull, f"{directory}/{name}", dir_fd=dir_fd)


def seen_from(logs: Logs, here: str, there: str) -> Logs:
    """The same files for whoever knows the directory `here` as `there`."""
    return Logs(
        errors=there + logs.errors.removeprefix(here),
        crash=there + logs.crash.removeprefix(here),
        debug=there + logs.debug.removeprefix(here),
    )


def debug_log_files(stamp: str) -> list[str]:
    """The names of the files that are to be made for :func:`kept_at`; the last is for crashes."""
    return [f"runsc.log.{stamp}.{name}.txt" for name in (*_COMMANDS, "panic")]


def debug_log_paths(directory: str, own: str, stamp: str) -> Logs:
    """Where runsc is to write if somebody wants to read it all, and the files are there.

    :param directory: where the debug logs go, under the names that runsc gives them.
    :param own: a directory of the run's own.
    :param stamp: the time of the start, as runsc would write it.
    """
    files = debug_log_files(stamp)
    return Logs(
        errors=f"{own}/errors",
        debug=f"{directory}/runsc.log.{stamp}.%COMMAND%.txt",
        crash=f"{directory}/{files[-1]}",
    )


def create_debug_logs(directory: str, own: str) -> Logs:
    """Where runsc is to write if somebody wants to read it all: new files, closed to others.

    :param directory: where the debug logs go, under the names that runsc gives them.
    :param own: a directory of the run's own.
    :raises OSError: they can't be made.
    """
    while True:
        now = time.time()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}"
        try:
            for name in debug_log_files(stamp):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(f"{directory}/{name}", flags, 0o600))
        except FileExistsError:
            continue  # another run has begun in the same microsecond
        return debug_log_paths(directory.rstrip("/"), own, stamp)
