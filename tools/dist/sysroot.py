"""Make directories that hold other libcs and their headers, to link with.

A program that is linked with a libc works with that one and all later ones. So the extension is
compiled by this machine's compiler, but with the libc of an older Debian. apt fetches its packages,
and checks their signatures; nothing of this machine changes, and it takes no root.
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
import layout  # noqa: E402

# glibc 2.31. Debian's archive has none that is older, but the extension uses no function that came
# after 2.25, and `make dist` looks at which ones it needs (glibc.py).
SUITE = "bullseye"
#: What Debian calls a processor.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PACKAGES = ("libc6", "libc6-dev", "linux-libc-dev")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def mirror() -> str:
    """Where this machine has Debian's packages from."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        codename, component, uri = line.split()
        if component == "main" and codename.isalpha():
            return uri
    sys.exit("apt knows no Debian archive: see sources.list(5)")


def own_suite() -> str:
    """Which Debian this machine has."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def download(target: Path, uri: str, suite: str, machine: str, *packages: str) -> list[Path]:
    """Fetch packages into the empty directory ``target``, by an apt with a state of its own."""
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
        # Else apt can't write to what root alone may reach.
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
    """Make the directory ``root`` with the musl of another processor, unless it is there.

    :returns: the compiler that links with that musl, as words: what musl-gcc is here.
    :raises subprocess.CalledProcessError: apt or dpkg-deb failed, and has said why.
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
    """Have the part of Python's headers that Debian keeps among libc's be found there."""
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
    """Make the sysroot ``root`` for a processor, unless it is there.

    :raises subprocess.CalledProcessError: apt or dpkg-deb failed, and has said why.
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
