"""Tests of the shipped deployment files: Kubernetes objects, compose.yaml and daemon.json."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gvisor
import kubernetes_validate
import networks
import pytest
import yaml
from conftest import Program
from processes import capture
from tally import Tally

from docker.conftest import BASE, CONNECTOR, PRELUDE, PRELUDE_PYTHON, USER
from docker.engine import TREE, Engine, build, started
from docker.matrix import EXEC, NO_NEW_PRIVILEGES, SECCOMP
from docker.recipes import RECIPE_IMAGE, build_recipe

KUBERNETES = TREE / "deploy" / "kubernetes"
# Kubernetes releases in which the pod field hostUsers is enabled by default.
VERSIONS = ["1.33", "1.35", "1.37"]


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


# File with SecurityContextConstraints, which belong to OpenShift, not to Kubernetes.
OPENSHIFT = "openshift.yaml"
# Files that define pods whose programs run in gVisor.
PODS = ["job.yaml", "deployment.yaml", "snippets.yaml", "indexed-job.yaml", "worker.yaml"]


def pod_of(name: str) -> dict[str, Any]:
    """Return the template of the only pod that the file `name` defines."""
    (found,) = [
        one["spec"]["template"] for one in objects(name) if "template" in one.get("spec", {})
    ]
    return dict(found)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", sorted({file.name for file in KUBERNETES.iterdir()} - {OPENSHIFT}))
def test_kubernetes_objects_have_only_known_fields(name: str, version: str) -> None:
    for one in objects(name):
        kubernetes_validate.validate(one, version, strict=True)


PAGE = TREE / "docs" / "kubernetes.md"


@pytest.mark.parametrize("version", VERSIONS)
def test_documented_kubernetes_objects_are_valid(version: str) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found = [one for block in blocks for one in yaml.safe_load_all(block) if "kind" in one]
    assert [one["kind"] for one in found] == ["RuntimeClass"]
    for one in found:
        kubernetes_validate.validate(one, version, strict=True)


def test_the_operator_s_resource_has_the_profile(usernsctl: Program) -> None:
    """Check that the documented command prints the profile for the Security Profiles Operator."""
    shell = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (command,) = [block for block in shell if "SeccompProfile" in block]
    command, _, _ = command.partition(" | kubectl")
    (call,) = re.findall(r"\$\((docker run .*? seccomp-profile)\)", command)
    done = capture(["sh", "-euc", command.replace(call, f"{usernsctl.path} seccomp-profile")])
    made = json.loads(done.stdout)
    assert made.pop("apiVersion") == "security-profiles-operator.x-k8s.io/v1beta1"
    assert made.pop("kind") == "SeccompProfile"
    assert made.pop("metadata") == {"name": "usernsctl"}
    profile = json.loads((TREE / "docker" / "seccomp.json").read_text())
    assert made == {"spec": profile}
    # Check that the profile has only fields of the operator's SeccompProfile (v1beta1).
    assert set(profile) <= {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}
    for rule in profile["syscalls"]:
        assert set(rule) <= {"names", "action", "errnoRet", "args"}
        for argument in rule.get("args", []):
            assert set(argument) <= {"index", "value", "valueTwo", "op"}


# Required fields of a SecurityContextConstraints object.
REQUIRED = {
    *["allowHostDirVolumePlugin", "allowHostIPC", "allowHostNetwork", "allowHostPID"],
    *["allowHostPorts", "allowPrivilegedContainer", "readOnlyRootFilesystem"],
}


@pytest.mark.parametrize("name", PODS)
def test_openshift_permits_the_pod(name: str) -> None:
    (rules,) = objects(OPENSHIFT)
    assert set(rules) >= REQUIRED
    assert not any(rules[field] for field in REQUIRED - {"readOnlyRootFilesystem"})
    pod = pod_of(name)["spec"]
    (container,) = pod["containers"]
    context, own = pod["securityContext"], container["securityContext"]
    assert context["runAsUser"] == rules["runAsUser"]["uid"]
    for group in {context["runAsGroup"], context.get("fsGroup", context["runAsGroup"])}:
        (allowed,) = rules["fsGroup"]["ranges"]
        assert allowed["min"] <= group <= allowed["max"]
    profile = context["seccompProfile"]["localhostProfile"]
    assert f"localhost/{profile}" in rules["seccompProfiles"]
    assert own["capabilities"]["drop"] == rules["requiredDropCapabilities"]
    assert own["readOnlyRootFilesystem"] is rules["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is rules["allowPrivilegeEscalation"] is False
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= set(rules["volumes"])


def test_validation_finds_unknown_fields() -> None:
    """Check that kubernetes_validate rejects unknown fields, as the other tests expect."""
    job = objects("job.yaml")[1]
    job["spec"]["template"]["spec"]["hostUser"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def docker_options(name: str) -> list[str]:
    """Return the docker run options that correspond to the security context of a file's pod."""
    pod = pod_of(name)["spec"]
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
    """Check that the connector prints its spec under the security context of the Job's pod.

    userns-remap maps 65,536 ids, as hostUsers: false does.
    """
    done = remapped("run", "--rm", *docker_options("job.yaml"), CONNECTOR, "spec")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["type"] == "SPEC"


