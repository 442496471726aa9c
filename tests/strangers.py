"""Files that another user replaces in a directory while the caller uses the directory."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from callers import may_map_any_id

import usernsctl as un

SOURCES = Path(__file__).parent / "hostile"

#: Name and value of the extended attribute of an access control list (acl(5)) with rwx for user
#: 54321. The value has the kernel's format (linux/posix_acl_xattr.h): a version, then tag,
#: permissions and id of each entry.
LIST_WITH_ANOTHER = (
    "system.posix_acl_access",
    struct.pack("<I" + "HHI" * 5, 2, 1, 7, 0, 2, 7, 54321, 4, 5, 0, 16, 7, 0, 32, 5, 0),
)

other_users = pytest.mark.userns_requires("userns" if may_map_any_id() else "subid")


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """Compile the program that swaps files, the fake runsc and the attacker's program."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    for name, source, *flags in (
        ("swapper", "swapper.c"),
        ("runsc", "stand_in.c"),
        ("evil", "stand_in.c", '-DIDENTITY="evil"'),
    ):
        command = [compiler, "-O1", "-static", *flags, SOURCES / source, "-o", directory / name]
        subprocess.run(command, check=True)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a directory that other users can access."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def secret(place: Path) -> Path:
    """Return a private directory of the caller that no sandbox may see."""
    directory = place / "private"
    (directory / "data").mkdir(parents=True)
    for path in (directory, directory / "data"):
        (path / "secret").touch()
    (directory / "env").write_text("TOKEN=SECRET\n")
    return directory


@contextlib.contextmanager
def swapping(programs: Path, first: Path, second: Path, *before: str) -> Iterator[None]:
    command = [*before, str(programs / "swapper"), str(first), str(second)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"swapping\n"
        try:
            yield
        finally:
            process.kill()


class Stranger:
    """Another user, who may write to `directory` and swaps its subdirectory for a symbolic link."""

    def __init__(self, programs: Path, directory: Path, secret: Path) -> None:
        self.programs = programs
        self.directory = directory
        self.secret = secret

    @contextlib.contextmanager
    def swaps(self) -> Iterator[Path]:
        """Yield a path `x` that alternates between a directory and a link to the secret."""
        directory = self.directory
        directory.mkdir()
        directory.chmod(0o777)
        script = f"""
            umask 0
            mkdir -p {directory}/x/data {directory}/x/log {directory}/x/bin
            cp /bin/true {directory}/x/bin
            echo A=b >{directory}/x/env
            ln -s {self.secret} {directory}/y
            exec {self.programs}/swapper {directory}/x {directory}/y
        """
        command = ["sh", "-c", script]
        process: subprocess.Popen[bytes] | un.Popen[bytes]
        if may_map_any_id():
            command = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", *command]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
        else:
            process = un.Popen(command, stdout=un.PIPE, idmap=un.IdMap.auto(), user=1, group=1)
        with process:
            assert process.stdout.readline() == b"swapping\n"
            try:
                yield directory / "x"
            finally:
                process.kill()


@pytest.fixture
def stranger(place: Path, programs: Path, secret: Path) -> Stranger:
    return Stranger(programs, place / "public", secret)
