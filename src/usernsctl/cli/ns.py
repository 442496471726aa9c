"""``usernsctl ns``: named namespaces."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from usernsctl._lean import asdict
from usernsctl._text import shown_lines
from usernsctl.cli import call_for_each, terminal
from usernsctl.cli.parser import Parser, UsageError
from usernsctl.cli.waiting import supervise
from usernsctl.gvisor.launch.network import private_command
from usernsctl.namespaces import named
from usernsctl.namespaces.named import NamedNamespace
from usernsctl.namespaces.namespace import Namespace


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl ns``."""
    group = Parser(prog, description="Create, list, use and remove named namespaces.")
    verb = group.add_verb(
        "create",
        "Create a namespace called NAME.",
        create,
        usage="NAME [OPTION]...",
        passes_unknown=True,
    )
    verb.add_operand("name", "NAME")
    verb.add_words("options", "[OPTION]...")
    verb = group.add_verb("list", "List the named namespaces.", list_)
    verb.add_flag("--json", dest="as_json", help="Print JSON, for programs.")
    verb = group.add_verb("tree", "Show the tree of user namespaces.", tree)
    verb.add_flag("--json", dest="as_json", help="Print JSON, for programs.")
    verb = group.add_verb(
        "exec",
        "Run COMMAND in the namespace NAME.",
        exec_,
        usage="NAME [--] COMMAND [ARG]...",
        wants=["environ"],
        options_first=True,
        passes_unknown=True,
    )
    verb.add_operand("name", "NAME")
    verb.add_words("command", "COMMAND [ARG]...")
    verb = group.add_verb(
        "remove", "Remove namespaces: kill the process that holds each of them.", remove
    )
    verb.add_operand("names", "NAME...", nargs="+")
    return group


def create(name: str, options: tuple[str, ...]) -> None:
    """Create a namespace called NAME.

    OPTIONS are the map and namespace options of usernsctl-exec, such as -r, -m, -p or --map-auto.
    --net private makes a network that reaches other machines, but not this one.
    """
    others = _without_private(options)
    network = private_command() if len(others) < len(options) else []
    namespace = named.create_named(name, others, network)
    if namespace.notice:
        print(shown_lines(namespace.notice), file=sys.stderr)


def _without_private(options: Sequence[str]) -> list[str]:
    """Return the options without ``--net private`` and ``--net=private``.

    usernsctl-exec does not know the value ``private``. The arguments from
    :func:`usernsctl.gvisor.launch.network.private_command` request a private network instead.
    """
    kept: list[str] = []
    for word in options:
        if word == "private" and kept[-1:] == ["--net"]:
            del kept[-1]
        elif word != "--net=private":
            kept.append(word)
    return kept


def list_(as_json: bool) -> None:
    """List the named namespaces: name, holder, age, processes inside, kinds and maps."""
    found = named.list_named()
    if as_json:
        print(json.dumps([_as_json(namespace) for namespace in found], indent=2))
        return
    if not found:
        return
    rows = [("NAME", "HOLDER", "AGE", "PROCESSES", "NAMESPACES", "UID MAP")]
    rows += [
        (
            namespace.name,
            str(namespace.pid),
            terminal.age(time.time() - namespace.created),
            str(namespace.processes()),
            ",".join(namespace.namespaces),
            " ".join(map(str, namespace.uid)),
        )
        for namespace in found
    ]
    for line in terminal.table(rows):
        print(line)


def tree(as_json: bool) -> None:
    """Show the tree of user namespaces below your own.

    Each namespace is shown with its owner's uid, its uid map, its names, and its processes. The
    namespaces of other users' processes are hidden; the last line has the number of such processes.
    """
    from usernsctl.cli import tree_text
    from usernsctl.namespaces import tree as namespaces

    found = namespaces.look()
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    for line in tree_text.lines(found, is_ascii=not terminal.is_utf8()):
        print(line)


def exec_(name: str, command: tuple[str, ...], environ: Mapping[str, str]) -> int:
    """Run COMMAND in the namespace NAME.

    usernsctl executes COMMAND in place of itself, or waits for it if NAME has a PID namespace.
    COMMAND starts in the current directory, even if COMMAND itself may not search the path of that
    directory.
    """
    if not command:
        raise UsageError("no command: give a command, as in: usernsctl ns exec NAME -- id")
    namespace = Namespace.open(name)
    if not namespace.has("pid"):
        namespace.exec(command, env=environ)
    # Start a child, because setns(2) does not move the caller itself into a PID namespace, only its
    # later children.
    return supervise(lambda: namespace.spawn(command, env=environ, pdeathsig=signal.SIGKILL).pid)


def remove(names: Sequence[str]) -> int:
    """Remove namespaces: kill the process that holds each of them.

    Other processes in the namespace keep running, unless the namespace has a PID namespace. In that
    case, the kernel kills all processes in the PID namespace.
    """
    return call_for_each(named.remove_named, names)


def _as_json(namespace: NamedNamespace) -> dict[str, Any]:
    row = asdict(namespace) | {"processes": namespace.processes()}
    for internal in ("start_time", "boot_id", "pid_namespace"):
        del row[internal]
    return row
