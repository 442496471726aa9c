"""From struct un_error to exceptions."""

from __future__ import annotations

import os

from usernsctl._core.records import Cause
from usernsctl._native import ffi, lib
from usernsctl._typing import Any, NoReturn
from usernsctl.errors import (
    BindError,
    BundleError,
    CommandError,
    MapError,
    NamespaceError,
    PlanError,
    RunscError,
    UsernsError,
)

_FAMILY: dict[int, type[UsernsError]] = {
    lib.UN_STEP_FACTS: PlanError,
    lib.UN_STEP_SUBID: PlanError,
    lib.UN_STEP_PLAN: PlanError,
    lib.UN_STEP_CWD: CommandError,
    lib.UN_STEP_SESSION: CommandError,
    lib.UN_STEP_PDEATHSIG: CommandError,
    lib.UN_STEP_STDIO: CommandError,
    lib.UN_STEP_FDS: CommandError,
    lib.UN_STEP_LOOKUP: CommandError,
    lib.UN_STEP_EXEC: CommandError,
    lib.UN_STEP_HOME: CommandError,
    lib.UN_STEP_BIND: BindError,
    lib.UN_STEP_ROOTFS: BindError,
    lib.UN_STEP_CONFIG: BundleError,
    lib.UN_STEP_RUNSC: RunscError,
}
_PATH_STEPS = (
    lib.UN_STEP_CGROUP,
    lib.UN_STEP_CWD,
    lib.UN_STEP_ROOT,
    lib.UN_STEP_LOOKUP,
    lib.UN_STEP_EXEC,
)


def text_of(pointer: Any) -> str:
    return os.fsdecode(ffi.string(pointer))


_COMMAND_STEPS = {
    text_of(lib.un_step_name(step)): step
    for step in (lib.UN_STEP_CWD, lib.UN_STEP_LOOKUP, lib.UN_STEP_EXEC)
}


def cause(cause_id: str | None) -> Cause | None:
    """Return the cause with this id, or ``None`` if there is none."""
    found = ffi.new("struct un_cause *")
    if not cause_id or not lib.un_cause_find(os.fsencode(cause_id), found):
        return None
    return Cause(text_of(found.why), text_of(found.remedy))


def _family(err: Any) -> type[UsernsError]:
    if err.step == lib.UN_STEP_ARGUMENT:
        return MapError if err.cause else NamespaceError
    return _FAMILY.get(err.step, NamespaceError).kind_for(err.errnum)


def error_of(
    err: Any,
    *,
    filename: str | None = None,
    reason: str | None = None,
    remedy: str | None = None,
    is_diagnosed: bool = False,
) -> UsernsError:
    """The exception for a failure.

    :param filename: the path that it is about, if that is known.
    :param reason: the sentence that says what failed, in place of the detail and the errno.
    :param remedy: what mends it, if that is known better than by its cause.
    :param is_diagnosed: whether a cause was looked for where it failed.
    """
    if not is_diagnosed:
        lib.un_diagnose(err, b"/proc")
    cause_id = text_of(err.cause) if err.cause else None
    known = cause(cause_id)
    if filename is None and err.step in _PATH_STEPS:
        filename = text_of(err.detail)
    return _family(err)(
        reason or reason_of(err),
        step=text_of(lib.un_step_name(err.step)),
        errno=err.errnum,
        filename=filename,
        cause=cause_id,
        remedy=remedy or text_of(err.remedy) or (known.remedy if known else None),
    )


def command_error(
    step: str, number: int, path: str, *, reason: str | None = None, remedy: str | None = None
) -> UsernsError:
    """Return the exception for a command that was not started by the core, such as by an agent.

    :param step: ``"chdir"``, ``"lookup"`` or ``"exec"``.
    :param number: the errno.
    :param path: the command, or the directory that it was to start in.
    :param reason: what failed, one sentence; by default the path, and what the errno says.
    :param remedy: what mends it; by default what mends its cause anywhere.
    """
    err = ffi.new("struct un_error *", {"step": _COMMAND_STEPS[step], "errnum": number})
    err.detail = os.fsencode(path)[: lib.UN_DETAIL_MAX - 1]
    return error_of(err, filename=path, reason=reason, remedy=remedy)


def raise_error(err: Any) -> NoReturn:
    raise error_of(err)


def check(result: int, err: Any) -> None:
    if result:
        raise_error(err)


def reason_of(err: Any) -> str:
    reason = ffi.new("char[]", lib.UN_DETAIL_MAX + 128)
    return text_of(lib.un_error_reason(err, reason, len(reason)))
