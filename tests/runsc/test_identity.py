"""Tests of user and group names, looked up in the sandbox's files, and of supplementary groups."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Program
from frozen import freeze
from processes import capture

import usernsctl as un

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
app:x:1234:1235:an app:/srv/app:/bin/sh
app:x:1:1:second:/:/bin/sh
broken:x:-1:5:::
short:x:7:7
nohome:x:70:71::relative:/bin/sh
caf\N{LATIN SMALL LETTER E WITH ACUTE}:x:80:81::/:/bin/sh
"""
GROUP = """\
root:x:0:
own:x:1235:
logs:x:40:root,app
other:x:41:application
data:x:42:app
wide:x:4294967295:app
"""
SHOW = 'id -u; id -g; echo "$HOME"; id -G | tr " " "\\n" | sort -n | paste -sd,'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a root filesystem that contains only /etc/passwd and /etc/group."""
    (tmp_path / "tree" / "etc").mkdir(parents=True)
    (tmp_path / "tree/etc/passwd").write_text(PASSWD)
    (tmp_path / "tree/etc/group").write_text(GROUP)
    return tmp_path / "tree"


@pytest.fixture
def binds(tree: Path) -> list[str]:
    return [f"{tree}/etc/passwd:/etc/passwd", f"{tree}/etc/group:/etc/group"]


def dry_run(usernsctl: Program, *options: str) -> subprocess.CompletedProcess[str]:
    return usernsctl("run", "--dry-run", "--json", *options, "--", "true")


def ids_of(usernsctl: Program, *options: str) -> list[Any]:
    """Return the uid, the gid and HOME of the command, as `usernsctl run --dry-run` prints them."""
    done = dry_run(usernsctl, *options)
    assert done.returncode == 0, done.stderr
    process = json.loads(done.stdout)["config"]["process"]
    (home,) = [one for one in process["env"] if one.startswith("HOME=")]
    if "--as" in process["args"]:
        at = process["args"].index("--as")
        return [*map(int, process["args"][at + 1 : at + 3]), home]
    return [process["user"]["uid"], process["user"]["gid"], home]


def refusal(usernsctl: Program, *options: str) -> str:
    """Run a command as a user that must be rejected; return the error."""
    done = dry_run(usernsctl, *options)
    assert (done.returncode, done.stdout) == (125, "")
    assert "[user-unknown]" in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("app", [1234, 1235, "HOME=/srv/app"]),
        ("app:data", [1234, 42, "HOME=/srv/app"]),
        ("app:7", [1234, 7, "HOME=/srv/app"]),
        ("9:data", [9, 42, "HOME=/"]),
        ("nohome", [70, 71, "HOME=/"]),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", [80, 81, "HOME=/"]),
        ("root", [0, 0, "HOME=/root"]),
    ],
)
def test_user_names_are_looked_up_in_the_root_filesystem(
    usernsctl: Program, tree: Path, user: str, ids: list[Any]
) -> None:
    assert ids_of(usernsctl, "--rootfs", str(tree), "--user", user) == ids


@pytest.mark.parametrize(
    "user", ["nosuch", "broken", "short", "app:nosuch", "app:wide", "9:x", "A", "٣", "²"]
)
def test_unknown_user_names_are_refused(usernsctl: Program, tree: Path, user: str) -> None:
    error = refusal(usernsctl, "--rootfs", str(tree), "--user", user)
    assert "the sandbox has no " in error
    assert "has no such name" in error
    # Check that even "root" is looked up only in the sandbox, which now lacks /etc/passwd.
    (tree / "etc/passwd").unlink()
    assert "/etc/passwd is missing in the sandbox" in refusal(
        usernsctl, "--rootfs", str(tree), "--user", "root"
    )


@pytest.mark.parametrize(
    "user", ["app:", ":app", "a:b:c", "a b", "a\nb", "-app", "+app", "a,b", "a/b", "x" * 257]
)
def test_malformed_user_options_are_refused(usernsctl: Program, user: str) -> None:
    done = usernsctl("run", f"--user={user}", "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "is not UID[:GID]" in done.stderr
    with pytest.raises(ValueError, match="is not UID"):
        un.gvisor.run(["true"], user=user)


def test_run_sets_uid_gid_home_and_groups(usernsctl: Program, binds: list[str]) -> None:
    options = [word for bind in binds for word in ("--bind", bind)]
    run = usernsctl("run", *options, "--user", "app", "--", "sh", "-c", SHOW)
    assert (run.stderr, run.returncode) == ("", 0)
    assert run.stdout == "1234\n1235\n/srv/app\n1235\n"


@pytest.mark.userns_requires("subid")
def test_a_user_has_supplementary_groups_with_several_ids(
    usernsctl: Program, prelude: Program, tmp_path: Path, binds: list[str]
) -> None:
    options = ["--map-auto", *(word for bind in binds for word in ("--bind", bind))]
    script = ["sh", "-c", SHOW]
    run = usernsctl("run", *options, "--user", "app", "--", *script)
    assert (run.stdout, run.stderr) == ("1234\n1235\n/srv/app\n40,42,1235\n", "")
    named = usernsctl("run", *options, "--user", "app:data", "--", *script)
    assert (named.stdout, named.stderr) == ("1234\n42\n/srv/app\n42\n", "")
    launch = freeze(tmp_path / "launch", *options, "--user", "app", command=script)
    frozen = prelude("--launch", launch)
    assert (frozen.stdout, frozen.stderr) == (run.stdout, "")
    # Check that --run-as replaces all supplementary groups that the launch file sets.
    other = prelude("--launch", launch, "--run-as", "9:9")
    assert other.stdout.split() == ["9", "9", "/srv/app", "9"], other.stderr


def output(host: un.SandboxHost, **options: Any) -> str:
    with host.start(["sh", "-c", f"{SHOW}; hostname"], stdout=un.PIPE, **options) as box:
        return str(box.communicate(timeout=60)[0].decode())


def test_start_accepts_user_names_groups_and_hostnames(binds: list[str]) -> None:
    with un.SandboxHost(binds=binds, hostname="every") as host:
        assert output(host, user="app") == "1234\n1235\n/srv/app\n1235\nevery\n"
        assert output(host, user="app:data", hostname="one").split()[1::3] == ["42", "one"]
        assert output(host, user=(5, 6)) == "5\n6\n/\n6\nevery\n"
        assert output(host, groups=[4, 77]) == "0\n0\n/root\n0,4,77\nevery\n"
        with pytest.raises(un.CommandError, match="has no user 'nobody'") as caught:
            host.start(["true"], user="nobody")
        assert caught.value.cause == "user-unknown"
        with pytest.raises(un.PlanError, match="no supplementary groups") as refused:
            host.start(["true"], user="app", groups=[4])
        assert "IdMap.auto()" in str(refused.value.remedy)


@pytest.mark.userns_requires("subid")
def test_sandboxes_with_several_ids_set_supplementary_groups(binds: list[str]) -> None:
    with un.SandboxHost(un.IdMap.auto(), binds=binds) as host:
        assert output(host, user="app").split()[3] == "40,42,1235"
        assert output(host, user="app", groups=[4]).split()[3] == "4,1235"
        assert output(host, user="app", groups=[]).split()[3] == "1235"
        with pytest.raises(un.PlanError, match="uid 4000000000 is not mapped") as caught:
            host.start(["true"], user="4000000000:0")
        assert caught.value.cause == "inside-id-unmapped"
        assert "IdMap.auto()" in str(caught.value.remedy)


def test_unmapped_user_without_verify_raises() -> None:
    with (
        un.SandboxHost(verify=False) as host,
        pytest.raises(un.PlanError, match="uid 5 is not mapped"),
    ):
        host.start(["true"], user=(5, 5))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"user": 5}, TypeError, "user must be"),
        ({"user": ("app", "app")}, TypeError, "user must be"),
        ({"user": (-1, 0)}, ValueError, "-1 is not an id"),
        ({"groups": "app"}, TypeError, "a list of gids"),
        ({"groups": [2**32]}, ValueError, "not a gid"),
        ({"groups": range(5000)}, ValueError, "too many"),
        ({"hostname": ""}, ValueError, "1 to 64 bytes"),
        ({"hostname": "x" * 65}, ValueError, "1 to 64 bytes"),
        ({"hostname": 5}, TypeError, "must be text"),
    ],
)
def test_invalid_user_groups_and_hostname_raise(
    host: un.SandboxHost, options: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        host.start(["true"], **options)


def test_sandbox_without_first_command_has_a_hostname(host: un.SandboxHost) -> None:
    with host.start(None, hostname="waits") as box:
        assert box.check_output(["hostname"], text=True) == "waits\n"


class TestFurtherCommands:
    """Tests that the user of an additional command is looked up when that command starts."""

    @pytest.fixture
    def box(self, tree: Path) -> Iterator[un.Sandbox]:
        with (
            un.SandboxHost(binds=[f"{tree}/etc:/etc:rw"]) as host,
            host.start(None) as box,
        ):
            yield box

    def test_commands_look_up_user_names(self, box: un.Sandbox) -> None:
        show = ["sh", "-c", SHOW]
        seen = box.check_output(show, user="app", text=True)
        assert seen == "1234\n1235\n/srv/app\n40,42,1235\n"
        assert box.check_output(show, user="app:data", text=True).split()[3] == "42"
        assert box.check_output(show, user="app", groups=[4], text=True).split()[3] == "4,1235"
        own = box.check_output(show, user="app", env={"HOME": "/x"}, text=True)
        assert own.split()[2] == "/x"
        assert box.check_output(["id", "-u"], user="7", text=True) == "7\n"
        box.run(["sh", "-c", "echo late:x:99:98::/:/bin/sh >>/etc/passwd"], check=True)
        assert box.check_output(["id", "-u"], user="late", text=True) == "99\n"
        with box.popen(["id", "-g"], user="late:0", stdout=un.PIPE, text=True) as process:
            assert process.communicate(timeout=60)[0] == "0\n"

    def test_asyncio_looks_up_user_names(self, box: un.Sandbox) -> None:
        async def output(user: str) -> bytes:
            process = await box.create_subprocess_exec("id", "-u", user=user, stdout=un.PIPE)
            return (await process.communicate())[0]

        assert asyncio.run(output("app")) == b"1234\n"
        assert asyncio.run(output("5:6")) == b"5\n"
        with pytest.raises(un.CommandError, match="has no user 'nosuch'"):
            asyncio.run(output("nosuch"))

    def test_replaced_passwd_files_are_refused(self, box: un.Sandbox, tree: Path) -> None:
        def refusal(user: str) -> str:
            with pytest.raises(un.CommandError) as caught:
                box.run(["true"], user=user)
            assert caught.value.cause == "user-unknown"
            return str(caught.value)

        assert "has no such name" in refusal("nosuch")
        (tree / "etc/passwd").unlink()
        assert "/etc/passwd is missing in the sandbox" in refusal("app")
        box.run(["ln", "-s", "/dev/zero", "/etc/passwd"], check=True)
        assert "/etc/passwd" in refusal("app")
        (tree / "etc/passwd").unlink()
        os.mkfifo(tree / "etc/passwd")
        assert "/etc/passwd" in refusal("app")
        (tree / "etc/passwd").unlink()
        (tree / "etc/passwd").touch()
        os.truncate(tree / "etc/passwd", 1 << 30)
        assert "/etc/passwd" in refusal("app")
        assert box.run(["true"], user="1:1").returncode == 0


class TestHostileFiles:
    """Tests of special or huge /etc/passwd files, which must not block a run or fill its memory."""

    def test_a_fifo_is_refused(self, usernsctl: Program, tree: Path) -> None:
        (tree / "etc/passwd").unlink()
        os.mkfifo(tree / "etc/passwd")
        error = refusal(usernsctl, "--rootfs", str(tree), "--user", "app")
        assert "/etc/passwd in the sandbox: not a regular file" in error

    def test_a_directory_is_refused(self, usernsctl: Program, tree: Path) -> None:
        (tree / "etc/group").unlink()
        (tree / "etc/group").mkdir()
        assert "not a regular file" in refusal(usernsctl, "--rootfs", str(tree), "--user", "app")

    def test_a_file_of_one_gigabyte_is_refused(self, usernsctl: Program, tree: Path) -> None:
        os.truncate(tree / "etc/passwd", 1 << 30)
        limited = ["prlimit", f"--as={500 << 20}", usernsctl.path, "run", "--dry-run"]
        done = capture([*limited, "--rootfs", str(tree), "--user", "nosuch", "--", "true"])
        assert done.returncode == 125
        assert "/etc/passwd in the sandbox is larger than 8 MiB" in done.stderr

    @pytest.mark.parametrize("target", ["{out}", "../../../../../../..{out}"])
    def test_a_link_out_of_the_root_is_not_followed(
        self, usernsctl: Program, tree: Path, tmp_path: Path, target: str
    ) -> None:
        """Check that a link to a file of the host is resolved inside the sandbox's root."""
        (tmp_path / "outside").write_text(PASSWD)
        (tree / "etc/passwd").unlink()
        (tree / "etc/passwd").symlink_to(target.format(out=tmp_path / "outside"))
        error = refusal(usernsctl, "--rootfs", str(tree), "--user", "app")
        assert "/etc/passwd is missing in the sandbox" in error

    def test_a_link_into_proc_is_named(self, usernsctl: Program, tree: Path) -> None:
        (tree / "etc/passwd").unlink()
        (tree / "etc/passwd").symlink_to("/proc/self/environ")
        error = refusal(usernsctl, "--rootfs", str(tree), "--user", "app")
        assert "/etc/passwd in the sandbox leads into gVisor's own /proc, /sys or /dev" in error

    def test_a_link_within_the_root_is_followed(self, usernsctl: Program, tree: Path) -> None:
        (tree / "usr").mkdir()
        (tree / "etc/passwd").rename(tree / "usr/passwd")
        (tree / "etc/passwd").symlink_to("/usr/passwd")
        assert ids_of(usernsctl, "--rootfs", str(tree), "--user", "app")[0] == 1234

    def test_a_symlink_loop_is_refused(self, usernsctl: Program, tree: Path) -> None:
        (tree / "etc/passwd").unlink()
        (tree / "etc/passwd").symlink_to("passwd")
        assert "/etc/passwd in the sandbox: " in refusal(
            usernsctl, "--rootfs", str(tree), "--user", "app"
        )

    def test_lines_with_invalid_bytes_are_skipped(self, usernsctl: Program, tree: Path) -> None:
        (tree / "etc/passwd").write_bytes(
            b"\xff:x:1:1:::\n\0app:x:2:2:::\napp\0:x:3:3:::\napp:x:5:6::/\xff\x1b[2J:\n"
        )
        found = ids_of(usernsctl, "--rootfs", str(tree), "--user", "app")
        assert found == [5, 6, "HOME=/"]

    def test_more_than_4096_groups_are_refused(self, usernsctl: Program, tree: Path) -> None:
        lines = "".join(f"g{number}:x:{number}:app\n" for number in range(5000))
        (tree / "etc/group").write_text(lines)
        error = refusal(usernsctl, "--rootfs", str(tree), "--user", "app")
        assert "the limit is 4096" in error
        assert ids_of(usernsctl, "--rootfs", str(tree), "--user", "app:g7")[1] == 7

    @pytest.mark.parametrize("covers", [True, False], ids=["covered", "beside"])
    def test_a_tmpfs_over_etc_hides_passwd(
        self, usernsctl: Program, tree: Path, covers: bool
    ) -> None:
        bundle = tree.parent
        config = {
            "ociVersion": "1.0.0",
            "root": {"path": "tree"},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "mounts": [{"destination": "/etc" if covers else "/tmp", "type": "tmpfs"}],
        }
        (bundle / "config.json").write_text(json.dumps(config))
        options = ["--bundle", str(bundle), "--user", "app"]
        if covers:
            assert "/etc/passwd is missing in the sandbox" in refusal(usernsctl, *options)
        else:
            assert dry_run(usernsctl, *options).returncode == 0


def test_users_of_the_host_are_looked_up(usernsctl: Program) -> None:
    """Check that names are looked up in the host's user database (NSS), not only in /etc/passwd."""
    assert ids_of(usernsctl, "--user", "nobody")[0] == 65534
    assert "has no user 'nosuch'" in refusal(usernsctl, "--user", "nosuch")


def test_bind_mounts_cover_passwd_and_group_of_the_host(
    usernsctl: Program, tree: Path, binds: list[str]
) -> None:
    (tree / "etc/passwd").chmod(0o600)
    assert ids_of(usernsctl, "--bind", binds[0], "--user", "app:0")[0] == 1234
    assert ids_of(usernsctl, "--bind", f"{tree}/etc:/etc", "--user", "app:data")[:2] == [1234, 42]
