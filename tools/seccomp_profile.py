"""Make the seccomp profile from docker/seccomp.toml, or check that it is up to date.

python tools/seccomp_profile.py [--check]
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TREE = Path(__file__).parent.parent
SOURCE = TREE / "docker" / "seccomp.toml"
PROFILE = TREE / "src" / "usernsctl" / "profiles" / "seccomp.json"

_EPERM = 1
_ALL_BITS = 0xFFFFFFFF

Rule = dict[str, Any]


def profile(source: dict[str, Any]) -> Rule:
    """The profile in the form that Docker, Podman and Kubernetes read (OCI runtime-spec)."""
    names = sorted(name for group in source["base"].values() for name in group.split())
    rules = [_rule(names)]
    for entry in source["conditional"]:
        rules += [_rule([entry["name"]], *arguments) for arguments in _conditions(entry)]
    rules += [_addition(entry) for entry in source["addition"]]
    rules += [
        {"names": [entry["name"]], "action": "SCMP_ACT_ERRNO", "errnoRet": entry["errno"]}
        for entry in source["refusal"]
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": source["architectures"],
        "syscalls": rules,
    }


def _rule(names: list[str], *arguments: Rule) -> Rule:
    rule: Rule = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if arguments:
        rule["args"] = list(arguments)
    return rule


def _conditions(entry: dict[str, Any]) -> Iterator[list[Rule]]:
    """The arguments of each rule that together allow what the entry says."""
    if "unless" in entry:
        unless = entry["unless"]
        yield [{"index": unless["argument"], "value": unless["equals"], "op": "SCMP_CMP_NE"}]
        return
    for value in entry["only"]["values"]:
        yield [{"index": entry["only"]["argument"], "value": value, "op": "SCMP_CMP_EQ"}]


def _addition(entry: dict[str, Any]) -> Rule:
    forbidden = entry.get("without_bits", 0)
    if "only_bits" in entry:
        forbidden = _ALL_BITS & ~entry["only_bits"]
    if not forbidden:
        return _rule([entry["name"]])
    # In this comparison, `value` is the mask and `valueTwo` what the masked argument must be.
    condition = {"index": 0, "value": forbidden, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    return _rule([entry["name"]], condition)


def main(arguments: list[str]) -> int:
    text = json.dumps(profile(tomllib.loads(SOURCE.read_text())), indent=2) + "\n"
    if arguments == ["--check"]:
        if PROFILE.read_text() == text:
            return 0
        print(f"{PROFILE} is out of date: run python tools/seccomp_profile.py", file=sys.stderr)
        return 1
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    PROFILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
