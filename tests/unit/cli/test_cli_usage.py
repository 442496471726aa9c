"""Tests of usage errors and help texts, such as suggestions for misspelled subcommands."""

from __future__ import annotations

import pytest
from conftest import Program

from usernsctl.cli import main


def last_error_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 125
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["rnu", "--", "id"], "run"),
        (["docotr"], "doctor"),
        (["Run", "--", "id"], "run"),
        (["seccomp"], "seccomp-profile"),
        (["ns", "crate", "web"], "create"),
        (["bundle", "chekc", "web"], "check"),
    ],
)
def test_mistyped_verb_gets_a_suggestion(
    capsys: pytest.CaptureFixture[str], words: list[str], meant: str
) -> None:
    typed = words[1] if words[0] in ("ns", "bundle") else words[0]
    assert last_error_line(capsys, *words) == (
        f"Error: there is no command {typed!r}. Did you mean {meant!r}?"
    )


def test_unknown_verb_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert last_error_line(capsys, "python3", "job.py") == "Error: there is no command 'python3'."


def test_unknown_verb_of_a_small_group_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert last_error_line(capsys, "bundle", "make", "web") == (
        "Error: there is no command 'make'. The commands are: init, check, fix."
    )


def test_mistyped_cause_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "descriptor-limt"]) == 2
    assert capsys.readouterr().err == (
        "usernsctl: explain: descriptor-limt: neither a file nor the id of a cause. "
        "Did you mean 'descriptor-limit'?\n"
    )


def test_explain_says_how_to_pass_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "unshare: /proc/self/uid_map: Operation not permitted"]) == 2
    assert capsys.readouterr().err == (
        "usernsctl: explain: there is no file "
        "'unshare: /proc/self/uid_map: Operation not permitted'\n"
        "  remedy: echo 'MESSAGE' | usernsctl explain    # to explain a message\n"
    )


def test_option_in_place_of_a_verb_is_called_an_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert last_error_line(capsys, "--bind", ".", "run", "--", "id") == (
        "Error: there is no option '--bind'. Give the options of a command after its name."
    )


