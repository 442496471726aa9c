"""OCI bundles: reading, checking, mending and making the config.json that runsc runs."""

from usernsctl.oci.build import BuildOptions, Mount, Rlimit, build, identity_mappings
from usernsctl.oci.parse import parse, serialise
from usernsctl.oci.shape import validate

__all__ = [
    "BuildOptions",
    "Mount",
    "Rlimit",
    "build",
    "identity_mappings",
    "parse",
    "serialise",
    "validate",
]
