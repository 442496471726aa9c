"""Python child processes that run a module of this package outside of gVisor.

A child imports no module from the current directory or from PYTHONPATH, because another program may
have created modules there. The parent passes the directories of this package and of its
dependencies as arguments.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys

# At the top level, this file must not import the package: the child runs the file as a script,
# before _run() has made the package importable.

_SCRIPT = os.path.abspath(__file__)
_PACKAGE = os.path.dirname(os.path.dirname(_SCRIPT))

# The modules that this package depends on.
_NEEDED = ("_cffi_backend", "msgspec", "prctl", "rich")


def command(module: str, *words: str) -> list[str]:
    """Return a command that runs a module of this package, like ``python -m MODULE ARGUMENTS``.

    The command contains ``-I``, with which Python ignores the current directory and PYTHONPATH. The
    child imports modules from its own standard library and packages if possible, and otherwise from
    directories that the command passes as arguments.

    :param module: the full name of a module or package that ``python -m`` can run.
    :raises CommandError: the path of this interpreter is unknown.
    """
    if not sys.executable:
        from usernsctl.errors import CommandError

        raise CommandError(
            "can't start a Python child: the path of this interpreter is unknown",
            step="exec",
            remedy="set sys.executable to the path of a Python that has this package",
        )
    return [sys.executable, "-I", _SCRIPT, *_places(), module, *words]


def _places() -> list[str]:
    """Return the distinct directories that contain this package and its dependencies."""
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
    """Return whether `entry` is the absolute path of a directory, except the current directory."""
    if not os.path.isabs(entry):
        return False
    try:
        return not os.path.samefile(entry, os.curdir)
    except OSError:
        return True


def _run(places: list[str], module: str) -> None:
    """Run a module of this package in the child.

    :param places: the directories, from the arguments, to append to ``sys.path``.
    """
    import importlib.util
    import runpy

    sys.path += [place for place in places if place not in sys.path]
    # Load the package from the directory of this file, because a directory in sys.path may contain
    # another package of the same name.
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
    # The arguments begin with the absolute paths of directories. The name of the module follows.
    import itertools

    _given = list(itertools.takewhile(os.path.isabs, sys.argv[1:]))
    sys.argv = sys.argv[len(_given) + 1 :]
    _run(_given, sys.argv[0])
