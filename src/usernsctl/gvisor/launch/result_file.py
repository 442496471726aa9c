"""The file to which ``usernsctl run --result`` writes the result of the command.

The file is opened before the command is started, so that a location that is not writable fails
before the command runs. The watcher writes the result (csrc/programs/watch/result.c).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping

from usernsctl import _core
from usernsctl._system.paths import open_path
from usernsctl.errors import BindError, CommandError, cause_of_file_error

# The errors with which open(2) fails on filesystems that do not support O_TMPFILE.
_NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)

# The members of the JSON result that are null or zero if the command was not started.
_NOTHING = (
    '"limit": null, "used": null, "rusage": null, "peak_memory": null, "denied": 0, '
    '"stdout_truncated": 0, "stderr_truncated": 0'
)


class ResultFile:
    """An open file that becomes the result; until then, it has no name or a temporary name.

    :ivar path: the path of the result.
    """

    def __init__(self, path: str) -> None:
        """Open a file in the directory of `path`, with O_TMPFILE or a temporary name.

        :raises CommandError: a file can't be created in that directory, or `path` exists and is not
            a regular file.
        """
        self.path = path
        self._temporary = f".usernsctl-{os.urandom(8).hex()}"
        parent, self._name = os.path.split(path)
        try:
            if self._name in ("", ".", ".."):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._parent = open_path(parent or ".")
            self._directory = self._parent.fd
            self._has_old = self._check_old()
            self._file = self._create()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> CommandError:
        cause = cause_of_file_error(error.errno)
        return CommandError(
            f"{self.path}: {error.strerror}",
            step="result",
            errno=error.errno or 0,
            filename=self.path,
            cause=cause,
            remedy=None if cause else "name a file in a directory that you may write to",
        )

    def _create(self) -> int:
        mode, flags = 0o666, os.O_WRONLY | os.O_CLOEXEC
        where = f"/proc/self/fd/{self._directory}"
        try:
            return os.open(where, flags | os.O_TMPFILE, mode)
        except OSError as error:
            if error.errno not in _NO_NAMELESS_FILES:
                raise
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(self._temporary, flags, mode, dir_fd=self._directory)

    def _check_old(self) -> bool:
        """Return whether the result of an earlier run exists at :attr:`path`.

        :raises OSError: the path exists, but is not a regular file.
        """
        try:
            status = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EEXIST, "exists, and is no regular file")
        return True

    @property
    def descriptors(self) -> tuple[int, int]:
        """The descriptors of the directory and of the file; the watcher inherits both."""
        return self._directory, self._file

    @property
    def option(self) -> str:
        """The watcher's command line option for this file."""
        return f"--result={self._directory},{self._file},{self._temporary},{self._name}"

    def prepare(self, writable: Mapping[str, int]) -> None:
        """Check that the sandbox can't replace the result, and remove the result of an earlier run.

        A reader could mistake an old result for the result of this run.

        :param writable: the sources of the writable bind mounts: a mapping from paths to
            descriptors.
        :raises CommandError: a writable bind mount contains the result's directory, or the old
            result can't be removed.
        """
        self._check_unwritable(writable)
        try:
            if self._has_old:
                os.unlink(self._name, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._error(error) from error

    def _check_unwritable(self, writable: Mapping[str, int]) -> None:
        # Check whether a writable bind mount would show `_temporary`, a path that does not exist in
        # the result's directory. So sources that contain the result's directory are rejected, but
        # sources in that directory are allowed.
        try:
            _core.refuse_to_show(writable, f"{self._parent.path}/{self._temporary}")
        except BindError as error:
            if error.cause != "bind-shows-state":
                raise
            raise CommandError(
                f"{self.path}: the sandbox could write there, since {error.filename} is "
                "bind-mounted with :rw",
                step="result",
                filename=self.path,
                remedy="name a file in a directory that the sandbox may not write to",
            ) from None

    def write_failure(self, status: int) -> None:
        """Write the result of a command that was not started.

        :param status: the exit status of usernsctl.
        """
        text = f'{{"status": {status}, "signal": null, "reason": "start-failed", {_NOTHING}}}\n'
        where = {"src_dir_fd": self._directory, "dst_dir_fd": self._directory}
        try:
            os.write(self._file, text.encode())
            if os.fstat(self._file).st_nlink == 0:
                link = f"/proc/self/fd/{self._file}"
                os.link(link, self._temporary, dst_dir_fd=self._directory, follow_symlinks=True)
            os.replace(self._temporary, self._name, **where)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the file's temporary name, if it has one."""
        with contextlib.suppress(OSError):
            os.unlink(self._temporary, dir_fd=self._directory)
