"""Tests of the release tools (tools/release_*): version, notes and checks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import release_notes
from conftest import TREE
from processes import capture

VERSION = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]["version"]


def test_version_is_the_same_everywhere() -> None:
    first = (TREE / "debian" / "changelog").read_text().splitlines()[0]
    assert first.startswith(f"usernsctl ({VERSION}) ")
    assert metadata.version("usernsctl") == VERSION


def test_sources_do_not_contain_the_version() -> None:
    literal = re.compile(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])")
    sources = [TREE / "setup.py", TREE / "docs" / "conf.py"]
    for top, suffixes in (("csrc", "ch"), ("src", "py")):
        found = [*(TREE / top).rglob(f"*.[{suffixes}]"), *(TREE / top).rglob("*.py")]
        assert found
        sources += found
    assert [path for path in sources if literal.search(path.read_text())] == []


def test_tools_do_not_shadow_modules() -> None:
    """Check that no tool has the name of a Python module, which tools could then not import."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text())
    needed = [*project["build-system"]["requires"]]
    for group in project["project"]["optional-dependencies"].values():
        needed += group
    names = {re.split(r"[^\w-]", one, maxsplit=1)[0].replace("-", "_") for one in needed}
    tools = {path.stem: path for path in (TREE / "tools").rglob("*.py")}
    assert {"build", "setuptools"} < names
    assert [tools[name] for name in tools if name in names | sys.stdlib_module_names] == []


CHANGELOG = """\
# Changelog

What this is.

## [Unreleased]

## [0.2.0] - 2027-01-31

### Added

- One thing
  in two lines.
- Another.

A paragraph
of its own.

## [0.1.0]

- The first.
"""


def test_release_notes_have_a_line_for_each_item() -> None:
    assert release_notes.notes(CHANGELOG, "0.2.0") == (
        "### Added\n\n- One thing in two lines.\n- Another.\n\nA paragraph of its own.\n"
    )
    assert release_notes.notes(CHANGELOG, "0.1.0") == "- The first.\n"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("0.3.0", "no section of 0.3.0, only of: Unreleased, 0.2.0, 0.1.0"),
        ("Unreleased", "says nothing of Unreleased"),
    ],
)
def test_version_without_notes_raises(wanted: str, message: str) -> None:
    with pytest.raises(release_notes.NoNotes, match=message):
        release_notes.notes(CHANGELOG, wanted)


def test_changelog_has_notes_of_this_version() -> None:
    """Check that CHANGELOG.md has notes for the next release, or else for this version."""
    done = capture([sys.executable, TREE / "tools" / "release_notes.py", "Unreleased"])
    if done.returncode:
        assert release_notes.notes((TREE / "CHANGELOG.md").read_text(), VERSION)
    else:
        assert done.stdout.startswith("### ")


# ---- tools/release-check, in a small repository --------------------------------------------------

