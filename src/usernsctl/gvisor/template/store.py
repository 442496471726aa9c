"""Templates that are saved under a name, each in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from usernsctl._lean import dataclass
from usernsctl._system.paths import (
    UntrustedPathError,
    make_private,
    open_trusted,
    templates_directory,
)
from usernsctl._system.records import NAME, NAME_RULE, Directory
from usernsctl.errors import NamespaceError, RunscError, UsernsError
from usernsctl.gvisor.template.image import STEP, damaged, open_saved, untrusted
from usernsctl.gvisor.template.record import TemplateRecord

_T = TypeVar("_T")

#: In there: what is known of a template. All else are the files of its image.
RECORD = "template.json"


def opened(path: str) -> Directory:
    """Open the directory of a saved template.

    :param path: an absolute path.
    :raises RunscError: there is none, or others could have written to it.
    """
    return Directory(open_saved(path), path, forbidden=0o077)


def use(path: str, work: Callable[[Directory], _T]) -> _T:
    """Do something with the directory of a saved template, and return what comes of it.

    Where that fails since the template was removed, or another one has taken its place, it is done
    with what is there now.

    :param path: an absolute path.
    :raises RunscError: there is none, or others could have written to it.
    :raises UsernsError: what `work` raises.
    """
    while True:
        with opened(path) as directory:
            try:
                return work(directory)
            except UsernsError:
                if _is_still(directory):
                    raise


def _is_still(directory: Directory) -> bool:
    """Whether its path leads to it."""
    try:
        now = os.stat(directory.path, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(now, os.fstat(directory.fd))


def made(path: str) -> Directory:
    """Make a directory for a template, or open one that is empty.

    :param path: an absolute path.
    :raises NamespaceError: it is not empty.
    :raises RunscError: others could write to it.
    :raises OSError: it can't be made.
    """
    try:
        parent = open_trusted(os.path.dirname(path))
    except UntrustedPathError as error:
        raise untrusted(path, str(error)) from None
    try:
        make_private(os.path.basename(path), parent, exist_ok=True)
    finally:
        os.close(parent)
    found = opened(path)
    if os.listdir(found.fd):
        found.close()
        raise NamespaceError(
            f"{path} is not empty",
            step=STEP,
            filename=path,
            remedy="name a directory that does not exist, or remove what is there",
        )
    return found


def read(directory: Directory) -> TemplateRecord:
    """What is known of a template that was saved.

    :raises RunscError: it is not whole, or others could have written it.
    """
    path = directory.path
    try:
        given = directory.read(RECORD)
        if given is None:
            raise damaged(path, f"there is no {RECORD}")
        made = TemplateRecord.from_json(given)
        if made.images is None:
            raise ValueError("it lists no files")
        return made
    except NamespaceError as error:
        raise untrusted(path, error.reason) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise damaged(path, f"{RECORD} makes no sense") from error


# How long somebody else may take to save or remove one, in seconds.
_LOCK_SECONDS = 60

_ANOTHER = "set XDG_DATA_HOME to a directory that is yours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A template that has a name.

    :ivar kind: one of :data:`usernsctl.gvisor.template.record.KINDS`; ``None``: it is not whole.
    :ivar args: its command.
    :ivar size: what it takes up, in bytes.
    :ivar created: when it was saved, in seconds since 1970.
    """

    name: str
    kind: str | None
    args: tuple[str, ...]
    size: int
    created: float


def directory() -> str:
    """Return the directory that templates are kept in.

    :raises RunscError: the user has no home directory.
    """
    path = templates_directory()
    if path is None:
        raise RunscError(
            "this user has no home directory to keep templates in", step=STEP, remedy=_ANOTHER
        )
    return path


def _make_directory() -> None:
    """Make the directory that they are kept in, unless it is there.

    :raises RunscError: it can't be made.
    """
    path = directory()
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        fd = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            make_private("templates", fd, exist_ok=True)
        finally:
            os.close(fd)
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: str, error: OSError) -> RunscError:
    why = f"no templates can be kept in {path}: {error.strerror}"
    return RunscError(why, step=STEP, errno=error.errno or 0, remedy=_ANOTHER)


