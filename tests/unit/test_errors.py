"""Tests of the exceptions: subclasses of OSError whose attributes survive pickle and copy."""

from __future__ import annotations

import copy
import errno
import pickle
import traceback

import pytest

import usernsctl
from usernsctl import NamespaceError, UsernsError

FAMILIES = [
    value
    for value in vars(usernsctl).values()
    if isinstance(value, type) and issubclass(value, UsernsError)
]


def full_error(error_class: type[UsernsError]) -> UsernsError:
    return error_class(
        "/x: Permission denied",
        step="exec",
        errno=errno.EACCES,
        filename="/x",
        cause="command-not-executable",
        remedy="chmod +x /x",
    )


@pytest.mark.parametrize("error_class", FAMILIES)
def test_every_exception_class_keeps_its_attributes(error_class: type[UsernsError]) -> None:
    error = full_error(error_class)
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror, error.filename) == (13, "Permission denied", "/x")
    assert (error.step, error.cause, error.remedy) == (
        "exec",
        "command-not-executable",
        "chmod +x /x",
    )
    assert str(error) == "exec: /x: Permission denied"


@pytest.mark.parametrize("error_class", FAMILIES)
@pytest.mark.parametrize("copy_error", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_every_exception_class_can_be_pickled_and_copied(error_class, copy_error) -> None:  # type: ignore[no-untyped-def]
    for error in (full_error(error_class), error_class("nothing to map", step="plan")):
        other = copy_error(error)
        assert type(other) is error_class
        assert vars(other) == vars(error)
        assert (other.errno, other.filename, str(other)) == (
            error.errno,
            error.filename,
            str(error),
        )


def test_error_without_a_system_call_has_errno_0() -> None:
    error = UsernsError("the map is empty", step="plan")
    assert error.errno == 0
    assert error.filename is None
    assert error.cause is None
    assert error.remedy is None
    assert str(error) == "plan: the map is empty"


def test_exceptions_derive_from_those_of_subprocess() -> None:
    assert issubclass(usernsctl.CommandNotFoundError, FileNotFoundError)
    assert issubclass(usernsctl.CommandNotExecutableError, PermissionError)
    assert issubclass(usernsctl.MapError, ValueError)
    assert issubclass(usernsctl.CommandNotFoundError, usernsctl.CommandError)


@pytest.mark.parametrize(
    ("step", "status"), [("lookup", 127), ("exec", 126), ("uid_map", 125), ("argument", 125)]
)
def test_exit_status_follows_shell_conventions(step: str, status: int) -> None:
    assert UsernsError("", step=step).exit_status == status


def test_traceback_has_cause_and_remedy_once() -> None:
    for error in (full_error(UsernsError), pickle.loads(pickle.dumps(full_error(UsernsError)))):
        assert error.__notes__ == ["cause: command-not-executable", "remedy: chmod +x /x"]
        lines = "".join(traceback.format_exception_only(error)).splitlines()
        assert lines == [
            "usernsctl.errors.UsernsError: exec: /x: Permission denied",
            "cause: command-not-executable",
            "remedy: chmod +x /x",
        ]
    assert not hasattr(UsernsError("nothing to map", step="plan"), "__notes__")


def test_explain_adds_only_missing_cause_and_remedy() -> None:
    error = UsernsError("x", step="plan", errno=errno.EMFILE)
    error.explain(cause="another", remedy="close\x1b some\nor all")
    error.explain(remedy="another")
    assert (error.cause, error.remedy) == ("descriptor-limit", "close\x1b some\nor all")
    assert error.__notes__ == ["cause: descriptor-limit", "remedy: close\\x1b some\nor all"]


def test_from_os_error_keeps_errno_and_hides_the_path() -> None:
    given = OSError(errno.EACCES, "in any language", "/secret")
    error = usernsctl.NamespaceError.from_os_error(given, "process 7", step="setns", cause="x")
    assert (str(error), error.errno) == ("setns: process 7: Permission denied", errno.EACCES)
    assert (error.filename, error.cause) == (None, "x")
    assert str(UsernsError.from_os_error(OSError("odd"), "it", step="a")) == "a: it: odd"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_only_errors_of_files_mean_a_full_filesystem(number: int) -> None:
    error = NamespaceError.from_os_error(OSError(number, ""), "/file", step="state")
    assert error.cause == "disk-full"
    error = NamespaceError("no namespace is left", step="unshare", errno=number)
    assert error.cause is None
