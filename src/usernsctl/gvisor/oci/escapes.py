"""Checks for settings that an untrusted bundle must not have, such as mounts of host files."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from typing import Any

from usernsctl import _core
from usernsctl._system.paths import PathDescriptor
from usernsctl.gvisor.oci.builder import binds
from usernsctl.gvisor.oci.bundle import Bundle
from usernsctl.gvisor.oci.schema import Config, MountEntry, Permission, Violation, hook_names

#: Annotations that an untrusted bundle may pass to runsc, with their allowed values. These
#: annotations cannot weaken the sandbox: a bundle may turn linux.seccomp on for its command, but
#: not off.
HARMLESS_ANNOTATIONS = {"dev.gvisor.flag.oci-seccomp": ("true",)}
_RUNSC_PREFIX = "dev.gvisor."

#: Filesystem types that gVisor implements. For any other type, runsc may open the source of the
#: mount on the host.
OWN_FILESYSTEMS = frozenset(
    ("", "none", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "proc", "sysfs", "tmpfs")
)

#: Docker's default capabilities of a container. Other capabilities are reported: releases of runsc
#: before 20240909 also give the command's capabilities to runsc's own process on the host's kernel,
#: in the user namespace in which runsc runs.
HARMLESS_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
        *("NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)

_TRUST: Permission = "--trust-bundle"
_UNTRUSTED = "an untrusted bundle may read and write only its own files"


def check_outside(config: Config, bundle: Bundle) -> Iterator[Violation]:
    """Yield a violation for each setting in `config` that an untrusted bundle must not have."""
    yield from _check_hooks(config)
    yield from _check_root(config, bundle)
    for index, mount in enumerate(config.mounts or ()):
        yield from _check_mount(mount, f"$.mounts[{index}]", bundle)
    yield from _check_annotations(config)
    yield from _check_capabilities(config)


def harmless_annotations(config: dict[str, Any]) -> dict[str, str]:
    """Return the annotations of a valid `config` that an untrusted bundle may pass to runsc."""
    return {
        name: value
        for name, value in (config.get("annotations") or {}).items()
        if value in HARMLESS_ANNOTATIONS.get(name, ())
    }


def open_source(bundle: Bundle, path: str, *, trusted: bool) -> PathDescriptor:
    """Open the source of a bind mount, and check that the opened file may be mounted.

    :param trusted: whether the bundle may use files outside of its directory.
    :raises OSError: the source can't be opened. EXDEV means that the source must not be mounted;
        the message contains the reason.
    """
    try:
        source = bundle.open_path(path, anywhere=trusted)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise _denied("the source is outside of the bundle", path) from None
        raise
    try:
        if part := _core.machine_part(source.fd):
            raise ForbiddenSource(errno.EXDEV, f"the bundle would see {part} of this machine", path)
        mode = source.status.st_mode
        if not trusted and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise _denied("the source is neither a file nor a directory", path)
    except BaseException:
        source.close()
        raise
    return source


class ForbiddenSource(OSError):
    """The error for a source that not even a trusted bundle may mount, such as the host's /proc."""


def _denied(reason: str, path: str) -> OSError:
    return OSError(errno.EXDEV, reason, path)


def _check_hooks(config: Config) -> Iterator[Violation]:
    if hooks := hook_names(config.hooks):
        yield Violation(
            path="$.hooks",
            id="bundle-runs-hooks",
            problem=f"runs programs: {', '.join(hooks)}",
            why="runsc starts hooks itself, OUTSIDE gVisor: on this machine's kernel, as you",
            remedy="remove the hooks (bundle fix does), or run with --allow-hooks",
            fixable=True,
            blocks=False,
            outside=True,
            allowed_by="--allow-hooks",
        )


def _check_root(config: Config, bundle: Bundle) -> Iterator[Violation]:
    try:
        bundle.open_path(config.root.path).close()
    except OSError as error:
        if error.errno == errno.EXDEV:
            yield _outside(
                "$.root.path",
                "bundle-root-outside",
                f"{config.root.path} is outside of the bundle",
                "move it into the bundle",
            )


