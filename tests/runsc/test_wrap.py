"""Tests of `usernsctl wrap`, which writes scripts that run a command in gVisor."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import venv
from pathlib import Path

import pytest
from conftest import Program, children
from processes import capture

PATIENCE = 60


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "a script"


def test_script_passes_all_arguments_to_its_command(usernsctl: Program, script: Path) -> None:
    show = 'printf "%s|" "$A" "$@"; cat; exit 3'
    words = ["--env", "A=it's $HOME", "--", "sh", "-c", show, "sh", "one two"]
    assert usernsctl.check_output("wrap", "-o", script, *words) == ""
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    done = capture([script, "$(id)", "--env", "-o", ""], input="input", timeout=PATIENCE)
    assert done.stdout == "it's $HOME|one two|$(id)|--env|-o||input"
    assert (done.returncode, done.stderr) == (3, "")


def test_script_is_killed_by_the_signal_of_its_command(usernsctl: Program, script: Path) -> None:
    assert usernsctl("wrap", f"--output={script}", "sh", "-c").returncode == 0
    assert capture([script, "kill -TERM $$"], timeout=PATIENCE).returncode == -signal.SIGTERM
    with subprocess.Popen([script, "echo; sleep 1000"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM
    # The kernel has killed the sandbox's other processes, so at most zombies are left.
    assert [name for name in children().values() if "zombie" not in name] == []


def test_script_mounts_the_virtual_environment(
    usernsctl: Program, script: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    shown = usernsctl(
        "wrap", "-oscript", python, "-c", "import sys; print(sys.prefix)", cwd=tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    done = capture([tmp_path / "script"], timeout=PATIENCE, env={"PATH": os.environ["PATH"]})
    assert (done.stdout, done.stderr) == (f"{environment}\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--", "true"], "-o/--output"),
        (["-o", "{}"], "no command"),
        (["-o", "{}", "--", "/missing"], "there is no command '/missing' on this machine"),
        (
            ["-o", "{}", "--", "missing-command"],
            "there is no command 'missing-command' on this machine",
        ),
        (["-o", "{}", "--", "/usr"], "there is no command '/usr' on this machine"),
        (["-o", "{}", "--bundle", "a", "--rootfs", "b", "true"], "exclude each other"),
        (["-o", "{}", "--moutn", "true"], "no option '--moutn'"),
        (["-o", "{}", "--template", "t", "--terminal", "x"], "no option '--terminal'"),
        (["-o", "{}", "--template", "nope"], "[no-such-template]\n  remedy: usernsctl template"),
        (["-o", "/missing/script", "true"], "can't write /missing/script"),
        (["-o", "/dev/null", "true"], "not a regular file\n  remedy: name a regular file in a"),
    ],
)
def test_invalid_arguments_write_no_script(
    usernsctl: Program, script: Path, words: list[str], told: str
) -> None:
    script.write_text("old")
    done = usernsctl("wrap", *(word.format(script) for word in words))
    assert (done.returncode in (125, 127), done.stdout) == (True, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert script.read_text() == "old"
    assert os.listdir(script.parent) == [script.name]


def test_script_starts_sandboxes_from_a_template(
    usernsctl: Program, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    created = usernsctl(
        *("template", "create", "name", "--python", "python3", "--preload", "json"),
        env=dict(os.environ),
        timeout=120,
    )
    assert created.returncode == 0, created.stderr
    code = "import sys; print(sys.argv[1:], 'json' in sys.modules)"
    assert usernsctl("wrap", "-o", script, "--template", "name", "--", "-c", code).returncode == 0
    done = capture([script, "a b"], timeout=PATIENCE)
    assert (done.stdout, done.returncode) == ("['a b'] True\n", 0), done.stderr
