"""``usernsctl bundle``: create, check and fix the config.json of an OCI bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from usernsctl._lean import asdict
from usernsctl._text import command as pasted
from usernsctl._text import operand, shown
from usernsctl.cli.parser import Parser, UsageError
from usernsctl.errors import BundleError
from usernsctl.gvisor import oci
from usernsctl.gvisor.launch.options import parse_hostname, parse_path, read_settings
from usernsctl.gvisor.oci.rules import Network
from usernsctl.gvisor.runsc.command import DEFAULT_PATH
from usernsctl.maps import Extent

EXIT_FINDINGS = 1

_DESCRIPTION = """\
Create, check or fix an OCI bundle, so that runsc can run it without root.

A bundle is a directory with a config.json, and usually with the root filesystem that the file
names. All commands assume the map that `usernsctl run` makes by default: the caller is 0:0 inside,
and no other id exists.
"""


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl bundle``."""
    group = Parser(prog, description=_DESCRIPTION)
    verb = group.add_verb(
        "init",
        "Write a config.json to DIRECTORY that runs COMMAND.",
        init,
        usage="[OPTIONS] --rootfs DIR DIRECTORY -- COMMAND...",
        wants=["environ"],
    )
    verb.add_operand("directory", "DIRECTORY", parse=parse_path)
    verb.add_words("command", "COMMAND...")
    verb.add_option(
        "--rootfs",
        required=True,
        parse=parse_path,
        metavar="DIR",
        help="An unpacked root filesystem (required).",
    )
    verb.add_flag("--writable", help="Let the command write to the root filesystem.")
    verb.add_option(
        "--env", dest="settings", repeats=True, metavar="NAME=VALUE", help="Set a variable."
    )
    verb.add_option(
        "--wd",
        "--cwd",
        dest="cwd",
        default="/",
        parse=parse_path,
        metavar="DIR",
        help="Start the command in DIR, a directory inside.",
    )
    verb.add_option("--hostname", parse=parse_hostname, metavar="NAME", help="The hostname inside.")
    verb.add_flag("--terminal", help="Give the command a terminal of its own.")
    verb = group.add_verb(
        "check",
        "Check a bundle for what rootless gVisor refuses, and for paths outside the bundle.",
        check,
    )
    verb.add_operand("directory", "DIRECTORY", parse=parse_path)
    verb.add_flag("--json", dest="as_json", help="Print the findings as JSON.")
    verb.add_option(
        "--network",
        choices=get_args(Network),
        default="none",
        help="The value of --network that you will pass to runsc.",
    )
    verb = group.add_verb(
        "fix", "Add what rootless gVisor needs to a bundle, and remove its hooks.", fix
    )
    verb.add_operand("directory", "DIRECTORY", parse=parse_path)
    return group


def init(
    directory: str,
    rootfs: str,
    writable: bool,
    settings: tuple[str, ...],
    cwd: str,
    hostname: str | None,
    terminal: bool,
    command: tuple[str, ...],
    environ: Mapping[str, str],
) -> None:
    """Write a config.json to DIRECTORY that runs COMMAND.

    init creates DIRECTORY if it is missing, and never overwrites an existing config.json.
    """
    if not command:
        raise UsageError("no command: give a command, as in: usernsctl bundle init web ... -- sh")
    uid_map, gid_map = _default_map()
    env = {"PATH": DEFAULT_PATH}
    env.update(read_settings(settings, environ))
    options = oci.BuildOptions(
        args=command,
        rootfs=_rootfs_for(directory, rootfs),
        uid_map=uid_map,
        gid_map=gid_map,
        env=env,
        cwd=cwd,
        read_only=not writable,
        hostname=hostname,
        terminal=terminal,
    )
    filename = oci.create(directory, oci.build(options))
    trust = ["--trust-bundle"] if options.rootfs.startswith("/") else []
    argv = ["usernsctl", "run", "--bundle", operand(directory), *trust]
    print(f"{shown(str(filename))}: written. To run it: {pasted(argv)}")


def check(directory: str, as_json: bool, network: Network) -> int:
    """Check a bundle for what rootless gVisor refuses, and for paths outside the bundle.

    check lists each problem in config.json with its reason and a remedy. usernsctl run accepts an
    entry that reaches outside of the bundle only with --trust-bundle or --allow-hooks.

    Exit status: 0 no problem was found, 1 problems were found, 125 the bundle can't be read.
    """
    uid_map, gid_map = _default_map()
    with oci.Bundle(directory) as opened:
        findings = oci.check(opened.load(), opened, uid_map, gid_map, network=network)
    if as_json:
        report = {"bundle": directory, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(report, indent=2))
    else:
        for finding in findings:
            for line in _as_text(finding):
                print(shown(line))
        print(shown(_summary(directory, findings)))
    return EXIT_FINDINGS if findings else 0


def fix(directory: str) -> None:
    """Add what rootless gVisor needs to a bundle's config.json, and remove its hooks.

    fix keeps the old file as config.json.orig. fix does not change entries that need your decision:
    usernsctl bundle check lists them.
    """
    uid_map, gid_map = _default_map()
    with oci.Bundle(directory) as opened:
        fixed, changes = oci.fix(opened.load(), uid_map, gid_map)
        if not changes:
            print(f"{shown(directory)}: nothing to fix")
            return
        original = oci.replace(opened, fixed)
    for change in changes:
        print(shown(f"{change.path}: {change.text}"))
    print(shown(f"{directory}: fixed; the old file is {original}"))


def _default_map() -> tuple[list[Extent], list[Extent]]:
    return [Extent(0, os.geteuid(), 1)], [Extent(0, os.getegid(), 1)]


def _rootfs_for(directory: str, rootfs: str) -> str:
    """Return the value of ``root.path`` for the root filesystem `rootfs`.

    The path is relative if `rootfs` is inside the bundle, so that the bundle can be moved.

    :raises BundleError: `rootfs` is not a directory.
    """
    if not os.path.isdir(rootfs):
        raise BundleError(
            f"--rootfs {rootfs} is not a directory",
            step="rootfs",
            filename=rootfs,
            cause="rootfs-missing",
            remedy="name the directory of a root filesystem, relative to the current directory",
        )
    outside, bundle = Path(rootfs).resolve(), Path(directory).resolve()
    if outside != bundle and outside.is_relative_to(bundle):
        return str(outside.relative_to(bundle))
    return str(outside)


def _as_text(finding: oci.Violation) -> list[str]:
    kind = "outside" if finding.outside else "fails" if finding.blocks else "note"
    return [
        f"{kind}: {finding.path}: {finding.problem} [{finding.id}]",
        f"  why: {finding.why}",
        f"  remedy: {finding.remedy}",
    ]


def _summary(directory: str, findings: list[oci.Violation]) -> str:
    if not findings:
        return f"{directory}: no problems found; runsc can run it without root"
    fixable = sum(finding.fixable for finding in findings)
    count = f"{len(findings)} problem" + "s" * (len(findings) != 1)
    if not fixable:
        return f"{directory}: {count}"
    command = pasted(["usernsctl", "bundle", "fix", operand(directory)])
    return f"{directory}: {count}; to fix {fixable} of them: {command}"
