"""Tests of shell completion in real shells, also with hostile file names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import shells
from conftest import SCRIPTS, Program
from processes import capture

from usernsctl.cli.completion import model

ENV = {"PATH": f"{SCRIPTS}:/usr/bin:/bin"}


@pytest.fixture(scope="module", params=shells.SHELLS)
def shell_name(request: pytest.FixtureRequest) -> str:
    shell: str = request.param
    return shell


@pytest.fixture(scope="module")
def script(shell_name: str, usernsctl: Program) -> str:
    return usernsctl.check_output("completion", shell_name)


@pytest.fixture(scope="module")
def shell(
    shell_name: str, script: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[shells.Shell]:
    with shells.start_shell(
        shell_name, script, tmp_path_factory.mktemp(shell_name) / "home", ENV
    ) as shell:
        yield shell


def offered_words(shell: shells.Shell, line: str) -> set[str]:
    """Return the completions that `shell` offers for the last word of `line`."""
    begin = line[: line.rindex(" ") + 1]
    completed = shell.complete(line)
    if isinstance(shell, shells.Fish):
        # If no completion begins with the typed letters, fish offers completions that contain the
        # letters. Ignore those.
        return {word for word in completed.split() if word.startswith(line.removeprefix(begin))}
    assert completed.startswith(begin)
    words = set(completed.removeprefix(begin).split())
    # If a word has no completions, bash and zsh leave the word in the line. So don't count the
    # typed word itself.
    return words - ({line.removeprefix(begin)} if len(words) == 1 else set())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("usernsctl d", {"doctor", "docker-args"}),
        ("usernsctl ns ", {"create", "exec", "list", "remove", "tree"}),
        ("usernsctl run --net", {"--network"}),
        ("usernsctl run --network ", {"none", "host", "private"}),
        ("usernsctl run --network host --pl", {"--platform"}),
        ("usernsctl doctor --for ku", {"kubernetes"}),
        ("usernsctl doctor --json --no", {"--no-runsc"}),
        ("usernsctl exec --map-r", {"--map-root-user"}),
        ("usernsctl ns create web --map-r", {"--map-root-user"}),
        ("usernsctl completion f", {"fish"}),
        ("usernsctl explain in-c", {"in-chroot"}),
        ("usernsctl-exec --prop", {"--propagation"}),
        ("usernsctl-exec -r --setgroups ", {"allow", "deny"}),
        ("usernsctl-exec -m --map-sub", {"--map-subids"}),
        ("usernsctl run -- usernsctl-ex", {"usernsctl-exec"}),
        ("usernsctl-exec -r usernsctl-ex", {"usernsctl-exec"}),
    ],
)
def test_shells_offer_verbs_options_and_values(
    shell: shells.Shell, line: str, words: set[str]
) -> None:
    found = {word.rstrip("=") for word in offered_words(shell, line)}
    assert found == words


def test_value_after_equals_sign_is_completed(shell: shells.Shell) -> None:
    found = offered_words(shell, "usernsctl-exec --setgroups=a")
    assert found == {"--setgroups=allow"}


def test_fish_describes_options_but_not_their_values(usernsctl: Program, tmp_path: Path) -> None:
    script = usernsctl("completion", "fish").stdout
    with shells.start_shell("fish", script, tmp_path / "home", ENV) as fish:
        assert isinstance(fish, shells.Fish)
        described = fish.describe("usernsctl run --network ")
        assert described == {"none": "", "host": "", "private": ""}
        assert "host" in fish.describe("usernsctl run --netw")["--network"]


def test_files_and_directories_are_completed(shell: shells.Shell, tmp_path: Path) -> None:
    files_dir = tmp_path / "files"
    (files_dir / "directory").mkdir(parents=True)
    (files_dir / "document").touch()
    found = offered_words(shell, f"usernsctl bundle check {files_dir}/d")
    assert {word.rstrip("/") for word in found} == {f"{files_dir}/directory"}
    found = offered_words(shell, f"usernsctl explain {files_dir}/do")
    assert found == {f"{files_dir}/document"}


# File names that completion must not offer, because a shell, a command or the terminal would
# interpret them.
HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    "a;touch pwned",
    "a b",
    "-x",
    "a'b",
    "a\\b",
    "~root",
    "*",
    "\x1b]0;title\x07",
    "a\nb",
    "${IFS}x",
    "a" * 65,
)


def test_templates_with_hostile_names_are_not_offered(
    shell_name: str, script: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for template in ("good", *HOSTILE):
        (data / "usernsctl" / "templates" / template).mkdir(parents=True, mode=0o700)
    for directory in (data, data / "usernsctl", data / "usernsctl" / "templates"):
        directory.chmod(0o700)
    env = ENV | {"XDG_DATA_HOME": str(data)}
    with shells.start_shell(shell_name, script, tmp_path / "home", env) as shell:
        for line in ("usernsctl template run ", "usernsctl template remove good "):
            assert offered_words(shell, line) == {"good"}, line
    assert list((tmp_path / "home").glob("pwned")) == []


def test_hostile_output_of_usernsctl_is_not_offered(
    shell_name: str, script: str, tmp_path: Path
) -> None:
    fake = tmp_path / "bin" / "usernsctl"
    fake.parent.mkdir()
    hostile_lines = "".join(f"{name}\n" for name in HOSTILE if "\n" not in name)
    (tmp_path / "hostile_lines").write_text(f"good\n{hostile_lines}")
    fake.write_text(f"#!/bin/sh\ncat {tmp_path}/hostile_lines\necho noise >&2\n")
    fake.chmod(0o755)
    env = {"PATH": f"{fake.parent}:{ENV['PATH']}"}
    with shells.start_shell(shell_name, script, tmp_path / "home", env) as shell:
        for line in ("usernsctl ns exec ", "usernsctl run --in "):
            found = offered_words(shell, line)
            assert {word for word in found if len(word) < 65} == {"good"}, line
    assert list((tmp_path / "home").glob("pwned")) == []


def test_completion_does_not_execute_earlier_words(shell: shells.Shell) -> None:
    for word in ("$(touch pwned)", "`touch pwned`", "'$(touch pwned)'", "$(touch pwned"):
        completed = shell.complete(f"usernsctl run --env {word} --netw")
        assert "--network" in completed or "`" in word or ")" not in word
        assert list(shell.home.parent.rglob("pwned")) == []


def test_completion_does_not_start_the_typed_program(shell: shells.Shell, tmp_path: Path) -> None:
    """Check that completion does not execute the typed command, which may be an untrusted file."""
    trap = tmp_path / "usernsctl"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    trap.chmod(0o755)
    shell.complete(f"{trap} ns exec ")
    assert not (tmp_path / "started").exists()


def test_listing_names_creates_no_files(usernsctl: Program, tmp_path: Path) -> None:
    env = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    for kind in ("namespaces", "templates"):
        assert usernsctl.check_output("completion", "--names", kind, env=env) == ""
    assert list(tmp_path.iterdir()) == []


def test_world_writable_directory_has_no_names(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "usernsctl" / "templates" / "box").mkdir(parents=True)
    (tmp_path / "usernsctl" / "templates").chmod(0o777)
    done = usernsctl(
        "completion", "--names", "templates", env=os.environ | {"XDG_DATA_HOME": str(tmp_path)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("words", [[], ["nonsense"], ["bash", "--names", "templates"]])
def test_wrong_arguments_of_completion_are_refused(usernsctl: Program, words: list[str]) -> None:
    done = usernsctl("completion", *words)
    assert (done.returncode, done.stdout) == (125, "")
    assert "bash" in done.stderr


def test_completion_has_all_options_of_usernsctl_exec(prelude: Program) -> None:
    """Check that completion offers all options in --help, and knows which options take a value."""
    text = prelude("--help").stdout
    flags_by_name = {name: flag for flag in model.native_flags(text) for name in flag.names}
    assert set(re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*", text.partition("Exit")[0])) <= set(
        flags_by_name
    )
    for name, flag in flags_by_name.items():
        if name in ("-h", "--help", "-V", "--version"):
            continue
        if name.startswith("--") and flag.kind is None:
            assert "takes no value" in prelude(f"{name}=x").stderr
        elif not flag.is_optional and flag.kind is not None:
            assert "needs a value" in prelude(name).stderr


def test_script_of_one_program_omits_the_other(shell_name: str, usernsctl: Program) -> None:
    alone = usernsctl("completion", shell_name, "usernsctl-exec").stdout
    assert "--map-root-user" in alone or "map-root-user" in alone
    assert "usernsctl doctor" not in alone
    both = usernsctl("completion", shell_name).stdout
    assert "usernsctl-exec" in both


@pytest.mark.parametrize("program", ["usernsctl", "usernsctl-exec"])
def test_bash_scripts_pass_shellcheck(usernsctl: Program, program: str) -> None:
    script = usernsctl("completion", "bash", program).stdout
    done = capture([SCRIPTS / "shellcheck", "-s", "bash", "-"], input=script)
    assert done.stdout == ""
