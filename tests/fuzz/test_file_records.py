"""Tests of copying from a sandbox that forges records: no host file outside the copy may change."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import settled_descriptors
from hypothesis import example, given, settings
from hypothesis import strategies as st

import usernsctl as un
from usernsctl._system.trees import leads_out
from usernsctl.gvisor.agent import file_copies, file_records

EXAMPLES = settings(max_examples=200, deadline=None)
DIRECTORY, FILE, LINK, OTHER, DATA, LEAVE, STOPPED, DONE = range(1, 9)


def record(kind: int, text: bytes = b"", mode: int = 0o755, length: int = 0) -> bytes:
    return struct.pack("<IIIIqQ", kind, mode, len(text), 0, 0, length) + text


def link(name: bytes, target: bytes) -> bytes:
    return record(LINK, name + target, length=len(name))


names = st.one_of(
    st.sampled_from([b"a", b"b", b"", b".", b"..", b"/", b"a/b", b"../canary", b"x" * 256]),
    st.binary(max_size=12),
)
targets = st.one_of(
    st.lists(st.sampled_from([b"..", b"a", b"b", b".", b""]), max_size=6).map(b"/".join),
    st.sampled_from([b"/etc/passwd", b"../canary/file"]),
)
# Most generated records are almost valid.
one_record = st.one_of(
    st.builds(record, st.sampled_from([DIRECTORY, DIRECTORY, FILE]), names, st.integers(0, 0o7777)),
    st.builds(link, names, targets),
    st.builds(record, st.just(OTHER), names, st.sampled_from([0, 0o020666, 0o010644])),
    st.builds(record, st.just(DATA), st.binary(max_size=40)),
    st.just(record(LEAVE)),
    st.builds(record, st.integers(0, 12), st.binary(max_size=20), st.integers(0, 2**32 - 1)),
    st.binary(max_size=40),
)
top = st.sampled_from([record(DIRECTORY), record(DIRECTORY), record(FILE), b""])
end = st.sampled_from([record(LEAVE) + record(DONE), record(DONE), b""])
streams = st.builds(
    lambda first, rest, last: first + b"".join(rest) + last, top, st.lists(one_record), end
)


class ForgingStarter:
    """Fake starter of programs, each of which writes the same bytes to its output."""

    def __init__(self, output: bytes) -> None:
        self._output = output

    def start_program(
        self, args: Sequence[str], options: Mapping[str, Any], deadline: float | None
    ) -> Any:
        copies = [os.dup(options[name].fileno()) for name in ("stdin", "stdout")]

        def write() -> None:
            with (
                open(copies[0], "rb"),
                open(copies[1], "wb", buffering=0) as file,
                contextlib.suppress(BrokenPipeError),
            ):
                file.write(self._output)

        thread = threading.Thread(target=write)
        thread.start()

        def wait(timeout: float) -> int:
            thread.join(20)
            assert not thread.is_alive()
            return 0

        place = SimpleNamespace(ended=lambda: None)
        return SimpleNamespace(wait=wait, _end=lambda: wait(1), _place=place)


def place_of(output: bytes) -> file_copies.Place:
    commands: Any = ForgingStarter(output)
    return file_copies.Place(commands=commands, id="box", user=None, timeout=20)


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """Yield a directory with a canary; then check that the canary has not changed."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as parent:
        (Path(parent) / "canary").mkdir()
        (Path(parent) / "canary" / "file").write_text("canary")
        yield Path(parent)
        assert set(os.listdir(parent)) <= {"canary", "copy"}
        assert os.listdir(f"{parent}/canary") == ["file"]
        assert (Path(parent) / "canary" / "file").read_text() == "canary"


def check_copy(copy: Path) -> None:
    assert not copy.is_symlink()
    for path in [copy, *copy.rglob("*")]:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            assert Path(os.path.realpath(path)).is_relative_to(copy), os.readlink(path)
        else:
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode)
            assert not mode & 0o7000


@given(streams)
@EXAMPLES
@example(record(DIRECTORY) + link(b"a", b"..") + record(LEAVE) + record(DONE))
@example(
    # Records of two symbolic links: the first leads to a parent directory, and the second leads out
    # of the copy through the first.
    record(DIRECTORY)
    + record(DIRECTORY, b"d")
    + link(b"up", b"..")
    + record(LEAVE)
    + link(b"out", b"d/up/../canary")
    + record(LEAVE)
    + record(DONE)
)
def test_any_records_write_only_to_the_copy(output: bytes) -> None:
    with directory() as parent:
        copy = parent / "copy"
        try:
            file_copies.get(place_of(output), "/x", str(copy), 100, 20)
        except un.SandboxFileError as error:
            assert str(error).isprintable()
            assert not os.path.lexists(copy)
        else:
            check_copy(copy)
            shutil.rmtree(copy) if copy.is_dir() else copy.unlink()


@given(streams)
@EXAMPLES
def test_any_records_are_a_result_or_an_error(output: bytes) -> None:
    calls: list[Callable[[file_copies.Place], object]] = [
        lambda place: file_copies.read_file(place, "/x", 100),
        lambda place: file_copies.list_dir(place, "/x", 20),
        lambda place: file_copies.write_file(place, "/x", b"data" * 100_000, 0, parents=False),
    ]
    for call in calls:
        with contextlib.suppress(un.SandboxFileError):
            result = call(place_of(output))
            if isinstance(result, bytes):
                assert len(result) <= 100
            elif isinstance(result, list):
                assert len(result) <= 20
                assert all("/" not in entry.name and entry.name for entry in result)


def test_malformed_records_leak_no_descriptor() -> None:
    before = settled_descriptors()
    for output in (b"", record(DIRECTORY), record(DIRECTORY) + record(99), record(DONE)):
        with directory() as parent, pytest.raises(un.SandboxFileError):
            file_copies.get(place_of(output), "/x", str(parent / "copy"), 100, 20)
    assert settled_descriptors() == before


@given(
    st.lists(st.lists(st.sampled_from([b"..", b"a", b"b", b"sub"]), max_size=5).map(b"/".join)),
    st.integers(0, 3),
)
@EXAMPLES
def test_symlinks_that_pass_the_check_stay_in_the_tree(found: list[bytes], depth: int) -> None:
    """Check that links for which leads_out() returns False lead to files in the copied tree.

    The links are at several depths below the root of the tree.
    """
    with directory() as parent:
        here = parent / "copy"
        here.mkdir()
        for level in range(depth + 1):
            for name, target in zip((b"a", b"b", b"c", b"d"), found, strict=False):
                if not leads_out(target, level):
                    with contextlib.suppress(FileExistsError):
                        os.symlink(target, os.path.join(os.fsencode(here), name))
            if level < depth:
                here = here / "sub"
                here.mkdir()
        for path in (parent / "copy").rglob("*"):
            real = Path(os.path.realpath(path))
            assert real.is_relative_to(parent / "copy"), (path, os.readlink(path))


def test_limits_are_those_of_the_agent_program() -> None:
    header = Path(__file__).parents[2] / "csrc" / "programs" / "agent" / "protocol.h"
    text = header.read_text()
    assert f"#define AGENT_DEPTH_MAX {file_records.DEPTH_MAX}\n" in text
    assert f"#define AGENT_NAME_MAX {file_records.NAME_MAX}\n" in text
    assert f"#define AGENT_PATH_SIZE {file_records.PATH_MAX + 1}\n" in text
    assert file_records.DATA_MAX == 256 * 1024
    assert "#define AGENT_DATA_MAX (256 * 1024)\n" in text
