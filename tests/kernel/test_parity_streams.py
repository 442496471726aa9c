"""Tests of streams, pipes, text mode and descriptors, with subprocess and with usernsctl's APIs."""

from __future__ import annotations

import fcntl
import io
import os
import resource
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from inside import PATIENCE
from parity import WAYS, opened
from processes import capture

MUCH = b"0123456789abcdef" * (1 << 16)
BOTH = ["sh", "-c", "echo out; echo err >&2"]
SHOW_FDS = [
    sys.executable,
    "-c",
    "import os; print(*sorted(map(int, os.listdir('/proc/self/fd'))))",
]


@pytest.fixture(params=WAYS)
def api(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param) as found:
        yield found


@pytest.mark.parametrize(
    ("bufsize", "kind"),
    [
        (-1, io.BufferedIOBase),
        (None, io.BufferedIOBase),
        (4096, io.BufferedIOBase),
        (0, io.RawIOBase),
    ],
)
def test_bufsize_sets_the_kind_of_pipe(api: Any, bufsize: int | None, kind: type) -> None:
    pipes = {"stdin": api.PIPE, "stdout": api.PIPE, "stderr": api.PIPE}
    with api.Popen(BOTH, bufsize=bufsize, **pipes) as process:
        assert all(isinstance(getattr(process, name), kind) for name in pipes)


def test_invalid_bufsize_raises_and_line_buffering_warns(api: Any) -> None:
    with pytest.raises(TypeError, match="bufsize"):
        api.Popen(BOTH, bufsize="orange")
    with (
        pytest.warns(RuntimeWarning, match="line buffering"),
        api.Popen(["cat"], stdin=api.PIPE, stdout=api.PIPE, bufsize=1) as process,
    ):
        process.communicate(b"")


def test_select_sees_the_rest_of_an_unbuffered_pipe(api: Any) -> None:
    with api.Popen(["echo", "apple"], stdout=api.PIPE, bufsize=0) as process:
        assert process.stdout.read(4) == b"appl"
        assert select.select([process.stdout], [], [], 0)[0] == [process.stdout]
        assert process.stdout.read(4) == b"e\n"


def test_pipesize_sets_the_size_of_pipes(api: Any) -> None:
    page = os.sysconf("SC_PAGESIZE")
    pipes = {"stdin": api.PIPE, "stdout": api.PIPE, "stderr": api.PIPE}
    with api.Popen(["cat"], pipesize=page, **pipes) as process:
        sizes = {fcntl.fcntl(getattr(process, name), fcntl.F_GETPIPE_SZ) for name in pipes}
        process.communicate()
    assert sizes == {page}


def test_streams_accept_descriptor_numbers(api: Any) -> None:
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(b"text")
        source.seek(0)
        api.run(["cat"], stdin=source.fileno(), stdout=target.fileno())
        assert os.pread(target.fileno(), 9, 0) == b"text"


@pytest.mark.parametrize("names", [("stdin", "stdout"), ("stdout", "stderr"), ("stdin", "stderr")])
def test_two_streams_can_share_a_descriptor(api: Any, names: tuple[str, str]) -> None:
    with tempfile.TemporaryFile() as both:
        assert api.call(["true"], **dict.fromkeys(names, both)) == 0


INHERITED = """
import sys
from parity import opened
with opened(sys.argv[1]) as api:
    script = "read word; echo $word; echo err >&2"
    stderr = api.STDOUT if sys.argv[2] == "merged" else None
    stdout = sys.stdout if sys.argv[2] == "named" else None
    # Pass stdin=None, because commands in a sandbox have another default.
    api.run(["sh", "-c", script], stdin=None, stdout=stdout, stderr=stderr)
"""


OWN_STREAMS = [
    ("inherited", "in\n", "err\n"),
    ("named", "in\n", "err\n"),
    ("merged", "in\nerr\n", ""),
]


@pytest.mark.parametrize(("how", "stdout", "stderr"), OWN_STREAMS)
@pytest.mark.parametrize("way", WAYS)
def test_unspecified_streams_are_inherited(way: str, how: str, stdout: str, stderr: str) -> None:
    done = capture(
        [sys.executable, "-c", INHERITED, way, how],
        input="in\n",
        cwd=Path(__file__).parent,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, stdout, stderr)


