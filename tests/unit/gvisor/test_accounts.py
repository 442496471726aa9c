"""Tests of errors in a sandbox's /etc/passwd and /etc/group."""

from __future__ import annotations

import errno

import pytest

from usernsctl.gvisor.launch.accounts import unusable


@pytest.mark.parametrize(
    ("errnum", "cause"),
    [
        (errno.ENOMEM, None),
        (errno.EMFILE, "descriptor-limit"),
        (errno.ENFILE, None),
        (errno.EIO, None),
    ],
)
def test_errors_that_are_not_about_the_file_do_not_blame_the_name(
    errnum: int, cause: str | None
) -> None:
    error = unusable("/etc/passwd in the sandbox: an error", errnum)
    assert (error.errno, error.cause, error.remedy) == (errnum, cause, None)


@pytest.mark.parametrize("errnum", [0, errno.EACCES, errno.ELOOP, errno.ENOTDIR])
def test_other_errors_suggest_numbers(errnum: int) -> None:
    error = unusable("/etc/passwd in the sandbox: an error", errnum)
    assert (error.errno, error.cause) == (errnum, "user-unknown")
    assert "give numbers" in str(error.remedy)
