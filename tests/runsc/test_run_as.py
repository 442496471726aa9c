"""Tests of usernsctl-exec --launch FILE --run-as USER, which sets the command's user by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program
from frozen import assert_refused, decoded, encoded, freeze

pytestmark = pytest.mark.each_user

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
app:x:1234:1235:an app:/srv/app:/bin/sh
app:x:1:1:second:/:/bin/sh
toor:x:0:0::/root:/bin/sh
broken:x:4294967295:5:::
over:x:18446744073709551616:5:::
"""
GROUP = """\
own:x:1235:
logs:x:40:root,app
data:x:42:app
wide:x:4294967295:app
"""
IDS = 'echo $(id -u) $(id -g) $(id -G | tr " " "\\n" | sort -n)'
REMEDY = "  remedy: give numbers, as in 1000:1000, or names that the sandbox's /etc/passwd"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a root filesystem that contains only /etc/passwd and /etc/group."""
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/passwd").write_text(PASSWD)
    (tmp_path / "tree/etc/group").write_text(GROUP)
    return tmp_path / "tree"


@pytest.fixture
def launch(tree: Path, tmp_path: Path) -> Path:
    """Write a launch file with the root filesystem `tree`, but without a command; return it."""
    return freeze(tmp_path / "launch", "--rootfs", str(tree), command=())


@pytest.fixture
def here(tree: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a launch file with the host's files and the users of `tree`."""
    binds = [f"--bind={tree}/etc/{name}:/etc/{name}" for name in ("passwd", "group")]
    return lambda *options: freeze(tmp_path / "here", *binds, *options, command=("sh", "-c", IDS))


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("app", "1234 1235 1235"),
        ("app:data", "1234 42 42"),
        ("app:7", "1234 7 7"),
        ("9:data", "9 42 42"),
        ("9", "9 9 9"),
        ("toor", "0 0 0"),
        ("root", "0 0 0"),
    ],
)
@pytest.mark.sampled(3)
def test_names_are_looked_up_in_the_sandbox(
    prelude: Program, here: Callable[..., Path], user: str, ids: str
) -> None:
    done = prelude("--launch", here(), "--run-as", user)
    assert (done.stdout, done.stderr, done.returncode) == (f"{ids}\n", "", 0)


@pytest.mark.userns_requires("subid")
def test_a_name_has_the_supplementary_groups_of_the_sandbox(
    prelude: Program, here: Callable[..., Path]
) -> None:
    """Check that a user name gets the user's groups in /etc/group, and that a uid gets no groups.

    Docker sets the same groups.
    """
    launch = here("--map-auto", "--user", "root:own")
    for user, ids in [
        ("app", "1234 1235 40 42 1235"),
        ("root", "0 0 0 40"),
        ("app:data", "1234 42 42"),
        ("1234:1235", "1234 1235 1235"),
    ]:
        done = prelude("--launch", launch, f"--run-as={user}")
        assert (done.stdout, done.stderr, done.returncode) == (f"{ids}\n", "", 0)


@pytest.mark.userns_requires("subid")
def test_unmapped_ids_of_a_name_are_refused(
    prelude: Program, here: Callable[..., Path], tree: Path
) -> None:
    launch = here("--map-auto")
    (tree / "etc/passwd").write_text("app:x:4000000000:1:::\nown:x:1:4000000000:::\n")
    for user, kind in [("app", "uid"), ("own", "gid")]:
        done = prelude("--launch", launch, "--run-as", user, "--check")
        assert_refused(done, f"{kind} 4000000000 of the command", cause="inside-id-unmapped")


@pytest.mark.userns_requires("subid")
def test_unmapped_numbers_are_refused(prelude: Program, here: Callable[..., Path]) -> None:
    launch = here("--map-auto")
    for user, kind in [("4000000000", "uid"), ("1:4000000000", "gid")]:
        done = prelude("--launch", launch, "--run-as", user, "--check")
        assert_refused(done, f"{kind} 4000000000 of the command", cause="inside-id-unmapped")


@pytest.mark.parametrize(
    "user", ["nosuch", "broken", "over", "app:nosuch", "app:wide", "9:x", "A", "x" * 256]
)
def test_unknown_names_are_refused(prelude: Program, launch: Path, user: str) -> None:
    done = prelude("--launch", launch, "--run-as", user, "--check")
    assert_refused(done, "user: the sandbox has no ", "has no such name", cause="user-unknown")
    assert REMEDY in done.stderr