def _is_there(path: str) -> bool:
    """Whether there is something of this name.

    :raises RunscError: nobody can tell.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(directory(), error) from None
    return True


def path_of(name: str) -> str:
    """Where a template is, if there is one of that name.

    :raises ValueError: this can't be a name.
    """
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} can't be the name of a template: {NAME_RULE}")
    return os.path.join(directory(), name)


def check_free(name: str) -> None:
    """See that there is no template of a name.

    :raises RunscError: there is one.
    """
    if _is_there(path_of(name)):
        raise RunscError(
            f"there is a template {name!r} already",
            step=STEP,
            remedy=f"usernsctl template remove {name}, or create it with --replace",
        )


def keep(save: Callable[[str], None], name: str, *, replace: bool) -> None:
    """Save a template under a name.

    :param save: writes it to a new directory, as :meth:`Template.save` does.
    :param replace: whether it takes the place of another one.
    :raises RunscError: there is one of that name.
    :raises UsernsError: as :meth:`Template.save` does.
    """
    with _locked(make=True) as top:
        # A name that nobody can ask for. If this process is killed, the next one removes it.
        temporary = f".{name}"
        save(f"{top.path}/{temporary}")
        # Whoever is killed while it removes the one has the other.
        if replace:
            with contextlib.suppress(FileNotFoundError):
                _set_aside(top, name)
        else:
            check_free(name)
        os.rename(temporary, name, src_dir_fd=top.fd, dst_dir_fd=top.fd)
        _remove(top, _aside(name))


def find(name: str) -> tuple[str, TemplateRecord]:
    """Where a template is, and what is known of it.

    :returns: its directory, and its record.
    :raises RunscError: there is none, it is not whole, or others could have written it.
    :raises ValueError: this can't be a name.
    """
    path = path_of(name)
    if not _is_there(path):
        raise _absent(name)
    return path, use(path, read)


def list_all() -> list[Named]:
    """All templates that have a name.

    :raises UsernsError: they can't be looked at.
    """
    found: list[Named] = []
    with contextlib.suppress(FileNotFoundError), _locked() as top:
        for name in top.names():
            found.append(_look(top, name))
    return found


def names() -> list[str]:
    """The names of all templates, at once: nobody who saves or removes one is waited for.

    :raises UsernsError: others could have written there, or nobody can look there.
    """
    path = directory()
    if not _is_there(path):
        return []
    with Directory(open_saved(path), path, forbidden=0o077) as top:
        return top.names()


def remove(name: str) -> None:
    """Remove a template.

    :raises RunscError: there is none.
    :raises ValueError: this can't be a name.
    """
    path_of(name)
    is_there = False
    with contextlib.suppress(FileNotFoundError), _locked() as top:
        _open(top, name).close()
        # At once: who loads it finds all of it, or that it is not there.
        _set_aside(top, name)
        is_there = _remove(top, _aside(name))
    if not is_there:
        raise _absent(name)


def _absent(name: str) -> RunscError:
    told = f"there is no template {name!r}"
    return RunscError(told, step=STEP, filename=path_of(name), cause="no-such-template")


def _look(top: Directory, name: str) -> Named:
    path = f"{top.path}/{name}"
    size, created, kind = 0, 0.0, None
    args: tuple[str, ...] = ()
    with contextlib.suppress(UsernsError, OSError), opened(path) as one:
        created = os.fstat(one.fd).st_mtime
        size = sum(os.stat(file, dir_fd=one.fd).st_size for file in os.listdir(one.fd))
        record = read(one)
        kind, args = record.kind, record.args
    return Named(name=name, kind=kind, args=args, size=size, created=created)


def _aside(name: str) -> str:
    """What a template is called that is being removed: if nobody does, the next one does."""
    return f".{name}~"


def _set_aside(top: Directory, name: str) -> None:
    os.rename(name, _aside(name), src_dir_fd=top.fd, dst_dir_fd=top.fd)


def _open(top: Directory, name: str) -> Directory:
    """Open what has this name.

    :raises FileNotFoundError: there is nothing.
    :raises RunscError: it is none of ours.
    """
    try:
        return top.open(name)
    except NamespaceError as error:
        raise damaged(f"{top.path}/{name}", error.reason) from None


def _remove(top: Directory, name: str) -> bool:
    """Remove what has this name; whether there was something.

    :raises RunscError: it is none of ours.
    """
    try:
        one = _open(top, name)
    except FileNotFoundError:
        return False
    with one:
        top.remove_tree(one, name)
    return True


@contextlib.contextmanager
def _locked(*, make: bool = False) -> Iterator[Directory]:
    """The directory, which nobody else changes meanwhile, without what was left half done.

    :raises FileNotFoundError: there is none yet.
    """
    path = directory()
    if make:
        _make_directory()
    elif not _is_there(path):
        raise FileNotFoundError(path)
    with Directory(open_saved(path), path, forbidden=0o077) as top:
        if not top.lock(_LOCK_SECONDS):
            raise RunscError(f"{path} is locked by another process", step=STEP, remedy="try again")
        try:
            for name in os.listdir(top.fd):
                # What else may be there is not of our making.
                if re.fullmatch(rf"\.{NAME}~?", name):
                    with contextlib.suppress(RunscError):
                        _remove(top, name)
            yield top
        finally:
            top.unlock()
