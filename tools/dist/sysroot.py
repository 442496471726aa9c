"""Creation of sysroots: directories with another libc and its headers, to link with that libc.

A program that is linked with one version of glibc works with that and all later versions. So the
extension is compiled by the host's compiler, but with the glibc of an older Debian. apt downloads
the packages and checks their signatures. This needs no root, and changes nothing on the host.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "csrc"))
import layout

# The release with the oldest glibc (2.31) in Debian's archive. The wheel also works with
# glibc.OLDEST: the extension uses no function that is newer, and `make dist` checks that.
SUITE = "bullseye"
#: Maps Python's name of each architecture to Debian's name.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PACKAGES = ("libc6", "libc6-dev", "linux-libc-dev")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def mirror() -> str:
    """Return the URI of the Debian mirror that the host uses."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        codename, component, uri = line.split()
        if component == "main" and codename.isalpha():
            return uri
    sys.exit("apt knows no Debian archive: see sources.list(5)")


def own_suite() -> str:
    """Return the codename of the host's Debian release."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def download(target: Path, uri: str, suite: str, machine: str, *packages: str) -> list[Path]:
    """Download packages to the empty ``target`` by an apt with its own state; return the files."""
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (target / name).mkdir(parents=True)
    (target / "status").touch()
    (target / "sources").write_text(f"deb [signed-by={KEYRING}] {uri} {suite} main\n")
    settings = {
        "APT::Architecture": ARCHITECTURES[machine],
        "APT::Architectures": ARCHITECTURES[machine],
        "Dir::State::lists": target / "lists",
        "Dir::State::status": target / "status",
        "Dir::Cache": target / "cache",
        "Dir::Etc::sourcelist": target / "sources",
        "Dir::Etc::sourceparts": target / "parts",
        "Dir::Etc::preferences": os.devnull,
        "Dir::Etc::preferencesparts": target / "parts",
        # Download as this user. apt's default user, _apt, may be unable to write to this directory.
        "APT::Sandbox::User": "",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    for words in (["update"], ["download", *packages]):
        subprocess.run(["apt-get", *options, "-qq", *words], check=True, cwd=target)
    return sorted(target.glob("*.deb"))


def unpack(packages: list[Path], target: Path) -> None:
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", package, target], check=True)


def make_musl(root: Path, machine: str) -> list[str]:
    """Create the directory ``root`` with musl for another architecture, unless it exists.

    :returns: a compiler command that links with this musl, as musl-gcc links with the host's musl.
    :raises subprocess.CalledProcessError: apt or dpkg-deb failed, and has printed the reason.
    """
    here, there = f"{platform.machine()}-linux-musl", f"{machine}-linux-musl"
    specs = root / "musl-gcc.specs"
    if not specs.is_file():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
            unpack(download(Path(scratch), mirror(), own_suite(), machine, "musl-dev"), root)
        text = Path(f"/usr/lib/{here}/musl-gcc.specs").read_text()
        for directory in ("include", "lib"):
            text = text.replace(f"/usr/{directory}/{here}", f"{root}/usr/{directory}/{there}")
        specs.write_text(text)
    kernel = layout.musl_flags(root / "kernel-headers", Path(f"/usr/{machine}-linux-gnu/include"))
    return [f"{machine}-linux-gnu-gcc", f"-specs={specs}", *kernel]


def add_python(root: Path, scratch: Path, machine: str) -> None:
    """Add Python's architecture-dependent headers, which Debian installs beside those of libc."""
    headers = Path(sysconfig.get_path("include")).name
    multiarch = Path("usr/include", f"{machine}-linux-gnu", headers)
    system = Path("/", multiarch)
    if machine != platform.machine():
        package = f"lib{headers}-dev"
        [file] = download(scratch, mirror(), own_suite(), machine, package)
        unpack([file], scratch / "root")
        shutil.copytree(scratch / "root" / multiarch, root / multiarch)
    elif system.is_dir():
        (root / multiarch).symlink_to(system)


def make(root: Path, machine: str) -> None:
    """Create the sysroot ``root`` for an architecture, unless the directory exists.

    :raises subprocess.CalledProcessError: apt or dpkg-deb failed, and has printed the reason.
    """
    if root.is_dir():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        made = Path(scratch, "root")
        packages, python = Path(scratch, "packages"), Path(scratch, "python")
        packages.mkdir()
        python.mkdir()
        unpack(download(packages, mirror(), SUITE, machine, *PACKAGES), made)
        add_python(made, python, machine)
        made.rename(root)
