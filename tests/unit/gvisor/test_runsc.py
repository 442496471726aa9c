"""Tests of the search for runsc, and of its command line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from usernsctl.errors import RunscError
from usernsctl.gvisor.runsc.command import Logs, RunOptions, command_line
from usernsctl.gvisor.runsc.find import find_runsc

X86_64, ARM64 = 62, 183
NATIVE = struct.unpack_from("<H", Path("/proc/self/exe").read_bytes(), 18)[0]


def elf(path: Path, machine: int, note: bytes) -> Path:
    """Write a 64-bit ELF file that consists of a header and a note; return its path.

    `note` is the name of the note.
    """
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    contents = struct.pack("<III", len(note), 0, 4) + note
    entry = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(contents), len(contents), 4)
    path.write_bytes(header + entry + contents)
    path.chmod(0o755)
    return path


def script(path: Path, answer: str) -> Path:
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return path


def cause_of(environ: dict[str, str]) -> str | None:
    with pytest.raises(RunscError) as caught:
        find_runsc(environ)
    assert caught.value.remedy
    return caught.value.cause


def test_first_runsc_along_path_is_found(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        elf(tmp_path / name / "runsc", NATIVE, b"Go\0\0")
    found = find_runsc({"PATH": f"{tmp_path}/absent:{tmp_path}/a:{tmp_path}/b"})
    assert found == f"{tmp_path}/a/runsc"


def test_runsc_path_variable_comes_after_usernsctl_runsc(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        elf(tmp_path / name, NATIVE, b"Go\0\0")
    environ = {"RUNSC_PATH": f"{tmp_path}/theirs"}
    assert find_runsc(environ) == f"{tmp_path}/theirs"
    assert find_runsc({**environ, "USERNSCTL_RUNSC": f"{tmp_path}/ours"}) == f"{tmp_path}/ours"
    assert cause_of({"RUNSC_PATH": f"{tmp_path}/absent"}) == "runsc-missing"


@pytest.mark.parametrize("named", ["{}/mine", "mine"])
def test_usernsctl_runsc_variable_comes_before_path(tmp_path: Path, named: str) -> None:
    elf(tmp_path / "runsc", NATIVE, b"Go\0\0")
    elf(tmp_path / "mine", NATIVE, b"Go\0\0")
    environ = {"PATH": str(tmp_path), "USERNSCTL_RUNSC": named.format(tmp_path)}
    assert find_runsc(environ) == f"{tmp_path}/mine"


def test_go_program_is_recognised_without_executing(tmp_path: Path) -> None:
    """Check that an ELF file without code, which can't be executed, is recognised as runsc."""
    elf(tmp_path / "runsc", NATIVE, b"Go\0\0")
    assert find_runsc({"PATH": str(tmp_path)})


def test_script_is_recognised_by_its_version(tmp_path: Path) -> None:
    script(tmp_path / "runsc", "echo runsc version release-20240729.0; echo spec: 1.1.0")
    assert find_runsc({"PATH": str(tmp_path)}) == f"{tmp_path}/runsc"


@pytest.mark.parametrize("answer", ["echo version 1", "echo runsc version 1; exit 1", ""])
def test_script_with_another_version_is_not_runsc(tmp_path: Path, answer: str) -> None:
    script(tmp_path / "runsc", answer)
    assert cause_of({"PATH": str(tmp_path)}) == "not-runsc"


def test_missing_runsc_is_reported(tmp_path: Path) -> None:
    assert cause_of({"PATH": str(tmp_path)}) == "runsc-missing"
    assert cause_of({"USERNSCTL_RUNSC": f"{tmp_path}/runsc"}) == "runsc-missing"
    assert cause_of({"USERNSCTL_RUNSC": "runsc", "PATH": str(tmp_path)}) == "runsc-missing"


def test_runsc_for_another_machine_is_refused(tmp_path: Path) -> None:
    elf(tmp_path / "runsc", ARM64 if NATIVE == X86_64 else X86_64, b"Go\0\0")
    assert cause_of({"PATH": str(tmp_path)}) == "wrong-architecture"