# If the second child inherited the parent's end of the first child's pipe, the first child would
# not read end of file.
def test_pipes_are_not_inherited_by_other_children(api: Any) -> None:
    with (
        api.Popen(["cat"], stdin=api.PIPE, stdout=api.PIPE) as first,
        api.Popen(["cat"], stdin=api.PIPE, stdout=api.PIPE, close_fds=False) as second,
    ):
        first.stdin.close()
        assert first.wait(PATIENCE) == 0
        assert second.poll() is None


def test_communicate_returns_what_was_piped(api: Any) -> None:
    for stdin, stdout, stderr in [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]:
        pipes = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        wanted = {name: api.PIPE if piped else api.DEVNULL for name, piped in pipes.items()}
        with api.Popen(BOTH, **wanted) as process:
            output = process.communicate()
        assert output == (b"out\n" if stdout else None, b"err\n" if stderr else None)


def test_communicate_goes_on_after_a_timeout(api: Any) -> None:
    gate, opener = os.pipe()
    with os.fdopen(opener, "wb") as opener_file:
        script = "printf early; read word; cat"
        with api.Popen(["sh", "-c", script], stdin=gate, stdout=api.PIPE) as process:
            os.close(gate)
            assert select.select([process.stdout], [], [], PATIENCE)[0]
            with pytest.raises(api.TimeoutExpired) as caught:
                process.communicate(timeout=0.01)
            assert caught.value.timeout == 0.01
            with pytest.raises(api.TimeoutExpired):
                process.communicate(timeout=0)
            threading.Thread(target=write_and_close, args=(opener_file, b"\n" + MUCH)).start()
            assert process.communicate(timeout=PATIENCE) == (b"early" + MUCH, None)


def write_and_close(file: IO[bytes], data: bytes) -> None:
    with file:
        file.write(data)


def test_communicate_works_after_a_write(api: Any) -> None:
    with api.Popen(["cat"], stdin=api.PIPE, stdout=api.PIPE) as process:
        process.stdin.write(b"banana ")
        assert process.communicate(b"split") == (b"banana split", None)


def test_communicate_ignores_a_command_that_reads_nothing(api: Any) -> None:
    for stdout in (None, api.PIPE):
        with api.Popen(["true"], stdin=api.PIPE, stdout=stdout) as process:
            process.wait()
            process.communicate(MUCH)
        assert process.returncode == 0


def test_communicate_waits_for_a_command_that_closed_its_output(api: Any) -> None:
    gate, opener = os.pipe()
    script = "exec >&-; read x"
    with api.Popen(["sh", "-c", script], stdin=gate, stdout=api.PIPE) as process:
        os.close(gate)
        with pytest.raises(api.TimeoutExpired):
            process.communicate(timeout=0.05)
        os.close(opener)
        assert process.communicate(timeout=PATIENCE) == (b"", None)


@pytest.mark.parametrize("argument", ["text", "universal_newlines"])
def test_newlines_are_translated_in_text(api: Any, argument: str) -> None:
    ask = r"import sys; sys.stdout.write(sys.stdin.read() + '1\r\n2\r3\n')"
    done = api.run(
        [sys.executable, "-c", ask],
        input="a\nb",
        stdout=api.PIPE,
        encoding="utf-8",
        **{argument: True},
    )
    assert done.stdout == "a\nb1\n2\n3\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"encoding": "utf-8"}, "\u00e4\u20ac"),
        ({"encoding": "utf-16"}, "\u00e4\u20ac"),
        ({"encoding": "utf-32-be"}, "\u00e4\u20ac"),
    ],
)
def test_encoding_is_applied_to_text(api: Any, arguments: dict[str, Any], text: str) -> None:
    assert api.run(["cat"], input=text, stdout=api.PIPE, **arguments).stdout == text


