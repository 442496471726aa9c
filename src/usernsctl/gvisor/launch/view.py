"""Paths as the command will see them, followed before it runs."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping

from usernsctl._core import command_error
from usernsctl._lean import Protocol, Self, dataclass
from usernsctl._system import paths
from usernsctl._system.paths import PathDescriptor
from usernsctl._text import quoted
from usernsctl.errors import CommandError, UsernsError
from usernsctl.gvisor.launch.request import Bind
from usernsctl.gvisor.launch.steps import EMPTY_DIRECTORY, Launch
from usernsctl.gvisor.runsc.command import DEFAULT_PATH


class Remedies(Protocol):
    """The words for remedies. The names in them are others' choice."""

    def show(self, source: str, destination: str = "") -> str:
        """Return what shows `source` inside, at `destination` if that is given."""

    def search(self, directory: str) -> str:
        """Return what has commands looked for in `directory`, and in no unusual place else."""

    def name_by_path(self, command: str) -> str:
        """Return what starts the file `command` of the current directory."""

    def separate_words(self, command: str) -> str:
        """Return what starts a command whose words were given as one."""


class CommandLine:
    """Remedies for who calls ``usernsctl run``."""

    def show(self, source: str, destination: str = "") -> str:
        """Return the option that shows `source`.

        A name that ends in ``:rw`` must not have another file be shown, nor be written to. Of a
        path that the option can't name, this says what else there is to do.
        """
        words = [source, destination] if destination else [source]
        if not _is_read_as(":".join(words), Bind.shown(source, destination)):
            return "rename it: --bind would take a part of its path for something else"
        return f"--bind {':'.join(map(quoted, words))}"

    def search(self, directory: str) -> str:
        """Return the option that sets PATH."""
        return f"--env PATH={quoted(directory)}:{DEFAULT_PATH}"

    def name_by_path(self, command: str) -> str:
        """Return the options and the command."""
        by_path = quoted("./" + command)
        return f"name a file of the current directory by a path: --bind . -- {by_path}"

    def separate_words(self, command: str) -> str:
        """Return what to type."""
        return f"give each word as an argument of its own, or: sh -c {quoted(command)}"


class PythonCall:
    """Remedies for who calls the package."""

    def show(self, source: str, destination: str = "") -> str:
        """Return the argument that shows `source`."""
        text = f"{source}:{destination}" if destination else source
        if _is_read_as(text, Bind.shown(source, destination)):
            return f"binds=[{text!r}]"
        words = [source, destination] if destination else [source]
        return f"binds=[usernsctl.Bind.shown({', '.join(map(repr, words))})]"

    def search(self, directory: str) -> str:
        """Return the argument that sets PATH."""
        return f"env={ {'PATH': f'{directory}:{DEFAULT_PATH}'}!r}"

    def name_by_path(self, command: str) -> str:
        """Return the arguments."""
        path = os.path.abspath(command)
        shown = self.show(os.path.dirname(path))
        return f"name a file of the current directory by its path: {shown}, args=[{path!r}]"

    def separate_words(self, command: str) -> str:
        """Return the arguments."""
        return f"give each word as an argument of its own: args={command.split()!r}"


COMMAND_LINE, PYTHON = CommandLine(), PythonCall()


def _is_read_as(text: str, bind: Bind) -> bool:
    try:
        return Bind.parse(text) == bind
    except ValueError:
        return False


class DeniedError(PermissionError):
    """The command may not search a directory on the way."""


