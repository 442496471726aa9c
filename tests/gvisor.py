"""Texts by which programs recognize gVisor, in all its releases."""

from __future__ import annotations

import datetime
import os
import re
import shutil

from usernsctl.gvisor.runsc.releases import Release, release_of

#: The text in /proc/version, the same since 2018.
BUILD = "#1 SMP Sun Jan 10 15:06:54 PST 2016"

# 4.4.0, or 4.19.0-gvisor since release 20260427.
RELEASE = re.compile(r"\d+\.\d+\.\d+(-gvisor)?")
VERSION = re.compile(rf"Linux version {RELEASE.pattern} {re.escape(BUILD)}\n")


def path() -> str:
    """Return the path of the runsc that the tests use, from PATH or a variable."""
    found = shutil.which(os.environ.get("USERNSCTL_RUNSC", "runsc"))
    assert found is not None
    return found


def release() -> Release:
    """Return the release of the runsc that the tests use."""
    return release_of(path(), remember=False)


def is_of_2026() -> bool:
    """Return whether runsc is of 17 August 2026 or later."""
    day = release().day
    return day is None or day >= datetime.date(2026, 8, 17)


def saves_host_network() -> bool:
    """Return whether this release can checkpoint a sandbox with the host's network."""
    return is_of_2026()


def is_version(text: str) -> bool:
    """Return whether a text is the whole /proc/version of a sandbox."""
    return VERSION.fullmatch(text) is not None


def is_release(text: str) -> bool:
    """Return whether a text is the output of ``uname -r`` in a sandbox."""
    return RELEASE.fullmatch(text) is not None
