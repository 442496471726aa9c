"""Print the real path of this Python if virtual environments of usernsctl can be based on it.

The interpreter must be able to build extensions, which needs its headers. If root creates the
environments, other users must be able to use them, so the interpreter must not be in root's home
directory. The script must run on every Python 3, so it uses no new features.
"""

import os
import stat
import sys
import sysconfig


def open_to_all(path):
    """Return whether every user can reach and read a file or directory."""
    path = os.path.realpath(path)
    if not os.stat(path).st_mode & stat.S_IROTH:
        return False
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
    return True


def objection():
    """Return why this interpreter is unsuitable, or None if it is suitable."""
    if sys.version_info < (3, 11):
        return "it is older than 3.11"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "it lacks the modules venv and ensurepip"
    headers = sysconfig.get_path("include")
    if not os.path.exists(os.path.join(headers, "Python.h")):
        return "its headers are not installed"
    if os.geteuid() == 0:
        for path in (sys.executable, sysconfig.get_path("stdlib")):
            if not open_to_all(path):
                return "other users can't read " + path
    return None


reason = objection()
if reason:
    sys.exit(sys.executable + ": " + reason)
print(os.path.realpath(sys.executable))
