"""Sandboxes on the nodes of a Ray cluster. ``pip install 'usernsctl[ray]'`` installs Ray.

See docs/ray.md for an introduction.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usernsctl.contrib.ray.actor import SandboxActor
    from usernsctl.contrib.ray.pool import RayPool
    from usernsctl.contrib.ray.runtime import RaySandbox, UsernsctlBackend, UsernsctlRuntime, create
    from usernsctl.contrib.ray.tasks import NodeLostError, Progress, RayResult, TaskOptions
    from usernsctl.contrib.ray.template_files import TemplateFiles

try:
    import ray as _ray  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "usernsctl.contrib.ray needs Ray, which is not installed here: "
        "type  pip install 'usernsctl[ray]'",
        name="ray",
    ) from _error

# The module that defines each name of this package. A module is imported when one of its names is
# first used, because Ray's own sandbox interface takes long to import.
_MODULES = {
    "NodeLostError": "tasks",
    "Progress": "tasks",
    "RayPool": "pool",
    "RayResult": "tasks",
    "RaySandbox": "runtime",
    "SandboxActor": "actor",
    "TaskOptions": "tasks",
    "TemplateFiles": "template_files",
    "UsernsctlBackend": "runtime",
    "UsernsctlRuntime": "runtime",
    "create": "runtime",
}

__all__ = [
    "NodeLostError",
    "Progress",
    "RayPool",
    "RayResult",
    "RaySandbox",
    "SandboxActor",
    "TaskOptions",
    "TemplateFiles",
    "UsernsctlBackend",
    "UsernsctlRuntime",
    "create",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
