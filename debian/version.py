"""version.py VERSION: check that the Debian package's VERSION equals that in pyproject.toml."""

import sys
import tomllib
from pathlib import Path

wanted = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
if sys.argv[1:] != [wanted]:
    sys.exit(f"debian/changelog has version {sys.argv[1:]}, and pyproject.toml {wanted!r}")
