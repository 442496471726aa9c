"""Functions that resolve paths of a sandbox before its start, as the command will see them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Mapping

from usernsctl._core import CommandFault, NativeView, Reached, command_error
from usernsctl._lean import Protocol, Self, dataclass
from usernsctl._system.paths import PathDescriptor
from usernsctl._text import quoted
from usernsctl.gvisor.launch.request import Bind
from usernsctl.gvisor.launch.steps import EMPTY_DIRECTORY
from usernsctl.gvisor.runsc.command import DEFAULT_PATH
from usernsctl.maps import MappedIds


class Remedies(Protocol):
    """The interface of remedy texts. The texts differ between the command line and Python."""

    def show(self, source: str, destination: str = "") -> str:
        """Return the remedy to mount `source` at `destination`, by default at the same path."""

    def search(self, directory: str) -> str:
        """Return the remedy that adds `directory` to the default PATH."""

    def name_by_path(self, command: str) -> str:
        """Return the remedy for a command whose file is in the current directory, not in PATH."""

    def separate_words(self, command: str) -> str:
        """Return the remedy for a command and arguments that were passed as a single argument."""


class CommandLine:
    """Remedies for callers of ``usernsctl run``."""

    def show(self, source: str, destination: str = "") -> str:
        """Return the remedy that mounts `source`: an option ``--bind`` for the path.

        The syntax of ``--bind`` is SRC[:DST][:ro|rw]. If a part of the path would be parsed as DST
        or rw, the remedy is to rename the file.
        """
        words = [source, destination] if destination else [source]
        if not _is_read_as(":".join(words), Bind.shown(source, destination)):
            return "rename the file: --bind would misread a part of the path as DST or rw"
        return f"add --bind {':'.join(map(quoted, words))}"

    def search(self, directory: str) -> str:
        """Return the remedy that adds `directory` to the default PATH: an option ``--env``."""
        return f"add --env PATH={quoted(_default_path_with(directory))}"

    def name_by_path(self, command: str) -> str:
        """Return advice to mount the current directory, and to name `command` by its path."""
        by_path = quoted("./" + command)
        return f"name a file of the current directory by its path, as in: --bind . -- {by_path}"

    def separate_words(self, command: str) -> str:
        """Return advice to pass the words of `command` as separate arguments, or to run a shell."""
        return f"give each word as a separate argument, or run a shell: sh -c {quoted(command)}"


class PythonCall:
    """Remedies for callers of the Python package."""

    def show(self, source: str, destination: str = "") -> str:
        """Return the remedy that mounts `source`: the argument `binds` to pass."""
        text = f"{source}:{destination}" if destination else source
        if _is_read_as(text, Bind.shown(source, destination)):
            return f"binds=[{text!r}]"
        words = [source, destination] if destination else [source]
        return f"binds=[usernsctl.Bind.shown({', '.join(map(repr, words))})]"

    def search(self, directory: str) -> str:
        """Return the remedy that adds `directory` to the default PATH: an argument `env`."""
        return f"env={ {'PATH': _default_path_with(directory)}!r}"

    def name_by_path(self, command: str) -> str:
        """Return advice to mount the current directory, and to name `command` by its path."""
        path = os.path.abspath(command)
        shown = self.show(os.path.dirname(path))
        return f"name a file of the current directory by its path: {shown}, args=[{path!r}]"

    def separate_words(self, command: str) -> str:
        """Return advice to pass the words of `command` as separate items of `args`."""
        return f"give each word as a separate item: args={command.split()!r}"


COMMAND_LINE, PYTHON = CommandLine(), PythonCall()


def _default_path_with(directory: str) -> str:
    """Return the default PATH, with `directory` as its first entry unless PATH contains it."""
    if directory in DEFAULT_PATH.split(":"):
        return DEFAULT_PATH
    return f"{directory}:{DEFAULT_PATH}"


def _is_read_as(text: str, bind: Bind) -> bool:
    try:
        return Bind.parse(text) == bind
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The result of resolving a path in the sandbox. The path need not exist to its end.

    :ivar inside: the existing part of the path, as a path in the sandbox without symbolic links.
    :ivar missing: the components of the path that don't exist.
    :ivar file: the file that the existing part names; ``None`` for a directory that gVisor will
        create as the parent of a mount point.
    :ivar is_unknown: whether the path is in a filesystem whose contents only gVisor knows, such as
        gVisor's /proc.
    """

    inside: str
    missing: tuple[str, ...]
    file: PathDescriptor | None
    is_unknown: bool

    @property
    def complete(self) -> bool:
        """True if the whole path exists."""
        return not self.missing

    @property
    def is_directory(self) -> bool:
        """True if the existing part of the path is a directory."""
        return self.file is None or self.file.is_directory

    @property
    def wanted(self) -> str:
        """The path in the sandbox, with symbolic links resolved and missing components appended."""
        return os.path.join(self.inside, *self.missing)


