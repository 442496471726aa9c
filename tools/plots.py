"""Write docs/pictures/performance.svg from bench/results.txt; --check: only compare."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import generated

TREE = Path(__file__).resolve().parent.parent
RESULTS = TREE / "bench" / "results.txt"
TARGET = TREE / "docs" / "pictures" / "performance.svg"

# Matches the style sheet of an SVG figure. Each generated figure gets the style sheet of the figure
# MODEL, which is drawn by hand.
STYLE = re.compile(r"  <style>.*?</style>\n", re.DOTALL)
MODEL = TREE / "docs" / "pictures" / "time.svg"

WIDTH = 440
LEFT = 20
# Length of the longer bar, in pixels. The rest of WIDTH is for the number to the right of the bar.
LENGTH = 300
ROW = 106
TOP = 20

ROUNDED = 10  # From this number of milliseconds on, times are shown without decimals.


@dataclass(frozen=True)
class Row:
    """A comparison of the times of usernsctl and of another tool.

    :ivar what: the name of the program that is started, or ``""``.
    :ivar theirs: the time of the other tool in milliseconds; `ours` is that of usernsctl.
    """

    their_name: str
    our_name: str
    what: str
    theirs: float
    ours: float


def rows(text: str) -> list[Row]:
    """Return the comparisons that bench/aims.py has printed."""
    found = []
    for names, theirs, ours in re.findall(r"^(.* / .*?) +([\d.]+) +([\d.]+) +[\d.]+", text, re.M):
        their_name, _, our_name = names.partition(" / ")
        our_name, _, what = our_name.partition(": ")
        found.append(Row(their_name, our_name, what, float(theirs), float(ours)))
    return found


def _bar(kind: str, top: int, name: str, taken: float, length: float) -> str:
    shown = f"{taken:.0f}" if taken >= ROUNDED else f"{taken:.2f}"
    return f"""\
  <text class="small" x="{LEFT}" y="{top}">{escape(name)}</text>
  <rect class="{kind}" x="{LEFT}" y="{top + 6}" width="{length:.0f}" height="18"/>
  <text x="{LEFT + length + 8:.0f}" y="{top + 20}">{shown} ms</text>
"""


def picture() -> str:
    """Return the picture as SVG, with two bars for each comparison.

    The longer of the two bars always has the length LENGTH.
    """
    measured = rows(RESULTS.read_text())
    style = STYLE.search(MODEL.read_text())
    assert style is not None
    height = TOP + ROW * len(measured)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title">\n',
        '  <title id="title">How long starts take, beside other tools</title>\n',
        style[0],
        f'  <rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" '
        'rx="8"/>\n',
    ]
    for number, row in enumerate(measured):
        top = TOP + ROW * number + 16
        most = max(row.theirs, row.ours)
        started = f" {row.what}" if row.what else ""
        parts.append(
            _bar("machine", top, row.their_name + started, row.theirs, LENGTH * row.theirs / most)
        )
        parts.append(
            _bar("ours", top + 44, row.our_name + started, row.ours, LENGTH * row.ours / most)
        )
    return "".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    sys.exit(generated.run(sys.argv[1:], TARGET, picture))
