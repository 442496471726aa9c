"""Tests of usernsctl-exec with various /etc/subuid and /etc/subgid files and helpers.

The tests check the id maps, and the causes of errors. Each test has a mount namespace, in which
root prepares the files and the helpers (newuidmap and newgidmap), and runs usernsctl-exec as
nobody.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from callers import as_root
from conftest import Program
from processes import capture

pytestmark = as_root

NOBODY = 65534
GRANTED = "nobody:100000:65536\n"
PREPARE = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
mount --bind "$DIR/subuid" /etc/subuid
mount --bind "$DIR/subgid" /etc/subgid
"""
COPIES = "cp -p /usr/bin/newuidmap /usr/bin/newgidmap /mnt\n"


@dataclass
class Machine:
    """A mount namespace with its own subid files, in which `nobody` runs usernsctl-exec."""

    prelude: Path
    directory: Path

    def grant(self, uids: str | bytes, gids: str | bytes = GRANTED, mode: int = 0o644) -> None:
        for name, content in (("subuid", uids), ("subgid", gids)):
            file = self.directory / name
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            file.chmod(mode)

    def run(
        self,
        *options: str,
        prepare: str = "",
        become: str = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups",
    ) -> subprocess.CompletedProcess[str]:
        command = f'exec {become} "$PRELUDE" "$@" -- cat /proc/self/uid_map /proc/self/gid_map'
        return capture(
            ["unshare", "-m", "sh", "-c", PREPARE + prepare + command, "sh", *options],
            env={
                "PATH": "/mnt:/usr/bin:/bin:/usr/sbin:/sbin",
                "DIR": str(self.directory),
                "PRELUDE": str(self.prelude),
            },
        )

    def refused(self, cause: str, says: str, *options: str, **how: str) -> None:
        done = self.run(*(options or ("-r", "--map-auto")), **how)
        assert (done.returncode, done.stdout) == (125, "")
        assert f"[{cause}]" in done.stderr
        assert says in done.stderr
        _, *explanation = done.stderr.splitlines()
        assert all(line.startswith("  ") for line in explanation)

    def mapped(self, uids: str, gids: str, *options: str, **how: str) -> None:
        done = self.run(*(options or ("-r", "--map-auto")), **how)
        assert done.stderr == ""
        assert done.stdout.split() == f"{uids} {gids}".split()


@pytest.fixture
def machine(prelude: Program, tmp_path: Path) -> Machine:
    machine = Machine(prelude.path, tmp_path)
    machine.grant(GRANTED)
    return machine


ALL = f"0 {NOBODY} 1 1 100000 65536"


@pytest.mark.parametrize(
    ("uids", "uid_map"),
    [
        (GRANTED, ALL),
        (GRANTED.rstrip(), ALL),
        (f"{NOBODY}:100000:65536", ALL),
        (f"nobody:200000:9\n{NOBODY}:100000:9\n", f"0 {NOBODY} 1 1 200000 9 10 100000 9"),
        (f"nobody2:1:9\n0x0:1:9\n6553:1:9\n{GRANTED}", ALL),
        (f"nobody:100000:0\nnobody:4294967000:999\n{GRANTED}", ALL),
        ("nobody:65530:10\n", f"0 {NOBODY} 1 1 65530 4 5 65535 5"),
        ("somebody:1879048192:65536\n" * 400_000 + GRANTED, ALL),
    ],
    ids=["name", "no newline", "uid", "two", "others", "malformed", "own id", "10 MB"],
)
def test_granted_ranges_are_mapped(machine: Machine, uids: str, uid_map: str) -> None:
    machine.grant(uids)
    machine.mapped(uid_map, ALL)