def _check_mount(mount: MountEntry, path: str, bundle: Bundle) -> Iterator[Violation]:
    if not is_bind(mount):
        if (mount.type or "") not in OWN_FILESYSTEMS:
            yield _outside(
                f"{path}.type",
                "bundle-mount-type",
                f"a filesystem of type {mount.type}",
                "remove the mount: gVisor does not implement this type, and runsc may open the "
                "source as a disk image",
            )
        return
    if not mount.source:
        return  # rules.check_files() reports a missing source
    source = f"{path}.source"
    try:
        open_source(bundle, mount.source, trusted=False).close()
    except ForbiddenSource as error:
        yield _forbidden(source, f"{mount.source}: {error.strerror}")
    except OSError as error:
        if error.errno == errno.EXDEV:
            yield _outside_source(bundle, mount.source, source, str(error.strerror))


def _outside_source(bundle: Bundle, source: str, path: str, reason: str) -> Violation:
    """Return the violation for a bind mount source that an untrusted bundle may not mount.

    The remedy names the option that allows the mount, unless no option allows it.
    """
    try:
        open_source(bundle, source, trusted=True).close()
    except ForbiddenSource as error:
        return _forbidden(path, f"{source}: {error.strerror}")
    except OSError:
        pass  # a source outside of the bundle is a violation even if it does not exist
    remedy = "move the source into the bundle"
    return _outside(path, "bundle-bind-outside", f"{source}: {reason}", remedy)


# Annotations that make runsc use a disk image (EROFS) as the root filesystem.
_ROOT_ANNOTATIONS = ("dev.gvisor.spec.rootfs.source", "dev.gvisor.spec.rootfs.type")


def _check_annotations(config: Config) -> Iterator[Violation]:
    for name, value in (config.annotations or {}).items():
        harmless = value in HARMLESS_ANNOTATIONS.get(name, ())
        if name in _ROOT_ANNOTATIONS:
            yield Violation(
                path="$.annotations",
                id="bundle-annotation",
                problem=f"{name} replaces the root filesystem",
                why="usernsctl adds mount points of its own, so it needs a directory",
                remedy="unpack the image, or run the bundle with runsc (docs/run.md, Images)",
                blocks=False,
                outside=True,
            )
        elif name.casefold().startswith(_RUNSC_PREFIX) and not harmless:
            yield _outside(
                "$.annotations",
                "bundle-annotation",
                f"{name} changes how runsc runs",
                "remove the annotation",
                "such an annotation sets flags or mounts of runsc, and could weaken the sandbox",
            )


def _check_capabilities(config: Config) -> Iterator[Violation]:
    capabilities = config.process.capabilities
    wanted = capabilities.names() - HARMLESS_CAPABILITIES if capabilities else set()
    if wanted:
        yield _outside(
            "$.process.capabilities",
            "bundle-capabilities",
            f"asks for {', '.join(sorted(wanted))}",
            "remove these capabilities",
            "runsc before 20240909 gives these also to its own process, on this machine's kernel",
        )


def _outside(path: str, cause: str, problem: str, remedy: str, why: str = _UNTRUSTED) -> Violation:
    return Violation(
        path=path,
        id=cause,
        problem=problem,
        why=why,
        remedy=f"{remedy}; or, if you trust the bundle's author, run with {_TRUST}",
        blocks=False,
        outside=True,
        allowed_by=_TRUST,
    )


def _forbidden(path: str, problem: str) -> Violation:
    return Violation(
        path=path,
        id="bundle-bind-machine",
        problem=problem,
        why="these files give access to the kernel, to devices and to other processes",
        remedy='name another source; gVisor has its own /proc, /sys and /dev: "type": "proc"',
        blocks=False,
        outside=True,
    )


def is_bind(mount: MountEntry) -> bool:
    """Return whether runsc creates a bind mount for an element of ``mounts``: see :func:`binds`."""
    return binds(mount.type, mount.options)
