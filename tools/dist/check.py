"""Check the files in dist/, and write an SBOM (CycloneDX) for each wheel."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import glibc
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from elftools.elf.elffile import ELFFile
from wheels import BUILDS, OUTPUT, TREE, last_commit

ELF = b"\x7fELF"
# A text that occurs in every program that is statically linked with glibc.
GLIBC = b"glibc"
TOOLS = Path(sys.executable).parent
# Warnings of check-wheel-contents that are expected. One command is twice in the wheel of
# usernsctl: in bin/ for users, and in the package. The wheel of the native programs contains only
# scripts.
EXPECTED = {"usernsctl": "W002", "usernsctl_prelude": "W007"}


def run(program: str, *words: str | Path) -> str:
    """Run a tool of this virtual environment; return its output. Exit if the tool fails."""
    done = subprocess.run([TOOLS / program, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program}:\n{done.stdout}{done.stderr}")
    return done.stdout


def name_of(file: Path) -> str:
    return file.name.split("-")[0]


def machine_of(wheel: Path) -> str:
    """Return the processor architecture for which a wheel is built."""
    return next(machine for machine in BUILDS if wheel.stem.endswith(machine))


def glibc_of(wheel: Path) -> tuple[int, int]:
    """Return the oldest glibc with which a wheel works according to manylinux's policies.

    :returns: the version of glibc, or (0, 0) if the wheel does not need glibc.
    """
    told = json.loads(run("auditwheel", "show", "--json", wheel))
    version = re.fullmatch(r"manylinux_(\d+)_(\d+)_\w+", told["overall_tag"])
    if not version or told["external_libs"]:
        sys.exit(f"{wheel.name} is not for every system: {told}")
    if not told["versioned_symbols"]:
        return (0, 0)
    return int(version[1]), int(version[2])


def check_programs(wheel: Path) -> None:
    """Check that the programs are static, and that the extension works with glibc OLDEST.

    The programs and the extension must be built for the architecture of the wheel.
    """
    expected = {"x86_64": "x64", "aarch64": "AArch64"}[machine_of(wheel)]
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch)
        files = [file for file in Path(scratch).rglob("*") if file.is_file()]
        native = [file for file in files if file.read_bytes()[:4] == ELF]
        for file in native:
            if late := glibc.too_new(file):
                sys.exit(f"{wheel.name}: {file.name} needs a newer glibc for {', '.join(late)}")
            if file.suffix != ".so" and glibc.needed(file):
                sys.exit(f"{wheel.name}: {file.name} is not static")
            if file.suffix != ".so" and GLIBC in file.read_bytes():
                sys.exit(f"{wheel.name}: {file.name} is linked with glibc, which starts later")
            if (machine := ELFFile.load_from_path(file).get_machine_arch()) != expected:
                sys.exit(f"{wheel.name}: {file.name} is for {machine}")
        for file in (file for file in native if file.name == "usernsctl-exec"):
            check_start(file, machine_of(wheel))
    if not native:
        sys.exit(f"{wheel.name} has no programs in it")


def check_start(program: Path, machine: str) -> None:
    """Check that a program starts, in an emulator if it is built for another architecture."""
    emulator = [f"qemu-{machine}"] if BUILDS[machine] else []
    program.chmod(0o755)
    for option, beginning in (("--version", "usernsctl-exec "), ("--help", "Usage:")):
        done = subprocess.run([*emulator, program, option], capture_output=True, text=True)
        if done.returncode or not done.stdout.lower().startswith(beginning.lower()):
            sys.exit(f"{program.name} {option} for {machine}: {done.stdout}{done.stderr}")


def check_wheel(wheel: Path) -> None:
    run("check-wheel-contents", "--ignore", EXPECTED[name_of(wheel)], wheel)
    check_programs(wheel)
    needed = glibc_of(wheel)
    if needed > glibc.OLDEST:
        sys.exit(f"{wheel.name} needs glibc {needed}, but says {glibc.OLDEST}")
    if "-abi3-" in wheel.name:
        run("abi3audit", "--strict", wheel)
    libc = "glibc {}.{} and later".format(*needed) if any(needed) else "any libc, or none"
    print(f"{name_of(wheel)} for {machine_of(wheel)}: works with {libc}")


def libc_of_programs() -> dict[str, str]:
    """Return the CycloneDX component for musl, which the static programs contain."""
    fields = "${source:Package} ${source:Version}"
    command = ["dpkg-query", "-W", "-f", fields, "musl-dev"]
    name, version = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch=source"
    return {"type": "library", "bom-ref": name, "name": name, "version": version, "purl": purl}


def list_components(wheel: Path, target: Path) -> None:
    """Write the SBOM of a wheel, including the libc that its programs contain."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", scratch], check=True)
        python = Path(scratch, "bin/python")
        run("pip", "--python", python, "install", "--quiet", wheel)
        words = ["--pyproject", TREE / "pyproject.toml", "--output-reproducible", "-o", target]
        run("cyclonedx-py", "environment", *words, python)
    bom = json.loads(target.read_text())
    libc = libc_of_programs()
    bom["components"].append(libc)
    own = bom["metadata"]["component"]["bom-ref"]
    for entry in bom["dependencies"]:
        if entry["ref"] == own:
            entry["dependsOn"] = sorted([*entry.get("dependsOn", ()), libc["bom-ref"]])
    bom["dependencies"].append({"ref": libc["bom-ref"]})
    text = json.dumps(bom, indent=2, sort_keys=True) + "\n"
    wrong = JsonStrictValidator(SchemaVersion.from_version(bom["specVersion"])).validate_str(text)
    if wrong:
        sys.exit(f"{target.name} is no list of components: {wrong}")
    target.write_text(text)


def main() -> None:
    os.environ["SOURCE_DATE_EPOCH"] = last_commit()
    files = sorted(OUTPUT.glob("*.whl")) + sorted(OUTPUT.glob("*.tar.gz"))
    run("twine", "check", "--strict", *files)
    wheels = {(name_of(file), machine_of(file)): file for file in files if file.suffix == ".whl"}
    if set(wheels) != {(name, machine) for name in EXPECTED for machine in BUILDS}:
        sys.exit(f"dist/ should have wheels of {', '.join(EXPECTED)} for {', '.join(BUILDS)}")
    for wheel in wheels.values():
        check_wheel(wheel)
    wheel = wheels["usernsctl", platform.machine()]
    version = wheel.name.split("-")[1]
    list_components(wheel, OUTPUT / f"usernsctl-{version}.cdx.json")


if __name__ == "__main__":
    main()
