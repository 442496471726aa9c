"""The directory for what outlives the process that made it: named namespaces, detached sandboxes.

Only the user can write there. Whoever reads or changes it holds a lock on it meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from usernsctl.errors import NamespaceError, UsernsError
from usernsctl.shown import quoted

#: What may be a name there: of a namespace, or the id of a sandbox.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
NAME_RULE = (
    "it must be 1 to 64 letters, digits, dots, dashes and underscores, "
    "the first a letter, a digit or an underscore"
)

_STEP = "state"


def state_directory() -> Path:
    """Where it is: $XDG_RUNTIME_DIR/usernsctl, or a directory of the user's own in /tmp."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime, "usernsctl")
    return Path(tempfile.gettempdir(), f"usernsctl-{os.geteuid()}")


@contextlib.contextmanager
def locked_directory() -> Iterator[Path]:
    """The state directory, which nobody else of this user reads or changes meanwhile.

    :raises NamespaceError: it can't be made, or somebody else could write there; also for any
        :class:`OSError` that is raised while it is locked.
    """
    directory = state_directory()
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise unusable(directory, error) from error
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise NamespaceError(
                f"{directory} must belong to uid {os.geteuid()} and be closed to others; it "
                f"belongs to uid {status.st_uid}, with mode {stat.S_IMODE(status.st_mode):o}",
                step=_STEP,
                cause="state-directory-unusable",
                remedy=f"chmod 700 {quoted(str(directory))}, "
                "or set XDG_RUNTIME_DIR to a directory that is yours",
            )
        # The lock ends with the descriptor, however this process ends.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Whatever becomes of the path, this stays the directory that was looked at.
        yield Path(f"/proc/self/fd/{descriptor}")
    except UsernsError:
        raise
    except OSError as error:
        raise unusable(directory, error) from error
    finally:
        # To close it would not do: a fork of this process may have the descriptor, too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def unusable(directory: Path, error: OSError) -> NamespaceError:
    """What to raise for a failure to read or write there."""
    number = error.errno or 0
    return NamespaceError(
        f"{directory}: {os.strerror(number)}",
        step=_STEP,
        errno=number,
        filename=str(directory),
        cause="state-directory-unusable",
        remedy="set XDG_RUNTIME_DIR to a directory that is yours",
    )