@pytest.mark.parametrize(
    ("errors", "text"), [("ignore", "ab"), ("replace", "a\ufffdb"), ("surrogateescape", "a\udcffb")]
)
def test_errors_handles_undecodable_output(api: Any, errors: str, text: str) -> None:
    command = ["printf", r"a\377b"]
    assert api.check_output(command, encoding="utf-8", errors=errors) == text
    with pytest.raises(UnicodeDecodeError):
        api.check_output(command, encoding="utf-8")


def test_text_and_universal_newlines_must_agree(api: Any) -> None:
    with pytest.raises(subprocess.SubprocessError, match="disambiguate"):
        api.run(["true"], text=True, universal_newlines=False)


@pytest.mark.parametrize(
    "arguments", [{}, {"text": True}, {"encoding": "utf-8", "errors": "ignore"}]
)
def test_input_none_is_an_empty_pipe(api: Any, arguments: dict[str, Any]) -> None:
    output = api.check_output(["readlink", "/proc/self/fd/0"], input=None, **arguments)
    assert ("pipe:" if arguments else b"pipe:") in output


def test_high_descriptors_are_closed_and_passed(api: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 700)
    os.set_inheritable(high, True)
    try:
        # Lower the limit: descriptors above RLIMIT_NOFILE stay open if they were opened before.
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        assert str(high) not in api.check_output(SHOW_FDS, text=True).split()
        assert str(high) in api.check_output(SHOW_FDS, text=True, pass_fds=[high]).split()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(high)


def test_passing_descriptors_closes_the_others(api: Any) -> None:
    first, second = os.pipe()
    try:
        os.set_inheritable(first, True)
        with pytest.warns(RuntimeWarning, match="overriding close_fds"):
            shown = api.check_output(SHOW_FDS, text=True, pass_fds=(second,), close_fds=False)
        assert str(first) not in shown.split()
        assert str(second) in shown.split()
        assert (os.get_inheritable(first), os.get_inheritable(second)) == (True, False)
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.parametrize("fd", [-1, 1 << 40])
def test_pass_fds_refuses_invalid_descriptors(api: Any, fd: int) -> None:
    with pytest.raises(ValueError, match=r"fds_to_keep|pass_fds"):
        api.run(["true"], pass_fds=[fd])
    with pytest.raises(OSError, match="Bad file descriptor"):
        api.run(["true"], pass_fds=[999])


STREAMS_ELSEWHERE = """
import os, sys
from parity import opened
way, names, places, report = sys.argv[1:]
report = os.dup2(os.open(report, os.O_WRONLY), 50)
with opened(way) as api:
    command = ["sh", "-c", "cat <&0; echo out >&1; echo err >&2"]
    files = {name: os.memfd_create(name) for name in ("stdin", "stdout", "stderr")}
    os.write(files["stdin"], b"in ")
    os.lseek(files["stdin"], 0, os.SEEK_SET)
    files = {name: os.dup2(fd, 60 + fd) for name, fd in files.items()}
    for fd in (0, 1, 2):
        os.close(fd)
    at = {name: os.dup2(files[name], int(fd)) for name, fd in zip(names.split(","), places)}
    streams = {name: at.get(name, files[name]) for name in files}
    passed = [int(fd) for fd in places] if len(places) < 3 else []
    status = api.call(command, pass_fds=passed, **streams)
    printed = [os.pread(files[name], 99, 0) for name in ("stdout", "stderr")]
    os.write(report, b" ".join([*printed, str(status).encode()]))
"""


# Names of standard streams, and the descriptor that is passed for each. Either the descriptors 0, 1
# and 2 are permuted, or two of them are exchanged while the third is closed.
@pytest.mark.parametrize(
    ("names", "places"),
    [
        *(("stdin,stdout,stderr", order) for order in ("012", "021", "102", "120", "201", "210")),
        ("stderr,stdout", "12"),
        ("stderr,stdin", "02"),
        ("stdout,stdin", "01"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.sampled
def test_streams_can_be_swapped(way: str, names: str, places: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.touch()
    subprocess.run(
        [sys.executable, "-c", STREAMS_ELSEWHERE, way, names, places, str(report)],
        check=True,
        cwd=Path(__file__).parent,
        timeout=PATIENCE,
    )
    assert report.read_text() == "in out\n err\n 0"
