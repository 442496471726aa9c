"""Tests of usernsctl-exec --launch, with a shell script as a fake watcher."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from callers import as_root
from conftest import Program
from processes import capture
from strangers import LIST_WITH_ANOTHER

pytestmark = [pytest.mark.also_root, pytest.mark.userns_requires("userns")]

HEADER = ["usernsctl-launch", "2", version("usernsctl")]
SHOW = "cat @s/bundle/config.json"
PLACES = [f"scratch\0{place}" for place in ("/mnt", "/media", "/srv", "/opt")]
CONFIG = [
    *("json\0" + '{"args": [', "json-args", "json\0" + '], "env": [', "json-env"),
    *("json\0" + '], "cwd": ', "json-cwd", "json\0" + ', "hostname": ', "json-hostname"),
    *("json\0" + ', "uid": [', "json-uid-map", "json\0]}"),
]
ROOT = ["make\0bundle\000700"]
# Launch file records that mount the host's program directories.
PROGRAMS = ("machine\0bin", "machine\0usr")

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a launch file with the required records and additional ones."""

    def write(
        moment: tuple[str, ...] = (),
        *,
        before: tuple[str, ...] = (),
        steps: tuple[str, ...] = PROGRAMS,
        script: str = SHOW,
        header: list[str] = HEADER,
    ) -> Path:
        end = ["watch\0/bin/sh", "watch\0-c", f"watch\0{script}", "runsc-env\0PATH=/usr/bin:/bin"]
        records = [*before, *PLACES, *steps, *ROOT, *CONFIG, *moment, *end, "end"]
        path = tmp_path / "launch"
        path.write_text("".join(f"{record}\0" for record in [*header, *records]))
        path.chmod(0o644)
        return path

    return write


def config_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def refusal(done: subprocess.CompletedProcess[str], cause: str | None, text: str) -> None:
    assert done.returncode == 125, done.stdout
    assert done.stdout == ""
    assert text in done.stderr
    assert cause is None or f"[{cause}]" in done.stderr


def test_launch_adds_arguments_environment_and_directory(prelude: Program, write: Write) -> None:
    tree = write(
        ("env-name\0TOKEN", "env-set\0A=1"), before=("source\0follow\0/",), steps=("tree\0000",)
    )
    seen = config_of(
        prelude(
            "--launch", tree, "--", "cat", 'a "b"\n', env={"TOKEN": "x", "B": "2"}, cwd=Path("/usr")
        )
    )
    assert seen == {
        "args": ["cat", 'a "b"\n'],
        "env": ["TOKEN=x", "A=1"],
        "cwd": "/usr",
        "hostname": socket.gethostname(),
        "uid": [{"containerID": 0, "hostID": 0, "size": 1}],
    }


def test_the_working_directory_is_used_if_it_exists_inside(prelude: Program, write: Write) -> None:
    assert config_of(prelude("--launch", write(), "--", "true", cwd=Path("/var")))["cwd"] == "/"
    launch = write(("cwd\0/not/there",))
    refusal(prelude("--launch", launch, "--", "true"), None, "/not/there, the working directory of")
    launch = write(("cwd\0/proc/1",))
    assert config_of(prelude("--launch", launch, "--", "true"))["cwd"] == "/proc/1"


def test_a_launch_can_require_the_working_directory(prelude: Program, write: Write) -> None:
    launch = write(("cwd-moment",), before=("source\0follow\0/",), steps=("tree\0000",))
    done = prelude("--launch", launch, "--", "true", cwd=Path("/usr/share"))
    assert config_of(done)["cwd"] == "/usr/share"
    launch = write(("cwd-moment",))
    text = "/var, the working directory of the launch, does not exist in the sandbox"
    refusal(prelude("--launch", launch, "--", "true", cwd=Path("/var")), None, text)


def test_check_verifies_a_launch(prelude: Program, write: Write) -> None:
    ready = "Ready for a command in gVisor; runsc itself was not started\n"
    for words in ([], ["--", "cat"]):
        done = prelude("--launch", write(script="echo executed"), "--check", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, ready, "")
    for arguments, words in (((), ["--", "/none"]), (("arg\0/none",), [])):
        done = prelude("--launch", write(arguments), "--check", *words)
        assert (done.returncode, done.stdout) == (127, "")
    done = prelude("--check", "--launch", write(("env-need\0TOKEN",)))
    refusal(done, None, "variable TOKEN, which is not set")
    refusal(prelude("--check", "--", "true"), None, "--check needs --launch FILE")
    refusal(prelude("--launch", write(), "--check", "-r"), None, "excludes all options")


