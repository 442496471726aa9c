"""Harness for shell completion in real shells."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

SHELLS = ("bash", "zsh", "fish")
_SECONDS = 60

# ^G writes the line to a file, and ^O inserts all completions into the line.
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


def completed(shell: str, script: str, line: str, place: Path, env: Mapping[str, str]) -> str:
    """Return the line with all its completions inserted; for fish, the completions alone.

    :param place: the working directory of the shell.
    """
    if shell == "fish":
        return " ".join(described_by_fish(script, line, place, env))
    environ = _environ(script, place, env) | {"TOLD": str(place.with_suffix(".told"))}
    begin = place.with_suffix(".begin")
    begin.write_text(_BASH if shell == "bash" else _ZSH)
    return _typed(shell, begin, line, place, environ)


def described_by_fish(
    script: str, line: str, place: Path, env: Mapping[str, str]
) -> dict[str, str]:
    """Return the completions that fish offers, with their descriptions."""
    done = subprocess.run(
        ["fish", "--no-config", "-c", 'source $SCRIPT; complete -C "$LINE"'],
        env=_environ(script, place, env) | {"LINE": line},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.stderr == ""
    rows = [row.partition("\t") for row in done.stdout.splitlines()]
    return {word: about for word, _, about in rows}


def _environ(script: str, place: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a shell whose home directory is `place`."""
    place.mkdir(exist_ok=True)
    source = place.with_suffix(".script")
    source.write_text(script)
    environ = {"HOME": str(place), "TERM": "dumb", "LANG": "C.UTF-8", **env}
    return environ | {"SCRIPT": str(source)}


def _typed(shell: str, begin: Path, line: str, place: Path, environ: dict[str, str]) -> str:
    words = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"]}[shell]
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [str(shutil.which(shell)), *words, "-i"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environ,
        cwd=place,
        start_new_session=True,
    )
    os.close(follower)
    os.set_blocking(leader, False)
    told = Path(environ["TOLD"])
    ready = Path(f"{told}.ready")
    try:
        os.write(leader, f" source '{begin}'\n".encode())
        _wait_for(ready, leader)
        os.write(leader, line.encode() + b"\x0f\x07")
        _wait_for(told, leader)
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    line = told.read_text().rstrip("\n")
    told.unlink()
    ready.unlink()
    return line


def _wait_for(path: Path, leader: int) -> None:
    deadline = time.monotonic() + _SECONDS
    said = b""
    while not path.exists():
        assert time.monotonic() < deadline, said
        # Read the terminal's output: the shell blocks when the buffer is full.
        with contextlib.suppress(BlockingIOError):
            said += os.read(leader, 65536)
        time.sleep(0.005)
