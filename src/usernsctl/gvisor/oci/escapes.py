"""What in a bundle reaches outside of it, and the sources that a stranger's bundle may show."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

from usernsctl import _core
from usernsctl.gvisor.oci.builder import binds
from usernsctl.gvisor.oci.bundle import Bundle
from usernsctl.gvisor.oci.schema import Config, MountEntry, Permission, Violation, named_hooks

#: Annotations that runsc acts on, and what these are allowed to say: nothing of it makes a sandbox
#: any wider. It can be told to apply linux.seccomp to the command, not to leave it.
HARMLESS_ANNOTATIONS = {"dev.gvisor.flag.oci-seccomp": ("true",)}
_ACTED_ON = "dev.gvisor."

#: Filesystems that gVisor has itself; of another type, runsc may open the source on the machine.
OWN_FILESYSTEMS = frozenset(
    ("", "none", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "proc", "sysfs", "tmpfs")
)

#: What Docker gives a container. runsc before 20240909 gives the capabilities of the command to
#: its own process too, on the host's kernel, in the namespace that it runs in.
HARMLESS_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
        *("NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)

_TRUST: Permission = "--trust-bundle"
_STRANGER = "a bundle is a stranger's data: it may show, and write to, nothing but its own files"


def check_outside(config: Config, bundle: Bundle) -> Iterator[Violation]:
    """All that reaches outside, whether or not the caller allows it."""
    yield from _check_hooks(config)
    yield from _check_root(config, bundle)
    for index, mount in enumerate(config.mounts or ()):
        yield from _check_mount(mount, f"$.mounts[{index}]", bundle)
    yield from _check_annotations(config)
    yield from _check_capabilities(config)


def harmless_annotations(config: dict[str, Any]) -> dict[str, str]:
    """The annotations of a valid `config` that a stranger's bundle may give to runsc."""
    return {
        name: value
        for name, value in (config.get("annotations") or {}).items()
        if value in HARMLESS_ANNOTATIONS.get(name, ())
    }


def open_source(bundle: Bundle, path: str, *, trusted: bool) -> int:
    """Open the source of a bind mount, and decide by what was opened whether it may be shown.

    :param trusted: whether the caller trusts the bundle with files outside of it.
    :returns: a descriptor (O_PATH, close-on-exec) for the caller to close.
    :raises OSError: EXDEV, with the reason as text, if it may not be shown; or what the kernel
        says.
    """
    try:
        found = bundle.open_path(path, anywhere=trusted)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise _refused("it lies outside of the bundle", path) from None
        raise
    try:
        if part := _core.machine_part(found):
            raise Forbidden(errno.EXDEV, f"{part} of this machine would be seen", path)
        mode = os.fstat(found).st_mode
        if not trusted and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise _refused("it is neither a file nor a directory, but leads to the kernel", path)
    except BaseException:
        os.close(found)
        raise
    return found


class Forbidden(OSError):
    """What no permission lets a bundle show."""


def _refused(reason: str, path: str) -> OSError:
    return OSError(errno.EXDEV, reason, path)


def _check_hooks(config: Config) -> Iterator[Violation]:
    if moments := named_hooks(config.hooks):
        yield Violation(
            path="$.hooks",
            id="bundle-runs-hooks",
            problem=f"has programs run: {', '.join(moments)}",
            why="runsc starts them itself, OUTSIDE gVisor: on this machine's kernel, as you",
            remedy="take them out (bundle fix does), or run it with --allow-hooks",
            fixable=True,
            blocks=False,
            outside=True,
            allowed_by="--allow-hooks",
        )


def _check_root(config: Config, bundle: Bundle) -> Iterator[Violation]:
    try:
        os.close(bundle.open_path(config.root.path))
    except OSError as error:
        if error.errno == errno.EXDEV:
            yield _outside(
                "$.root.path",
                "bundle-root-outside",
                f"{config.root.path} lies outside of the bundle",
                "move it into the bundle",
            )


def _check_mount(mount: MountEntry, path: str, bundle: Bundle) -> Iterator[Violation]:
    if not is_bind(mount):
        if (mount.type or "") not in OWN_FILESYSTEMS:
            yield _outside(
                f"{path}.type",
                "bundle-mount-type",
                f"a filesystem of type {mount.type}",
                "take it out: gVisor has no such filesystem of its own, and may open the source "
                "as an image",
            )
        return
    if not mount.source:
        return  # told where the files are checked
    source = f"{path}.source"
    try:
        os.close(open_source(bundle, mount.source, trusted=False))
    except Forbidden as error:
        yield _never(source, f"{mount.source}: {error.strerror}")
    except OSError as error:
        if error.errno == errno.EXDEV:
            yield _outside_source(bundle, mount.source, source, str(error.strerror))


def _outside_source(bundle: Bundle, source: str, path: str, reason: str) -> Violation:
    """The finding for a source that only a trusted bundle may show, unless none may."""
    try:
        os.close(open_source(bundle, source, trusted=True))
    except Forbidden as error:
        return _never(path, f"{source}: {error.strerror}")
    except OSError:
        pass  # it is not there: all the same it is not the bundle's to name
    remedy = "move what it needs into the bundle"
    return _outside(path, "bundle-bind-outside", f"{source}: {reason}", remedy)


def _check_annotations(config: Config) -> Iterator[Violation]:
    for name, value in (config.annotations or {}).items():
        harmless = value in HARMLESS_ANNOTATIONS.get(name, ())
        if name.casefold().startswith(_ACTED_ON) and not harmless:
            yield _outside(
                "$.annotations",
                "bundle-annotation",
                f"{name} changes how runsc is run",
                "take it out",
                "with such an annotation a bundle has its own way with runsc's flags and mounts, "
                "and undoes what keeps its command from this machine",
            )


def _check_capabilities(config: Config) -> Iterator[Violation]:
    capabilities = config.process.capabilities
    wanted = capabilities.names() - HARMLESS_CAPABILITIES if capabilities else set()
    if wanted:
        yield _outside(
            "$.process.capabilities",
            "bundle-capabilities",
            f"asks for {', '.join(sorted(wanted))}",
            "leave these out",
            "runsc before 20240909 gives what the command has inside to its own process too, "
            "which then has it on this machine's kernel, in the namespace that it runs in",
        )


def _outside(path: str, cause: str, problem: str, remedy: str, why: str = _STRANGER) -> Violation:
    return Violation(
        path=path,
        id=cause,
        problem=problem,
        why=why,
        remedy=f"{remedy}; or, if you trust whoever made the bundle, run it with {_TRUST}",
        blocks=False,
        outside=True,
        allowed_by=_TRUST,
    )


def _never(path: str, problem: str) -> Violation:
    return Violation(
        path=path,
        id="bundle-bind-machine",
        problem=problem,
        why="through these files a process acts on the kernel, on devices and on other processes",
        remedy='another source; gVisor has a /proc, /sys and /dev of its own: "type": "proc"',
        blocks=False,
        outside=True,
    )


def is_bind(mount: MountEntry) -> bool:
    """:func:`usernsctl.gvisor.oci.builder.binds` of an entry of ``mounts``."""
    return binds(mount.type, mount.options)
