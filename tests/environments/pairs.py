"""Pairs of environments: two misconfigurations at once, chosen at random.

The expected results of a pair are not in table.py, but follow from two rules. doctor must report
"ready" if and only if the command works. Otherwise the first reported cause must be a cause of one
of the two environments.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from judging import Answer, Expected, causes, faults, in_range
from table import ENVIRONMENTS, KINDS, Environment

#: Number of pairs. The nightly CI sets a larger number.
COUNT = int(os.environ.get("USERNSCTL_PAIRS") or 40)
# Seed of the random choice of pairs. The nightly CI sets another seed each night.
SEED = int(os.environ.get("USERNSCTL_PAIRS_SEED") or 1)

#: Commands to run in each pair of environments: those of single environments, and `exec`. `exec`
#: (usernsctl-exec) shows whether a map of more than one id works, even if no sandbox works.
TRIED = ("run", "auto", "exec", "doctor", "range")

#: Kind of environments that is applied last, because root can't mount in the user namespace of a
#: container.
LAST = "callers and containers"
#: Environments in which root can't replace files, and which are therefore applied after the other
#: environment of a pair.
LATE = (
    *("mounts-shared", "etc-closed", "etc-0750", "read-only", "no-mount-point"),
    *("kubernetes-restricted", "kubernetes-unconfined"),
)
#: Environments in which root can no longer create a container or other namespaces.
CLOSED = (
    *("no-proc", "no-proc-sys", "proc-subset", "proc-read-only", "proc-of-outer-pids"),
    *("proc-of-other-pids", "landlock", "chroot", "chroot-into-mount-point", *LATE),
)
#: Kinds of environments that set the caller's ids or subordinate ranges.
OF_CALLER = ("subordinate ranges", LAST)
#: Kinds of environments of which a pair contains at most one, because two environments of such a
#: kind change the same object, and the second would undo the first.
EXCLUSIVE = (
    "subordinate ranges",
    "newuidmap and newgidmap",
    "runsc",
    LAST,
)
#: Prefixes of the names of environments that hide files, by prefixes of the names of the
#: environments that need these files.
HIDDEN_FROM = {
    "time-namespace": ("no-proc", "proc-", "hidepid-"),
    "sysctl-": ("no-proc", "proc-", "hidepid-"),
    "cgroup-": ("no-sys",),
}
#: Causes that doctor may guess for a failed sandbox, by prefixes of the names of environments with
#: a limit. With another misconfiguration, a sandbox may exceed a limit that otherwise suffices, and
#: doctor can't detect that.
GUESSES_OF_LIMITS = {
    "nproc-": "process-limit",
    "nofile-": "descriptor-limit",
    "as-": "address-space-limit",
    "data-": "address-space-limit",
    "fsize-": "file-size-limit",
}
#: Causes that doctor may guess for a failed sandbox, by kinds of environments with a seccomp
#: filter. No program can read a filter's rules.
GUESSES_OF_FILTERS = {
    "filters of single calls": "seccomp-denies-call",
    "filters of namespaces, mounts and tracing": "seccomp-denies-call",
}

#: Causes that a command may report in a pair of environments in place of the expected cause, by
#: the expected cause.
AS_RIGHT = {
    # doctor can't read what a filter denies, so it suspects a filter before a security module such
    # as Landlock.
    "landlock-denies-mount": ("mount-denied",),
    # dash(1) moves the descriptor of its script to number 10 or higher. So a shell script in place
    # of runsc can't run if RLIMIT_NOFILE is 10 or lower.
    "descriptor-limit": ("not-runsc",),
    # In a container's user namespace, the kernel ignores file capabilities of other user
    # namespaces, so the helper seems to have none.
    "helper-caps-other-userns": ("helper-not-setuid",),
}
#: Exit statuses of a native program that a seccomp filter or a low memory limit has killed.
KILLED = (-signal.SIGSYS, -signal.SIGKILL, -signal.SIGSEGV)

#: Pairs that have revealed a bug in doctor or in another command.
REMEMBERED = (
    "dev-nodev+runsc-killed",
    "nofile-5+runsc-killed-by-filter",
    "open_tree-killed+no-setns",
    "runsc-wrapped+as-200m",
    "stderr-closed+helpers-lie",
    "as-64g+etc-closed",
    "nproc-15-hard+proc-of-other-pids",
    "chroot-into-mount-point+no-bpf",
    "runsc-missing+bounded-admin",
    "stdin-closed+dev-nodev",
    "data-64m+statfs-killed",
    "root+bounding-set-empty",
    "runsc-crashes+landlock-allows-proc",
    "runsc-exits-3-with-words+vfork-killed",
    "runsc-wrapped+vfork-killed",
    "helpers-setuid-and-capable+hidepid-noaccess",
    "nproc-1+pipe2-killed",
    "nproc-1+statfs-killed",
    "dev-nodev+egid-differs",
    "no-membarrier+runsc-0711",
    "runsc-missing+no-mount-point",
    "cap-last-cap-empty+powerless-root",
    "landlock-allows-proc+stdin-closed",
    "proc-of-outer-pids+runsc-hangs",
    "no-proc+runsc-hangs",
)


def find(name: str) -> Environment:
    """Return the environment `name`, or the combined environment if `name` is a pair."""
    first, plus, second = name.partition("+")
    return combine(ENVIRONMENTS[first], ENVIRONMENTS[second]) if plus else ENVIRONMENTS[name]


def caller(environment: Environment) -> tuple[object, ...]:
    return (environment.user, environment.uid, environment.gid, tuple(environment.groups))


ORDINARY = caller(ENVIRONMENTS["healthy"])


def contradiction(first: Environment, second: Environment) -> str | None:
    """Return why two environments can't be combined, or ``None`` if they can."""
    if first.quiet or second.quiet:
        return "output can't be read"
    if "range" not in first.tried or "range" not in second.tried:
        return "doctor can't start"
    if all(caller(one) != ORDINARY or one.kind in OF_CALLER for one in (first, second)):
        return "two callers"
    # securebits-noroot also replaces newuidmap and newgidmap with copies, which would hide those of
    # the other environment.
    helpers = "newuidmap and newgidmap" in (first.kind, second.kind)
    if helpers and "securebits-noroot" in (first.name, second.name):
        return "the same object"
    for needing, hiding in HIDDEN_FROM.items():
        for one, other in ((first, second), (second, first)):
            if one.name.startswith(needing) and other.name.startswith(hiding):
                return "the same object"
    names = (first.name, second.name)
    # These filters deny the calls by which the trial sets the ids of the other environment.
    denies_ids = "no-setresgid" in names or "no-setresuid" in names
    if denies_ids and any(name.endswith("-differs") for name in names):
        return "two callers"
    late = first.name in LATE and second.name in LATE
    # Reject two environments with the same limit: the second could raise the limit that the first
    # has set. Likewise reject two that mount another /dev.
    prefixes = {one.name.partition("-")[0] + "-" for one in (first, second)}
    if prefixes == {"many-", "nofile-"}:
        return "doctor can't start"
    limited = len(prefixes) == 1 and prefixes <= {*GUESSES_OF_LIMITS, "dev-"}
    if late or limited or (first.kind == second.kind and first.kind in EXCLUSIVE):
        return "the same object"
    # draw() sorts each pair, so only the second environment can be of the kind LAST.
    closed = first.name in CLOSED or (second.late and (first.early or first.kind == "limits"))
    if second.kind == LAST and closed:
        return "a container can't be made"
    if not any((first.run, first.auto, second.run, second.auto)):
        return "both work"
    return None


