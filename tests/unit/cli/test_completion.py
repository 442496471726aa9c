"""Tests of completion in real shells, also with hostile names."""

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
def name(request: pytest.FixtureRequest) -> str:
    shell: str = request.param
    return shell


@pytest.fixture(scope="module")
def script(name: str, usernsctl: Program) -> str:
    done = usernsctl("completion", name)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def shell(
    name: str, script: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[shells.Shell]:
    with shells.started(name, script, tmp_path_factory.mktemp(name) / "place", ENV) as shell:
        yield shell


def offered(shell: shells.Shell, line: str) -> set[str]:
    """Return the completions of the last word of a line."""
    begin = line[: line.rindex(" ") + 1]
    completed = shell.complete(line)
    if isinstance(shell, shells.Fish):
        # fish also offers words that contain these letters, if none begins with them.
        return {word for word in completed.split() if word.startswith(line.removeprefix(begin))}
    assert completed.startswith(begin)
    words = set(completed.removeprefix(begin).split())
    # Shells leave a word without completions as it is.
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
def test_a_key_press_offers_what_may_follow(
    shell: shells.Shell, line: str, words: set[str]
) -> None:
    found = {word.rstrip("=") for word in offered(shell, line)}
    assert found == words


def test_a_value_follows_its_option_in_the_same_word(shell: shells.Shell) -> None:
    found = offered(shell, "usernsctl-exec --setgroups=a")
    assert found == {"--setgroups=allow"}


def test_fish_does_not_say_of_a_value_what_is_said_of_its_option(
    usernsctl: Program, tmp_path: Path
) -> None:
    script = usernsctl("completion", "fish").stdout
    with shells.started("fish", script, tmp_path / "place", ENV) as fish:
        assert isinstance(fish, shells.Fish)
        described = fish.describe("usernsctl run --network ")
        assert described == {"none": "", "host": "", "private": ""}
        assert "host" in fish.describe("usernsctl run --netw")["--network"]


def test_files_are_offered_where_a_file_is_wanted(shell: shells.Shell, tmp_path: Path) -> None:
    below = tmp_path / "files"
    (below / "directory").mkdir(parents=True)
    (below / "document").touch()
    found = offered(shell, f"usernsctl bundle check {below}/d")
    assert {word.rstrip("/") for word in found} == {f"{below}/directory"}
    found = offered(shell, f"usernsctl explain {below}/do")
    assert found == {f"{below}/document"}


# Names that must not be offered: a shell, a command or a terminal would interpret them.
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


def test_templates_are_offered_and_nothing_else_that_lies_there(
    name: str, script: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for template in ("good", *HOSTILE):
        (data / "usernsctl" / "templates" / template).mkdir(parents=True, mode=0o700)
    for directory in (data, data / "usernsctl", data / "usernsctl" / "templates"):
        directory.chmod(0o700)
    env = ENV | {"XDG_DATA_HOME": str(data)}
    with shells.started(name, script, tmp_path / "place", env) as shell:
        for line in ("usernsctl template run ", "usernsctl template remove good "):
            assert offered(shell, line) == {"good"}, line
    assert list((tmp_path / "place").glob("pwned")) == []


def test_whatever_answers_nothing_but_names_is_offered(
    name: str, script: str, tmp_path: Path
) -> None:
    liar = tmp_path / "bin" / "usernsctl"
    liar.parent.mkdir()
    lies = "".join(f"{lie}\n" for lie in HOSTILE if "\n" not in lie)
    (tmp_path / "lies").write_text(f"good\n{lies}")
    liar.write_text(f"#!/bin/sh\ncat {tmp_path}/lies\necho noise >&2\n")
    liar.chmod(0o755)
    env = {"PATH": f"{liar.parent}:{ENV['PATH']}"}
    with shells.started(name, script, tmp_path / "place", env) as shell:
        for line in ("usernsctl ns exec ", "usernsctl run --in "):
            found = offered(shell, line)
            assert {word for word in found if len(word) < 65} == {"good"}, line
    assert list((tmp_path / "place").glob("pwned")) == []


def test_what_was_typed_before_is_not_executed(shell: shells.Shell) -> None:
    for word in ("$(touch pwned)", "`touch pwned`", "'$(touch pwned)'", "$(touch pwned"):
        completed = shell.complete(f"usernsctl run --env {word} --netw")
        assert "--network" in completed or "`" in word or ")" not in word
        assert list(shell.place.parent.rglob("pwned")) == []


def test_the_program_that_is_being_typed_is_not_started(
    shell: shells.Shell, tmp_path: Path
) -> None:
    """The program may be an untrusted file in a directory that the user only inspects."""
    trap = tmp_path / "usernsctl"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    trap.chmod(0o755)
    shell.complete(f"{trap} ns exec ")
    assert not (tmp_path / "started").exists()


def test_to_ask_for_names_makes_nothing(usernsctl: Program, tmp_path: Path) -> None:
    env = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    for kind in ("namespaces", "templates"):
        done = usernsctl("completion", "--names", kind, env=env)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_others_may_write_to_has_no_names(
    usernsctl: Program, tmp_path: Path
) -> None:
    (tmp_path / "usernsctl" / "templates" / "box").mkdir(parents=True)
    (tmp_path / "usernsctl" / "templates").chmod(0o777)
    done = usernsctl(
        "completion", "--names", "templates", env=os.environ | {"XDG_DATA_HOME": str(tmp_path)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("words", [[], ["nonsense"], ["bash", "--names", "templates"]])
def test_a_wrong_call_is_told(usernsctl: Program, words: list[str]) -> None:
    done = usernsctl("completion", *words)
    assert (done.returncode, done.stdout) == (125, "")
    assert "bash" in done.stderr


def test_all_options_of_the_prelude_are_known(prelude: Program) -> None:
    """Each option is accepted with a value exactly if --help has a value for it."""
    text = prelude("--help").stdout
    known = {name: flag for flag in model.native_flags(text) for name in flag.names}
    assert set(re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*", text.partition("Exit")[0])) <= set(known)
    for name, flag in known.items():
        if name in ("-h", "--help", "-V", "--version"):
            continue
        if name.startswith("--") and flag.kind is None:
            assert "takes no value" in prelude(f"{name}=x").stderr
        elif not flag.is_optional and flag.kind is not None:
            assert "needs a value" in prelude(name).stderr


def test_scripts_of_one_program_leave_the_other_alone(name: str, usernsctl: Program) -> None:
    alone = usernsctl("completion", name, "usernsctl-exec").stdout
    assert "--map-root-user" in alone or "map-root-user" in alone
    assert "usernsctl doctor" not in alone
    both = usernsctl("completion", name).stdout
    assert "usernsctl-exec" in both


@pytest.mark.parametrize("program", ["usernsctl", "usernsctl-exec"])
def test_a_script_is_one_that_shellcheck_likes(usernsctl: Program, program: str) -> None:
    script = usernsctl("completion", "bash", program).stdout
    done = capture([SCRIPTS / "shellcheck", "-s", "bash", "-"], input=script)
    assert done.stdout == ""
