"""Tests of in-gvisor --user with names from the container's own /etc/passwd."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker.conftest import PRELUDE
from docker.engine import Engine
from docker.matrix import IN_GVISOR, NO_NEW_PRIVILEGES, NONE_LEFT, SECCOMP, cause_of

ONE_ID = ["run", "--rm", NONE_LEFT, NO_NEW_PRIVILEGES, IN_GVISOR, SECCOMP]
ALL_IDS = ["run", "--rm", IN_GVISOR, SECCOMP]
IDS = [
    *("--", "sh", "-c"),
    'echo $(id -u) $(id -g) $(id -G | tr " " "\\n" | sort -n) $HOME',
]
ACCOUNTS = f"""\
FROM {PRELUDE}
COPY <<passwd /etc/passwd
root:x:0:0::/root:
airbyte:x:1000:1000::/home/airbyte:
app:x:1234:1235::/srv/app:
passwd
COPY <<group /etc/group
own:x:1235:
logs:x:40:app
data:x:42:app
group
"""
IMAGE = "usernsctl-test/accounts"


def test_a_name_of_the_image_is_a_user(plain: Engine) -> None:
    """Check that --user accepts names from /etc/passwd and /etc/group of the image.

    With one mapped id, the command has no supplementary groups.
    """
    done = plain(*ONE_ID, PRELUDE, "--user=airbyte", *IDS)
    assert (done.stdout, done.stderr) == ("1000 1000 1000 /home/airbyte\n", "")
    done = plain(*ONE_ID, PRELUDE, "--user=games:tty", *IDS)
    assert (done.stdout, done.stderr) == ("5 5 5 /home/airbyte\n", "")


@pytest.mark.parametrize("engine", ["plain", "remapped"], indirect=True)
@pytest.mark.sampled(1)
def test_a_name_has_the_groups_of_the_container(engine: Engine, tmp_path: Path) -> None:
    """Check that in-gvisor and Docker give a name the same ids and groups."""
    (tmp_path / "Dockerfile").write_text(ACCOUNTS)
    engine.must("build", "--network=host", f"--tag={IMAGE}", str(tmp_path))
    for user, ids in [
        ("app", "1234 1235 40 42 1235"),
        ("app:data", "1234 42 42"),
        ("1234:1235", "1234 1235 1235"),
    ]:
        done = engine(*ALL_IDS, IMAGE, "--ids=all", f"--user={user}", *IDS)
        assert (done.stdout, done.stderr) == (f"{ids} /home/airbyte\n", "")
        other = engine.must(
            *("run", "--rm", "--workdir=/", f"--user={user}", "--entrypoint=sh", IMAGE, *IDS[2:])
        )
        assert other.rsplit(maxsplit=1)[0] == ids


def test_unknown_names_are_refused(plain: Engine) -> None:
    done = plain(*ONE_ID, PRELUDE, "--user=nosuch", "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "user: the sandbox has no user 'nosuch': /etc/passwd has no such name" in done.stderr
    assert (cause_of(done), len(done.stderr.splitlines())) == ("user-unknown", 3)
    done = plain(*ONE_ID, PRELUDE, f"--user={'x' * 100_000}", "--", "true")
    assert done.returncode == 125
    assert "the value must be UID[:GID] or NAME[:GROUP]" in done.stderr


@pytest.mark.parametrize(
    ("make", "says"),
    [
        ("mkfifo /etc/passwd", "/etc/passwd in the sandbox: not a regular file"),
        ("mkdir /etc/passwd", "/etc/passwd in the sandbox: not a regular file"),
        ("ln -s /proc/self/environ /etc/passwd", "leads into gVisor's own /proc, /sys or /dev"),
        ("true", "/etc/passwd is missing in the sandbox"),
    ],
)
def test_hostile_files_are_refused(plain: Engine, make: str, says: str) -> None:
    """Check that --user=NAME fails if /etc/passwd is missing, or a FIFO, directory or hostile link.

    A script in the container replaces the image's file, after Docker has started the container.
    """
    script = f"rm /etc/passwd && {make} && exec /usr/local/bin/in-gvisor --user=airbyte -- true"
    hostile = ["run", "--rm", "--user=0", NO_NEW_PRIVILEGES, SECCOMP, "--entrypoint=sh"]
    done = plain(*hostile, PRELUDE, "-c", script)
    assert (done.returncode, done.stdout, cause_of(done)) == (125, "", "user-unknown")
    assert says in done.stderr
