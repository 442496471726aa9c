"""Tests of `usernsctl explain` with actual messages of runsc and of system tools."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import gvisor
import pytest
from callers import as_root, unprivileged
from conftest import SCRIPTS, TESTS, Program
from processes import capture
from test_bundles import USER, WORKS, bind, make_bundle, process, runsc_command

from usernsctl.explain.explanation import explain

BREAK = [sys.executable, str(TESTS / "kernel" / "causes" / "broken.py")]
ONE_ID = ["unshare", "--map-root-user", "true"]
RANGES = ["unshare", "--map-root-user", "--map-auto", "true"]
OVERLAPPING = ["unshare", "--map-users=0:100000:9", "--map-users=5:100020:9", "true"]
BWRAP = ["bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"]
PREPARED = [str(SCRIPTS / "usernsctl-exec"), "-r", "-m", "--"]
REFUSED_IDS = "idmapped-mount-refused"
PROC = ["unshare", "--map-root-user", "--mount-proc", "--pid", "--fork", "true"]


def failure_of(command: list[str]) -> str:
    """Run a command that must fail; return its standard error in English (LC_ALL=C)."""
    if shutil.which(command[0]) is None or ("bwrap" in command and shutil.which("bwrap") is None):
        pytest.skip(f"{' '.join(command)}: not installed")
    failed = capture(command, env=os.environ | {"LC_ALL": "C"})
    assert failed.returncode != 0
    assert failed.stderr != ""
    return failed.stderr


def causes_of(text: str) -> list[str]:
    return [each.cause.id for each in explain(io.BytesIO(text.encode())).candidates]


def root_cause(usernsctl: Program, logs: Path) -> str:
    """Return the id of the cause that `usernsctl explain` finds in runsc's debug logs."""
    told = usernsctl("explain", "--no-probe", "--json", "--debug-log", logs)
    assert told.returncode == 0
    known = json.loads(told.stdout)
    assert known["root_failure"]
    return str(known["causes"][0]["id"])


@pytest.mark.also_root
@pytest.mark.parametrize(
    ("way", "command", "cause"),
    [
        ("seccomp-engine", ONE_ID, "seccomp-denies-userns"),
        ("seccomp-engine", BWRAP, "seccomp-denies-userns"),
        ("unmapped", ONE_ID, "caller-id-unmapped"),
        ("nested-deep", ONE_ID, "nesting-too-deep"),
        ("nested-no-more", ONE_ID, "max-user-namespaces"),
        ("nested-no-more", BWRAP, "max-user-namespaces"),
        ("landlock", ONE_ID, "landlock"),
        ("no-processes", ["unshare", "--map-root-user", "--fork", "true"], "process-limit"),
    ],
)
@pytest.mark.sampled(4)
def test_explain_finds_causes_that_any_user_can_create(
    way: str, command: list[str], cause: str
) -> None:
    assert cause in causes_of(failure_of([*BREAK, way, "--", *command]))


UNDUMPABLE = """
import os, prctl
prctl.set_dumpable(0)
os.setresuid(os.getuid(), os.getuid(), os.getuid())
open("/proc/self/uid_map", "w")
"""

# Program that calls clone(2) with CLONE_NEWUSER and CLONE_FS, a combination that the kernel
# rejects.
CLONE_FS = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[1])
from calls import CALLS, CLONE_NEWUSER, libc
libc.syscall(CALLS["clone"], CLONE_NEWUSER | 0x200, 0, 0, 0, 0)
sys.exit(f"clone: {os.strerror(ctypes.get_errno())}")
"""
TWO_IDS = "echo 0 0 2 | tee /proc/$$/uid_map"
# Program that remounts /mnt with the flags in its argument. 0x1021 is MS_REMOUNT, MS_BIND and
# MS_RDONLY.
REMOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(None, b"/mnt", None, 0x1021 | int(sys.argv[1]), None):
    sys.exit(f"sandbox: remount: {os.strerror(ctypes.get_errno())}")
"""
# Command prefix that mounts a tmpfs with nosuid at /mnt in a user namespace. The command runs in a
# nested user namespace, where nosuid is locked.
FLAGGED = [*PREPARED, "sh", "-c", 'mount -t tmpfs -o nosuid none /mnt; exec "$@"', "sh", *PREPARED]
# Script that opens /dev/fuse where /dev has no devices, as in a container.
EMPTY_DEV = "mount -t tmpfs none /dev; exec python3 -c \"import os; os.open('/dev/fuse', 2)\""


