"""sysroot.py DIRECTORY: make a directory that holds an older glibc and its headers, to link with.

A program that is linked with a libc works with that one and all later ones. So the extension is
compiled by this machine's compiler, but with the libc of an older Debian. apt fetches its packages,
and checks their signatures; nothing of this machine changes, and it takes no root.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

# glibc 2.31. Debian's archive has none that is older, but the extension uses no function that came
# after 2.25, and `make dist` looks at which ones it needs (glibc.py).
SUITE = "bullseye"
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


def download(target: Path, uri: str) -> list[Path]:
    """Fetch PACKAGES into the empty directory ``target``, by an apt with a state of its own."""
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (target / name).mkdir(parents=True)
    (target / "status").touch()
    (target / "sources").write_text(f"deb [signed-by={KEYRING}] {uri} {SUITE} main\n")
    settings = {
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
    for words in (["update"], ["download", *PACKAGES]):
        subprocess.run(["apt-get", *options, "-qq", *words], check=True, cwd=target)
    return sorted(target.glob("*.deb"))


def add_python(root: Path) -> None:
    """Have the part of Python's headers that Debian keeps among libc's be found there."""
    headers = Path(sysconfig.get_path("include"))
    multiarch = Path("usr/include", str(sysconfig.get_config_var("MULTIARCH")), headers.name)
    if Path("/", multiarch).is_dir():
        (root / multiarch).symlink_to(Path("/", multiarch))


def make(root: Path) -> None:
    """Make the sysroot ``root``, unless it is there.

    :raises subprocess.CalledProcessError: apt or dpkg-deb failed, and has said why.
    """
    if root.is_dir():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        made = Path(scratch, "root")
        packages = Path(scratch, "packages")
        packages.mkdir()
        for package in download(packages, mirror()):
            subprocess.run(["dpkg-deb", "--extract", package, made], check=True)
        add_python(made)
        made.rename(root)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
