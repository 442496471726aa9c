"""Records of detached sandboxes, by which any process of the same user can find them.

Each sandbox has an entry in a store (:mod:`usernsctl._system.records`). The entry is a directory
that contains the record and runsc's state. It is locked while the sandbox is started or killed. A
sandbox is alive while the first process in its record runs.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from usernsctl._core import Descriptor
from usernsctl._lean import asdict, dataclass
from usernsctl._system.descriptors import Shared, deadline_after, seconds_left, wait_readable
from usernsctl._system.paths import open_file
from usernsctl._system.processes import (
    ProcessIdentity,
    children_of,
    command_line_of,
    is_in_our_namespace,
    kill,
    parse_timestamp,
    reap,
)
from usernsctl._system.records import (
    NONSENSE,
    RECORD,
    BusyError,
    Directory,
    Entry,
    Store,
    TakenError,
    invalid_record,
    open_state,
    wrap_os_errors,
)
from usernsctl.errors import LimitError, RunscError
from usernsctl.gvisor.agent.start import ProcessDefaults
from usernsctl.network.ports import PublishedPort

#: The name of the directory for runsc's state in a sandbox's entry.
STATE = "state"

#: The name of the file with the table of denied connections (:mod:`usernsctl.network.refusals`) in
#: a sandbox's entry.
REFUSALS = "refusals"

# The maximum number of processes in a record: the keeper (csrc/programs/detach/main.c) and runsc's
# processes. runsc has two, but a later release may have more.
_PROCESSES_MAX = 8

# The maximum size of a report about the end of a sandbox, in bytes.
_REPORT_BYTES = 4096
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_END_SECONDS = 60
# The timeout for a sandbox's other processes to exit after the main process has exited, in
# seconds.
_KEEPER_SECONDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachedRecord:
    """The record of a detached sandbox.

    :ivar id: the container id.
    :ivar args: the command and its arguments; empty for the command of the bundle.
    :ivar created: the time of the start, in seconds since 1970.
    :ivar processes: the sandbox's processes on the host. The first is the runsc process that runs
        the command.
    :ivar ports: the published ports.
    :ivar proxy: the process of the proxy for the names in `allow`, or ``None``.
    """

    id: str
    args: tuple[str, ...]
    created: float
    processes: tuple[ProcessIdentity, ...]
    ports: tuple[PublishedPort, ...]
    proxy: ProcessIdentity | None

    @property
    def pid(self) -> int:
        """The pid of the runsc process that runs the command."""
        return self.processes[0].pid

    def is_foreign(self) -> bool:
        """Return whether the record's pids belong to another PID namespace, as a container's do."""
        return self.processes[0].is_foreign()

    def open_processes(self) -> list[Descriptor | None]:
        """Return pidfds of :attr:`processes` and :attr:`proxy`, with ``None`` for exited processes.

        :meta private:
        :raises ForeignProcessError: a process does not belong to the sandbox.
        """
        checked = [(one, self._is_ours) for one in self.processes]
        if self.proxy is not None:
            checked.append((self.proxy, self._is_our_proxy))
        return [one.open(check) for one, check in checked]

    def _is_ours(self, pid: int) -> bool:
        """Return whether `pid` is in a user namespace of this user, and its argv names the bundle.

        The argv of an exiting process can't be read (proc_pid_cmdline(5)), and is not checked.
        """
        argv = command_line_of(pid)
        return is_in_our_namespace(pid) and (argv is None or _has_bundle(argv, self.id))

    def _is_our_proxy(self, pid: int) -> bool:
        # Import the module here, because few sandboxes have a proxy.
        from usernsctl.network.proxy_process import is_proxy

        argv = command_line_of(pid)
        return is_in_our_namespace(pid) and (argv is None or is_proxy(argv, self.id))

    def is_alive(self) -> bool:
        """Return whether the sandbox runs.

        The result is also true for a sandbox in another PID namespace, whose processes this
        process can't check.

        :meta private:
        :raises ForeignProcessError: a process does not belong to the sandbox.
        """
        if self.is_foreign():
            return True
        return self.open_processes()[0] is not None

    def discard(self) -> None:
        """Kill all processes of the sandbox, and wait until they have exited.

        :meta private:
        :raises BusyError: a process does not exit within 60 seconds.
        :raises ForeignProcessError: a process does not belong to the sandbox.
        """
        main, *others = self.open_processes()
        opened = [pidfd for pidfd in others if pidfd is not None]
        try:
            numbers = [pidfd.number for pidfd in opened]
            end_processes(self.id, None if main is None else main.number, numbers)
        finally:
            # Close the descriptors explicitly, because an error's traceback would keep them open.
            for pidfd in (main, *opened):
                if pidfd is not None:
                    pidfd.close()

    def to_json(self) -> dict[str, Any]:
        """Convert the record to a JSON object, which :meth:`from_json` parses.

        :meta private:
        """
        return {**asdict(self), "ports": list(map(str, self.ports))}

    @classmethod
    def from_json(cls, id: str, state: Mapping[str, Any]) -> DetachedRecord:
        """Parse a record from the JSON object that :meth:`to_json` returned.

        :meta private:
        :raises ValueError: the record is malformed. Any exception in the tuple ``NONSENSE`` has
            this meaning.
        """
        processes = tuple(map(ProcessIdentity.from_json, state["processes"]))
        if not 0 < len(processes) <= _PROCESSES_MAX:
            raise ValueError(f"the record lists no process, or more than {_PROCESSES_MAX}")
        proxy = state.get("proxy")
        return cls(
            id=id,
            args=tuple(map(str, state["args"])),
            created=parse_timestamp(state["created"]),
            processes=processes,
            ports=tuple(PublishedPort.parse(str(text)) for text in state.get("ports", ())),
            proxy=None if proxy is None else ProcessIdentity.from_json(proxy),
        )

    @classmethod
    def read(cls, name: str, directory: Directory) -> DetachedRecord:
        """Read the record from `directory`, the directory of a sandbox's entry.

        :meta private:
        """
        return cls.from_json(name, directory.read(RECORD))


_STORE = Store("the id of a sandbox", DetachedRecord, lambda _: open_state("sandboxes"))


def open_runsc_state(entry: Entry[DetachedRecord]) -> Directory:
    """Open the directory with runsc's state in `entry`; the caller must close it.

    :raises NamespaceError: the directory does not exist, or can't be trusted.
    """
    try:
        return entry.directory.open(STATE)
    except FileNotFoundError as error:
        raise invalid_record(entry.path, f"the directory {STATE} is missing") from error


def read_defaults(entry: Entry[DetachedRecord]) -> ProcessDefaults:
    """Read the settings that all commands of a sandbox share, from runsc's state file.

    The record of the sandbox does not contain the settings, because they include the environment,
    which may contain secrets.

    :raises RunscError: the state file has an unknown format, which another release of runsc may
        have written.
    """
    with contextlib.suppress(*NONSENSE), open_runsc_state(entry) as state:
        found = state.names(r".*\.state")
        if len(found) == 1:
            return ProcessDefaults.of_config(state.read(found[0])["spec"])
    raise RunscError(
        f"runsc's state file of the sandbox {entry.name} has an unknown format",
        step="sandbox",
        remedy="close the sandbox, and start a new one",
    )


def draft_detached(id: str) -> Entry[DetachedRecord]:
    """Create the store's entry for a new sandbox, with a subdirectory for runsc's state.

    :returns: the locked entry, which the caller must close.
    :raises RunscError: another detached sandbox has this id.
    :raises NamespaceError: the state directory can't be used.
    """
    try:
        entry = _STORE.draft(id)
    except TakenError:
        raise duplicate_id(f"detached sandbox {id!r}") from None
    with contextlib.ExitStack() as undo:
        undo.enter_context(entry)
        entry.directory.make(STATE).close()
        undo.pop_all()
    return entry


def find_detached(id: str) -> Entry[DetachedRecord]:
    """Find a detached sandbox, and lock its entry.

    The call waits while another process, which starts or kills the sandbox, has locked the entry.

    :returns: the locked entry of the sandbox, which the caller must close.
    :raises RunscError: no sandbox has this id, or the sandbox has ended and its entry was removed.
    :raises NamespaceError: the state directory can't be used, or the record is invalid.
    """
    _STORE.check_name(id)
    end = _read_end(id)
    entry = _STORE.find(id)
    if entry is not None and not entry.record.is_foreign():
        return entry
    where = ": the sandbox has ended, or never existed"
    if entry is not None:
        where = " in this PID namespace: the sandbox is in another one"
        with entry:
            pass
    elif end is not None:
        raise RunscError(
            f"the sandbox {id!r} has ended: {end.text}", step="sandbox", cause=end.reason
        )
    raise RunscError(
        f"there is no detached sandbox {id!r}{where}",
        step="sandbox",
        cause="no-such-sandbox",
        remedy="usernsctl ps lists the detached sandboxes; in Python, Sandbox.list_detached() does",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxEnd:
    """The reason why a watcher killed a sandbox (csrc/programs/shared/sandbox_end.c).

    :ivar reason: the id of a cause, such as ``"memory-limit"``.
    :ivar limit: the limit: a number of bytes, of processes and threads, or of milliseconds; 0 if it
        is unknown.
    :ivar used: the usage, in the unit of `limit`.
    :ivar text: a sentence about the limit and the usage.
    """

    reason: str
    limit: int
    used: int
    text: str

    @classmethod
    def parse(cls, report: str) -> SandboxEnd | None:
        """Parse a report that a watcher has written; return ``None`` if it is incomplete."""
        numbers, _, text = report.partition("\n")
        fields = numbers.split(" ")
        if len(fields) != 3 or not text.endswith("\n"):
            return None
        return cls(reason=fields[0], limit=int(fields[1]), used=int(fields[2]), text=text[:-1])

    def error(self, step: str) -> RunscError:
        """Return the error that reports this reason."""
        error = LimitError(self.text, step=step, cause=self.reason)
        scale = 1000 if self.reason in ("timeout", "idle-timeout") else 1
        error.limit = self.limit / scale if self.limit else None
        error.used = self.used / scale if self.used else None
        return error


def open_activity(path: str, directory: int) -> Shared | None:
    """Open the activity file of a sandbox; return None if the file does not exist.

    The result is also ``None`` if another thread has closed `directory`: no command can be started
    in the sandbox any more then.

    :param directory: a descriptor of the directory to which `path` is relative.
    :raises OSError: the file can't be opened.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opener = functools.partial(os.open, dir_fd=directory)
    try:
        return Shared("the file of running commands", map(opener, [path], [flags]))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EBADF, errno.ENOTDIR):
            return None
        raise


