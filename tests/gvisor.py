"""What programs see of gVisor, whatever its release."""

from __future__ import annotations

import datetime
import os
import re
import shutil

from usernsctl.gvisor.runsc.releases import Release, release_of

#: In /proc/version, the same since 2018.
BUILD = "#1 SMP Sun Jan 10 15:06:54 PST 2016"

# 4.4.0, and 4.19.0-gvisor in releases since 20260427.
RELEASE = re.compile(r"\d+\.\d+\.\d+(-gvisor)?")
VERSION = re.compile(rf"Linux version {RELEASE.pattern} {re.escape(BUILD)}\n")


def path() -> str:
    """The runsc that the tests run: the one along PATH, or that a variable names."""
    found = shutil.which(os.environ.get("USERNSCTL_RUNSC", "runsc"))
    assert found is not None
    return found


def release() -> Release:
    """The release of that."""
    return release_of(path(), remember=False)


def is_of_2026() -> bool:
    """Whether it is of 17 August 2026 or later: what was seen of that is not known of others."""
    day = release().day
    return day is None or day >= datetime.date(2026, 8, 17)


def saves_host_network() -> bool:
    """Whether that release saves a sandbox that has this machine's network."""
    return is_of_2026()


def is_version(text: str) -> bool:
    """Whether this is all that a sandbox's /proc/version holds."""
    return VERSION.fullmatch(text) is not None


def is_release(text: str) -> bool:
    """Whether this is what ``uname -r`` says in a sandbox."""
    return RELEASE.fullmatch(text) is not None
