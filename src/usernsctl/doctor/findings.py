"""Pure functions that derive doctor's findings from facts about a host and results of probes."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from usernsctl._lean import replace
from usernsctl.doctor.facts import Facts
from usernsctl.doctor.rules import CONSEQUENCES, RULES, Evidence, Rule, Seen, message_of
from usernsctl.explain.catalogue import catalogue
from usernsctl.explain.logs import only_cause
from usernsctl.explain.model import Finding, Probe, Purpose

_ANY: tuple[Purpose, ...] = ("run", "range", "docker", "kubernetes")
_SANDBOX: tuple[Purpose, ...] = ("run", "docker", "kubernetes")

#: For each probe, the uses of the host (:data:`Purpose`) that are impossible if the probe fails.
#: The failure of any other probe makes no use impossible.
STANDS_IN_THE_WAY_OF: Mapping[str, tuple[Purpose, ...]] = {
    "start": _ANY,
    "unshare-nothing": _ANY,
    "unshare-user": _ANY,
    "setgroups": _ANY,
    "one-id-map": _ANY,
    "ranges": ("range",),
    "range-map": ("range",),
    "range-mount": ("range",),
    "nested-user": _SANDBOX,
    "namespaces": _SANDBOX,
    "mount": _SANDBOX,
    "mount-bind": _SANDBOX,
    "pivot-root": _SANDBOX,
    "ptrace": _SANDBOX,
    "runsc": _SANDBOX,
}

#: The probes of maps of several ids. A cause that makes only these probes fail blocks only the
#: purpose "range".
_OF_RANGES = ("ranges", "range-map", "range-mount")

#: The id of the cause to report if runsc prints that one of its processes exited, but not why.
_EOF_UNKNOWN = "mapped-sandbox-eof-unknown"


def findings(
    facts: Facts, probes: Mapping[str, Probe], purpose: Purpose = "run"
) -> tuple[Finding, ...]:
    """Return the findings for `purpose`: first the blocking ones, then the warnings.

    Each finding with a cause has evidence. A failed probe without a known cause yields a finding
    without a cause.

    :param probes: the probes, keyed by name; a missing probe counts as not tried.
    """
    seen = Seen(facts, probes)
    held = hold(seen)
    found = []
    for rule, evidence in held:
        finding = _weigh(rule, evidence, seen, purpose)
        if finding is not None:
            found.append(finding)
    if not any(rule.eclipses for rule, _ in held):
        found += _unknown(seen, [rule for rule, _ in held], purpose)
    return tuple(sorted(found, key=lambda finding: not finding.blocks))


def attributed(facts: Facts, probes: Mapping[str, Probe]) -> dict[str, Probe]:
    """Return `probes`, with the causes of failed probes taken from rules that explain the probes.

    A probe's own cause is kept if the rule for this cause applies and explains the probe, or if no
    rule that applies explains the probe.
    """
    held = hold(Seen(facts, probes))
    found = dict(probes)
    for name, probe in probes.items():
        reasons = [rule.id for rule, _ in held if name in rule.explains]
        if probe.outcome == "failed" and reasons and probe.cause not in reasons:
            found[name] = replace(probe, cause=reasons[0])
    return found


def hold(seen: Seen) -> list[tuple[Rule, Evidence]]:
    """Return all rules that apply, with their evidence, including rules that block no purpose."""
    held: dict[str, tuple[Rule, Evidence]] = {}
    for rule in RULES:
        evidence = rule.evidence(seen)
        if evidence and rule.eclipses:
            return [(rule, evidence)]
        if evidence and not (rule.guessed and (rule.id in held or _explained(held, rule))):
            held[rule.id] = (rule, evidence)
    for consequence, reasons in CONSEQUENCES.items():
        if any(reason in held for reason in reasons):
            held.pop(consequence, None)
    return list(held.values())


def _explained(held: Mapping[str, tuple[Rule, Evidence]], guessed: Rule) -> bool:
    """Return whether rules in `held` explain any of the probes that the rule `guessed` explains."""
    return any(set(guessed.explains) & set(rule.explains) for rule, _ in held.values())


def _weigh(rule: Rule, evidence: Evidence, seen: Seen, purpose: Purpose) -> Finding | None:
    """Return the finding for a rule that applies; None if the cause does not concern `purpose`."""
    cause = catalogue()[rule.id]
    of_ranges = {message_of(probe) for name in _OF_RANGES if (probe := seen.unsettled(name))}
    concerned: set[Purpose] = {"range"} if of_ranges >= set(evidence) else set(cause.purposes)
    for name, purposes in STANDS_IN_THE_WAY_OF.items():
        probe = seen.unsettled(name)
        if probe is not None and message_of(probe) in evidence:
            concerned.update(purposes)
    if purpose in concerned:
        return Finding(cause=cause, evidence=evidence, blocks=not rule.warns)
    if "range" in concerned or rule.always:
        # Warn, because the user may want to map several ids, although the purpose requires one.
        return Finding(cause=cause, evidence=evidence, blocks=False)
    return None


def _unknown(seen: Seen, held: list[Rule], purpose: Purpose) -> list[Finding]:
    explained = {name for rule in held for name in rule.explains}
    known = {rule.id for rule in held}
    found = []
    for name, concerned in STANDS_IN_THE_WAY_OF.items():
        probe = seen.failed(name)
        if probe is None or name in explained or probe.cause in known:
            continue
        blocks = purpose in concerned
        if not blocks and "range" not in concerned:
            continue
        cause_id = probe.cause or (_by_output(probe.detail) if name == "runsc" else None)
        cause = catalogue().get(cause_id) if cause_id else None
        found.append(Finding(cause=cause, evidence=_shown(probe), blocks=blocks))
        # Report no later probe, because the cause of this failure may have made it fail, too.
        if blocks:
            break
    return found


def _by_output(output: str) -> str | None:
    """Return the id of the cause of a message in runsc's output, or None if no cause is known."""
    if cause := only_cause(output.encode("utf-8", "replace")):
        return cause
    return _EOF_UNKNOWN if "waiting for sandbox to start: EOF" in output else None


def _shown(probe: Probe) -> Evidence:
    if not probe.errno:
        return (message_of(probe),)
    symbol = errno.errorcode.get(probe.errno, "unknown")
    return (message_of(probe), f"errno {probe.errno} ({symbol})")
