"""A bundle that is run: what it asks for, judged, and the files that it shows, held open.

What a bundle may show is decided by the descriptors that are mounted then, so that nobody who may
write to the bundle can put something else there in between.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from usernsctl import oci
from usernsctl.errors import BundleError
from usernsctl.opened import ForeignLinkError, Opened
from usernsctl.sandbox import config
from usernsctl.sandbox.place import Place
from usernsctl.sandbox.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBundle:
    """A bundle as it was read, outside of the namespace, where its files can be judged.

    :ivar config: the config.json, mended, and with no more than runsc is to be given.
    :ivar tree: its root filesystem.
    :ivar sources: what its binds show, by their sources as `config` has them.
    """

    config: dict[str, Any]
    tree: Opened
    sources: Mapping[str, Opened]


def open_bundle(request: Request, path: str, place: Place) -> OpenBundle:
    """Read the config.json of a bundle, judge and mend it, and open the files that it shows.

    The bundle itself is left alone.

    :param path: its directory.
    :raises BundleError: it can't be read, reaches outside of the bundle without permission, or
        asks for what rootless runsc can't give.
    """
    with oci.Bundle(path) as directory:
        given = config.read_bundle(request, directory, place)
        trusted = request.trust_bundle
        return OpenBundle(
            config=given,
            tree=_open_root(directory, given["root"]["path"], trusted=trusted),
            sources={
                mount["source"]: _open_source(
                    directory, mount["source"], f"$.mounts[{index}].source", trusted=trusted
                )
                for index, mount in enumerate(given.get("mounts") or ())
                if oci.binds(mount.get("type"), mount.get("options"))
            },
        )


def _open_root(directory: oci.Bundle, path: str, *, trusted: bool) -> Opened:
    try:
        root = _named(directory.open_path(path, anywhere=trusted))
        if not root.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise _error(directory, "$.root.path", path, error, "rootfs-missing") from error
    return root


def _open_source(directory: oci.Bundle, path: str, place: str, *, trusted: bool) -> Opened:
    try:
        return _named(oci.open_source(directory, path, trusted=trusted))
    except OSError as error:
        raise _error(directory, place, path, error, "bundle-bind-source") from error


def _named(descriptor: int) -> Opened:
    """The file of a descriptor, with the path that it is found by once more in the namespace."""
    return Opened(descriptor, os.readlink(f"/proc/self/fd/{descriptor}"))


def _error(directory: oci.Bundle, place: str, path: str, error: OSError, cause: str) -> BundleError:
    foreign = error if isinstance(error, ForeignLinkError) else None
    return BundleError(
        f"{directory.filename}: {place}: {path}: {error.strerror}",
        step="bundle",
        errno=error.errno or 0,
        filename=path,
        cause=foreign.cause if foreign else cause,
        remedy=foreign.remedy if foreign else None,
    )