@pytest.mark.parametrize(
    ("entrypoint", "image", "words"),
    [
        ([], PRELUDE, ["--network=none"]),
        ([], PRELUDE_PYTHON, ["run", "--network=none"]),
        ([EXEC], PRELUDE, ["--launch", "/etc/usernsctl/launch.no-network"]),
    ],
)
def test_the_deployment_s_probe_works(
    remapped: Engine, entrypoint: list[str], image: str, words: list[str]
) -> None:
    """Check that the liveness probe succeeds, and that PID 1 forwards SIGTERM and the exit status.

    docker exec runs the probe in the namespaces of the container's PID 1, as the kubelet does.
    """
    (container,) = pod_of("deployment.yaml")["spec"]["containers"]
    name = f"deployment-{os.getpid()}"
    script = "trap 'exit 9' TERM; while :; do sleep 0.1; done"
    options = ["--detach", f"--name={name}", *docker_options("deployment.yaml")]
    options += entrypoint
    remapped.must("run", *options, image, *words, "--", "sh", "-c", script)
    try:
        probe = container["livenessProbe"]["exec"]["command"]
        deadline = time.monotonic() + 30
        while (done := remapped("exec", name, *probe)).returncode != 0:
            assert time.monotonic() < deadline, done.stdout + done.stderr
        remapped.must("stop", "--time=30", name)
        assert remapped.must("inspect", "--format={{.State.ExitCode}}", name) == "9\n"
        assert remapped("logs", name).stderr == ""
    finally:
        remapped.must("rm", "--force", name)


def test_a_service_runs_as_the_deployment_says(remapped: Engine) -> None:
    script = "import usernsctl as un; un.gvisor.run(['cat', '/proc/version'])"
    done = remapped(
        *["run", "--rm", *docker_options("snippets.yaml")],
        *["--entrypoint=/opt/usernsctl/bin/python", PRELUDE_PYTHON, "-Ic", script],
    )
    assert done.returncode == 0, done.stderr
    assert gvisor.is_version(done.stdout)


def test_only_tasks_that_did_not_run_are_repeated() -> None:
    """Check that the Job retries a task only if the node was lost or the exit status is 125.

    Exit status 125 means that gVisor did not start, so the task did not run.
    """
    (rules,) = [one["spec"]["podFailurePolicy"]["rules"] for one in objects("indexed-job.yaml")]
    lost, failed = rules
    assert lost["action"] == "Ignore"
    assert [one["type"] for one in lost["onPodConditions"]] == ["DisruptionTarget"]
    assert failed["action"] == "FailIndex"
    (container,) = pod_of("indexed-job.yaml")["spec"]["containers"]
    codes = failed["onExitCodes"]
    assert codes == {"containerName": container["name"], "operator": "NotIn", "values": [125]}
    assert "$JOB_COMPLETION_INDEX" in container["args"][-1]