MAKEFILE = """\
clients:
dist:
	mkdir dist && echo wheel >dist/wheel
deb:
	mkdir -p build/debian && echo deb >build/debian/deb
docs man:
clean:
	echo "$$PWD" >>"$$LOG"
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new repository whose make targets are fast.

    `make clean` appends the current directory to the file "log" beside the repository.
    """
    for variable, value in {
        "HOME": str(tmp_path),
        "LOG": str(tmp_path / "log"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{
            f"GIT_{who}_{what}": "a@b"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }.items():
        monkeypatch.setenv(variable, value)
    top = tmp_path / "tree"
    for name, text in {
        "pyproject.toml": '[project]\nversion = "0.2.0"\n',
        "CHANGELOG.md": CHANGELOG,
        "Makefile": MAKEFILE,
        ".gitignore": "/build/\n__pycache__/\n",
        ".ci/run": '#!/bin/sh\n[ "$*" = test-all ] && [ ! -e ignored ]\n',
    }.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (top / ".ci" / "run").chmod(0o755)
    (top / "tools").mkdir()
    for name in ("release-check", "release_notes.py"):
        shutil.copy(TREE / "tools" / name, top / "tools")
    git(top, "init", "--quiet")
    commit(top)
    return top


def git(tree: Path, *words: str) -> str:
    return capture(["git", "-C", tree, *words], check=True).stdout.strip()


def commit(tree: Path) -> None:
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "Something")


def command(tree: Path) -> list[str | Path]:
    return [tree / "tools" / "release-check", sys.executable]


def check(tree: Path) -> subprocess.CompletedProcess[str]:
    return capture(command(tree))


def assert_clone_is_removed(tree: Path) -> None:
    """Check that release-check has run `make clean` in its clone, and has removed the clone."""
    [clone] = (tree.parent / "log").read_text().split()
    assert not Path(clone).parent.exists()


def test_release_check_keeps_results_and_notes(tree: Path) -> None:
    done = check(tree)
    assert (done.returncode, done.stderr) == (0, "")
    commit = git(tree, "rev-parse", "HEAD")
    steps_printed = [line for line in done.stdout.splitlines() if line.startswith("===")]
    steps = [".ci/run test-all", "make clients", "make dist", "make deb", "make docs man"]
    assert steps_printed == [
        f"=== 0.2.0: {commit}",
        *(f"=== {step}" for step in steps),
        f"=== done: {', '.join(steps)}",
    ]
    released = tree / "build" / "release"
    assert sorted(path.name for path in released.iterdir()) == ["deb", "notes.md", "wheel"]
    assert (released / "notes.md").read_text() == release_notes.notes(CHANGELOG, "0.2.0")
    assert_clone_is_removed(tree)


def test_release_check_ends_at_the_first_failure(tree: Path) -> None:
    (tree / "Makefile").write_text(MAKEFILE.replace("mkdir -p build/debian", "exit 7"))
    commit(tree)
    done = check(tree)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == (
        "release-check: `make deb` failed with status 2. "
        "Completed before: .ci/run test-all, make clients, make dist"
    )
    assert "docs" not in done.stdout
    assert not (tree / "build").exists()
    assert_clone_is_removed(tree)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_release_check_and_its_children(tree: Path, number: signal.Signals) -> None:
    fifo = tree.parent / "fifo"
    os.mkfifo(fifo)
    # The FIFO is open until the shell's child, sleep(1), has exited.
    script = f"#!/bin/sh\nsleep 1000 >{fifo}\nexit 1\n"
    (tree / ".ci" / "run").write_text(script)
    commit(tree)
    with subprocess.Popen(command(tree), stdout=subprocess.PIPE) as process:
        with fifo.open("rb") as until_it_ends:
            process.send_signal(number)
            assert until_it_ends.read() == b""
        process.communicate()
    assert process.returncode == 128 + number
    assert_clone_is_removed(tree)


@pytest.mark.parametrize("name", ["new", "Makefile"])
def test_uncommitted_changes_are_refused(tree: Path, name: str) -> None:
    with (tree / name).open("a") as file:
        file.write("\n")
    done = check(tree)
    assert (done.returncode, done.stdout) == (1, "")
    assert "uncommitted changes would not be released" in done.stderr
    assert name in done.stderr
    assert not (tree.parent / "log").exists()


def test_tag_of_another_commit_or_version_is_refused(tree: Path) -> None:
    git(tree, "tag", "v0.2.0")
    assert check(tree).returncode == 0
    project = tree / "pyproject.toml"
    for version, reason in (
        ("0.3.0", "the version is 0.3.0, and this commit has the tag v0.2.0"),
        (
            "0.2.0",
            "v0.2.0 is the tag of another commit. Write the next version into pyproject.toml",
        ),
    ):
        project.write_text(f'[project]\nversion = "{version}"\n# changed\n')
        commit(tree)
        if version == "0.3.0":
            git(tree, "tag", "--force", "v0.2.0")
        done = check(tree)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"release-check: {reason}")


def test_release_check_refuses_a_version_without_notes(tree: Path) -> None:
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n- One.\n")
    commit(tree)
    done = check(tree)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("release_notes.py: CHANGELOG.md has no section of 0.2.0")
