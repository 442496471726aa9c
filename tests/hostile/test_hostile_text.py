"""Attacks with names and messages that contain terminal control characters or shell syntax."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from usernsctl import _text
from usernsctl._core.messages import explain_runsc
from usernsctl.cli import main, print_error
from usernsctl.errors import BundleError

# Strings that a terminal interprets, for example to set the title, clear the screen, forge a line,
# or hide or reverse text. One contains CSI as a single character (U+009B).
NASTY = (
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[H",
    "a\nusernsctl: all is well",
    "a\r\x1b[Kclean",
    "\u202egnp.exe",
    "\x9b31m",
    "\u2028\u2066x\u2069",
    "\u200b\ufeff\U000e0041",
    "\x08\x7f\x00",
)
TEXT = "".join(NASTY)
ALLOWED = "\n"


def raw(output: str) -> list[str]:
    """Return the characters of `output` that a terminal interprets."""
    return [char for char in output if not char.isprintable() and char not in ALLOWED]


def configs() -> Iterator[dict[str, Any]]:
    """Yield config.json files, each with hostile text in a field whose value messages quote."""
    plain = {"process": {"args": ["x"]}, "root": {"path": "rootfs"}}
    for text in (*NASTY, TEXT):
        bare = text.replace("\0", "")
        yield plain | {"root": {"path": bare}}
        yield plain | {"root": {"path": f"/{bare}"}}
        yield plain | {"mounts": [{"destination": f"/{bare}", "type": "bind", "source": bare}]}
        yield plain | {"mounts": [{"destination": "/x", "type": "bind", "source": f"/{bare}"}]}
        yield plain | {"mounts": [{"destination": "/x", "type": bare, "source": "x"}]}
        yield plain | {"mounts": [{"destination": "/x", "options": ["bind", bare]}]}
        yield plain | {"annotations": {f"dev.gvisor.{bare}": bare}}
        yield plain | {"annotations": {text: 7}}
        yield plain | {"linux": {"namespaces": [{"type": bare, "path": bare}]}}
        yield plain | {"linux": {"namespaces": [{"type": "user", "path": bare}]}}
        yield plain | {"linux": {"rootfsPropagation": bare, "cgroupsPath": bare}}
        yield plain | {"process": {"args": [text], "selinuxLabel": bare}}
        yield plain | {"process": {"args": ["x"], "cwd": text}}
        yield plain | {"process": {"args": ["x"], "rlimits": [{"type": text}]}}
        yield plain | {"process": {"args": ["x"], "env": [text]}}
        yield plain | {text: 1, f"{text}x": 2, f"{text}X": 3}
        yield plain | {"hooks": {text: [], "prestart": [{"path": f"/{bare}"}]}}


@pytest.mark.parametrize("verb", ["check", "fix", "check --json"])
def test_hostile_bundles_do_not_speak_to_the_terminal(
    tally: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    for number, wanted in enumerate(configs()):
        bundle = tmp_path / str(number)
        (bundle / "rootfs").mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(wanted))
        tally.tried()
        main(["bundle", *verb.split(), str(bundle)])
        output = capsys.readouterr()
        if found := raw(output.out + output.err):
            tally.succeeded(f"{wanted}: {found}")
        if output.out and verb.endswith("--json"):
            json.loads(output.out)
        elif re.search(r"^usernsctl: all is well", output.out + output.err, re.MULTILINE):
            tally.succeeded(f"{wanted}: a line of its own")


@pytest.mark.userns_requires("runsc")
def test_hostile_names_do_not_speak_to_the_terminal(
    tally: Any, usernsctl: Any, tmp_path: Path
) -> None:
    """Check that messages escape the names of bundles, commands, bind mounts and interpreters."""
    for text in NASTY:
        name = text.replace("\0", "").replace("/", "")
        bundle = tmp_path / name
        bundle.mkdir()
        script = bundle / "script"
        script.write_text(f"#!/{name}\n")
        script.chmod(0o755)
        calls = [
            ["run", "--bundle", str(bundle)],
            ["bundle", "check", str(bundle)],
            ["bundle", "init", str(bundle), "--rootfs", f"{bundle}/none", "--", "x"],
            ["run", "--", name],
            ["run", "--bind", f"/none{name}", "--", "true"],
            ["run", "--bind", str(bundle), "--", str(script)],
            ["run", "--env", f"={name}", "--", "true"],
            ["run", "--wd", f"/{name}", "--", "true"],
            ["run", f"--{name}", "--", "true"],
            ["run", "--user", name, "--", "true"],
            ["explain", "--no-probe", f"{bundle}/none"],
            ["explain", f"--{name}"],
            [name],
        ]
        for words in calls[:: 1 if tally.rounds(short=0, full=1) else 7]:
            tally.tried()
            done = usernsctl(*words)
            if found := raw(done.stdout + done.stderr):
                tally.succeeded(f"{words}: {found}")
            assert done.returncode != 0
            assert "Traceback" not in done.stderr


def test_hostile_names_do_not_speak_through_the_core(tally: Any, prelude: Any) -> None:
    for text in (*NASTY, os.fsdecode(b"\x9b31m"), os.fsdecode(b"\xe2\x80")):
        name = text.replace("\0", "").replace("/", "")
        options = (["-w", f"/{name}", "true"], ["-R", f"/{name}", "true"], [f"-S{name}"])
        for words in ([name], *options):
            tally.tried()
            done = subprocess.run(
                [prelude.path, "-r", "--", *words] if words[0] == name else [prelude.path, *words],
                capture_output=True,
            )
            # Also decode invalid UTF-8, because an 8-bit terminal may interpret such bytes.
            output = done.stderr.decode("utf-8", "surrogateescape")
            if found := raw(output):
                tally.succeeded(f"{words}: {found}")
            assert done.returncode in (125, 126, 127)


def test_hostile_messages_of_runsc_do_not_speak_to_the_terminal(
    tally: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in NASTY:
        for message in (text, f'creating working directory "{text}": mkdir', f"{text}: EOF"):
            tally.tried()
            print_error(explain_runsc(message))
            output = capsys.readouterr()
            if found := raw(output.out + output.err):
                tally.succeeded(f"{message!r}: {found}")


def test_hostile_text_does_not_speak_through_any_part_of_an_error(
    tally: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in (*NASTY, "\udc9b31m"):
        cause = None if text.startswith("\udc9b") else text
        error = BundleError(text, step=text, cause=cause, remedy=text)
        tally.tried(2)
        print_error(error)
        output = capsys.readouterr()
        for way, told in (("printed", output.err), ("as text", str(error))):
            if found := raw(told):
                tally.succeeded(f"{text!r} {way}: {found}")


def test_hostile_characters_are_all_escaped(tally: Any) -> None:
    """Check that control, format and surrogate characters, and line separators, are escaped."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            tally.tried()
            told = _text.shown(f"a{char}b")
            if not told.isprintable() or _text.shown(told) != told:
                tally.succeeded(f"U+{code:04X}")


def test_hostile_arguments_survive_quoting_for_the_shell(tally: Any) -> None:
    """Check that a command that a message suggests is quoted for the shell and the terminal."""
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("there is no bash")
    words = [
        *(text.replace("\0", "") for text in NASTY),
        *("$(touch owned)", "`touch owned`", "; touch owned", "'; touch owned; '", "-rf", "~", ""),
        *("a\n'$(touch owned)'\\", "\x1b0", "\x011", "\\", "'", "\\'\x1b"),
        *("gr\u00fc\u00df \x07", "\udc80"),
    ]
    for word in words:
        tally.tried()
        line = _text.command(["printf", "%s", word])
        if not line.isprintable():
            tally.succeeded(f"{word!r} is not fit for a terminal: {line!r}")
        done = subprocess.run([shell, "-c", line], capture_output=True, env={"LC_ALL": "C.UTF-8"})
        if done.stdout != os.fsencode(word) or done.stderr:
            tally.succeeded(f"{word!r} became {done.stdout!r}")
    assert _text.command(["a b", "c"]) == shlex.join(["a b", "c"])
