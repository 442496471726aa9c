"""Open the bundle of a request, and refuse one that reaches out of itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence

from usernsctl._lean import Any, dataclass
from usernsctl._system.paths import ForeignLinkError, PathDescriptor
from usernsctl.errors import BundleError
from usernsctl.gvisor import oci
from usernsctl.gvisor.launch.request import Bind, Request
from usernsctl.maps import MappedIds


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBundle:
    """A bundle as it was read, outside of the namespace, where its files can be judged.

    :ivar config: the config.json, mended, and with no more than runsc is to be given.
    :ivar tree: its root filesystem.
    :ivar sources: what its binds show, by their sources as `config` has them.
    """

    config: dict[str, Any]
    tree: PathDescriptor
    sources: Mapping[str, PathDescriptor]


def open_bundle(request: Request, path: str, ids: MappedIds) -> OpenBundle:
    """Read the config.json of a bundle, judge and mend it, and open the files that it shows.

    The bundle itself is left alone.

    :param path: its directory.
    :raises BundleError: it can't be read, reaches outside of the bundle without permission, or
        asks for what rootless runsc can't give.
    """
    with oci.Bundle(path) as directory:
        given = read_bundle(request, directory, ids)
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


def _open_root(directory: oci.Bundle, path: str, *, trusted: bool) -> PathDescriptor:
    try:
        root = _named(directory.open_path(path, anywhere=trusted))
        if not root.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise _error(directory, "$.root.path", path, error, "rootfs-missing") from error
    return root


def _open_source(directory: oci.Bundle, path: str, place: str, *, trusted: bool) -> PathDescriptor:
    try:
        return _named(oci.open_source(directory, path, trusted=trusted))
    except OSError as error:
        raise _error(directory, place, path, error, "bundle-bind-source") from error


def _named(descriptor: int) -> PathDescriptor:
    """The file of a descriptor, with the path that it is found by once more in the namespace."""
    return PathDescriptor(descriptor, os.readlink(f"/proc/self/fd/{descriptor}"))


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


def read_bundle(request: Request, bundle: oci.Bundle, ids: MappedIds) -> dict[str, Any]:
    """Read the config.json of a bundle and mend it; the bundle itself is left alone.

    :returns: what runsc is to be given; paths are as they were written.
    :raises BundleError: it can't be read, reaches outside of the bundle without permission, or
        asks for what rootless runsc can't give.
    """
    given = bundle.load()
    _refuse_reaching_out(request, bundle, given)
    config, _ = oci.fix(given, ids.uid, ids.gid, keep_hooks=request.allow_hooks)
    network: Any = request.network
    for finding in oci.check(
        config, bundle, ids.uid, ids.gid, network=network, memory_overlay=True
    ):
        # A mount point that is missing is no fault here: Rootfs makes it.
        if finding.blocks and finding.id != "bundle-bind-target":
            raise _refusal(bundle, [finding])
    config = oci.for_runsc(config)
    if not request.trust_bundle:
        config.pop("annotations", None)
        if harmless := oci.harmless_annotations(given):
            config["annotations"] = harmless
    return config


def _refuse_reaching_out(request: Request, bundle: oci.Bundle, config: dict[str, Any]) -> None:
    """Refuse all at once what the caller has not allowed, so that all is seen before it is.

    :raises BundleError: there is something.
    """
    granted = {
        name
        for name, given in (
            ("--trust-bundle", request.trust_bundle),
            ("--allow-hooks", request.allow_hooks),
        )
        if given
    }
    typed = oci.validate(config, filename=bundle.filename)
    found = [one for one in oci.check_outside(typed, bundle) if one.allowed_by not in granted]
    if found:
        raise _refusal(bundle, found)


def _refusal(bundle: oci.Bundle, findings: Sequence[oci.Violation]) -> BundleError:
    """The error for findings; its cause is that of the first."""
    told = "; ".join(f"{one.path}: {one.problem}" for one in findings)
    remedies = dict.fromkeys(one.remedy for one in findings)
    return BundleError(
        f"{bundle.filename}: {told}; {findings[0].why}",
        step="bundle",
        filename=bundle.path,
        cause=findings[0].id,
        remedy="\n".join(remedies),
    )


def bind_mounts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of ``mounts`` that show something from outside."""
    return [
        mount
        for mount in config.get("mounts") or ()
        if oci.binds(mount.get("type"), mount.get("options"))
    ]


def is_read_only(mount: dict[str, Any]) -> bool:
    """Whether the last of its options about that says so, as runsc reads them."""
    said = [name for name in mount.get("options") or () if name in ("ro", "rro", "rw")]
    return bool(said) and said[-1] != "rw"


def writable_sources(binds: Iterable[Bind], bundle: OpenBundle | None) -> set[str]:
    """Return the sources that are bound so that a program inside may write to them.

    :param binds: those of the request.
    """
    found = {bind.source for bind in binds if not bind.read_only}
    mounts = bind_mounts(bundle.config) if bundle is not None else []
    return found | {mount["source"] for mount in mounts if not is_read_only(mount)}
