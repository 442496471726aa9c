"""Fixtures: two Docker daemons, one with userns-remap, and the images of Dockerfile.gvisor."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from docker.engine import CACHE, TREE, Engine, build, hand_over, make_base, started
from usernsctl.pytest_plugin.needs import Needs

BASE = "usernsctl-test/base"
PRELUDE = "usernsctl-test/prelude"
PRELUDE_PYTHON = "usernsctl-test/prelude-python"
CONNECTOR = "usernsctl-test/connector"
# Image names by build targets of Dockerfile.gvisor.
IMAGES = {"prelude": PRELUDE, "prelude-python": PRELUDE_PYTHON, "connector": CONNECTOR}

# Build arguments for the images' labels. The Dockerfile checks the version.
SOURCE = "https://example.org/usernsctl"
LABELS = [f"--build-arg=VERSION={version('usernsctl')}", f"--build-arg=SOURCE={SOURCE}"]

# User who runs Podman, and whose subordinate ranges userns-remap uses. tools/user creates the user.
USER = "usernsctl-test"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TREE / "tests" / "docker"):
            # Fixtures build images, which takes longer than a test's timeout. So apply the timeout
            # to the test function only.
            item.add_marker(pytest.mark.timeout(300, func_only=True))


def objection() -> str | None:
    """Return why the tests can't start a Docker daemon here, or None if they can."""
    if os.geteuid() != 0:
        return "only root can start a Docker daemon"
    if not (TREE / "Dockerfile.gvisor").exists():
        return "Dockerfile.gvisor is not here"
    missing = [name for name in ("dockerd", "docker", "debootstrap") if not shutil.which(name)]
    return f"{', '.join(missing)}: not installed" if missing else None


@pytest.fixture(scope="session")
def plain(userns_requires: Needs) -> Iterator[Engine]:
    """Yield a Docker daemon with default settings that has built all images."""
    if "docker" not in userns_requires.must_work:
        pytest.skip("it starts a Docker daemon, which has not been asked for: make docker")
    if reason := objection():
        pytest.fail(f"docker must work, but {reason}", pytrace=False)
    CACHE.mkdir(parents=True, exist_ok=True)
    with started("plain") as engine:
        make_base(engine, BASE, platform.freedesktop_os_release()["VERSION_CODENAME"])
        for target, image in IMAGES.items():
            build(engine, target, image, BASE, *LABELS)
        yield engine


@pytest.fixture(scope="session")
def remapped(plain: Engine) -> Iterator[Engine]:
    """Yield a Docker daemon with userns-remap (65,536 ids) and with copies of the images."""
    subprocess.run([TREE / "tools" / "user", USER, "ranges"], check=True)
    with started("remapped", f"--userns-remap={USER}") as engine:
        hand_over([*IMAGES.values()], plain, engine)
        yield engine


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    """Return the Docker daemon that a fixture provides; the test's parameter names the fixture."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Engine)
    return found
