"""Attacks from a namespace on a caller's memory, descriptors, environment and root directory.

An attacker (memory/attacker.c) inspects all new processes by all methods while a caller
(memory/caller.py) starts commands. The attacker is root in the namespace that the commands enter,
or a process outside that has the caller's uid, and therefore all capabilities in the caller's
namespaces.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from callers import MAP_OF_SEVERAL, as_root, several_ids
from processes import capture
from tally import Tally

import usernsctl as un
from usernsctl.namespaces import named

pytestmark = pytest.mark.also_root

HERE = Path(__file__).parent / "memory"
FULL_ROUNDS = 20000
SECONDS = 3600
USER = "usernsctl-test"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Yield a directory that all users may read, with the attacker, the caller and a secret."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "secret").mkdir()
        (directory / "secret" / "file").touch()
        (directory / "caller.py").write_bytes((HERE / "caller.py").read_bytes())
        (directory / "true.c").write_text("int main(void) { return 0; }\n")
        for source, program in (
            (HERE / "attacker.c", "attacker"),
            (directory / "true.c", "true"),
        ):
            command = ["cc", "-O2", "-static", source, "-o", directory / program]
            subprocess.run(command, check=True)
        yield directory


def caller_command(kind: str, rounds: int, place: Path) -> list[str]:
    python = [sys.executable, str(place / "caller.py")]
    return [*python, kind, str(rounds), str(place / "attacker"), str(place)]


def environment() -> dict[str, str]:
    return dict(os.environ) | {"SECRET": os.urandom(16).hex()}


def conclude(done: subprocess.CompletedProcess[str], rounds: int, tally: Tally) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    *got, seen = done.stdout.splitlines()
    assert int(seen.removeprefix("seen ")) > 0, "the attacker saw nobody"
    tally.tried(rounds)
    for line in got:
        tally.succeeded(line)


def attack(kind: str, rounds: int, place: Path, tally: Tally, *before: str) -> None:
    done = capture(
        [*before, *caller_command(kind, rounds, place)], timeout=SECONDS, env=environment()
    )
    conclude(done, rounds, tally)


def attack_beside(kind: str, rounds: int, place: Path, tally: Tally) -> None:
    """Attack a caller that has capabilities, from a process with the same uid and none."""
    if os.geteuid() == 0:
        attack(kind, rounds, place, tally)
        return
    idmap = MAP_OF_SEVERAL if kind == "fresh-several" else un.IdMap.root()
    done = un.run(
        caller_command(kind, rounds, place),
        idmap=idmap,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment(),
    )
    conclude(done, rounds, tally)


def attack_unguarded(place: Path) -> str | None:
    """Return the attacker's output for an unprotected victim, or ``None`` if the victim hangs."""
    with subprocess.Popen(
        caller_command("unguarded", 30, place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as caller:
        try:
            output, errors = caller.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(caller.pid, signal.SIGKILL)
            return None
    assert (caller.returncode, errors) == (0, "")
    return output


def test_the_attack_on_memory_works_without_protection(place: Path) -> None:
    wanted = {"process_vm_readv", "mem", "fd", "environ", "root", "ptrace"}
    ways: set[str] = set()
    # Repeat the attack: on a busy host, one attacker may have no time to try all methods.
    for _ in range(5):
        output = attack_unguarded(place) or ""
        ways |= {line.partition(" ")[0] for line in output.splitlines()}
        if ways >= wanted:
            break
    assert ways >= wanted


@pytest.mark.parametrize(
    "kind", ["kept", "kept-pid", "kept-init", "kept-time", "kept-new-time", "exec"]
)
@pytest.mark.sampled(3)
def test_hostile_root_inside(kind: str, place: Path, tally: Tally) -> None:
    attack(kind, tally.rounds(100, FULL_ROUNDS), place, tally)


@several_ids
def test_hostile_root_inside_while_commands_get_other_ids(place: Path, tally: Tally) -> None:
    attack("kept-other-ids", tally.rounds(100, FULL_ROUNDS), place, tally)


@pytest.mark.parametrize(
    "kind",
    [
        *("fresh", "fresh-pid", "fresh-init", "fresh-time", "enter"),
        *("prelude", "prelude-fork", "prelude-init"),
    ],
)
@pytest.mark.sampled(3)
def test_hostile_same_user_beside(kind: str, place: Path, tally: Tally) -> None:
    attack_beside(kind, tally.rounds(100, FULL_ROUNDS), place, tally)


@several_ids
def test_hostile_same_user_beside_a_map_of_several_ids(place: Path, tally: Tally) -> None:
    attack_beside("fresh-several", tally.rounds(50, FULL_ROUNDS), place, tally)


def test_hostile_same_user_beside_a_holder(place: Path, tally: Tally) -> None:
    attack_beside("named", tally.rounds(20, FULL_ROUNDS), place, tally)


# Program that prints a process's environment and descriptors, and its memory mappings that contain
# a secret.
SEARCH = """
import os, sys
pid, secret = sys.argv[1], bytes(~byte & 255 for byte in bytes.fromhex(sys.argv[2]))
print(open(f"/proc/{pid}/environ", "rb").read().replace(b"\\0", b""))
print(os.listdir(f"/proc/{pid}/fd"))
memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
for line in open(f"/proc/{pid}/maps"):
    start, end = (int(number, 16) for number in line.split()[0].split("-"))
    try:
        if secret in os.pread(memory, end - start, start):
            print(line)
    except (OSError, OverflowError):
        pass
"""


def test_hostile_root_inside_a_named_namespace(
    runtime: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = os.urandom(16).hex()
    monkeypatch.setenv("SECRET", secret)
    path = os.environ["PATH"]
    inverted = bytes(~byte & 255 for byte in secret.encode()).hex()
    with un.Namespace.open_or_create("held", mount=True) as ns:
        holder = named.find_named("held").pid
        command = [sys.executable, "-c", SEARCH, str(holder), inverted]
        output = ns.check_output(command, text=True, env={})
        named.remove_named("held")
    tally.tried()
    environment, descriptors, *memory = output.splitlines()
    if environment != repr(f"PATH={path}".encode()):
        tally.succeeded(f"environ: {environment}")
    if descriptors != "[]" or memory:
        tally.succeeded(f"descriptors {descriptors}, memory {memory}")


@as_root
@pytest.mark.parametrize("kind", ["fresh-newuidmap", "prelude-newuidmap"])
def test_hostile_same_user_while_newuidmap_writes(kind: str, place: Path, tally: Tally) -> None:
    """Attack a caller that has CAP_NET_RAW by a process of the same user without capabilities.

    The capability protects the caller: the kernel lets a process trace any process of the same user
    that has no more capabilities (ptrace(2)).
    """
    try:
        subprocess.run(["getent", "passwd", USER], check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        pytest.skip(f"there is no user {USER}: `make test` creates it")
    become = ["--reuid", USER, "--regid", USER, "--init-groups"]
    one = ["--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"]
    attack(kind, tally.rounds(40, FULL_ROUNDS), place, tally, "setpriv", *become, *one, "--")


@as_root
@pytest.mark.parametrize("kind", ["stranger", "stranger-inside"])
def test_hostile_host_user_against_root(kind: str, place: Path, tally: Tally) -> None:
    attack(kind, tally.rounds(100, FULL_ROUNDS), place, tally)


@pytest.mark.userns_requires("runsc")
def test_hostile_root_beside_a_sandbox(place: Path, tally: Tally) -> None:
    attack("sandbox", tally.rounds(15, FULL_ROUNDS), place, tally)
