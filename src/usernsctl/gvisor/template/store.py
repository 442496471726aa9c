"""Saved and named templates, which are directories with a checkpoint and a record."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from usernsctl._lean import dataclass
from usernsctl._system.paths import UntrustedPathError, templates_directory
from usernsctl._system.records import NONSENSE, RECORD, Directory, Store, TakenError
from usernsctl.errors import NamespaceError, RunscError, UsernsError, cause_of_file_error
from usernsctl.gvisor.template.image import STEP, damaged, untrusted
from usernsctl.gvisor.template.record import TemplateRecord

_T = TypeVar("_T")


def use(path: str, work: Callable[[Directory], _T]) -> _T:
    """Call `work` with the open directory of a saved template, and return its result.

    If `work` fails, and the template was replaced meanwhile, `work` is called again, with the
    directory that is now at `path`.

    :param path: the absolute path of the directory.
    :raises RunscError: the template does not exist, or other users could have modified it.
    :raises UsernsError: `work` raised this exception.
    """
    while True:
        with _open_saved(path) as directory:
            try:
                return work(directory)
            except UsernsError:
                if _is_current(directory):
                    raise


def _open_saved(path: str) -> Directory:
    try:
        return Directory.open_trusted(path)
    except UntrustedPathError as error:
        raise untrusted(path, error.why(path)) from None
    except OSError as error:
        raise RunscError(
            f"there is no template {path}: {error.strerror}",
            step=STEP,
            errno=error.errno or 0,
            filename=path,
            cause="no-such-template",
            remedy="name the directory that a template was saved in",
        ) from error


def _is_current(directory: Directory) -> bool:
    """Return whether `directory.path` still is the path of the open directory `directory`."""
    try:
        now = os.stat(directory.path, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(now, os.fstat(directory.fd))


@contextlib.contextmanager
def filled_directory(path: str) -> Iterator[Directory]:
    """Yield an empty directory for the files of a template; create the directory if it is missing.

    If the ``with`` block fails, its files are removed, and so is a directory that was created.

    :param path: the absolute path of the directory.
    :raises NamespaceError: the directory is not empty.
    :raises RunscError: other users could write to the directory.
    :raises OSError: the directory can't be created.
    """
    is_new = not os.path.lexists(path)
    try:
        with Directory.open_trusted(path, make=True) as found:
            if os.listdir(found.fd):
                raise NamespaceError(
                    f"{path} is not empty",
                    step=STEP,
                    filename=path,
                    remedy="name an empty directory, or a path that does not exist",
                )
            try:
                yield found
            except BaseException:
                for name in os.listdir(found.fd):
                    os.unlink(name, dir_fd=found.fd)
                raise
    except UntrustedPathError as error:
        raise untrusted(path, error.why(path)) from None
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                os.rmdir(path)
        raise


def read(directory: Directory) -> TemplateRecord:
    """Read the record of a saved template.

    :raises RunscError: the template is incomplete, or other users could have modified it.
    """
    path = directory.path
    try:
        given = directory.read(RECORD)
        if given is None:
            raise damaged(path, f"there is no {RECORD}")
        found = TemplateRecord.from_json(given)
        if found.images is None:
            raise ValueError("the record lists no files")
        return found
    except NamespaceError as error:
        raise untrusted(path, error.reason.replace(" can't be trusted: ", ": ")) from None
    except NONSENSE as error:
        raise damaged(path, f"{RECORD} is invalid") from error


_ELSEWHERE = "set XDG_DATA_HOME to a directory of your own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A named template.

    :ivar kind: one of :data:`usernsctl.gvisor.template.record.KINDS`; ``None`` if the template is
        damaged.
    :ivar args: the command of the template.
    :ivar size: the total size of the template's files, in bytes.
    :ivar created: the time when the template was saved, in seconds since 1970; 0 if unknown.
    """

    name: str
    kind: str | None = None
    args: tuple[str, ...] = ()
    size: int = 0
    created: float = 0.0

    @classmethod
    def read(cls, name: str, directory: Directory) -> Named:
        """Read the record and the file sizes of a named template, even of a damaged one."""
        size, created = 0, 0.0
        with contextlib.suppress(UsernsError, OSError):
            created = os.fstat(directory.fd).st_mtime
            files = os.listdir(directory.fd)
            size = sum(os.stat(file, dir_fd=directory.fd).st_size for file in files)
            found = read(directory)
            return cls(name=name, kind=found.kind, args=found.args, size=size, created=created)
        return cls(name=name, size=size, created=created)

    def is_alive(self) -> bool:
        """Return True: even a damaged template is kept until its owner removes it."""
        return True

    def discard(self) -> None:
        """Do nothing, because a template has no processes to kill."""

    def to_json(self) -> Mapping[str, Any]:
        """Raise NotImplementedError, because :meth:`usernsctl.Template.save` writes the record."""
        raise NotImplementedError


