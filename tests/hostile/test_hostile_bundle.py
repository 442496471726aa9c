"""Attacks by the author of a bundle, who writes config.json and swaps files during the start.

An attack succeeds if the payload reads a file outside the bundle (SECRET), or if a program of the
bundle runs outside gVisor.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import usernsctl as un
from usernsctl.errors import BundleError
from usernsctl.gvisor import oci
from usernsctl.gvisor.launch.bundle import OpenBundle, open_bundle
from usernsctl.gvisor.launch.request import Request
from usernsctl.maps import Extent, MappedIds

pytestmark = pytest.mark.userns_requires("runsc")

SECRET = "the caller's secret"
# Maximum time in seconds, also on a loaded host, for the rejection of a bundle.
AT_MOST = 20

# C program that prints the content of each readable file that its arguments name.
SHOW = """\
#include <stdio.h>
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "r");
        for (int c; file != NULL && (c = getc(file)) != EOF;)
            putchar(c);
    }
}
"""
MOMENTS = (
    *("prestart", "createRuntime", "createContainer"),
    *("startContainer", "poststart", "poststop"),
)


@pytest.fixture(scope="session")
def show(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    directory = tmp_path_factory.mktemp("show")
    (directory / "show.c").write_text(SHOW)
    subprocess.run([compiler, "-static", "-o", "show", "show.c"], cwd=directory, check=True)
    return directory / "show"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Create a directory outside the bundle, with a file that contains SECRET."""
    directory = tmp_path / "private"
    directory.mkdir()
    (directory / "secret").write_text(SECRET)
    return directory


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Create a bundle with an empty root filesystem, a directory and a file."""
    directory = tmp_path / "bundle"
    for name in ("rootfs", "data/deep"):
        (directory / name).mkdir(parents=True)
    (directory / "data/file").write_text("its own")
    return directory


def config(**more: Any) -> dict[str, Any]:
    return {
        "process": {"args": ["/bin/show"], "cwd": "/"},
        "root": {"path": "rootfs", "readonly": True},
        **more,
    }


def write(directory: Path, content: dict[str, Any] | str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / "config.json").write_text(text)


def bind(source: str, **more: Any) -> dict[str, Any]:
    mount = {"destination": "/data", "type": "bind", "source": source, "options": ["rbind", "rw"]}
    return config(mounts=[mount | more])


def read(directory: Path, **how: Any) -> OpenBundle:
    """Open a bundle as `usernsctl run --bundle` does before it starts a process."""
    own = MappedIds(
        uid=(Extent(0, os.geteuid(), 1),),
        gid=(Extent(0, os.getegid(), 1),),
        become=(0, 0),
    )
    return open_bundle(Request(bundle=str(directory), **how), str(directory), own)


def is_refused(directory: Path, cause: str, **how: Any) -> bool:
    try:
        read(directory, **how)
    except BundleError as error:
        assert error.cause == cause, error.reason
        return True
    return False


@contextlib.contextmanager
def repeated_beside(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` repeatedly in another process during the ``with`` block."""
    attacker = get_context("fork").Process(target=repeat, args=(work,))
    attacker.start()
    try:
        yield
    finally:
        assert attacker.is_alive()
        attacker.terminate()
        attacker.join()


def repeat(work: Callable[[], None]) -> None:
    # Block SIGTERM, so that each round of `work` completes and puts all files back in place.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = os.getppid()
    while os.getppid() == parent and not signal.sigpending():
        work()


def swapper(place: Path, other: Path) -> Callable[[], None]:
    """Return a function that swaps the directory `place` for a link to `other` and back again."""
    beside = place.with_name(place.name + "-real")
    link = place.with_name(place.name + "-link")
    link.symlink_to(other)

    def swap() -> None:
        place.rename(beside)
        link.rename(place)
        place.rename(link)
        beside.rename(place)

    return swap


