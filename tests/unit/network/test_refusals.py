"""Tests of the table that counts the connections that the proxy has denied."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import umask

import usernsctl as un
from usernsctl._system.records import Directory
from usernsctl.network import refusals
from usernsctl.network.refusals import MAX_TEXTS, Reader, Refusal, Table


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    with Directory.open_trusted(str(tmp_path)) as directory:
        yield directory


@pytest.fixture(params=["memory", "file"])
def fd(request: pytest.FixtureRequest, directory: Directory) -> Iterator[int]:
    is_file = request.param == "file"
    with refusals.create_file("table", directory.fd) if is_file else refusals.create() as file:
        yield file.fileno()


def test_empty_table_has_no_refusals(fd: int) -> None:
    assert refusals.total(fd) == 0
    assert list(refusals.listed(fd)) == []


def test_equal_texts_are_counted_in_one_row(fd: int) -> None:
    table = Table(fd)
    assert [table.add(text) for text in ("a", "b", "a", "a")] == [True, True, False, False]
    assert refusals.total(fd) == 4
    assert list(refusals.listed(fd)) == [Refusal("a", 3), Refusal("b", 1)]


def test_texts_beyond_the_table_are_only_counted(fd: int) -> None:
    table = Table(fd)
    new = [table.add(str(number)) for number in range(MAX_TEXTS + 10)]
    assert new == [True] * MAX_TEXTS + [False] * 10
    assert refusals.total(fd) == MAX_TEXTS + 10
    assert [each.text for each in refusals.listed(fd)] == [str(each) for each in range(MAX_TEXTS)]


def test_long_text_is_truncated(fd: int) -> None:
    Table(fd).add("ä" * 1000)
    (only,) = refusals.listed(fd)
    assert only.text == "ä" * 252
    assert only.count == 1


def test_proxy_can_not_shorten_its_table() -> None:
    with refusals.create() as file, pytest.raises(PermissionError):
        os.ftruncate(file.fileno(), 0)


def test_reader_has_the_last_content_of_a_closed_file(tmp_path: Path, directory: Directory) -> None:
    with refusals.create_file("table", directory.fd) as file:
        assert (tmp_path / "table").stat().st_mode & 0o777 == 0o600
        table = Table(file.fileno())
    reader = Reader.open("table", directory)
    assert reader is not None
    table.add("a")
    assert (reader.denied, reader.refusals()) == (1, (Refusal("a", 1),))
    (tmp_path / "table").unlink()
    table.add("a")
    reader.close()
    reader.close()
    table.add("a")
    assert (reader.denied, reader.refusals()) == (2, (Refusal("a", 2),))


@pytest.mark.parametrize(
    ("read", "content"),
    [(lambda reader: reader.denied, 1), (Reader.refusals, (Refusal("a", 1),))],
    ids=["denied", "refusals"],
)
def test_table_closed_during_a_read_is_read_to_its_end(
    read: Callable[[Reader], object], content: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")
    reader = Reader(refusals.create())
    Table(reader.fileno()).add("a")
    pread = os.pread

    def close_first(*arguments: int) -> bytes:
        monkeypatch.setattr(os, "pread", pread)
        reader.close()
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", close_first)
    assert read(reader) == content
    assert os.listdir("/proc/self/fd") == before
    assert read(reader) == content


def test_mode_of_the_file_does_not_depend_on_the_umask(
    tmp_path: Path, directory: Directory
) -> None:
    with umask(0o777):
        refusals.create_file("table", directory.fd).close()
    assert (tmp_path / "table").stat().st_mode & 0o777 == 0o600


def test_file_of_the_table_is_a_new_one(tmp_path: Path, directory: Directory) -> None:
    (tmp_path / "table").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        refusals.create_file("table", directory.fd)
    assert not (tmp_path / "target").exists()


def test_table_that_is_no_regular_file_is_not_read(tmp_path: Path, directory: Directory) -> None:
    before = os.listdir("/proc/self/fd")
    assert Reader.open("missing", directory) is None
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    assert [Reader.open(name, directory) for name in ("fifo", "link", "directory")] == [None] * 3
    assert os.listdir("/proc/self/fd") == before


def make_writable(path: Path) -> None:
    path.chmod(0o660)


def make_link(path: Path) -> None:
    os.link(path, path.with_name("link"))


@pytest.mark.parametrize("spoil", [make_writable, make_link])
def test_table_that_others_may_have_written_raises(
    spoil: Callable[[Path], None], tmp_path: Path, directory: Directory
) -> None:
    refusals.create_file("table", directory.fd).close()
    spoil(tmp_path / "table")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(un.NamespaceError, match=r"table can't be trusted: other users") as caught:
        Reader.open("table", directory)
    assert os.listdir("/proc/self/fd") == before
    del caught


def test_table_that_can_not_be_opened_raises(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "too many files")

    refusals.create_file("table", directory.fd).close()
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(un.NamespaceError) as caught:
        Reader.open("table", directory)
    assert caught.value.errno == errno.EMFILE


def test_unprintable_characters_of_a_text_are_escaped(fd: int) -> None:
    Table(fd).add("a\x1b[2J\nb\u202e")
    (only,) = refusals.listed(fd)
    assert only.text == r"a\x1b[2J\nb\u202e"


def test_short_file_has_no_refusals(tmp_path: Path, directory: Directory) -> None:
    (tmp_path / "table").write_bytes(b"\1")
    reader = Reader.open("table", directory)
    assert reader is not None
    assert (reader.denied, reader.refusals()) == (1, ())
    reader.close()


def test_full_disk_fails_the_new_file(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="full") as caught:
        refusals.create_file("table", directory.fd)
    assert os.listdir("/proc/self/fd") == before
    del caught
