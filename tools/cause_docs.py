"""Write docs/causes.md from the catalogue, or with --check, check that it is up to date.

The script needs an environment in which usernsctl is installed from this tree.
"""

from __future__ import annotations

import sys
from pathlib import Path

import generated

from usernsctl.explain.catalogue import AREAS, entries, get
from usernsctl.explain.model import Cause

TARGET = Path(__file__).parent.parent / "docs" / "causes.md"

HEADINGS = {
    "namespaces": "Making or joining a namespace",
    "maps": "Writing the maps",
    "helpers": "newuidmap, newgidmap and subordinate ranges",
    "runsc": "runsc, mounts and networks",
    "bundle": "Bundles",
    "commands": "Commands and names",
    "containers": "Container engines and images",
}
TESTED_BY = {True: "real", "vm": "real, in a virtual machine", False: "given"}
PLACES = {"host": "Host", "docker": "Docker", "podman": "Podman", "kubernetes": "Kubernetes"}

INTRODUCTION = """\
# Causes

Each cause has an id. It stands in brackets at the end of the second line of an error.
`usernsctl-exec`, `usernsctl run`, `doctor` and `explain` use the same ids, and so does
`UsernsError.cause` in Python. An id never changes once it is released.

Many causes share one message. `Operation not permitted` has more than a dozen causes, and runsc's
`waiting for sandbox to start: EOF` has nearly as many. *Told by* says how to find out which cause
it is: by a step that works or does not work, or by a fact about the machine.

This file is made from the catalogue by `tools/cause_docs.py`.
"""

TESTED = """\
## How they are tested

*Real*: a test makes the machine fail for this cause, and checks that usernsctl names the cause.
*Real, in a virtual machine*: the same, by `make vm`, since it takes Debian's own kernel.
*Given*: not every machine can be made to fail for this cause. So a test gives usernsctl the facts,
or the message, and checks that it names the cause.

| id | tested |
|---|---|
"""


def document() -> str:
    known = list(entries())
    parts = [INTRODUCTION]
    for area in AREAS:
        parts.append(f"## {HEADINGS[area]}\n")
        parts += [section(get(entry.id)) for where, entry in known if where == area]
    rows = [
        f"| [`{entry.id}`](#{entry.id}) | {TESTED_BY[entry.reproduced]} |\n" for _, entry in known
    ]
    return "\n".join(parts) + "\n" + TESTED + "".join(rows)


def section(cause: Cause) -> str:
    lines = [f"### {cause.id}\n", f"**{cause.title[0].upper()}{cause.title[1:]}.** {cause.why}\n"]
    lines.append(f"*Told by:* {cause.told_by}  \n*Source:* {cause.reference}\n")
    lines += [remedy_item(PLACES[place], remedy) for place, remedy in cause.remedies.items()]
    return "\n".join(lines).rstrip() + "\n"


def remedy_item(place: str, remedy: str) -> str:
    if "\n" not in remedy and "`" not in remedy:
        return f"- {place}: `{remedy}`"
    block = "\n".join(f"  {line}" for line in ("```", *remedy.split("\n"), "```"))
    return f"- {place}:\n\n{block}\n"


if __name__ == "__main__":
    sys.exit(generated.run(sys.argv[1:], TARGET, document))
