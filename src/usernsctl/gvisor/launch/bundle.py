"""Functions that load an OCI bundle, and reject settings that need the user's permission."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

from usernsctl._lean import Any, dataclass
from usernsctl._system.paths import ForeignLinkError, PathDescriptor
from usernsctl.errors import BundleError
from usernsctl.gvisor import oci
from usernsctl.gvisor.launch.request import Request
from usernsctl.maps import MappedIds


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBundle:
    """An OCI bundle and its files, which are opened before the process enters runsc's namespaces.

    :ivar config: the content of config.json with usernsctl's fixes, without keys that runsc must
        not receive.
    :ivar tree: the bundle's root filesystem.
    :ivar sources: a mapping from the paths of bind mount sources in `config` to the open sources.
    """

    config: dict[str, Any]
    tree: PathDescriptor
    sources: Mapping[str, PathDescriptor]


def open_bundle(request: Request, path: str, ids: MappedIds) -> OpenBundle:
    """Load, check and fix the config.json of a bundle, and open the sources of its bind mounts.

    The file on disk is not changed.

    :param path: the directory of the bundle.
    :raises BundleError: the bundle can't be read, requires something that rootless runsc
        refuses, or has a setting for which an option such as ``--trust-bundle`` is missing.
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
        root = _with_path(directory.open_path(path, anywhere=trusted))
        if not root.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise _error(directory, "$.root.path", path, error, "rootfs-missing") from error
    return root


def _open_source(directory: oci.Bundle, path: str, place: str, *, trusted: bool) -> PathDescriptor:
    try:
        return _with_path(oci.open_source(directory, path, trusted=trusted))
    except OSError as error:
        raise _error(directory, place, path, error, "bundle-bind-source") from error


def _with_path(opened: PathDescriptor) -> PathDescriptor:
    """Return `opened` with the file's real path, by which runsc will open the file again."""
    return PathDescriptor(opened.descriptor, os.readlink(f"/proc/self/fd/{opened.fd}"))


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
    """Load, check and fix the config.json of a bundle; the file on disk is not changed.

    :returns: the configuration for runsc. Its paths are those in the file, and may be relative.
    :raises BundleError: the bundle can't be read, requires something that rootless runsc
        refuses, or has a setting for which an option such as ``--trust-bundle`` is missing.
    """
    given = bundle.load()
    _refuse_escapes(request, bundle, given)
    config, _ = oci.fix(given, ids.uid, ids.gid, keep_hooks=request.allow_hooks)
    network: Any = "none" if request.network == "none" else "host"
    for finding in oci.check(
        config, bundle, ids.uid, ids.gid, network=network, memory_overlay=True
    ):
        # Accept a missing mount point: the launch builds a root filesystem, in which it creates
        # mount points.
        if finding.blocks and finding.id != "bundle-bind-target":
            raise _refusal(bundle, [finding])
    config = oci.for_runsc(config)
    if not request.trust_bundle:
        config.pop("annotations", None)
        if harmless := oci.harmless_annotations(given):
            config["annotations"] = harmless
    return config


def _refuse_escapes(request: Request, bundle: oci.Bundle, config: dict[str, Any]) -> None:
    """Reject entries of config.json that an untrusted bundle must not have, except allowed ones.

    The error lists all such entries, so that the user can read all of them before allowing any.

    :raises BundleError: config.json has an entry that is neither harmless nor allowed.
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
    findings = [
        finding for finding in oci.check_outside(typed, bundle) if finding.allowed_by not in granted
    ]
    if findings:
        raise _refusal(bundle, findings)


def _refusal(bundle: oci.Bundle, findings: Sequence[oci.Violation]) -> BundleError:
    """Return the error that lists `findings`, with the cause of the first finding."""
    problems = "; ".join(f"{finding.path}: {finding.problem}" for finding in findings)
    remedies = dict.fromkeys(finding.remedy for finding in findings)
    return BundleError(
        f"{bundle.filename}: {problems}; {findings[0].why}",
        step="bundle",
        filename=bundle.path,
        cause=findings[0].id,
        remedy="\n".join(remedies),
    )