def test_a_task_of_the_indexed_job_knows_its_number(remapped: Engine) -> None:
    """Check that a task gets its index, and that the Job fails an index only if its task has run.

    The pod failure policy of the Job decides by the container's exit status.
    """
    (rules,) = [one["spec"]["podFailurePolicy"]["rules"] for one in objects("indexed-job.yaml")]
    (fails,) = [rule for rule in rules if rule["action"] == "FailIndex"]
    assert fails["onExitCodes"]["operator"] == "NotIn"
    (container,) = pod_of("indexed-job.yaml")["spec"]["containers"]
    assert fails["onExitCodes"]["containerName"] == container["name"]
    args = [word.replace("exec task", "exec sh -c 'exit $0'") for word in container["args"]]
    options = [*docker_options("indexed-job.yaml"), "--env=JOB_COMPLETION_INDEX=7"]
    entry = ["--entrypoint=/usr/local/bin/in-gvisor"]
    done = remapped("run", "--rm", *options, *entry, PRELUDE, "--network=none", "--", *args)
    assert done.returncode == 7, done.stderr
    assert 7 not in fails["onExitCodes"]["values"]
    # gVisor can't start with a missing root filesystem, so no part of the task has run.
    wrong = ["--rootfs=/no/such/directory", "--", *args]
    done = remapped(
        "run", "--rm", *options, *["--entrypoint=usernsctl"], PRELUDE_PYTHON, "run", *wrong
    )
    assert done.returncode in fails["onExitCodes"]["values"], done.stderr