def read_report(path: str, directory: int) -> str:
    """Read a report of usernsctl-init or usernsctl-detach about a sandbox's end.

    The result is ``""`` if there is no report.

    :param directory: a descriptor of the directory to which `path` is relative.
    """
    try:
        with open_file(path, _READ, directory) as file:
            return file.read(_REPORT_BYTES).decode("ascii", "replace")
    except OSError:
        return ""


def open_reports(entry: Entry[DetachedRecord]) -> Shared:
    """Open the files "status" and "end", which the keeper (csrc/programs/detach/main.c) writes.

    Missing files are created. When the sandbox has ended, another process may remove the files, but
    they can still be read through the descriptors.

    :raises NamespaceError: a file can't be opened.
    """
    opener = functools.partial(os.open, dir_fd=entry.fd)
    with wrap_os_errors(entry.path):
        # Create missing files with the same mode as the keeper does.
        names, flags = ("status", "end"), _READ | os.O_CREAT
        reports = Shared("the sandbox", map(opener, names, [flags] * 2, [0o600] * 2))
        with reports.use() as fds:
            for fd in fds:
                # Set the mode explicitly, because the umask may have removed permissions that the
                # keeper needs.
                os.fchmod(fd, 0o600)
        return reports


def read_open_report(fd: int) -> str:
    """Return the content of an open report, or ``""`` if the report is not written yet."""
    return os.pread(fd, _REPORT_BYTES, 0).decode("ascii", "replace")


