"""Tests of the images' labels and software bills of materials (SBOM)."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import pytest

from docker.conftest import BASE, CONNECTOR, IMAGES, PRELUDE, PRELUDE_PYTHON, SOURCE
from docker.engine import Engine, EngineError, build

SBOM = "/opt/usernsctl/share/sbom.spdx.json"


def labels_of(engine: Engine, image: str) -> dict[str, str]:
    found = json.loads(engine.must("image", "inspect", "--format={{json .Config.Labels}}", image))
    assert isinstance(found, dict)
    return found


def show(engine: Engine, image: str, *command: str) -> str:
    return engine.must("run", "--rm", f"--entrypoint={command[0]}", image, *command[1:])


def bill_of(engine: Engine, image: str) -> dict[str, Any]:
    found = json.loads(show(engine, image, "cat", SBOM))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("image", IMAGES.values())
def test_images_have_labels(plain: Engine, image: str) -> None:
    labels = labels_of(plain, image)
    assert labels["org.opencontainers.image.version"] == version("usernsctl")
    assert labels["org.opencontainers.image.source"] == SOURCE


@pytest.mark.timeout(900)
def test_wrong_labels_fail_the_build(plain: Engine) -> None:
    for name in ("VERSION", "RUNSC_RELEASE"):
        with pytest.raises(EngineError, match=f"{name}=99.1, but it is "):
            build(plain, "prelude", "usernsctl-test/wrong", BASE, f"--build-arg={name}=99.1")


@pytest.mark.parametrize(
    ("image", "packages"),
    [
        (PRELUDE, {"runsc", "libc6", "usernsctl-exec", "usernsctl-watch"}),
        (PRELUDE_PYTHON, {"usernsctl", "cffi", "python3", "usernsctl-agent"}),
        (CONNECTOR, {"airbyte-cdk", "python3", "runsc"}),
    ],
)
def test_the_bill_of_materials_lists_all_packages(
    plain: Engine, image: str, packages: set[str]
) -> None:
    bill = bill_of(plain, image)
    assert bill["spdxVersion"] == "SPDX-2.3"
    found = {one["name"]: one for one in bill["packages"]}
    assert packages <= found.keys()
    ids = [one["SPDXID"] for one in bill["packages"]]
    assert len(ids) == len(set(ids))
    installed = show(plain, image, "dpkg-query", "--show", "--showformat=${Package}\\n")
    assert set(installed.split()) <= found.keys()


def test_checksums_are_those_of_the_programs(plain: Engine) -> None:
    bill = bill_of(plain, PRELUDE)
    programs = [one for one in bill["packages"] if "checksums" in one]
    paths = [one["packageFileName"] for one in programs]
    lines = show(plain, PRELUDE, "sha256sum", *paths).splitlines()
    assert [one["checksums"][0]["checksumValue"] for one in programs] == [
        line.split()[0] for line in lines
    ]
    assert "/usr/bin/runsc" in paths
