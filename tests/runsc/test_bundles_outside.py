"""Tests of bundles that refer to files outside the bundle, which usernsctl rejects by default."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from conftest import Program

import usernsctl as un

PATIENCE = 30
TRUST, HOOKS = "--trust-bundle", "--allow-hooks"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Create a directory with a file, beside the bundle; return the directory."""
    directory = tmp_path / "shared"
    directory.mkdir()
    (directory / "file").write_text("from outside\n")
    return directory


def make_bundle(tmp_path: Path, script: str = "true", **more: Any) -> Path:
    """Create a bundle that runs `script` on the host's root filesystem; return its path."""
    bundle = tmp_path / "bundle"
    bundle.mkdir(exist_ok=True)
    process = {"args": ["/bin/sh", "-c", script], "cwd": "/", **more.pop("process", {})}
    config = {"process": process, "root": {"path": "/", "readonly": True}, **more}
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def bind(source: str, **more: Any) -> dict[str, Any]:
    return {"destination": "/mnt", "type": "bind", "source": source, "options": ["rbind"]} | more


OUTSIDE: list[tuple[str, str, dict[str, Any]]] = [
    ("bundle-root-outside", "$.root.path", {}),
    ("bundle-bind-outside", "$.mounts[1].source", {"mounts": [bind("x"), bind("../shared")]}),
    ("bundle-bind-machine", "$.mounts[0].source", {"mounts": [bind("/sys")]}),
    ("bundle-mount-type", "$.mounts[0].type", {"mounts": [bind("a", type="erofs", options=[])]}),
    ("bundle-annotation", "$.annotations", {"annotations": {"dev.gvisor.flag.host-uds": "all"}}),
    (
        "bundle-capabilities",
        "$.process.capabilities",
        {"process": {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}},
    ),
    ("bundle-runs-hooks", "$.hooks", {"hooks": {"poststop": [{"path": "/bin/true"}]}}),
]


@pytest.mark.parametrize(("cause", "path", "parts"), OUTSIDE)
@pytest.mark.sampled(3)
def test_references_outside_the_bundle_are_refused(
    usernsctl: Program, tmp_path: Path, shared: Path, cause: str, path: str, parts: dict[str, Any]
) -> None:
    bundle = make_bundle(tmp_path, "echo it ran", **parts)
    done = usernsctl("run", "--bundle", bundle)
    assert (done.returncode, done.stdout) == (125, "")
    # The error lists every reference to a file outside the bundle, in these bundles always the root
    # filesystem.
    assert path in done.stderr
    assert "$.root.path: / is outside of the bundle" in done.stderr
    if cause != "bundle-bind-machine":
        assert f"run with {HOOKS if cause == 'bundle-runs-hooks' else TRUST}" in done.stderr
    checked = usernsctl("bundle", "check", bundle)
    assert checked.returncode == 1
    assert re.search(rf"^outside: {re.escape(path)}: .*\[{cause}\]$", checked.stdout, re.MULTILINE)


@pytest.mark.parametrize("allowed", [[TRUST], [HOOKS], []])
def test_hooks_need_both_trust_bundle_and_allow_hooks(
    usernsctl: Program, tmp_path: Path, allowed: list[str]
) -> None:
    marker = tmp_path / "ran"
    hook = {"path": "/usr/bin/touch", "args": ["touch", str(marker)]}
    bundle = make_bundle(tmp_path, hooks={"prestart": [hook]})
    done = usernsctl("run", *allowed, "--bundle", bundle)
    assert done.returncode == 125
    assert not marker.exists()