def _read_end(id: str) -> SandboxEnd | None:
    """Return the reason why the watcher of the sandbox `id` killed it, or ``None``."""
    with contextlib.suppress(FileNotFoundError), open_state("sandboxes") as top, top.open(id) as at:
        return SandboxEnd.parse(read_report("end", at.fd))
    return None


def list_detached() -> list[DetachedRecord]:
    """Return the records of this user's detached sandboxes.

    Removes the records and directories of ended sandboxes. The result omits sandboxes that are
    being started or killed, that are in another PID namespace, or whose record names a process that
    usernsctl has not started.

    :raises NamespaceError: the state directory can't be used.
    """
    return [one for one in _STORE.list_records() if not one.is_foreign()]


def describe_detached(
    id: str,
    args: tuple[str, ...],
    pid: int,
    starter: int,
    ports: tuple[PublishedPort, ...],
    proxy: int | None,
) -> DetachedRecord:
    """Return the record of a sandbox that has just been started.

    The record lists the sandbox's main process, its other processes, and their parent, the keeper
    (csrc/programs/detach/main.c).

    The record lists only processes whose command line names the bundle, because later calls check
    this. The command line of runsc-fd-parking (since release 20260831) does not name the bundle, so
    the record omits that process, which exits when the sandbox ends.

    :param pid: the pid of the sandbox's main process.
    :param starter: the pid of usernsctl-detach.
    :param ports: the published ports.
    :param proxy: the pid of the proxy for the names in `allow`, or ``None``.
    """
    processes = [ProcessIdentity.of(pid)]
    keepers = children_of(starter)
    for other in sorted(keepers.union(*map(children_of, keepers)) - {pid}):
        if _has_bundle(command_line_of(other) or [], id):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                processes.append(ProcessIdentity.of(other))
    return DetachedRecord(
        id=id,
        args=args,
        created=time.time(),
        processes=tuple(processes),
        ports=ports,
        proxy=None if proxy is None else ProcessIdentity.of(proxy),
    )


