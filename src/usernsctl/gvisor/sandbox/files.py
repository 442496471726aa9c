"""The public methods of a sandbox that copy files into and out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

from usernsctl._lean import LateModule
from usernsctl._system.descriptors import deadline_after, seconds_left
from usernsctl._system.paths import absolute_path, check_path
from usernsctl.commands.arguments import StrOrBytesPath, check_keywords, check_timeout
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent.commands import CommandDefaults, SandboxCommands
from usernsctl.gvisor.sandbox import users

if TYPE_CHECKING:
    from usernsctl.gvisor.agent import file_copies, file_records
else:
    # Import these modules on first use, because few programs copy files.
    file_copies = LateModule("usernsctl.gvisor.agent.file_copies")
    file_records = LateModule("usernsctl.gvisor.agent.file_records")

_T = TypeVar("_T")

#: The default timeout of a copy, in seconds.
COPY_SECONDS = 300
#: The default maximum size of a file that is read into memory, in bytes.
READ_BYTES = 64 << 20
#: The default maximum size of a copied tree, in bytes.
GET_BYTES = 1 << 30
#: The default maximum number of files, directories and links in a copied tree, and of entries in a
#: listed directory.
GET_FILES = 100_000


class FileOptions(TypedDict, total=False):
    """Keyword arguments of all methods of :class:`usernsctl.Sandbox` that copy files.

    :ivar user: the user in the sandbox who reads or creates the files: a uid and a gid, or a text
        as in :meth:`usernsctl.Sandbox.run`, such as ``"app"``. Names are looked up in the sandbox's
        /etc/passwd and /etc/group. The default is the user of the sandbox's commands
        (:class:`usernsctl.Sandbox`), if one is set, or else uid 0 and gid 0. Created files belong
        to the user.
    :ivar timeout: the time limit of the copy, in seconds, 300 by default; ``None`` means no limit.
    """

    user: tuple[int, int] | str | None
    timeout: float | None


class SandboxFiles:
    """The methods of a sandbox that copy files into and out of the sandbox."""

    id: str
    _commands: SandboxCommands
    _defaults = CommandDefaults()

    def _inside(self, path: StrOrBytesPath) -> str:
        """Convert `path`, an argument of the caller, to an absolute path in the sandbox.

        :raises TypeError: `path` is not a path.
        :raises ValueError: `path` has a wrong value, or is relative in a sandbox without `cwd`.
        """
        return file_copies.path_inside("path", path, self._defaults.cwd)

    def _check_options(self, method: str, options: FileOptions) -> None:
        """Check the options of a copy.

        :param method: the name of the called method, for error messages.
        :raises TypeError: an option has the wrong type, or is unknown.
        :raises ValueError: an option has a wrong value.
        """
        check_keywords(f"Sandbox.{method}", options, FileOptions.__annotations__)
        check_timeout(options.get("timeout", COPY_SECONDS))
        if options.get("user") is not None:
            checks.user_of(options["user"])

    def _place(
        self, method: str, options: FileOptions, stop: file_records.Stop | None = None
    ) -> file_copies.Place:
        """Check the options of a copy, and return them as a Place; look up the ids of named users.

        :param method: the name of the called method, for error messages.
        :raises CommandError: a name does not exist in the sandbox (cause ``user-unknown``).
        :raises TypeError: an option has the wrong type, or is unknown.
        :raises ValueError: an option has a wrong value.
        """
        self._check_options(method, options)
        timeout, user = options.get("timeout", COPY_SECONDS), options.get("user")

        def place_for(user: tuple[int, int] | None, timeout: float | None) -> file_copies.Place:
            return file_copies.Place(
                commands=self._commands, id=self.id, user=user, timeout=timeout, stop=stop
            )

        if user is None:
            return place_for(self._defaults.user, timeout)
        if not isinstance(named := checks.user_of(user), checks.NamedUser):
            return place_for(named, timeout)
        deadline = deadline_after(timeout)

        def read(path: str, *, max_bytes: int, user: tuple[int, int]) -> bytes:
            return file_copies.read_file(place_for(user, seconds_left(deadline)), path, max_bytes)

        numbers: tuple[int, int] = users.with_numbers({"user": named}, read)["user"]
        return place_for(numbers, seconds_left(deadline))

    async def _copy_async(
        self, method: str, copy: Callable[[file_copies.Place], _T], options: FileOptions
    ) -> _T:
        """Call `copy` in another thread, without blocking the event loop.

        :param method: the name of the called method, for error messages.
        """
        self._check_options(method, options)
        return await file_copies.call_in_thread(
            lambda stop: copy(self._place(method, options, stop))
        )

    def read_file(
        self,
        path: StrOrBytesPath,
        *,
        max_bytes: int = READ_BYTES,
        **options: Unpack[FileOptions],
    ) -> bytes:
        """Return the content of a regular file in the sandbox.

        usernsctl-agent reads the file in the sandbox, so symbolic links in `path` never lead out of
        the sandbox, and the root filesystem need not contain any program.

        :param path: the path in the sandbox, absolute unless the sandbox has a working directory.
        :param int max_bytes: the maximum size of the file, in bytes.
        :param options: `user` and `timeout`, see :class:`usernsctl.FileOptions`.
        :raises SandboxFileError: the file can't be read, or is not a regular file. The error is
            also a :class:`FileNotFoundError` if the file does not exist, an
            :class:`IsADirectoryError` for a directory, a :class:`PermissionError` if the user may
            not read the file, a :class:`TimeoutError` after `timeout`, and a
            :class:`SandboxFileTooLargeError` if the file is larger than `max_bytes`.
        :raises CommandError: the sandbox has ended, or has no such `user` (cause ``user-unknown``).
        :raises RunscError: the agent failed (cause ``"sandbox-agent"``).
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises ValueError: an argument has a wrong value, such as a relative path.
        """
        return self._reading(path, max_bytes)(self._place("read_file", options))

    async def read_file_async(
        self,
        path: StrOrBytesPath,
        *,
        max_bytes: int = READ_BYTES,
        **options: Unpack[FileOptions],
    ) -> bytes:
        """Return the content of a file in the sandbox, from asyncio: see :meth:`read_file`."""
        return await self._copy_async("read_file_async", self._reading(path, max_bytes), options)

    def _reading(
        self, path: StrOrBytesPath, max_bytes: int
    ) -> Callable[[file_copies.Place], bytes]:
        inside = self._inside(path)
        limit = checks.count("max_bytes", max_bytes, 0)
        return lambda place: file_copies.read_file(place, inside, limit)

    def write_file(
        self,
        path: StrOrBytesPath,
        data: bytes | file_copies.BinaryReader,
        mode: int = 0o644,
        *,
        parents: bool = False,
        **options: Unpack[FileOptions],
    ) -> None:
        """Create a file in the sandbox, or replace the content of an existing file.

        After a failure, a new file is removed, but an existing file may contain a part of the new
        content.

        :param path: the path in the sandbox, as for :meth:`read_file`. Symbolic links are resolved
            in the sandbox.
        :param data: the content, or a file opened in binary mode, which is read until end of file.
        :param int mode: the permissions of the file (chmod(2)). An existing file gets these
            permissions, too.
        :param bool parents: whether to create missing directories of `path`.
        :param options: `user` and `timeout`, see :class:`usernsctl.FileOptions`.
        :raises SandboxFileError: the file can't be written; see :meth:`read_file`.
        :raises CommandError: as :meth:`read_file` does.
        :raises RunscError: as :meth:`read_file` does.
        :raises TypeError: an argument has the wrong type. For example, `data` must not be a string.
        :raises ValueError: as :meth:`read_file` does.
        """
        self._writing(path, data, mode, parents)(self._place("write_file", options))

    async def write_file_async(
        self,
        path: StrOrBytesPath,
        data: bytes | file_copies.BinaryReader,
        mode: int = 0o644,
        *,
        parents: bool = False,
        **options: Unpack[FileOptions],
    ) -> None:
        """Create or replace a file in the sandbox, from asyncio: see :meth:`write_file`.

        Another thread reads `data`.
        """
        await self._copy_async(
            "write_file_async", self._writing(path, data, mode, parents), options
        )

    def _writing(
        self,
        path: StrOrBytesPath,
        data: bytes | file_copies.BinaryReader,
        mode: int,
        parents: bool,
    ) -> Callable[[file_copies.Place], None]:
        inside = self._inside(path)
        if not isinstance(data, bytes | bytearray | memoryview) and not hasattr(data, "read"):
            raise TypeError(f"data must be bytes or a binary file, not {type(data).__name__}")
        if isinstance(mode, bool) or not isinstance(mode, int):
            raise TypeError(f"mode must be a number, not {mode!r}")
        if not 0 <= mode <= 0o777:
            raise ValueError(f"mode must be from 0 to 0o777, not {mode:#o}")
        return lambda place: file_copies.write_file(place, inside, data, mode, parents=parents)

    def list_dir(
        self,
        path: StrOrBytesPath,
        *,
        max_entries: int = GET_FILES,
        **options: Unpack[FileOptions],
    ) -> list[file_copies.FileEntry]:
        """Return the entries of a directory in the sandbox, in no particular order.

        :param path: the path in the sandbox, absolute unless the sandbox has a working directory.
        :param int max_entries: the maximum number of entries.
        :param options: `user` and `timeout`, see :class:`usernsctl.FileOptions`.
        :raises SandboxFileError: the directory can't be listed, or has more than `max_entries`
            entries. The error is also a :class:`NotADirectoryError` if `path` is another type of
            file; see :meth:`read_file`.
        :raises CommandError: as :meth:`read_file` does.
        :raises RunscError: as :meth:`read_file` does.
        :raises TypeError: as :meth:`read_file` does.
        :raises ValueError: as :meth:`read_file` does.
        """
        return self._listing(path, max_entries)(self._place("list_dir", options))

    async def list_dir_async(
        self,
        path: StrOrBytesPath,
        *,
        max_entries: int = GET_FILES,
        **options: Unpack[FileOptions],
    ) -> list[file_copies.FileEntry]:
        """Return the entries of a directory, from asyncio: see :meth:`list_dir`."""
        return await self._copy_async("list_dir_async", self._listing(path, max_entries), options)

    def _listing(
        self, path: StrOrBytesPath, max_entries: int
    ) -> Callable[[file_copies.Place], list[file_copies.FileEntry]]:
        inside = self._inside(path)
        limit = checks.count("max_entries", max_entries, 0)
        return lambda place: file_copies.list_dir(place, inside, limit)

    def put(
        self,
        tree: StrOrBytesPath,
        path: StrOrBytesPath,
        *,
        merge: bool = False,
        parents: bool = False,
        **options: Unpack[FileOptions],
    ) -> file_copies.CopyReport:
        """Copy a file or directory of the host into the sandbox.

        The copies have the permissions and times of the originals, but no set-user-id bits.
        Symbolic links are copied as links, hard links as separate files. FIFOs, sockets and devices
        are skipped. The memory usage of the call does not depend on the size of the tree. After a
        failure, the partial copy is not removed.

        :param tree: the path of the file or directory on the host. If it is a symbolic link, the
            target is copied.
        :param path: the path to create in the sandbox, absolute unless the sandbox has a working
            directory.
        :param bool merge: whether `path` may exist. If so, files are added to existing directories,
            and existing files are replaced. Existing directories keep their modes.
        :param bool parents: whether to create missing directories above `path`.
        :param options: `user` and `timeout`, see :class:`usernsctl.FileOptions`.
        :returns: a report on the files that were copied, and on those that were not.
        :raises SandboxFileError: a file can't be copied. The error is also a
            :class:`FileExistsError` if `path` exists; see :meth:`read_file`. Its `step` is
            ``"inside"`` if `filename` is a path in the sandbox, or ``"outside"`` if it is a path on
            the host.
        :raises CommandError: as :meth:`read_file` does.
        :raises RunscError: as :meth:`read_file` does.
        :raises TypeError: as :meth:`read_file` does.
        :raises ValueError: as :meth:`read_file` does.
        """
        return self._putting(tree, path, merge, parents)(self._place("put", options))

    async def put_async(
        self,
        tree: StrOrBytesPath,
        path: StrOrBytesPath,
        *,
        merge: bool = False,
        parents: bool = False,
        **options: Unpack[FileOptions],
    ) -> file_copies.CopyReport:
        """Copy a file or directory into the sandbox, from asyncio: see :meth:`put`."""
        return await self._copy_async(
            "put_async", self._putting(tree, path, merge, parents), options
        )

    def _putting(
        self, tree: StrOrBytesPath, path: StrOrBytesPath, merge: bool, parents: bool
    ) -> Callable[[file_copies.Place], file_copies.CopyReport]:
        outside = _path_outside("tree", tree)
        inside = self._inside(path)
        if inside == "/":
            raise ValueError("path is /, which exists: name a file or directory to create")
        return lambda place: file_copies.put(place, outside, inside, merge=merge, parents=parents)

    def get(
        self,
        path: StrOrBytesPath,
        destination: StrOrBytesPath,
        *,
        max_bytes: int = GET_BYTES,
        max_files: int = GET_FILES,
        **options: Unpack[FileOptions],
    ) -> file_copies.CopyReport:
        """Copy a file or directory out of the sandbox.

        Whatever the programs in the sandbox do, only `destination` is written. The copies have the
        permissions and times of the originals, but no set-user-id bits. Copied directories are
        always writable by their owner. Symbolic links are copied as links if they stay in the tree.
        Links that lead out of the tree, FIFOs, sockets and devices are skipped. The memory usage of
        the call does not depend on the size of the tree. After a failure, the partial copy is
        removed.

        :param path: the path in the sandbox, as for :meth:`read_file`. If it is a symbolic link,
            the target is copied.
        :param destination: the path to create on the host. No file may exist there.
        :param int max_bytes: the maximum total size of the files, in bytes.
        :param int max_files: the maximum number of files, directories and links.
        :param options: `user` and `timeout`, see :class:`usernsctl.FileOptions`.
        :returns: a report on the files that were copied, and on those that were not.
        :raises SandboxFileError: a file can't be copied (see :meth:`put`), or the tree exceeds
            `max_bytes` or `max_files`, or is more than 256 directories deep.
        :raises CommandError: as :meth:`read_file` does.
        :raises RunscError: as :meth:`read_file` does.
        :raises TypeError: as :meth:`read_file` does.
        :raises ValueError: as :meth:`read_file` does.
        """
        return self._getting(path, destination, max_bytes, max_files)(self._place("get", options))

    async def get_async(
        self,
        path: StrOrBytesPath,
        destination: StrOrBytesPath,
        *,
        max_bytes: int = GET_BYTES,
        max_files: int = GET_FILES,
        **options: Unpack[FileOptions],
    ) -> file_copies.CopyReport:
        """Copy a file or directory out of the sandbox, from asyncio: see :meth:`get`.

        A cancelled call removes the partial copy before it returns.
        """
        copy = self._getting(path, destination, max_bytes, max_files)
        return await self._copy_async("get_async", copy, options)

    def _getting(
        self, path: StrOrBytesPath, destination: StrOrBytesPath, max_bytes: int, max_files: int
    ) -> Callable[[file_copies.Place], file_copies.CopyReport]:
        inside = self._inside(path)
        outside = _path_outside("destination", destination)
        size = checks.count("max_bytes", max_bytes, 0)
        count = checks.count("max_files", max_files, 0)
        return lambda place: file_copies.get(place, inside, outside, size, count)


def _path_outside(name: str, given: StrOrBytesPath) -> str:
    """Convert a path on the host to an absolute path, which a later chdir(2) does not affect.

    :raises TypeError: `given` is not a path.
    :raises ValueError: `given` is empty or has a NUL character.
    """
    found = check_path(name, given)
    if found is None:
        raise TypeError(f"{name} must be a path, not None")
    return absolute_path(found)
