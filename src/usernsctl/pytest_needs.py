"""What a test may say it requires of the machine, and how that is found out."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import pytest

import usernsctl as un
from usernsctl import hardening

VARIABLE = "USERNSCTL_MUST_WORK"
OPTION = "--userns-must-work"

_KERNEL = re.compile(r"kernel>=(\d+(?:\.\d+)*)")
_CAPABILITY = re.compile(r"cap:(?:CAP_)?([A-Z][A-Z_]*)")
_SECONDS = 60
_KNOWN = "userns, subid, runsc, docker, kernel>=VERSION, cap:NAME"


class Needs:
    """Tells what the machine can't do; each thing is tried once, when it is asked for first."""

    def __init__(self, must_work: Iterable[str]) -> None:
        """Take note of what must work.

        :raises pytest.UsageError: a word is unknown.
        """
        self.must_work = frozenset(must_work)
        self._objections: dict[str, str | None] = {}
        for word in sorted(self.must_work):
            check_word(word)

    @classmethod
    def from_config(cls, config: pytest.Config) -> Needs:
        given = [config.getoption(OPTION) or "", os.environ.get(VARIABLE, "")]
        words = (word.strip() for text in given for word in text.split(","))
        return cls(word for word in words if word)

    def demand(self, word: str) -> None:
        """Skip the test that calls this if the machine lacks `word`; fail it if that must work."""
        if word not in self._objections:
            self._objections[word] = _objection(word)
        objection = self._objections[word]
        if objection is None:
            return
        if word in self.must_work:
            pytest.fail(f"{word} must work, but {objection}", pytrace=False)
        pytest.skip(f"{word}: {objection}")


def check_word(word: str) -> None:
    """Check that a requirement is one that is known.

    :raises pytest.UsageError: it is not.
    """
    known = word in _TRIALS or _KERNEL.fullmatch(word) or _CAPABILITY.fullmatch(word)
    if not known:
        raise pytest.UsageError(f"{word!r} is no requirement; there are {_KNOWN}")


def _objection(word: str) -> str | None:
    check_word(word)
    if trial := _TRIALS.get(word):
        return trial()
    if kernel := _KERNEL.fullmatch(word):
        return _too_old(kernel[1])
    capability = word.rpartition(":")[2].removeprefix("CAP_").lower()
    if capability in hardening.effective():
        return None
    return f"this process does not hold CAP_{capability.upper()}"


def _too_old(wanted: str) -> str | None:
    release = platform.release()
    numbers = re.match(r"\d+(?:\.\d+)*", release)
    have = numbers[0] if numbers else "0"
    if _version(have) >= _version(wanted):
        return None
    return f"this kernel is {release}"


def _version(text: str) -> list[int]:
    return [int(part) for part in text.split(".")]


def _try_userns() -> str | None:
    return _try_map(un.IdMap.root(), "run")


def _try_subid() -> str | None:
    return _try_map(un.IdMap.auto(), "range")


def _try_map(idmap: un.IdMap, purpose: Literal["run", "range"]) -> str | None:
    try:
        un.run(["true"], idmap=idmap, check=True, stdin=un.DEVNULL)
    except (un.UsernsError, un.CalledProcessError) as error:
        return _diagnosed(str(error), purpose)
    return None


def _diagnosed(error: str, purpose: Literal["run", "range"]) -> str:
    """The error, and what the doctor finds behind it."""
    from usernsctl.doctor import diagnose

    blocking = [found for found in diagnose(purpose, runsc=False).findings if found.blocks]
    if not blocking or blocking[0].cause is None:
        return error
    cause = blocking[0].cause
    return f"{error} [{cause.id}: {cause.title}; {cause.remedies['host']}]"


def _try_runsc() -> str | None:
    return _try_command([sys.executable, "-m", "usernsctl", "run", "--", "true"])


def _try_docker() -> str | None:
    return _try_command(["docker", "info"])


def _try_command(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return str(failure)
    if done.returncode == 0:
        return None
    return f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}"


_TRIALS: Mapping[str, Callable[[], str | None]] = {
    "userns": _try_userns,
    "subid": _try_subid,
    "runsc": _try_runsc,
    "docker": _try_docker,
}
