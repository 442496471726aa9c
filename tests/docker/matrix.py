"""Table of container configurations, with the errors (causes, remedies) expected in each."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Daemon = Literal["plain", "remapped"]
Ids = Literal["one", "all"]

SECCOMP = "--security-opt=seccomp=docker/seccomp.json"
IN_GVISOR = "--entrypoint=/usr/local/bin/in-gvisor"
EXEC = "--entrypoint=/usr/local/bin/usernsctl-exec"
NO_NEW_PRIVILEGES = "--security-opt=no-new-privileges"
NONE_LEFT = "--cap-drop=ALL"
FOR_HELPERS = ("--cap-add=SETUID", "--cap-add=SETGID")

# Part of the message with which Docker refuses --privileged if userns-remap is set.
REFUSED = "privileged mode is incompatible with user namespaces"


@dataclass(frozen=True)
class Cell:
    """A container's configuration and the expected result: a cell of the table.

    :ivar options: options of ``docker run``.
    :ivar ids: the value of ``in-gvisor --ids``: "one" maps a single id, and "all" maps all of the
        user's ids.
    :ivar causes: ids of the causes that are reported one after another as remedies are applied;
        empty if the command works at once.
    """

    daemon: Daemon
    options: tuple[str, ...]
    ids: Ids
    causes: tuple[str, ...] = ()

    @property
    def user(self) -> str:
        named = [one.partition("=")[2] for one in self.options if one.startswith("--user=")]
        return named[0] if named else "1000"

    def __str__(self) -> str:
        return f"{self.daemon} {' '.join(self.options) or 'default'} {self.ids}"


@dataclass(frozen=True)
class Remedy:
    """The text of a remedy, and how the tests apply the remedy.

    :ivar text: a part of the remedy's text as printed.
    :ivar add: options of ``docker run`` to add.
    :ivar drop: options of ``docker run`` to remove.
    :ivar shell: a command that root must run in the container or its image. UID stands for the
        user's id, and USER for the user's name.
    """

    text: str
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    shell: str = ""


def _grant(ranges: str) -> Remedy:
    command = f"usermod --add-subuids {ranges} --add-subgids {ranges} "
    return Remedy(command, shell=f"{command}USER")


REMEDIES = {
    "seccomp-denies-userns": Remedy("--security-opt seccomp=seccomp.json", add=(SECCOMP,)),
    "mount-denied": Remedy("--security-opt seccomp=seccomp.json", add=(SECCOMP,)),
    "no-new-privs": Remedy("without --security-opt no-new-privileges", drop=(NO_NEW_PRIVILEGES,)),
    "bounding-set": Remedy("--cap-add SETUID --cap-add SETGID", add=FOR_HELPERS),
    "needs-setfcap": Remedy("--cap-add SETFCAP", add=("--cap-add=SETFCAP",)),
    # useradd(8) also grants subordinate ranges to new users, so no-subordinate-range does not
    # follow.
    "no-passwd-entry": Remedy("useradd --uid UID NAME", shell="useradd --uid=UID USER"),
    "no-subordinate-range": _grant("100000-165535"),
    "range-outside-parent": _grant("1001-65535"),
    REFUSED: Remedy("You must run the container in the host namespace", add=("--userns=host",)),
}


def _both(
    daemon: Daemon,
    *options: str,
    causes: Sequence[str] = (),
    for_all: Sequence[str] | None = None,
) -> Iterable[Cell]:
    """Yield a cell with the ids "one" and `causes`, and a cell with the ids "all" and `for_all`.

    By default, `for_all` is the same as `causes`.
    """
    yield Cell(daemon, options, "one", tuple(causes))
    yield Cell(daemon, options, "all", tuple(causes if for_all is None else for_all))


_DENIED = ("seccomp-denies-userns",)
_NO_RANGE, _NO_NAME = "no-subordinate-range", "no-passwd-entry"

CELLS = [
    *_both("plain", causes=_DENIED),
    *_both("plain", SECCOMP),
    *_both("plain", "--privileged"),
    *_both("plain", "--userns=host", causes=_DENIED),
    *_both(
        "plain",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--userns=host",
    ),
    *_both("plain", "--user=0", causes=_DENIED, for_all=[*_DENIED, _NO_RANGE]),
    *_both("plain", "--user=0", SECCOMP, for_all=[_NO_RANGE]),
    *_both("plain", "--user=0", "--cap-add=SYS_ADMIN", causes=["mount-denied"],
           for_all=[_NO_RANGE, "mount-denied"]),
    *_both("plain", "--user=0", NONE_LEFT, SECCOMP, causes=["needs-setfcap"],
           for_all=[_NO_RANGE, "bounding-set", "needs-setfcap"]),
    *_both("plain", "--user=12345", causes=_DENIED, for_all=[*_DENIED, _NO_NAME]),
    *_both("plain", "--user=12345", SECCOMP, for_all=[_NO_NAME]),
    *_both("plain", NONE_LEFT, causes=_DENIED, for_all=[*_DENIED, "bounding-set"]),
    *_both("plain", NONE_LEFT, SECCOMP, for_all=["bounding-set"]),
    *_both("plain", NO_NEW_PRIVILEGES, SECCOMP, for_all=["no-new-privs"]),
    *_both("plain", NONE_LEFT, NO_NEW_PRIVILEGES, SECCOMP,
           for_all=["no-new-privs", "bounding-set"]),
    *_both("plain", NONE_LEFT, *FOR_HELPERS, SECCOMP),
    *_both("plain", "--read-only", "--tmpfs=/tmp", SECCOMP),
    *_both("plain", "--network=none", SECCOMP),
    *_both("remapped", causes=_DENIED),
    *_both("remapped", SECCOMP),
    *_both("remapped", "--privileged", causes=[REFUSED]),
    *_both("remapped", "--userns=host", causes=_DENIED),
    *_both("remapped", "--userns=host", SECCOMP),
    *_both("remapped", "--user=0", SECCOMP, for_all=[_NO_RANGE, "range-outside-parent"]),
    *_both("remapped", "--user=12345", SECCOMP, for_all=[_NO_NAME, "range-outside-parent"]),
    *_both("remapped", NONE_LEFT, SECCOMP, for_all=["bounding-set"]),
    *_both("remapped", NO_NEW_PRIVILEGES, SECCOMP, for_all=["no-new-privs"]),
    *_both("remapped", "--read-only", "--tmpfs=/tmp", SECCOMP),
    *_both("remapped", "--network=none", SECCOMP),
]  # fmt: skip


def cause_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return the id of the only cause that `done` reports, or REFUSED if Docker failed itself."""
    if REFUSED in done.stderr:
        return REFUSED
    named = re.findall(r"^  why: .* \[([a-z-]+)\]$", done.stderr, re.MULTILINE)
    assert len(named) == 1, done.stderr
    return str(named[0])


