"""Tests of stores of records, with concurrent processes and with processes killed at any line."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import settled_descriptors

import usernsctl as un
from usernsctl._system import records
from usernsctl._system.records import RECORD, Directory, Store, TakenError, open_state
from usernsctl.gvisor.template import store as templates

# Children are killed at every `stride`-th line only, since killing at every line takes a minute.
strides = pytest.mark.parametrize("stride", [20, pytest.param(5, marks=pytest.mark.thorough)])

FILES = {module.__file__ for module in (records, templates)}


@pytest.fixture(autouse=True)
def top(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the directory for stores, which does not exist yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(runtime))
    return runtime / "usernsctl"


class Number:
    """Fake record, which is alive unless `number` is negative."""

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def read(cls, name: str, directory: Directory) -> Number:
        return cls(int(directory.read(RECORD)["number"]))

    def to_json(self) -> dict[str, int]:
        return {"number": self.number}

    def is_alive(self) -> bool:
        return self.number >= 0

    def discard(self) -> None:
        pass


NUMBERS = Store("the name of a number", Number, lambda _: open_state("numbers"))


def make(name: str, number: int) -> None:
    with NUMBERS.draft(name) as entry:
        entry.record = Number(number)
        entry.publish()


def numbers() -> list[int]:
    return [one.number for one in NUMBERS.list_records()]


def is_killed_before_line(line: int, call: Callable[[], object]) -> bool:
    """Return whether a forked child is killed before the `line`-th executed line of FILES.

    The child runs `call`, and kills itself at that line. If `call` executes fewer lines of FILES,
    the child exits by itself.
    """
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    lines = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in FILES:
            return None
        lines += event == "line"
        if event == "line" and lines == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    try:
        sys.settrace(count)
        call()
    finally:
        os._exit(0)


def kill_at_lines(call: Callable[[], object], check: Callable[[], object], stride: int) -> None:
    """Kill children before every `stride`-th line of `call`; run `check` after each child."""
    line = first = random.randint(1, stride)
    print(f"from line {first}")
    while is_killed_before_line(line, call):
        check()
        line += stride
    check()
    # `call` executes more than 40 lines. If this loop has counted fewer lines, the loop has not
    # tried all of them.
    assert line > 40


@strides
def test_sigkill_during_creation_leaves_a_consistent_store(top: Path, stride: int) -> None:
    def check() -> None:
        if numbers() == []:
            make("one", 1)
        assert numbers() == [1]
        assert os.listdir(top / "numbers") == ["one"]
        (top / "numbers" / "one" / RECORD).write_text('{"number": -1}')

    kill_at_lines(lambda: make("one", 1), check, stride)


def save_as(number: int) -> Callable[[str], None]:
    def save(path: str) -> None:
        Path(path, "image").write_text(str(number))
        Path(path, RECORD).write_text(json.dumps({"number": number}))

    return save


def saved_numbers(top: Path) -> list[tuple[str, str]]:
    """Return for each template the number in its record and the number in its image."""
    assert [one.name for one in templates.list_all()] == os.listdir(top / "templates")
    return [
        (json.loads((path / RECORD).read_text())["number"], (path / "image").read_text())
        for path in (top / "templates").iterdir()
    ]


@strides
def test_sigkill_during_replacement_leaves_a_consistent_store(top: Path, stride: int) -> None:
    def check() -> None:
        # Check that the record and the image are either both old or both new.
        assert saved_numbers(top) in ([(1, "1")], [(2, "2")])
        templates.keep(save_as(1), "one", replace=True)

    templates.keep(save_as(1), "one", replace=True)
    kill_at_lines(lambda: templates.keep(save_as(2), "one", replace=True), check, stride)


@strides
def test_sigkill_during_removal_leaves_a_consistent_store(top: Path, stride: int) -> None:
    def check() -> None:
        assert saved_numbers(top) in ([(1, "1")], [])
        templates.keep(save_as(1), "one", replace=True)

    templates.keep(save_as(1), "one", replace=True)
    kill_at_lines(lambda: templates.remove("one"), check, stride)


def test_one_of_many_processes_creates_the_entry(top: Path) -> None:
    children = []
    for number in range(20):
        child = os.fork()
        if child == 0:
            try:
                make("one", number)
                os._exit(0)
            except TakenError:
                os._exit(1)
            finally:
                os._exit(2)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(statuses) == [0] + [1] * 19
    assert numbers() == [statuses.index(0)]
    assert os.listdir(top / "numbers") == ["one"]


def test_concurrent_creation_and_removal_leave_no_drafts(top: Path) -> None:
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(20):
                    try:
                        make("one", number)
                    except TakenError:
                        found = NUMBERS.find("one")
                        if found is not None:
                            with found:
                                found.remove()
                    numbers()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert len(numbers()) <= 1
    assert not [name for name in os.listdir(top / "numbers") if name.startswith(".")]


def test_unpublished_draft_is_neither_found_nor_deleted(top: Path) -> None:
    before = settled_descriptors()
    with NUMBERS.draft("one") as entry:
        assert NUMBERS.find("one") is None
        assert numbers() == []
        assert os.listdir(top / "numbers") == [".one"]
        entry.record = Number(1)
        entry.publish()
        assert os.listdir(top / "numbers") == ["one"]
    assert numbers() == [1]
    with pytest.raises(TakenError):
        NUMBERS.draft("one")
    with pytest.raises(ZeroDivisionError), NUMBERS.draft("two"):
        _ = 1 / 0
    assert os.listdir(top / "numbers") == ["one"]
    assert settled_descriptors() == before


def test_full_disk_leaves_no_entry(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fchmod", fail)
    with pytest.raises(un.NamespaceError, match="No space left"):
        make("one", 1)
    assert os.listdir(top / "numbers") == []


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK])
def test_failed_lock_of_a_directory_raises(
    top: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Check that a failed flock(2) raises: NFS locks only files that are open for writing."""

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            raise OSError(number, os.strerror(number))

    make("one", 1)
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(un.NamespaceError) as failure:
        NUMBERS.find("one")
    assert failure.value.errno == number
    assert failure.value.filename == str(top / "numbers" / "one")


def test_invalid_names_have_the_same_message() -> None:
    calls: list[tuple[str, Callable[[], object]]] = [
        ("the name of a namespace", lambda: un.Namespace.open("a b")),
        ("the id of a sandbox", lambda: un.Sandbox.attach("a b")),
        ("the name of a template", lambda: templates.find("a b")),
    ]
    for what, call in calls:
        with pytest.raises(un.NamespaceError, match=f"^name: 'a b' can't be {what}: only") as e:
            call()
        assert isinstance(e.value, ValueError)
        assert e.value.cause == "name-invalid"


def test_names_of_another_type_raise() -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="the name of a namespace must be text, not 5"):
        un.Namespace.open(wrong)
