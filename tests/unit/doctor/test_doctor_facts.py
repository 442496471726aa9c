"""Tests of reading facts below a given root directory, in which files may be missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from usernsctl.doctor.facts import Facts
from usernsctl.doctor.reading import SYSCTLS, read_facts
from usernsctl.maps import Extent

STATUS = """Name:\tdoctor
Uid:\t1000\t1001\t1000\t1000
Gid:\t2000\t2001\t2000\t2000
Groups:\t27 2000
Threads:\t3
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t00000000000000c0
CapBnd:\t000001ffffffff3f
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t4
"""
MOUNTINFO = """20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
21 20 0:5 / /proc ro,nosuid,nodev,noexec - proc proc rw
22 21 0:6 /null /proc/kcore rw,nosuid - devtmpfs devtmpfs rw
23 20 8:2 / /usr ro,nosuid - ext4 /dev/sda2 rw
24 20 8:3 / /a\\040b rw - ext4 /dev/sda3 rw
"""


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def read(root: Path, **environ: str) -> Facts:
    return read_facts(str(root), environ)


def test_facts_are_unknown_in_an_empty_tree(tmp_path: Path) -> None:
    facts = read(tmp_path)
    assert not facts.has_proc
    assert facts.supported is None
    assert facts.initial is None
    assert facts.ids.uid_map is None
    assert facts.container.chroot is None
    assert facts.privileges.seccomp is None
    assert facts.privileges.dumpable is None
    assert set(facts.sysctls) == set(SYSCTLS)
    assert set(facts.sysctls.values()) == {None}
    assert facts.helpers["newuidmap"].path is None
    assert facts.devices["/dev/kvm"].mode is None
    assert facts.runsc is None


def test_ids_and_privileges_are_read_from_proc_status(tmp_path: Path) -> None:
    facts = read(write_tree(tmp_path, {"proc/self/status": STATUS}))
    assert facts.has_proc
    # The lines Uid and Gid of /proc/PID/status have four ids each; the second is the effective id.
    assert (facts.ids.uid, facts.ids.gid, facts.ids.groups) == (1001, 2001, (27, 2000))
    assert facts.threads == 3
    assert facts.privileges.no_new_privs is True
    assert (facts.privileges.seccomp, facts.privileges.seccomp_filters) == (2, 4)
    assert facts.privileges.holds("setuid", "setgid")
    assert not facts.privileges.holds("sys_admin")
    assert facts.privileges.lacks_bounding("setuid", "setgid", "setfcap") == ("setuid", "setgid")
    # Without ns/user in /proc/self, the kernel lacks user namespaces.
    assert facts.supported is False


def test_id_maps_and_initial_namespace_are_read(tmp_path: Path) -> None:
    write_tree(
        tmp_path, {"proc/self/status": STATUS, "proc/self/uid_map": "0 100000 65536\n7 7 1\n"}
    )
    (tmp_path / "proc/self/ns").mkdir()
    (tmp_path / "proc/self/ns/user").symlink_to("user:[4026531837]")
    facts = read(tmp_path)
    assert facts.ids.uid_map == (Extent(0, 100000, 65536), Extent(7, 7, 1))
    assert facts.supported is True
    assert facts.initial is True
    (tmp_path / "proc/self/ns/user").unlink()
    (tmp_path / "proc/self/ns/user").symlink_to("user:[4026532207]")
    assert read(tmp_path).initial is False


def test_mount_flags_and_masked_proc_files_are_read(tmp_path: Path) -> None:
    facts = read(write_tree(tmp_path, {"proc/self/mountinfo": MOUNTINFO}))
    assert facts.mounts["/"] == ()
    assert facts.mounts["/proc"] == ("ro", "nosuid", "nodev", "noexec")
    assert facts.mounts["/a b"] == ()
    assert facts.masked_proc() == ("/proc/kcore",)
    assert facts.container.chroot is False


def test_missing_root_mount_means_chroot(tmp_path: Path) -> None:
    inside = "\n".join(MOUNTINFO.split("\n")[1:])
    facts = read(write_tree(tmp_path, {"proc/self/mountinfo": inside}))
    assert facts.container.chroot is True


def test_sysctls_are_read_as_numbers(tmp_path: Path) -> None:
    files = {
        "proc/sys/user/max_user_namespaces": "0\n",
        "proc/sys/kernel/yama/ptrace_scope": "3\n",
        "proc/sys/vm/mmap_min_addr": "not a number\n",
    }
    facts = read(write_tree(tmp_path, files))
    assert facts.sysctls["user/max_user_namespaces"] == 0
    assert facts.sysctls["kernel/yama/ptrace_scope"] == 3
    assert facts.sysctls["vm/mmap_min_addr"] is None


def test_security_modules_and_label_are_read(tmp_path: Path) -> None:
    files = {
        "sys/kernel/security/lsm": "lockdown,capability,landlock,yama,apparmor",
        "proc/self/attr/current": "docker-default (enforce)\n",
        "sys/fs/selinux/enforce": "1",
    }
    facts = read(write_tree(tmp_path, files))
    assert facts.security.names is not None
    assert "landlock" in facts.security.names
    assert facts.security.label == "docker-default (enforce)"
    assert facts.security.selinux_enforcing is True


@pytest.mark.parametrize(
    ("files", "environ", "engine"),
    [
        ({}, {}, None),
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": ""}, {}, "podman"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({"var/run/secrets/kubernetes.io/token": ""}, {}, "kubernetes"),
        ({}, {"container": "lxc"}, "other"),
        (
            {
                "proc/version": "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016",
                ".dockerenv": "",
            },
            {},
            "gvisor",
        ),
    ],
)
def test_container_engine_is_detected(
    tmp_path: Path, files: dict[str, str], environ: dict[str, str], engine: str | None
) -> None:
    facts = read(write_tree(tmp_path, files), **environ)
    assert facts.container.engine == engine
    assert bool(facts.container.sign) == (engine is not None)
    assert facts.kernel.gvisor == (engine == "gvisor")


@pytest.mark.parametrize(
    ("content", "remap"),
    [('{"userns-remap": "default"}', "default"), ("{}", None), ("{", None), ("[]", None)],
)
def test_userns_remap_is_read_from_daemon_json(
    tmp_path: Path, content: str, remap: str | None
) -> None:
    facts = read(write_tree(tmp_path, {"etc/docker/daemon.json": content, "run/docker.sock": ""}))
    assert facts.container.docker_daemon
    assert facts.container.userns_remap == remap


def test_helpers_are_searched_along_path(tmp_path: Path) -> None:
    write_tree(tmp_path, {"usr/bin/newuidmap": "", "opt/bin/newuidmap": ""})
    (tmp_path / "usr/bin/newuidmap").chmod(0o755)
    facts = read(tmp_path, PATH="relative:/nowhere:/opt/bin:/usr/bin")
    helper = facts.helpers["newuidmap"]
    # /opt/bin/newuidmap is not executable, so the search continues after it.
    assert (helper.path, helper.mode, helper.privileged) == ("/usr/bin/newuidmap", 0o755, False)
    assert helper.nosuid is None
    assert facts.helpers["newgidmap"].path is None


def test_helper_on_a_nosuid_mount_is_reported(tmp_path: Path) -> None:
    write_tree(tmp_path, {"usr/bin/newuidmap": "", "proc/self/mountinfo": MOUNTINFO})
    (tmp_path / "usr/bin/newuidmap").chmod(0o755)
    assert read(tmp_path, PATH="/usr/bin").helpers["newuidmap"].nosuid == "/usr"


def test_helpers_count_as_privileged_where_a_filter_kills_callers_of_fgetxattr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []
    monkeypatch.setattr(os, "getxattr", lambda *args: called.append(args) or b"")
    write_tree(tmp_path, {"usr/bin/newuidmap": ""})
    (tmp_path / "usr/bin/newuidmap").chmod(0o755)
    facts = read_facts(str(tmp_path), {"PATH": "/usr/bin"}, only_files=True)
    assert facts.helpers["newuidmap"].privileged
    assert called == []
    assert not read(tmp_path, PATH="/usr/bin").helpers["newuidmap"].privileged
    assert len(called) == 1


def test_subordinate_source_and_gid_entries_are_read(tmp_path: Path) -> None:
    files = {
        "proc/self/status": STATUS,
        "etc/nsswitch.conf": "passwd: files\nsubid: sss  # central\n",
        "etc/subgid": "2001:100000:65536\nsomebody:2001:5\n",
    }
    facts = read(write_tree(tmp_path, files))
    assert facts.subordinate.source == "sss"
    assert facts.subordinate.gid_entries == ("2001:100000:65536",)
    write_tree(tmp_path, {"etc/nsswitch.conf": "subid: files\n"})
    assert read(tmp_path).subordinate.source is None


@pytest.mark.parametrize(
    ("hard", "inherited"), [("50", True), ("1048576", False), ("unlimited", False), ("", False)]
)
def test_parent_is_reported_if_its_limits_are_the_same(
    tmp_path: Path, hard: str, inherited: bool
) -> None:
    """Check that the parent is reported only if it has the same limits as this process.

    A remedy raises the limits of a reported parent, such as a shell. If the parent is systemd,
    which sets limits for its services but not for itself, its own limits must not change.
    """
    limits = "Limit  Soft  Hard  Units\nMax open files   50   {}  files\n"
    write_tree(
        tmp_path,
        {
            "proc/self/status": f"{STATUS}PPid:\t7\n",
            "proc/self/limits": limits.format(50),
            **({"proc/7/limits": limits.format(hard)} if hard else {}),
        },
    )
    assert read(tmp_path).parent == (7 if inherited else 0)


def test_process_limits_of_rlimit_and_cgroup_are_read(tmp_path: Path) -> None:
    files = {
        "proc/self/limits": "Limit  Soft  Hard  Units\nMax processes   7   unlimited  processes\n",
        "proc/self/cgroup": "0::/user.slice/session.scope\n",
        "sys/fs/cgroup/cgroup.procs": "",
        "sys/fs/cgroup/user.slice/pids.max": "11\n",
        "sys/fs/cgroup/user.slice/pids.current": "10\n",
        "sys/fs/cgroup/user.slice/session.scope/pids.max": "max\n",
    }
    facts = read(write_tree(tmp_path, files))
    assert facts.limits.processes == 7
    assert (facts.limits.pids, facts.limits.pids_current) == (11, 10)
    assert facts.cgroup.directory == "/sys/fs/cgroup/user.slice/session.scope"


def test_pending_signal_limits_are_read(tmp_path: Path) -> None:
    files = {
        "proc/self/status": f"{STATUS}SigQ:\t5/1000\n",
        "proc/self/limits": "Limit  Soft  Hard  Units\nMax pending signals  7  1000  signals\n",
    }
    limits = read(write_tree(tmp_path, files)).limits
    assert (limits.pending_signals, limits.pending_signals_current) == (7, 5)
    assert limits.hard == {"pending_signals": 1000}
    write_tree(tmp_path, {"proc/self/status": f"{STATUS}SigQ:\t?\n"})
    assert read(tmp_path).limits.pending_signals_current is None


def test_plain_facts_are_json_values(tmp_path: Path) -> None:
    write_tree(tmp_path, {"proc/self/status": STATUS, "proc/self/uid_map": "0 100000 65536\n"})
    values = read(tmp_path).plain()
    assert values["ids"]["uid_map"] == ["0:100000:65536"]
    assert values["privileges"]["effective"] == "00000000000000c0"
    assert values["helpers"]["newuidmap"]["mode"] is None
