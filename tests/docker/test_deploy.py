"""What is shipped to run the connector with: Kubernetes' objects, compose.yaml, daemon.json."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from docker.conftest import BASE, CONNECTOR, PRELUDE, USER
from docker.engine import TREE, Engine, started
from docker.matrix import SECCOMP

KUBERNETES = TREE / "deploy" / "kubernetes"
# hostUsers is in all of them.
VERSIONS = ["1.33", "1.37"]


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["job.yaml", "profile.yaml"])
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    for one in objects(name):
        kubernetes_validate.validate(one, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    """A check of the check."""
    job = objects("job.yaml")[1]
    job["spec"]["template"]["spec"]["hostUser"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def docker_options() -> list[str]:
    """What the Job's security context is for Docker."""
    pod = objects("job.yaml")[1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context, own = pod["securityContext"], container["securityContext"]
    assert pod["hostUsers"] is False
    assert pod["automountServiceAccountToken"] is False
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "Localhost", "localhostProfile": "usernsctl.json"}
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    options = [f"--user={context['runAsUser']}:{context['runAsGroup']}"]
    options += [f"--cap-drop={name}" for name in own["capabilities"]["drop"]]
    limits = container["resources"]["limits"]
    options += [f"--memory={limits['memory'].replace('Gi', 'g')}", f"--cpus={limits['cpu']}"]
    options += ["--security-opt=no-new-privileges", "--read-only", SECCOMP]
    return [*options, "--tmpfs=/tmp:size=64m,mode=1777"]


@pytest.mark.timeout(300)
def test_the_job_s_security_context_lets_the_connector_run(remapped: Engine) -> None:
    """hostUsers: false is userns-remap: both give the container 65,536 ids."""
    done = remapped("run", "--rm", *docker_options(), CONNECTOR, "spec")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["type"] == "SPEC"


def test_the_profile_is_copied_as_the_daemonset_says(plain: Engine) -> None:
    (copy,) = objects("profile.yaml")[0]["spec"]["template"]["spec"]["initContainers"]
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-seccomp-") as made:
        profile = Path(made, "usernsctl.json")
        target = Path(made, "kubelet")
        target.mkdir()
        profile.write_text((TREE / "docker" / "seccomp.json").read_text())
        done = plain(
            *["run", "--rm", "--user=0", "--cap-drop=ALL", "--read-only"],
            *[f"--volume={profile}:/profile/usernsctl.json:ro", f"--volume={target}:/seccomp"],
            *[f"--entrypoint={copy['command'][0]}", PRELUDE, *copy["command"][1:]],
        )
        assert done.returncode == 0, done.stderr
        assert (target / "usernsctl.json").read_text() == profile.read_text()


def test_compose_runs_the_connector(plain: Engine) -> None:
    environ = {"IMAGE": CONNECTOR, "NETWORK": "none", "FILES": str(TREE / "demo")}
    done = subprocess.run(
        plain.command(
            *["compose", "--file=docker/compose.yaml", f"--project-name=usernsctl-{os.getpid()}"],
            *["run", "--rm", "--no-TTY", "connector", "spec"],
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=TREE,
        env={**plain.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["type"] == "SPEC"


def test_the_engine_s_settings_are_enough(plain: Engine, tmp_path: Path) -> None:
    """With docker/daemon.json, and the profile where it names one, no container needs options."""
    settings = json.loads((TREE / "docker" / "daemon.json").read_text())
    assert settings["userns-remap"] == "default"
    assert settings["seccomp-profile"] == "/etc/docker/usernsctl-seccomp.json"
    # No user of that name is made for a test, and no file put into /etc.
    subprocess.run([TREE / "tools" / "user", USER, "ranges"], check=True)
    settings["userns-remap"] = USER
    settings["seccomp-profile"] = str(TREE / "docker" / "seccomp.json")
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps(settings))
    with started("settings", f"--config-file={file}") as engine:
        saved = subprocess.run(
            plain.command("save", PRELUDE), capture_output=True, check=True, env=plain.environ
        )
        subprocess.run(
            engine.command("load", "--quiet"),
            input=saved.stdout,
            capture_output=True,
            check=True,
            env=engine.environ,
        )
        done = engine("run", "--rm", PRELUDE, "run", "--", "cat", "/proc/version")
        engine.must("image", "rm", PRELUDE)
    assert (done.returncode, "Jan 10 15:06:54 PST 2016" in done.stdout) == (0, True), done.stderr


def test_the_images_have_no_file_that_all_may_write(plain: Engine) -> None:
    """And no certificate that the base does not have."""
    found = plain(
        *["run", "--rm", "--user=0", "--entrypoint=sh", CONNECTOR, "-c"],
        "find / -xdev -perm -0002 ! -type l ! -path '/tmp' ! -path '/var/tmp' ! -path /run/lock "
        "! -path '/proc/*' ! -path '/dev/*'; find / -xdev -name 'ca-certificates.crt'",
    )
    base = plain("run", "--rm", BASE, "find", "/", "-xdev", "-name", "ca-certificates.crt")
    assert found.stdout == base.stdout == ""
