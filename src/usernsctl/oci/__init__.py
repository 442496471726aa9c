"""OCI bundles: reading, checking, mending and making the config.json that runsc runs."""

from usernsctl.oci.build import (
    BuildOptions,
    Mount,
    Rlimit,
    binds,
    build,
    identity_mappings,
    mount_entry,
)
from usernsctl.oci.check import check
from usernsctl.oci.finding import Finding
from usernsctl.oci.fix import Change, fix
from usernsctl.oci.given import for_runsc
from usernsctl.oci.load import Bundle, load
from usernsctl.oci.outside import check_outside, harmless_annotations, open_source
from usernsctl.oci.parse import parse, serialise
from usernsctl.oci.shape import validate
from usernsctl.oci.store import create, replace

__all__ = [
    "BuildOptions",
    "Bundle",
    "Change",
    "Finding",
    "Mount",
    "Rlimit",
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