def test_hostile_hooks_run_nothing(
    tally: Any, usernsctl: Any, bundle: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "owned"
    hook = {"path": "/usr/bin/touch", "args": ["touch", str(marker)]}
    folded = [
        ("hooks", moment, spelled)
        for moment in MOMENTS
        for spelled in (moment, moment.upper(), moment.replace("s", "\u017f"), moment.title())
    ]
    folded += [
        (name, moment, moment)
        for name in ("HOOKS", "Hooks", "hook\u017f", "hoo\u212as", "HOO\u212a\u017f")
        for moment in MOMENTS
    ]
    # Run only some of the bundles, because a run takes long. For the others, check that opening
    # them fails.
    for number, (hooks, moment, spelled) in enumerate(folded):
        write(bundle, config(**{hooks: {spelled: [hook]}}))
        tally.tried()
        if number % len(folded) < tally.rounds(short=4, full=len(folded)):
            done = usernsctl("run", "--bundle", bundle)
            if done.returncode != 125 or marker.exists():
                tally.succeeded(f"{hooks}.{spelled}: {done.returncode}")
            marker.unlink(missing_ok=True)
        with contextlib.suppress(BundleError):
            given = read(bundle).config
            tally.succeeded(f"{hooks}.{spelled} ({moment}) reaches runsc: {given}")


def test_hostile_hooks_twice_over_run_nothing(tally: Any, bundle: Path) -> None:
    """Check that duplicate keys are rejected: some parsers use the first key, others the last."""
    hooks = '{"prestart": [{"path": "/usr/bin/true"}]}'
    start = '"process": {"args": ["/bin/show"]}, "root": {"path": "rootfs"}'
    spellings = ("hooks", "HOOKS", "hoo\\u212as", "hook\\u017f")
    for first, second in itertools.product(spellings, repeat=2):
        for values in ((hooks, "null"), ("null", hooks), ("{}", hooks)):
            write(bundle, f'{{{start}, "{first}": {values[0]}, "{second}": {values[1]}}}')
            tally.tried()
            with contextlib.suppress(BundleError):
                tally.succeeded(f"{first}, {second}: {read(bundle).config}")


def test_hostile_keys_never_reach_runsc(tally: Any, bundle: Path) -> None:
    """Check that runsc gets no unknown keys of config.json, and none with effects on the host."""
    acting = {
        "process": ["apparmorProfile", "ioPriority", "scheduler", "execCPUAffinity", "commandLine"],
        "linux": ["cgroupsPath", "intelRdt", "netDevices", "resources", "memoryPolicy"],
        "root": ["vendor"],
    }
    for part, keys in acting.items():
        for key in [*keys, "vendor", "\u202e"]:
            wanted = config(linux={})
            wanted[part][key] = "anything" if key == "cgroupsPath" else {"any": ["thing"]}
            write(bundle, wanted)
            tally.tried()
            if key in read(bundle).config[part]:
                tally.succeeded(f"{part}.{key}")
    for kind in ("network", "pid", "ipc", "uts", "mount", "cgroup", "time", "user"):
        write(bundle, config(linux={"namespaces": [{"type": kind, "path": "/proc/1/ns/net"}]}))
        tally.tried()
        for entry in read(bundle).config["linux"]["namespaces"]:
            if "path" in entry:
                tally.succeeded(f"joins {entry}")


SOURCES = {
    "absolute": "{private}",
    "a file": "{private}/secret",
    "above": "..",
    "above and down": "../private",
    "in and out": "data/../../private",
    "deep": "data/deep/../../../private",
    "a link": "link",
    "a link to a link": "link-to-link",
    "a link that is absolute": "absolute-link",
    "a link on the way": "link/secret",
    "a link up": "up/private",
    "the parent by its own name": "{bundle}/../private",
    "the prefix of its name": "{bundle}-other",
    "the home": "~",
}
MACHINE = ("/", "/proc", "/proc/self", "/sys", "/sys/kernel", "/dev", "/dev/null", "/proc/..")


def test_hostile_sources_show_nothing_outside(tally: Any, bundle: Path, secret: Path) -> None:
    (bundle / "link").symlink_to("../private")
    (bundle / "link-to-link").symlink_to("link")
    (bundle / "absolute-link").symlink_to(secret)
    (bundle / "up").symlink_to("..")
    (bundle / "~").symlink_to(os.path.expanduser("~"))
    shutil.copytree(secret, f"{bundle}-other")
    for what, source in SOURCES.items():
        path = source.format(private=secret, bundle=bundle)
        for more in ({}, {"type": "none"}, {"type": "tmpfs"}, {"options": []}):
            write(bundle, bind(path, **more))
            tally.tried()
            if not is_refused(bundle, "bundle-bind-outside"):
                tally.succeeded(f"{what}, {more}")
        write(bundle, config(root={"path": path}))
        tally.tried()
        if not is_refused(bundle, "bundle-root-outside"):
            tally.succeeded(f"root: {what}")


def test_hostile_sources_never_show_the_machine(tally: Any, bundle: Path) -> None:
    """Check that even a trusted bundle can't mount the host's /proc, /sys or /dev."""
    (bundle / "proc").symlink_to("/proc")
    (bundle / "fd").symlink_to("/proc/self/fd")
    (bundle / "root").symlink_to("/proc/self/root")
    (bundle / "dev").symlink_to("../../../../../../../../../../dev")
    for path in (*MACHINE, "proc", "fd", "root", "dev", "dev/null", "proc/self/root/proc"):
        for trust in (True, False):
            write(bundle, bind(path))
            tally.tried()
            try:
                read(bundle, trust_bundle=trust)
            except BundleError as error:
                assert error.cause in ("bundle-bind-machine", "bundle-bind-source"), error.reason
                continue
            tally.succeeded(f"{path}, {trust}")


@pytest.mark.also_root
def test_hostile_special_files_are_not_shown(tally: Any, bundle: Path) -> None:
    os.mkfifo(bundle / "fifo")
    write(bundle, bind("fifo"))
    tally.tried()
    if not is_refused(bundle, "bundle-bind-outside"):
        tally.succeeded("a FIFO")
    if os.geteuid() == 0:
        os.mknod(bundle / "disk", 0o60666, os.makedev(7, 0))
        write(bundle, bind("disk"))
        tally.tried()
        if not is_refused(bundle, "bundle-bind-outside"):
            tally.succeeded("a disk")


def test_hostile_filesystems_are_not_mounted(tally: Any, bundle: Path, secret: Path) -> None:
    for kind in ("erofs", "ext4", "overlay", "fuse", "9p", "EROFS"):
        write(bundle, bind(f"{secret}/secret", type=kind, options=[]))
        tally.tried()
        if not is_refused(bundle, "bundle-mount-type"):
            tally.succeeded(kind)


ANNOTATIONS = {
    "dev.gvisor.flag.host-uds": "all",
    "dev.gvisor.flag.overlay2": "none",
    "dev.gvisor.flag.network": "host",
    "dev.gvisor.flag.debug-log": "/tmp/",
    "dev.gvisor.flag.strace": "true",
    "dev.gvisor.flag.oci-seccomp": "false",
    "dev.gvisor.bundle.experimental-high-performance": "true",
    "dev.gvisor.spec.rootfs.source": "/",
    "dev.gvisor.spec.mount.data.source": "/",
    "dev.gvisor.spec.cgroup-parent": "/",
    "dev.gvisor.tar.rootfs.upper": "/etc/passwd",
    "dev.gvisor.internal.checkpoint.path": "/tmp",
    "dev.gvisor.internal.nvproxy": "true",
    "dev.gvisor.new-one": "true",
    "DEV.GVISOR.flag.host-uds": "all",
}
OF_OTHERS = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-id": "another",
    "io.kubernetes.cri-o.ContainerType": "container",
    " dev.gvisor.flag.host-uds": "all",
    "org.example": "harmless",
}