@pytest.mark.parametrize("verb", [["run"], ["plan"]])
def test_mistyped_option_gets_a_suggestion(
    capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    error = last_error_line(capsys, *verb, "--map-uto")
    assert "--map-uto" in error
    assert "Did you mean" in error
    assert "--map-auto" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "--map"],
            "'--map'. Did you mean '--map-users' or '--map-groups' or '--map-auto'?",
        ),
        (["plan", "--environ"], "'--environ'."),
        (["plan", f"-{'rc' * 2000}x"], "'-x'."),
        (["plan", "-rce"], "'-e'."),
    ],
)
def test_unknown_option_is_named(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert last_error_line(capsys, *words) == f"Error: there is no option {message}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--expose-root=1", "x"], "--expose-root takes no value"),
        (["freeze", "-o"], "-o needs a value: -o FILE"),
        (
            ["run", "--user=x:", "y"],
            "--user: 'x:' is not UID[:GID] or NAME[:GROUP]; ids are numbers from 0 to 4294967294",
        ),
        (["plan", "x"], "unexpected extra argument 'x'"),
        (["ns", "remove"], "missing: NAME..."),
        (["freeze", "--", "id"], "missing: -o/--output"),
        (
            ["wrap", "-o", "script"],
            "no command: give a command, as in: usernsctl wrap -o FILE -- ls",
        ),
        (
            ["run", "--start-timeout", "0.5", "--", "id"],
            "--start-timeout: '0.5' is not a whole number of seconds from 0 to 1000000",
        ),
        (
            ["run", *("--publish=8080:80",) * 65, "true"],
            "65 published ports are more than 64",
        ),
        (["template", "run", "one", "--wd=/x"], "the option --wd must come before NAME"),
        (["template", "run", "one", "-h"], "the option -h must come before NAME"),
        (["ns", "exec", "one", "--help"], "the option --help must come before NAME"),
    ],
)
def test_error_line_names_the_wrong_argument(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert last_error_line(capsys, *words) == f"Error: {message}"


@pytest.mark.parametrize("width", [50, 80, 100, 200])
@pytest.mark.parametrize("words", [[], ["run"], ["template", "create"], ["apparmor-profile"]])
def test_help_is_as_wide_as_the_terminal_up_to_100_columns(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    width: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*words, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Only examples and the usage line, each of which contains "usernsctl", may be longer, because
    # they are not wrapped.
    wide = [line for line in lines if len(line) > min(width, 100)]
    assert not [line for line in wide if "usernsctl" not in line]


@pytest.mark.parametrize(
    ("typed", "suggestion"),
    [
        (["-e", "TOKEN"], "--env NAME[=VALUE]"),
        (["-eTOKEN"], "--env NAME[=VALUE]"),
        (["-v", ".:/data"], "--bind SRC[:DST][:ro|rw]"),
        (["--volume=.:/data"], "--bind SRC[:DST][:ro|rw]"),
        (["--mount", "type=bind"], "--bind SRC[:DST][:ro|rw]"),
        (["-w", "/data"], "--wd DIR"),
        (["--workdir", "/data"], "--wd DIR"),
        (["-u", "1000"], "--user USER[:GROUP]"),
        (["--net=host"], "--network none|host|private"),
        (["-it"], "--terminal"),
        (["--ulimit", "nofile=9"], "--rlimit NAME=SOFT[:HARD]"),
    ],
)
def test_run_suggests_its_option_for_an_option_of_docker(
    capsys: pytest.CaptureFixture[str], typed: list[str], suggestion: str
) -> None:
    name = typed[0].partition("=")[0]
    name = name if name.startswith("--") else name[:2]
    error = last_error_line(capsys, "run", *typed, "--", "id")
    assert error == f"Error: there is no option {name!r}. Use {suggestion}."


def test_run_does_not_check_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    error = last_error_line(capsys, "run", "--rootfs", "", "--", "env", "-v", "-e")
    assert error == "Error: --rootfs: the value must be a path, not an empty string"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--rootfs", "a path"),
        ("--bundle", "a path"),
        ("--debug-log", "a path"),
        ("--root", "a path"),
        ("--wd", "a path"),
        ("--runsc", "a path"),
        ("--result", "a path"),
        ("--in", "the name of a namespace"),
    ],
)
def test_run_refuses_empty_option_values(usernsctl: Program, option: str, expected: str) -> None:
    """Check that empty values are rejected: `--in "$NAME"` has one if the variable is unset."""
    done = usernsctl("run", option, "", "--", "id")
    assert done.returncode == 125
    assert f"Error: {option}" in done.stderr
    assert done.stderr.endswith(f": the value must be {expected}, not an empty string\n")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("freeze", "-o", "", "--", "id"), "-o/--output"),
        (("wrap", "-o", "", "--", "id"), "-o/--output"),
        (("bundle", "init", "--rootfs", "/", "", "--", "id"), "DIRECTORY"),
        (("bundle", "init", "--rootfs", "", "bundle", "--", "id"), "--rootfs"),
        (("bundle", "check", ""), "DIRECTORY"),
        (("bundle", "fix", ""), "DIRECTORY"),
        (("explain", ""), "[FILE]"),
        (("explain", "--debug-log", ""), "--debug-log"),
    ],
)
def test_empty_paths_are_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], named: str
) -> None:
    assert main(words) == (2 if words[0] == "explain" else 125)
    message = f"Error: {named}: the value must be a path, not an empty string\n"
    assert capsys.readouterr().err.endswith(message)


def test_ns_exec_without_a_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    error = last_error_line(capsys, "ns", "exec", "name", "--")
    assert error == "Error: no command: give a command, as in: usernsctl ns exec NAME -- id"


@pytest.mark.parametrize("group", [[], ["bundle"], ["ns"]])
def test_summaries_of_verbs_are_not_truncated(
    capsys: pytest.CaptureFixture[str], group: list[str]
) -> None:
    assert main([*group, "--help"]) == 0
    output = capsys.readouterr().out
    assert "Commands:" in output
    assert "..." not in output.partition("Commands:")[2]


@pytest.mark.parametrize("words", [["--help"], ["box", "--help"], ["box", "-rm", "-h"]])
def test_help_of_ns_create_may_follow_the_name(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ns", "create", *words]) == 0
    assert capsys.readouterr().out.startswith("Usage: usernsctl ns create NAME")


def test_unknown_option_of_ns_create_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = last_error_line(capsys, "ns", "create", "two", "--maunt")
    assert error == "usernsctl: argument: there is no option --maunt; see --help"
