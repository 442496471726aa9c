"""A bundle that is run: what it asks for, judged, and the files that it shows, held open.

What a bundle may show is decided by the descriptors that are mounted then, so that nobody who may
write to the bundle can put something else there in between.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence

from usernsctl._records import dataclass
from usernsctl._system.opened import ForeignLinkError, Opened
from usernsctl._typing import Any
from usernsctl.errors import BundleError, PlanError
from usernsctl.gvisor import oci
from usernsctl.gvisor.place import Ids
from usernsctl.gvisor.request import Bind, Request
from usernsctl.maps import Extent


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


def open_bundle(request: Request, path: str, ids: Ids) -> OpenBundle:
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


# What root needs to make use of other ids: gVisor's own kernel grants it, inside only.
_ID_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
)


def check_ids(ids: Ids, user: tuple[int, int]) -> None:
    """Check that runsc will find itself to be root, and the command the ids it is to have.

    :raises PlanError: one of these ids is not mapped.
    """
    if ids.become != (0, 0):
        raise PlanError(
            "the caller must be uid 0 and gid 0 inside: otherwise runsc has no capabilities there, "
            "and makes a namespace of its own",
            step="plan",
            remedy="map ids 1 and up, and leave 0 to the caller",
        )
    for name, option, wanted, extents in (
        ("uid", "--map-users", user[0], ids.uid),
        ("gid", "--map-groups", user[1], ids.gid),
    ):
        if not any(e.has(wanted) for e in extents):
            mapped = ", ".join(map(_range, extents))
            raise PlanError(
                f"{name} {wanted} is not mapped: the map has {mapped}",
                step="plan",
                remedy=f"choose one of these, or map more with {option}",
            )


def for_command(
    request: Request, ids: Ids, rootfs: str, binds: tuple[Bind, ...], env: Mapping[str, str]
) -> dict[str, Any]:
    """Make the config.json for a command; its ``cwd`` is left at ``/``.

    :param binds: those of the request, their sources resolved.
    :raises BundleError: something can't be in a config.json, such as text that is not UTF-8.
    """
    uid, gid = request.user or (0, 0)
    has_other_ids = ids.count > 1
    return oci.build(
        oci.BuildOptions(
            args=request.args,
            rootfs=rootfs,
            uid_map=ids.uid,
            gid_map=ids.gid,
            env=env,
            # gVisor has no overlay over a read-only root; ours is read-only from outside.
            read_only=False,
            uid=uid,
            gid=gid,
            hostname=request.hostname,
            mounts=[_mount(bind) for bind in binds],
            terminal=request.terminal,
            rlimits=request.rlimits,
            capabilities=_ID_CAPABILITIES if has_other_ids else (),
            no_new_privileges=request.no_new_privs,
        )
    )


def read_bundle(request: Request, bundle: oci.Bundle, ids: Ids) -> dict[str, Any]:
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


def apply_request(
    config: dict[str, Any], request: Request, rootfs: str, binds: tuple[Bind, ...]
) -> None:
    """Change a bundle's config.json, as :func:`read_bundle` gave it, to what was asked for.

    :param rootfs: the path of the root filesystem.
    """
    config["root"]["path"] = rootfs
    process = config["process"]
    if request.args:
        process["args"] = list(request.args)
    kept = [e for e in process.get("env") or () if e.partition("=")[0] not in request.env]
    process["env"] = [*kept, *(f"{name}={value}" for name, value in request.env.items())]
    if request.user is not None:
        process["user"] = {"uid": request.user[0], "gid": request.user[1]}
    process["terminal"] = request.terminal
    if request.rlimits:
        process["rlimits"] = [
            {"type": limit.type, "soft": limit.soft, "hard": limit.hard}
            for limit in request.rlimits
        ]
    if request.hostname is not None:
        config["hostname"] = request.hostname
    added = [
        {
            "destination": mount.destination,
            "type": mount.type,
            "source": mount.source,
            "options": list(mount.options),
        }
        for mount in map(_mount, binds)
    ]
    config["mounts"] = [*(config.get("mounts") or ()), *added]
    oci.validate(config)


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


def _mount(bind: Bind) -> oci.Mount:
    return oci.Mount.bind(bind.source, bind.destination, read_only=bind.read_only)


def _range(extent: Extent) -> str:
    last = extent.inside + extent.count - 1
    return str(extent.inside) if extent.count == 1 else f"{extent.inside} to {last}"
