"""Print the software bill of materials (SBOM) of an image, in SPDX 2.3 (JSON).

    sbom.py NAME ROOT

NAME is the name of the image, and ROOT the directory of its root filesystem. Dockerfile.gvisor runs
this script with a Python that has usernsctl, and stores the output in the image, as
/opt/usernsctl/share/sbom.spdx.json. The SBOM lists the Debian packages, the Python packages of
virtual environments, and, with checksums, runsc and usernsctl's programs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Package = dict[str, Any]

NO_ASSERTION = "NOASSERTION"
DOCUMENT = "SPDXRef-DOCUMENT"


def identifier(*words: str) -> str:
    """Join `words` to an SPDX identifier, which has only letters, digits, dots and hyphens."""
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", "-".join(words))


def package(kind: str, name: str, version: str, purl: str | None = None) -> Package:
    """Return the SBOM entry of a package, with the package URL (purl) that scanners use."""
    found: Package = {
        "SPDXID": identifier(kind, name, version),
        "name": name,
        "versionInfo": version,
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": False,
        "licenseConcluded": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
    }
    if purl is not None:
        found["externalRefs"] = [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }
        ]
    return found


def debian_packages(root: Path) -> Iterator[Package]:
    """Yield an entry for each package that dpkg lists as installed in the image."""
    shown = r"${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n"
    query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", f"--showformat={shown}"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        status, name, version, machine = line.split("\t")
        if status == "installed":
            written = version.replace("+", "%2B").replace(":", "%3A")
            purl = f"pkg:deb/debian/{name}@{written}?arch={machine}"
            yield package("deb", name, version, purl)


def python_packages(root: Path) -> Iterator[Package]:
    """Yield an entry for each Python package in the image's virtual environments below /opt."""
    for site in sorted(root.glob("opt/*/lib/python3*/site-packages")):
        found = importlib.metadata.distributions(path=[str(site)])
        for one in sorted(found, key=lambda one: one.name):
            purl = f"pkg:pypi/{one.name.lower().replace('_', '-')}@{one.version}"
            yield package("pypi", one.name, one.version, purl)


def release_of_runsc(root: Path) -> str:
    """Return the release that the image's runsc prints."""
    command = [resolve(root, Path("usr/bin/runsc")), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[0].removeprefix("runsc version ")


def resolve(root: Path, path: Path) -> Path:
    """Return the host's path of a file in the image; an absolute link leads to a path in `root`."""
    found = root / path
    return root / found.readlink().relative_to("/") if found.is_symlink() else found


def native_programs(root: Path, version: str) -> Iterator[Package]:
    """Yield the entries of runsc and of usernsctl's native programs, with checksums."""
    files = [(Path("usr/bin/runsc"), release_of_runsc(root))]
    own = sorted(root.glob("opt/usernsctl/bin/usernsctl-*"))
    files += [(file.relative_to(root), version) for file in own if not file.is_symlink()]
    for path, release in files:
        found = package("program", path.name, release)
        content = resolve(root, path).read_bytes()
        found["packageFileName"] = f"/{path}"
        found["checksums"] = [
            {"algorithm": "SHA256", "checksumValue": hashlib.sha256(content).hexdigest()}
        ]
        yield found


def document(name: str, root: Path) -> dict[str, Any]:
    """Return the SPDX document for an image."""
    version = importlib.metadata.version("usernsctl")
    found = [*native_programs(root, version), *debian_packages(root), *python_packages(root)]
    # List a package only once: two virtual environments may contain the same package.
    packages = list({one["SPDXID"]: one for one in found}.values())
    unique = hashlib.sha256(json.dumps(packages).encode()).hexdigest()
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": name,
        "documentNamespace": f"urn:usernsctl:{name}:{version}:{unique}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "creators": [f"Tool: usernsctl-{version}"],
        },
        "packages": packages,
        "relationships": [
            {
                "spdxElementId": DOCUMENT,
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": one["SPDXID"],
            }
            for one in packages
        ],
    }


if __name__ == "__main__":
    name, root = sys.argv[1:]
    print(json.dumps(document(name, Path(root)), indent=1))
