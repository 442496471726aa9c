"""Strings by which programs detect any release of gVisor, and the release of the tests' runsc."""

from __future__ import annotations

import datetime
import os
import re
import shutil

from usernsctl.gvisor.runsc.releases import Release, release_of

#: Build information in gVisor's /proc/version, which has been the same since 2018.
BUILD = "#1 SMP Sun Jan 10 15:06:54 PST 2016"

# Kernel release in gVisor: 4.4.0, or 4.19.0-gvisor since release 20260427.
RELEASE = re.compile(r"\d+\.\d+\.\d+(-gvisor)?")
VERSION = re.compile(rf"Linux version {RELEASE.pattern} {re.escape(BUILD)}\n")


def path() -> str:
    """Return the path of the tests' runsc, from $USERNSCTL_RUNSC or found in PATH."""
    found = shutil.which(os.environ.get("USERNSCTL_RUNSC", "runsc"))
    assert found is not None
    return found


def release() -> Release:
    """Return the release of the tests' runsc."""
    return release_of(path(), remember=False)


def is_of_2026() -> bool:
    """Return whether the tests' runsc is of release 20260817 or later, or has no release date."""
    day = release().day
    return day is None or day >= datetime.date(2026, 8, 17)


def saves_host_network() -> bool:
    """Return whether the tests' runsc can checkpoint a sandbox that uses the host's network."""
    return is_of_2026()


def is_version(text: str) -> bool:
    """Return whether `text` is the whole content of /proc/version in a sandbox."""
    return VERSION.fullmatch(text) is not None


def is_release(text: str) -> bool:
    """Return whether `text` is the output of ``uname -r`` in a sandbox."""
    return RELEASE.fullmatch(text) is not None
