"""``usernsctl explain``: print the possible causes of an error message, and their remedies."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from usernsctl._text import say
from usernsctl.cli.parser import Parser
from usernsctl.errors import UsernsError
from usernsctl.explain.logs import printable
from usernsctl.explain.printing import wrapped
from usernsctl.gvisor.launch.options import parse_path

if TYPE_CHECKING:
    from usernsctl.explain.explanation import Candidate, Explanation
    from usernsctl.explain.logs import Failure
    from usernsctl.explain.model import Finding, Place, Report


_NOT_RECOGNISED, _WRONG_USAGE = 1, 2
# Maximum number of unconfirmed causes that are printed in full. Of the others, only the title and
# the evidence are printed.
_FULL_MAX = 3
# A cause whose title names no reason, so that it is always printed in full.
_SAYS_TOO_LITTLE = "mapped-sandbox-eof-unknown"


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl explain``."""
    parser = Parser(prog, explain, wrong_usage=_WRONG_USAGE)
    parser.add_option(
        "--debug-log",
        parse=parse_path,
        metavar="DIR",
        help="Read runsc's debug logs in DIR, instead of FILE.",
    )
    parser.add_flag("--no-probe", help="Don't probe this machine; for failures on other machines.")
    parser.add_flag("--json", dest="as_json", help="Print JSON, for programs.")
    parser.add_operand("file", "[FILE]", parse=parse_path, nargs="?")
    return parser


def explain(file: str | None, debug_log: str | None, no_probe: bool, as_json: bool) -> int:
    """Print the possible causes of an error message, and their remedies.

    explain reads FILE or standard input: the output of any program that uses namespaces, such as
    runsc, newuidmap, unshare, bwrap, podman, docker or usernsctl, as text or JSON. FILE may also be
    the id of a cause, which usernsctl prints in brackets after an error. explain also probes this
    machine to find out which of the causes apply, unless you give --no-probe.

    Exit status: 0 causes were found, 1 no message in the text is known, 2 wrong usage or FILE can't
    be read.
    """
    from usernsctl.explain.explanation import explain_failures
    from usernsctl.explain.logs import failures

    if file is not None and debug_log is not None:
        return _fail("FILE and --debug-log exclude each other")
    logged: Sequence[Failure] = ()
    try:
        if debug_log is None:
            explanation = _read(file)
        else:
            logged = failures(debug_log)
            explanation = explain_failures(logged)
    except FileNotFoundError:
        if debug_log is None and " " in str(file):
            say(f"usernsctl: explain: there is no file {file!r}")
            say("  remedy: echo 'MESSAGE' | usernsctl explain    # to explain a message")
            return _WRONG_USAGE
        if debug_log is None and "/" not in str(file):
            from usernsctl.cli.parser import near
            from usernsctl.explain.catalogue import catalogue

            similar = near(str(file), catalogue())
            return _fail(f"{file}: neither a file nor the id of a cause{similar and '.'}{similar}")
        return _fail(f"{debug_log or file}: {os.strerror(errno.ENOENT)}")
    except OSError as error:
        return _fail(f"{debug_log or file or 'standard input'}: {error.strerror}")
    report = None
    if explanation.recognised and not no_probe:
        explanation, report = _probe(explanation)
    if as_json:
        print(json.dumps(_as_json(explanation, report, logged), indent=2))
    else:
        print(_as_text(explanation, report, logged))
    return 0 if explanation.recognised else _NOT_RECOGNISED


def _fail(message: str) -> int:
    say(f"usernsctl: explain: {message}")
    return _WRONG_USAGE


def _read(file: str | None) -> Explanation:
    from usernsctl.explain.catalogue import catalogue
    from usernsctl.explain.explanation import INPUT_MAX
    from usernsctl.explain.explanation import explain as explained

    if file not in (None, "-"):
        if file in catalogue() and not os.path.lexists(file):
            return explained(io.BytesIO(f"[{file}]".encode()))
        with open(str(file), "rb") as stream:
            return explained(stream)
    if sys.stdin.isatty():
        print("Paste the output with the error, then press Ctrl-D.", file=sys.stderr)
        # Read the terminal here: explained() would read again after end of file, so the user would
        # have to press Ctrl-D twice.
        return explained(io.BytesIO(sys.stdin.buffer.read(INPUT_MAX + 1)))
    return explained(sys.stdin.buffer)


def _probe(explanation: Explanation) -> tuple[Explanation, Report | None]:
    """Probe this host to find out which causes in `explanation` apply to this host.

    :returns: the explanation with confirmed causes, and the report of the probes; or, if the probes
        fail, the unchanged explanation and None.
    """
    from usernsctl.doctor import diagnose
    from usernsctl.explain.explanation import confirm

    try:
        # Probe for the purpose "run", whose findings include those of all other purposes, at least
        # as warnings.
        report = diagnose("run")
    except UsernsError as error:
        say(f"usernsctl: explain: can't probe this machine: {error}")
        return explanation, None
    return confirm(explanation, report), report


def _remedies(candidate: Candidate, report: Report | None) -> dict[Place, str]:
    """Return the remedies of a cause, with commands for this host if the cause is confirmed."""
    from usernsctl.doctor.remedies import remedy

    remedies = dict(candidate.cause.remedies)
    if report and candidate.finding:
        remedies["host"] = remedy(report, candidate.cause, "host")
    return remedies


