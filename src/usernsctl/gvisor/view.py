"""Paths as the command will see them, followed before it runs."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping

from usernsctl._records import dataclass
from usernsctl._system import opened
from usernsctl._system.opened import Opened
from usernsctl._text import quoted
from usernsctl._typing import Self
from usernsctl.errors import CommandError, CommandNotExecutableError, CommandNotFoundError
from usernsctl.gvisor.environment import DEFAULT_PATH
from usernsctl.gvisor.request import Bind
from usernsctl.gvisor.steps import EMPTY_DIRECTORY, Launch


@dataclass(frozen=True, slots=True)
class Place:
    """A path inside, without symbolic links, and the file that is there for us.

    :ivar file: ``None`` where only gVisor will have one: it makes up the way to a mount.
    """

    inside: str
    file: Opened | None

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
    def file(self) -> Opened | None:
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
    def wanted(self) -> str:
        """Where the path leads inside, whether or not it exists."""
        return os.path.join(self.inside, *self.missing)


class View:
    """The directory tree that the command will see.

    :param top: the directory that becomes its ``/``.
    """

    def __init__(self, top: Opened) -> None:
        self.top = top
        self._binds: dict[str, Opened] = {}

    @classmethod
    def built(
        cls,
        launch: Launch,
        scratch: str,
        binds: Iterable[tuple[str, str]],
        open_path: Callable[[str], Opened],
    ) -> Self:
        """What a command will see of a launch that was built.

        :param scratch: the path of the directory with its files.
        :param binds: the sources and destinations that runsc binds.
        :param open_path: opens a path in that directory (O_PATH).
        """
        seen = cls(open_path(f"{scratch}/root"))
        for source, inside in binds:
            seen.add_bind(inside, open_path(source))
        for step in launch.steps:
            if step.verb == "mount" and step.named["shows"] == "empty":
                place = seen.walk(step.named["inside"]).wanted
                seen.add_bind(place, open_path(f"{scratch}/{EMPTY_DIRECTORY}"))
        return seen

    def add_bind(self, inside: str, source: Opened) -> None:
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
        :raises OSError: there are too many links, it goes on behind a file that is no directory,
            or we may not look into a directory on the way.
        """
        trail = [Place("/", self.top)]
        missing = opened.walk(os.path.join(start, path), trail, self._look)
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

_SHEBANG_MAX = 256  # bytes that the kernel looks at (execve(2))


def check(
    command: str,
    view: View,
    *,
    search: str,
    cwd: str,
    caller: Mapping[str, str],
    tree: str | None = None,
) -> None:
    """Check that the command can be found and executed inside.

    :param search: PATH of the command.
    :param cwd: the directory inside that the command starts in.
    :param caller: the caller's environment, to tell where it has that command.
    :param tree: the root filesystem, where it has programs of its own: those of this machine are
        no remedy then.
    :raises CommandNotFoundError: it does not exist inside.
    :raises CommandNotExecutableError: it does, but is not executable, or its interpreter is not
        there.
    """
    names = (
        [command] if "/" in command else [f"{part or '.'}/{command}" for part in search.split(":")]
    )
    walks = []
    for name in names:
        try:
            walk = view.walk(name, start=cwd)
        except OSError:
            return
        if is_unknown(walk.wanted):
            return
        walks.append(walk)
    found = [(walk, walk.file) for walk in walks if walk.complete and walk.file is not None]
    found = [(walk, file) for walk, file in found if stat.S_ISREG(file.status.st_mode)]
    if not found and "/" in command and walks[0].complete and walks[0].is_directory:
        raise CommandNotExecutableError(
            f"{walks[0].inside} is a directory, and no program",
            step="exec",
            filename=command,
            remedy="name a program, such as a file in it",
        )
    if not found:
        raise _not_found(command, view, caller) if tree is None else _not_in(tree, command)
    executable = [(walk, file) for walk, file in found if file.status.st_mode & 0o111]
    if not executable:
        raise CommandNotExecutableError(
            f"{found[0][0].inside} is there, but it is not executable",
            step="exec",
            filename=command,
            remedy="chmod +x it, or start it by its interpreter, as in: python3 FILE",
        )
    _check_interpreter(*executable[0], view, tree)


