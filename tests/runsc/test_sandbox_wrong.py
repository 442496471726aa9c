"""Tests of invalid arguments of sandboxes and hosts: errors name the argument, and leak nothing."""

from __future__ import annotations

import asyncio
import copy
import errno
import gc
import math
import os
import pickle
import resource
import socket
from pathlib import Path
from typing import Any

import pytest
from conftest import open_descriptors
from limits import descriptors_left
from processes import processes_with

import usernsctl as un

PATIENCE = 20
FOREVER = ["sleep", "1000"]


ODD = {"A": "a,b=c", "B": 'x"y,z', "C": "line\nline", "D": "", "SECRET": "s3cret"}
SHOW = ["sh", "-c", 'for n in A B C D b LANG FIRST; do printenv $n; echo "$n $?"; done']
SHOWN = 'a,b=c\nA 0\nx"y,z\nB 0\nline\nline\nC 0\n\nD 0\nb 1\nC.UTF-8\nLANG 0\nfirst\nFIRST 0\n'


@pytest.mark.parametrize("detach", [False, True])
def test_further_commands_get_their_environment(host: un.SandboxHost, detach: bool) -> None:
    with host.start(FOREVER, env={"FIRST": "first", "LANG": "C.UTF-8"}, detach=detach) as started:
        done = started.run(SHOW, env=ODD, capture_output=True, text=True)
        assert done.stdout == SHOWN
        if detach:
            with un.Sandbox.attach(started.id) as found:
                assert found.run(SHOW, env=ODD, stdout=un.PIPE, text=True).stdout == SHOWN


def test_environment_of_a_command_is_on_no_command_line(box: un.Sandbox) -> None:
    with box.popen(["cat"], env=ODD, stdin=un.PIPE, stdout=un.PIPE) as cat:
        cat.stdin.write(b"x")
        cat.stdin.flush()
        assert cat.stdout.read(1) == b"x"
        assert processes_with("s3cret") == []


def test_errors_and_results_have_the_given_args(box: un.Sandbox) -> None:
    assert box.run(["true"]).args == ["true"]
    with pytest.raises(un.CalledProcessError) as failed:
        box.run(["false"], check=True)
    assert failed.value.cmd == ["false"]
    with pytest.raises(un.TimeoutExpired) as late:
        box.run(FOREVER, timeout=0.1)
    assert late.value.cmd == FOREVER
    with box.popen(["true"]) as process:
        assert process.args == ["true"]


@pytest.mark.parametrize(
    "options",
    [
        {"group": 0},
        {"pass_fds": [0]},
        {"pid": True},
        {"idmap": un.IdMap.root()},
        {"namespace": None},
        {"extra_groups": [0]},
    ],
)
def test_options_for_the_host_only_raise_inside(box: un.Sandbox, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=name):
        box.run(["true"], **options)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"user": 0}, "user"),
    ({"user": b"root"}, "user"),
    ({"user": ("0", "0")}, "user"),
    ({"user": (0, 0, 0)}, "user"),
    ({"env": ["A=b"]}, "env"),
    ({"env": {"A": None}}, "env: names and values must be text"),
    ({"env": {5: "b"}}, "env: names and values must be text"),
    ({"cwd": 5}, "cwd"),
    ({"args": 5}, "args"),
    ({"args": ["a", 5]}, "args"),
]


