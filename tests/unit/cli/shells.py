"""Real shells that complete command lines, for the tests of the completion scripts."""

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

# Script for bash that binds ^O to insert all completions of a word, and ^G to write the line to a
# file and clear it.
_BASH = r"""
PS1=
source "$SCRIPT"
write_line() { printf '%s\n' "$READLINE_LINE" >"$OUT.new"; mv "$OUT.new" "$OUT"; READLINE_LINE=; }
bind -x '"\C-g": write_line'
bind '"\C-o": insert-completions'
bind 'set bell-style none'
bind 'set enable-bracketed-paste off'
: >"$OUT.ready"
"""
_ZSH = r"""
PS1=
autoload -Uz compinit && compinit -u -D
source "$SCRIPT"
write_line() { print -r -- "$BUFFER" >"$OUT.new"; mv "$OUT.new" "$OUT"; BUFFER= }
zle -N write_line
zle -C all complete-word _generic
zstyle ':completion:all:*' completer _all_matches _complete
zstyle ':completion:all:*' insert true
bindkey '^G' write_line
bindkey '^O' all
: >"$OUT.ready"
"""
# Script for fish that reads command lines from standard input, and answers each with its
# completions, one per line, and an empty line.
_FISH = """
source $SCRIPT
while read --line line
    complete -C $line </dev/null
    echo
end
"""


class Shell(Protocol):
    """A shell that has sourced a completion script.

    :ivar home: the shell's home directory, which is also its current directory.
    """

    home: Path

    def complete(self, line: str) -> str:
        """Complete the last word of `line`; return the line, or in fish only the completions."""


@contextlib.contextmanager
def start_shell(shell: str, script: str, home: Path, env: Mapping[str, str]) -> Iterator[Shell]:
    home.mkdir(exist_ok=True)
    source = home.with_suffix(".script")
    source.write_text(script)
    environ = {"HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8", **env, "SCRIPT": str(source)}
    running = Fish(home, environ) if shell == "fish" else _OnTerminal(shell, home, environ)
    try:
        yield running
    finally:
        running.close()


class Fish:
    """A fish process without a terminal, which prints completions and their descriptions."""

    def __init__(self, home: Path, environ: dict[str, str]) -> None:
        self.home = home
        self._errors = home.with_suffix(".errors")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                ["fish", "--no-config", "-c", _FISH],
                env=environ,
                cwd=home,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
            )

    def describe(self, line: str) -> dict[str, str]:
        """Return the completions of the last word of `line` with their descriptions."""
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
    """A bash or zsh process on a pseudoterminal to which tests send keys."""

    def __init__(self, shell: str, home: Path, environ: dict[str, str]) -> None:
        self.home = home
        self._line_file = home.with_suffix(".line")
        begin = home.with_suffix(".begin")
        begin.write_text(_BASH if shell == "bash" else _ZSH)
        options = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"]}[shell]
        self._leader, follower = pty.openpty()
        self._process = subprocess.Popen(
            [str(shutil.which(shell)), *options, "-i"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environ | {"OUT": str(self._line_file)},
            cwd=home,
            start_new_session=True,
        )
        os.close(follower)
        os.set_blocking(self._leader, False)
        self._type(f" source '{begin}'\n".encode(), Path(f"{self._line_file}.ready"))

    def complete(self, line: str) -> str:
        self._type(line.encode() + b"\x0f\x07", self._line_file)
        completed = self._line_file.read_text().rstrip("\n")
        self._line_file.unlink()
        return completed

    def _type(self, keys: bytes, answer: Path) -> None:
        """Type `keys`; wait until the shell has created the file `answer`."""
        os.write(self._leader, keys)
        deadline = time.monotonic() + _SECONDS
        output = b""
        while not answer.exists():
            assert time.monotonic() < deadline, output
            # Read the shell's output, because the shell would block on a full terminal buffer.
            with contextlib.suppress(BlockingIOError):
                output += os.read(self._leader, 65536)
            time.sleep(0.005)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._leader)
