"""Build the sdist, and the wheels of usernsctl and usernsctl-prelude, in dist/.

Each file is built twice, in directories with different names, and the results must be identical. So
anyone with the same compiler and libc can verify that a wheel was built from its sources.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import glibc
import prelude
import sysroot

TREE = Path(__file__).resolve().parents[2]
OUTPUT = TREE / "dist"
#: Environment variables that make setup.py and setuptools use a cross compiler and linker.
CROSS = {
    "CC": "aarch64-linux-gnu-gcc",
    "LDSHARED": "aarch64-linux-gnu-gcc -shared",
}
BUILDS: dict[str, dict[str, str]] = {platform.machine(): {}}
BUILDS.setdefault("aarch64", CROSS)


def last_commit() -> str:
    """Return the last commit's time in seconds since the epoch, the mtime of all built files."""
    command = ["git", "-C", TREE, "log", "-1", "--format=%ct"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def sysroot_for(machine: str) -> Path:
    return TREE / "build" / f"sysroot-{sysroot.SUITE}-{machine}"


def build_package(kind: str, source: Path, target: Path, *options: str, **environ: str) -> Path:
    """Build ``source`` by ``python -m build --KIND``; return the file written to ``target``."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", *options]
    log = target / "log"
    with log.open("w") as output:
        words = [*command, "--outdir", target, source]
        done = subprocess.run(
            words, stdout=output, stderr=subprocess.STDOUT, env=os.environ | environ
        )
    if done.returncode:
        sys.exit(f"{log.read_text()}\nthe {kind} could not be built")
    log.unlink()
    [made] = target.iterdir()
    return made


def remove_build_details(sdist: Path, epoch: int) -> None:
    """Remove the name of the builder and the time of the build from an sdist."""
    with tarfile.open(sdist) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = [archive.extractfile(m) if m.isfile() else None for m in members]
        with (
            sdist.with_suffix(".new").open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as made,
        ):
            for member, content in zip(members, contents, strict=True):
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mtime = epoch
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                member.pax_headers = {}
                made.addfile(member, content)
    sdist.with_suffix(".new").rename(sdist)


def build_all(scratch: Path, target: Path, epoch: str) -> None:
    """Build the sdist in ``target``, and the wheels from that sdist."""
    source, sdists = scratch / "source", scratch / "sdist"
    for directory in (target, source, sdists):
        directory.mkdir(parents=True)
    subprocess.run([TREE / "tools/source-copy", source], check=True)
    sdist = build_package("sdist", source, sdists)
    remove_build_details(sdist, int(epoch))
    for machine in BUILDS:
        build_wheels(sdist, scratch / machine, target, machine, epoch)
    shutil.move(sdist, target)


def build_wheels(sdist: Path, scratch: Path, target: Path, machine: str, epoch: str) -> None:
    """Build the wheels of usernsctl and usernsctl-prelude for an architecture in ``target``."""
    unpacked, wheels = scratch / "tree", scratch / "wheel"
    for directory in (unpacked, wheels):
        directory.mkdir(parents=True)
    shutil.unpack_archive(sdist, unpacked, filter="data")
    [tree] = unpacked.iterdir()
    option = f"-C--build-option=--plat-name={glibc.PLATFORM}_{machine}"
    environ = BUILDS[machine] | {"USERNSCTL_SYSROOT": str(sysroot_for(machine))}
    if machine != platform.machine():
        musl = sysroot.make_musl(TREE / "build" / f"musl-{machine}", machine)
        environ["USERNSCTL_PROGRAM_CC"] = shlex.join(musl)
    wheel = build_package("wheel", tree, wheels, option, **environ)
    shutil.move(wheel, target)
    prelude.repack(target / wheel.name, target, tree, int(epoch))


def hashes(directory: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.iterdir())
    }


def main() -> None:
    os.umask(0o022)
    epoch = last_commit()
    # Build without debugging information, because it contains the names of build directories.
    os.environ.update(SOURCE_DATE_EPOCH=epoch, CFLAGS="-g0")
    os.environ.pop("LDFLAGS", None)
    for machine in BUILDS:
        sysroot.make(sysroot_for(machine), machine)
    with tempfile.TemporaryDirectory(prefix="usernsctl-dist-") as scratch:
        first, again = Path(scratch, "first"), Path(scratch, "once-more")
        for built in (first, again):
            print(f"Building {'twice' if built is again else 'once'}", flush=True)
            build_all(built / "work", built / "dist", epoch)
        made, others = hashes(first / "dist"), hashes(again / "dist")
        if made != others:
            changed = sorted(name for name in made if made[name] != others.get(name))
            sys.exit(f"two builds of the same sources differ: {', '.join(changed)}")
        shutil.rmtree(OUTPUT, ignore_errors=True)
        shutil.copytree(first / "dist", OUTPUT)
    for name, digest in made.items():
        print(f"{digest}  dist/{name}")


if __name__ == "__main__":
    main()
