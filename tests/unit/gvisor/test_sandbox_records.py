"""Tests of the records of detached sandboxes, without a sandbox."""

from __future__ import annotations

import json
import os

import pytest
from conftest import settled_descriptors

import usernsctl as un
from usernsctl._system.processes import ForeignProcessError, ProcessIdentity


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
    # The descriptors are closed although `caught` still refers to the error and the frames of its
    # traceback.
    assert settled_descriptors() == before
    del caught


def test_foreign_process_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un.DetachedRecord, "_is_ours", lambda _, pid: pid == os.getpid())
    record = record_of(os.getpid(), os.getpid(), os.getppid())
    before = settled_descriptors()
    with pytest.raises(ForeignProcessError) as caught:
        record.open_processes()
    # The descriptors are closed although `caught` still refers to the error and the frames of its
    # traceback.
    assert settled_descriptors() == before
    assert caught.value.cause == "state-directory-unusable"
