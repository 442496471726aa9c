"""Write the seccomp profiles from docker/seccomp.toml. With --check, only check them."""

from __future__ import annotations

import itertools
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generated

TREE = Path(__file__).parent.parent
SOURCE = TREE / "docker" / "seccomp.toml"
PROFILES = TREE / "src" / "usernsctl" / "profiles"

_EPERM = 1
_ALL_BITS = 0xFFFFFFFF

Rule = dict[str, Any]


def with_private_network(source: dict[str, Any]) -> dict[str, Any]:
    """Return the rules of `source`, with those for a private network added.

    If ``private_network.refusal`` has entries for a system call, they replace the call's entries in
    ``refusal``.
    """
    extra = source["private_network"]
    replaced = {entry["name"] for entry in extra["refusal"]}
    kept = [entry for entry in source["refusal"] if entry["name"] not in replaced]
    return {
        **source,
        "conditional": source["conditional"] + extra["conditional"],
        "addition": source["addition"] + extra["addition"],
        "refusal": kept + extra["refusal"],
    }


def profile(source: dict[str, Any]) -> Rule:
    """Return the seccomp profile in the OCI format, for Docker, Podman and Kubernetes."""
    names = sorted(name for group in source["base"].values() for name in group.split())
    rules = [_rule(names)]
    for entry in source["conditional"]:
        rules += [_rule([entry["name"]], *arguments) for arguments in _conditions(entry["only"])]
    rules += [_addition(entry) for entry in source["addition"]]
    rules += [rule for entry in source["refusal"] for rule in _refusals(entry)]
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


def _conditions(only: list[dict[str, Any]]) -> Iterator[list[Rule]]:
    """Yield the conditions of a rule for each combination of allowed argument values."""
    choices = ([_condition(entry, value) for value in entry["values"]] for entry in only)
    yield from map(list, itertools.product(*choices))


def _condition(entry: dict[str, Any], value: int) -> Rule:
    if "out" not in entry:
        return {"index": entry["argument"], "value": value, "op": "SCMP_CMP_EQ"}
    return _masked(entry["argument"], _ALL_BITS & ~entry["out"], value)


def _masked(argument: int, mask: int, value: int) -> Rule:
    """Return the condition that an argument has a value after a mask is applied.

    In the OCI format, `value` is the mask, and `valueTwo` the expected result.
    """
    return {"index": argument, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _refusals(entry: dict[str, Any]) -> Iterator[Rule]:
    for arguments in _conditions(entry.get("only", [])):
        if "other_than" in entry:
            other = entry["other_than"]
            argument = {"index": other["argument"], "value": other["value"], "op": "SCMP_CMP_NE"}
            arguments.append(argument)
        rule = _rule([entry["name"]], *arguments)
        yield {**rule, "action": "SCMP_ACT_ERRNO", "errnoRet": entry["errno"]}


def _addition(entry: dict[str, Any]) -> Rule:
    forbidden = entry.get("without_bits", 0)
    if "only_bits" in entry:
        forbidden = _ALL_BITS & ~entry["only_bits"]
    if not forbidden:
        return _rule([entry["name"]])
    return _rule([entry["name"]], _masked(0, forbidden, 0))


def document(source: dict[str, Any]) -> str:
    return json.dumps(profile(source), indent=2) + "\n"


def main() -> int:
    source = tomllib.loads(SOURCE.read_text())
    sources = {
        "seccomp.json": source,
        "seccomp-private-network.json": with_private_network(source),
    }
    results = [
        generated.run(sys.argv[1:], PROFILES / name, lambda rules=rules: document(rules))
        for name, rules in sources.items()
    ]
    return max(results)


if __name__ == "__main__":
    sys.exit(main())
