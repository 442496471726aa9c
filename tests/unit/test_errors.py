"""Tests of the exceptions: subclasses of OSError, with attributes that pickle and copy preserve."""

from __future__ import annotations

import copy
import errno
import pickle
import traceback

import pytest

import usernsctl
from usernsctl import UsernsError

FAMILIES = [
    value
    for value in vars(usernsctl).values()
    if isinstance(value, type) and issubclass(value, UsernsError)
]


def full(family: type[UsernsError]) -> UsernsError:
    return family(
        "/x: Permission denied",
        step="exec",
        errno=errno.EACCES,
        filename="/x",
        cause="command-not-executable",
        remedy="chmod +x /x",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_carries_what_it_was_given(family: type[UsernsError]) -> None:
    error = full(family)
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror, error.filename) == (13, "Permission denied", "/x")
    assert (error.step, error.cause, error.remedy) == (
        "exec",
        "command-not-executable",
        "chmod +x /x",
    )
    assert str(error) == "exec: /x: Permission denied"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_every_family_survives_being_copied(family, again) -> None:  # type: ignore[no-untyped-def]
    for error in (full(family), family("nothing to map", step="plan")):
        other = again(error)
        assert type(other) is family
        assert vars(other) == vars(error)
        assert (other.errno, other.filename, str(other)) == (
            error.errno,
            error.filename,
            str(error),
        )


def test_a_failure_of_no_system_call_has_no_errno() -> None:
    error = UsernsError("the map is empty", step="plan")
    assert error.errno == 0
    assert error.filename is None
    assert error.cause is None
    assert error.remedy is None
    assert str(error) == "plan: the map is empty"


def test_families_are_what_callers_of_subprocess_expect() -> None:
    assert issubclass(usernsctl.CommandNotFoundError, FileNotFoundError)
    assert issubclass(usernsctl.CommandNotExecutableError, PermissionError)
    assert issubclass(usernsctl.MapError, ValueError)
    assert issubclass(usernsctl.CommandNotFoundError, usernsctl.CommandError)


@pytest.mark.parametrize(
    ("step", "status"), [("lookup", 127), ("exec", 126), ("uid_map", 125), ("argument", 125)]
)
def test_the_exit_status_is_a_shell_s(step: str, status: int) -> None:
    assert UsernsError("", step=step).exit_status == status


def test_a_traceback_tells_cause_and_remedy_once() -> None:
    for error in (full(UsernsError), pickle.loads(pickle.dumps(full(UsernsError)))):
        assert error.__notes__ == ["cause: command-not-executable", "remedy: chmod +x /x"]
        told = "".join(traceback.format_exception_only(error)).splitlines()
        assert told == [
            "usernsctl.errors.UsernsError: exec: /x: Permission denied",
            "cause: command-not-executable",
            "remedy: chmod +x /x",
        ]
    assert not hasattr(UsernsError("nothing to map", step="plan"), "__notes__")


def test_what_is_learned_later_is_noted_too_and_changes_nothing_known() -> None:
    error = UsernsError("x", step="plan", errno=errno.EMFILE)
    error.explain(cause="another", remedy="close\x1b some\nor all")
    error.explain(remedy="another")
    assert (error.cause, error.remedy) == ("descriptor-limit", "close\x1b some\nor all")
    assert error.__notes__ == ["cause: descriptor-limit", "remedy: close\\x1b some\nor all"]


def test_an_os_error_becomes_one_of_a_family() -> None:
    given = OSError(errno.EACCES, "in any language", "/secret")
    error = usernsctl.NamespaceError.from_os_error(given, "process 7", step="setns", cause="x")
    assert (str(error), error.errno) == ("setns: process 7: Permission denied", errno.EACCES)
    assert (error.filename, error.cause) == (None, "x")
    assert str(UsernsError.from_os_error(OSError("odd"), "it", step="a")) == "a: it: odd"