@dataclass(frozen=True, slots=True)
class Place:
    """A path inside, without symbolic links, and the file that is there for us.

    :ivar file: ``None`` where only gVisor will have one: it makes up the way to a mount.
    """

    inside: str
    file: PathDescriptor | None

    def check_directory(self, name: str) -> None:
        """Check that a path may go on behind this file, as :meth:`Opened.check_directory` does."""
        if self.file is not None:
            self.file.check_directory(name)


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a path inside leads.

    :ivar trail: the directories on the way, from the root on, and the last file reached.
    :ivar missing: what is left of the path, which does not exist.
    """

    trail: tuple[Place, ...]
    missing: tuple[str, ...]

    @property
    def inside(self) -> str:
        """The path of the last file reached, as seen inside, without symbolic links."""
        return self.trail[-1].inside

    @property
    def file(self) -> PathDescriptor | None:
        """The last file reached, by a descriptor of ours."""
        return self.trail[-1].file

    @property
    def complete(self) -> bool:
        """Whether all of the path exists."""
        return not self.missing

    @property
    def is_directory(self) -> bool:
        """Whether the last file reached is a directory."""
        # What is on the way to a mount, gVisor makes up.
        return self.file is None or self.file.is_directory

    @property
    def is_regular(self) -> bool:
        """Whether the path leads to a regular file."""
        return self.complete and self.file is not None and stat.S_ISREG(self.file.status.st_mode)

    @property
    def is_executable(self) -> bool:
        """Whether the path leads to a regular file that somebody may execute."""
        return self.is_regular and self.file is not None and bool(self.file.status.st_mode & 0o111)

    @property
    def wanted(self) -> str:
        """Where the path leads inside, whether or not it exists."""
        return os.path.join(self.inside, *self.missing)


class View:
    """The directory tree that the command will see.

    :param top: the directory that becomes its ``/``.
    :param may_search: returns whether root inside may search a directory that this process may not;
        by default root inside may do what this process may.
    """

    def __init__(
        self,
        top: PathDescriptor,
        may_search: Callable[[os.stat_result], bool] = lambda status: False,
    ) -> None:
        self.top = top
        self._may_search = may_search
        self._binds: dict[str, PathDescriptor] = {}

    @classmethod
    def built(
        cls,
        launch: Launch,
        scratch: str,
        binds: Iterable[tuple[str, str]],
        open_path: Callable[[str], PathDescriptor],
        may_search: Callable[[os.stat_result], bool] = lambda status: False,
    ) -> Self:
        """What a command will see of a launch that was built.

        :param scratch: the path of the directory with its files.
        :param binds: the sources and destinations that runsc binds.
        :param open_path: opens a path in that directory (O_PATH).
        :param may_search: as the class has it.
        """
        seen = cls(open_path(f"{scratch}/root"), may_search)
        for source, inside in binds:
            seen.add_bind(inside, open_path(source))
        for step in launch.steps:
            if step.verb == "mount" and step.named["shows"] == "empty":
                place = seen.walk(step.named["inside"]).wanted
                seen.add_bind(place, open_path(f"{scratch}/{EMPTY_DIRECTORY}"))
        return seen

    def add_bind(self, inside: str, source: PathDescriptor) -> None:
        """Note that runsc will show `source` at a path inside that has no symbolic links.

        The first of two at the same place counts.
        """
        self._binds.setdefault(inside, source)

    def leads_to_bind(self, inside: str) -> bool:
        """Whether this is the place of a bind or a directory on the way to one.

        Those on the way exist inside even where a mount hides what is there for us: gVisor makes
        them up.
        """
        return any(f"{place}/".startswith(f"{inside}/") for place in self._binds)

    def walk(self, path: str, *, start: str = "/") -> Walk:
        """Follow a path inside, and the symbolic links on it, as the kernel will do there.

        :param start: the directory inside that a relative path starts at.
        :raises DeniedError: root inside may not search a directory on the way.
        :raises PermissionError: this process may not, but root inside may.
        :raises OSError: there are too many links, or it goes on behind a file that is no directory.
        """
        trail = [Place("/", self.top)]
        try:
            missing = paths.walk(os.path.join(start, path), trail, self._look)
        except PermissionError as error:
            directory = trail[-1].file
            if directory is None or self._may_search(directory.status):
                raise
            raise DeniedError(error.errno, error.strerror, trail[-1].inside) from None
        return Walk(tuple(trail), missing)

    def has_directory(self, inside: str) -> bool:
        """Whether a path inside leads to a directory.

        :raises OSError: as :meth:`walk` does.
        """
        walk = self.walk(inside)
        return walk.complete and walk.is_directory

    def _look(self, trail: list[Place], name: str) -> Place | str | None:
        inside = os.path.join(trail[-1].inside, name)
        if inside in self._binds:
            return Place(inside, self._binds[inside])
        directory = trail[-1].file
        try:
            found = directory.child(name) if directory is not None else None
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if self.leads_to_bind(inside):
            return Place(inside, found)
        if found is None:
            return None
        return found.link if found.is_link else Place(inside, found)


# Filled by gVisor itself.
_UNKNOWN = ("/proc", "/sys", "/dev")

# How long to look for a command along PATH, in seconds. PATH and the links in its directories may
# be those of a hostile bundle.
_SEARCH_SECONDS = 2

_SHEBANG_MAX = 256  # bytes that the kernel looks at (execve(2))


def check(
    command: str,
    view: View,
    *,
    search: str,
    cwd: str,
    caller: Mapping[str, str],
    tree: str | None = None,
    remedies: Remedies = COMMAND_LINE,
) -> None:
    """Check that the command can be found and executed inside.

    What can't be told from here is left to the sandbox to find out.

    :param search: PATH of the command.
    :param cwd: the directory inside that the command starts in.
    :param caller: the caller's environment, to tell where it has that command.
    :param tree: the root filesystem, where it has programs of its own: those of this machine are
        no remedy then.
    :param remedies: how to say what mends it.
    :raises CommandNotFoundError: it, or its interpreter, does not exist inside.
    :raises CommandNotADirectoryError: its path goes on behind a file.
    :raises CommandNotExecutableError: it is not executable, or may not be reached.
    :raises CommandError: it is no program.
    """
    # Made in a function that is over: a traceback would keep what is open in its frame.
    if error := _fault(command, view, search, cwd, caller, tree, remedies):
        raise error


def _fault(
    command: str,
    view: View,
    search: str,
    cwd: str,
    caller: Mapping[str, str],
    tree: str | None,
    remedies: Remedies,
) -> UsernsError | None:
    """Return the error of a command that can't be executed; :func:`check` has the arguments."""
    try:
        walks = _candidates(command, view, search, cwd)
    except DeniedError as denied:
        reason = f"{command}: {denied.filename} may not be searched"
        remedy = "name a program in a directory that may be searched"
        return command_error("exec", errno.EACCES, command, reason=reason, remedy=remedy)
    except OSError as error:
        return command_error("exec", error.errno or 0, command)
    if walks is None:
        return None
    for walk in walks:
        if walk.is_executable and walk.file is not None:
            return _fault_of_program(walk, walk.file, view, None if tree else remedies)
    for walk in walks:
        if walk.is_regular:
            reason = f"{walk.inside} is there, but it is not executable"
            remedy = "chmod +x it, or start it by its interpreter, as in: python3 FILE"
            return command_error("exec", errno.EACCES, command, reason=reason, remedy=remedy)
    if "/" in command and walks and walks[0].complete:
        is_directory = walks[0].is_directory
        what = "a directory" if is_directory else "no regular file"
        reason = f"{walks[0].inside} is {what}, and no program"
        remedy = "name a program, such as a file in it" if is_directory else "name a program"
        return command_error("exec", errno.EACCES, command, reason=reason, remedy=remedy)
    is_below_file = "/" in command and not (walks and walks[0].is_directory)
    reason, found_remedy = _missing(command, view, caller, tree, remedies)
    number = errno.ENOTDIR if is_below_file else errno.ENOENT
    return command_error("lookup", number, command, reason=reason, remedy=found_remedy)