@pytest.mark.parametrize(("options", "told"), WRONG)
def test_arguments_of_the_wrong_type_raise(
    host: un.SandboxHost, box: un.Sandbox, options: dict[str, Any], told: str
) -> None:
    given = {"args": ["true"], **options}
    for start in (host.start, box.run):
        with pytest.raises(TypeError, match=told):
            start(**given)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"id": 5}, "id"),
        ({"text": True}, "text"),
        ({"stdout": "file"}, "stdout"),
        ({"stdin": "file"}, "stdin"),
    ],
)
def test_invalid_types_of_start_options_raise(
    host: un.SandboxHost, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        host.start(["true"], **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"idmap": 5}, "idmap"),
        ({"bundle": 5}, "bundle"),
        ({"rootfs": 5}, "rootfs"),
        ({"binds": "/data"}, "binds"),
        ({"binds": [5]}, "binds"),
        ({"binds": un.Bind("/usr", "/x")}, "binds"),
        ({"binds": {"/usr": "/x"}}, "binds must be a list"),
        ({"rlimits": "nofile=5"}, "rlimits"),
        ({"rlimits": [("nofile", 5)]}, "rlimits"),
        ({"namespace": 5}, "namespace"),
        ({"debug_log": 5}, "debug_log"),
        ({"runsc": 5}, "runsc"),
        ({"hostname": 5}, "hostname"),
        ({"bind": []}, "bind"),
    ],
)
def test_host_options_of_the_wrong_type_raise(options: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        un.SandboxHost(**options)


PATHS = ("rootfs", "bundle", "debug_log", "runsc")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"binds": ["/usr:/b,rw"]}, "binds: .*did you mean '/usr:/b:rw'"),
        ({"binds": ["/usr:/a:/b"]}, r"binds: '/usr:/a:/b' is not SRC\[:DST\]\[:ro|rw\]"),
        ({"rlimits": ["speed=1"]}, "rlimits: 'speed' is not a resource limit"),
        ({"rlimits": ["nofile=2:1"]}, "rlimits: .*above the hard limit"),
        ({"network": None}, "network must be one of none, host"),
        ({"namespace": "kept", "idmap": un.IdMap.root()}, "namespace and idmap exclude each other"),
        ({"idmap": "everything"}, "idmap must be one of .root., .current., .auto."),
        ({"trust": True}, "need a bundle"),
        ({"rootfs": "/a", "expose_root": True}, "exclude each other"),
        *(({name: ""}, f"{name} is empty") for name in PATHS),
        *(({name: "/a\0b"}, rf"{name}: '/a\\x00b' has a NUL character") for name in PATHS),
        ({"binds": [un.Bind("", "/x")]}, "binds: SRC is empty"),
        ({"binds": ["/a\0b:/x"]}, r"binds: SRC: '/a\\x00b' has a NUL character"),
        ({"bundle": "", "trust": True}, "bundle is empty"),
        *(({"hostname": name}, "hostname must have 1 to 64 bytes") for name in ("", "x" * 65)),
        ({"hostname": "a\0b"}, "hostname must have .* no NUL"),
        ({"hostname": "\udcff"}, "hostname is not UTF-8"),
    ],
)
def test_invalid_host_options_raise(options: dict[str, Any], told: str) -> None:
    for make in (un.SandboxHost, lambda **given: un.Sandbox(["true"], **given)):
        with pytest.raises(ValueError, match=told):
            make(**options)


