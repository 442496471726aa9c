"""OCI bundles: reading, checking, mending and making the config.json that runsc runs."""

from __future__ import annotations

from usernsctl.gvisor.oci.build import (
    BuildOptions,
    Change,
    Mount,
    Rlimit,
    binds,
    build,
    fix,
    for_runsc,
    identity_mappings,
    mount_entry,
)
from usernsctl.gvisor.oci.bundle import Bundle, create, load, replace
from usernsctl.gvisor.oci.check import check
from usernsctl.gvisor.oci.model import Violation
from usernsctl.gvisor.oci.outside import check_outside, harmless_annotations, open_source
from usernsctl.gvisor.oci.parse import parse, serialise, validate

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