def _candidates(command: str, view: View, search: str, cwd: str) -> list[Walk] | None:
    """Return where a command may be inside; ``None``: that can't be told from here.

    :raises DeniedError: it is named by a path that may not be reached.
    :raises OSError: it is named by a path that can't be followed.
    """
    is_path = "/" in command
    names = [command] if is_path else [f"{part or '.'}/{command}" for part in search.split(":")]
    walks = []
    end = time.monotonic() + _SEARCH_SECONDS
    # An empty name is no file's, in no directory.
    for name in names if command else ():
        if time.monotonic() > end:
            return None
        try:
            walk = view.walk(name, start=cwd)
        except NotADirectoryError:
            continue
        except OSError as error:
            if not _is_told(error):
                return None
            if is_path:
                raise
            continue
        if is_unknown(walk.wanted):
            return None
        if is_path or walk.complete:
            walks.append(walk)
        if walk.is_executable:
            break
    return walks


def _is_told(error: OSError) -> bool:
    """Return whether the sandbox would fail with this error, too, when it follows the path."""
    return isinstance(error, DeniedError) or error.errno in (errno.ELOOP, errno.ENAMETOOLONG)


def check_directory(view: View, cwd: str, named: str, remedy: str | None) -> None:
    """Check the directory that the command is to start in.

    What can't be told from here is left to the sandbox to find out.

    :param named: how it was asked for.
    :param remedy: what shows it.
    :raises CommandError: it is no absolute path.
    :raises CommandNotFoundError: there is nothing by that name inside.
    :raises CommandNotADirectoryError: it is no directory.
    :raises CommandNotExecutableError: it may not be reached.
    """
    if not cwd.startswith("/"):
        reason = f"{named}: it must be an absolute path"
        raise CommandError(reason, step="chdir", errno=errno.EINVAL, filename=cwd)
    if is_unknown(cwd):
        return
    # As in check().
    if fault := _fault_of_directory(view, cwd):
        number, why = fault
        raise command_error("chdir", number, cwd, reason=f"{named}: {why}", remedy=remedy)


def _fault_of_directory(view: View, cwd: str) -> tuple[int, str] | None:
    """Return the errno of a directory that can't be entered, and the words for it."""
    try:
        walk = view.walk(cwd)
    except DeniedError as denied:
        return errno.EACCES, f"{denied.filename} may not be searched"
    except NotADirectoryError:
        return errno.ENOTDIR, "it is no directory"
    except OSError as error:
        return (error.errno or 0, str(error.strerror)) if _is_told(error) else None
    if not walk.is_directory:
        return errno.ENOTDIR, "it is no directory"
    if not walk.complete:
        return errno.ENOENT, "there is no such directory in the sandbox"
    return None


