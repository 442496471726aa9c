"""Tests of the records of detached sandboxes. The tests start no sandbox."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import settled_descriptors

import usernsctl as un
from usernsctl._system.descriptors import Shared
from usernsctl._system.processes import ForeignProcessError, ProcessIdentity
from usernsctl.gvisor.sandbox import detached, records


def record_of(*pids: int, proxy: int | None = None) -> un.DetachedRecord:
    return un.DetachedRecord(
        id="me",
        args=("true",),
        created=1.0,
        processes=tuple(map(ProcessIdentity.of, pids)),
        ports=(),
        proxy=None if proxy is None else ProcessIdentity.of(proxy),
    )


def test_record_without_ports_and_proxy_is_read() -> None:
    record = record_of(os.getpid())
    state = record.to_json()
    assert un.DetachedRecord.from_json("me", state) == record
    del state["ports"]
    del state["proxy"]
    assert un.DetachedRecord.from_json("me", state) == record


def test_record_with_a_proxy_is_read() -> None:
    record = record_of(os.getpid(), proxy=os.getppid())
    state = json.loads(json.dumps(record.to_json()))
    assert un.DetachedRecord.from_json("me", state) == record


def test_record_with_a_malformed_proxy_is_refused() -> None:
    state = record_of(os.getpid(), proxy=os.getppid()).to_json()
    state["proxy"]["pid"] = 0
    with pytest.raises(ValueError, match="not a process id"):
        un.DetachedRecord.from_json("me", state)


def test_another_process_in_place_of_the_proxy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un.DetachedRecord, "_is_ours", lambda *_: True)
    before = settled_descriptors()
    with pytest.raises(ForeignProcessError, match=f"{os.getppid()} was not started") as caught:
        record_of(os.getpid(), proxy=os.getppid()).open_processes()
    # Check that the descriptors are closed although `caught` still refers to the traceback's
    # frames.
    assert settled_descriptors() == before
    del caught


def test_foreign_process_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un.DetachedRecord, "_is_ours", lambda _, pid: pid == os.getpid())
    record = record_of(os.getpid(), os.getpid(), os.getppid())
    before = settled_descriptors()
    with pytest.raises(ForeignProcessError) as caught:
        record.open_processes()
    # Check that the descriptors are closed although `caught` still refers to the traceback's
    # frames.
    assert settled_descriptors() == before
    assert caught.value.cause == "state-directory-unusable"


def test_reports_that_are_written_between_two_reads_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    entry: Any = SimpleNamespace(fd=directory, path=str(tmp_path))
    box = detached.DetachedSandbox.__new__(detached.DetachedSandbox)
    box.status = None
    box._is_reported, box._process_count = False, 0
    box._shared, box._reports = Shared("it", (directory,)), records.open_reports(entry)
    box._end_report = detached.EndReport(is_limited=True)

    def read_once(fd: int) -> str:
        text = records.read_open_report(fd)
        (tmp_path / "end").write_text("memory-limit 2 3\nthe memory limit\n")
        (tmp_path / "status").write_text("137")
        return text

    monkeypatch.setattr(detached, "read_open_report", read_once)
    # Imitate a keeper (csrc/programs/detach/main.c) that writes both files only after they were
    # read for the first time.
    monkeypatch.setattr(detached, "await_ends", lambda _: False)
    while box.status is None:
        box._read_report()
    assert box._end_report.end is not None
    assert box._end_report.end.reason == "memory-limit"
    box._reports.close()
    box._shared.close()
