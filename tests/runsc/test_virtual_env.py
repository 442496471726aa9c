"""Tests of active virtual environments, which `usernsctl run` mounts for commands in them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import Program
from processes import capture

VERSION = f"python3.{sys.version_info.minor}"
PREFIX = ["-c", "import sys; print(sys.prefix, sys.base_prefix)"]


class Environment:
    """Active virtual environment below a caller's home directory."""

    def __init__(self, usernsctl: Program, home: Path) -> None:
        self.usernsctl = usernsctl
        self.home = home
        self.path = home / "project" / ".venv"

    def make(self, python: Path | str = "/usr/bin/python3", *options: str) -> None:
        """Create the environment with the module venv, but without pip."""
        command = [str(python), "-m", "venv", "--without-pip", *options, str(self.path)]
        capture(command, check=True)

    def run(self, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        variables = {
            **os.environ,
            "HOME": str(self.home),
            "VIRTUAL_ENV": str(self.path),
            "PATH": f"{self.path}/bin:/usr/bin:/bin",
        }
        return self.usernsctl("run", *before, "--", *words, env=variables)

    def shown(self, *words: str) -> tuple[list[str], str]:
        """Return the sources of the bind mounts that a run plans, and the messages of that run."""
        done = self.run(*words, before=("--dry-run", "--json"))
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        steps = json.loads(done.stdout)["steps"]
        return [step["source"] for step in steps if step["do"] == "bind"], done.stderr

    def config(self, *lines: str) -> None:
        (self.path / "pyvenv.cfg").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def environment(usernsctl: Program, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    # Use a short path: before Linux 5.1, the first line of a script may have at most 127 bytes.
    home = tmp_path_factory.mktemp("v") / "home"
    (home / "project").mkdir(parents=True)
    return Environment(usernsctl, home)


@pytest.fixture
def standalone(environment: Environment) -> Path:
    """Create a Python installation in the home directory, as uv does; return its path."""
    version = f"3.{sys.version_info.minor}.1"
    prefix = environment.home / ".local/share/uv/python" / f"cpython-{version}"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(os.path.realpath("/usr/bin/python3"), prefix / "bin" / VERSION)
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    shutil.copytree(
        library,
        prefix / "lib" / VERSION,
        ignore=shutil.ignore_patterns("test", "*-packages", "__pycache__", "idlelib", "config-*"),
        ignore_dangling_symlinks=True,
    )
    return prefix


def link_uv_environment(environment: Environment, prefix: Path) -> Path:
    """Create an environment as uv does, linked to the newest patch release; return the link."""
    link = prefix.with_name(f"cpython-3.{sys.version_info.minor}")
    link.symlink_to(prefix.name)
    (environment.path / "bin").mkdir(parents=True)
    (environment.path / "lib" / VERSION / "site-packages").mkdir(parents=True)
    (environment.path / "lib64").symlink_to("lib")
    (environment.path / "bin/python").symlink_to(link / "bin" / VERSION)
    (environment.path / "bin/python3").symlink_to("python")
    (environment.path / ".gitignore").write_text("*")
    (environment.path / "CACHEDIR.TAG").write_text("")
    environment.config(f"home = {link}/bin", "implementation = CPython", "uv = 0.9")
    return link


def test_python_of_the_virtual_environment_runs(environment: Environment) -> None:
    environment.make()
    package = environment.path / "lib" / VERSION / "site-packages" / "local_package.py"
    package.write_text("print('imported')")
    tool = environment.path / "bin" / "tool"
    tool.write_text(f"#!{environment.path}/bin/python\nimport local_package\n")
    tool.chmod(0o755)
    done = environment.run("python", *PREFIX)
    assert (done.stdout.split()[0], done.stderr) == (str(environment.path), "")
    assert environment.run("tool").stdout == "imported\n"
    assert environment.run(str(tool)).stdout == "imported\n"
    # Check that the environment is mounted read-only, and that no other file of the home directory
    # is visible.
    script = f"import os; print(os.listdir({str(environment.path.parent)!r})); open('{tool}', 'w')"
    done = environment.run("python", "-c", script)
    assert done.stdout == "['.venv']\n"
    assert "Read-only file system" in done.stderr


def test_environment_with_a_copied_interpreter_runs(environment: Environment) -> None:
    environment.make("/usr/bin/python3", "--copies")
    done = environment.run("python", *PREFIX)
    assert (done.stdout.split()[0], done.stderr) == (str(environment.path), "")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("copies", [[], ["--copies"]], ids=["links", "copies"])
def test_environment_made_by_virtualenv_runs(environment: Environment, copies: list[str]) -> None:
    made = ["virtualenv", "--quiet", "--no-seed", "--python=/usr/bin/python3", *copies]
    capture([sys.executable, "-m", *made, str(environment.path)], check=True)
    assert "virtualenv = " in (environment.path / "pyvenv.cfg").read_text()
    package = environment.path / "lib" / VERSION / "site-packages" / "local_package.py"
    package.write_text("print('imported')")
    done = environment.run("python", "-c", f"import local_package; {PREFIX[1]}")
    assert (done.stdout.split()[:2], done.stderr) == (["imported", str(environment.path)], "")


def test_environment_made_by_uv_runs(environment: Environment, standalone: Path) -> None:
    link_uv_environment(environment, standalone)
    done = environment.run("python", *PREFIX)
    assert done.stderr == ""
    assert done.stdout.split()[0] == str(environment.path)
    assert done.stdout.split()[1].startswith(str(standalone.parent))
    shown, _ = environment.shown("python3")
    assert set(shown) == {str(environment.path), str(standalone)}


def test_environment_below_a_bind_mount_runs(environment: Environment, standalone: Path) -> None:
    link_uv_environment(environment, standalone)
    bind = ("--bind", str(environment.path.parent))
    done = environment.run("python", *PREFIX, before=bind)
    assert done.stdout.split()[0] == str(environment.path), done.stderr


@pytest.mark.parametrize("command", ["sh", "/usr/bin/python3"])
def test_environment_is_not_mounted_for_other_commands(
    environment: Environment, command: str
) -> None:
    environment.make()
    assert environment.shown(command, "-c", "python") == ([], "")


def test_environment_is_not_mounted_with_a_rootfs(environment: Environment) -> None:
    environment.make()
    done = environment.run("python", before=("--dry-run", "--json", "--rootfs", "/usr"))
    assert str(environment.path) not in done.stdout.replace(f"{environment.path}/bin", "")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("entry", ["pip.conf", ".env", "main.py", ".git"])
def test_environment_with_other_files_is_not_mounted(environment: Environment, entry: str) -> None:
    environment.make()
    (environment.path / entry).write_text("secret")
    shown, message = environment.shown("python")
    assert shown == []
    why = f"contains {entry}, which is not part of a virtual environment"
    assert f"{why}; to show it, add --bind {environment.path}" in message
    done = environment.run("python3", *PREFIX)
    assert done.stdout.split()[0] == "/usr"
    assert "the virtual environment of " in done.stderr


class TestHostileEnvironments:
    """Tests of environments that a program with a writable bind mount may have changed."""

    @pytest.fixture(autouse=True)
    def secret(self, environment: Environment) -> Path:
        environment.make()
        directory = environment.home / ".ssh"
        (directory / "bin").mkdir(parents=True)
        (directory / "id").write_text("secret")
        return directory

    @pytest.mark.parametrize(
        "home",
        [
            "{home}/.ssh/bin",
            "{home}/bin",
            "/bin",
            "/root/bin",
            "../bin",
            "{home}/project/../.ssh/bin",
            "/proc/self/root/bin",
            "{home}/project/link/bin",
            "\0/bin",
            "\udcff/bin",
            "/etc/bin",
            "/dev/shm/bin",
        ],
    )
    def test_homes_without_an_installation_are_not_mounted(
        self, environment: Environment, home: str
    ) -> None:
        (environment.home / "project/link").symlink_to(environment.home / ".ssh")
        (environment.home / "bin").mkdir()
        line = f"home = {home.format(home=environment.home)}\n"
        (environment.path / "pyvenv.cfg").write_bytes(os.fsencode(line))
        assert environment.shown("python") == ([str(environment.path)], "")

    def test_a_library_behind_a_symlink_is_not_mounted(
        self, environment: Environment, secret: Path
    ) -> None:
        fake = environment.home / "project/python"
        (fake / "bin").mkdir(parents=True)
        (fake / "lib").symlink_to("/usr/lib")
        environment.config(f"home = {fake}/bin")
        assert environment.shown("python")[0] == [str(environment.path)]
        (fake / "lib").unlink()
        (fake / "lib").mkdir()
        (fake / "lib" / VERSION).symlink_to(secret)
        (secret / "os.py").write_text("")
        assert environment.shown("python")[0] == [str(environment.path)]

    def test_a_home_directory_with_a_library_is_not_mounted(self, environment: Environment) -> None:
        """Check that a home directory that is a Python prefix is not mounted (--prefix=$HOME)."""
        library = environment.home / "lib" / VERSION
        library.mkdir(parents=True)
        (library / "os.py").write_text("")
        environment.config(f"home = {environment.home}/bin")
        assert environment.shown("python")[0] == [str(environment.path)]

    def test_target_of_a_symlinked_interpreter_is_not_mounted(
        self, environment: Environment, secret: Path
    ) -> None:
        (secret / "bin/python").write_text("")
        (secret / "bin/python").chmod(0o755)
        (environment.path / "bin/python").unlink()
        (environment.path / "bin/python").symlink_to(secret / "bin/python")
        assert environment.shown("python")[0] == [str(environment.path)]
        done = environment.run("python")
        assert done.returncode in (126, 127)
        assert f"--bind {secret}" in done.stderr

    def test_targets_of_symlinks_are_not_mounted(
        self, environment: Environment, secret: Path
    ) -> None:
        (environment.path / "share").symlink_to(secret)
        script = f"import os; print(os.path.exists('{environment.path}/share/id'))"
        assert environment.run("python", "-c", script).stdout == "False\n"

    @pytest.mark.parametrize("kind", ["fifo", "directory", "link", "large", "missing"])
    def test_invalid_pyvenv_cfg_is_reported(self, environment: Environment, kind: str) -> None:
        config = environment.path / "pyvenv.cfg"
        config.unlink()
        if kind == "fifo":
            os.mkfifo(config)
        elif kind == "directory":
            config.mkdir()
        elif kind == "link":
            config.symlink_to("/usr/bin/python3")
        elif kind == "large":
            config.touch()
            os.truncate(config, 1 << 30)
        shown, message = environment.shown("python")
        assert shown == []
        assert "the virtual environment of " in message

    def test_home_directory_as_environment_is_not_mounted(self, environment: Environment) -> None:
        environment.path = environment.home
        environment.config("home = /usr/bin")
        (environment.home / "bin").mkdir()
        (environment.home / "bin/tool").symlink_to("/usr/bin/true")
        shown, message = environment.shown("tool")
        assert (shown, "its directory contains .ssh, which" in message) == ([], True)