def _has_bundle(argv: list[str], id: str) -> bool:
    """Return whether a command line names the bundle of the sandbox `id`."""
    return any(argument.endswith(f"/boxes/{id}") for argument in argv)


def await_ends(pidfds: Sequence[int]) -> bool:
    """Wait at most _KEEPER_SECONDS for the processes to exit; return whether all have exited."""
    deadline = deadline_after(_KEEPER_SECONDS)
    return all(wait_readable(pidfd, timeout=seconds_left(deadline)) for pidfd in pidfds)


def end_processes(id: str, main: int | None, others: list[int]) -> None:
    """Kill the processes of a sandbox, and wait until they have exited.

    The keeper (csrc/programs/detach/main.c) is killed only if it does not exit within
    `_KEEPER_SECONDS`: before it exits, it stops the network, which occupies the published ports.

    :param main: a pidfd of the process that runs the command; ``None`` if it has exited.
    :param others: pidfds of the other processes.
    :raises BusyError: a process does not exit within 60 seconds, for example in a call that waits
        for a FUSE filesystem.
    """
    pidfds = others if main is None else [main, *others]
    try:
        if main is not None:
            kill(main)
        await_ends(pidfds)
    finally:
        for pidfd in others:
            kill(pidfd)
    deadline = time.monotonic() + _END_SECONDS
    for pidfd in pidfds:
        if not wait_readable(pidfd, timeout=deadline - time.monotonic()):
            raise BusyError(
                f"a process of the sandbox {id!r} was killed, and has not ended after "
                f"{_END_SECONDS} seconds",
                step="sandbox",
            )
        reap(pidfd)


def duplicate_id(sandbox: str) -> RunscError:
    """Return the error for a new sandbox whose id another sandbox already has.

    :param sandbox: the kind and the id of the other sandbox, such as ``"detached sandbox 'a'"``.
    """
    return RunscError(
        f"a {sandbox} exists already",
        step="sandbox",
        cause="duplicate-id",
        remedy="choose another id, or leave id out",
    )
