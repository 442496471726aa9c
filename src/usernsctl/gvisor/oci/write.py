"""The text of a config.json, and the error for what can't be one."""

from __future__ import annotations

from usernsctl._typing import Any
from usernsctl.errors import BundleError

STEP = "bundle"


def serialise(config: dict[str, Any]) -> bytes:
    """The text of a config.json, indented, its keys in the order of `config`."""
    import json

    try:
        text = json.dumps(config, ensure_ascii=False, indent=4)
    except TypeError:
        # json has no way to write a Decimal, which keeps a fraction exactly as it was read.
        import msgspec

        encoder = msgspec.json.Encoder(decimal_format="number")
        return msgspec.json.format(encoder.encode(config), indent=4) + b"\n"
    return text.encode() + b"\n"


def fault(reason: str, filename: str | None) -> BundleError:
    """The error for a mistake in a config.json; `filename` is ``None`` for one never stored."""
    return BundleError(
        f"{filename}: {reason}" if filename else reason, step=STEP, filename=filename
    )