def test_files_that_are_not_programs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").touch(mode=0o755)
    elf(tmp_path / "other", NATIVE, b"GNU\0")
    for name, cause in (
        (".", "not-runsc"),
        ("text", "runsc-not-executable"),
        ("empty", "not-runsc"),
        ("other", "not-runsc"),
    ):
        assert cause_of({"USERNSCTL_RUNSC": f"{tmp_path}/{name}"}) == cause


@pytest.mark.parametrize("length", [0, 4, 16, 63, 64, 100, 120, 130])
def test_truncated_program_is_refused(tmp_path: Path, length: int) -> None:
    whole = elf(tmp_path / "runsc", NATIVE, b"Go\0\0").read_bytes()
    (tmp_path / "runsc").write_bytes(whole[:length])
    assert cause_of({"PATH": str(tmp_path)}) == "not-runsc"


LOGS = Logs(errors="/log/errors", crash="/log/crash", debug="/log/%COMMAND%")


def test_command_line_of_runsc_run() -> None:
    options = RunOptions(state="/s", bundle="/b", container_id="id", logs=LOGS)
    assert command_line("/usr/bin/runsc", options) == [
        "/usr/bin/runsc",
        "--rootless",
        "--root=/s",
        "--ignore-cgroups",
        "--network=none",
        "--overlay2=root:memory",
        "--host-uds=none",
        "--dcache=2000",
        "--log=/log/errors",
        "--log-format=json",
        "--panic-log=/log/crash",
        "--debug-log=/log/%COMMAND%",
        "run",
        "--bundle=/b",
        "id",
    ]


def test_options_come_before_the_subcommand() -> None:
    options = RunOptions(
        state="/s",
        bundle="/b",
        container_id="id",
        network="host",
        platform="ptrace",
        logs=LOGS,
        debug=True,
    )
    line = command_line("runsc", options)
    before = line[: line.index("run")]
    assert {"--network=host", "--platform=ptrace", "--debug"} <= set(before)


def test_runsc_argument_comes_before_variables(tmp_path: Path) -> None:
    environ = {"USERNSCTL_RUNSC": "/nowhere", "PATH": "/nowhere"}
    with pytest.raises(RunscError) as caught:
        find_runsc(environ, str(tmp_path / "runsc"))
    assert caught.value.cause == "runsc-missing"
    assert str(tmp_path / "runsc") in str(caught.value)
    with pytest.raises(RunscError, match="absolute") as caught:
        find_runsc(environ, "runsc")
    assert caught.value.cause == "not-runsc"


@pytest.mark.parametrize("search", ["", ".", "here", ":", "here:."])
def test_relative_directories_in_path_are_not_searched(
    search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in (tmp_path, tmp_path / "here"):
        directory.mkdir(exist_ok=True)
        (directory / "runsc").write_text("#!/bin/sh\necho runsc version none\n")
        (directory / "runsc").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for environ in ({"PATH": search}, {"PATH": search, "USERNSCTL_RUNSC": "runsc"}):
        with pytest.raises(RunscError) as caught:
            find_runsc(environ)
        assert caught.value.cause == "runsc-missing"
    assert find_runsc({"PATH": str(tmp_path)}) == str(tmp_path / "runsc")


def test_error_about_the_runsc_option_names_that_option(tmp_path: Path) -> None:
    with pytest.raises(RunscError, match="bin/runsc is not an absolute path") as caught:
        find_runsc({}, "bin/runsc")
    assert caught.value.remedy == "give an absolute path, such as /usr/bin/runsc"
    with pytest.raises(RunscError) as caught:
        find_runsc({}, str(script(tmp_path / "tool", "echo tool version 1")))
    assert caught.value.cause == "not-runsc"
    assert caught.value.remedy is not None
    assert "--runsc" in caught.value.remedy