@pytest.mark.parametrize(
    "user", ["app:", ":app", "a:b:c", "a b", "a\nb", "-1", "+app", "4294967295", "x" * 100_000]
)
def test_malformed_users_are_refused(prelude: Program, launch: Path, user: str) -> None:
    done = prelude("--launch", launch, f"--run-as={user}", "--check")
    assert (done.returncode, done.stdout) == (125, "")
    assert "is not UID[:GID] or NAME[:GROUP]" in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_run_as_needs_a_launch_that_leaves_the_user_open(prelude: Program, launch: Path) -> None:
    assert "--run-as needs --launch FILE" in prelude("--run-as=app", "--", "true").stderr
    # Imitate the launch file of a bundle, which contains the user only in the text of config.json.
    header, records = decoded(launch.read_bytes())
    launch.write_bytes(encoded(header, [one for one in records if one.verb != "json-user"]))
    refused = prelude("--launch", launch, "--run-as=5", "--check")
    assert_refused(refused, "--run-as: the bundle of this launch decides the user")


class TestHostileFiles:
    """Tests of a hostile /etc/passwd in an image: it must not block usernsctl or exhaust memory."""

    @pytest.fixture
    def refusal(self, prelude: Program, launch: Path) -> Callable[[str], str]:
        """Return a function that starts a launch with an invalid user, and returns the error."""

        def refuse(user: str = "app") -> str:
            done = prelude("--launch", launch, "--run-as", user, "--check", timeout=60)
            assert_refused(done, "user: ", REMEDY, cause="user-unknown")
            return done.stderr

        return refuse

    def test_a_missing_file_is_named(self, tree: Path, refusal: Callable[..., str]) -> None:
        (tree / "etc/group").unlink()
        assert "no group 'data': /etc/group is missing in the sandbox" in refusal("9:data")
        (tree / "etc/passwd").unlink()
        assert "no user 'app': /etc/passwd is missing in the sandbox" in refusal()

    def test_numbers_need_no_file(self, prelude: Program, launch: Path, tree: Path) -> None:
        (tree / "etc/passwd").unlink()
        os.mkfifo(tree / "etc/passwd")
        (tree / "etc/group").unlink()
        prelude.check_output("--launch", launch, "--run-as=7", "--check")

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "directory"])
    @pytest.mark.parametrize("name", ["passwd", "group"])
    def test_other_files_are_refused(
        self, tree: Path, refusal: Callable[..., str], name: str, make: Callable[[Path], None]
    ) -> None:
        (tree / "etc" / name).unlink()
        make(tree / "etc" / name)
        assert f"/etc/{name} in the sandbox: not a regular file" in refusal()

    @pytest.mark.parametrize(
        ("target", "says"),
        [
            ("passwd", "/etc/passwd in the sandbox: Too many levels of symbolic links"),
            ("/proc/self/environ", "/etc/passwd in the sandbox leads into gVisor's own /proc"),
            ("/proc/self/fd/0", "/etc/passwd in the sandbox leads into gVisor's own /proc"),
            ("/dev/zero", "/etc/passwd in the sandbox leads into gVisor's own /proc, /sys or /dev"),
            ("{out}", "/etc/passwd is missing in the sandbox"),
            ("../../../../../../..{out}", "/etc/passwd is missing in the sandbox"),
            ("group/passwd", "/etc/passwd is missing in the sandbox"),
        ],
    )
    def test_links_are_followed_in_the_sandbox(
        self, tree: Path, tmp_path: Path, refusal: Callable[..., str], target: str, says: str
    ) -> None:
        (tmp_path / "outside").write_text(PASSWD)
        (tree / "etc/passwd").unlink()
        (tree / "etc/passwd").symlink_to(target.format(out=tmp_path / "outside"))
        assert says in refusal()

    def test_a_file_of_one_gigabyte_is_refused(
        self, tree: Path, refusal: Callable[..., str]
    ) -> None:
        os.truncate(tree / "etc/passwd", 1 << 30)
        assert "/etc/passwd in the sandbox is larger than 8 MiB" in refusal()

    def test_a_growing_file_does_not_block(self, tree: Path, refusal: Callable[..., str]) -> None:
        ended = threading.Event()

        def grow() -> None:
            with (tree / "etc/passwd").open("ab") as file:
                while not ended.is_set() and file.tell() < 64 << 20:
                    file.write(b"x:x:1:1:::\n" * 10_000)

        thread = threading.Thread(target=grow)
        thread.start()
        try:
            assert "/etc/passwd" in refusal("nosuch")
        finally:
            ended.set()
            thread.join()

    def test_more_than_4096_groups_are_refused(
        self, prelude: Program, launch: Path, tree: Path
    ) -> None:
        group = "".join(f"g{number}:x:{number}:app\n" for number in range(5000))
        (tree / "etc/group").write_text(group)
        done = prelude("--launch", launch, "--run-as=app", "--check")
        assert_refused(done, "the limit is 4096", "remedy: name the group, too: NAME:GROUP")
        assert prelude("--launch", launch, "--run-as=app:g7", "--check").returncode == 0
