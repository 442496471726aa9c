"""Build and check the release of the last commit in a clone: release_check.py.

The clone has no uncommitted changes. The script stops at the first failure. On success,
build/release contains the built files and the release notes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import release_notes

STEPS = ([".ci/run", "test-all"], ["make", "dist"], ["make", "deb"], ["make", "docs", "man"])
#: Directories of the clone with the files to release.
MADE = ("dist", "build/debian")


class Fault(Exception):
    """Reason against a release, as the exception's text."""


def git(tree: Path, *words: str) -> str:
    """Return the output of a git command in a tree.

    :raises Fault: the command fails.
    """
    command = ["git", "-C", str(tree), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Fault(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def check_tags(tree: Path, version: str) -> None:
    """Check that no other commit has the version's tag, and this commit has no other version's.

    :raises Fault: a tag contradicts the version.
    """
    tag = f"v{version}"
    here = git(tree, "tag", "--list", "v*", "--points-at", "HEAD").split()
    if here and here != [tag]:
        raise Fault(f"the version is {version}, and this commit has the tag {', '.join(here)}")
    if not here and git(tree, "tag", "--list", tag):
        raise Fault(
            f"{tag} is the tag of another commit. Write the next version into pyproject.toml"
        )


class Caller:
    """Runner of commands, one at a time. A signal ends the running command and this process."""

    def __init__(self) -> None:
        self._signal = 0
        self._process: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._end)

    def call(self, command: list[str], directory: Path) -> int:
        """Run a command and return its exit status."""
        self._process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, process_group=0
        )
        if self._signal:
            # The signal arrived before the process was started.
            self._end(self._signal, None)
        status = self._process.wait()
        self._process = None
        if self._signal:
            sys.exit(128 + self._signal)
        return status

    def _end(self, number: int, _: object) -> None:
        self._signal = number
        if self._process is not None and self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGTERM)


def run(steps: list[list[str]], clone: Path, caller: Caller) -> None:
    """Run commands one after another.

    :raises Fault: a command failed; the later ones are not run.
    """
    for done, step in enumerate(steps):
        print(f"=== {shlex.join(step)}", flush=True)
        status = caller.call(step, clone)
        if status:
            before = ", ".join(map(shlex.join, steps[:done])) or "nothing"
            raise Fault(
                f"`{shlex.join(step)}` failed with status {status}. What was done before: {before}"
            )


def keep_files(clone: Path, target: Path, notes: str) -> list[str]:
    """Replace a directory's content by the released files; return their names."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for directory in MADE:
        for file in (clone / directory).iterdir():
            shutil.copy(file, target)
    (target / "notes.md").write_text(notes)
    return sorted(file.name for file in target.iterdir())


def release(tree: Path, caller: Caller) -> list[str]:
    """Build and check everything; return the names of the released files.

    :raises Fault: the commit can't be released.
    :raises NoNotes: the changelog has no notes about the version.
    """
    changed = git(tree, "status", "--porcelain")
    if changed:
        raise Fault(f"what is not committed would not be released:\n{changed}")
    version = release_notes.version(tree)
    check_tags(tree, version)
    notes = release_notes.notes((tree / "CHANGELOG.md").read_text(), version)
    commit = git(tree, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory(prefix="usernsctl-release-") as scratch:
        clone = Path(scratch, "usernsctl")
        git(tree, "clone", "--quiet", "--no-checkout", str(tree), str(clone))
        git(clone, "checkout", "--quiet", "--detach", commit)
        print(f"=== {version}: {commit}", flush=True)
        try:
            run([*STEPS], clone, caller)
            return keep_files(clone, tree / "build" / "release", notes)
        finally:
            # The virtual environments of the clone are outside of it, so `make clean` removes them.
            subprocess.run(["make", "--silent", "clean"], cwd=clone, stdout=subprocess.DEVNULL)


def main() -> None:
    try:
        names = release(release_notes.TREE, Caller())
    except (Fault, release_notes.NoNotes) as fault:
        sys.exit(f"release-check: {fault}")
    print(f"=== done: {', '.join(map(shlex.join, STEPS))}\nbuild/release has:", flush=True)
    for name in names:
        print(f"    {name}")


if __name__ == "__main__":
    main()
