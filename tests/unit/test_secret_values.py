"""Tests that error messages do not contain values of environment variables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from usernsctl.cli import main
from usernsctl.commands.arguments import make_command
from usernsctl.errors import UsernsError
from usernsctl.gvisor import checks
from usernsctl.gvisor.launch.options import read_env_file, read_settings
from usernsctl.gvisor.oci import BuildOptions, build, validate

SECRET = "c0rrect-horse"


def build_config(env: dict[str, str]) -> object:
    return build(BuildOptions(args=["x"], rootfs="r", uid_map=[], gid_map=[], env=env))


def validate_config(env: Any) -> object:
    return validate({"process": {"args": ["x"], "env": env}, "root": {"path": "r"}})


def build_command(env: Any) -> object:
    return make_command(["x"], None, env)


WRONG: list[tuple[Callable[[Any], object], Any]] = [
    (build_config, {f"A={SECRET}": "x"}),
    (build_config, {"A": f"{SECRET}\0"}),
    (build_config, {"A": f"{SECRET}\udc80"}),
    (build_config, {"": SECRET}),
    (validate_config, [f"A={SECRET}\0"]),
    (validate_config, [f"={SECRET}"]),
    (validate_config, [SECRET]),
    (validate_config, f"A={SECRET}"),
    (validate_config, {"A": SECRET}),
    (validate_config, [[f"A={SECRET}"]]),
    (checks.variables, {f"A={SECRET}": "x"}),
    (checks.variables, {"": SECRET}),
    (checks.variables, {"A": [SECRET]}),
    (checks.variables, {("A", SECRET): "x"}),
    (checks.variables, [("A", SECRET)]),
    (checks.variables, {"A": f"{SECRET}\0"}),
    (checks.variables, {f"A\0{SECRET}": "x"}),
    (build_command, {"A": [SECRET]}),
    (build_command, {("A", SECRET): "x"}),
    (build_command, [("A", SECRET)]),
    (build_command, f"A={SECRET}"),
]


@pytest.mark.parametrize(("function", "env"), WRONG)
def test_errors_do_not_contain_values_of_variables(
    function: Callable[[Any], object], env: Any
) -> None:
    with pytest.raises((UsernsError, TypeError, ValueError)) as caught:
        function(env)
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.args}"


@pytest.mark.parametrize("setting", [f"={SECRET}", f" A={SECRET}", SECRET, f"A ={SECRET}"])
def test_errors_about_settings_do_not_contain_values(setting: str, tmp_path: Path) -> None:
    with pytest.raises(UsernsError, match="--env, number 2") as caught:
        read_settings(["B=c", setting], {})
    assert SECRET not in str(caught.value)
    file = tmp_path / "env"
    file.write_text(f"B=c\n{setting}\n")
    with pytest.raises(UsernsError, match="line 2") as caught:
        read_env_file(str(file), {})
    assert SECRET not in str(caught.value)


def test_errors_about_env_files_do_not_contain_values(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b"A=b\nC=" + SECRET.encode() + b"\xff")
    with pytest.raises(UsernsError, match=r"line 2: a byte that is not UTF-8$") as caught:
        read_env_file(str(file), {})
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value)
    file.write_bytes(b"A=b\nC=" + SECRET.encode() + b"\0")
    with pytest.raises(UsernsError, match="line 2: a NUL character") as caught:
        read_env_file(str(file), {})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("verb", ["check", "fix"])
def test_errors_about_bundles_do_not_contain_values(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for env in ([f"A={SECRET}\0"], [f"={SECRET}"], f"A={SECRET}", [f"A={SECRET}", f"{SECRET}"]):
        config = {"process": {"args": ["x"], "env": env}, "root": {"path": "rootfs"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert main(["bundle", verb, str(tmp_path)]) == 125
        output = capsys.readouterr()
        assert "$.process.env" in output.err
        assert SECRET not in output.out + output.err