@pytest.mark.userns_requires("subid")
def test_launch_does_not_search_path_for_helpers(
    prelude: Program, write: Write, tmp_path: Path
) -> None:
    """Check that --launch takes no helper from PATH: other users may own directories in PATH."""
    traps = tmp_path / "traps"
    traps.mkdir()
    for name in ("newuidmap", "newgidmap", "getent", "getsubids"):
        (traps / name).write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/mark\n")
        (traps / name).chmod(0o755)
    launch = write(before=("idmap\0-r", "idmap\0--map-auto"))
    done = prelude("--launch", launch, "--", "/bin/true", env={"PATH": str(traps)})
    assert len(config_of(done)["uid"]) > 0
    assert not (tmp_path / "mark").exists()
    # For comparison: without a launch file, usernsctl-exec does take helpers from PATH. Root needs
    # no helpers.
    prelude("-r", "--map-auto", "--", "true", env={"PATH": str(traps)})
    assert os.geteuid() == 0 or (tmp_path / "mark").exists()


@pytest.mark.parametrize("limit", [5, 8, 10])
def test_a_low_descriptor_limit_is_named(prelude: Program, write: Write, limit: int) -> None:
    line = f"ulimit -n {limit}; exec {prelude.path} --launch {write()} -- true"
    done = capture(["sh", "-c", line])
    refusal(done, "descriptor-limit", "Too many open files")
    assert "  remedy: ulimit -n 4096\n" in done.stderr


def test_arguments_replace_the_command_of_a_launch(prelude: Program, write: Write) -> None:
    launch = write(("arg\0cat", "arg\0x"))
    assert config_of(prelude("--launch", launch))["args"] == ["cat", "x"]
    seen = config_of(prelude(f"--launch={launch}", "--", "env", "-r", "--"))
    assert seen["args"] == ["env", "-r", "--"]
    refusal(prelude("--launch", write()), None, "no command was given, and the launch has none")


def test_environment_records_apply_in_order(prelude: Program, write: Write) -> None:
    caller = {"A": "1", "B": "2", "PATH": "/bin"}
    launch = write(("env-set\0PATH=/x", "env-set\0C=3", "env-all", "env-set\0B=9"))
    seen = config_of(prelude("--launch", launch, "--", "true", env=caller))
    assert seen["env"] == ["PATH=/bin", "C=3", "A=1", "B=9"]
    launch = write(("env-need\0TOKEN",))
    refusal(prelude("--launch", launch, "--", "true"), None, "variable TOKEN, which is not set")


def test_large_arguments_and_environments_are_passed_on(prelude: Program, write: Write) -> None:
    env = {f"NAME_{number}": "x" * 50 for number in range(3000)}
    words = ["true", *["y" * 100_000] * 15]
    seen = config_of(prelude("--launch", write(("env-all",)), "--", *words, env=env))
    assert seen["args"] == words
    assert seen["env"] == [f"{name}={value}" for name, value in env.items()]


def test_text_that_is_not_utf_8_is_refused(prelude: Program, write: Write) -> None:
    launch = write(("env-all",))
    word = os.fsdecode(b"a\xff")
    done = prelude("--launch", launch, "--", "true", word)
    said = 'argument 1 of the command is not UTF-8, as config.json must be: "a\ufffd"'
    refusal(done, "launch-text", said)
    done = prelude("--launch", launch, "--", "true", env={"TOKEN": word})
    refusal(done, "launch-text", "$.process.env[0]")
    assert "TOKEN" not in done.stderr


def test_launch_inherits_nothing_of_the_caller(prelude: Program, write: Write) -> None:
    launch = write(script="ls -m /proc/$$/fd; umask; pwd; grep NoNewPrivs /proc/self/status; env")
    with open("/dev/null") as file:
        os.set_inheritable(file.fileno(), True)
        done = prelude("--launch", launch, "--", "true", pass_fds=(file.fileno(),))
    assert done.stdout.splitlines()[:3] == ["0, 1, 2", "0077", "/"]
    assert "PATH=/usr/bin:/bin\n" in done.stdout


def test_closed_standard_streams_become_dev_null(prelude: Program, write: Write) -> None:
    launch = write(script='seen=$(readlink /proc/$$/fd/0 /proc/$$/fd/1); echo "$seen" >&2')
    line = f"exec {prelude.path} --launch {launch} -- true <&- >&-"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True)
    assert done.stderr == "/dev/null\n/dev/null\n"


@pytest.mark.parametrize("mode", [0o646, 0o664, 0o622])
def test_launch_files_that_others_may_write_are_refused(
    prelude: Program, write: Write, mode: int
) -> None:
    launch = write()
    launch.chmod(mode)
    refusal(prelude("--launch", launch, "--", "true"), "launch-untrusted", f"(mode {mode:o})")