def _as_text(explanation: Explanation, report: Report | None, logged: Sequence[Failure]) -> str:
    from usernsctl.explain.explanation import INPUT_MAX

    parts = []
    if logged:
        root = logged[0]
        parts.append(f"Root failure, logged by the {root.process}: {root.message}")
    if explanation.truncated:
        parts.append(f"Only the first {INPUT_MAX >> 20} MiB of the text were read.")
    if not explanation.recognised:
        parts.append(_nothing(explanation, logged))
        return "\n".join(parts)
    confirmed = [candidate for candidate in explanation.candidates if candidate.finding]
    blocking = [finding for finding in explanation.others if finding.blocks]
    parts.append("\n".join(wrapped(_verdict(explanation, confirmed, blocking), "")))
    full = confirmed or _likeliest(explanation.candidates)
    before: tuple[str, ...] = ()
    for candidate in full:
        seen = candidate.seen if candidate.seen != before else ()
        parts.append(_in_full(candidate, _remedies(candidate, report), seen))
        before = candidate.seen
    rest = [candidate for candidate in explanation.candidates if candidate not in full]
    if rest:
        lines = ["Less likely, since not found here:" if confirmed else "Less likely:"]
        for each in rest:
            lines += wrapped(f"  {_name(each)}", "    ")
            lines += wrapped(f"    recognised by: {each.cause.told_by}", "      ")
        parts.append("\n".join(lines))
    if blocking:
        lines = ["The probes also found these causes, which the text does not mention:"]
        for finding in blocking:
            lines += wrapped(_other(finding), "    ")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _verdict(
    explanation: Explanation, confirmed: Sequence[Candidate], blocking: Sequence[Finding]
) -> str:
    """Return the conclusion from the input and the probes of this host, in a sentence or two."""
    count = len(explanation.candidates)
    these = "one of these" if count > 1 else "probably this"
    earlier = f"When the text was printed, the cause was {these}."
    if confirmed:
        names = ", ".join(candidate.cause.id for candidate in confirmed)
        return f"Found on this machine: {names}."
    if not explanation.probed:
        order = ", the likeliest first" if count > 1 else ""
        return f"Not checked on this machine: the cause is {these}{order}."
    if blocking:
        return f"This machine has other problems (see the end). {earlier}"
    return f"No problem was found on this machine now. {earlier}"


def _likeliest(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the causes to print in full: the likeliest, and always `_SAYS_TOO_LITTLE`."""
    return [
        candidate
        for position, candidate in enumerate(candidates)
        if position < _FULL_MAX or candidate.cause.id == _SAYS_TOO_LITTLE
    ]


def _nothing(explanation: Explanation, logged: Sequence[Failure]) -> str:
    if logged:
        return "The cause of this failure is unknown."
    if explanation.empty:
        return "Nothing to explain: the text is empty, or the logs have no failure."
    return "The text has no known error message. To find problems of this machine: usernsctl doctor"


def _name(candidate: Candidate) -> str:
    return f"{candidate.cause.id}: {candidate.cause.title}"


def _in_full(candidate: Candidate, remedies: Mapping[Place, str], seen: Sequence[str]) -> str:
    cause, finding = candidate.cause, candidate.finding
    lines = wrapped(_name(candidate) + (" (confirmed here)" if finding else ""), "  ")
    lines += [f"  seen: {line}" for line in seen]
    if finding:
        for evidence in finding.evidence:
            lines += wrapped(f"  found here: {printable(evidence)}", "    ")
    lines += wrapped(f"  why: {cause.why}", "    ")
    if not finding:
        lines += wrapped(f"  recognised by: {cause.told_by}", "    ")
    for place, remedy in remedies.items():
        where = "remedy" if place == "host" else f"in {place.capitalize()}"
        first, *more = remedy.split("\n")
        lines.append(f"  {where}: {first}" if not more else f"  {where}:")
        lines += [f"    {line}" for line in (first, *more) if more]
    return "\n".join(lines)


def _other(finding: Finding) -> str:
    title = f": {finding.cause.title}" if finding.cause else ""
    return f"  {finding.id}{title}; " + "; ".join(map(printable, finding.evidence))


def _as_json(
    explanation: Explanation, report: Report | None, logged: Sequence[Failure]
) -> dict[str, Any]:
    return {
        "recognised": explanation.recognised,
        "probed": explanation.probed,
        "root_failure": logged[0].message if logged else None,
        "causes": [
            {
                "id": candidate.cause.id,
                "title": candidate.cause.title,
                "why": candidate.cause.why,
                "told_by": candidate.cause.told_by,
                "remedies": _remedies(candidate, report),
                "reference": candidate.cause.reference,
                "seen": list(candidate.seen),
                "confirmed": candidate.finding is not None if explanation.probed else None,
                "evidence": list(candidate.finding.evidence) if candidate.finding else [],
            }
            for candidate in explanation.candidates
        ],
        "others": [
            {"id": finding.id, "blocks": finding.blocks, "evidence": list(finding.evidence)}
            for finding in explanation.others
        ],
    }
