"""``usernsctl run --dry-run``: print what a run would do, without starting the sandbox."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from usernsctl import _text
from usernsctl._core import SANDBOX_FILES_MAX, seen_limits
from usernsctl.cli.waiting import TERMINATING

if TYPE_CHECKING:
    from usernsctl.gvisor.launch.facts import Facts
    from usernsctl.gvisor.launch.request import Request
    from usernsctl.gvisor.launch.steps import Launch, Record
    from usernsctl.maps import Extent


def show(request: Request, notify: Callable[[str], object], *, as_json: bool) -> None:
    """Print the launch that usernsctl plans for a request.

    :param notify: a function that prints a message for the user.
    :param as_json: whether to print JSON.
    :raises UsernsError: the run would fail for a reason that is known before it starts.
    """
    from usernsctl.gvisor.launch.facts import inspect
    from usernsctl.gvisor.launch.plan import plan_run

    inspection = inspect(request, os.environ, notify=notify, makes=False)
    launch = plan_run(inspection.request, inspection.facts)
    if as_json:
        print(json.dumps(described(launch, inspection.facts), indent=2))
    else:
        print("\n".join(map(_text.shown, as_text(launch, inspection.facts))))


def described(launch: Launch, facts: Facts) -> dict[str, Any]:
    """Return a launch as a JSON object; ``ID`` and ``TIME`` stand for values set at the start."""
    place = _Names(launch)
    return {
        "version": launch.version,
        "ids": {"uid": _extents(facts.ids.uid), "gid": _extents(facts.ids.gid)},
        "oom_score": launch.oom_score,
        "limits": dict(zip(("memory", "processors"), _seen(facts), strict=True)),
        "enforced": [
            {"name": part.name, "limit": part.limit, "means": part.means}
            for part in (facts.enforced.parts if facts.enforced is not None else ())
        ],
        "sources": [{"how": source.how, "path": source.path} for source in launch.sources],
        "scratch": place.scratch,
        "steps": [place.step(one) for one in launch.steps],
        "files": [place.step(one) for one in launch.files],
        "config": place.config(facts),
        "given_up": [one.verb for one in launch.given_up],
        "watcher": place.words(launch.watcher),
        "runsc": place.words(launch.runsc),
        "environment": list(launch.runsc_env),
    }


def as_text(launch: Launch, facts: Facts) -> Iterator[str]:
    """Yield the lines of text that describe a launch."""
    from usernsctl.gvisor.launch.steps import VERBS

    place = _Names(launch)

    def descriptions(steps: Iterable[Record]) -> Iterator[str]:
        for step in steps:
            yield f"  {VERBS[step.verb][1].format(**place.named(step))}"

    yield "Files that are opened before the namespace is entered:"
    yield from (f"  {source.path}" for source in launch.sources)
    yield "Id maps, as inside:outside:count:"
    for kind, extents in (("uid", facts.ids.uid), ("gid", facts.ids.gid)):
        yield f"  {kind} {', '.join(map(str, extents))}"
    if launch.oom_score is not None:
        yield f"  oom_score_adj {launch.oom_score}"
    memory, processors = _seen(facts)
    yield "Memory and processors that the command sees, by its limits and the control group's:"
    yield f"  {memory / 2**20:.1f} MiB of memory, {processors} processors"
    if facts.enforced is not None:
        yield "Limits, with the mechanism that enforces each:"
        yield from (f"  {part}" for part in facts.enforced.parts)
    yield f"The root filesystem, {place.scratch}/root, in a mount namespace of its own:"
    yield from descriptions(launch.steps)
    yield f"Other files of the run, in {place.scratch}:"
    yield from descriptions(launch.files)
    yield f"{place.scratch}/bundle/config.json:"
    yield from (f"  {line}" for line in json.dumps(place.config(facts), indent=2).split("\n"))
    yield "Privileges that are given up:"
    yield from descriptions(launch.given_up)
    yield f"Program to execute, with the environment {' '.join(launch.runsc_env)}:"
    yield f"  {_text.command(place.words(launch.watcher))}"
    yield "Network stack of the command:"
    yield f"  {_stack_of(launch.runsc)}"
    yield "Command line of runsc:"
    yield f"  {_text.command(place.words(launch.runsc))}"


def _stack_of(words: Sequence[str]) -> str:
    """Return a description of the network stack and namespace that runsc's arguments select."""
    from usernsctl.gvisor.launch.network import NETWORK

    if "--network=host" not in words:
        return "gVisor's own, with only a loopback device"
    where = "a network namespace for the sandbox" if NETWORK in words else "this machine's network"
    return f"that of this machine's kernel, in {where}"