def test_only_workers_reach_the_queue() -> None:
    policy = next(one for one in objects("redis.yaml") if one["kind"] == "NetworkPolicy")
    labels = pod_of("redis.yaml")["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    (rule,) = policy["spec"]["ingress"]
    worker = pod_of("worker.yaml")["metadata"]["labels"]
    assert worker in [peer["podSelector"]["matchLabels"] for peer in rule["from"]]
    assert policy["spec"]["egress"] == []
    service = next(one for one in objects("redis.yaml") if one["kind"] == "Service")
    (container,) = pod_of("worker.yaml")["spec"]["containers"]
    assert container["args"][0] == f"redis://{service['metadata']['name']}"


def daemon_set() -> dict[str, Any]:
    (found,) = objects("profile.yaml")
    return dict(found["spec"]["template"]["spec"])


def copy_profile(plain: Engine, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the DaemonSet's command, with docker options for the DaemonSet's security context."""
    (copy,) = daemon_set()["initContainers"]
    limit = copy["resources"]["limits"]["memory"].replace("Mi", "m")
    return plain(
        *["run", "--rm", "--user=0:0", "--cap-drop=ALL", "--read-only", NO_NEW_PRIVILEGES],
        *[f"--memory={limit}", f"--volume={directory / 'profile'}:/profile:ro"],
        *[f"--volume={directory / 'kubelet'}:/seccomp"],
        *[f"--entrypoint={copy['command'][0]}", PRELUDE, *copy["command"][1:]],
    )


@pytest.fixture
def node() -> Iterator[Path]:
    """Yield a directory with `profile` and `kubelet`, the directories that the DaemonSet mounts."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-seccomp-") as made:
        Path(made, "profile").mkdir()
        Path(made, "kubelet").mkdir()
        profile = (TREE / "docker" / "seccomp.json").read_text()
        Path(made, "profile", "usernsctl.json").write_text(profile)
        yield Path(made)


def test_the_profile_is_copied_as_the_daemonset_says(plain: Engine, node: Path) -> None:
    target = node / "kubelet" / "usernsctl.json"
    for old in (None, "old"):
        if old is not None:
            target.write_text(old)
        with open(target, "a") as before:
            done = copy_profile(plain, node)
            assert done.returncode == 0, done.stderr
            assert target.read_text() == (TREE / "docker" / "seccomp.json").read_text()
            assert [file.name for file in target.parent.iterdir()] == ["usernsctl.json"]
            assert target.stat().st_mode & 0o777 == 0o644
            # Check that a new file has replaced the old file by rename(2), so that no reader sees a
            # partial profile.
            assert not os.path.samestat(os.fstat(before.fileno()), target.stat())


def test_a_profile_that_does_not_arrive_leaves_the_old_one(plain: Engine, node: Path) -> None:
    target = node / "kubelet" / "usernsctl.json"
    target.write_text("old")
    (node / "profile" / "usernsctl.json").unlink()
    assert copy_profile(plain, node).returncode != 0
    assert target.read_text() == "old"
    assert [file.name for file in target.parent.iterdir()] == ["usernsctl.json"]


def test_hostile_link_in_place_of_the_profile_is_not_followed(
    plain: Engine, node: Path, tally: Tally
) -> None:
    victim = node / "kubelet" / "victim"
    victim.write_text("untouched")
    (node / "kubelet" / "usernsctl.json").symlink_to("victim")
    done = copy_profile(plain, node)
    tally.tried()
    assert done.returncode == 0, done.stderr
    if victim.read_text() != "untouched":
        tally.succeeded("the file that a link led to was written")


def test_the_daemonset_has_few_privileges() -> None:
    spec = daemon_set()
    assert spec["tolerations"] == []
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec["initContainers"], *spec["containers"]):
        context = container["securityContext"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
        assert re.fullmatch(r"[a-z0-9./-]+:[0-9.]+@sha256:[0-9a-f]{64}", container["image"])
    (done,) = spec["containers"]
    assert done["securityContext"]["runAsNonRoot"] is True
    assert "volumeMounts" not in done


# Addresses of metadata services, which give out a host's credentials. They are from the
# documentation of AWS, Google, Azure, Alibaba, Oracle, Scaleway, Akamai and cloud-init.
METADATA = [
    *[networks.METADATA, "169.254.170.2", "169.254.170.23", *networks.OTHER_METADATA],
    *[networks.METADATA_6, "fd00:ec2::23", "fe80::a9fe:a9fe", *networks.OTHER_METADATA_6],
]


@pytest.mark.parametrize("address", METADATA)
def test_hostile_request_for_metadata_is_no_part_of_the_policy(address: str, tally: Tally) -> None:
    policy, ingress = objects("network.yaml")
    job, server = (pod_of(name)["metadata"]["labels"] for name in PODS[:2])
    selected = policy["spec"]["podSelector"]["matchLabels"].items()
    assert selected <= job.items()
    assert selected <= server.items()
    assert policy["spec"]["policyTypes"] == ["Egress"]
    assert ingress["spec"]["podSelector"]["matchLabels"].items() <= job.items()
    assert (ingress["spec"]["policyTypes"], ingress["spec"]["ingress"]) == (["Ingress"], [])
    wanted = ipaddress.ip_address(address)
    for rule in policy["spec"]["egress"]:
        if {one["port"] for one in rule.get("ports", [])} == {53}:
            continue
        for peer in rule["to"]:
            tally.tried()
            block = peer["ipBlock"]
            excepted = any(wanted in ipaddress.ip_network(one) for one in block["except"])
            if wanted in ipaddress.ip_network(block["cidr"]) and not excepted:
                tally.succeeded(f"{address} by {block['cidr']}")


def test_compose_runs_the_connector(plain: Engine) -> None:
    environ = {"IMAGE": CONNECTOR, "NETWORK": "none", "FILES": str(TREE / "demo")}
    done = capture(
        plain.command(
            *["compose", "--file=docker/compose.yaml", f"--project-name=usernsctl-{os.getpid()}"],
            *["run", "--rm", "--no-TTY", "connector", "spec"],
        ),
        cwd=TREE,
        env={**plain.environ, **environ},
        timeout=None,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["type"] == "SPEC"


@pytest.mark.thorough
def test_daemon_json_is_sufficient(plain: Engine, tmp_path: Path) -> None:
    """Check that with docker/daemon.json, commands run in gVisor without options of docker run."""
    settings = json.loads((TREE / "docker" / "daemon.json").read_text())
    assert settings["userns-remap"] == "default"
    assert settings["seccomp-profile"] == "/etc/docker/usernsctl-seccomp.json"
    # The test must not create a user or a file in /etc, so replace userns-remap's user (by default
    # dockremap) and the profile's path.
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
        done = engine("run", "--rm", PRELUDE, "cat", "/proc/version")
        engine.must("image", "rm", PRELUDE)
    assert (done.returncode, "Jan 10 15:06:54 PST 2016" in done.stdout) == (0, True), done.stderr


PRELUDE_AGAIN = "usernsctl-test/prelude-again"
PROTECTED = ["--cap-drop=ALL", NO_NEW_PRIVILEGES, SECCOMP]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("page", "begin"),
    [
        ("README.md", "FROM prelude\n"),
        ("docs/docker.md", "FROM prelude\nCOPY program "),
        ("docs/docker.md", "FROM my-image\n"),
    ],
)
def test_the_documented_image_builds_and_runs(
    page: str, begin: str, plain: Engine, tmp_path: Path
) -> None:
    build_recipe(plain, page, begin, tmp_path)
    done = plain("run", "--rm", *PROTECTED, RECIPE_IMAGE)
    assert done.returncode == 0, done.stderr
    assert "Jan 10 15:06:54 PST 2016" in done.stdout


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_an_image_is_rebuilt_with_a_new_prelude(plain: Engine, tmp_path: Path) -> None:
    """Check that an image works after a rebuild with new launch files but cached programs."""
    recipe = ("docs/docker.md", "FROM my-image\n")
    build_recipe(plain, *recipe, tmp_path)
    build(plain, "prelude", PRELUDE_AGAIN, BASE, "--no-cache-filter=build,launches")
    build_recipe(plain, *recipe, tmp_path, prelude=PRELUDE_AGAIN)
    done = plain("run", "--rm", *PROTECTED, RECIPE_IMAGE)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(600)
def test_the_documented_launch_works(plain: Engine, tmp_path: Path) -> None:
    build_recipe(plain, "docs/docker.md", "FROM prelude-python AS launch\n", tmp_path)
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-data-") as made:
        os.chmod(made, 0o777)
        done = plain("run", "--rm", *PROTECTED, f"--volume={made}:/data", RECIPE_IMAGE)
        assert done.returncode == 0, done.stderr
        assert "result" in done.stdout
        assert Path(made, "result").read_text()
    done = plain("run", "--rm", *PROTECTED, RECIPE_IMAGE, "cat", "/proc/version", "/home/airbyte")
    assert "Jan 10 15:06:54 PST 2016" in done.stdout


@pytest.mark.timeout(600)
def test_the_documented_launch_with_ptrace_works(plain: Engine, tmp_path: Path) -> None:
    """Check that a launch file with gVisor's platform ptrace works.

    docs/docker.md advises this platform for some programs.
    """
    (tmp_path / "Dockerfile").write_text(
        f"FROM {PRELUDE_PYTHON} AS launch\n"
        "USER root\n"
        'RUN ["/usr/local/bin/usernsctl", "freeze", "--runsc", "/usr/bin/runsc", "--platform", '
        '"ptrace", "--expose-root", "-o", "/waiting.launch"]\n'
        f"FROM {PRELUDE}\n"
        "COPY --from=launch /waiting.launch /etc/usernsctl/launch.no-network\n"
    )
    built = plain("build", "--network=host", f"--tag={RECIPE_IMAGE}", str(tmp_path), timeout=600)
    assert built.returncode == 0, built.stderr
    done = plain("run", "--rm", *PROTECTED, RECIPE_IMAGE, "--network=none", "cat", "/proc/version")
    assert done.returncode == 0, done.stderr
    assert "Jan 10 15:06:54 PST 2016" in done.stdout


def test_images_have_no_world_writable_files(plain: Engine) -> None:
    """Check that images have no world-writable files, and no CA certificates of the build host."""
    found = plain(
        *["run", "--rm", "--user=0", "--entrypoint=sh", CONNECTOR, "-c"],
        "find / -xdev -perm -0002 ! -type l ! -path '/tmp' ! -path '/var/tmp' ! -path /run/lock "
        "! -path '/proc/*' ! -path '/dev/*'; find / -xdev -name 'ca-certificates.crt'",
    )
    base = plain("run", "--rm", BASE, "find", "/", "-xdev", "-name", "ca-certificates.crt")
    assert found.stdout == base.stdout == ""


# Maximum size in MB that the prelude image adds to its base image. runsc takes 30 MB.
PRELUDE_MEGABYTES = 45


def test_the_prelude_is_small_and_has_no_python(plain: Engine) -> None:
    base, prelude = (
        int(plain.must("image", "inspect", "--format={{.Size}}", one)) for one in (BASE, PRELUDE)
    )
    assert prelude - base < PRELUDE_MEGABYTES * 10**6
    find = "find / -xdev -name 'python*' -o -xdev -name '*.py'"
    for user in ("0", "1000"):
        found = plain("run", "--rm", f"--user={user}", "--entrypoint=sh", PRELUDE, "-c", find)
        base_has = plain("run", "--rm", f"--user={user}", BASE, "sh", "-c", find)
        assert found.stdout == base_has.stdout
