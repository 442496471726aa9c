"""Sample requests and facts for the tests that plan launches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from usernsctl import _core
from usernsctl.gvisor.launch.facts import Facts
from usernsctl.gvisor.launch.plan import plan_run
from usernsctl.gvisor.launch.request import Request
from usernsctl.gvisor.launch.steps import Launch
from usernsctl.maps import Extent, MappedIds

ONE_ID = MappedIds(uid=(Extent(0, 1000, 1),), gid=(Extent(0, 1000, 1),), become=(0, 0))
SEVERAL = MappedIds(
    uid=(Extent(0, 1000, 1), Extent(1, 100000, 9)), gid=(Extent(0, 1000, 1),), become=(0, 0)
)
FACTS = Facts(
    version=_core.version(),
    ids=ONE_ID,
    homes=frozenset(("/home/me", "/data")),
    runsc="/usr/bin/runsc",
    runsc_file="/usr/lib/gvisor/runsc",
    watcher="/lib/usernsctl-watch",
    verifier="/lib/usernsctl-verify",
    runsc_env={"PATH": "/bin"},
    sources={},
    scratch=("/mnt", "/srv"),
)
REQUEST = Request(args=("cat", "a b"), env={"LANG": "C"})


def launch(request: Request = REQUEST, facts: Facts = FACTS, **changed: Any) -> Launch:
    """Return the plan for `request` with `facts`; `changed` replaces fields of either."""
    ours = {name: changed.pop(name) for name in list(changed) if name in Facts.__slots__}
    return plan_run(replace(request, **changed), replace(facts, **ours))


def verbs(launch: Launch) -> list[str]:
    return [one.verb for one in launch.records()]
