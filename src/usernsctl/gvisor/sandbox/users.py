"""Functions that look up users and groups in /etc/passwd and /etc/group of a running sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from usernsctl.errors import SandboxFileError
from usernsctl.gvisor.checks import NamedUser, user_of
from usernsctl.gvisor.launch import accounts


def with_numbers(options: Mapping[str, Any], read: Callable[..., bytes]) -> dict[str, Any]:
    """Return the options of a command, with ids in place of the names of its user and group.

    :param read: the method that reads a file in the sandbox. Processes in the sandbox may change
        the file at any time.
    :raises CommandError: a name does not exist, or /etc/passwd or /etc/group can't be used (cause
        ``user-unknown``).
    :raises ValueError: `user` has the wrong format.
    """
    user = user_of(options["user"])
    if not isinstance(user, NamedUser):
        return {**options, "user": user}
    found = accounts.read_account(user, lambda path: _content(path, lambda: _read(read, path)))
    return _completed(options, found)


async def with_numbers_async(
    options: Mapping[str, Any], read: Callable[..., Awaitable[bytes]]
) -> dict[str, Any]:
    """Return what :func:`with_numbers` returns; `read` is a coroutine function."""
    user = user_of(options["user"])
    if not isinstance(user, NamedUser):
        return {**options, "user": user}
    files: dict[str, bytes | SandboxFileError] = {}
    for path in (accounts.PASSWD, accounts.GROUP):
        try:
            files[path] = await _read(read, path)
        except SandboxFileError as error:
            files[path] = error

    def content(path: str) -> bytes:
        found = files[path]
        if isinstance(found, bytes):
            return found
        raise found

    found = accounts.read_account(user, lambda path: _content(path, lambda: content(path)))
    return _completed(options, found)


def _read(read: Callable[..., Any], path: str) -> Any:
    return read(path, max_bytes=accounts.BYTES_MAX, user=(0, 0))


def _content(path: str, read: Callable[[], bytes]) -> bytes | None:
    try:
        return read()
    except FileNotFoundError:
        return None
    except SandboxFileError as error:
        raise accounts.unusable(str(error), error.errno or 0) from error


def _completed(options: Mapping[str, Any], account: accounts.Account) -> dict[str, Any]:
    """Return `options` with the ids, supplementary groups and home directory of `account`.

    `groups` and HOME in `options` take precedence.
    """
    completed = {**options, "user": (account.uid, account.gid)}
    if options.get("groups") is None:
        completed["groups"] = account.groups
    if account.home is not None:
        completed["env"] = {"HOME": account.home, **(options.get("env") or {})}
    return completed