@pytest.mark.parametrize(
    ("uids", "says"),
    [
        ("", "/etc/subuid grants no uid to user nobody"),
        ("nobody2:1:9\nnobod:1:9\n0x0:1:9\n:1:9\n   :1:9\n", "/etc/subuid grants no uid"),
        ("nobody:100000:65536\r\n", "line 1 is skipped: the line ends with CR LF"),
        ("nobody:100000:0\n", "line 1 is skipped: the count is 0"),
        ("#\nnobody:4294967290:9\n", "line 2 is skipped: the range goes past"),
        ("nobody:100000\n", "line 1 is skipped: expected name:start:count"),
        (GRANTED.rstrip() + "x" * 2000, "line 1 is skipped: the line is too long"),
    ],
    ids=["empty", "others", "CR LF", "count 0", "past the last", "two fields", "long"],
)
def test_missing_grants_are_refused_with_the_reason(machine: Machine, uids: str, says: str) -> None:
    machine.grant(uids)
    machine.refused("no-subordinate-range", says)
    done = machine.run("-r", "--map-auto", "--allow-single-id")
    assert done.stdout.split() == f"0 {NOBODY} 1 0 {NOBODY} 1".split()
    assert says in done.stderr


@pytest.mark.parametrize(
    ("ranges", "granted"),
    [
        (["100000:10", "100010:10"], True),
        (["100010:10", "100000:10"], True),
        (["100000:15", "100005:15"], True),
        (["100000:10", f"{NOBODY}:100010:10"], True),
        (["100000:10", "100011:10"], False),
    ],
)
def test_an_extent_may_span_adjacent_ranges(
    machine: Machine, ranges: list[str], granted: bool
) -> None:
    lines = [line if line.count(":") == 2 else f"nobody:{line}" for line in ranges]
    machine.grant("\n".join(lines), "\n".join(lines))
    options = ["-r", "--map-users=1:100000:20", "--map-groups=1:100000:20"]
    if granted:
        machine.mapped(*2 * [f"0 {NOBODY} 1 1 100000 20"], *options)
    else:
        machine.refused("range-not-granted", "does not grant uids 100000-100019 to user", *options)


@pytest.mark.parametrize(
    ("line", "granted"),
    [
        ("GRANT_AUX_GROUP_SUBIDS yes", True),
        ('\tGRANT_AUX_GROUP_SUBIDS\t"Yes"', True),
        ("GRANT_AUX_GROUP_SUBIDS no", False),
        ("#GRANT_AUX_GROUP_SUBIDS yes", False),
    ],
)
def test_login_defs_names_the_group_of_helpers(machine: Machine, line: str, granted: bool) -> None:
    """Check that GRANT_AUX_GROUP_SUBIDS allows a caller whose gid differs from passwd(5).

    The setting is in login.defs.
    """
    login = machine.directory / "login.defs"
    login.write_text(f"{Path('/etc/login.defs').read_text()}\n{line}\n")
    login.chmod(0o644)
    how = {
        "prepare": 'mount --bind "$DIR/login.defs" /etc/login.defs\n',
        "become": f"setpriv --reuid={NOBODY} --regid=5 --clear-groups",
    }
    if granted:
        machine.mapped(ALL, ALL.replace(str(NOBODY), "5"), **how)
    else:
        machine.refused("gid-differs-from-passwd", "", **how)


def test_directories_in_path_are_not_taken_for_helpers(machine: Machine) -> None:
    machine.mapped(ALL, ALL, prepare="mkdir /mnt/newuidmap /mnt/newgidmap\n")


@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_fifos_in_place_of_subid_files_do_not_block(machine: Machine, name: str) -> None:
    """Check that a FIFO in place of a subid file is rejected, and that open(2) does not block."""
    prepare = f"mkfifo -m 644 /mnt/fifo; mount --bind /mnt/fifo /etc/{name}\n"
    machine.refused("subid-not-a-file", f"/etc/{name} is not a regular file", prepare=prepare)


def test_a_hundred_ranges_are_mapped(machine: Machine) -> None:
    machine.grant("".join(f"nobody:{100000 + 20 * n}:9\n" for n in range(100)))
    extents = " ".join(f"{1 + 9 * n} {100000 + 20 * n} 9" for n in range(100))
    machine.mapped(f"0 {NOBODY} 1 {extents}", ALL)


def test_unreadable_subid_files_are_named(machine: Machine) -> None:
    machine.grant(GRANTED, mode=0o600)
    machine.refused("subid-file-unreadable", "/etc/subuid: Permission denied")


