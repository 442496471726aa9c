"""Tests of the error messages of usernsctl-exec for wrong arguments."""

from __future__ import annotations

import pytest
from conftest import Program
from processes import capture


def argument_error(prelude: Program, *arguments: str) -> str:
    """Return the error message of usernsctl-exec for wrong arguments."""
    done = prelude(*arguments)
    assert done.returncode == 125
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("usernsctl-exec: argument: ")
    assert [line.split(":")[0].strip() for line in rest] in ([], ["why", "remedy"])
    return first.removeprefix("usernsctl-exec: argument: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "there is no option --nope; see --help"),
        (["--nope=x"], "there is no option --nope=x; see --help"),
        (["-Z"], "there is no option -Z; see --help"),
        (["-rZ"], "there is no option -Z; see --help"),
        (["--user", "-Zr"], "there is no option -Z; see --help"),
        (["-:"], "there is no option -:; see --help"),
        (["--user=x"], "--user=x: the option takes no value"),
        (["--fork", "--map-root-user=x"], "--map-root-user=x: the option takes no value"),
        (["--keep-caps=x"], "--keep-caps=x: the option takes no value"),
        (["-w"], "option -w needs a value"),
        (["-rw"], "option -rw needs a value"),
        (["--map-user"], "option --map-user needs a value"),
        (["--map-user="], '--map-user: "" is not a number from 0 to 4294967294'),
        (["--map-user=x"], '--map-user: "x" is not a number from 0 to 4294967294'),
        (["--map-user=-1"], '--map-user: "-1" is not a number from 0 to 4294967294'),
        (["--map-user=+1"], '--map-user: "+1" is not a number from 0 to 4294967294'),
        (["--map-user= 1"], '--map-user: " 1" is not a number from 0 to 4294967294'),
        (["--map-user=4294967295"], "is not a number from 0 to 4294967294"),
        (["--map-group=99999999999999999999"], "is not a number from 0 to 4294967294"),
        (["-S", "root"], '--setuid: "root" is not a number from 0 to 4294967294'),
        (["-G", "1x"], '--setgid: "1x" is not a number from 0 to 4294967294'),
        (["--setgroups=maybe"], '--setgroups: "maybe" is not allow or deny'),
        (["--propagation=x"], "is not private, shared, slave or unchanged"),
        (["--kill-child=NOPE"], '--kill-child: "NOPE" is not a signal'),
        (["--kill-child=999"], "--kill-child: "),
        (["--kill-child=0"], "--kill-child: "),
        (["--kill-child="], "--kill-child: "),
        (["-R", ""], '--root: the value must be a directory, not ""'),
        (["--mount-proc="], '--mount-proc: the value must be a directory, not ""'),
        (["--preserve-fd=x"], '--preserve-fd: "x" is not a number'),
        (["--preserve-fd=-1"], '--preserve-fd: "-1" is not a number'),
    ],
)
def test_wrong_arguments_are_named(prelude: Program, arguments: list[str], message: str) -> None:
    # An option lacks its value only if nothing follows. In all other cases, append a command, whose
    # absence would be a second error.
    command = [] if "needs a value" in message else ["--", "echo", "ran"]
    assert message in argument_error(prelude, *arguments, *command)


def test_message_is_one_line_without_escape_sequences(prelude: Program) -> None:
    message = argument_error(prelude, "--map-users=\n\033[31m", "echo", "ran")
    assert message.startswith('" ?[31m" is not an extent')


@pytest.mark.parametrize(
    "extent", ["0:0", "a:b:c", "0:0:0", "4294967295:0:2", "", "0:0:1:2", "-1:0:1", " 0:0:1"]
)
@pytest.mark.parametrize("option", ["--map-users", "--map-groups"])
def test_malformed_extent_is_quoted(prelude: Program, option: str, extent: str) -> None:
    message = argument_error(prelude, f"{option}={extent}", "echo", "ran")
    assert extent in message
    assert any(part in message for part in ("is not an extent", "must be", "goes past"))


def test_overlapping_extents_are_refused(prelude: Program) -> None:
    message = argument_error(prelude, "--map-users=0:10:5", "--map-users=4:100:1", "echo", "ran")
    assert "extents 0:10:5 and 4:100:1 overlap inside" in message


def test_341_extents_are_refused(prelude: Program) -> None:
    extents = [f"--map-users={2 * n}:{2 * n}:1" for n in range(341)]
    assert "no more than 340 extents" in argument_error(prelude, *extents, "echo", "ran")


def test_map_of_a_page_or_more_is_refused(prelude: Program) -> None:
    extents = [f"--map-users={4000000000 + n}:{4100000000 + n}:1" for n in range(0, 680, 2)]
    assert "less than a page" in argument_error(prelude, *extents, "echo", "ran")


def test_missing_command_is_refused(prelude: Program) -> None:
    for arguments in ([], ["-r"], ["-r", "--"]):
        assert "no command was given" in argument_error(prelude, *arguments)


def test_too_many_preserved_descriptors_are_refused(prelude: Program) -> None:
    options = [f"--preserve-fd={fd}" for fd in range(100)]
    assert "too many descriptors" in argument_error(prelude, *options, "echo", "ran")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_options_and_exit_status(prelude: Program, option: str) -> None:
    done = prelude(option, "--nope")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("--map-root-user", "--kill-child", "--preserve-fd", "--version", "125"):
        assert name in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version_is_printed(prelude: Program, option: str) -> None:
    assert prelude.check_output(option).startswith("usernsctl-exec ")


@pytest.mark.parametrize("option", ["--help", "--version", "-h", "-V"])
@pytest.mark.parametrize(
    ("redirection", "reason"), [(">/dev/full", "No space left"), (">&-", "Bad file descriptor")]
)
def test_help_or_version_to_broken_output_fails(
    prelude: Program, option: str, redirection: str, reason: str
) -> None:
    script = f'exec "$0" {option} {redirection}'
    done = capture(["sh", "-c", script, prelude.path])
    assert done.returncode == 125
    assert done.stderr.startswith(f"usernsctl-exec: stdio: standard output: {reason}")
