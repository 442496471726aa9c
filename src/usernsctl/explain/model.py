"""What the parts of the doctor hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from usernsctl._lean import dataclass, field

#: Where a remedy is to be applied.
Place = Literal["host", "docker", "kubernetes", "podman"]

#: What somebody may want to do; a cause matters for some of these.
#:
#: run: a command in gVisor with one id; range: a map of more than one id; docker and kubernetes:
#: the same within an ordinary container of theirs.
Purpose = Literal["run", "range", "docker", "kubernetes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """An entry of the catalogue.

    :ivar id: stable: it never changes once released.
    :ivar title: a few words.
    :ivar why: what the cause makes impossible, and by which rule; one or two sentences.
    :ivar told_by: how it is told from others with the same errno or text.
    :ivar remedies: commands to copy, by the place they are for; ``"host"`` is always there.
    :ivar prose: whether the remedy for the host is for people to read, rather than for a shell.
    :ivar purposes: what it stands in the way of.
    :ivar reference: a manual page, a kernel version, or a document, that states the rule.
    :ivar reproduced: whether the tests make it real; else they inject its facts.
    """

    id: str
    title: str
    why: str
    told_by: str
    remedies: Mapping[Place, str]
    prose: bool
    purposes: tuple[Purpose, ...]
    reference: str
    reproduced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A cause that holds on this machine.

    :ivar cause: the entry, or ``None`` where nothing in the catalogue matches.
    :ivar evidence: what was seen, each a short sentence with the value.
    :ivar blocks: whether it makes the purpose impossible; else it is a warning.
    """

    cause: Cause | None
    evidence: tuple[str, ...]
    blocks: bool

    @property
    def id(self) -> str:
        """That of the cause, or ``"unknown"``."""
        return "unknown" if self.cause is None else self.cause.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The outcome of one step, tried in a throw-away child.

    :ivar name: such as ``"unshare-user"`` or ``"range-map"``.
    :ivar outcome: ``"ok"``, ``"failed"``, or ``"skipped"`` since one that it needs failed.
    :ivar errno: of the call that failed, or 0.
    :ivar detail: what was said, such as a helper's own words.
    :ivar cause: the id that the core itself found, if it did.
    :ivar seconds: how long it took.
    """

    name: str
    outcome: Literal["ok", "failed", "skipped"]
    errno: int = 0
    detail: str = ""
    cause: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What ``usernsctl doctor`` found.

    :ivar purpose: what was looked at.
    :ivar findings: the blocking ones first, in the order in which they block.
    :ivar probes: by name.
    :ivar facts: what was read, for people and for JSON: plain values by name.
    """

    purpose: Purpose
    findings: tuple[Finding, ...]
    probes: Mapping[str, Probe] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether nothing blocks."""
        return not any(finding.blocks for finding in self.findings)
