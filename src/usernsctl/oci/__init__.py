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
from usernsctl.oci.load import load
from usernsctl.oci.parse import parse, serialise
from usernsctl.oci.shape import validate
from usernsctl.oci.store import create, replace

__all__ = [
    "BuildOptions",
    "Change",
    "Finding",
    "Mount",
    "Rlimit",
    "binds",
    "build",
    "check",
    "create",
    "fix",
    "identity_mappings",
    "load",
    "mount_entry",
    "parse",
    "replace",
    "serialise",
    "validate",
]
