"""Builder of the wheel usernsctl-prelude, which contains only the native programs of usernsctl.

The wheel is for container images. It needs neither Python nor a libc, because its programs are
static; so it has platform tags for glibc and for musl. The programs are those of usernsctl's wheel.
"""

from __future__ import annotations

import base64
import hashlib
import time
import tomllib
import zipfile
from pathlib import Path

import glibc

NAME = "usernsctl_prelude"
# The platform tags of the wheel: the oldest ones, because static programs need only Linux (PEP 600,
# PEP 656).
PLATFORMS = ("manylinux_2_17", "manylinux2014", "musllinux_1_1")
ABOUT = """\
# usernsctl-prelude

The native programs of usernsctl, for container images:
`usernsctl-exec`, `usernsctl-entrypoint`, and what they start. They are static, and need neither
Python nor a libc.

    pip install --no-cache-dir --prefix /opt/usernsctl usernsctl-prelude

They find each other in the directory in which they are, so move all of them, or none.

Install either this or `usernsctl`, which has the same programs and the Python package.
"""


def programs(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    """Return a dict that maps the names of the native programs in usernsctl's wheel to contents."""
    return {
        Path(name).name: wheel.read(name)
        for name in sorted(wheel.namelist())
        if "/_bin/" in name or ".data/scripts/" in name
    }


def metadata(project: dict[str, object]) -> str:
    head = {
        "Metadata-Version": "2.4",
        "Name": NAME.replace("_", "-"),
        "Version": project["version"],
        "Summary": "Native programs of usernsctl: user namespaces, and gVisor without root",
        "License-Expression": project["license"],
        "License-File": "LICENSE",
        "Classifier": "Operating System :: POSIX :: Linux",
        "Description-Content-Type": "text/markdown",
    }
    return "".join(f"{name}: {value}\n" for name, value in head.items()) + f"\n{ABOUT}"


def record(files: dict[str, bytes], own_name: str) -> bytes:
    """Return the content of RECORD, which lists all files of a wheel with their hashes."""
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    return "".join(f"{line}\n" for line in [*lines, f"{own_name},,"]).encode()


def repack(wheel: Path, target: Path, source: Path, epoch: int) -> Path:
    """Build the wheel of the native programs from usernsctl's wheel, and return its path.

    :param wheel: the path of usernsctl's wheel.
    :param target: the directory for the new wheel.
    :param source: the source tree from which ``wheel`` was built.
    :param epoch: the modification time of all files in the new wheel, in seconds since the epoch.
    """
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    stem = f"{NAME}-{project['version']}"
    machine = wheel.stem.partition(glibc.PLATFORM)[2]
    tags = [f"{name}{machine}" for name in PLATFORMS]
    info = f"{stem}.dist-info"
    about = ["Wheel-Version: 1.0", "Generator: usernsctl", "Root-Is-Purelib: false"]
    about += [f"Tag: py3-none-{tag}" for tag in tags]
    profiles = source / "src/usernsctl/profiles"
    with zipfile.ZipFile(wheel) as whole:
        files = {f"{stem}.data/scripts/{n}": body for n, body in programs(whole).items()}
    # Put the profiles at the paths at which `usernsctl-entrypoint` opens them.
    for profile, name in (("seccomp.json", "seccomp"), ("apparmor", "apparmor")):
        path = f"{stem}.data/data/share/{name}-profile"
        files[path] = (profiles / profile).read_bytes()
    files[f"{info}/licenses/LICENSE"] = (source / "LICENSE").read_bytes()
    files[f"{info}/METADATA"] = metadata(project).encode()
    files[f"{info}/WHEEL"] = "".join(f"{line}\n" for line in about).encode()
    files[f"{info}/RECORD"] = record(files, f"{info}/RECORD")
    made = target / f"{stem}-py3-none-{'.'.join(tags)}.whl"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o100755 if ".data/scripts/" in name else 0o100644
            entry.external_attr = mode << 16
            archive.writestr(entry, content)
    return made