def _seen(facts: Facts) -> tuple[int, int]:
    """Return the memory size in bytes, and the number of CPUs, that the command sees."""
    memory, processors = seen_limits()
    if facts.enforced is not None:
        memory = min(memory, facts.enforced.memory or memory)
        processors = min(processors, facts.enforced.processors or processors)
    return memory, processors


def _ignored_signals() -> int:
    """Return the mask of the terminating signals that this process ignores.

    The command ignores these signals, too (add_ignored_signals() in csrc/launch/config.c).
    """
    found = (one for one in TERMINATING if signal.getsignal(one) is signal.SIG_IGN)
    return sum(1 << (one - 1) for one in found)


def _open_files() -> dict[str, Any]:
    """Return this process's RLIMIT_NOFILE in the form that the core writes to config.json."""
    import resource

    soft, hard = (
        min(limit % 2**64, SANDBOX_FILES_MAX)
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return {"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}


def _extents(extents: Iterable[Extent]) -> list[dict[str, int]]:
    return [{"inside": e.inside, "outside": e.outside, "count": e.count} for e in extents]


class _Names:
    """Readable names to print in place of a launch's placeholders, such as ``@s``."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self.scratch = f"{launch.scratch[0]}/usernsctl"
        self._marks = {"@s": self.scratch, "@i": "ID", "@t": "TIME", "@@": "@"}

    def word(self, word: str) -> str:
        return re.sub("@.", lambda mark: self._marks[mark[0]], word)

    def words(self, words: Iterable[str]) -> list[str]:
        return [self.word(word) for word in words]

    def named(self, one: Record) -> Mapping[str, str]:
        named = one.named
        if "source" in named:
            named["source"] = self._launch.sources[int(named["source"])].path
        if "name" in named:
            named["name"] = self.word(named["name"])
        return named

    def step(self, one: Record) -> dict[str, str]:
        return {"do": one.verb, **self.named(one)}

    def config(self, facts: Facts) -> Any:
        """Return config.json with the values that would be inserted if the sandbox started now."""
        from usernsctl.gvisor import oci
        from usernsctl.gvisor.launch.steps import VERIFY_AS, VERIFY_IGNORE, completed, record

        launch, start = self._launch, self._launch.start_values
        assert launch.config is not None
        assert start is not None
        user = start.user if facts.ids.has(start.user) else (0, 0)
        ignored = _ignored_signals()
        values: dict[Record, Any] = {
            # The arguments of usernsctl-verify before the command are the signals to ignore, and
            # the command's ids if runsc's user namespace does not map them. usernsctl-verify sets
            # both (csrc/launch/config.c).
            record("json-args"): (
                *((f"{VERIFY_IGNORE}{ignored}",) if facts.verifier and ignored else ()),
                *((VERIFY_AS, *map(str, start.user)) if user != start.user else ()),
                *start.args,
            ),
            record("json-env"): start.env,
            record("json-cwd"): start.cwd or os.getcwd(),
            record("json-root"): f"{self.scratch}/root",
            record("json-terminal"): start.terminal,
            record("json-user"): {
                **dict(zip(("uid", "gid"), user, strict=True)),
                **({"additionalGids": start.groups} if start.groups and user == start.user else {}),
            },
            record("json-open-files"): [_open_files()],
            record("json-uid-map"): oci.identity_mappings(facts.ids.uid),
            record("json-gid-map"): oci.identity_mappings(facts.ids.gid),
        }
        binds = [one.named for one in launch.steps if one.verb == "bind"]
        for number, bind in enumerate(binds):
            source = launch.sources[int(bind["source"])].path
            values[record("json-bind-source", number)] = source
            values[record("json-bind-destination", number)] = bind["inside"]
        return completed(launch.config, values, several=facts.ids.count > 1)