def check_directory(view: View, cwd: str, named: str, remedy: str | None) -> None:
    """Check the directory that the command is to start in.

    :param named: how it was asked for.
    :param remedy: what shows it.
    :raises CommandError: it is no absolute path, or there is no such directory inside.
    :raises PermissionError: we may not look.
    """
    if not cwd.startswith("/"):
        reason = f"{named}: it must be an absolute path"
        raise CommandError(reason, step="chdir", filename=cwd)
    if is_unknown(cwd):
        return
    try:
        is_there = view.has_directory(cwd)
    except PermissionError:
        raise
    except OSError:  # too many links, or a file on the way
        is_there = False
    if not is_there:
        reason = f"{named}: there is no such directory in the sandbox"
        raise CommandError(reason, step="chdir", filename=cwd, remedy=remedy)


def is_unknown(path: str) -> bool:
    """Whether a path inside lies where only gVisor knows what is there."""
    return any(path == top or path.startswith(f"{top}/") for top in _UNKNOWN)


def _check_interpreter(script: Walk, opened: Opened, view: View, tree: str | None) -> None:
    """Venvs are why: their scripts name an interpreter that links to one elsewhere."""
    try:
        with open(opened.open(), "rb") as file:
            line = file.read(_SHEBANG_MAX).split(b"\n")[0]
        words = os.fsdecode(line.removeprefix(b"#!")).split()
        if not line.startswith(b"#!") or not words:
            return
        walk = view.walk(words[0])
    except OSError:
        return
    if walk.complete or is_unknown(walk.wanted):
        return
    leads = "" if walk.wanted == words[0] else f" (which leads to {walk.wanted})"
    raise CommandNotExecutableError(
        f"{script.inside} is run by {words[0]}{leads}, which is not in the sandbox",
        step="exec",
        filename=script.inside,
        remedy=bind_option(walk.wanted) if tree is None and os.path.exists(walk.wanted) else None,
    )


def _not_in(tree: str, command: str) -> CommandNotFoundError:
    where = "" if "/" in command else " along PATH"
    return CommandNotFoundError(
        f"{command!r} was not found{where} in the sandbox, whose programs are those of {tree}",
        step="lookup",
        filename=command,
        remedy="name a program that is there, by the path that it has in the sandbox",
    )


def _not_found(command: str, view: View, caller: Mapping[str, str]) -> CommandNotFoundError:
    import shutil

    own = shutil.which(command, path=caller.get("PATH"))
    if own is None and "/" in command and os.path.isfile(command):
        own = command
    if own is None:
        where = "" if "/" in command else " along PATH"
        return CommandNotFoundError(
            f"{command!r} was not found{where} in the sandbox",
            step="lookup",
            filename=command,
            remedy=_as_meant(command),
        )
    own = os.path.abspath(own)
    try:
        hidden = view.walk(own)
    except OSError:
        hidden = None
    if hidden is None or not hidden.complete:
        remedy = bind_option(hidden.wanted if hidden is not None else own)
        known_as = f"{command!r}" if command == own else f"{command!r} ({own} here)"
        reason = f"{known_as} is not in the sandbox"
    else:
        # The rest of PATH is not told: it is as much the environment's as any other variable.
        remedy = f"--env PATH={quoted(os.path.dirname(own))}:{DEFAULT_PATH}"
        reason = f"{command!r} is {own}, but the PATH in the sandbox does not lead there"
    return CommandNotFoundError(reason, step="lookup", filename=command, remedy=remedy)


def _as_meant(command: str) -> str | None:
    """What was probably meant by a command that is nowhere."""
    if "/" not in command and os.path.isfile(command):
        return (
            f"name a file of the current directory by a path: --bind . -- {quoted('./' + command)}"
        )
    if len(command.split()) > 1:
        return f"give each word as an argument of its own, or: sh -c {quoted(command)}"
    return None


def bind_option(path: str) -> str:
    """How to show a program: with its whole installation, where it is in a ``bin``."""
    directory = os.path.dirname(path)
    prefix = os.path.dirname(directory)
    whole = os.path.basename(directory) in ("bin", "sbin") and prefix.count("/") > 1
    return show_remedy(prefix if whole else directory)


def show_remedy(source: str, destination: str = "") -> str:
    """The option that shows `source`, under its own name unless `destination` is given.

    Names are others' choice: one that ends in ``:rw`` must not have another file be shown, nor be
    written to. Of a path that the option can't name, this says what else there is to do.
    """
    words = [source, destination] if destination else [source]
    try:
        is_read_so = Bind.parse(":".join(words)) == Bind.shown(source, destination)
    except ValueError:
        is_read_so = False
    if not is_read_so:
        return "rename it: --bind would take a part of its path for something else"
    return f"--bind {':'.join(map(quoted, words))}"


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
        return show_remedy(path)
    if cwd is None and os.pardir not in path.split("/"):
        return show_remedy(".")
    return show_remedy(path, os.path.normpath(os.path.join(cwd or directory, path)))
