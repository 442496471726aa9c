"""Tests of `usernsctl explain`: the causes that it finds for texts, and arbitrary input."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_files import HINTS, TEXTS, Text

from usernsctl.cli import main, print_error
from usernsctl.errors import PlanError
from usernsctl.explain.catalogue import catalogue, get
from usernsctl.explain.explanation import confirm, explain
from usernsctl.explain.logs import SHOWN_MAX
from usernsctl.explain.model import Finding, Report
from usernsctl.gvisor.runsc.releases import Release

EOF = (
    "running container: creating container: cannot create sandbox: cannot read client sync file: "
    "waiting for sandbox to start: EOF"
)
HINT = (
    "gofer: fork/exec /proc/self/exe: operation not permitted: check whether "
    "/proc/sys/user/max_user_namespaces is set too low (gvisor.dev/issue/5964)"
)
MKDIR = "mkdir /var/run/runsc: permission denied"

# Messages, and the id of the cause that explain must name first for each.
FIRST = [
    ("unable to run a rootless container without userns", "bundle-no-mappings"),
    ("cannot create gofer process: newuidmap failed: exit status 1", "bundle-no-mappings"),
    (HINT, "false-max-userns-hint"),
    (
        "Error executing inside namespace: re-executing self: fork/exec /proc/self/exe: "
        "operation not permitted",
        "seccomp-denies-userns",
    ),
    (f'creating container root directory "/var/run/runsc": {MKDIR}', "runsc-root-unwritable"),
    ("cannot run with network enabled in root network namespace", "runsc-netns-check"),
    (
        "cannot set up cgroup for root: configuring cgroup: mkdir /sys/fs/cgroup/x: permission "
        "denied",
        "cgroup-not-delegated",
    ),
    ("creating container: cannot lock metadata: container already exists", "duplicate-id"),
    ('Rootless mode not supported with "create"', "runsc-rootless-create"),
    (
        "*** Warning: sandbox network isn't supported with --rootless, switching to host ***",
        "runsc-rootless-netstack",
    ),
    ("creating root file system: input/output error", "rootfs-unreadable"),
    (
        "cannot create sandbox: cannot create sandbox process: open /proc/11/oom_score_adj: no "
        "such file or directory",
        "runsc-exec-race",
    ),
    (
        "unshare: write failed /proc/self/uid_map: Operation not permitted",
        "apparmor-restricts-userns",
    ),
    ("unshare: unshare failed: No space left on device", "max-user-namespaces"),
    ("bwrap: setting up uid map: Permission denied", "apparmor-restricts-userns"),
    ("nsenter: setgroups failed: Operation not permitted", "setgroups-denied-on-join"),
    ("nsenter: reassociate to namespaces failed: Operation not permitted", "join-denied"),
    ("unshare: cannot open /proc/self/uid_map: Read-only file system", "proc-read-only"),
    ("newuidmap: Could not set caps", "helper-not-setuid"),
    ("newuidmap: open of uid_map failed: Permission denied", "bounding-set"),
    ("newuidmap: open of uid_map failed: Operation not permitted", "seccomp-denies-helper"),
    ("newuidmap: Cannot determine your user name.", "no-passwd-entry"),
    ("newgidmap: Target process is owned by a different user: uid:1", "gid-differs-from-passwd"),
    ("newuidmap: uid range [0-65537) -> [100000-165537) not allowed", "range-not-granted"),
    ("newuidmap: write to uid_map failed: Invalid argument", "range-overlap"),
    ("newuidmap: subuid overflow detected.", "range-overlap"),
    ('unshare: no line matching user "nobody" in /etc/subuid', "no-subordinate-range"),
    ("No subuid ranges found for user 1000", "no-subordinate-range"),
    ("error opening KVM device file (/dev/kvm): permission denied", "kvm-denied"),
    ("Failed to open() /dev/net/tun", "tun-missing"),
    ("unshare: mount /proc failed: Operation not permitted", "proc-masked"),
    ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "proc-masked"),
    ("error remounting chroot in read-only: permission denied", "selinux-nested"),
    ("panic: couldn't open /proc/sys/vm/mmap_min_addr: open", "no-proc"),
    ("mount: /proc: permission denied.", "proc-masked"),
    ("sh: 1: newuidmap: not found", "helper-missing"),
    ("flag provided but not defined: -overlay2", "runsc-too-old"),
    ("flag provided but not defined: -host-uds", "runsc-too-old"),
    (
        'Error setting up root FS: remounting root as read-only with source: "/proc/root", target: '
        '"/proc/root", flags: 0x5021, err: operation not permitted',
        "runsc-too-old",
    ),
    ("flag provided but not defined: -foo", "runsc-flag-unknown"),
    ("flag provided but not defined: -overlay2x", "runsc-flag-unknown"),
]
AMONG = [
    ("unshare: unshare failed: Operation not permitted", "in-chroot"),
    ("unshare: unshare failed: Operation not permitted", "caller-id-unmapped"),
    ("unshare: unshare failed: Operation not permitted", "unprivileged-userns-clone-off"),
    ("unshare: unshare failed: Operation not permitted", "seccomp-denies-userns"),
    ("unshare: unshare failed: No space left on device", "nesting-too-deep"),
    ("unshare: unshare failed: Invalid argument", "multithreaded"),
    ("unshare: unshare failed: Invalid argument", "no-config-user-ns"),
    ("unshare: unshare failed: Invalid argument", "clone-flags-conflict"),
    ("unshare: unshare failed: Permission denied", "lsm-denies-userns"),
    ("unshare: fork failed: Resource temporarily unavailable", "process-limit"),
    ("nsenter: reassociate to namespaces failed: Invalid argument", "join-denied"),
    ("unshare: write failed /proc/self/uid_map: Operation not permitted", "unprivileged-map"),
    ("unshare: write failed /proc/self/uid_map: Operation not permitted", "needs-setfcap"),
    ("unshare: write failed /proc/self/uid_map: Operation not permitted", "outside-parent-map"),
    ("unshare: write failed /proc/self/gid_map: Operation not permitted", "setgroups-order"),
    ("unshare: write failed /proc/self/uid_map: Invalid argument", "map-invalid"),
    ("unshare: cannot open /proc/self/uid_map: Permission denied", "not-dumpable"),
    ("unshare: cannot open /proc/self/uid_map: Permission denied", "landlock"),
    ("unshare: cannot open /proc/4711/uid_map: No such file or directory", "target-gone"),
    ("newuidmap: write to uid_map failed: Operation not permitted", "helper-not-setuid"),
    ("newuidmap: write to uid_map failed: Operation not permitted", "no-new-privs"),
    ("newuidmap: write to uid_map failed: Operation not permitted", "helper-on-nosuid"),
    ("newuidmap: write to uid_map failed: Operation not permitted", "bounding-set"),
    ("newuidmap: write to uid_map failed: Operation not permitted", "range-outside-parent"),
    ("newuidmap failed: exit status 1", "range-not-granted"),
    (EOF, "nonroot-in-namespace"),
    (EOF, "bundle-no-mappings"),
    (EOF, "mount-denied"),
    (EOF, "ptrace-denied"),
    (EOF, "yama-ptrace-scope"),
    (EOF, "rootfs-missing"),
    (EOF, "mapped-sandbox-eof-unknown"),
    ("unable to attach: operation not permitted", "yama-ptrace-scope"),
    (HINT, "outside-parent-map"),
    (HINT, "seccomp-denies-userns"),
    ("/etc/subgid: Permission denied", "subid-file-unreadable"),
    ("newgidmap: gid range [1-2) -> [100000-100001) not allowed", "subgid-by-gid"),
    ("newgidmap: gid range [1-2) -> [100000-100001) not allowed", "nss-subid"),
]

NOVEL = """\
Call me Ishmael. Some years ago - never mind how long precisely - having little or no money in my
purse, and nothing particular to interest me on shore, I thought I would sail about a little and
see the watery part of the world. It is a way I have of driving off the spleen.
"""


def ids(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [candidate.cause.id for candidate in explain(io.BytesIO(data)).candidates]


@pytest.mark.parametrize(("text", "cause"), FIRST)
def test_likeliest_cause_comes_first(text: str, cause: str) -> None:
    assert ids(text)[0] == cause


@pytest.mark.parametrize(("text", "cause"), AMONG)
def test_causes_with_the_same_text_are_all_named(text: str, cause: str) -> None:
    assert cause in ids(text)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.says)
def test_every_message_is_recognised_by_its_own_pattern(text: Text) -> None:
    assert re.search(text.pattern, text.says, re.ASCII)
    assert len(text.causes) == len(set(text.causes)) > 0
    for says in (text.says, f"x: {text.says}", f"{text.says}\nmore", "a b " * 3000 + text.says):
        assert set(text.causes) <= set(ids(says)) <= catalogue().keys()


@pytest.mark.parametrize("hint", HINTS, ids=lambda hint: hint.says)
def test_every_hint_is_recognised_by_its_own_pattern(hint: Text) -> None:
    (cause,) = hint.causes
    others = next(text for text in TEXTS if cause in text.causes[1:])
    assert ids(others.says)[0] != cause
    assert ids(f"{others.says}\n{hint.says}")[0] == cause


@pytest.mark.parametrize("text", [*TEXTS, *HINTS], ids=lambda text: text.says)
def test_patterns_have_no_unlimited_repetitions(text: Text) -> None:
    """Check that no pattern takes time quadratic in the length of a line.

    At each position, the regular expression engine may try all combinations of the counts of
    consecutive repetitions (backtracking), so the product of their limits must be small.
    """
    assert not re.search(r"(?<!\\d)(?<!\\)[*+]", text.pattern)
    limits = re.findall(r"(?<!\\d)\{\d+,(\d+)\}", text.pattern)
    assert math.prod(map(int, limits)) <= 100_000


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5))
def test_several_messages_have_the_causes_of_all(several: list[Text]) -> None:
    found = ids("\n".join(text.says for text in several))
    assert len(found) == len(set(found))
    assert set(found) == {cause for text in several for cause in ids(text.says)}


TWO_CAUSES = "pivot_root failed, make sure that the root mount has a parent"
MANY_CAUSES = "newuidmap failed: exit status 1"
SEVERAL = [
    # Tuples of a text and the ids of the causes that explain finds for the text, in order. The
    # causes of the message with the fewest possible causes come first.
    (f"{TWO_CAUSES}\ncontainer already exists", ["duplicate-id", "mount-denied", "in-chroot"]),
    # Messages with the same number of causes are sorted in the order of the catalogue.
    (
        "flag override disabled\ncontainer already exists",
        ["duplicate-id", "bundle-annotation-refused"],
    ),
    # A cause of several messages has the best of its ranks. The other causes keep their order.
    (
        f"{MANY_CAUSES}\nnewuidmap: Cannot determine your user name.",
        [
            *("no-passwd-entry", "bundle-no-mappings", "range-not-granted", "no-subordinate-range"),
            *("helper-not-setuid", "no-new-privs", "helper-on-nosuid", "bounding-set"),
            *("range-outside-parent", "gid-differs-from-passwd", "nonroot-in-namespace"),
        ],
    ),
    # Causes whose ids occur in the text come first, in the text's order.
    (
        "container already exists [map-invalid] [in-chroot]",
        ["map-invalid", "in-chroot", "duplicate-id"],
    ),
]


@pytest.mark.parametrize(("text", "causes"), SEVERAL)
def test_causes_of_several_messages_are_ordered(text: str, causes: list[str]) -> None:
    assert ids(text) == causes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[in-chroot]", True),
        ("x[in-chroot", True),
        ("[in-chroot-Foo]", True),
        ("cause: in-chroot", True),
        ('"cause": "in-chroot"', True),
        ("in-chroot", False),
        ("because: in-chroot", False),
        ("[in-chroot2]", False),
        ("[in-chroo", False),
        ("[in-chroot-x]", False),
        ("[-in-chroot]", False),
        ("[cause: in-chroot]", False),
    ],
)
def test_ids_in_text_count_only_in_brackets_or_after_cause(text: str, found: bool) -> None:
    assert ids(text) == (["in-chroot"] if found else [])


def test_more_specific_message_comes_first() -> None:
    both = ids(f"{EOF}\nunable to attach: operation not permitted\n")
    assert both[:2] == ["yama-ptrace-scope", "ptrace-denied"]
    assert "nonroot-in-namespace" in both[2:]


@pytest.mark.parametrize("cause", list(catalogue()))
def test_cause_id_in_own_errors_comes_first(cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_error(PlanError("it failed", step="plan", cause=cause))
    assert ids(capsys.readouterr().err)[0] == cause
    assert ids(json.dumps({"cause": cause}))[0] == cause


UBUNTU = [
    "Ubuntu 24.04.3 LTS",
    "#9~24.04.1-Ubuntu SMP",
    'VERSION_ID="24.04"',
    "ubuntu-24.04 runner",
]


@pytest.mark.parametrize("ubuntu", UBUNTU)
@pytest.mark.parametrize("after", [False, True])
def test_apparmor_comes_first_on_ubuntu_24(ubuntu: str, after: bool) -> None:
    text = "unshare: unshare failed: Operation not permitted"
    both = f"{text}\n{ubuntu}" if after else f"{ubuntu}\n{text}"
    assert ids(text)[0] == "seccomp-denies-userns"
    assert ids(both)[0] == "apparmor-restricts-userns"
    assert sorted(ids(both)) == sorted(ids(text))


@pytest.mark.parametrize("ubuntu", UBUNTU)
def test_hint_without_a_message_has_no_cause(ubuntu: str) -> None:
    assert ids(ubuntu) == []
    assert "apparmor-restricts-userns" not in ids(f"{ubuntu}\nnewuidmap: Could not set caps")


@pytest.mark.parametrize(
    "before",
    ["Ubuntu 22.04.1 LTS", 'VERSION_ID="12"', "#1~22.04.1-Ubuntu SMP", "ubuntu-latest"],
)
def test_other_systems_do_not_rank_apparmor_first(before: str) -> None:
    assert ids(f"{before}\nunshare: unshare failed: Operation not permitted")[0] != (
        "apparmor-restricts-userns"
    )


@pytest.mark.parametrize(
    "text",
    ["mount: /mnt: permission denied.", "mount: /media/cdrom: permission denied (are you root?)"],
)
def test_mounts_outside_namespaces_have_no_cause(text: str) -> None:
    assert ids(text) == []


@pytest.mark.parametrize("text", ["", NOVEL, "[no-such-cause]", "[error]", "\0" * 99, "\n" * 99])
def test_unrelated_text_has_no_cause(text: str) -> None:
    assert ids(text) == []


def test_messages_in_json_logs_are_recognised() -> None:
    """Check that explain finds messages in JSON logs, which runsc writes without newlines."""
    first = {"msg": 'say "hello"\n', "level": "error"}
    second = {"msg": f"FATAL ERROR: {EOF}\n", "level": "warning"}
    log = (json.dumps(first) + json.dumps(second)).encode()
    candidate = explain(io.BytesIO(log)).candidates[0]
    assert candidate.seen == (f"FATAL ERROR: {EOF}",)
    docker = json.dumps({"log": "newuidmap: Could not set caps\n", "stream": "stderr"})
    assert explain(io.BytesIO(docker.encode())).candidates[0].seen == (
        "newuidmap: Could not set caps",
    )


def test_seen_line_is_short_and_printable() -> None:
    text = f"\x1b[31m{'x' * 9999} newuidmap: Could not set caps \x1b[0m\x07{'y' * 9999}"
    (line,) = explain(io.BytesIO(text.encode())).candidates[0].seen
    assert "Could not set caps" in line
    assert line.isprintable()
    assert len(line) <= SHOWN_MAX


@pytest.mark.parametrize("before", [(1 << 20) - 9, (1 << 20) - 3, 3 << 20])
@pytest.mark.parametrize("filler", ["x", "\n", "\N{SNOWMAN}"])
@pytest.mark.sampled
def test_message_in_megabytes_of_text_is_found(before: int, filler: str) -> None:
    much = filler * (before // len(filler.encode()))
    assert ids(f"{much}newuidmap: Could not set caps{much}")[0] == "helper-not-setuid"


class Endless(io.RawIOBase):
    """Input stream of `length` bytes that are generated when they are read."""

    def __init__(self, length: int) -> None:
        self.left = length
        self.largest = 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "all of it would be read at once"
        self.largest = max(self.largest, size)
        size = min(size, self.left)
        self.left -= size
        return b"x" * size


def test_large_input_is_read_in_pieces() -> None:
    stream = Endless(10_000_000)
    assert not explain(stream).recognised  # type: ignore[arg-type] # only read() is implemented
    assert stream.left == 0
    assert stream.largest <= 1 << 20


@given(st.binary(max_size=2000))
def test_any_bytes_are_accepted(data: bytes) -> None:
    explanation = explain(io.BytesIO(data))
    assert explanation.empty == (data == b"")
    assert all(line.isprintable() for each in explanation.candidates for line in each.seen)


@given(st.sampled_from(TEXTS), st.binary(max_size=99), st.binary(max_size=99))
def test_message_between_any_bytes_is_found(text: Text, before: bytes, after: bytes) -> None:
    data = before + b"\n" + text.says.encode() + b"\n" + after
    assert set(text.causes) <= set(ids(data))


def finding(cause: str, blocks: bool = True) -> Finding:
    return Finding(cause=catalogue()[cause], evidence=(f"evidence of {cause}",), blocks=blocks)


def test_causes_found_by_probes_come_first() -> None:
    text = "newuidmap: write to uid_map failed: Operation not permitted"
    report = Report(
        purpose="run",
        findings=(finding("no-new-privs"), finding("in-chroot"), finding("bounding-set")),
    )
    explanation = confirm(explain(io.BytesIO(text.encode())), report)
    named = [(each.cause.id, each.finding is not None) for each in explanation.candidates]
    assert named[:3] == [
        ("no-new-privs", True),
        ("bounding-set", True),
        ("helper-not-setuid", False),
    ]
    assert [each.id for each in explanation.others] == ["in-chroot"]
    assert explanation.probed


@pytest.mark.parametrize(("value", "first"), [(1, True), (0, False), (None, False)])
def test_apparmor_sysctl_raises_the_rank_of_its_cause(value: int | None, first: bool) -> None:
    """Check that a sysctl of 1 ranks apparmor-restricts-userns right after the findings of probes.

    The sysctl is kernel.apparmor_restrict_unprivileged_userns. Probes don't find this cause if
    usernsctl has an AppArmor profile that the failed program lacks.
    """
    text = "unshare: unshare failed: Operation not permitted"
    report = Report(
        purpose="run",
        findings=(finding("in-chroot"),),
        facts={"sysctls": {"kernel/apparmor_restrict_unprivileged_userns": value}},
    )
    named = [
        each.cause.id for each in confirm(explain(io.BytesIO(text.encode())), report).candidates
    ]
    assert named[0] == "in-chroot"
    assert (named[1] == "apparmor-restricts-userns") is first


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Replace doctor.diagnose() with a fake; return the list of findings that the fake reports."""
    found: list[Finding] = []

    def diagnose(purpose: Any) -> Report:
        facts = {"subordinate": {"user": "it", "free": 300000, "free_count": 65536}}
        return Report(purpose=purpose, findings=tuple(found), facts=facts)

    monkeypatch.setattr("usernsctl.doctor.diagnose", diagnose)
    return found


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["explain", *arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_explain_command_marks_confirmed_causes(
    tmp_path: Path, probes: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    probes += [finding("no-new-privs"), finding("in-chroot")]
    file = tmp_path / "text"
    file.write_text("newuidmap: write to uid_map failed: Operation not permitted\n")
    status, out, err = run(capsys, str(file))
    assert (status, err) == (0, "")
    title = "no_new_privs denies newuidmap its privileges"
    verdict, cause = out.split("\n\n")[:2]
    assert verdict == "Found on this machine: no-new-privs."
    assert cause.startswith(f"no-new-privs: {title} (confirmed here)\n")
    assert "found here: evidence of no-new-privs" in out
    assert "in-chroot: started in a chroot; evidence of in-chroot" in out
    remedy = catalogue()["no-new-privs"].remedies["host"].replace("\n", "\n    ")
    assert f"  remedy:\n    {remedy}\n" in out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_remedy_of_a_confirmed_cause_has_values_of_the_machine(
    options: list[str],
    tmp_path: Path,
    probes: list[Finding],
    capsys: pytest.CaptureFixture[str],
) -> None:
    probes.append(finding("no-subordinate-range"))
    file = tmp_path / "text"
    file.write_text("newuidmap failed: exit status 1\n")
    command = "usermod --add-subuids 300000-365535 --add-subgids 300000-365535 it"
    assert command in run(capsys, str(file), *options)[1]
    assert command not in run(capsys, str(file), "--no-probe", *options)[1]


def test_explain_command_says_that_probes_found_nothing(
    tmp_path: Path, probes: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "text"
    file.write_text(EOF)
    out = run(capsys, str(file))[1]
    assert out.startswith("No problem was found on this machine now. When the text was printed, ")
    assert "usernsctl explain --debug-log DIR" in out
    assert run(capsys, str(file), "--no-probe")[1].startswith("Not checked on this machine: ")
    probes.append(finding("in-chroot"))
    assert run(capsys, str(file))[1].startswith("This machine has other problems (see the end).")


def test_explain_command_prints_json(
    tmp_path: Path, probes: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    probes.append(finding("ptrace-denied"))
    file = tmp_path / "text"
    file.write_text(EOF)
    output_json = json.loads(run(capsys, str(file), "--json")[1])
    assert (output_json["recognised"], output_json["probed"]) == (True, True)
    assert (output_json["causes"][0]["id"], output_json["causes"][0]["confirmed"]) == (
        "ptrace-denied",
        True,
    )
    assert output_json["causes"][1]["confirmed"] is False
    output_json = json.loads(run(capsys, str(file), "--json", "--no-probe")[1])
    assert {cause["confirmed"] for cause in output_json["causes"]} == {None}


@pytest.mark.parametrize("source", [[], ["-"]])
def test_explain_command_reads_standard_input(
    source: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"newuidmap: Could not set caps\xff"))
    monkeypatch.setattr(sys, "stdin", stdin)
    status, out, _ = run(capsys, *source, "--no-probe")
    assert status == 0
    assert out.split("\n\n")[1].startswith("helper-not-setuid: ")


@pytest.mark.parametrize("cause", sorted(catalogue()))
def test_explanation_fits_into_80_columns(cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that only quoted lines and commands to copy exceed 80 columns."""
    status, out, _ = run(capsys, "--no-probe", cause)
    assert status == 0
    known = catalogue()[cause]
    assert f"why: {known.why} recognised by: {known.told_by}" in re.sub(r"\s+", " ", out)
    remedies = {line.strip() for one in known.remedies.values() for line in one.split("\n")}
    for line in out.splitlines():
        copied = line.strip() in remedies or re.match(r"  (seen|remedy|in \w+): ", line)
        assert copied or len(line) <= 80


def test_explain_command_accepts_the_id_of_a_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "--no-probe", "range-not-granted"]) == 0
    assert get("range-not-granted").why in re.sub(r"\s+", " ", capsys.readouterr().out)
    # Check that a file takes precedence if its name is the id of a cause.
    (tmp_path / "range-not-granted").write_text("nothing\n")
    assert main(["explain", "--no-probe", "range-not-granted"]) == 1
    assert "no known error message" in capsys.readouterr().out


def test_explain_command_without_a_known_message_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "text"
    file.write_text(NOVEL)
    status, out, err = run(capsys, str(file))
    assert (status, err) == (1, "")
    assert out.startswith("The text has no known error message.")
    file.write_text("")
    assert run(capsys, str(file))[:2] == (
        1,
        "Nothing to explain: the text is empty, or the logs have no failure.\n",
    )


def test_endless_text_is_read_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("usernsctl.explain.explanation.INPUT_MAX", 3 << 20)
    status, out, err = run(capsys, "/dev/random")
    assert (status, err) == (1, "")
    assert out.startswith("Only the first 3 MiB of the text were read.\n")


def cost(stream: BinaryIO) -> float:
    before = time.process_time()
    assert not explain(stream).recognised
    return time.process_time() - before


def test_endless_device_takes_less_time_than_a_short_log() -> None:
    cost_of_log = cost(io.BytesIO(b"an error of the container failed\n" * (1 << 17)))
    for path in ("/dev/zero", "/dev/urandom"):
        with open(path, "rb") as device:
            assert cost(device) < cost_of_log


def test_message_among_binary_data_or_in_utf_16_is_found() -> None:
    message = "\nnewuidmap: Could not set caps\n"
    assert ids(bytes(5 << 20) + message.encode() + bytes(5 << 20))[0] == "helper-not-setuid"
    assert ids(message.encode("utf-16-le"))[0] == "helper-not-setuid"


def test_wrong_arguments_of_explain_exit_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = str(tmp_path / "absent")
    for arguments, expected in (
        ([absent], f"{absent}: No such file or directory"),
        ([str(tmp_path)], f"{tmp_path}: Is a directory"),
        (["--debug-log", absent], f"{absent}: No such file or directory"),
        (["--debug-log", str(tmp_path), absent], "exclude each other"),
        (["--no-such-option"], "there is no option '--no-such-option'"),
        ([absent, absent], "unexpected extra argument"),
    ):
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (2, "")
        assert expected in err


def test_release_spans_of_messages_are_valid() -> None:
    spans = [(text.since, text.until) for text in TEXTS if text.since or text.until]
    assert len(spans) > 8
    for since, until in spans:
        for day in filter(None, (since, until)):
            assert Release.parse(f"release-{day}.0").day is not None
        assert since is None or until is None or since < until
