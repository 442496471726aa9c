"""Attacks with the environment variables, files and arguments of a container.

Each attack tries to run code in the container, but outside gVisor.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tally import Tally
from traps import GVISOR, VARIABLES, marks, set_traps

from docker.conftest import CONNECTOR, PRELUDE, PRELUDE_PYTHON
from docker.engine import Engine, wait_for_output
from docker.matrix import EXEC, IN_GVISOR, NO_NEW_PRIVILEGES, NONE_LEFT, SECCOMP

PROTECTED = [NONE_LEFT, NO_NEW_PRIVILEGES, SECCOMP]
# An absolute path, because the attacks set PATH.
VERSION = ["/bin/cat", "/proc/version"]

LAUNCH = [EXEC, PRELUDE]

# Environment variables that libc and runsc read.
OF_OTHERS = ["GLIBC_TUNABLES=glibc.malloc.check=3", "GVISOR_SIDECAR_BINARIES_DIR={}"]

# Ways to start a container: the options and the image for docker run, and the arguments for the
# entrypoint. In most of them, the entrypoint starts a command in gVisor.
STARTS: dict[str, tuple[list[str], list[str]]] = {
    "the connector": ([CONNECTOR], ["spec"]),
    "in-gvisor": ([IN_GVISOR, CONNECTOR], ["--", *VERSION]),
    "all ids": ([IN_GVISOR, CONNECTOR], ["--ids=all", "--", *VERSION]),
    "a launch": (LAUNCH, ["--launch", "/etc/usernsctl/launch", "--", *VERSION]),
    "a launch of all ids": (LAUNCH, ["--launch", "/etc/usernsctl/launch.all-ids", "--", *VERSION]),
    "another runsc": ([IN_GVISOR, PRELUDE_PYTHON], ["--runsc=/usr/bin/runsc", "--", *VERSION]),
    "run": ([PRELUDE_PYTHON], ["run", "--env-all", "--expose-root", "--", *VERSION]),
    "doctor": ([PRELUDE_PYTHON], ["doctor"]),
}
# Keys of STARTS whose whole output comes from the command in gVisor.
SHOWN = set(STARTS) - {"the connector", "doctor"}
# Keys of STARTS that map all ids with newuidmap, which no-new-privileges would disable.
PRIVILEGED = {"all ids", "a launch of all ids"}


@pytest.fixture
def volume() -> Iterator[Path]:
    """Yield a directory for traps (tests/traps.py), which the container mounts as /traps."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-traps-") as made:
        os.chmod(made, 0o777)
        yield Path(made)


def test_the_traps_work_in_a_container(plain: Engine, volume: Path) -> None:
    """Check that a shell as entrypoint triggers the traps; otherwise the attacks prove nothing."""
    traps = set_traps(volume, Path("/traps"))
    for setting in ("LD_PRELOAD=/traps/traps/trap.so", "PATH=/traps/traps"):
        plain(
            *["run", "--rm", f"--volume={volume}:/traps", f"--env={setting}"],
            *["--entrypoint=/bin/sh", PRELUDE, "-c", "getent"],
        )
    assert {"library", "program getent"} <= set(marks(traps))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.sampled(4)
def test_variables_and_volumes_choose_no_program_outside_gvisor(
    start: str, plain: Engine, volume: Path, tally: Tally
) -> None:
    traps = set_traps(volume, Path("/traps"))
    settings = [entry.format("/traps/traps") for entry in [*VARIABLES, *OF_OTHERS]]
    options, words = STARTS[start]
    alone = [[setting] for setting in settings][: tally.rounds(1, len(settings))]
    for chosen in [settings, *alone] * tally.rounds(1, 3):
        variables = volume / "env"
        variables.write_text("\n".join(chosen))
        given = ["--network=none", f"--volume={volume}:/traps", f"--env-file={variables}"]
        protected = [SECCOMP] if start in PRIVILEGED else PROTECTED
        done = plain("run", "--rm", *protected, *given, "--workdir=/traps/traps", *options, *words)
        tally.tried()
        if start in SHOWN and done.returncode == 0 and GVISOR not in done.stdout:
            tally.succeeded(f"{chosen}: {done.stdout!r}")
        if start in SHOWN and not any(one.startswith("LD_") for one in chosen):
            # Check that the command ran in gVisor: the traps may have prevented its start.
            assert GVISOR in done.stdout, done.stderr
    for mark in marks(traps):
        tally.succeeded(mark)


@pytest.mark.parametrize("image", [PRELUDE, PRELUDE_PYTHON])
def test_variables_choose_no_program_of_the_health_check(
    image: str, plain: Engine, volume: Path, tally: Tally
) -> None:
    """Check that a health check loads nothing from a hostile volume outside gVisor.

    Environment variables and the health check's working directory lead to traps (tests/traps.py).
    """
    traps = set_traps(volume, Path("/traps"))
    shown = plain.must("image", "inspect", "--format={{json .Config}}", image)
    kind, *command = json.loads(shown)["Healthcheck"]["Test"]
    assert kind == "CMD"
    variables = volume / "env"
    variables.write_text("\n".join(entry.format("/traps/traps") for entry in VARIABLES))
    name = f"usernsctl-traps-{os.getpid()}"
    start = ["run", *PROTECTED, "--network=none", f"--volume={volume}:/traps"]
    given = [f"--env-file={variables}", "--workdir=/traps/traps"]
    if image == PRELUDE:
        # The health check queries a running sandbox, so first start a sandbox, without the
        # environment variables that lead to traps.
        how = ["--detach", f"--name={name}"]
        plain.must(*start, *how, image, "sh", "-c", "echo begun; exec sleep 99")
        wait_for_output(plain, name)
        check = ["exec", *given, name, *command]
    else:
        check = [*start, *given, "--rm", f"--entrypoint={command[0]}", image, *command[1:]]
    for _ in range(tally.rounds(2, 20)):
        done = plain(*check)
        tally.tried()
        assert done.returncode == 0, done.stdout + done.stderr
    plain("rm", "--force", name)
    for mark in marks(traps):
        tally.succeeded(mark)