@pytest.mark.parametrize(
    ("cwd", "kind"),
    [
        ("/nope", FileNotFoundError),
        ("/etc/passwd", NotADirectoryError),
        ("/home/nope", FileNotFoundError),
        ("usr", un.CommandError),
    ],
)
@pytest.mark.parametrize("detach", [False, True])
def test_missing_cwd_raises(
    host: un.SandboxHost,
    cwd: str,
    kind: type[OSError],
    detach: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = open_descriptors(), os.listdir(host.directory)
    with pytest.raises(kind, match="cwd=") as caught:
        host.start(["true"], cwd=cwd, detach=detach)
    assert isinstance(caught.value, un.CommandError)
    assert (caught.value.step, caught.value.filename) == ("chdir", cwd)
    assert (open_descriptors(), os.listdir(host.directory)) == before
    assert capfd.readouterr().err == ""


def test_remedy_for_an_unmounted_cwd_names_binds(tmp_path: Path) -> None:
    with un.SandboxHost() as made, pytest.raises(un.CommandError) as caught:
        made.start(["true"], cwd=tmp_path)
    assert caught.value.remedy == f"binds=['{tmp_path}']"
    with un.Sandbox(["pwd"], cwd=tmp_path, binds=[str(tmp_path)], stdout=un.PIPE) as started:
        assert started.communicate()[0] == f"{tmp_path}\n".encode()


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_streams_with_a_terminal_raise(host: un.SandboxHost, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        host.start(["true"], terminal=True, **{name: un.PIPE})


# Sandbox.send_signal() and SandboxPopen.send_signal() raise the same errors as subprocess.Popen.
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("is_other", [False, True])
def test_invalid_signals_raise(host: un.SandboxHost, detach: bool, is_other: bool) -> None:
    options = {"stdout": un.DEVNULL, "stderr": un.DEVNULL}
    with (
        host.start(FOREVER, detach=detach, **options) as box,
        box.popen(FOREVER, **options) as other,
    ):
        one: Any = other if is_other else box
        for number in (65, 999, -1, 1 << 40):
            with pytest.raises(OSError, match="Invalid argument") as caught:
                one.send_signal(number)
            assert caught.value.errno == errno.EINVAL
        for given in ("TERM", 15.0, None):
            with pytest.raises(TypeError):
                one.send_signal(given)
        one.send_signal(0)
        assert one.poll() is None
        other.kill()
        other.wait(PATIENCE)
        box.kill()
        if not is_other:
            box.wait(PATIENCE)
        # Check that any signal number is ignored after the process has exited, as in
        # subprocess.Popen.
        for number in (0, 15, 999):
            one.send_signal(number)


def test_gvisor_run_without_args_raises(host: un.SandboxHost) -> None:
    for options in ({}, {"host": host}):
        with pytest.raises(ValueError, match=r"args.*None"):
            un.gvisor.run(None, timeout=PATIENCE, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [5, "web", un.SandboxHost])
def test_a_host_of_the_wrong_type_raises(given: Any, host: un.SandboxHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    with host.template() as made:
        made.save(saved)
    for use in (
        lambda: un.gvisor.run(["true"], host=given),
        lambda: un.Sandbox(None, host=given),
        lambda: un.SandboxPool(given, 1),
        lambda: un.Template.load(saved, host=given),
    ):
        with pytest.raises(TypeError, match="host must be a SandboxHost, not "):
            use()


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 2**31])
def test_any_timeout_is_accepted_with_captured_output(box: un.Sandbox, timeout: float) -> None:
    assert box.run(["echo"], capture_output=True, timeout=timeout).stdout == b"\n"
    for run in (un.run, un.gvisor.run):
        assert run(["echo"], capture_output=True, timeout=timeout).stdout == b"\n"


def test_unknown_options_of_copies_name_the_method(box: un.Sandbox) -> None:
    wrong: Any = {"text": True}
    for call, name in (
        (lambda: box.read_file("/etc/passwd", **wrong), "read_file"),
        (lambda: box.write_file("/tmp/file", b"", **wrong), "write_file"),
        (lambda: box.list_dir("/tmp", **wrong), "list_dir"),
        (lambda: box.put("/etc/passwd", "/tmp/file", **wrong), "put"),
        (lambda: box.get("/etc/passwd", "file", **wrong), "get"),
        (lambda: asyncio.run(box.read_file_async("/etc/passwd", **wrong)), "read_file_async"),
    ):
        with pytest.raises(TypeError, match=rf"^Sandbox\.{name}\(\) got an unexpected .* 'text'"):
            call()


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (un.Rlimit("RLIMIT_NOFILE", 5, 3), "the soft limit is above the hard limit"),
        (un.Rlimit("speed", 1, 1), "'speed' is not a resource limit"),
        (un.Rlimit("RLIMIT_CPU", 1.5, 2), "is not NAME=SOFT"),  # type: ignore[arg-type]
    ],
)
def test_invalid_rlimit_objects_raise(box: un.Sandbox, limit: un.Rlimit, told: str) -> None:
    for use in (
        lambda: un.SandboxHost(rlimits=[limit]),
        lambda: box.run(["true"], rlimits=[limit]),
    ):
        with pytest.raises(ValueError, match=f"^rlimits: .*{told}"):
            use()


def test_entering_a_closed_object_raises(host: un.SandboxHost) -> None:
    made: list[Any] = [un.SandboxHost(), host.start(FOREVER), host.template(), host.pool(1)]

    async def enter(one: Any) -> None:
        async with one:
            pytest.fail("the block was entered")

    for one in made:
        one.close()
        with pytest.raises(ValueError, match="is closed"), one:
            pytest.fail("the block was entered")
        with pytest.raises(ValueError, match="is closed"):
            asyncio.run(enter(one))


def test_entering_a_closed_interpreter_names_it(box: un.Sandbox) -> None:
    interpreter = box.interpreter()
    interpreter.close()
    with pytest.raises(ValueError, match=r"^the interpreter is closed$"), interpreter:
        pytest.fail("the block was entered")


