"""Types that the modules of doctor and explain exchange: causes of failures, findings, reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from usernsctl._lean import dataclass, field

#: A place where a user applies remedies: the host, or a container engine.
Place = Literal["host", "docker", "kubernetes", "podman"]

#: A use of the host, for which doctor examines it. A cause blocks only some purposes.
#:
#: run: a command in gVisor with one id; range: an id map of more than one id; docker and
#: kubernetes: a command in gVisor, inside an ordinary container of Docker or a Pod.
Purpose = Literal["run", "range", "docker", "kubernetes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause of failures, as an entry of the catalogue describes it.

    :ivar id: the stable id; a released id is never renamed.
    :ivar title: the cause in a few words.
    :ivar why: the rule behind the failure, in a sentence. Errors print the sentence, together with
        the id, in one line of at most 100 columns.
    :ivar told_by: how to distinguish the cause from other causes of the same errno or message, and
        details of the rule.
    :ivar remedies: shell commands, keyed by the place where they apply; the key ``"host"`` always
        exists.
    :ivar prose: whether the remedy for the host is prose instead of shell commands.
    :ivar purposes: the purposes that the cause blocks.
    :ivar reference: a manual page, a kernel release or a document that states the rule.
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
    """A diagnosis of this host.

    :ivar cause: the catalogue entry of the cause, or ``None`` if no entry matches.
    :ivar evidence: short sentences, each with a value read from this host or the result of a probe.
    :ivar blocks: whether the cause prevents the purpose for which the host is examined; otherwise
        the finding is a warning.
    """

    cause: Cause | None
    evidence: tuple[str, ...]
    blocks: bool

    @property
    def id(self) -> str:
        """The id of :attr:`cause`, or ``"unknown"``."""
        return "unknown" if self.cause is None else self.cause.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The result of trying one step in a child process.

    :ivar name: the name of the step, such as ``"unshare-user"`` or ``"range-map"``.
    :ivar outcome: ``"ok"``, ``"failed"``, or ``"skipped"`` if the step timed out, or if a probe
        that must succeed before this probe has failed.
    :ivar errno: the error number of the system call that failed, or 0.
    :ivar detail: if the step failed, the error message, for example newuidmap's; if it succeeded,
        its output; if the probe was skipped, the reason.
    :ivar cause: the id of the cause that the core determined, or ``None``.
    :ivar seconds: the duration of the step, in seconds.
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

    :ivar purpose: the purpose for which the host was examined.
    :ivar findings: the findings: first the blocking ones, in the order in which they prevent a
        sandbox from starting.
    :ivar probes: the probes, keyed by name.
    :ivar facts: the facts, as plain values keyed by name.
    """

    purpose: Purpose
    findings: tuple[Finding, ...]
    probes: Mapping[str, Probe] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """True if no finding blocks the purpose."""
        return not any(finding.blocks for finding in self.findings)