@pytest.mark.parametrize("image", [PRELUDE, PRELUDE_PYTHON, CONNECTOR])
def test_hostile_path_finds_no_entrypoint(image: str, plain: Engine, tally: Tally) -> None:
    """Check that images start programs by absolute paths, of files that only root may change."""
    config = json.loads(plain.must("image", "inspect", "--format={{json .Config}}", image))
    started = [config["Entrypoint"], config["Healthcheck"]["Test"][1:]]
    for command in started:
        tally.tried()
        if not command[0].startswith("/"):
            tally.succeeded(command[0])
    script = "for f; do readlink -f $f; stat -L -c '%U %a' $f; readelf -l $(readlink -f $f); done"
    names = [command[0] for command in started]
    done = plain("run", "--rm", "--entrypoint=sh", image, "-c", f"{script} 2>&1", "sh", *names)
    assert done.stdout.count("root 755") == len(names), done.stdout


def test_hostile_user_changes_no_launch(plain: Engine, tally: Tally) -> None:
    """Check that users can't change launch files, which set the privileges of other commands."""
    listed = "stat -c '%U %a' /etc/usernsctl /etc/usernsctl/*"
    attacks = ["echo x >>launch", "mv launch.all-ids launch", "rm -f launch", "touch launch.x"]
    attacks.append("chmod 666 launch")
    for attack in attacks:
        script = f"cd /etc/usernsctl; {attack} 2>/dev/null && echo DONE; {listed}"
        done = plain("run", "--rm", SECCOMP, "--entrypoint=sh", PRELUDE, "-c", script)
        tally.tried()
        if "DONE" in done.stdout:
            tally.succeeded(attack)
        assert done.stdout.splitlines()[-5:] == ["root 755", *4 * ["root 644"]], done.stderr


@pytest.mark.parametrize(
    "word", ["--network=host", "--ids=all", "--runsc=/traps/runsc", "--", "--help"]
)
@pytest.mark.sampled(2)
def test_hostile_arguments_change_no_policy(word: str, plain: Engine, tally: Tally) -> None:
    """Check that in-gvisor parses no argument of docker run as an option of its own.

    The image's entrypoint ends with ``--``, so all arguments go to the command.
    """
    done = plain("run", "--rm", *PROTECTED, "--network=none", CONNECTOR, word)
    tally.tried()
    if "Usage: in-gvisor" in done.stdout or "in-gvisor" in done.stderr:
        tally.succeeded(word)


MAP = """
import os, subprocess, sys
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.unshare(os.CLONE_NEWUSER)
    os.write(ready[1], b"+")
    os.read(go[0], 1)
    os.setuid(2000)
    file = "/files/shell"
    open(file, "w").close()
    os.chmod(file, 0o4755)
    os._exit(0)
os.read(ready[0], 1)
for kind in "ug":
    words = [str(child), "0", "1000", "1", "1001", "1001", "60000"]
    subprocess.run([f"/usr/bin/new{kind}idmap", *words])
os.write(go[1], b"+")
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("protected", [False, True])
def test_hostile_process_outside_gvisor_leaves_a_setuid_file_of_another_id(
    protected: bool, plain: Engine, tally: Tally
) -> None:
    """Check that no-new-privileges keeps a process from creating another id's set-user-ID file.

    Without no-new-privileges, newuidmap maps that id for any process of the user.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-files-") as made:
        os.chmod(made, 0o777)
        options = [SECCOMP, NO_NEW_PRIVILEGES] if protected else [SECCOMP]
        plain(
            *["run", "--rm", *options, f"--volume={made}:/files", "--entrypoint=python3"],
            *[PRELUDE_PYTHON, "-c", MAP],
        )
        left = [(file.stat().st_uid, oct(file.stat().st_mode)) for file in Path(made).iterdir()]
    tally.tried()
    if protected:
        for what in left:
            tally.succeeded(str(what))
    else:
        assert left == [(2000, "0o104755")], "the attack itself must work"


def test_hostile_modules_in_the_cwd_of_doctor_are_not_imported(
    plain: Engine, volume: Path, tally: Tally
) -> None:
    """Check that doctor, run as root or a user, imports no module from its cwd or $PYTHONPATH."""
    traps = set_traps(volume, Path("/traps"))
    script = shlex.join(["/opt/usernsctl/bin/usernsctl", "doctor"])
    for user in ("0", "1000"):
        done = plain(
            *["run", "--rm", SECCOMP, f"--user={user}", f"--volume={volume}:/traps"],
            *["--workdir=/traps/traps", "--env=PYTHONPATH=/traps/traps", "--entrypoint=sh"],
            *[PRELUDE_PYTHON, "-c", script],
        )
        tally.tried()
        assert "Ready" in done.stdout, done.stdout + done.stderr
    for mark in marks(traps):
        tally.succeeded(mark)
