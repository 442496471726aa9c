"""Requirements of tests, and functions that find out whether the host meets them."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import pytest

import usernsctl as un
from usernsctl import hardening
from usernsctl._system import python_child
from usernsctl._system.target import OwnNamespaces
from usernsctl.commands.popen import DEVNULL, TimeoutExpired, run

Trial = Callable[[], str | None]
"""A function that tests a requirement and returns the reason why it is not met, or None."""

_KERNEL = re.compile(r"kernel>=(\d+(?:\.\d+)*)")
_CAPABILITY = re.compile(r"cap:(?:CAP_)?([A-Z][A-Z_]*)")
_SECONDS = 60


class Lacking(pytest.skip.Exception):  # type: ignore[name-defined,misc]
    """Exception that skips a test because the host does not meet a requirement."""


class Needs:
    """The known requirements, each of which is checked once, when a test first needs it.

    :ivar must_work: the requirements that make a test fail, instead of skipping it, if they are not
        met.
    """

    def __init__(self, must_work: Iterable[str], trials: Mapping[str, Trial]) -> None:
        """Check that each requirement in `must_work` is known.

        :param trials: functions that check the requirements which the plugin itself does not know,
            keyed by name.
        :raises pytest.UsageError: a requirement is unknown.
        """
        self.must_work: frozenset[str] = frozenset(must_work)
        self._trials = {**_TRIALS, **trials}
        self._objections: dict[str, str | None] = {}
        for word in sorted(self.must_work):
            self.check(word)

    def check(self, word: object) -> None:
        """Check that a requirement is known.

        :raises pytest.UsageError: the requirement is unknown.
        """
        if isinstance(word, str):
            if word in self._trials or _KERNEL.fullmatch(word):
                return
            if (named := _CAPABILITY.fullmatch(word)) and named[1].lower() in hardening.names():
                return
        known = ", ".join(self._trials)
        raise pytest.UsageError(
            f"{word!r} is not a requirement; use {known}, kernel>=VERSION, as in kernel>=5.12, or "
            "cap:NAME, as in cap:SYS_ADMIN"
        )

    def __call__(self, *words: str) -> None:
        """Skip the calling test if the host does not meet a requirement in `words`.

        The test fails instead if the requirement is in `must_work`.

        :raises pytest.UsageError: a requirement is unknown.
        """
        __tracebackhide__ = True
        for word in words:
            objection = self._objection(word)
            if objection is None:
                continue
            if word in self.must_work:
                pytest.fail(f"{word} must work, but {objection}", pytrace=False)
            raise Lacking(f"{word}: {objection}")

    def _objection(self, word: str) -> str | None:
        if word not in self._objections:
            self.check(word)
            trial = self._trials.get(word)
            self._objections[word] = trial() if trial else _compare(word)
        return self._objections[word]


def _compare(word: str) -> str | None:
    if kernel := _KERNEL.fullmatch(word):
        return _too_old(kernel[1])
    capability = word.rpartition(":")[2].removeprefix("CAP_")
    if capability.lower() in hardening.effective():
        return None
    return f"this process does not hold CAP_{capability}"


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
    except un.UsernsError as error:
        return _diagnosed(str(error), error.cause, purpose)
    except un.CalledProcessError as error:
        return _diagnosed(str(error), None, purpose)
    return None


def _diagnosed(error: str, cause_id: str | None, purpose: Literal["run", "range"]) -> str:
    """Return `error`, with a cause and the cause's remedy appended if a cause is known.

    :param cause_id: the cause to append if doctor finds none, or ``None``.
    """
    from usernsctl.doctor import diagnose
    from usernsctl.doctor.remedies import remedy
    from usernsctl.doctor.render import place
    from usernsctl.explain.catalogue import get

    report = diagnose(purpose, runsc=False)
    causes = [
        finding.cause for finding in report.findings if finding.blocks and finding.cause is not None
    ]
    if cause_id is not None:
        causes.append(get(cause_id))
    if not causes:
        return error
    cause = causes[0]
    return f"{error} [{cause.id}: {cause.title}; {remedy(report, cause, place(report))}]"


def _try_runsc() -> str | None:
    argv = ["run", "--", "true"]
    return _try_command(python_child.command("usernsctl", *argv), known_as=["usernsctl", *argv])


def _try_docker() -> str | None:
    command = ["docker", "info"]
    return _try_command(command, known_as=command)


def _try_command(command: list[str], known_as: list[str]) -> str | None:
    try:
        done = run(
            command,
            namespace=OwnNamespaces(),
            stdin=DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except (OSError, TimeoutExpired) as failure:
        return str(failure)
    if done.returncode == 0:
        return None
    return f"{' '.join(known_as)}: exit status {done.returncode}: {done.stderr.strip()}"


_TRIALS: Mapping[str, Trial] = {
    "userns": _try_userns,
    "subid": _try_subid,
    "runsc": _try_runsc,
    "docker": _try_docker,
}
