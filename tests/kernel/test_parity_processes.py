"""Tests of arguments, errors, waits and signals, with subprocess and with usernsctl's APIs."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias
from typing import Any

import pytest
from callers import as_root
from conftest import children, open_descriptors
from inside import PATIENCE
from parity import WAYS, opened
from processes import check_output

import usernsctl as un

FOREVER = ["sleep", "1000"]
HERE = Path(__file__).parent


@pytest.fixture(params=WAYS)
def api(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param) as found:
        yield found


def in_python(script: str, *words: str) -> str:
    return check_output([sys.executable, "-c", script, *words], cwd=HERE, timeout=PATIENCE)


def test_call_and_check_call_return_the_status(api: Any) -> None:
    assert api.call(["sh", "-c", "exit 7"]) == 7
    assert api.check_call(["true"]) == 0
    assert api.call(args=["true"]) == 0
    with pytest.raises(api.CalledProcessError) as caught:
        api.check_call(["sh", "-c", "exit 7"])
    assert (caught.value.returncode, caught.value.cmd) == (7, ["sh", "-c", "exit 7"])


@pytest.mark.parametrize("name", ["call", "check_call"])
def test_a_timeout_kills_the_command(api: Any, name: str) -> None:
    before = children()
    with pytest.raises(api.TimeoutExpired) as caught:
        getattr(api, name)(FOREVER, timeout=0.05)
    assert (caught.value.cmd, caught.value.timeout) == (FOREVER, 0.05)
    assert children() == before


def test_arguments_may_be_given_by_position(api: Any, tmp_path: Path) -> None:
    command = ["named", "-c", "echo $0"]
    output = api.run(command, -1, "/bin/sh", None, api.PIPE, text=True).stdout
    assert output == "named\n"
    assert api.check_output(command, -1, "/bin/sh", text=True) == "named\n"
    positional = (-1, None, None, None, None, None, True, False, tmp_path)
    assert api.call(["test", "-e", f"../{tmp_path.name}"], *positional) == 0


def test_contradictory_arguments_are_refused(api: Any) -> None:
    for name, value in (("stdout", None), ("stdout", api.DEVNULL), ("check", False)):
        with pytest.raises(ValueError, match=f"{name} argument not allowed"):
            api.check_output(["true"], **{name: value})
    with pytest.raises(ValueError, match="stdin and input"):
        api.check_output(["true"], stdin=api.DEVNULL, input=None)
    with pytest.raises(ValueError, match="stdin and input"):
        api.run(["true"], input=b"", stdin=api.DEVNULL)
    with pytest.raises(ValueError, match="capture_output"):
        api.run(["true"], capture_output=True, stdout=api.DEVNULL)


@pytest.mark.parametrize(
    "args", ["true", b"true", Path("/bin/true"), ["true"], ("true",), [b"true"]]
)
@pytest.mark.sampled
def test_args_accepts_the_types_of_subprocess(args: Any, api: Any) -> None:
    assert api.call(args) == 0
    if not isinstance(args, str | bytes | Path):
        assert api.call(iter(args)) == 0


@pytest.mark.parametrize("convert", [str, os.fsencode, Path])
def test_an_executable_takes_precedence(api: Any, convert: Any) -> None:
    executable = convert("/bin/sh")
    assert api.check_output(["no-such-tool", "-c", "echo $0"], executable=executable) == (
        b"no-such-tool\n"
    )


@pytest.mark.parametrize("how", ["args", "executable"])
def test_relative_paths_are_resolved_in_cwd(api: Any, how: str, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\npwd\n")
    tool.chmod(0o755)
    arguments: dict[str, Any] = (
        {"args": ["./bin/tool"]} if how == "args" else {"args": ["x"], "executable": "./bin/tool"}
    )
    output = api.check_output(cwd=tmp_path, text=True, **arguments)
    assert output == f"{tmp_path}\n"
    with pytest.raises(FileNotFoundError):
        api.check_output(cwd="/", **arguments)
    # Relative directories in PATH are relative to `cwd`, and an empty entry means `cwd`.
    for path in ("bin", "/no/such:bin"):
        assert api.check_output("tool", cwd=tmp_path, text=True, env={"PATH": path}) == output
    assert api.check_output("tool", cwd=tool.parent, env={"PATH": ""}) == os.fsencode(
        f"{tool.parent}\n"
    )


def made(tmp_path: Path, what: str) -> str:
    """Return the path of a file that can't be executed; `what` names the reason."""
    file = tmp_path / what
    texts = {"plain": "no program\n", "orphan": "#!/no/such/interpreter\n", "denied": "#!/bin/sh\n"}
    if what in texts:
        file.write_text(texts[what])
        file.chmod(0o644 if what == "denied" else 0o755)
    elif what == "loop":
        file.symlink_to(file)
    elif what == "directory":
        file.mkdir()
    elif what == "below-a-file":
        return "/etc/passwd/tool"
    elif what == "too-long":
        return f"/{'x' * 256}"
    elif what == "no-such-tool":
        return what
    return str(file)


