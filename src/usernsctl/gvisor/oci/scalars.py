"""Texts and numbers as JSON has them.

:mod:`json` takes as long to import as all that is to be written takes to be made.
"""

from __future__ import annotations

from usernsctl._typing import Any

try:
    # What json itself writes texts with.
    from _json import encode_basestring
except ImportError:
    from json.encoder import encode_basestring

_NAMES = {True: "true", False: "false", None: "null"}


def dumps(value: Any) -> str:
    """``json.dumps(value, ensure_ascii=False)``.

    :raises TypeError: there is no JSON for it.
    """
    if type(value) is str:
        return encode_basestring(value)
    if value is None or type(value) is bool:
        return _NAMES[value]
    if type(value) is int:
        return str(value)
    import json

    return json.dumps(value, ensure_ascii=False)
