"""Children that run modules of this package in Python, in any directory and environment.

A child imports no module from the current directory or from a directory of PYTHONPATH: its modules
run outside of gVisor. The parent passes on the directories of this package and of its dependencies,
which Python may not search by itself.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys

# This file is also the script that a child runs: it imports nothing of the package at first.

_SCRIPT = os.path.abspath(__file__)
_PACKAGE = os.path.dirname(os.path.dirname(_SCRIPT))

# The dependencies of this package.
_NEEDED = ("_cffi_backend", "msgspec", "prctl", "rich")


def command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module of this package, as ``python -m module words`` does.

    ``-I`` keeps out the current directory and the variables of the environment; the child's own
    standard library and packages come before the directories that are passed on.

    :param module: the full name of a module with a ``__main__`` part.
    :raises CommandError: the path of this interpreter is unknown.
    """
    if not sys.executable:
        from usernsctl.errors import CommandError

        raise CommandError(
            "the interpreter that runs this program is unknown, so that no other can be started",
            step="exec",
            remedy="set sys.executable to the path of a Python that has this package",
        )
    return [sys.executable, "-I", _SCRIPT, *_places(), module, *words]


def _places() -> list[str]:
    """Return the directories of this package and of its dependencies, each once."""
    own = os.path.dirname(_PACKAGE)
    trusted = [entry for entry in sys.path if _is_trusted(entry)]
    found = {own: None}
    for name in _NEEDED:
        spec = importlib.machinery.PathFinder.find_spec(name, [own, *trusted])
        if spec is not None and spec.origin is not None:
            levels = 2 if spec.submodule_search_locations is not None else 1
            place = spec.origin
            for _ in range(levels):
                place = os.path.dirname(place)
            found[place] = None
    return list(found)


def _is_trusted(entry: str) -> bool:
    """Return whether an entry of sys.path is not the current directory of the moment."""
    if not os.path.isabs(entry):
        return False
    try:
        return not os.path.samefile(entry, os.curdir)
    except OSError:
        return True


def _run(places: list[str], module: str) -> None:
    """Run a module, in the child."""
    import importlib.util
    import runpy

    sys.path += [place for place in places if place not in sys.path]
    # From the directory of this file: another package may have the name.
    name = os.path.basename(_PACKAGE)
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(_PACKAGE, "__init__.py"), submodule_search_locations=[_PACKAGE]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # Directories are absolute paths, and the module's name is not.
    import itertools

    _given = list(itertools.takewhile(os.path.isabs, sys.argv[1:]))
    sys.argv = sys.argv[len(_given) + 1 :]
    _run(_given, sys.argv[0])
