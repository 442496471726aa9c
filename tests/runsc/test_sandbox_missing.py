"""Tests of missing commands and directories, and of invalid arguments.

All functions that start commands must raise the same errors as subprocess.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import open_descriptors

import usernsctl as un


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of files that can't be executed, which `host` mounts in sandboxes."""
    directory = tmp_path_factory.mktemp("shown")
    for name, text, mode in (
        ("denied", "#!/bin/sh\n", 0o644),
        ("orphan", "#!/no/such/interpreter\n", 0o755),
        ("plain", "no program\n", 0o755),
    ):
        (directory / name).write_text(text)
        (directory / name).chmod(mode)
    (directory / "loop").symlink_to("loop")
    return directory


@pytest.fixture(scope="module")
def host(files: Path) -> Iterator[un.SandboxHost]:
    with un.SandboxHost(binds=[files]) as made:
        yield made


def run_in_loop(start: Callable[..., Any], args: Any, options: dict[str, Any]) -> None:
    async def main() -> None:
        await start(args, **options)

    asyncio.run(main())


def accept_list(start: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that passes the items of a list to `start` as separate arguments."""
    return lambda args, **options: start(*([args] if isinstance(args, str) else args), **options)


#: Functions that start a command with arguments and keyword options, by name.
STARTS: dict[str, Callable[[un.SandboxHost, un.Sandbox, Any, dict[str, Any]], Any]] = {
    "run": lambda host, box, args, options: un.run(args, **options),
    "Popen": lambda host, box, args, options: un.Popen(args, **options),
    "spawn": lambda host, box, args, options: un.spawn(args, **options),
    "create_subprocess_exec": lambda host, box, args, options: run_in_loop(
        accept_list(un.create_subprocess_exec), args, options
    ),
    "box.run": lambda host, box, args, options: box.run(args, **options),
    "box.popen": lambda host, box, args, options: box.popen(args, **options),
    "box.create_subprocess_exec": lambda host, box, args, options: run_in_loop(
        accept_list(box.create_subprocess_exec), args, options
    ),
    "gvisor.run": lambda host, box, args, options: un.gvisor.run(args, host=host, **options),
    "start": lambda host, box, args, options: host.start(args, **options),
    "start, detached": lambda host, box, args, options: host.start(args, detach=True, **options),
    "start_async": lambda host, box, args, options: run_in_loop(host.start_async, args, options),
    "Sandbox": lambda host, box, args, options: un.Sandbox(args, host=host, **options),
    "template": lambda host, box, args, options: host.template(args, ready="line:x", **options),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_missing_commands_raise_the_same_error_everywhere(
    host: un.SandboxHost, box: un.Sandbox, files: Path, start: Callable[..., Any]
) -> None:
    before = open_descriptors(), sorted(os.listdir(host.directory))
    true = ["true"]
    cases: list[tuple[Any, dict[str, Any], type[OSError], int, str, str | None]] = [
        (["no-such"], {}, FileNotFoundError, errno.ENOENT, "lookup", "command-not-found"),
        ("no-such", {}, FileNotFoundError, errno.ENOENT, "lookup", "command-not-found"),
        (["/no/such"], {}, FileNotFoundError, errno.ENOENT, "lookup", "command-not-found"),
        (["/etc/passwd/x"], {}, NotADirectoryError, errno.ENOTDIR, "lookup", "command-not-found"),
        ([""], {}, FileNotFoundError, errno.ENOENT, "lookup", "command-not-found"),
        ([files / "denied"], {}, PermissionError, errno.EACCES, "exec", "command-not-executable"),
        ([files / "orphan"], {}, FileNotFoundError, errno.ENOENT, "exec", "interpreter-not-found"),
        ([files / "plain"], {}, un.CommandError, errno.ENOEXEC, "exec", "command-not-executable"),
        ([files / "loop"], {}, un.CommandError, errno.ELOOP, "exec", None),
        (["/usr"], {}, PermissionError, errno.EACCES, "exec", "command-not-executable"),
        (true, {"cwd": "/no/such"}, FileNotFoundError, errno.ENOENT, "chdir", "cwd-not-found"),
        (true, {"cwd": "/etc/passwd"}, NotADirectoryError, errno.ENOTDIR, "chdir", "cwd-not-found"),
    ]
    for args, options, kind, number, step, cause in cases:
        with pytest.raises(kind) as caught:
            start(host, box, args, options)
        error = caught.value
        assert isinstance(error, un.CommandError)
        assert (error.errno, error.step, error.cause) == (number, step, cause)
        named = options.get("cwd", args if isinstance(args, str) else args[0])
        assert error.filename == str(named)
        assert error.exit_status == {"lookup": 127, "exec": 126, "chdir": 125}[step]
        notes = "\n".join(getattr(error, "__notes__", []))
        assert cause is None or (f"cause: {cause}" in notes and f"remedy: {error.remedy}" in notes)
        assert type(pickle.loads(pickle.dumps(error))) is type(error)
    assert (open_descriptors(), sorted(os.listdir(host.directory))) == before


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_invalid_arguments_raise_the_same_error_everywhere(
    host: un.SandboxHost, box: un.Sandbox, start: Callable[..., Any]
) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"cwd": 5}, TypeError, "cwd must be a path, not 5"),
        ({"env": ["A=b"]}, TypeError, "env must be a mapping of names to values, not list"),
        ({"env": {"A": 5}}, TypeError, "env: names and values must be text"),
        ({"env": {"A=B": "c"}}, ValueError, "variable"),
        ({"env": {"A": "c\0"}}, ValueError, "NUL|null"),
        ({"cwd": "/a\0b"}, ValueError, "NUL|null"),
        ({"envv": {}}, TypeError, r"unexpected keyword argument 'envv'. Did you mean 'env'\?"),
        ({"zzz": {}}, TypeError, "unexpected keyword argument 'zzz'"),
    ]
    before = open_descriptors(), sorted(os.listdir(host.directory))
    for options, kind, told in cases:
        with pytest.raises(kind, match=told) as caught:
            start(host, box, ["true"], options)
        assert not isinstance(caught.value, OSError)
    for args, kind, told in (
        ([1], TypeError, "args must be text"),
        (["true", "a\0b"], ValueError, "NUL|null"),
    ):
        with pytest.raises(kind, match=told):
            start(host, box, args, {})
    assert (open_descriptors(), sorted(os.listdir(host.directory))) == before


#: Functions that pass a timeout to a function under test, by the tested function's name.
TIMEOUTS: dict[str, Callable[[un.SandboxHost, un.Sandbox, Any], Any]] = {
    "run": lambda host, box, timeout: un.run(["true"], timeout=timeout),
    "call": lambda host, box, timeout: un.call(["true"], timeout=timeout),
    "check_output": lambda host, box, timeout: un.check_output(["true"], timeout=timeout),
    "box.run": lambda host, box, timeout: box.run(["true"], timeout=timeout),
    "box.wait": lambda host, box, timeout: box.wait(timeout),
    "box.communicate": lambda host, box, timeout: box.communicate(None, timeout),
    "gvisor.run": lambda host, box, timeout: un.gvisor.run(["true"], host=host, timeout=timeout),
    "start": lambda host, box, timeout: host.start(["true"], timeout=timeout),
    "template": lambda host, box, timeout: host.template(timeout=timeout),
    "python_template": lambda host, box, timeout: host.python_template(timeout=timeout),
    "pool": lambda host, box, timeout: host.pool(1, start_timeout=timeout),
}


@pytest.mark.parametrize("call", TIMEOUTS.values(), ids=TIMEOUTS)
def test_invalid_timeouts_raise_and_start_nothing(
    host: un.SandboxHost, box: un.Sandbox, call: Callable[..., Any]
) -> None:
    before = open_descriptors()
    with pytest.raises(TypeError, match="timeout must be a number of seconds, not '5'"):
        call(host, box, "5")
    with pytest.raises(TypeError, match="timeout must be a number of seconds, not 1j"):
        call(host, box, 1j)
    with pytest.raises(ValueError, match=r"timeout must be .*, not nan"):
        call(host, box, float("nan"))
    with pytest.raises(ValueError, match="timeout is too large for a number of seconds"):
        call(host, box, 10**400)
    assert open_descriptors() == before


def test_misspelt_keyword_arguments_are_corrected(host: un.SandboxHost, box: un.Sandbox) -> None:
    cases: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: un.SandboxHost(bind=["/usr"]), "SandboxHost", "binds"),
        (lambda: un.gvisor.run(["true"], bind=["/usr"]), "run", "binds"),
        (lambda: un.gvisor.run(["true"], captureoutput=True), "run", "capture_output"),
        (lambda: un.run(["true"], captureoutput=True), "run", "capture_output"),
        (lambda: un.spawn(["true"], moutn=True), "spawn", "mount"),
        (lambda: un.Namespace.create(moutn=True), "Namespace.create", "mount"),
        (lambda: host.template(redy="x"), "template", "ready"),
        (lambda: host.python_template(preloads=[]), "python_template", "preload"),
        (lambda: host.pool(1, max_use=1), "pool", "max_uses"),
        (lambda: host.start(["true"], termnal=True), "Sandbox", "terminal"),
        (lambda: box.run(["true"], txet=True), "Sandbox.run", "text"),
        (lambda: box.check_output(["true"], txet=True), "Sandbox.run", "text"),
        (lambda: box.popen(["true"], txet=True), "Sandbox.popen", "text"),
    ]
    for call, function, name in cases:
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value).startswith(f"{function}() got an unexpected keyword argument ")
        assert str(caught.value).endswith(f". Did you mean '{name}'?")
    with host.template() as template, pytest.raises(TypeError, match="'detach'"):
        template.start(detached=True)  # type: ignore[call-arg]


def test_template_with_empty_args_raises(host: un.SandboxHost) -> None:
    with pytest.raises(ValueError, match="args is empty"):
        host.template([], ready="line:x")


def test_relative_cwd_raises(host: un.SandboxHost, box: un.Sandbox) -> None:
    for start in (box.run, host.start):
        with pytest.raises(un.CommandError, match="is not an absolute path") as caught:
            start(["true"], cwd="usr")
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, "usr")


@pytest.mark.parametrize("make", [un.SandboxHost, lambda **given: un.gvisor.run(["true"], **given)])
def test_missing_bind_source_or_rootfs_raises(make: Callable[..., Any]) -> None:
    bind, rootfs = "bind-source-missing", "rootfs-missing"
    cases: list[tuple[dict[str, Any], type[OSError], int, str, str]] = [
        ({"binds": ["/nope"]}, FileNotFoundError, errno.ENOENT, "/nope", bind),
        ({"binds": ["/etc/passwd/x:/x"]}, NotADirectoryError, errno.ENOTDIR, "/etc/passwd/x", bind),
        ({"rootfs": "/nope"}, FileNotFoundError, errno.ENOENT, "/nope", rootfs),
        ({"rootfs": "/etc/passwd"}, NotADirectoryError, errno.ENOTDIR, "/etc/passwd", rootfs),
    ]
    before = open_descriptors()
    for options, kind, number, path, cause in cases:
        with pytest.raises(kind) as caught:
            make(**options)
        error = caught.value
        assert open_descriptors() == before
        assert isinstance(error, un.BindError)
        assert (error.errno, error.filename, error.cause) == (number, path, cause)
        assert error.remedy


def test_python_template_of_a_missing_interpreter_raises(host: un.SandboxHost) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        host.python_template(python="/no/such")
    assert isinstance(caught.value, un.CommandError)
    with host.python_template() as template:
        for cwd, kind in (("/no/such", FileNotFoundError), ("/etc/passwd", NotADirectoryError)):
            with pytest.raises(kind) as caught:
                template.start(["-c", "pass"], cwd=cwd)
            assert (caught.value.filename, caught.value.cause) == (cwd, "cwd-not-found")


def test_remedy_for_an_unmounted_command_names_binds(host: un.SandboxHost, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    with pytest.raises(FileNotFoundError) as caught:
        host.start([tool])
    assert caught.value.remedy == f"binds=['{tmp_path}']"
    assert un.gvisor.run([tool], binds=[tmp_path]).returncode == 0


def test_directory_of_path_with_mode_0_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    env = {"PATH": f"{tmp_path}/closed:/usr/bin:/bin"}
    with un.SandboxHost(binds=[tmp_path]) as made:
        with pytest.raises(FileNotFoundError):
            made.start(["no-such"], env=env)
        assert un.gvisor.run(["true"], host=made, env=env).returncode == 0


def test_unsearchable_directory_of_path_is_skipped() -> None:
    # Put /root first. Its mode is 0700: the host's root may search it, but root of another user
    # namespace may not.
    env = {"PATH": "/root:/usr/bin:/bin"}
    with un.SandboxHost(expose_root=True) as open_host:
        with pytest.raises(FileNotFoundError) as caught:
            un.gvisor.run(["no-such"], host=open_host, env=env)
        assert caught.value.cause == "command-not-found"
        assert un.gvisor.run(["true"], host=open_host, env=env).returncode == 0
        # Only gVisor's /proc shows whether the file exists, so usernsctl-verify checks it in the
        # sandbox.
        done = un.gvisor.run(["/proc/no-such"], host=open_host, stderr=un.PIPE)
        assert (done.returncode, done.stderr.count(b"not found in the sandbox")) == (127, 1)
        with open_host.start(None) as box, pytest.raises(FileNotFoundError):
            box.run(["no-such"], env=env)
