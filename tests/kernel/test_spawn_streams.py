"""Tests of usernsctl.spawn: standard streams, and errors for invalid arguments."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from conftest import children, open_descriptors

import usernsctl as un


def end(child: un.Child) -> int:
    os.close(child.pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])


def streams_of(written_to: str, **streams: Any) -> list[str]:
    """Start a command with `streams`; return the files to which its standard streams refer.

    :param written_to: the stream to which the command writes the result: stdout or stderr.
    """
    ours, theirs = os.pipe()
    files = [f"/proc/self/fd/{fd}" for fd in range(3)]
    redirected = [] if written_to == "stdout" else ["sh", "-c", 'exec "$@" >&2', "sh"]
    try:
        child = un.spawn([*redirected, "readlink", *files], **{written_to: theirs}, **streams)
    finally:
        os.close(theirs)
    with open(ours) as file:
        told = file.read().splitlines()
    assert end(child) == 0
    return told


@pytest.mark.parametrize("stdin", [None, un.DEVNULL])
@pytest.mark.parametrize("other", [None, un.DEVNULL])
def test_spawn_inherits_streams_or_opens_dev_null(stdin: Any, other: Any) -> None:
    def link(fd: int, given: Any) -> str:
        return os.devnull if given == un.DEVNULL else os.readlink(f"/proc/self/fd/{fd}")

    before = open_descriptors()
    first, _, third = streams_of("stdout", stdin=stdin, stderr=other)
    assert (first, third) == (link(0, stdin), link(2, other))
    # Here standard error is the pipe, to which `sh` redirects the output of readlink(1).
    first, *_ = streams_of("stderr", stdin=stdin, stdout=other)
    assert first == link(0, stdin)
    assert open_descriptors() == before


def test_spawn_accepts_files_and_sockets_as_streams() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull) as nothing:
        child = un.spawn(["sh", "-c", "cat; echo out"], stdin=nothing, stdout=theirs)
        assert ours.recv(10) == b"out\n"
        assert end(child) == 0


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (un.PIPE, "=PIPE is not supported by spawn.*use Popen"),
        (un.STDOUT, "=STDOUT is not supported by spawn.*use Popen"),
        (-4, ": -4 is not a descriptor; None stands for the caller's own"),
        (-1000, "-1000 is not a descriptor"),
        (2**31, "2147483648 is not a descriptor"),
    ],
)
def test_spawn_refuses_invalid_stream_numbers(stream: str, given: int, says: str) -> None:
    before = open_descriptors(), children()
    with pytest.raises(ValueError, match=f"{stream}{says}|{stream}: {says}"):
        un.spawn(["true"], **{stream: given})  # type: ignore[arg-type]
    assert (open_descriptors(), children()) == before


def test_spawn_raises_for_a_closed_descriptor() -> None:
    with pytest.raises(un.CommandError) as caught:
        un.spawn(["true"], stdout=998)
    assert caught.value.step == "stdio"


def test_spawn_refuses_unknown_arguments() -> None:
    wrong: dict[str, Any] = {"moutn": True}
    with pytest.raises(TypeError, match=r"^spawn\(\) got an unexpected .* 'moutn'. Did you"):
        un.spawn(["true"], **wrong)
    for make in (un.Namespace.create, lambda **kinds: un.Namespace.open_or_create("a", **kinds)):
        with pytest.raises(TypeError, match="unexpected keyword argument 'moutn'"):
            make(**wrong)
