"""Whether there is a terminal to draw on, and what draws."""

from __future__ import annotations

import importlib.util
import sys


def can_draw() -> bool:
    """Whether standard output is a terminal, and rich is installed, which is an extra."""
    # Closed output is None in Python.
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return is_terminal and importlib.util.find_spec("rich") is not None