@pytest.mark.parametrize(
    ("prepare", "cause", "says"),
    [
        (f"{COPIES}chmod u-s /mnt/newgidmap\n", "helper-not-setuid", "/mnt/newgidmap"),
        (f"{COPIES}mount -o remount,nosuid /mnt\n", "helper-on-nosuid", "/mnt/newuidmap"),
        (f"{COPIES}chown 1 /mnt/newuidmap; chmod u+s /mnt/newuidmap\n", "helper-not-setuid", ""),
    ],
    ids=["no bit", "nosuid", "not root's"],
)
def test_helpers_without_privileges_are_named(
    machine: Machine, prepare: str, cause: str, says: str
) -> None:
    machine.refused(cause, says, prepare=prepare)


@pytest.mark.parametrize(
    ("body", "cause", "says"),
    [
        ("echo 'no database' >&2; exit 1", "helper-failed", "exited with status 1: no database"),
        ("kill -SEGV $$", "helper-killed", "was killed by signal 11"),
        ("kill -STOP $$", "helper-stopped", "was stopped by signal 19"),
        ("head -c 10000000 /dev/zero; exit 1", "helper-failed", "exited with status 1"),
        ("exit 0", "map-not-written", "the kernel's map differs from the planned map"),
    ],
)
def test_failing_helpers_are_named(machine: Machine, body: str, cause: str, says: str) -> None:
    script = shlex.quote(f"#!/bin/sh\n{body}\n")
    stub = f"{COPIES}printf %s {script} >/mnt/newuidmap\nchmod 4755 /mnt/newuidmap\n"
    machine.refused(cause, says, prepare=stub)


@pytest.mark.parametrize(
    ("become", "cause"),
    [
        (f"setpriv --reuid={NOBODY} --regid=1 --clear-groups", "gid-differs-from-passwd"),
        ("setpriv --reuid=54321 --regid=54321 --clear-groups", "no-passwd-entry"),
        (
            f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --no-new-privs",
            "no-new-privs",
        ),
        (
            f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --bounding-set=-setuid",
            "bounding-set",
        ),
    ],
)
def test_callers_refused_by_helpers_are_named(machine: Machine, become: str, cause: str) -> None:
    machine.grant(GRANTED + "54321:300000:9\n", GRANTED + "54321:300000:9\n")
    machine.refused(cause, "", become=become)


def test_root_maps_granted_ranges_without_helpers(machine: Machine) -> None:
    root = "root:100000:9\n0:200000:9\n"
    machine.grant(root, root)
    how = {"become": "env PATH=/bin"}
    machine.mapped(*2 * ["0 0 1 1 100000 9 10 200000 9"], **how)
    machine.grant(GRANTED)
    machine.refused("no-subordinate-range", "to user root", **how)


def test_root_without_capabilities_gets_the_cause(machine: Machine) -> None:
    bare = "setpriv --bounding-set=-all --inh-caps=-all"
    machine.refused("needs-setfcap", "uid 0 of this namespace", "-r", become=bare)
    # Without capabilities in its bounding set, newuidmap gains no privilege, so a granted range
    # doesn't help.
    machine.grant("root:100000:9\n", "root:100000:9\n")
    machine.refused("bounding-set", "", "--map-auto", become=bare)


@pytest.mark.parametrize(
    ("grant", "uid_map"),
    [
        ("root:1:65535\n", "0 0 1 1 1 65535"),
        ("root:60000:10000\n", "0 0 1 1 60000 5536"),
        ("root:100000:65536\n", None),
    ],
)
def test_ranges_are_clipped_in_a_container_of_65536_ids(
    machine: Machine, grant: str, uid_map: str | None
) -> None:
    machine.grant(grant, grant)
    container = '"$PRELUDE" --map-users=0:300000:65536 --map-groups=0:300000:65536 -- env PATH=/bin'
    if uid_map is None:
        says = "does not have the subordinate uids 100000-165535"
        machine.refused("range-outside-parent", says, become=container)
    else:
        machine.mapped(uid_map, uid_map, become=container)
