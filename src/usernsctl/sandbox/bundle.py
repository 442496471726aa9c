"""A bundle that is run: what it asks for, judged, and the files that it shows, held open.

What a bundle may show is decided by the descriptors that are mounted then, so that nobody who may
write to the bundle can put something else there in between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import Any, Self

from usernsctl import mounts, oci
from usernsctl.errors import BundleError
from usernsctl.sandbox import config
from usernsctl.sandbox.place import Place
from usernsctl.sandbox.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBundle:
    """A bundle as it was read, where its files can be judged by the ids that they have outside.

    :ivar path: of its directory, absolute.
    :ivar filename: of its config.json, for messages.
    :ivar identity: of the directory, which has to be kept open until its files are.
    :ivar config: the config.json, mended, and with no more than runsc is to be given.
    :ivar trusted: whether it may show files outside of the directory.
    """

    path: str
    filename: str
    identity: tuple[int, int]
    config: dict[str, Any]
    trusted: bool

    def open_files(self) -> OpenFiles:
        """Open all that the bundle shows, in the mount namespace where it is to be shown.

        The kernel binds only what was opened there, so the directory is opened again. To be called
        before anything is mounted that could cover some of it.

        :raises BundleError: something of it is not there, or may not be shown.
        """
        with contextlib.ExitStack() as undo, oci.Bundle(self.path) as directory:
            if directory.identity != self.identity:
                raise BundleError(
                    f"{self.path} became another directory meanwhile",
                    step="bundle",
                    filename=self.path,
                )
            root = self._open_root(directory)
            undo.callback(os.close, root)
            sources = []
            for index, mount in enumerate(self.config.get("mounts") or ()):
                if oci.binds(mount.get("type"), mount.get("options")):
                    place = f"$.mounts[{index}].source"
                    source = self._open_source(directory, mount["source"], place)
                    undo.callback(os.close, source)
                    sources.append((mount, source))
            return OpenFiles(root, sources, undo.pop_all())

    def _open_root(self, directory: oci.Bundle) -> int:
        path = self.config["root"]["path"]
        try:
            root = directory.open_path(path, anywhere=self.trusted)
        except OSError as error:
            raise self._error("$.root.path", path, error, "rootfs-missing") from error
        if not stat.S_ISDIR(os.fstat(root).st_mode):
            os.close(root)
            no_directory = OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            raise self._error("$.root.path", path, no_directory, "rootfs-missing")
        return root

    def _open_source(self, directory: oci.Bundle, path: str, place: str) -> int:
        try:
            return oci.open_source(directory, path, trusted=self.trusted)
        except OSError as error:
            raise self._error(place, path, error, "bundle-bind-source") from error

    def _error(self, place: str, path: str, error: OSError, cause: str) -> BundleError:
        return BundleError(
            f"{self.filename}: {place}: {path}: {error.strerror}",
            step="bundle",
            errno=error.errno or 0,
            filename=path,
            cause=cause,
        )


class OpenFiles:
    """Descriptors of the root filesystem of a bundle, and of the sources of its bind mounts."""

    def __init__(
        self, root: int, sources: list[tuple[dict[str, Any], int]], undo: contextlib.ExitStack
    ) -> None:
        self._root = root
        self._sources = sources
        self._undo = undo

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._undo.close()

    def show(self, scratch: str) -> str:
        """Mount each in the directory `scratch`, have config.json name these, and close them.

        :returns: the path of the root filesystem.
        :raises NamespaceError: the kernel refused a mount.
        """
        with self._undo:
            shown = f"{scratch}/shown"
            os.mkdir(shown, 0o700)
            root = _show(self._root, f"{shown}/root")
            for index, (mount, source) in enumerate(self._sources):
                mount["source"] = _show(source, f"{shown}/{index}")
            return root


def read(request: Request, directory: oci.Bundle, place: Place) -> ReadBundle:
    """Read the config.json of a bundle, judge and mend it; the bundle itself is left alone.

    :raises BundleError: it can't be read, reaches outside of the bundle without permission, or
        asks for what rootless runsc can't give.
    """
    return ReadBundle(
        path=directory.absolute,
        filename=directory.filename,
        identity=directory.identity,
        config=config.read_bundle(request, directory, place),
        trusted=request.trust_bundle,
    )


def _show(descriptor: int, target: str) -> str:
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    mounts.bind(f"/proc/self/fd/{descriptor}", target)
    return target
