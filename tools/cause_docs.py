"""Write docs/causes.md from the catalogue of the causes of failures. With --check, only check it.

usernsctl must be installed from this tree in the environment that runs the script.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import generated

from usernsctl.explain.catalogue import AREAS, Entry, entries, get
from usernsctl.explain.model import Cause

TARGET = Path(__file__).parent.parent / "docs" / "causes.md"

HEADINGS = {
    "namespaces": "Making or joining a namespace",
    "maps": "Writing the maps",
    "helpers": "newuidmap, newgidmap and subordinate ranges",
    "runsc": "runsc, mounts and networks",
    "network": "Private networks",
    "bundle": "Bundles",
    "commands": "Commands and names",
    "containers": "Container engines and images",
}
# Matches file names, options, programs and system calls, which stay in lower case even at the
# beginning of a sentence.
NAME = re.compile(r"(newuidmap|nft|pasta|podman|proc|runsc|setgroups)\b|\S*[_.(]")
PLACES = {"host": "Host", "docker": "Docker", "podman": "Podman", "kubernetes": "Kubernetes"}

INTRODUCTION = """\
# Causes

Each cause has an id, which error messages print in brackets at the end of their second line.
`usernsctl-exec`, `usernsctl run`, `doctor`, `explain` and `UsernsError.cause` in Python use the
same ids. An id never changes after it was released.

Many causes have the same error message. `Operation not permitted` has more than a dozen causes, and
runsc's `waiting for sandbox to start: EOF` has nearly as many. *Recognised by* describes how to
distinguish a cause from others: by a step that succeeds or fails, or by a fact about the machine.
This paragraph also has details that are too long for an error message.

`tools/cause_docs.py` generates this page from the catalogue.
"""

TESTED = """\
## Tests of the causes

*Real*: a test creates the cause on the machine, and checks that usernsctl names the cause.
*Real, in a virtual machine*: `make vm` runs such a test, because it needs Debian's own kernel.
*Given*: the tests can't create the cause. They pass the facts or the message to usernsctl, and
check that usernsctl names the cause.

| id | tested |
|---|---|
"""


def document() -> str:
    known = list(entries())
    parts = [INTRODUCTION]
    for area in AREAS:
        parts.append(f"## {HEADINGS[area]}\n")
        parts += [section(get(entry.id)) for where, entry in known if where == area]
    rows = [f"| [`{entry.id}`](#{entry.id}) | {tested(entry)} |\n" for _, entry in known]
    return "\n".join(parts) + "\n" + TESTED + "".join(rows)


def tested(entry: Entry) -> str:
    if entry.given is not None:
        return f"given. {entry.given}"
    return "real, in a virtual machine" if entry.in_vm else "real"


def section(cause: Cause) -> str:
    title = cause.title if NAME.match(cause.title) else cause.title[0].upper() + cause.title[1:]
    lines = [f"### {cause.id}\n", f"**{title}.** {cause.why}\n"]
    lines.append(f"*Recognised by:* {cause.told_by}  \n*Source:* {cause.reference}\n")
    lines += [remedy_item(PLACES[place], remedy) for place, remedy in cause.remedies.items()]
    return "\n".join(lines).rstrip() + "\n"


def remedy_item(place: str, remedy: str) -> str:
    if "\n" not in remedy and "`" not in remedy:
        return f"- {place}: `{remedy}`"
    block = "\n".join(f"  {line}" for line in ("```", *remedy.split("\n"), "```"))
    return f"- {place}:\n\n{block}\n"


if __name__ == "__main__":
    sys.exit(generated.run(sys.argv[1:], TARGET, document))
