"""Tests of ``usernsctl template``, which creates, lists, runs and removes named templates."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gvisor
import pytest
from conftest import EXIT_SECONDS
from processes import wait_until_gone
from terminals import on_terminal

import usernsctl as un
from usernsctl.gvisor.template import store

SCRIPT = "echo READY; read line; echo $line $WORD; echo err >&2; exit 5"
PATIENCE = 60


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "usernsctl" / "templates"


@pytest.fixture
def template(usernsctl: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        done = usernsctl("template", *args, env=dict(os.environ), **options)
        assert isinstance(done, subprocess.CompletedProcess)
        return done

    return call


def create(template: Any, name: str, *options: str, script: str = SCRIPT) -> None:
    done = template("create", name, "--ready", "line:READY", *options, "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_template_verbs_create_list_run_and_remove(template: Any, data: Path) -> None:
    assert template("list").stdout == ""
    create(template, "one", "--env", "WORD=word")
    for _ in range(2):
        done = template("run", "one", input="line\n")
        assert (done.returncode, done.stdout, done.stderr) == (5, "line word\n", "err\n")
    listed = json.loads(template("list", "--json").stdout)
    assert [(one["name"], one["kind"], one["args"][:2]) for one in listed] == [
        ("one", "command", ["sh", "-c"])
    ]
    assert template("list").stdout.splitlines()[1].startswith("one   command  ")
    assert template("remove", "one").returncode == 0
    assert os.listdir(data) == []
    for name in ("one", "two"):
        create(template, name)
    done = template("remove", "one", "none", "two")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("usernsctl: template: there is no template 'none'\n")
    assert os.listdir(data) == []
    for verb in ("remove", "run"):
        done = template(verb, "one")
        assert done.returncode == 125
        assert "there is no template 'one'\n" in done.stderr
        assert "[no-such-template]" in done.stderr
        assert done.stderr.endswith("remedy: usernsctl template list\n")


def test_template_run_may_use_files_as_streams(
    template: Any, usernsctl: Any, tmp_path: Path
) -> None:
    create(template, "one")
    (tmp_path / "in").write_text("line\n")
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as taken:
        command = [usernsctl.path, "template", "run", "one"]
        done = subprocess.run(command, stdin=given, stdout=taken, stderr=taken, timeout=PATIENCE)
    assert done.returncode == 5
    assert (tmp_path / "out").read_text() == "line\nerr\n"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("option", "work", "status", "cause"),
    [
        ("--timeout=1s", "sleep 60", 124, "timeout"),
        ("--memory=100M", "while :; do line=$line$line; done", 137, "memory-limit"),
    ],
)
def test_template_run_has_the_exit_status_of_a_limit(
    template: Any, option: str, work: str, status: int, cause: str
) -> None:
    create(template, "one", script=f"echo READY; read line; {work}")
    done = template("run", option, "one", input="line\n")
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("usernsctl: sandbox: the sandbox was ended: it ")
    assert f"[{cause}]\n" in done.stderr


def test_template_create_reports_a_command_that_is_late(template: Any, data: Path) -> None:
    create = ("create", "one", "--timeout", "1.5s", "--ready", "READY", "--", "sleep", "60")
    done = template(*create)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("usernsctl: template: the command was not ready within 1.5 s\n")
    assert "[template-not-ready]" in done.stderr
    assert "--timeout" in done.stderr
    assert not data.exists() or os.listdir(data) == []


def test_template_create_replaces_only_with_replace(template: Any, data: Path) -> None:
    create(template, "one")
    again = ["--ready", "line:READY", "--", "sh", "-c", "echo READY; read line; echo new"]
    done = template("create", "one", *again)
    assert done.returncode == 125
    assert "a template 'one' exists already" in done.stderr
    assert template("create", "one", "--replace", *again).returncode == 0
    assert template("run", "one", input="\n").stdout == "new\n"
    assert os.listdir(data) == ["one"]


def test_interrupted_replace_keeps_a_whole_template(
    host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        remove(*args, **options)
        raise KeyboardInterrupt

    with host.template() as made:
        store.keep(made.save, "one", replace=True)
        remove = shutil.rmtree
        monkeypatch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.keep(made.save, "one", replace=True)
        monkeypatch.setattr(shutil, "rmtree", remove)
    assert [(one.name, one.kind) for one in store.list_all()] == [("one", "agent")]
    with un.Template.load(store.path_of("one"), host=host) as found, found.start() as box:
        assert box.run(["true"]).returncode == 0


def test_error_of_an_outdated_template_names_the_create_command(template: Any, data: Path) -> None:
    create(template, "one", "--env", "WORD=secret", "--hostname", "a b")
    record = data / "one" / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "version": "0.0.1"}))
    done = template("run", "one")
    assert done.returncode == 125
    assert "[template-outdated]" in done.stderr
    remedy = done.stderr.splitlines()[-1].removeprefix("  remedy: ")
    args = ["create", "--replace", "one", "--ready", "...", "--", "sh", "-c", SCRIPT]
    assert shlex.split(remedy) == ["usernsctl", "template", *args]
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--python", "python3", "--preload", "os,sys"], "preload: 'os,sys' is not the name"),
        (["--python", ""], "python is empty"),
        (["--ready", "R", "--wd", "", "--", "true"], "--wd/--cwd: the value must be a path"),
        (["--ready", "R", "--env", "A=\udcff", "--", "true"], "env['A'] is not UTF-8"),
        (["--ready", "R", "--", "true", "\udcff"], "args[1] is not UTF-8"),
        (["--ready", "R"], "no command"),
        (["--ready", "R", "--bundle", "b"], "no command"),
    ],
)
def test_wrong_values_of_template_create_are_usage_errors(
    template: Any, words: list[str], reason: str
) -> None:
    done = template("create", "one", *words)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.splitlines()[-1].startswith(f"Error: {reason}")


@pytest.mark.parametrize("command", [["--", "{}/program"], ["--wd", "{}", "--", "true"]])
def test_remedies_of_template_create_are_options(
    template: Any, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\n")
    (tmp_path / "program").chmod(0o755)
    words = [word.format(tmp_path) for word in command]
    done = template("create", "one", "--ready", "R", *words)
    assert done.returncode in (125, 127)
    assert done.stderr.endswith(f"remedy: add --bind {tmp_path}\n")


def test_wrong_values_of_template_run_are_usage_errors(template: Any) -> None:
    assert template("create", "one", "--python", "python3").returncode == 0
    done = template("run", "--wd", "", "one", "-c", "pass")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.splitlines()[-1].startswith("Error: --wd/--cwd: the value must be a path")


def test_template_run_needs_the_host_options_of_create(
    template: Any, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "file").write_text("shown\n")
    script = "echo READY; read line; cat /shown/file; uname -n"
    options = ["--bind", f"{tmp_path}/shown:/shown", "--hostname", "a.b"]
    create(template, "one", *options, script=script)
    done = template("run", *options, "one", input="\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "shown\na.b\n", "")
    done = template("run", "one", input="\n")
    assert (done.returncode, done.stdout) == (125, "")
    assert f"--bind '{tmp_path}/shown:/shown:ro' (now left out)" in done.stderr
    assert "--hostname 'a.b' (now left out)" in done.stderr
    assert "[template-host-differs]" in done.stderr
    create(template, "two", script=script)
    done = template("run", *options, "two", input="\n")
    assert (done.returncode, done.stdout) == (125, "")
    assert "--hostname left out (now 'a.b')" in done.stderr


def test_template_run_needs_the_namespace_of_create(template: Any, usernsctl: Any) -> None:
    name = f"kept-{os.getpid()}"
    env = dict(os.environ)
    assert usernsctl("ns", "create", name, "-r", env=env).returncode == 0
    try:
        create(template, "one", "--in", name)
        done = template("run", "--in", name, "one", input="line\n")
        assert (done.returncode, done.stdout) == (5, "line\n")
    finally:
        usernsctl("ns", "remove", name, env=env)


def test_template_run_runs_python_programs(template: Any) -> None:
    done = template("create", "numbers", "--python", "python3", "--preload", "decimal")
    assert (done.returncode, done.stderr) == (0, "")
    code = "import os, sys; print(sys.argv[1:], os.environ.get('A'), os.getcwd(), sys.stdin.read())"
    options = ["--env", "A=b", "--wd", "/usr"]
    done = template("run", *options, "numbers", "--", "-c", code, "-x", input="read")
    assert (done.returncode, done.stdout) == (0, "['-x'] b /usr read\n")
    assert template("run", "numbers", "-m", "no_such_module").returncode == 1
    assert template("list").stdout.splitlines()[1].endswith("  python3")
    assert json.loads(template("list", "--json").stdout)[0]["args"] == ["python3"]


def test_template_run_forwards_sigterm(template: Any, usernsctl: Any) -> None:
    create(template, "one", script="echo READY; read line; echo up; exec sleep 1000")
    command = [usernsctl.path, "template", "run", "one"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM


@pytest.mark.sampled(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_hung_template_run(
    template: Any, usernsctl: Any, stand_in: Any, tmp_path: Path, number: int
) -> None:
    real = gvisor.path()
    told, word = tmp_path / "told", f"10{os.getpid()}"
    os.mkfifo(told)
    restore = f"*' restore '*) echo >{told}; exec sleep {word}"
    stand_in(f'#!/bin/sh\ncase "$*" in {restore};; *) exec {real} "$@";; esac\n')
    create(template, "one")
    with subprocess.Popen([usernsctl.path, "template", "run", "one"]) as process:
        told.read_text()
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number
    assert wait_until_gone(f"sleep {word}", EXIT_SECONDS) == []


def test_incomplete_templates_are_removed(template: Any, data: Path) -> None:
    create(template, "one")
    (data / ".two").mkdir(mode=0o700)
    (data / ".two" / "pages.img").touch()
    assert template("list").stdout.count("\n") == 2
    assert os.listdir(data) == ["one"]


def test_foreign_files_beside_templates_are_kept(template: Any, data: Path) -> None:
    """Check that foreign files in the directory of templates, such as .nfs* files, are kept."""
    create(template, "one")
    (data / ".file").touch()
    (data / ".link").symlink_to(data)
    (data / "two").touch()
    listed = template("list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.splitlines()[1].startswith("one")
    assert listed.stdout.splitlines()[2].split() == ["two", "damaged", "0.0M", "-"]
    assert template("run", "one", input="line\n").returncode == 5
    done = template("remove", "two")
    assert done.returncode == 125
    assert f"rm -r {data / 'two'}" in done.stderr
    assert template("remove", "one").returncode == 0
    assert sorted(os.listdir(data)) == [".file", ".link", "two"]


def test_damaged_templates_are_listed_and_removed(template: Any, data: Path) -> None:
    create(template, "one")
    (data / "one" / "record.json").write_text("{")
    assert "damaged" in template("list").stdout
    assert "[template-damaged]" in template("run", "one").stderr
    assert template("remove", "one").returncode == 0


def test_killed_template_create_leaves_no_process_or_file(usernsctl: Any, data: Path) -> None:
    word = f"12{os.getpid()}"
    command = [usernsctl.path, "template", "create", "one", "--ready", "never", "--", "sleep", word]
    with subprocess.Popen(command) as process:
        while not wait_until_gone(f"-- sleep {word}", 0):
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    assert wait_until_gone(f"sleep {word}", EXIT_SECONDS) == []
    assert not data.exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["create", "one", "--", "true"], "no --ready: give a line, file or port"),
        (["create", "one", "--ready", "port:x", "--", "true"], "Error: --ready: 'x' is not a port"),
        (["create", "one", "--ready", "x"], "no command"),
        (["create", "a/b", "--ready", "x", "--", "true"], "can't be the name"),
        (["create", "one", "--python", "x", "--", "true"], "with CMD or --ready"),
        (["create", "one", "--preload", "x", "--ready", "x", "--", "true"], "needs --python"),
        (["create", "one", "--terminal", "--ready", "x", "--", "true"], "--terminal"),
        (["create"], "NAME"),
        (["run", "../x"], "can't be the name"),
        (["run", "--rootfs", "/a", "--expose-root", "x"], "exclude each other"),
        (["run", "--trust-bundle", "x"], "needs --bundle"),
        (["run", "--user", "1", "x"], "there is no option '--user'"),
        (["remove", ".x"], "can't be the name"),
    ],
)
def test_invalid_arguments_are_refused(
    template: Any, data: Path, args: list[str], told: str
) -> None:
    done = template(*args)
    assert done.returncode == 125
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not data.exists()


@pytest.mark.parametrize(
    "args",
    [
        ["create", "one", "--ready", "READY", "--", "echo", "READY"],
        ["create", "one", "--replace", "--ready", "READY", "--", "sh", "-c", "echo READY; sleep 9"],
        ["run", "one"],
        ["list"],
        ["remove", "one"],
    ],
)
def test_unusable_data_directory_is_reported(
    template: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", f"{tmp_path}/file")
    done = template(*args)
    place = f"{tmp_path}/file/usernsctl/templates"
    first, last = done.stderr.splitlines()
    assert first == f"usernsctl: template: can't store templates in {place}: Not a directory"
    assert last == "  remedy: set XDG_DATA_HOME to a directory of your own"
    assert (done.returncode, done.stdout) == (125, "")


# Tests of progress messages of `usernsctl template create` on a terminal.


def create_on_terminal(usernsctl: Any, name: str, script: str, **more: str) -> tuple[int, str]:
    args = ["template", "create", name, "--ready", "line:READY", "--", "sh", "-c", script]
    return on_terminal([usernsctl.path, *args], {**os.environ, "TERM": "xterm", **more})


def test_progress_is_one_terminal_line_and_erased_at_the_end(usernsctl: Any) -> None:
    status, told = create_on_terminal(usernsctl, "one", SCRIPT)
    assert (status, told.count("\n")) == (0, 0)
    *lines, last = told.split("\r\x1b[K")
    assert lines == [
        "",
        "one: starting the command, and waiting until it is ready",
        "one: writing the template to the disk",
    ]
    assert last == ""


def test_progress_is_erased_before_an_error(usernsctl: Any) -> None:
    status, told = create_on_terminal(usernsctl, "one", "exit 3")
    assert status == 125
    assert told.split("\r\x1b[K")[-1].startswith("usernsctl: ")


def test_dumb_terminals_get_no_progress(usernsctl: Any) -> None:
    assert create_on_terminal(usernsctl, "one", SCRIPT, TERM="dumb") == (0, "")
