"""Tests of usernsctl.gvisor.agent.file_records that need no sandbox."""

from __future__ import annotations

import os
import signal

import pytest

from usernsctl.gvisor.agent.file_records import (
    DONE,
    EarlyAnswerError,
    Patience,
    Record,
    RecordWriter,
)


def test_closed_pipe_raises_no_sigpipe() -> None:
    signals: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, _: signals.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    reader, pipe = os.pipe()
    try:
        os.close(reader)
        writer = RecordWriter(pipe, pipe, Patience(None))
        writer.write(Record(DONE))
        with pytest.raises(EarlyAnswerError):
            writer.flush()
    finally:
        os.close(pipe)
        signal.signal(signal.SIGPIPE, before)
    assert signals == []
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    assert signal.SIGPIPE not in signal.sigpending()
