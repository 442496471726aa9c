"""Check that the dependencies between sources in csrc/ are those that csrc/layout.py allows.

A source depends on the headers that it includes, and on the sources that define the undefined
symbols of its object file. It may depend on files in its own directory, in lower layers and, if it
is part of a program, in programs/shared/. There must be no cycles. Pure sources (csrc/layout.py)
must not call functions whose result depends on the system.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"
sys.path.insert(0, str(CSRC))
import layout  # noqa: E402

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)

# Functions of libc whose results depend only on their arguments.
PURE_CALLS = re.compile(
    r"(__)?(mem(cpy|set|move|cmp|chr)|str(n?len|n?cmp|c?spn|r?chr|str)|v?snprintf)(_chk)?"
    r"|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_"
)


@dataclass
class Symbols:
    """The symbols that an object file defines, and those that it leaves undefined."""

    defined: set[str] = field(default_factory=set)
    wanted: set[str] = field(default_factory=set)


def read_symbols(csrc: Path, source: Path, target: Path) -> Symbols:
    """Compile a source, and return the symbols of its object file.

    :raises subprocess.CalledProcessError: the source does not compile.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = [*layout.flags(csrc), "-w", '-DUSERNSCTL_VERSION=""']
    subprocess.run([*compiler, *flags, "-c", source, "-o", target], check=True)
    listed = subprocess.run(
        ["nm", "--format=posix", target], check=True, capture_output=True, text=True
    )
    symbols = Symbols()
    for line in listed.stdout.splitlines():
        name, kind = line.split()[:2]
        if kind == "U":
            symbols.wanted.add(name)
        elif kind.isupper():
            symbols.defined.add(name)
    return symbols


def name_of(csrc: Path, path: Path) -> str:
    return path.relative_to(csrc).as_posix()


def place_of(name: str) -> str:
    """Return the directory of a file, which stands for a layer or a program."""
    return name.rpartition("/")[0]


def dependencies(csrc: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the files that each file uses, with reasons, and a list of invalid uses.

    A reason is, for example, "includes base/base.h". Invalid uses are includes that are not named
    from csrc/, and impure calls in pure sources.
    """
    sources = sorted(csrc.rglob("*.c"))
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        targets = [Path(scratch, f"{number}.o") for number in range(len(sources))]
        found = pool.map(read_symbols, [csrc] * len(sources), sources, targets)
        symbols = dict(zip([name_of(csrc, source) for source in sources], found, strict=True))
    definer = {
        symbol: name
        for name, of in symbols.items()
        if name != layout.AGENT_LIBC
        for symbol in of.defined - {"main", "_start"}
    }
    uses: dict[str, dict[str, str]] = {}
    wrong = []
    for file in sorted(csrc.rglob("*.[ch]")):
        of = uses.setdefault(name_of(csrc, file), {})
        for included in INCLUDE.findall(file.read_text()):
            if not (csrc / included).is_file():
                wrong.append(
                    f"{file.relative_to(csrc)} includes {included}; "
                    "it must be named from csrc/, such as base/base.h"
                )
            of.setdefault(name_of(csrc, csrc / included), f"includes {included}")
    for name, wants in symbols.items():
        for symbol in sorted(wants.wanted):
            if symbol in definer:
                uses[name].setdefault(definer[symbol], f"uses {symbol}")
            elif place_of(name) in layout.PURE and not PURE_CALLS.fullmatch(symbol):
                wrong.append(f"{name} is pure, and calls {symbol}")
    for name, of in uses.items():
        of.pop(name, None)
    return uses, wrong


def is_allowed(user: str, used: str) -> bool:
    """Return whether files in the directory `user` may depend on files in `used`."""
    if used in ("include", user):
        return True
    if user == "include" or used.startswith("programs/"):
        return user.startswith("programs/") and used == "programs/shared"
    layers = list(layout.LAYERS)
    return layers.index(used) < layers.index(user.partition("/")[0])


def is_known(place: str) -> bool:
    programs = {f"programs/{name.removeprefix('usernsctl-')}" for name in layout.PROGRAMS}
    programs |= {f"programs/{Path(files[0]).parent.name}" for files in layout.FREESTANDING.values()}
    return place in {"include", "programs/shared", *layout.LAYERS[:-1], *programs}


def circle(uses: dict[str, dict[str, str]]) -> Iterator[str]:
    try:
        TopologicalSorter({name: list(of) for name, of in uses.items()}).prepare()
    except CycleError as error:
        # graphlib returns a cycle in which each file is used by the next one; print it in reverse
        # order.
        way = error.args[1][::-1]
        steps = [f"{a} {uses[a][b]} ({b})" for a, b in pairwise(way)]
        yield "a circle: " + ", ".join(steps)


def check(csrc: Path) -> list[str]:
    """Return a line for each violation in a tree of sources.

    :param csrc: a directory like csrc/, with a compile_flags.txt.
    :raises subprocess.CalledProcessError: a source does not compile.
    """
    uses, wrong = dependencies(csrc)
    unknown = {place for place in map(place_of, uses) if not is_known(place)}
    if unknown:
        return [*wrong, *(f"csrc/layout.py does not know {place}/" for place in sorted(unknown))]
    for user, of in sorted(uses.items()):
        for used, why in sorted(of.items()):
            if used in uses and not is_allowed(place_of(user), place_of(used)):
                wrong.append(
                    f"{user} {why}, of {place_of(used)}/, which is not below {place_of(user)}/"
                )
    return [*wrong, *circle(uses)]


def main() -> int:
    wrong = check(CSRC)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
