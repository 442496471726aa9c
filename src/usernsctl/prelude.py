"""Where the native prelude is."""

from __future__ import annotations

import os
import sysconfig

from usernsctl.errors import CommandError

NAME = "usernsctl-exec"


def prelude_path() -> str:
    """The path of the native prelude, which is installed with this package.

    :raises CommandError: it is not there; the installation is incomplete.
    """
    path = os.path.join(sysconfig.get_path("scripts"), NAME)
    if not os.access(path, os.X_OK):
        raise CommandError(
            f"{path} is missing: it is installed together with this package",
            step="exec",
            filename=path,
            remedy="pip install --force-reinstall usernsctl",
        )
    return path