@as_root
def test_launch_files_of_other_users_are_refused(prelude: Program, write: Write) -> None:
    launch = write()
    os.chown(launch, 12345, 12345)
    text = "belongs to uid 12345, who is neither root nor you"
    refusal(prelude("--launch", launch, "--", "true"), "launch-untrusted", text)


@as_root
def test_access_control_lists_of_the_directory_are_respected(
    prelude: Program, write: Write, tmp_path: Path
) -> None:
    """Check that a launch file is rejected if an ACL lets other users write to its directory.

    If a directory has an ACL, the group bits of its mode are the mask of the ACL (acl(5)), and do
    not show whether the group or a named user may write.
    """
    launch = write()
    tmp_path.chmod(0o775)
    assert config_of(prelude("--launch", launch, "--", "true"))
    os.setxattr(tmp_path, *LIST_WITH_ANOTHER)
    refusal(prelude("--launch", launch, "--", "true"), "launch-untrusted", "others may replace it")


def test_files_other_than_launches_are_refused(prelude: Program, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate((32 << 20) + 1)
    for name, text in (
        ("/etc/passwd", "truncated within a string"),
        ("/dev/null", "not a regular file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "large", "a launch may have 33554432"),
    ):
        refusal(prelude("--launch", name, "--", "true"), "launch-malformed", text)
    refusal(prelude("--launch", "/none", "--", "true"), None, "/none: No such file")
    for end in ("/../hostname", "/.", "/"):
        done = prelude("--launch", f"/etc/passwd{end}", "--", "true")
        refusal(done, None, f"/etc/passwd{end}: Not a directory")


def test_truncated_launches_are_refused(prelude: Program, write: Write) -> None:
    launch = write()
    whole = launch.read_bytes()
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 4, len(whole) - 1):
        launch.write_bytes(whole[:length])
        refusal(prelude("--launch", launch, "--", "true"), "launch-malformed", str(launch))
    launch.write_bytes(whole + b"more\0")
    refusal(prelude("--launch", launch, "--", "true"), "launch-malformed", "nothing may come after")


def test_outdated_launches_are_refused(prelude: Program, write: Write, tmp_path: Path) -> None:
    remedy = "remedy\0usernsctl freeze -o it"
    launch = write(before=(remedy,), header=["usernsctl-launch", "2", "0.0.1"])
    done = prelude("--launch", launch, "--", "true")
    refusal(done, "launch-outdated", "frozen by usernsctl 0.0.1")
    assert "  remedy: usernsctl freeze -o it    # in an image without Python: " in done.stderr
    launch = write(header=["usernsctl-launch", "1", "9"])
    refusal(prelude("--launch", launch, "--", "true"), "launch-outdated", 'format "1"')
    file = tmp_path / "assumed"
    file.write_text("it")
    assumed = "assume\0000\0003\000100644\0000123456789abcdef"
    launch = write(before=(remedy, f"source\0own\0{file}", assumed))
    refusal(prelude("--launch", launch, "--", "true"), "launch-outdated", "has 2 bytes, but had 3")


def test_launch_excludes_other_options(prelude: Program, write: Write) -> None:
    launch = write()
    for words in (["-r", "--launch", launch], ["--launch", launch, "-m"]):
        refusal(prelude(*words, "--", "true"), None, "--launch excludes all options except --check")
    launch = write(before=("idmap\0--map-user=5",))
    refusal(prelude("--launch", launch, "--", "true"), None, "must be uid 0 and gid 0 inside")
    launch = write(before=("user\0000\0005",))
    refusal(prelude("--launch", launch, "--", "true"), "inside-id-unmapped", "gid 5")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["no-such"], 127, "lookup: 'no-such' was not found along PATH in the sandbox\n"),
        (["/no/such"], 127, "lookup: '/no/such' was not found in the sandbox\n"),
        (["./such"], 127, "lookup: './such' was not found in the sandbox\n"),
        (["/usr"], 126, "exec: /usr is a directory, not a program\n"),
        (["directory"], 127, "lookup: 'directory' was not found along PATH in the sandbox\n"),
        (["/opt/directory"], 126, "exec: /opt/directory is a directory, not a program\n"),
        (["no\x1b[2J'such"], 127, "lookup: 'no?[2J'such' was not found along PATH"),
        (["x" * 5000], 127, "was not found along PATH in the sandbox\n"),
        ([""], 125, "argument: the command is an empty string\n"),
        (["/opt/plain"], 126, "exec: /opt/plain is not executable\n"),
        (["plain"], 126, "exec: /opt/plain is not executable\n"),
        (
            ["/opt/script"],
            126,
            "/opt/script needs the interpreter /no/python, which is not in the sandbox\n",
        ),
        (
            ["/opt/venv"],
            126,
            "the interpreter /opt/python (which leads to /home/me/python), which is not",
        ),
        (["/opt/fifo"], 126, "exec: /opt/fifo is a FIFO, a socket or a device, not a program\n"),
        (
            ["/opt/text"],
            126,
            "/opt/text is neither a program nor a script that begins with #!\n",
        ),
        (
            ["/opt/crlf"],
            126,
            "exec: the interpreter's name in the first line of /opt/crlf ends with a carriage "
            "return\n",
        ),
        (["/opt/crlf"], 126, "\n  remedy: remove the carriage returns: sed -i 's/\\r$//' FILE\n"),
        (["/opt/elf32"], 126, "exec: /opt/elf32 is a program for 32-bit processors, and gVisor "),
        (["/opt/foreign"], 126, "exec: /opt/foreign is a program for another processor\n"),
        (["/opt/foreign"], 126, "\n  remedy: install the program for "),
        (["/opt/plain/x"], 127, "lookup: '/opt/plain/x' was not found in the sandbox\n"),
        (["/opt/loop"], 126, "exec: /opt/loop: Too many levels of symbolic links\n"),
    ],
)
def test_an_unusable_command_is_reported_before_the_start(
    prelude: Program, write: Write, tmp_path: Path, words: list[str], status: int, text: str
) -> None:
    (tmp_path / "plain").write_text("x")
    for name, line in (("script", "#!/no/python -u"), ("venv", "#! /opt/python")):
        (tmp_path / name).write_text(f"{line}\nimport sys\n")
        (tmp_path / name).chmod(0o755)
    # Two of the files begin with an ELF header of type ET_EXEC (elf(5)): elf32 is for the 32-bit
    # machine EM_386 (3), foreign for the 64-bit machine EM_MIPS (8).
    for name, content in (
        ("crlf", b"#!/bin/sh\r\n"),
        ("elf32", b"\x7fELF\1\1\1" + bytes(9) + b"\2\0\3\0" + bytes(64)),
        ("foreign", b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\x08\0" + bytes(64)),
    ):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python").symlink_to("/home/me/python")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("exit 3")
    (tmp_path / "text").chmod(0o755)
    (tmp_path / "loop").symlink_to("loop")
    launch = write(
        ("env-set\0PATH=/none:relative::/opt:/usr/bin:/bin",),
        before=(f"source\0follow\0{tmp_path}",),
        steps=(*PROGRAMS, "directory\0/opt\000755", "bind\0000\0/opt\0ro"),
    )
    done = prelude("--launch", launch, "--", *words)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert text in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    "word", ["true", "/usr/bin/true", "/proc/1/exe", "/sys/x", "../usr/bin/env"]
)
def test_an_existing_or_unknown_command_is_started(
    prelude: Program, write: Write, word: str
) -> None:
    assert config_of(prelude("--launch", write(), "--", word))["args"] == [word]


