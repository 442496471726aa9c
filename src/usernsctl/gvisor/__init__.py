"""Sandboxes, which run commands in gVisor without root.

:func:`run` runs one command in gVisor, as :func:`subprocess.run` runs a command on the host's
kernel.
"""

from importlib import import_module

from usernsctl._lean import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usernsctl.gvisor.host import run, run_async

__all__ = ["run", "run_async"]


def __getattr__(name: str) -> Any:
    # Import the module host on first use, because other modules of this package don't need it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("usernsctl.gvisor.host"), name)


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
