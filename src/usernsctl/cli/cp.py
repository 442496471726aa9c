"""``usernsctl cp``: copy files into and out of detached sandboxes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial

from usernsctl._system.paths import NAME
from usernsctl._text import say, shown
from usernsctl.cli.parser import Parser, UsageError, integer
from usernsctl.errors import SandboxFileNotADirectoryError, SandboxFileNotFoundError
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent.file_copies import CopyReport
from usernsctl.gvisor.launch.limits import parse_duration
from usernsctl.gvisor.sandbox.files import COPY_SECONDS, GET_BYTES, GET_FILES
from usernsctl.gvisor.sandbox.sandbox import Sandbox

# Matches ID:PATH, a path in the sandbox ID. A local path of this form must be written as ./ID:PATH.
_INSIDE = re.compile(rf"({NAME}):(.*)", re.DOTALL)

# The exit status of `usernsctl cp` if files were skipped, such as FIFOs.
_SKIPPED = 1


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl cp``."""
    parser = Parser(prog, copy, usage="[OPTIONS] SRC NAME:PATH | [OPTIONS] NAME:PATH DST")
    parser.add_flag(
        "-f",
        "--force",
        help="Merge with existing directories in the sandbox, and replace existing files.",
    )
    parser.add_flag("-p", "--parents", help="Create missing directories above PATH.")
    parser.add_option(
        "--user",
        parse=_user,
        metavar="USER[:GROUP]",
        help="Read or create files in the sandbox as this user: numbers, or names in its "
        "/etc/passwd and /etc/group. [default: 0:0]",
    )
    parser.add_option(
        "--max-bytes",
        parse=_number,
        default=GET_BYTES,
        metavar="N",
        help="Copy at most N bytes out of the sandbox.",
    )
    parser.add_option(
        "--max-files",
        parse=integer(0, 2**31 - 1),
        default=GET_FILES,
        metavar="N",
        help="Copy at most N files, directories and links out of the sandbox.",
    )
    parser.add_option(
        "--timeout",
        parse=parse_duration,
        default=COPY_SECONDS,
        metavar="TIME",
        help="The time limit of the copy, such as 30s or 2m.",
    )
    parser.add_operand("source", "SRC")
    parser.add_operand("destination", "DST")
    return parser


def _user(text: str) -> str:
    """Check the form of the value of ``--user``; the sandbox will look up the names.

    :raises ValueError: `text` is not of the form USER[:GROUP].
    """
    checks.parse_user(text)
    return text


def _number(text: str) -> int:
    """Parse a number of bytes.

    :raises ValueError: `text` is not a whole number.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(text)


def copy(
    source: str,
    destination: str,
    force: bool,
    parents: bool,
    user: str | None,
    max_bytes: int,
    max_files: int,
    timeout: float,
) -> int:
    """Copy a file or directory into the detached sandbox NAME, or out of it.

    NAME is the id of the sandbox, and PATH an absolute path in the sandbox. If PATH or DST is an
    existing directory, the copy is created in that directory, under the name of the source. If a
    file has the path of the copy, usernsctl cp fails, unless the file is in the sandbox and --force
    is given.

    The copy has the permissions and times of the source. FIFOs, sockets and devices are skipped,
    and so are symbolic links that would lead out of the tree at DST. A copy out of the sandbox
    writes only to DST on this machine, and is removed if it fails. Write ./ before the path of a
    local file whose name contains a colon.

    Exit status: 0 if everything was copied, 1 if files were skipped, 125 if the copy failed.

        usernsctl cp src box:/work
        usernsctl cp box:/work/result.json .
    """
    to, from_ = _INSIDE.fullmatch(destination), _INSIDE.fullmatch(source)
    if (to is None) == (from_ is None):
        raise UsageError("one of SRC and DST must be NAME:PATH, and the other a local path")
    name, path = (to or from_).groups()  # type: ignore[union-attr]
    if not path.startswith("/"):
        raise UsageError(f"{path!r} is not an absolute path, as a path in a sandbox must be")
    if from_ is not None and (force or parents):
        raise UsageError("--force and --parents apply only to copies into a sandbox")
    box = Sandbox.attach(name)
    try:
        if to is not None:
            put = partial(box.put, source, merge=force, user=user, timeout=timeout)
            report = _put_into(put, path, os.path.basename(os.path.abspath(source)), parents)
        else:
            if os.path.isdir(destination):
                name = os.path.basename(os.path.normpath(path))
                destination = os.path.join(destination, name)
            report = box.get(
                path,
                destination,
                max_bytes=max_bytes,
                max_files=max_files,
                user=user,
                timeout=timeout,
            )
    finally:
        box.release()
    _print_notes(report)
    return _SKIPPED if report.skipped_count else 0


def _put_into(put: Callable[..., CopyReport], path: str, name: str, parents: bool) -> CopyReport:
    """Call `put` with the path of `name` in the directory `path`.

    If `path` does not exist or is not a directory, call `put` with `path` itself.
    """
    below = os.path.join(path, name)
    try:
        return put(below)
    except (SandboxFileNotFoundError, SandboxFileNotADirectoryError) as error:
        if error.step != "inside" or error.filename != below:
            raise
    return put(path, parents=parents)


def _print_notes(report: CopyReport) -> None:
    """Print which files were skipped, and which changed during the copy."""
    for path, why in report.skipped:
        say(f"usernsctl: skipped {shown(path)}: {why}")
    if report.skipped_count > len(report.skipped):
        say(f"usernsctl: skipped {report.skipped_count - len(report.skipped)} more files")
    for path in report.changed:
        say(f"usernsctl: {shown(path)} changed while it was copied")
    if report.changed_count > len(report.changed):
        say(f"usernsctl: {report.changed_count - len(report.changed)} more files changed")