@pytest.mark.parametrize(
    ("what", "kind", "number"),
    [
        ("missing", FileNotFoundError, errno.ENOENT),
        ("no-such-tool", FileNotFoundError, errno.ENOENT),
        ("orphan", FileNotFoundError, errno.ENOENT),
        ("denied", PermissionError, errno.EACCES),
        ("directory", PermissionError, errno.EACCES),
        ("below-a-file", NotADirectoryError, errno.ENOTDIR),
        ("plain", OSError, errno.ENOEXEC),
        ("loop", OSError, errno.ELOOP),
        ("too-long", OSError, errno.ENAMETOOLONG),
    ],
)
@pytest.mark.sampled
def test_failed_starts_raise_as_subprocess_does(
    api: Any, what: str, kind: type[OSError], number: int, tmp_path: Path
) -> None:
    command = made(tmp_path, what)
    before = open_descriptors(), children()
    with pytest.raises(kind) as caught:
        api.Popen([command, "x"], stdin=api.PIPE, stdout=api.PIPE, stderr=api.PIPE)
    error = caught.value
    assert (error.errno, error.strerror, error.filename) == (number, os.strerror(number), command)
    assert (open_descriptors(), children()) == before


@pytest.mark.parametrize(
    ("cwd", "kind"), [("/no/such", FileNotFoundError), ("/etc/passwd", NotADirectoryError)]
)
def test_an_invalid_cwd_raises_with_its_path(api: Any, cwd: str, kind: type[OSError]) -> None:
    with pytest.raises(kind) as caught:
        api.run(["true"], cwd=cwd)
    assert caught.value.filename == cwd
    assert caught.value.errno


def test_too_long_arguments_raise_e2big(api: Any) -> None:
    with pytest.raises(OSError, match="Argument list too long") as caught:
        api.run(["/bin/true", *["x" * 1000] * 10000])
    assert caught.value.errno == errno.E2BIG


CUT_SHORT = [
    {"cwd": "/a\0b"},
    {"executable": "/bin/tr\0ue"},
    {"args": [b"true", b"\0"]},
    {"args": ["echo", "a\0b"]},
    {"args": ["ec\0ho"]},
    {"env": {"A=": "b"}},
    {"env": {"A=B": "x"}},
    {"env": {"A": "x\0y"}},
    {"env": {"A\0": "x"}},
]


@pytest.mark.parametrize("arguments", CUT_SHORT)
@pytest.mark.sampled
def test_strings_with_null_bytes_are_refused(api: Any, arguments: dict[str, Any]) -> None:
    before = open_descriptors()
    with pytest.raises(ValueError, match=r"null|illegal"):
        api.Popen(**({"args": ["true"], "stdout": api.PIPE} | arguments))
    assert open_descriptors() == before


def test_an_empty_environment_is_empty(api: Any) -> None:
    assert api.check_output(["/usr/bin/env"], env={}) == b""


ODD_ENVIRONMENT = """
import sys
from parity import opened
with opened(sys.argv[1]) as api:
    print(api.check_output(["/usr/bin/env"]))
"""


