"""Tests of the records of detached sandboxes, without a sandbox."""

from __future__ import annotations

import os

import pytest
from conftest import settled_descriptors

import usernsctl as un
from usernsctl._system.processes import ForeignProcessError, ProcessIdentity


def record_of(*pids: int) -> un.DetachedRecord:
    processes = tuple(map(ProcessIdentity.of, pids))
    return un.DetachedRecord(id="me", args=("true",), created=1.0, processes=processes, ports=())


def test_record_without_ports_is_read() -> None:
    record = record_of(os.getpid())
    state = record.to_json()
    assert un.DetachedRecord.from_json("me", state) == record
    del state["ports"]
    assert un.DetachedRecord.from_json("me", state) == record


def test_foreign_process_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un.DetachedRecord, "_is_ours", lambda _, pid: pid == os.getpid())
    record = record_of(os.getpid(), os.getpid(), os.getppid())
    before = settled_descriptors()
    with pytest.raises(ForeignProcessError) as caught:
        record.open_processes()
    # The error and its traceback still exist.
    assert settled_descriptors() == before
    assert caught.value.cause == "state-directory-unusable"
