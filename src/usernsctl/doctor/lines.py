"""Lines of logs: from text or JSON, to what can be shown on a terminal."""

from __future__ import annotations

import json
import re

from usernsctl.shown import shown

SHOWN_MAX = 300

# As runsc, Docker and containerd write them. runsc puts one object after the other in a line.
_JSON_MESSAGE = re.compile(r'"(?:msg|log|message)":\s?"((?:[^"\\]|\\.)*)"')


def message_at(line: str, place: int) -> str:
    """The message that a place in a line is in: one of those in JSON, else the line itself."""
    for message in _JSON_MESSAGE.finditer(line):
        if message.start() <= place < message.end():
            return _unescape(message[1])
    return line


def printable(text: str) -> str:
    """One line of at most :data:`SHOWN_MAX` characters, fit for a terminal."""
    return shown(" ".join(text.split())[:SHOWN_MAX])[:SHOWN_MAX]


def _unescape(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