@pytest.mark.parametrize("way", WAYS)
def test_malformed_environment_entries_are_passed_on(way: str) -> None:
    """Check that a command gets environment entries without a name, and those not in UTF-8."""
    script = 'import os, sys; os.execve(sys.argv[1], sys.argv[1:], {b"A": b"\\xff"})'
    odd = [sys.executable, "-c", ODD_ENVIRONMENT, way]
    wrapped = [sys.executable, "-c", script, *odd]
    output = subprocess.check_output(wrapped, text=True, cwd=HERE, timeout=PATIENCE)
    assert r"A=\xff\n" in output
    un_named = {b"": b"x"}
    assert un.check_output(["/usr/bin/env"], env=un_named) == b"=x\n"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"user": -1}, ValueError),
        ({"group": -1}, ValueError),
        ({"extra_groups": [-1]}, ValueError),
        ({"user": 1 << 32}, OverflowError),
        ({"group": 1 << 64}, OverflowError),
        ({"extra_groups": [1 << 32]}, ValueError),
        ({"user": 1.5}, TypeError),
        ({"extra_groups": "root"}, ValueError),
        ({"extra_groups": [0] * 65537}, ValueError),
        ({"user": "no such user"}, KeyError),
        ({"group": "no such group"}, KeyError),
        ({"umask": 1 << 40}, OverflowError),
        ({"process_group": 1 << 40}, OverflowError),
    ],
)
@pytest.mark.sampled
def test_numbers_out_of_bounds_are_refused(
    api: Any, arguments: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        api.run(["true"], **arguments)


def test_the_id_minus_one_is_refused() -> None:
    with pytest.raises(OverflowError, match="user: 4294967295"):
        un.run(["true"], user=(1 << 32) - 1)


def test_user_and_group_accept_names() -> None:
    assert un.check_output(["id", "-u"], user="root", group="root", text=True) == "0\n"


def test_more_groups_than_the_kernel_allows_are_refused() -> None:
    wanted = "^extra_groups: 65537 groups are more than 65536, the most that the kernel allows$"
    with pytest.raises(ValueError, match=wanted):
        un.run(["true"], extra_groups=[0] * 65537)


@as_root
def test_extra_groups_accept_names_and_may_be_empty() -> None:
    idmap = un.IdMap.extents(["0:0:10"], ["0:0:10"])
    show = ["id", "-G"]
    assert un.check_output(show, idmap=idmap, extra_groups=["root", 5], text=True) == "0 5\n"
    assert un.check_output(show, idmap=idmap, extra_groups=[], text=True) == "0\n"


def test_flags_accept_any_true_value(api: Any) -> None:
    show = [sys.executable, "-Ic", "import os; print(os.getsid(0) == os.getpid())"]
    output = api.check_output(show, start_new_session=5, close_fds=7, restore_signals=2, text=True)
    assert output == "True\n"


def test_repr_of_popen_matches_subprocess(api: Any) -> None:
    with api.Popen(["true", "a" * 200]) as process:
        assert process.args == ["true", "a" * 200]
        process.wait()
    assert repr(process).startswith("<Popen: returncode: 0 args: ['true', 'aaa")
    assert repr(process).endswith("a...>")
    assert isinstance(process, subprocess.Popen)
    assert isinstance(un.Popen[bytes], GenericAlias)
    assert repr(api.run(["true"])) == "CompletedProcess(args=['true'], returncode=0)"
    with pytest.raises(api.CalledProcessError, match="SIGTERM"):
        api.run(["sh", "-c", "kill -TERM $$"]).check_returncode()


@pytest.mark.parametrize("end", ["send_signal", "terminate", "kill"])
def test_a_signal_that_comes_too_late_hits_nobody(api: Any, end: str) -> None:
    arguments = [signal.SIGTERM] if end == "send_signal" else []
    process = api.Popen(["true"])
    # Reap the child with waitpid(2), so that `process` does not know of its exit.
    os.waitpid(process.pid, 0)
    assert process.returncode is None
    getattr(process, end)(*arguments)
    assert process.returncode == 0
    getattr(process, end)(*arguments)


def test_all_waiting_threads_get_the_status(api: Any) -> None:
    statuses: list[int] = []
    with api.Popen(["sh", "-c", "read x; exit 9"], stdin=api.PIPE) as process:
        waiters = [
            threading.Thread(target=lambda: statuses.append(process.wait())) for _ in range(8)
        ]
        for waiter in waiters:
            waiter.start()
        process.stdin.close()
        for waiter in waiters:
            waiter.join(PATIENCE)
    assert statuses == [9] * 8


def test_a_timeout_of_zero_or_less_expires_at_once(api: Any) -> None:
    with api.Popen(["cat"], stdin=api.PIPE) as process:
        for timeout in (0, -1):
            with pytest.raises(api.TimeoutExpired):
                process.wait(timeout)


def test_an_unreferenced_process_warns_and_is_reaped_later(api: Any) -> None:
    before = open_descriptors()
    process = api.Popen(["cat"], stdin=api.PIPE)
    pid, stdin = process.pid, process.stdin
    with pytest.warns(ResourceWarning, match=f"subprocess {pid} is still running"):
        del process
    stdin.close()
    check_collected(api, pid)
    assert open_descriptors() == before


def check_collected(api: Any, pid: int) -> None:
    """Check that the next start reaps an exited child whose Popen object has been dropped."""
    pidfd = os.pidfd_open(pid)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    os.close(pidfd)
    api.run(["true"])
    assert pid not in children()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_unreferenced_process_is_reaped_if_warnings_are_errors() -> None:
    """Check that the child of a dropped Popen is reaped: a zombie would keep its namespace alive.

    subprocess never reaps such a child if warnings are errors, as in these tests.
    """
    process = un.Popen(["cat"], stdin=un.PIPE)
    pid, stdin = process.pid, process.stdin
    del process
    stdin.close()
    check_collected(un, pid)


def interrupted(api: Any) -> bool:
    # The command reads its input before it sends SIGINT to its parent, so the signal interrupts the
    # wait in communicate().
    try:
        api.run(["sh", "-c", "read x; kill -INT $PPID; exec sleep 1000"], input=b"x\n")
    except KeyboardInterrupt:
        return True
    return False


def test_an_interrupt_kills_the_command(api: Any) -> None:
    """Check that an interrupt of run() kills the child and leaks no descriptor.

    run() may not wait for the killed child, so the child's Popen object may emit a ResourceWarning.
    A fixture of this module checks that the child exits.
    """
    before = open_descriptors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert interrupted(api)
    assert all("is still running" in str(warning.message) for warning in caught)
    assert open_descriptors() == before


SIGCHLD_IGNORED = """
import signal, sys
from parity import opened
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with opened(sys.argv[1]) as api:
    arguments = {} if sys.argv[1] == "subprocess" else {"pid": True}
    # The kernel may reap the exited child before run() waits. Try often, as this depends on timing.
    for _ in range(100):
        assert api.run(["true"], **arguments).returncode == 0
    try:
        api.run(["no-such-tool"], **arguments)
    except FileNotFoundError:
        print("missing")
"""


@pytest.mark.parametrize("way", WAYS)
def test_starts_work_with_sigchld_ignored(way: str) -> None:
    assert in_python(SIGCHLD_IGNORED, way) == "missing\n"


AUDITED = """
import sys
import warnings
from parity import opened
told = []
sys.addaudithook(lambda event, args: told.append(args) if event == "subprocess.Popen" else None)
with opened(sys.argv[1]) as api:
    api.run(["true", "x"], cwd="/", env={"PATH": "/bin:/usr/bin"})
print(*told)
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_start_raises_an_audit_event(way: str) -> None:
    audited = ("true", ["true", "x"], "/", {"PATH": "/bin:/usr/bin"})
    assert in_python(AUDITED, way) == f"{audited}\n"


def test_unsupported_arguments_are_refused_by_position() -> None:
    before = open_descriptors()
    by_position: list[tuple[tuple[Any, ...], str]] = [
        ((-1, None, un.PIPE, None, None, print), "preexec_fn"),
        ((-1, None, un.PIPE, None, None, None, True, True), "shell=True"),
    ]
    for positional, named in by_position:
        with pytest.raises(ValueError, match=named):
            un.Popen(["true"], *positional)
    assert open_descriptors() == before