@unprivileged
@pytest.mark.parametrize(
    ("command", "cause"),
    [
        (["unshare", "--mount", "true"], "namespaces-without-user"),
        ([sys.executable, "-c", CLONE_FS, BREAK[1].rpartition("/")[0]], "clone-flags-conflict"),
        (["unshare", "--user", "sh", "-c", TWO_IDS], "unprivileged-map"),
        ([*PREPARED, "chown", "4200000", "."], "image-id-unmapped"),
        ([*PREPARED, "mount", "-Bo", "X-mount.idmap=u:0:0:1", "/proc", "/mnt"], REFUSED_IDS),
        ([*PREPARED, "sh", "-c", EMPTY_DEV], "fuse-missing"),
        ([*FLAGGED, sys.executable, "-c", REMOUNT, "0"], "mount-flags-locked"),
        (["nsenter", "--user", "--target", "1", "true"], "join-denied"),
        ([sys.executable, "-c", UNDUMPABLE], "not-dumpable"),
        ([*PREPARED, "unshare", "--map-users=0:0:9", "true"], "outside-parent-map"),
        ([*PREPARED, "setpriv", "--clear-groups", "true"], "setgroups-denied-on-join"),
        ([*PREPARED, "mount", "-t", "sysfs", "none", "/sys"], "mount-without-owned-ns"),
    ],
)
def test_explain_finds_causes_of_a_plain_user(command: list[str], cause: str) -> None:
    assert cause in causes_of(failure_of(command))


@unprivileged
def test_remedy_for_locked_flags_of_a_mount_heals() -> None:
    """Check that a remount works if its options include nosuid, which is locked."""
    shown = [*FLAGGED, "findmnt", "--noheadings", "--output", "VFS-OPTIONS", "--target", "/mnt"]
    assert "nosuid" in capture(shown, check=True).stdout.strip().split(",")
    capture([*FLAGGED, sys.executable, "-c", REMOUNT, "2"], check=True)
    capture([*FLAGGED, "mount", "-o", "remount,bind,ro,nosuid", "/mnt"], check=True)


@as_root
@pytest.mark.parametrize(
    ("way", "command", "cause"),
    [
        ("chroot", ONE_ID, "in-chroot"),
        ("chroot", BWRAP, "in-chroot"),
        ("proc-read-only", ONE_ID, "proc-read-only"),
        ("proc-read-only", BWRAP, "proc-read-only"),
        ("no-proc", ONE_ID, "no-proc"),
        ("proc-masked", PROC, "proc-masked"),
        ("powerless-root", ONE_ID, "needs-setfcap"),
        ("helpers-missing", RANGES, "helper-missing"),
        ("helpers-powerless", RANGES, "helper-not-setuid"),
        ("helpers-nosuid", RANGES, "helper-on-nosuid"),
        ("no-new-privs", RANGES, "no-new-privs"),
        ("bounded", RANGES, "bounding-set"),
        ("few-ids", RANGES, "range-outside-parent"),
        ("no-ranges", RANGES, "no-subordinate-range"),
        ("other-group", RANGES, "gid-differs-from-passwd"),
        ("nameless", RANGES, "no-passwd-entry"),
        # The cause is range-overlap on any filesystem, read-only or not, because the maps of
        # OVERLAPPING overlap.
        ("read-only", OVERLAPPING, "range-overlap"),
    ],
)
def test_explain_finds_causes_that_root_can_create(
    way: str, command: list[str], cause: str
) -> None:
    assert cause in causes_of(failure_of([*BREAK, way, "--", *command]))


@as_root
@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("helpers-powerless", "helper-not-setuid"),
        ("helpers-nosuid", "helper-on-nosuid"),
        ("no-new-privs", "no-new-privs"),
        ("bounded", "bounding-set"),
        ("few-ids", "range-outside-parent"),
    ],
)
@pytest.mark.sampled(3)
def test_explain_confirms_one_of_several_causes_by_probes(
    usernsctl: Program, way: str, cause: str
) -> None:
    broken = [*BREAK, way, "--"]
    text = failure_of([*broken, *RANGES])
    told = capture([*broken, str(usernsctl.path), "explain"], input=text)
    assert told.returncode == 0
    assert told.stdout.split("\n\n")[1].startswith(f"{cause}: ")
    assert "(confirmed here)" in " ".join(told.stdout.split())


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        (["runsc", "--rootless", "create"], "runsc-rootless-create"),
        (["runsc", "--rootless", "run"], "runsc-rootless-netstack"),
        (["runsc", "--no-such-flag"], "runsc-flag-unknown"),
        (["sh", "-c", "exec runsc-missing/runsc"], "runsc-missing"),
    ],
)
def test_explain_finds_causes_of_invalid_runsc_calls(
    tmp_path: Path, command: list[str], cause: str
) -> None:
    # Some releases of runsc parse the bundle before they reject the options, so pass a valid
    # bundle.
    bundle = make_bundle(tmp_path / "b", **WORKS)
    ours = [f"--bundle={bundle}", "x"] if "--rootless" in command else []
    assert causes_of(failure_of([*command, *ours]))[0] == cause