_DAEMONS = {
    "plain": "Docker with its default settings",
    "remapped": "Docker with userns-remap, where a container has 65,536 ids",
}


def table(found: dict[Cell, tuple[str, ...]]) -> str:
    """Return the text of docs/docker-matrix.md with the causes in `found`."""
    text = [
        "# What works in Docker",
        "",
        "`USERNSCTL_TEST_ALL=1 USERNSCTL_WRITE_MATRIX=1 make docker` runs each cell with a real",
        "Docker daemon, and writes this page if all results are as expected.",
        "",
        "The connector is the program of the image in [docker.md](docker.md#the-connector), and",
        "`in-gvisor` is the entrypoint of that image.",
        "",
        "- *works*: the connector ran, on gVisor's kernel.",
        "- *refused by Docker*: Docker itself denied the options, and started no container.",
        "- An id of a cause, such as `mount-denied`: the connector did not run, the exit status",
        "  was 125, and standard error named this cause and its remedy. The test then applied the",
        "  remedy, and tried again. If that failed, the next cause follows after *then*. After the",
        "  last remedy, the connector ran.",
        "",
        "`docker/seccomp.json` is the profile that `usernsctl seccomp-profile` prints. *One id* is",
        "the image with `in-gvisor --ids=one`. *All ids* is the image with `in-gvisor --ids=all`,",
        "which performs a launch that was frozen with `--map-auto`.",
        "",
        "Python programs that start sandboxes, pools and templates work with the same options as",
        "one id ([a service](docker.md#a-service-that-starts-sandboxes)).",
    ]
    for daemon, title in _DAEMONS.items():
        text += ["", f"## {title}", "", "| options | one id | all ids |", "|---|---|---|"]
        for one in found:
            if one.daemon != daemon or one.ids != "one":
                continue
            row = [one, Cell(one.daemon, one.options, "all")]
            results = [_result(next(found[c] for c in found if _same(c, cell))) for cell in row]
            options = f"`{' '.join(one.options)}`" if one.options else "none"
            text.append(f"| {options} | {' | '.join(results)} |")
    return "\n".join(text) + "\n"


def _same(a: Cell, b: Cell) -> bool:
    return (a.daemon, a.options, a.ids) == (b.daemon, b.options, b.ids)


def _result(causes: tuple[str, ...]) -> str:
    names = [f"`{one}`" if one != REFUSED else "refused by Docker" for one in causes]
    return ", then ".join(names) if names else "works"
