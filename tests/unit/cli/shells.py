"""Real shells that complete command lines, for tests of the completion scripts."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

SHELLS = ("bash", "zsh", "fish")
_SECONDS = 60

# The key ^O inserts all completions into the line; ^G writes the line to a file and empties it.
_BASH = r"""
PS1=
source "$SCRIPT"
tell() { printf '%s\n' "$READLINE_LINE" >"$TOLD.new"; mv "$TOLD.new" "$TOLD"; READLINE_LINE=; }
bind -x '"\C-g": tell'
bind '"\C-o": insert-completions'
bind 'set bell-style none'
bind 'set enable-bracketed-paste off'
: >"$TOLD.ready"
"""
_ZSH = r"""
PS1=
autoload -Uz compinit && compinit -u -D
source "$SCRIPT"
tell() { print -r -- "$BUFFER" >"$TOLD.new"; mv "$TOLD.new" "$TOLD"; BUFFER= }
zle -N tell
zle -C all complete-word _generic
zstyle ':completion:all:*' completer _all_matches _complete
zstyle ':completion:all:*' insert true
bindkey '^G' tell
bindkey '^O' all
: >"$TOLD.ready"
"""
# Reads lines; for each, prints the completions, one per line, and then an empty line.
_FISH = """
source $SCRIPT
while read --line line
    complete -C $line </dev/null
    echo
end
"""


class Shell(Protocol):
    """A shell that has read a completion script.

    :ivar place: its current directory, and its home.
    """

    place: Path

    def complete(self, line: str) -> str:
        """Return the line with all completions of its last word; with fish, only these words."""


@contextlib.contextmanager
def started(shell: str, script: str, place: Path, env: Mapping[str, str]) -> Iterator[Shell]:
    place.mkdir(exist_ok=True)
    source = place.with_suffix(".script")
    source.write_text(script)
    environ = {"HOME": str(place), "TERM": "dumb", "LANG": "C.UTF-8", **env, "SCRIPT": str(source)}
    started = Fish(place, environ) if shell == "fish" else _OnTerminal(shell, place, environ)
    try:
        yield started
    finally:
        started.close()


class Fish:
    """fish, which prints completions and their descriptions without a terminal."""

    def __init__(self, place: Path, environ: dict[str, str]) -> None:
        self.place = place
        self._errors = place.with_suffix(".errors")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                ["fish", "--no-config", "-c", _FISH],
                env=environ,
                cwd=place,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
            )

    def describe(self, line: str) -> dict[str, str]:
        """Return the completions, each with its description."""
        self._process.stdin.write(f"{line}\n")
        rows = [
            row.rstrip("\n").partition("\t") for row in iter(self._process.stdout.readline, "\n")
        ]
        assert self._errors.read_text() == ""
        return {word: about for word, _, about in rows}

    def complete(self, line: str) -> str:
        return " ".join(self.describe(line))

    def close(self) -> None:
        self._process.communicate(timeout=_SECONDS)


class _OnTerminal:
    """bash or zsh on a pseudo-terminal, which receives keys."""

    def __init__(self, shell: str, place: Path, environ: dict[str, str]) -> None:
        self.place = place
        self._told = place.with_suffix(".told")
        begin = place.with_suffix(".begin")
        begin.write_text(_BASH if shell == "bash" else _ZSH)
        options = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"]}[shell]
        self._leader, follower = pty.openpty()
        self._process = subprocess.Popen(
            [str(shutil.which(shell)), *options, "-i"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environ | {"TOLD": str(self._told)},
            cwd=place,
            start_new_session=True,
        )
        os.close(follower)
        os.set_blocking(self._leader, False)
        self._type(f" source '{begin}'\n".encode(), Path(f"{self._told}.ready"))

    def complete(self, line: str) -> str:
        self._type(line.encode() + b"\x0f\x07", self._told)
        told = self._told.read_text().rstrip("\n")
        self._told.unlink()
        return told

    def _type(self, keys: bytes, answer: Path) -> None:
        """Type `keys`, and wait until the shell has created the file `answer`."""
        os.write(self._leader, keys)
        deadline = time.monotonic() + _SECONDS
        said = b""
        while not answer.exists():
            assert time.monotonic() < deadline, said
            # The shell blocks if its output fills the terminal's buffer.
            with contextlib.suppress(BlockingIOError):
                said += os.read(self._leader, 65536)
            time.sleep(0.005)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._leader)