def is_unknown(path: str) -> bool:
    """Whether a path inside lies where only gVisor knows what is there."""
    return any(path == top or path.startswith(f"{top}/") for top in _UNKNOWN)


def _fault_of_program(
    program: Walk, opened: PathDescriptor, view: View, remedies: Remedies | None
) -> UsernsError | None:
    """Return the error of a file that is no program, or of a script without its interpreter.

    The scripts of a venv are why: they name an interpreter that links to one elsewhere.

    :param remedies: how to say what shows the interpreter; ``None``: nothing would.
    """
    try:
        with open(opened.open(), "rb") as file:
            start = file.read(_SHEBANG_MAX)
        words = os.fsdecode(start.split(b"\n")[0].removeprefix(b"#!")).split()
        walk = view.walk(words[0]) if start.startswith(b"#!") and words else None
    except OSError:
        return None
    path = program.inside
    if walk is None:
        if start.startswith(b"\x7fELF"):
            return None
        reason = f"{path} is no program, nor a script that begins with #!"
        remedy = "begin a script with #! and its interpreter, as in: #!/bin/sh"
        return command_error("exec", errno.ENOEXEC, path, reason=reason, remedy=remedy)
    if walk.complete or is_unknown(walk.wanted):
        return None
    leads = "" if walk.wanted == words[0] else f" (which leads to {walk.wanted})"
    reason = f"{path} is run by {words[0]}{leads}, which is not in the sandbox"
    is_here = os.path.exists(walk.wanted)
    shows = show_program(walk.wanted, remedies) if remedies and is_here else None
    return command_error("exec", errno.ENOENT, path, reason=reason, remedy=shows)


def _missing(
    command: str, view: View, caller: Mapping[str, str], tree: str | None, remedies: Remedies
) -> tuple[str, str | None]:
    """Return why a command is not found inside, and what mends that."""
    where = "" if "/" in command else " along PATH"
    nowhere = f"{command!r} was not found{where} in the sandbox"
    if tree is not None:
        remedy = "name a program that is there, by the path that it has in the sandbox"
        return f"{nowhere}, whose programs are those of {tree}", remedy
    import shutil

    own = shutil.which(command, path=caller.get("PATH"))
    if own is None and "/" in command and os.path.isfile(command):
        own = command
    if own is None:
        if "/" not in command and os.path.isfile(command):
            return nowhere, remedies.name_by_path(command)
        return nowhere, remedies.separate_words(command) if len(command.split()) > 1 else None
    own = os.path.abspath(own)
    try:
        hidden = view.walk(own)
    except OSError:
        hidden = None
    if hidden is None or not hidden.complete:
        known_as = f"{command!r}" if command == own else f"{command!r} ({own} here)"
        wanted = hidden.wanted if hidden is not None else own
        return f"{known_as} is not in the sandbox", show_program(wanted, remedies)
    # The rest of PATH is not told: it is as much the environment's as any other variable.
    reason = f"{command!r} is {own}, but the PATH in the sandbox does not lead there"
    return reason, remedies.search(os.path.dirname(own))


def show_program(path: str, remedies: Remedies = COMMAND_LINE) -> str:
    """Return what shows a program: with its whole installation, where it is in a ``bin``."""
    directory = os.path.dirname(path)
    prefix = os.path.dirname(directory)
    whole = os.path.basename(directory) in ("bin", "sbin") and prefix.count("/") > 1
    return remedies.show(prefix if whole else directory)


def files_named(words: Iterable[str], directory: str) -> list[str]:
    """Those of a command's arguments that name a file of this machine, seen from `directory`."""
    return [
        word
        for word in words
        if word and not word.startswith("-") and os.path.lexists(os.path.join(directory, word))
    ]


def hidden(named: Iterable[str], view: View, *, cwd: str) -> list[str]:
    """Those of these paths that lead nowhere inside, for a command that starts in `cwd`."""
    found = []
    for path in named:
        with contextlib.suppress(OSError):
            walk = view.walk(path, start=cwd)
            if not walk.complete and not is_unknown(walk.wanted):
                found.append(path)
    return found


def how_to_show(path: str, *, directory: str, cwd: str | None) -> str:
    """How to show a file of this machine under the name that the command has for it.

    :param path: as the command names it.
    :param directory: the caller's current directory, which a relative path starts at here.
    :param cwd: where a relative path starts inside; ``None``: in the same directory, if that is
        shown.
    """
    if os.path.isabs(path):
        return COMMAND_LINE.show(path)
    if cwd is None and os.pardir not in path.split("/"):
        return COMMAND_LINE.show(".")
    return COMMAND_LINE.show(path, os.path.normpath(os.path.join(cwd or directory, path)))