def test_bind_accepts_path_objects() -> None:
    bind: Any = un.Bind(Path("/usr"), Path("/shown"))  # type: ignore[arg-type]
    with un.Sandbox(["ls", "/shown"], binds=[bind], stdout=un.PIPE) as started:
        assert b"bin" in started.stdout.read()


def test_closed_descriptor_as_stdout_raises(host: un.SandboxHost) -> None:
    with pytest.raises(un.CommandError, match="stdout"):
        host.start(["true"], stdout=999)


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_invalid_streams_raise(host: un.SandboxHost, box: un.Sandbox, stream: str) -> None:
    closed = socket.socket()
    closed.close()
    for invalid in (-5, 1 << 31, *([un.STDOUT] if stream != "stderr" else [])):
        for call in (host.start, box.run, box.popen):
            with pytest.raises(ValueError, match=stream):
                call(["true"], **{stream: invalid})
    # The command must not inherit the caller's own stream.
    for call in (box.run, box.popen):
        with pytest.raises(ValueError, match=f"{stream}: -1 is not a descriptor"):
            call(["true"], **{stream: closed})
    with pytest.raises(un.CommandError, match=f"{stream}: Bad file descriptor"):
        host.start(["true"], **{stream: closed})


def test_start_at_the_descriptor_limit_leaks_nothing(host: un.SandboxHost) -> None:
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = 1 + max(int(name) for name in os.listdir("/proc/self/fd"))
    for spare in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
        try:
            with host.start(["true"]):
                pass
        except un.UsernsError:
            pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert open_descriptors() == before, spare


def test_host_at_the_descriptor_limit_raises_and_leaks_nothing() -> None:
    before = open_descriptors()
    failures = 0
    for room in range(20):
        with descriptors_left(room):
            try:
                un.SandboxHost().close()
            except un.UsernsError as error:
                assert (error.errno, error.cause) == (errno.EMFILE, "descriptor-limit")
                failures += 1
        assert open_descriptors() == before, room
    assert failures


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.sampled(1)
def test_id_is_free_again_after_emfile(host: un.SandboxHost, detach: bool, runtime: Path) -> None:
    """Check that a start that fails with EMFILE leaves no files, so that its id can be used again.

    EMFILE can also prevent the removal of the sandbox's files.
    """
    before = os.listdir(host.directory)
    for room in range(6):
        with descriptors_left(room), pytest.raises(un.NamespaceError) as caught:
            host.start(["true"], id="short", detach=detach)
        assert caught.value.errno == errno.EMFILE
        host.start(["true"], id="short", detach=detach).close()
        assert os.listdir(host.directory) == before


def test_error_about_debug_log_leaks_no_descriptor(tmp_path: Path) -> None:
    """Check that an error leaves no reference cycle that keeps descriptors open."""
    file = tmp_path / "file"
    file.touch()
    gc.collect()
    gc.disable()
    try:
        before = open_descriptors()
        with pytest.raises(un.RunscError, match="Not a directory"):
            un.SandboxHost(debug_log=file)
        assert open_descriptors() == before
    finally:
        gc.enable()


def test_repr_describes_sandbox_host_and_namespace(host: un.SandboxHost) -> None:
    with host.start(["sleep", "1000"], id="shown") as started:
        assert repr(started) == "<Sandbox 'shown' ['sleep', '1000']: no exit status>"
    assert repr(started) == "<Sandbox 'shown' ['sleep', '1000']: killed by signal 9>"
    assert repr(host) == "<SandboxHost: this machine's programs>"
    with un.Namespace.create(mount=True) as ns:
        assert repr(ns) == "<Namespace: user, mount>"
    assert repr(ns) == "<Namespace: closed>"


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_sandbox_and_host_can_not_be_pickled_or_copied(
    host: un.SandboxHost, box: un.Sandbox, how: Any
) -> None:
    with pytest.raises(TypeError, match="attach"):
        how(box)
    with pytest.raises(TypeError, match="create one in each process"):
        how(host)
    assert box.poll() is None


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_interpreter_can_not_be_pickled_or_copied(box: un.Sandbox, how: Any) -> None:
    with box.interpreter() as interpreter:
        with pytest.raises(TypeError, match="an Interpreter can't be copied or pickled"):
            how(interpreter)
        assert interpreter.run("6 * 7").value == 42