def test_commands_are_searched_in_the_root_filesystem(
    prelude: Program, write: Write, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "own").write_text("\x7fELF")
    (tree / "bin" / "own").chmod(0o755)
    launch = write(
        ("env-set\0PATH=/bin",), before=(f"source\0follow\0{tree}",), steps=("tree\0000",)
    )
    assert config_of(prelude("--launch", launch, "--", "own"))["args"] == ["own"]
    done = prelude("--launch", launch, "--", "env")
    assert done.returncode == 127
    assert (
        f"'env' was not found along PATH in the sandbox, whose root filesystem is {tree}"
        in done.stderr
    )


RENAME = """
import os, socket, sys
socket.sethostname(os.fsencode(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("name", ["box", "a.b-c.example", "x" * 64, "", "\xe9 \"'"])
def test_launch_uses_the_current_hostname(prelude: Program, write: Write, name: str) -> None:
    command = [prelude.path, "--launch", write(), "--", "true"]
    done = prelude("-r", "-u", "--", sys.executable, "-c", RENAME, name, *command)
    assert config_of(done)["hostname"] == name


def test_a_hostname_that_is_not_utf_8_is_refused(prelude: Program, write: Write) -> None:
    command = [prelude.path, "--launch", write(), "--", "true"]
    name = os.fsdecode(b"a\xff")
    done = prelude("-r", "-u", "--", sys.executable, "-c", RENAME, name, *command)
    refusal(done, "launch-text", "$.hostname has a byte that is not UTF-8")
