"""Causes, findings and reports: the values that the parts of the doctor exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from usernsctl._lean import dataclass, field

#: The place where a user applies a remedy.
Place = Literal["host", "docker", "kubernetes", "podman"]

#: The goals of users. A cause matters for some of the goals.
#:
#: run: a command in gVisor with one id; range: a map of more than one id; docker and kubernetes:
#: a command in gVisor, inside an ordinary container of Docker or a Pod.
Purpose = Literal["run", "range", "docker", "kubernetes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """An entry of the catalogue.

    :ivar id: stable: it never changes once released.
    :ivar title: a few words.
    :ivar why: what the cause makes impossible, and by which rule; one or two sentences.
    :ivar told_by: how to distinguish the cause from others with the same errno or text.
    :ivar remedies: commands to copy, by the place where they apply; ``"host"`` is always a key.
    :ivar prose: whether the remedy for the host is a sentence, rather than shell commands.
    :ivar purposes: the purposes that the cause blocks.
    :ivar reference: a manual page, a kernel version, or a document, that states the rule.
    """

    id: str
    title: str
    why: str
    told_by: str
    remedies: Mapping[Place, str]
    prose: bool
    purposes: tuple[Purpose, ...]
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A cause that holds on this machine.

    :ivar cause: the entry of the catalogue, or ``None`` if nothing in it matches.
    :ivar evidence: short sentences, each with a value that was read or a probe's result.
    :ivar blocks: whether the cause makes the purpose impossible; otherwise it is a warning.
    """

    cause: Cause | None
    evidence: tuple[str, ...]
    blocks: bool

    @property
    def id(self) -> str:
        """The id of the cause, or ``"unknown"``."""
        return "unknown" if self.cause is None else self.cause.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The outcome of one step, tried in a child process.

    :ivar name: such as ``"unshare-user"`` or ``"range-map"``.
    :ivar outcome: ``"ok"``, ``"failed"``, or ``"skipped"`` if a probe that this one needs failed.
    :ivar errno: the error of the call that failed, or 0.
    :ivar detail: the message of the failure, such as a helper's own words.
    :ivar cause: the id of the cause that the core named, or ``None``.
    :ivar seconds: how long the step took.
    """

    name: str
    outcome: Literal["ok", "failed", "skipped"]
    errno: int = 0
    detail: str = ""
    cause: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of ``usernsctl doctor``.

    :ivar purpose: the purpose that the machine was examined for.
    :ivar findings: the blocking ones first, in the order in which they block.
    :ivar probes: the probes by name.
    :ivar facts: the facts that were read, as plain values by name.
    """

    purpose: Purpose
    findings: tuple[Finding, ...]
    probes: Mapping[str, Probe] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """True if no finding blocks the purpose."""
        return not any(finding.blocks for finding in self.findings)
