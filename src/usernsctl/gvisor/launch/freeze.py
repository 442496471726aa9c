"""A launch that is kept in a file, to be performed later, and by others, without Python.

What is decided now stays so. What the file leaves open is taken from whoever performs it: the
homes to hide, the ids, the directory, the name of the host, variables that are named, arguments.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Mapping, Sequence

from usernsctl._lean import dataclass, replace
from usernsctl._system.paths import PathDescriptor
from usernsctl._text import quoted
from usernsctl.errors import CommandError
from usernsctl.gvisor.launch.bundle import open_bundle, writable_sources
from usernsctl.gvisor.launch.facts import collect_facts, free_places, open_files, refuse_own
from usernsctl.gvisor.launch.plan import HERE, FreezeOptions, plan_run
from usernsctl.gvisor.launch.request import PASSED_ON, Request, names_in, names_in_file
from usernsctl.gvisor.launch.steps import Launch, Record, record
from usernsctl.gvisor.runsc.command import DEFAULT_PATH
from usernsctl.gvisor.runsc.find import find_runsc
from usernsctl.maps import Extent, MappedIds

# Whoever performs it must be able to read it, and nobody else to change it.
_MODE = 0o644

# Where others may have their state directories; what is in there needs not exist.
_STATES = ("/tmp/usernsctl-0", "/run/user/0/usernsctl")

# All that there may be.
_ANY = (Extent(0, 0, 1), Extent(1, 1, 2**32 - 2))
_ONE = (Extent(0, 0, 1),)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezePolicy:
    """What is left open.

    :ivar ids: options of ``usernsctl-exec`` that make the user namespace.
    :ivar has_several: whether these map more than one id.
    :ivar env: the variables that the command gets, as :func:`environment_of` gives them.
    :ivar remedy: the command that makes the file anew.
    """

    ids: tuple[str, ...] = ()
    has_several: bool = False
    env: tuple[Record, ...] = ()
    remedy: str


def environment_of(
    settings: Iterable[str], files: Iterable[str], *, everything: bool, bare: bool
) -> tuple[Record, ...]:
    """The variables that a command gets of whoever starts it.

    :param settings: ``NAME=VALUE``, or ``NAME`` for the value of that time.
    :param files: files of such.
    :param everything: whether all variables are passed on.
    :param bare: whether none is that nobody has asked for.
    :raises CommandError: a file can't be read, or a setting is malformed.
    """
    found = []
    if everything:
        found.append(record("env-all"))
    elif not bare:
        found.append(record("env-set", f"PATH={DEFAULT_PATH}"))
        found += [record("env-name", name) for name in PASSED_ON]
    named = [one for path in files for one in names_in_file(path)]
    for name, value in [*named, *names_in(settings)]:
        if value is None:
            found.append(record("env-need", name))
        else:
            found.append(record("env-set", f"{name}={value}"))
    return tuple(found)


def freeze(request: Request, caller: Mapping[str, str], later: FreezePolicy) -> Launch:
    """The launch of a request for later.

    :param request: its `env` and `idmap` are not looked at.
    :param caller: the environment of the caller, to find runsc by.
    :raises UsernsError: something of it can't be had now.
    """
    if request.cwd is not None and request.cwd != HERE and not request.cwd.startswith("/"):
        raise CommandError(
            f"--wd {request.cwd}: it must be an absolute path, or {HERE} for the directory of "
            "whoever starts it",
            step="chdir",
            filename=request.cwd,
        )
    program = find_runsc(caller, request.program)
    extents = _ANY if later.has_several else _ONE
    ids = MappedIds(uid=extents, gid=extents, become=(0, 0))
    bundle = open_bundle(request, request.bundle, ids) if request.bundle else None
    used = open_files(request, program, bundle)
    refuse_own(used.sources, writable_sources(used.binds, bundle), _STATES)
    # What is gone to by its path must stay in sight.
    scratch = free_places([program, used.runsc.path])
    now = collect_facts(request, caller, program, used, ids, bundle, scratch=scratch)
    # Whoever performs it may be root, and has homes of his own.
    facts = replace(now, is_root=True, homes=None)
    assumed = [used.runsc, used.watcher, *([used.verifier] if used.verifier is not None else [])]
    frozen = FreezeOptions(
        assumptions=(*map(_assume, assumed), record("remedy", later.remedy)),
        ids=later.ids,
        env=later.env,
    )
    return plan_run(request, facts, frozen)


def _assume(program: PathDescriptor) -> Record:
    status = program.status
    mode = f"{status.st_mode:o}"
    return record("assume", program.path, status.st_size, status.st_mtime_ns, mode)


def write(launch: Launch, path: str) -> None:
    """Write a launch to a file, in place of the one that is there: all of it, or nothing.

    :raises CommandError: it can't be written, holds what can't be encoded, or what is there is no
        regular file.
    """
    text = launch.encode()
    temporary = os.path.join(os.path.dirname(path), f".usernsctl-{os.urandom(8).hex()}")
    try:
        _check_replaceable(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), _MODE)
        os.replace(temporary, path)
    except OSError as error:
        raise CommandError(
            f"can't write {path}: {error.strerror}",
            step="freeze",
            errno=error.errno or 0,
            filename=path,
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _check_replaceable(path: str) -> None:
    """Refuse to put a file in the place of a device, such as /dev/null, or of /dev/stdout.

    :raises OSError: something else is there than a regular file, or a link to one or to nothing.
    """
    directory = os.path.realpath(os.path.dirname(path) or ".")
    if f"{directory}/".startswith(("/dev/", "/proc/")) and os.path.islink(path):
        raise OSError(errno.EINVAL, "it is no regular file")
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, "it is a directory")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file")


def remedy_of(words: Sequence[str]) -> str:
    """The command that makes a frozen launch anew, without values of variables.

    :param words: those of the call, without ``usernsctl freeze``.
    """
    told = ["usernsctl", "freeze"]
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option != "--env":
            told.append(word)
            if word == "--":
                told.extend(rest)
        elif equals:
            told.append(f"--env={_without_value(value)}")
        else:
            told += [word, _without_value(next(rest, ""))]
    return " ".join(map(quoted, told))


def _without_value(setting: str) -> str:
    name, equals, _ = setting.partition("=")
    return f"{name}=..." if equals else name
