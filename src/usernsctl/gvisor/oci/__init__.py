"""OCI bundles: reading, checking, mending and making the config.json that runsc runs."""

from __future__ import annotations

from importlib import import_module

from usernsctl._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usernsctl.gvisor.oci.building import (
        BuildOptions,
        Mount,
        Rlimit,
        binds,
        build,
        identity_mappings,
        mount_entry,
    )
    from usernsctl.gvisor.oci.bundle import Bundle, create, load, replace
    from usernsctl.gvisor.oci.checking import check
    from usernsctl.gvisor.oci.mend import Change, fix, for_runsc
    from usernsctl.gvisor.oci.model import Violation
    from usernsctl.gvisor.oci.outside import check_outside, harmless_annotations, open_source
    from usernsctl.gvisor.oci.parsing import parse, validate
    from usernsctl.gvisor.oci.write import serialise

__all__ = [
    "BuildOptions",
    "Bundle",
    "Change",
    "Mount",
    "Rlimit",
    "Violation",
    "binds",
    "build",
    "check",
    "check_outside",
    "create",
    "fix",
    "for_runsc",
    "harmless_annotations",
    "identity_mappings",
    "load",
    "mount_entry",
    "open_source",
    "parse",
    "replace",
    "serialise",
    "validate",
]

# Imported when it is used: most of it is about bundles, and needs msgspec.
_PLACES = {
    "building": (
        "BuildOptions",
        "Mount",
        "Rlimit",
        "binds",
        "build",
        "identity_mappings",
        "mount_entry",
    ),
    "bundle": ("Bundle", "create", "load", "replace"),
    "checking": ("check",),
    "mend": ("Change", "fix", "for_runsc"),
    "model": ("Violation",),
    "outside": ("check_outside", "harmless_annotations", "open_source"),
    "parsing": ("parse", "validate"),
    "write": ("serialise",),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            found = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
