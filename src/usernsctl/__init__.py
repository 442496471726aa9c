"""Unprivileged user namespaces, for gVisor sandboxes and other commands."""

from __future__ import annotations

import os as _os
from importlib import import_module as _import_module

# Define TYPE_CHECKING here, because importing typing would take longer than importing this module.
# Type checkers treat this name as true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from usernsctl import gvisor
    from usernsctl.commands.aio import create_subprocess_exec
    from usernsctl.commands.popen import (
        DEVNULL,
        PIPE,
        STDOUT,
        CalledProcessError,
        Child,
        CompletedProcess,
        Popen,
        TimeoutExpired,
        call,
        check_call,
        check_output,
        exec,
        run,
        spawn,
    )
    from usernsctl.doctor import diagnose
    from usernsctl.errors import (
        BindError,
        BindNotADirectoryError,
        BindNotFoundError,
        BindPermissionError,
        BundleError,
        CommandError,
        CommandNotADirectoryError,
        CommandNotExecutableError,
        CommandNotFoundError,
        HardeningError,
        LimitError,
        MapError,
        NamespaceError,
        PlanError,
        PoolError,
        PoolTimeoutError,
        RunscError,
        SandboxEndedError,
        SandboxFileError,
        SandboxFileExistsError,
        SandboxFileIsADirectoryError,
        SandboxFileNotADirectoryError,
        SandboxFileNotFoundError,
        SandboxFilePermissionError,
        SandboxFileTimeoutError,
        SandboxFileTooLargeError,
        UsernsError,
        UserUnknownError,
    )
    from usernsctl.gvisor.agent.file_copies import CopyReport, FileEntry
    from usernsctl.gvisor.agent.popen import SandboxPopen
    from usernsctl.gvisor.agent.process import SandboxProcess
    from usernsctl.gvisor.host import SandboxHost
    from usernsctl.gvisor.launch.request import Bind
    from usernsctl.gvisor.oci import Rlimit
    from usernsctl.gvisor.pool.keeper import PoolStats
    from usernsctl.gvisor.pool.pool import SandboxPool
    from usernsctl.gvisor.result import Result, SandboxUsage
    from usernsctl.gvisor.sandbox.files import FileOptions
    from usernsctl.gvisor.sandbox.host_namespace import HostOptions
    from usernsctl.gvisor.sandbox.interpreter import ExceptionInfo, Execution, Interpreter
    from usernsctl.gvisor.sandbox.records import DetachedRecord
    from usernsctl.gvisor.sandbox.sandbox import Sandbox, StartOptions
    from usernsctl.gvisor.template.python import PythonTemplate
    from usernsctl.gvisor.template.template import Template
    from usernsctl.maps import Extent, IdMap, Plan, SingleIdWarning, plan
    from usernsctl.namespaces.namespace import Namespace, enter

    __version__: str

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Bind",
    "BindError",
    "BindNotADirectoryError",
    "BindNotFoundError",
    "BindPermissionError",
    "BundleError",
    "CalledProcessError",
    "Child",
    "CommandError",
    "CommandNotADirectoryError",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "CompletedProcess",
    "CopyReport",
    "DetachedRecord",
    "ExceptionInfo",
    "Execution",
    "Extent",
    "FileEntry",
    "FileOptions",
    "HardeningError",
    "HostOptions",
    "IdMap",
    "Interpreter",
    "LimitError",
    "MapError",
    "Namespace",
    "NamespaceError",
    "Plan",
    "PlanError",
    "PoolError",
    "PoolStats",
    "PoolTimeoutError",
    "Popen",
    "PythonTemplate",
    "Result",
    "Rlimit",
    "RunscError",
    "Sandbox",
    "SandboxEndedError",
    "SandboxFileError",
    "SandboxFileExistsError",
    "SandboxFileIsADirectoryError",
    "SandboxFileNotADirectoryError",
    "SandboxFileNotFoundError",
    "SandboxFilePermissionError",
    "SandboxFileTimeoutError",
    "SandboxFileTooLargeError",
    "SandboxHost",
    "SandboxPool",
    "SandboxPopen",
    "SandboxProcess",
    "SandboxUsage",
    "SingleIdWarning",
    "StartOptions",
    "Template",
    "TimeoutExpired",
    "UserUnknownError",
    "UsernsError",
    "call",
    "check_call",
    "check_output",
    "create_subprocess_exec",
    "diagnose",
    "enter",
    "exec",
    "gvisor",
    "plan",
    "run",
    "spawn",
]

# The modules of most public names. They are imported when one of these names is first used: the
# command `usernsctl` must set its signal actions before any slow import, and pytest loads the
# plugin into sessions that never use these modules.
_TOGETHER = (
    "usernsctl.commands.popen",
    "usernsctl.errors",
    "usernsctl.maps",
    "usernsctl.namespaces.namespace",
)
# The module of each public name that many programs never use. Each module is imported only when one
# of its names is used, because the import takes long.
_APART = {
    "Bind": "usernsctl.gvisor.launch.request",
    "CopyReport": "usernsctl.gvisor.agent.file_copies",
    "DetachedRecord": "usernsctl.gvisor.sandbox.records",
    "ExceptionInfo": "usernsctl.gvisor.sandbox.interpreter",
    "Execution": "usernsctl.gvisor.sandbox.interpreter",
    "FileEntry": "usernsctl.gvisor.agent.file_copies",
    "FileOptions": "usernsctl.gvisor.sandbox.files",
    "HostOptions": "usernsctl.gvisor.sandbox.host_namespace",
    "Interpreter": "usernsctl.gvisor.sandbox.interpreter",
    "PoolStats": "usernsctl.gvisor.pool.keeper",
    "PythonTemplate": "usernsctl.gvisor.template.python",
    "Result": "usernsctl.gvisor.result",
    "Rlimit": "usernsctl.gvisor.oci",
    "Sandbox": "usernsctl.gvisor.sandbox.sandbox",
    "SandboxHost": "usernsctl.gvisor.host",
    "SandboxPool": "usernsctl.gvisor.pool.pool",
    "SandboxPopen": "usernsctl.gvisor.agent.popen",
    "SandboxProcess": "usernsctl.gvisor.agent.process",
    "SandboxUsage": "usernsctl.gvisor.result",
    "StartOptions": "usernsctl.gvisor.sandbox.sandbox",
    "Template": "usernsctl.gvisor.template.template",
    "create_subprocess_exec": "usernsctl.commands.aio",
    "diagnose": "usernsctl.doctor",
}
_MODULES = ("gvisor",)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return _import_module(f"usernsctl.{name}")
    if name == "__version__":
        return _import_module("usernsctl._core").version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _APART:
        globals()[name] = getattr(_import_module(_APART[name]), name)
    else:
        # Import all modules in _TOGETHER at once: if the caller later enters a namespace, it may
        # not be able to read the files of modules there.
        for module in map(_import_module, _TOGETHER):
            found = vars(module)
            globals().update((each, found[each]) for each in __all__ if each in found)
    return globals()[name]


def __dir__() -> list[str]:
    # Return the public names, without imported submodules and TYPE_CHECKING.
    return [*__all__, *(name for name in globals() if name.startswith("__"))]


# Reject an import from a zip archive: the kernel can't execute the native programs in it.
if not _os.path.isdir(_os.path.dirname(__file__)):
    raise ImportError(
        f"the programs of usernsctl can't be executed from the archive "
        f"{_os.path.dirname(__file__)}: install usernsctl into a directory",
        name=__name__,
        path=__file__,
    )
