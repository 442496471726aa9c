"""version.py VERSION: see that the package has the version that pyproject.toml has."""

import sys
import tomllib
from pathlib import Path

wanted = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
if sys.argv[1:] != [wanted]:
    sys.exit(f"debian/changelog has version {sys.argv[1:]}, and pyproject.toml {wanted!r}")
