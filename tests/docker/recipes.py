"""Builds of Dockerfiles from the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from docker.conftest import BASE, PRELUDE, PRELUDE_PYTHON
from docker.engine import TREE, Engine

RECIPE = re.compile(r"^```dockerfile\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECIPE_IMAGE = "usernsctl-test/recipe"
SHOW_VERSION = "#!/bin/sh\nexec cat /proc/version\n"


def build_recipe(
    plain: Engine,
    page: str,
    begin: str,
    context: Path,
    *,
    prelude: str = PRELUDE,
    image: str = RECIPE_IMAGE,
) -> None:
    """Build an image from the Dockerfile whose first lines are `begin`.

    The documentation page `page` must contain exactly one such Dockerfile.

    :param begin: the first lines of the Dockerfile.
    :param context: the build's context directory, to which this function adds a program that the
        Dockerfile may copy.
    :param prelude: the image to use in place of the image that the Dockerfile calls ``prelude``.
    """
    recipes = RECIPE.findall((TREE / page).read_text())
    (recipe,) = [one for one in recipes if one.startswith(begin)]
    assert isinstance(recipe, str)
    images = {"my-image": BASE, "prelude": prelude, "prelude-python": PRELUDE_PYTHON}
    named = re.compile(r"(?<=FROM |from=)(my-image|prelude-python|prelude)\b")
    (context / "Dockerfile").write_text(named.sub(lambda found: images[found[0]], recipe))
    program = context / "program"
    program.write_text(SHOW_VERSION)
    program.chmod(0o755)
    # Build with the host's network, because the daemon has no bridge (--bridge=none).
    build = ["build", "--network=host", f"--tag={image}"]
    built = plain(*build, str(context), timeout=600)
    assert built.returncode == 0, built.stderr