class View:
    """The directory tree that the command will see."""

    def __init__(self, native: NativeView) -> None:
        self._native = native

    @classmethod
    def of_root(cls, top: PathDescriptor, owners: MappedIds | None = None) -> Self:
        """Return the view of a root filesystem without bind mounts.

        :param top: the directory that becomes ``/``; the view closes the descriptor.
        :param owners: the mapped ids. Root in the sandbox may search all directories that these ids
            own. By default, it may search only the directories that this process may search.
        """
        extents = None
        if owners is not None:
            extents = [
                [(one.inside, one.outside, one.count) for one in of]
                for of in (owners.uid, owners.gid)
            ]
        return cls(NativeView.of_root(top.descriptor, extents))

    @classmethod
    def built(
        cls,
        scratch: str,
        binds: Iterable[tuple[str, str]],
        empty: Iterable[str],
        open_path: Callable[[str], PathDescriptor],
        owners: MappedIds | None = None,
    ) -> Self:
        """Return the view of a root filesystem that another process has already built.

        :param scratch: the path of the run's tmpfs.
        :param binds: the source and the destination of each bind mount.
        :param empty: the paths on which gVisor will mount an empty filesystem.
        :param open_path: a function that opens a path in the run's tmpfs (O_PATH).
        :param owners: as for :meth:`of_root`.
        """
        with contextlib.ExitStack() as undo:
            seen = cls.of_root(open_path(f"{scratch}/root"), owners)
            undo.callback(seen.close)
            for source, inside in binds:
                seen.add_bind(inside, open_path(source))
            for path in empty:
                place = seen.walk(path).wanted
                seen.add_bind(place, open_path(f"{scratch}/{EMPTY_DIRECTORY}"))
            undo.pop_all()
        return seen

    def close(self) -> None:
        """Close all descriptors of the view."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_bind(self, inside: str, source: PathDescriptor) -> None:
        """Add a mount of `source` at a path in the sandbox that has no symbolic links.

        If two mounts are added at the same path, the first mount is used.

        :param source: the mounted file; the view closes the descriptor.
        """
        self._native.add(inside, source.descriptor)

    def walk(self, path: str, *, start: str = "/") -> Walk:
        """Resolve a path and its symbolic links, as the kernel will do in the sandbox.

        :param start: the directory in the sandbox against which a relative path is resolved.
        :raises PermissionError: a directory of the path may not be searched.
        :raises OSError: the path has too many symbolic links, or a component that is not a
            directory.
        """
        reached = self._native.follow(path, start)
        if reached.errnum:
            raise OSError(reached.errnum, os.strerror(reached.errnum), reached.inside)
        return _walk_of(reached)

    def fault_of_command(self, command: str, search: str, cwd: str) -> CommandFault | None:
        """Return the reason why a command can't be started in the sandbox, or None.

        :param search: the PATH of the command.
        :param cwd: the working directory of the command, a path in the sandbox.
        """
        return self._native.check_command(command, search, cwd)

    def fault_of_directory(self, path: str) -> tuple[int, str] | None:
        """Return the errno and the reason why `path` can't be the command's working directory.

        Return None for a usable directory, and for a directory that only gVisor can check.
        """
        reached = self._native.follow(path, "/")
        walk = _walk_of(reached)
        if walk.is_unknown or (reached.errnum and not reached.is_certain):
            return None
        if reached.errnum == errno.EACCES:
            return errno.EACCES, f"{walk.inside} may not be searched"
        if reached.errnum not in (0, errno.ENOTDIR):
            return reached.errnum, os.strerror(reached.errnum)
        if reached.errnum or not walk.is_directory:
            return errno.ENOTDIR, "not a directory"
        if not walk.complete:
            return errno.ENOENT, "the directory does not exist in the sandbox"
        return None


def _walk_of(reached: Reached) -> Walk:
    return Walk(
        inside=reached.inside,
        missing=reached.missing,
        file=PathDescriptor(reached.file, reached.inside) if reached.file.number >= 0 else None,
        is_unknown=reached.is_of_gvisor,
    )


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
    """Check that the command can be found and executed in the sandbox.

    The check can't foresee all failures; other failures are reported at the start of the sandbox.

    :param search: the PATH of the command.
    :param cwd: the working directory of the command, a path in the sandbox.
    :param caller: the caller's environment. Its PATH is searched for the command on the host, so
        that the remedy can mount that command.
    :param tree: the root filesystem, if the sandbox has one with programs of its own; remedies then
        don't mount the host's programs.
    :param remedies: the texts of the remedies.
    :raises CommandNotFoundError: the command, or its interpreter, does not exist in the sandbox.
    :raises CommandNotADirectoryError: a component of the command's path is not a directory.
    :raises CommandNotExecutableError: the command is not executable, or a directory of its path may
        not be searched.
    :raises CommandError: the file is not a program.
    """
    fault = view.fault_of_command(command, search, cwd)
    if fault is None:
        return
    reason, remedy = fault.reason, fault.remedy or None
    if fault.is_missing:
        reason, remedy = _missing(command, view, caller, tree, remedies)
    elif fault.interpreter and tree is None and os.path.exists(fault.interpreter):
        remedy = show_program(fault.interpreter, remedies)
    step = "lookup" if fault.is_missing else "exec"
    raise command_error(step, fault.errnum, fault.path, reason=reason, remedy=remedy)


def check_directory(view: View, cwd: str, named: str, remedy: str | None) -> None:
    """Check that the command can be started in a working directory.

    The check can't foresee all failures; other failures are reported at the start of the sandbox.

    :param named: the option or argument that sets the directory, for the error message.
    :param remedy: the remedy that mounts the directory, or ``None``.
    :raises CommandError: the path is not absolute.
    :raises CommandNotFoundError: the directory does not exist in the sandbox.
    :raises CommandNotADirectoryError: the path is not a directory.
    :raises CommandNotExecutableError: a directory of the path may not be searched.
    """
    if not cwd.startswith("/"):
        from usernsctl.gvisor.checks import relative_error

        raise relative_error(f"{named}: not an absolute path", cwd)
    if fault := view.fault_of_directory(cwd):
        number, why = fault
        raise command_error("chdir", number, cwd, reason=f"{named}: {why}", remedy=remedy)


def _missing(
    command: str, view: View, caller: Mapping[str, str], tree: str | None, remedies: Remedies
) -> tuple[str, str | None]:
    """Return the reason why a command is not found in the sandbox, and the remedy."""
    where = "" if "/" in command else " along PATH"
    nowhere = f"{command!r} was not found{where} in the sandbox"
    if tree is not None:
        remedy = "name an existing program, by its path in the sandbox"
        return f"{nowhere}, whose root filesystem is {tree}", remedy
    import shutil

    # Also search the default PATH: on Debian, the PATH of a user other than root lacks the
    # sbin directories.
    own = shutil.which(command, path=caller.get("PATH")) or shutil.which(command, path=DEFAULT_PATH)
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
    # Do not print the rest of PATH, since environment variables may contain secrets.
    reason = f"{command!r} is {own}, but PATH in the sandbox lacks this directory"
    return reason, remedies.search(os.path.dirname(own))


def show_program(path: str, remedies: Remedies = COMMAND_LINE) -> str:
    """Return the remedy that mounts the directory of a program, or the parent of a ``bin``."""
    directory = os.path.dirname(path)
    prefix = os.path.dirname(directory)
    whole = os.path.basename(directory) in ("bin", "sbin") and prefix.count("/") > 1
    return remedies.show(prefix if whole else directory)


def how_to_show(path: str, *, directory: str, cwd: str | None) -> str:
    """Return the remedy that mounts a file of the host at the path that the command uses.

    :param path: the path in the arguments of the command.
    :param directory: the caller's current directory, against which a relative path is resolved on
        the host.
    :param cwd: the command's working directory, against which a relative path is resolved in the
        sandbox; ``None`` if the command starts in `directory` as soon as `directory` is mounted.
    """
    if os.path.isabs(path):
        return COMMAND_LINE.show(path)
    if cwd is None and os.pardir not in path.split("/"):
        return COMMAND_LINE.show(".")
    return COMMAND_LINE.show(path, os.path.normpath(os.path.join(cwd or directory, path)))