def test_hostile_annotations_do_not_reach_runsc(tally: Any, bundle: Path) -> None:
    for name, value in ANNOTATIONS.items():
        write(bundle, config(annotations={name: value}))
        tally.tried()
        if not is_refused(bundle, "bundle-annotation"):
            tally.succeeded(f"{name}={value}")
    for name, value in OF_OTHERS.items():
        write(bundle, config(annotations={name: value, "dev.gvisor.flag.oci-seccomp": "true"}))
        tally.tried()
        if read(bundle).config["annotations"] != {"dev.gvisor.flag.oci-seccomp": "true"}:
            tally.succeeded(f"{name}={value}")


def test_hostile_capabilities_do_not_reach_the_sandbox(tally: Any, bundle: Path) -> None:
    for name in ("SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "SYS_MODULE", "BPF", "DAC_READ_SEARCH"):
        for kind in ("bounding", "effective", "inheritable", "permitted", "ambient"):
            wanted = config()
            wanted["process"]["capabilities"] = {kind: ["CAP_CHOWN", f"CAP_{name}"]}
            write(bundle, wanted)
            tally.tried()
            if not is_refused(bundle, "bundle-capabilities"):
                tally.succeeded(f"{name} in {kind}")


@pytest.mark.parametrize("kind", ["fifo", "link out", "link to a device", "link to itself", "huge"])
def test_hostile_config_files_are_an_error_at_once(tally: Any, bundle: Path, kind: str) -> None:
    file = bundle / "config.json"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "huge":
        write(bundle, "{}")
        os.truncate(file, 1 << 40)
    else:
        target = {"link out": "/etc/passwd", "link to a device": "/dev/tty"}.get(kind, file.name)
        file.symlink_to(target)
    start, used = time.monotonic(), time.process_time()
    tally.tried()
    with pytest.raises(BundleError) as caught:
        read(bundle)
    assert time.process_time() - used < 2
    assert time.monotonic() - start < AT_MOST
    assert "root:" not in caught.value.reason


def test_hostile_swaps_do_not_lead_a_descriptor_out(tally: Any, bundle: Path, secret: Path) -> None:
    """Replace a directory with a symbolic link; check that no file outside the bundle is opened."""
    outside = (secret.stat().st_dev, secret.stat().st_ino)
    (secret / "deep").mkdir()
    deep = (secret / "deep").stat().st_ino
    seen: set[int | None] = set()
    rounds, patience = tally.rounds(short=4000, full=400_000), time.monotonic() + 30
    with repeated_beside(swapper(bundle / "data", secret)), oci.Bundle(bundle) as opened:
        for number in itertools.count():
            # Continue until one open has succeeded and another has failed with EXDEV: on a busy
            # host, the swapper may wait long for CPU time.
            is_seen = {0, errno.EXDEV} <= seen or time.monotonic() > patience
            if number >= rounds and is_seen:
                break
            tally.tried()
            path = "data/deep" if number % 2 else "data"
            try:
                found = oci.open_source(opened, path, trusted=False)
            except OSError as error:
                seen.add(error.errno)
                continue
            status = found.status
            found.close()
            seen.add(0)
            if (status.st_dev, status.st_ino) == outside or status.st_ino == deep:
                tally.succeeded(f"try {number}")
    assert {0, errno.EXDEV} <= seen, "the swapper was never seen at work"


def test_hostile_swaps_do_not_show_what_is_outside(
    tally: Any, usernsctl: Any, bundle: Path, secret: Path, show: Path
) -> None:
    """Swap directories during runs; check that no run prints the secret."""
    (bundle / "rootfs/bin").mkdir()
    shutil.copy(show, bundle / "rootfs/bin")
    wanted = bind("data")
    wanted["process"]["args"] += ["/data/secret", "/data/file"]
    write(bundle, wanted)
    with repeated_beside(swapper(bundle / "data", secret)):
        for _ in range(tally.rounds(short=5, full=2000)):
            tally.tried()
            done = usernsctl("run", "--bundle", bundle)
            if SECRET in done.stdout + done.stderr:
                tally.succeeded(done.stdout)
            assert done.returncode in (0, 125), done.stderr
    assert usernsctl("run", "--bundle", bundle).stdout == "its own"


def test_hostile_swaps_of_the_bundle_show_no_other_one(
    tally: Any, bundle: Path, show: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replace the bundle after the check; check that the run uses the bundle that was checked."""
    (bundle / "rootfs/bin").mkdir()
    shutil.copy(show, bundle / "rootfs/bin")
    write(bundle, bind("data"))
    other = bundle.with_name("other")
    shutil.copytree(bundle, other)
    (other / "data/file").write_text(SECRET)
    create = un.Namespace.create

    def swap_and_create(*args: Any, **options: Any) -> un.Namespace:
        bundle.rename(bundle.with_name("away"))
        other.rename(bundle)
        return create(*args, **options)

    monkeypatch.setattr(un.Namespace, "create", swap_and_create)
    tally.tried()
    with un.SandboxHost(bundle=bundle) as host:
        done = un.gvisor.run(["/bin/show", "/data/file"], host=host, capture_output=True, text=True)
    if SECRET in done.stdout:
        tally.succeeded(done.stdout)
    assert done.stdout == "its own"
    assert (bundle / "data/file").read_text() == SECRET, "it was swapped"