def directory() -> str:
    """Return the path of the directory that contains all named templates.

    :raises RunscError: the user has no home directory.
    """
    path = templates_directory()
    if path is None:
        raise RunscError(
            "this user has no home directory to store templates in", step=STEP, remedy=_ELSEWHERE
        )
    return path


def _open_directory(make: bool) -> Directory:
    """Open the directory that contains all named templates.

    :param make: whether to create missing directories, the parent directories included.
    :raises FileNotFoundError: the directory does not exist.
    :raises RunscError: the directory can't be opened or created, or other users may write to it.
    """
    path = directory()
    try:
        if make:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return Directory.open_trusted(path, make=make, elsewhere=_ELSEWHERE)
    except FileNotFoundError:
        raise
    except UntrustedPathError as error:
        raise untrusted(path, error.why(path)) from None
    except OSError as error:
        cause = cause_of_file_error(error.errno)
        raise RunscError(
            f"can't store templates in {path}: {error.strerror}",
            step=STEP,
            errno=error.errno or 0,
            cause=cause,
            remedy=None if cause else _ELSEWHERE,
        ) from None


_STORE = Store("the name of a template", Named, _open_directory)


def path_of(name: str) -> str:
    """Return the path of a named template's directory. The directory need not exist.

    :raises InvalidNameError: `name` is not a valid template name.
    """
    return os.path.join(directory(), _STORE.check_name(name))


def _exists(name: str) -> bool:
    try:
        with _open_directory(False) as top:
            os.stat(name, dir_fd=top.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _taken(name: str) -> RunscError:
    return RunscError(
        f"a template {name!r} exists already",
        step=STEP,
        remedy=f"usernsctl template remove {name}    # or create it with --replace",
    )


def _absent(name: str) -> RunscError:
    return RunscError(
        f"there is no template {name!r}",
        step=STEP,
        filename=path_of(name),
        cause="no-such-template",
    )


def check_free(name: str) -> None:
    """Check that no template has the name `name`.

    :raises InvalidNameError: `name` is not a valid template name.
    :raises RunscError: a template has this name.
    """
    if _exists(_STORE.check_name(name)):
        raise _taken(name)


def keep(save: Callable[[str], None], name: str, *, replace: bool) -> None:
    """Save a template under the name `name`.

    :param save: a function that writes the template to an empty directory, like
        :meth:`Template.save`.
    :param replace: whether to replace an existing template with the same name.
    :raises RunscError: another template has the name, and `replace` is false.
    :raises UsernsError: as :meth:`Template.save` does.
    """
    try:
        with _STORE.draft(name, replace=replace) as entry:
            save(entry.path)
            _STORE.replace(entry)
    except TakenError:
        raise _taken(name) from None


def find(name: str) -> tuple[str, TemplateRecord]:
    """Return the directory of a named template, and its record.

    :raises RunscError: no template has the name, or the template is damaged or can't be trusted.
    :raises InvalidNameError: `name` is not a valid template name.
    """
    path = path_of(name)
    if not _exists(name):
        raise _absent(name)
    return path, use(path, read)


def list_all() -> list[Named]:
    """Return all named templates, even damaged ones.

    Removes the incomplete templates that killed processes have left behind.

    :raises UsernsError: the directory of templates can't be used.
    """
    _STORE.sweep()
    found: list[Named] = []
    with contextlib.suppress(FileNotFoundError), _open_directory(False) as top:
        for name in top.names():
            found.append(Named(name=name))
            with contextlib.suppress(UsernsError, OSError), top.open(name) as one:
                found[-1] = Named.read(name, one)
    return found


def names() -> list[str]:
    """Return the names of all named templates.

    :raises UsernsError: the directory of templates can't be used.
    """
    with contextlib.suppress(FileNotFoundError), _open_directory(False) as top:
        return top.names()
    return []


def remove(name: str) -> None:
    """Remove a named template.

    :raises RunscError: no template has the name.
    :raises InvalidNameError: `name` is not a valid template name.
    """
    entry = _STORE.find(name)
    if entry is None:
        raise _absent(name)
    with entry:
        # Rename the directory before its files are removed: readers take no lock, and must find
        # either the whole template or none.
        entry.set_aside()
