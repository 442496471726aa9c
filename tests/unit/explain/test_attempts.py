"""Tests of the causes that `usernsctl explain` finds for messages that its catalogue lacks.

explain finds these causes by the operation and the error that a message names.
"""

from __future__ import annotations

import io
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from usernsctl.explain import attempts
from usernsctl.explain.attempts import AttemptReader, operations
from usernsctl.explain.catalogue import catalogue
from usernsctl.explain.explanation import explain


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    causes: tuple[str, ...]
    says: str


class Table(msgspec.Struct, forbid_unknown_fields=True):
    unrelated: str
    text: tuple[Text, ...]


TABLE = msgspec.convert(
    tomllib.loads(Path(__file__).with_name("attempts.toml").read_text(encoding="utf-8")), Table
)
UNRELATED = TABLE.unrelated.splitlines()
ORDINARY: list[str] = tomllib.loads(
    Path(__file__).with_name("ordinary.toml").read_text(encoding="utf-8")
)["texts"]


def causes_of(text: str) -> list[str]:
    return [one.cause.id for one in explain(io.BytesIO(text.encode())).candidates]


@pytest.mark.parametrize("text", TABLE.text, ids=lambda text: text.says[:40])
def test_first_cause_of_a_message_is_right(text: Text) -> None:
    assert causes_of(text.says)[0] in text.causes


@pytest.mark.parametrize("line", UNRELATED)
def test_unrelated_message_has_no_cause(line: str) -> None:
    assert causes_of(line) == []


@pytest.mark.parametrize("text", ORDINARY, ids=lambda text: text.strip()[:40])
def test_text_of_an_ordinary_program_has_no_cause(text: str) -> None:
    assert causes_of(text) == []


def test_unrelated_messages_have_no_cause_together() -> None:
    """Check that explain does not combine an operation and an error from unrelated lines."""
    assert len(UNRELATED) > 100
    # Omit lines about failed mounts: together with other lines, which mention containers, they have
    # a cause.
    lines = [
        line for line in UNRELATED if not re.search("^mount|Failed to mount|mount failed", line)
    ]
    assert causes_of("\n".join(lines)) == []


def test_operations_name_known_causes_and_errors() -> None:
    errors = attempts.errors().exact.keys() | attempts.errors().vague.keys()
    for operation in operations():
        assert operation.causes.keys() <= errors, operation.name
        for causes in operation.causes.values():
            assert set(causes) <= catalogue().keys(), operation.name
            assert len(set(causes)) == len(causes), operation.name


@pytest.mark.parametrize(
    "error",
    [
        "Operation not permitted",
        "operation not permitted",
        "EPERM",
        "errno=1",
        "errno: 1",
        "errno = 1",
        "[Errno 1]",
        "(os error 1)",
        "error code 1",
        "Os { code: 1, kind: PermissionDenied }",
    ],
)
def test_all_forms_of_eperm_are_recognised(error: str) -> None:
    assert causes_of(f"tool: make a new user namespace: {error}")[0] == "seccomp-denies-userns"


@pytest.mark.parametrize("error", ["errno=19", "error 117", "EPERMX", "exit 1"])
def test_other_errors_are_not_taken_for_eperm(error: str) -> None:
    assert causes_of(f"tool: make a new user namespace: {error}") == []


def test_exit_status_is_not_taken_for_eperm() -> None:
    assert causes_of("cannot create jail, error 1") != []
    assert causes_of("cannot create jail, exiting with error 1") == []


def test_operation_and_error_may_be_in_neighbouring_lines() -> None:
    assert causes_of("cloning a user namespace\nOperation not permitted") != []
    assert causes_of("Operation not permitted\ncloning a user namespace") != []
    assert causes_of("cloning a user namespace\n\n\nOperation not permitted") == []
    # "setfacl: file: ..." names another program and its file, so this error does not belong to the
    # user namespace.
    assert causes_of("cloning a user namespace\nsetfacl: file: Operation not permitted") == []
    # A vague error such as "refused" (no errno name, no text of strerror(3)) must be in the same
    # line as the operation.
    assert causes_of("a user namespace\nrefused") == []


def test_catalogue_message_comes_before_guesses() -> None:
    known = "newuidmap: Cannot determine your user name."
    assert causes_of(f"{known}\ncloning a user namespace: EPERM") == causes_of(known)


def test_seen_line_is_the_line_with_the_error() -> None:
    line = "tool\x1b[31m: new user namespace: EPERM"
    (first, *_) = explain(io.BytesIO(f"before\n{line}\nafter\n".encode())).candidates
    assert first.seen == ("tool\\x1b[31m: new user namespace: EPERM",)


@pytest.mark.parametrize(
    ("context", "first"),
    [
        ("Linux host 3.10.0-1160.el7.x86_64", "max-user-namespaces"),
        ("PRETTY_NAME=Debian GNU/Linux 10 (buster)", "unprivileged-userns-clone-off"),
        ("Description: Ubuntu 24.04.1 LTS", "apparmor-restricts-userns"),
        ("in /snap/tool/12", "apparmor-restricts-userns"),
        ("debootstrap --variant=minbase", "in-chroot"),
        ("", "seccomp-denies-userns"),
    ],
)
def test_system_named_in_the_text_ranks_causes(context: str, first: str) -> None:
    assert causes_of(f"tool: new user namespace: EPERM\n{context}")[0] == first


def test_message_that_a_terminal_has_wrapped_is_found() -> None:
    line = "[421602:0723/183305.941550:FATAL:zygote_host_impl_linux.cc(126)] No usable sandbox!"
    wrapped = line.replace(" usable", "\n    usable")
    assert causes_of(wrapped) == causes_of(line) != []
    # Don't join lines where a sentence may end: after a short line, and before a capital letter.
    assert causes_of("No\nusable sandbox!") == []
    assert causes_of(wrapped.replace("usable", "Usable")) == []


def test_explicit_map_ranks_ids_that_the_outer_map_lacks_first() -> None:
    error = "Error: writing file `/proc/664087/gid_map`: Operation not permitted"
    assert causes_of(error)[0] == "setgroups-order"
    assert causes_of(f"$ podman run --uidmap 0:0:2 fedora\n{error}")[0] == "outside-parent-map"


def test_only_lines_with_errors_count_for_the_read_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_READ_MAX", 20_000)
    reader = AttemptReader()
    reader.add(b"some error\n" * 2000 + b"new user namespace: EPERM\n")
    assert reader.attempts() == []
    reader = AttemptReader()
    reader.add(b"all is well\n" * 2000 + b"new user namespace: EPERM\n")
    assert len(reader.attempts()) == 1


@pytest.mark.parametrize("filler", [b"x", b"mount ", b"namespace", b"\xff", b"error"])
def test_error_in_a_long_line_is_found(filler: bytes) -> None:
    line = filler * (10_000 // len(filler)) + b" new user namespace: EPERM " + filler * 2000
    found = explain(io.BytesIO(line)).candidates
    assert found
    assert all(text.isprintable() for one in found for text in one.seen)
