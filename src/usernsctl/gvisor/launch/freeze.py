"""Frozen launches: launch files, which ``usernsctl-exec`` performs without Python.

``usernsctl freeze`` writes a launch file. The file lacks values that the process which performs the
launch determines: the home directories to hide, the ids, the working directory, the hostname, the
values of the environment variables that the file names, and optionally the command.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Iterable, Mapping, Sequence

from usernsctl import _core
from usernsctl._lean import dataclass, replace
from usernsctl._system.paths import PathDescriptor, open_path
from usernsctl._text import operand, quoted
from usernsctl.errors import CommandError, cause_of_file_error
from usernsctl.gvisor.launch.facts import (
    collect_facts,
    free_places,
    open_files,
    refuse_own,
    with_account,
)
from usernsctl.gvisor.launch.network import with_network
from usernsctl.gvisor.launch.options import PASSED_ON, names_in, names_in_env_file
from usernsctl.gvisor.launch.plan import HERE, FreezeOptions, plan_run
from usernsctl.gvisor.launch.request import Request
from usernsctl.gvisor.launch.steps import Launch, Record, record
from usernsctl.gvisor.runsc.command import DEFAULT_PATH
from usernsctl.gvisor.runsc.find import SIDE_VARIABLE, find_runsc, side_programs
from usernsctl.maps import Extent, MappedIds

# Mode of a launch file: every user may perform the launch, but only the owner may change the file.
_MODE = 0o644

# Root's state directories, which need not exist yet. No bind mount may contain them, because root
# may perform the launch.
_STATES = ("/tmp/usernsctl-0", "/run/user/0/usernsctl")  # noqa: S108

# The extents of the largest id map that a launch can have.
_ALL_IDS = (Extent(0, 0, 1), Extent(1, 1, 2**32 - 2))
# The extents of an id map of one id.
_ONE_ID = (Extent(0, 0, 1),)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezePolicy:
    """Settings of a frozen launch that take effect when the launch is performed.

    :ivar ids: options of ``usernsctl-exec`` that create the user namespace.
    :ivar has_several: whether the options in `ids` map more than one id.
    :ivar env: records for the command's environment, from :func:`environment_of`.
    :ivar terminal: whether the command needs a terminal; ``None`` for a command that uses a
        terminal if one is available.
    :ivar remedy: the shell command that writes the launch file again.
    """

    ids: tuple[str, ...] = ()
    has_several: bool = False
    env: tuple[Record, ...] = ()
    terminal: bool | None = None
    remedy: str


def environment_of(
    settings: Iterable[str], files: Iterable[str], *, everything: bool, bare: bool
) -> tuple[Record, ...]:
    """Return the records for the environment of a frozen launch's command.

    :param settings: ``NAME=VALUE``, or ``NAME`` for the value that the variable has when the launch
        is performed.
    :param files: paths of ``--env-file`` files.
    :param everything: whether the command inherits all environment variables of the process that
        performs the launch. By default, it inherits only PATH, LANG and TERM.
    :param bare: whether the command has only the variables in `settings` and `files`.
    :raises CommandError: one of `files` can't be read, or a setting is malformed.
    """
    records = []
    if everything:
        records.append(record("env-all"))
    elif not bare:
        records.append(record("env-set", f"PATH={DEFAULT_PATH}"))
        records += [record("env-name", name) for name in PASSED_ON]
    from_files = [setting for path in files for setting in names_in_env_file(path)]
    for name, value in [*from_files, *names_in(settings)]:
        if value is None:
            records.append(record("env-need", name))
        else:
            records.append(record("env-set", f"{name}={value}"))
    return tuple(records)


def freeze(request: Request, caller: Mapping[str, str], later: FreezePolicy) -> Launch:
    """Plan a launch that will be performed later, possibly by another user.

    :param request: the request, whose `env` and `idmap` are ignored.
    :param caller: the environment of the caller, in which :func:`find_runsc` finds runsc.
    :param later: the settings that take effect when the launch is performed.
    :raises UsernsError: a file of the request is missing or denied now.
    """
    if request.cwd is not None and request.cwd != HERE and not request.cwd.startswith("/"):
        raise CommandError(
            f"--wd {request.cwd} is neither an absolute path nor {HERE}, the current directory at "
            "the start",
            step="chdir",
            filename=request.cwd,
        )
    request = with_network(request)
    program = find_runsc(caller, request.program)
    extents = _ALL_IDS if later.has_several else _ONE_ID
    ids = MappedIds(uid=extents, gid=extents, become=(0, 0))
    used = open_files(request, program, ids)
    refuse_own(used, _STATES)
    request = with_account(request, used)
    # Choose mount points for the tmpfs so that neither the path of runsc nor its real path is below
    # such a mount point: runsc is looked up by its path after the tmpfs is mounted.
    scratch = free_places([program, used.runsc.path])
    now = collect_facts(request, caller, program, used, ids, scratch=scratch)
    # Plan for any user: the launch may be performed by root, or by a user with other home
    # directories.
    facts = replace(now, is_root=True, homes=None)
    programs = [used.runsc, used.watcher, *([used.verifier] if used.verifier is not None else [])]
    beside = side_programs(program, facts.runsc_env.get(SIDE_VARIABLE))
    frozen = FreezeOptions(
        programs=(
            *((one.path, _recognise(one)) for one in programs),
            *map(_recognise_by_path, beside),
        ),
        remedy=later.remedy,
        ids=later.ids,
        env=later.env,
        terminal=later.terminal,
    )
    return plan_run(request, facts, frozen)


def _recognise(program: PathDescriptor) -> tuple[int, str, str]:
    """Return a program's size, mode and checksum, by which a launch file identifies the program.

    :raises CommandError: the program can't be read.
    """
    status = program.status
    try:
        content = _core.content_sum(program.fd)
    except OSError as error:
        raise CommandError(
            f"can't read {program.path}: {error.strerror}",
            step="freeze",
            errno=error.errno or 0,
            filename=program.path,
        ) from error
    return status.st_size, f"{status.st_mode:o}", content


def _recognise_by_path(path: str) -> tuple[str, tuple[int, str, str]]:
    """Return the program's path without symbolic links, and the result of :func:`_recognise`.

    :raises CommandError: the program can't be opened or read.
    """
    try:
        opened = open_path(path)
    except OSError as error:
        raise CommandError(
            f"can't read {path}: {error.strerror}",
            step="freeze",
            errno=error.errno or 0,
            filename=path,
        ) from error
    with contextlib.closing(opened):
        return opened.path, _recognise(opened)


def write(launch: Launch, path: str) -> None:
    """Write a frozen launch to the launch file `path`. Replace an existing file atomically.

    :raises CommandError: the file can't be written, the launch can't be encoded, or `path` is not a
        regular file.
    """
    write_file(launch.encode(), path, _MODE, "freeze")


def write_file(content: bytes, path: str, mode: int, step: str) -> None:
    """Write `content` to the file `path`. Replace an existing file atomically.

    :param step: the step to name in a CommandError.
    :raises CommandError: the file can't be written, or `path` is not a regular file.
    """
    temporary = os.path.join(os.path.dirname(path), f".usernsctl-{os.urandom(8).hex()}")
    try:
        _check_replaceable(path)
        with open(temporary, "xb", opener=functools.partial(os.open, mode=0o600)) as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        os.replace(temporary, path)
    except OSError as error:
        cause = cause_of_file_error(error.errno)
        raise CommandError(
            f"can't write {path}: {error.strerror}",
            step=step,
            errno=error.errno or 0,
            filename=path,
            cause=cause,
            remedy=None if cause else _write_remedy(path, error.errno),
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _write_remedy(path: str, number: int | None) -> str:
    """Return the remedy for the errno with which writing the file `path` has failed."""
    directory = os.path.dirname(path)
    if number == errno.ENOENT and directory:
        return f"mkdir -p {quoted(operand(directory))}"
    if number == errno.EISDIR:
        return f"name a file in the directory: -o {quoted(os.path.join(path, 'NAME'))}"
    return "name a regular file in a directory that you may write to: -o DIRECTORY/NAME"


def _check_replaceable(path: str) -> None:
    """Check that a file to replace is neither a device, such as /dev/null, nor a link to a device.

    :raises OSError: `path` exists, and is neither a regular file nor a link to one.
    """
    directory = os.path.realpath(os.path.dirname(path) or ".")
    if f"{directory}/".startswith(("/dev/", "/proc/")) and os.path.islink(path):
        raise OSError(errno.EINVAL, "not a regular file")
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")


def remedy_of(argv: Sequence[str]) -> str:
    """Return the shell command that writes a launch file again, with ``...`` for values of --env.

    :param argv: the arguments that follow ``usernsctl freeze`` on the command line.
    """
    command = ["usernsctl", "freeze"]
    rest = iter(argv)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option != "--env":
            command.append(argument)
            if argument == "--":
                command.extend(rest)
        elif equals:
            command.append(f"--env={_without_value(value)}")
        else:
            command += [argument, _without_value(next(rest, ""))]
    return " ".join(map(quoted, command))


def _without_value(setting: str) -> str:
    name, equals, _ = setting.partition("=")
    return f"{name}=..." if equals else name
