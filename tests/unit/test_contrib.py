"""Tests that usernsctl and usernsctl.contrib can be imported without the optional packages."""

from __future__ import annotations

import sys

from processes import capture


def run_python(code: str) -> str:
    done = capture([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_usernsctl_imports_no_optional_package() -> None:
    code = "import sys, usernsctl; usernsctl.SandboxHost; usernsctl.gvisor.run; print(*sys.modules)"
    loaded = set(run_python(code).split())
    assert not {name for name in loaded if name.partition(".")[0] == "ray"}
    assert not {name for name in loaded if name.startswith("usernsctl.contrib")}


def test_importerror_without_ray_names_the_extra() -> None:
    code = """
import sys
sys.modules["ray"] = None
try:
    import usernsctl.contrib.ray
except ImportError as error:
    print(error.name, error)
"""
    output = run_python(code)
    assert output.startswith("ray usernsctl.contrib.ray needs Ray")
    assert "pip install 'usernsctl[ray]'" in output
