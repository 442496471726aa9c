"""OCI bundles: functions that read, check, fix and build the config.json for runsc."""

from __future__ import annotations

from importlib import import_module

from usernsctl._lean import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usernsctl.gvisor.oci.builder import (
        BuildOptions,
        Mount,
        Rlimit,
        bind_mounts,
        binds,
        build,
        identity_mappings,
        is_read_only,
        mount_entry,
    )
    from usernsctl.gvisor.oci.bundle import Bundle, create, load, replace
    from usernsctl.gvisor.oci.escapes import check_outside, harmless_annotations, open_source
    from usernsctl.gvisor.oci.mend import Change, fix, for_runsc
    from usernsctl.gvisor.oci.rules import check
    from usernsctl.gvisor.oci.schema import Violation, parse, serialise, validate

__all__ = [
    "BuildOptions",
    "Bundle",
    "Change",
    "Mount",
    "Rlimit",
    "Violation",
    "bind_mounts",
    "binds",
    "build",
    "check",
    "check_outside",
    "create",
    "fix",
    "for_runsc",
    "harmless_annotations",
    "identity_mappings",
    "is_read_only",
    "load",
    "mount_entry",
    "open_source",
    "parse",
    "replace",
    "serialise",
    "validate",
]

# The modules that are imported on first use, with the names that each defines. Most of the modules
# import msgspec, which is needed only for bundles.
_MODULES = {
    "builder": (
        "BuildOptions",
        "Mount",
        "Rlimit",
        "bind_mounts",
        "binds",
        "build",
        "identity_mappings",
        "is_read_only",
        "mount_entry",
    ),
    "bundle": ("Bundle", "create", "load", "replace"),
    "escapes": ("check_outside", "harmless_annotations", "open_source"),
    "mend": ("Change", "fix", "for_runsc"),
    "rules": ("check",),
    "schema": ("Violation", "parse", "serialise", "validate"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            found = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