@unprivileged
def test_explain_finds_unwritable_state_directory_of_runsc(tmp_path: Path) -> None:
    command = runsc_command(make_bundle(tmp_path / "b", **WORKS), "--rootless", "--root=/usr/no")
    assert causes_of(failure_of(command))[0] == "runsc-root-unwritable"


def test_explain_finds_refused_network_namespace(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", **WORKS)
    command = [*PREPARED[:-1], "-n", "--", *runsc_command(bundle, "--network=sandbox")]
    if gvisor.release().has("netstack-in-namespace"):
        done = capture(command)
        assert (done.returncode, gvisor.is_version(done.stdout)) == (0, True)
    else:
        assert causes_of(failure_of(command))[0] == "runsc-netns-check"


def test_explain_finds_duplicate_container_id(tmp_path: Path) -> None:
    """Create a container, and run another container with the same id; check the found cause.

    Both run in a new PID namespace, so the kernel kills the first container when PID 1 exits.
    """
    bundle = make_bundle(tmp_path / "b", **WORKS)
    run = shlex.join(runsc_command(bundle))
    create = run.replace(" run ", " create ")
    script = f"{create} </dev/null >/dev/null 2>&1; {run}"
    own_processes = [*PREPARED[:-1], "-p", "-f", "--mount-proc", "--"]
    assert causes_of(failure_of([*own_processes, "sh", "-c", script]))[0] == "duplicate-id"


@unprivileged
@pytest.mark.skipif(os.access("/dev/kvm", os.W_OK), reason="/dev/kvm can be used")
def test_explain_finds_inaccessible_kvm(tmp_path: Path) -> None:
    command = runsc_command(make_bundle(tmp_path / "b", **WORKS), "--rootless", "--platform=kvm")
    assert causes_of(failure_of(command))[0] == "kvm-denied"


@unprivileged
def test_explain_finds_bundle_without_mappings(usernsctl: Program, tmp_path: Path) -> None:
    """Run a bundle without id mappings; check the causes found in the message and the debug log."""
    bundle, logs = make_bundle(tmp_path / "b", linux={"namespaces": USER}), tmp_path / "logs"
    text = failure_of(runsc_command(bundle, "--debug", f"--debug-log={logs}/"))
    assert "bundle-no-mappings" in causes_of(text)
    assert root_cause(usernsctl, logs) == "bundle-no-mappings"


@unprivileged
def test_explain_finds_bundle_without_user_namespace(usernsctl: Program, tmp_path: Path) -> None:
    """Run a bundle without a user namespace; check the causes found in message and debug log.

    In the debug log, runsc requests a map of all ids.
    """
    bundle, logs = make_bundle(tmp_path / "b", linux={}), tmp_path / "logs"
    text = failure_of(runsc_command(bundle, "--debug", f"--debug-log={logs}/"))
    assert causes_of(text)[0] == "bundle-no-mappings"
    assert root_cause(usernsctl, logs) == "range-not-granted"


@unprivileged
def test_explain_finds_nonroot_user_in_the_namespace(tmp_path: Path) -> None:
    """Check the cause found if runsc has capabilities, but a uid other than 0.

    runsc then creates no user namespace.
    """
    bundle = make_bundle(tmp_path / "b", **WORKS)
    prepared = [str(SCRIPTS / "usernsctl-exec"), "-c", "-m", "--keep-caps", "--"]
    text = failure_of([*prepared, *runsc_command(bundle, "--rootless")])
    assert "nonroot-in-namespace" in causes_of(text)


def test_explain_corrects_the_hint_about_max_user_namespaces(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", linux={"namespaces": USER})
    text = failure_of([*PREPARED, *runsc_command(bundle, "--rootless")])
    assert "bundle-no-mappings" in causes_of(text)
    # Only releases of runsc without the feature netstack-in-namespace print the misleading hint.
    hints = not gvisor.release().has("netstack-in-namespace")
    assert ("max_user_namespaces is set too low" in text) == hints
    assert (causes_of(text)[0] == "false-max-userns-hint") == hints


def with_root(path: str, read_only: bool = True) -> dict[str, Any]:
    return process() | {"root": {"path": path, "readonly": read_only}}


DEVICE = {"path": "/dev/x", "type": "c", "major": 1, "minor": 3}
FAILING = [
    ("rootfs-missing", PREPARED, with_root("/nonexistent")),
    ("bundle-bind-source", PREPARED, bind("/nonexistent", "/mnt")),
    ("bundle-devices", PREPARED, {"linux": WORKS["linux"] | {"devices": [DEVICE]}}),
    ("command-not-found", PREPARED, WORKS | {"process": {"args": ["/nonexistent"], "cwd": "/"}}),
]
# Causes for which runsc prints the same message. Only doctor's probes can tell them apart.
SAME_TEXT = {"ptrace-denied": {"ptrace-denied", "yama-ptrace-scope"}}
FAILING_WITHOUT_ROOT = [
    ("rootfs-unreadable", PREPARED, with_root("/root")),
    ("bundle-overlay", PREPARED, with_root("/usr", read_only=False)),
    # Run runsc outside a prepared namespace, so that runsc itself creates the namespace.
    ("mount-denied", [*BREAK, "seccomp-mount", "--"], WORKS),
    ("ptrace-denied", [*BREAK, "seccomp-ptrace", "--"], WORKS),
]


@pytest.mark.parametrize(
    ("cause", "start", "parts"),
    [*FAILING, *(pytest.param(*each, marks=unprivileged) for each in FAILING_WITHOUT_ROOT)],
)
@pytest.mark.sampled(4)
def test_explain_finds_the_root_failure_in_debug_logs(
    usernsctl: Program, tmp_path: Path, cause: str, start: list[str], parts: dict[str, Any]
) -> None:
    bundle, logs = make_bundle(tmp_path / "b", **parts), tmp_path / "logs"
    options = ["--rootless", "--debug", f"--debug-log={logs}/"]
    command = [*start, *runsc_command(bundle, *options)]
    if cause == "bundle-devices" and gvisor.release().has("devices-without-mode"):
        done = capture(command)
        assert (done.returncode, gvisor.is_version(done.stdout)) == (0, True)
        return
    text = failure_of(command)
    assert cause in causes_of(text)
    assert root_cause(usernsctl, logs) in SAME_TEXT.get(cause, {cause})


def test_explain_reports_nothing_after_a_successful_run(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    bundle, logs = make_bundle(tmp_path / "b", **WORKS), tmp_path / "logs"
    options = ["--rootless", "--debug", f"--debug-log={logs}/"]
    assert prelude("-r", "-m", "--", *runsc_command(bundle, *options)).returncode == 0
    told = usernsctl("explain", "--debug-log", logs)
    assert told.returncode == 1
    assert told.stdout.startswith("Nothing to explain")


NO_LIBRARY = "python-library-unreadable"
STDLIB = "import sysconfig; print(sysconfig.get_path('stdlib'))"


def test_remedies_for_the_library_of_python_heal(usernsctl: Program, tmp_path: Path) -> None:
    """Check the remedies for a Python library that is not mounted, or is mounted but unreadable."""
    library = Path(capture(["/usr/bin/python3", "-c", STDLIB]).stdout.strip())
    parent = tmp_path / "python/lib"
    parent.mkdir(parents=True)
    (parent / library.name).symlink_to(library)
    python = ["--env", f"PYTHONHOME={parent.parent}", "--", "/usr/bin/python3", "-c", "print(2)"]
    without, bound = ["run", *python], ["run", "--bind", str(parent.parent), *python]
    assert causes_of(failure_of([str(usernsctl.path), *without]))[0] == NO_LIBRARY
    assert usernsctl(*bound).stdout == "2\n"
    parent.chmod(0o000)
    assert causes_of(failure_of([str(usernsctl.path), *bound]))[0] == NO_LIBRARY
    capture(["chmod", "-R", "a+rX", parent.parent], check=True)
    assert usernsctl(*bound).stdout == "2\n"


def test_explain_finds_a_library_of_python_that_a_namespace_hides() -> None:
    hide = f'mount -t tmpfs none "$(/usr/bin/python3 -c "{STDLIB}")"; /usr/bin/python3 -c 1'
    assert causes_of(failure_of([*PREPARED, "sh", "-c", hide]))[0] == NO_LIBRARY