def combine(first: Environment, second: Environment) -> Environment:
    other = first if caller(first) != ORDINARY else second
    both = (first, second)
    # Root with an empty bounding set also lacks CAP_SETFCAP, so needs-setfcap is a correct cause.
    names = {first.name, second.name}
    more = "needs-setfcap" if other.user == "root" and "bounding-set-empty" in names else None
    within = [one.within for one in both if one.within is not None]
    return replace(
        other,
        name=f"{first.name}+{second.name}",
        root=(*first.root, *second.root),
        early=(*first.early, *second.early),
        late=(*first.late, *second.late),
        run=union(first.run, second.run, more),
        auto=union(first.auto, second.auto, more),
        range_=union(in_range(first), in_range(second), more),
        tried=TRIED,
        sometimes=False,
        silent=first.silent or second.silent,
        apart=first.apart or second.apart,
        within=max(within) if within else None,
        seconds=max(first.seconds, second.seconds),
    )


def union(*several: Expected) -> tuple[str, ...]:
    found = tuple(cause for one in several for cause in causes(one))
    return (*found, *(other for one in found for other in AS_RIGHT.get(one, ())))


def draw(count: int, seed: int) -> tuple[list[str], Counter[str]]:
    """Return the names of random pairs, and the number of rejected pairs for each reason.

    All kinds of environments are equally probable, however many environments a kind has.
    """
    chance = random.Random(seed)
    by_kind = {
        kind: [one for one in ENVIRONMENTS.values() if one.kind == kind and one.name != "healthy"]
        for kind in KINDS
    }
    found: dict[str, None] = {}
    vain: Counter[str] = Counter()
    while len(found) < count:
        first, second = sorted(
            (chance.choice(by_kind[chance.choice(KINDS)]) for _ in range(2)),
            key=lambda one: (one.kind == LAST, LATE.index(one.name) if one.name in LATE else -1),
        )
        if first is second:
            continue
        reason = contradiction(first, second)
        if reason:
            vain[reason] += 1
        else:
            found[f"{first.name}+{second.name}"] = None
    return list(found), vain


def works(answer: Answer) -> bool:
    return answer["status"] == 0 and answer["stdout"] == "ran\n"


def doctors(first: Environment, second: Environment) -> Expected:
    """Return all causes that doctor may report if a sandbox fails in the combined environment."""
    guesses = [
        guess
        for one in (first, second)
        for start, guess in GUESSES_OF_LIMITS.items()
        if one.name.startswith(start)
    ]
    guesses += [
        GUESSES_OF_FILTERS[one.kind] for one in (first, second) if one.kind in GUESSES_OF_FILTERS
    ]
    return (*causes(combine(first, second).run), *guesses)


def faults_of_pair(pair: Environment, answers: Mapping[str, Any]) -> Iterator[str]:
    """Yield each wrong result of a command in a pair of environments, after the command's name."""
    judged = replace(
        pair,
        run=None if works(answers["run"]) else pair.run,
        auto=None if works(answers["auto"]) else pair.auto,
        range_=None if works(answers["exec"]) else pair.range_,
    )
    first, second = (ENVIRONMENTS[name] for name in pair.name.split("+"))
    within = in_range(pair)
    for command, answer in answers.items():
        if command == "exec" and answer["status"] in KILLED:
            # If the kernel kills usernsctl-exec itself, its caller sees the signal, so no message
            # is needed.
            continue
        expected = judged
        if command == "doctor" and judged.run is not None:
            expected = replace(judged, run=doctors(first, second))
        elif command == "range" and works(answers["exec"]) and "process-limit" in causes(within):
            # RLIMIT_NPROC also counts doctor's own processes. If doctor can't start a process, it
            # reports this limit, whatever the other misconfiguration is.
            expected = replace(judged, range_="process-limit", sometimes=True)
        for fault in faults(expected, command, answer):
            yield f"{command}: {fault}"
