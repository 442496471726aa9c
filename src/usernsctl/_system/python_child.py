"""Children of ours that are Python: this same package, in whatever directory and environment.

What a child imports runs outside of gVisor. So it gets no module from the current directory and
none from a variable; but where this package and what it needs were found is a fact of the process
that starts it, and is handed on: they may be in a directory that Python does not know of itself.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys

# This file is also the script that such a child runs: it imports nothing of the package at first.


_SCRIPT = os.path.abspath(__file__)
_PACKAGE = os.path.dirname(os.path.dirname(_SCRIPT))

# What the package imports beside the standard library, where it is installed.
_NEEDED = ("_cffi_backend", "msgspec", "prctl", "rich")


def command(module: str, *words: str) -> list[str]:
    """The words that run a module of this package in a child: ``python -m module words``.

    ``-I`` keeps out the current directory and the variables of the environment; the child's own
    standard library and packages come before the directories that are handed on.

    :param module: its full name; a package's is that of its ``__main__``.
    :raises CommandError: this program does not know which interpreter it is.
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
    """The directories that hold this package and what it needs, each named once."""
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
    """Whether modules are there on purpose.

    The current directory is searched for no other reason than that somebody is in it.
    """
    if not os.path.isabs(entry):
        return False
    try:
        return not os.path.samefile(entry, os.curdir)
    except OSError:
        return True


def _run(places: list[str], module: str) -> None:
    """What the child does."""
    import importlib.util
    import runpy

    sys.path += [place for place in places if place not in sys.path]
    # From where this file is, though there may be another of the name.
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
    # The places are absolute paths, and what follows them is none.
    import itertools

    _given = list(itertools.takewhile(os.path.isabs, sys.argv[1:]))
    sys.argv = sys.argv[len(_given) + 1 :]
    _run(_given, sys.argv[0])