def test_allowed_hooks_run_on_the_host(usernsctl: Program, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat /proc/version >{marker}"]}
    bundle = make_bundle(tmp_path, hooks={"prestart": [hook]})
    usernsctl.check_output("run", TRUST, HOOKS, "--bundle", bundle)
    assert marker.read_text() == Path("/proc/version").read_text()


def test_bundle_fix_removes_hooks(usernsctl: Program, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    hook = {"path": "/usr/bin/touch", "args": ["touch", str(marker)]}
    bundle = make_bundle(tmp_path, hooks={"prestart": [hook], "poststop": [hook]})
    fixed = usernsctl("bundle", "fix", bundle)
    assert "$.hooks: removed; they ran outside gVisor: prestart, poststop" in fixed.stdout
    assert "hooks" not in json.loads((bundle / "config.json").read_text())
    assert usernsctl("run", TRUST, "--bundle", bundle).returncode == 0
    assert not marker.exists()
    assert usernsctl("bundle", "fix", bundle).stdout == f"{bundle}: nothing to fix\n"


def test_a_trusted_bundle_may_bind_outside_directories(
    usernsctl: Program, tmp_path: Path, shared: Path
) -> None:
    (tmp_path / "link").symlink_to("shared")
    for source in (str(shared), "../shared", "../link"):
        bundle = make_bundle(tmp_path, "cat /mnt/file; echo new >/mnt/new", mounts=[bind(source)])
        assert usernsctl.check_output("run", TRUST, "--bundle", bundle) == "from outside\n"
        (shared / "new").unlink()


def test_bind_sources_in_the_bundle_are_not_outside(usernsctl: Program, tmp_path: Path) -> None:
    """Check that a bundle may bind-mount its own files, also through links inside the bundle."""
    bundle = make_bundle(tmp_path)
    (bundle / "data/deep").mkdir(parents=True)
    (bundle / "data/deep/file").write_text("its own\n")
    (bundle / "link").symlink_to("data/../data/deep")
    for source in ("data/deep", f"{bundle}/data/deep", "./link", "link/", "data/deep/file"):
        where = "/mnt" if source.endswith("file") else "/mnt/file"
        target = "/etc/hostname" if source.endswith("file") else "/mnt"
        script = f"cat {target if target != '/mnt' else where}"
        mount = bind(source, destination=target)
        make_bundle(tmp_path, script, mounts=[mount])
        assert "bundle-bind-outside" not in usernsctl("bundle", "check", bundle).stdout
        done = usernsctl("run", TRUST, "--bundle", bundle)
        assert (done.stdout, done.stderr) == ("its own\n", ""), source


@pytest.mark.parametrize("source", ["/", "/proc", "/proc/self", "/sys", "/dev", "/dev/shm", "link"])
def test_trusted_bundles_may_not_bind_system_directories(
    usernsctl: Program, tmp_path: Path, source: str
) -> None:
    bundle = make_bundle(tmp_path, "echo it ran", mounts=[bind(source)])
    (bundle / "link").symlink_to("/proc/self/root/dev")
    done = usernsctl("run", TRUST, HOOKS, "--bundle", bundle)
    assert (done.returncode, done.stdout) == (125, "")
    assert "[bundle-bind-machine]" in done.stderr


def test_annotations_of_a_trusted_bundle_reach_runsc(
    usernsctl: Program, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bind(2) needs a relative path, because a Unix socket's path has at most 107 bytes (unix(7)).
    monkeypatch.chdir(shared)
    code = 'import socket; socket.socket(socket.AF_UNIX).connect("/mnt/socket"); print("connected")'
    process = {"args": ["/usr/bin/python3", "-I", "-c", code]}
    parts: dict[str, Any] = {"process": process, "mounts": [bind("../shared")]}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        listening.listen()
        bundle = make_bundle(tmp_path, **parts)
        assert "connected" not in usernsctl("run", TRUST, "--bundle", bundle).stdout
        make_bundle(tmp_path, **parts, annotations={"dev.gvisor.flag.host-uds": "all"})
        assert usernsctl("run", "--bundle", bundle).returncode == 125
        assert usernsctl("run", TRUST, "--bundle", bundle).stdout == "connected\n"


@pytest.mark.parametrize("name", ["network", "none-of-this-name"])
def test_annotations_refused_by_runsc_are_reported(
    usernsctl: Program, tmp_path: Path, name: str
) -> None:
    annotations = {f"dev.gvisor.flag.{name}": "host"}
    bundle = make_bundle(tmp_path, "echo it ran", annotations=annotations)
    done = usernsctl("run", TRUST, "--bundle", bundle)
    assert (done.returncode, done.stdout) == (125, "")
    assert "[bundle-annotation-refused]" in done.stderr
    with pytest.raises(un.RunscError) as caught, un.SandboxHost(bundle=bundle, trust=True) as host:
        host.start().wait(PATIENCE)
    assert caught.value.cause == "bundle-annotation-refused"


REFUSED = "runsc-refused-call"
REFUSES = """\
#!/bin/sh
case "$*" in
--version) echo "runsc version x"; exit ;;
esac
echo 'FATAL ERROR: error setting flag network="host": flag override disabled' >&2
exit 128
"""


def test_stderr_of_a_runsc_that_wrote_no_log_is_reported(usernsctl: Program, stand_in: Any) -> None:
    """Check that the standard error of a runsc that fails before it opens its log is reported.

    Releases of 2026 that reject an annotation fail before they open the log.
    """
    stand_in(REFUSES)
    done = usernsctl("run", "--", "true", env=dict(os.environ))
    assert done.returncode == 125
    assert REFUSED in done.stderr
    assert "flag override disabled" in done.stderr


def test_exit_status_128_of_a_command_is_kept(usernsctl: Program) -> None:
    done = usernsctl("run", "--", "sh", "-c", "exit 128")
    assert (done.returncode, done.stderr) == (128, "")


def test_a_host_needs_permission_for_an_outside_bundle(tmp_path: Path, shared: Path) -> None:
    marker = tmp_path / "ran"
    hook = {"path": "/usr/bin/touch", "args": ["touch", str(marker)]}
    parts = {"mounts": [bind("../shared")], "hooks": {"prestart": [hook]}}
    bundle = make_bundle(tmp_path, "cat /mnt/file", **parts)
    for allowed, cause in (
        ({}, "bundle-runs-hooks"),
        ({"trust": True}, "bundle-runs-hooks"),
        ({"allow_hooks": True}, "bundle-root-outside"),
    ):
        with pytest.raises(un.BundleError) as caught:
            un.SandboxHost(bundle=bundle, **allowed)
        assert caught.value.cause == cause
        assert "$.mounts[0].source" in str(caught.value) or "trust" in allowed
    assert not marker.exists()
    with (
        un.SandboxHost(bundle=bundle, trust=True, allow_hooks=True) as host,
        host.start(stdout=un.PIPE) as box,
    ):
        assert box.stdout.read() == b"from outside\n"
        assert box.wait(PATIENCE) == 0
    assert marker.exists()


@pytest.mark.parametrize("option", [TRUST, HOOKS])
def test_trust_and_hooks_options_need_a_bundle(usernsctl: Program, option: str) -> None:
    done = usernsctl("run", option, "--", "true")
    assert done.returncode == 125
    assert f"{option} needs --bundle" in done.stderr
    with pytest.raises(ValueError, match="need a bundle"):
        un.SandboxHost(trust=True)
    with pytest.raises(ValueError, match="need a bundle"):
        un.SandboxHost(allow_hooks=True)


def test_help_says_that_hooks_run_outside_gvisor(usernsctl: Program) -> None:
    told = " ".join(usernsctl("run", "--help").stdout.split())
    assert "OUTSIDE gVisor, on this machine's kernel, as you" in told
