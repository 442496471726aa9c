"""Tests that the catalogue of causes is complete and consistent."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from message_files import TEXTS
from processes import check_output

from usernsctl import _core
from usernsctl.cli import print_error
from usernsctl.doctor.rules import RULES, only_named
from usernsctl.errors import NamespaceError
from usernsctl.explain.catalogue import catalogue, entries, get

TREE = Path(__file__).parents[3]
ID = re.compile(r"[a-z]+(?:-[a-z]+)+")
C_STRING = re.compile(r'"([a-z]+(?:-[a-z]+)+)"')

# Names of functions and classes that take a cause's id as an argument.
TAKES_ID = re.compile(r".*(?:Error|_error|Finding|MappingFault|Rule)")

# Files in csrc/ whose strings look like causes' ids, but are options, verbs or steps.
WITHOUT_CAUSES = {
    # texts.c is generated from the catalogue and from the messages' patterns, whose words may look
    # like ids.
    "explain/texts.c",
    "launch/files.c",
    "programs/entrypoint/main.c",
    "programs/exec/help.c",
    "programs/exec/options.c",
    "programs/probe/main.c",
    "programs/verify/main.c",
}

# Values of `reason` in a run's result (docs/run.md), which look like ids of causes.
REASONS = {"output-limit", "sandbox-ended", "start-failed"}

# Directories of tests that provoke failures with the causes of the catalogue: on the test host
# (False), and in a virtual machine (True).
REAL = {
    False: ("environments", "kernel", "runsc", "docker", "faults"),
    True: ("vm",),
}

# Ids of causes that must not change, because users may depend on them.
PROMISED_IDS = """
seccomp-denies-userns in-chroot caller-id-unmapped multithreaded clone-flags-conflict
nesting-too-deep max-user-namespaces unprivileged-userns-clone-off no-config-user-ns
apparmor-restricts-userns lsm-denies-userns process-limit already-in-gvisor join-denied
setgroups-denied-on-join unprivileged-map setgroups-order needs-setfcap map-invalid
outside-parent-map not-dumpable proc-read-only landlock target-gone helper-missing
helper-not-setuid no-new-privs helper-on-nosuid bounding-set helper-caps-other-userns
no-passwd-entry gid-differs-from-passwd range-not-granted range-overlap no-subordinate-range
subgid-by-gid subid-file-unreadable nss-subid ranges-shared range-outside-parent
runsc-rootless-create runsc-rootless-netstack runsc-netns-check bundle-no-mappings
nonroot-in-namespace mount-denied ptrace-denied yama-ptrace-scope rootfs-missing rootfs-unreadable
false-max-userns-hint runsc-root-unwritable cgroup-not-delegated kvm-denied tun-missing proc-masked
selinux-nested no-proc mount-without-owned-ns duplicate-id runsc-missing runsc-too-old
wrong-architecture mapped-sandbox-eof-unknown
"""


def python_ids() -> Iterator[tuple[str, str]]:
    """Yield the ids of causes in Python sources, each with its file's path."""
    for file in sorted((TREE / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            for value in cause_arguments(node):
                for found in constants(value):
                    yield found, str(file.relative_to(TREE))


def cause_arguments(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        return [node.value] if "cause" in names else []
    if not isinstance(node, ast.Call):
        return []
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    takes_id = TAKES_ID.fullmatch(name) is not None
    given = [word.value for word in node.keywords if word.arg == "cause" or takes_id]
    return given + node.args if takes_id else given


def constants(value: ast.expr) -> list[str]:
    """Return the ids of causes to which the expression `value` can evaluate."""
    if isinstance(value, ast.IfExp):
        return constants(value.body) + constants(value.orelse)
    if isinstance(value, ast.Constant) and ID.fullmatch(str(value.value)):
        return [str(value.value)]
    return []


def c_ids() -> Iterator[tuple[str, str]]:
    for file in sorted((TREE / "csrc").rglob("*.c")):
        name = str(file.relative_to(TREE / "csrc"))
        if name not in WITHOUT_CAUSES:
            for found in C_STRING.findall(file.read_text()):
                # Omit program names, which look like causes' ids.
                if not found.startswith(("usernsctl-", "in-gvisor")):
                    yield found, name


def test_every_raised_id_is_in_the_catalogue() -> None:
    raised = [*python_ids(), *c_ids()]
    assert len({cause_id for cause_id, _ in raised}) > 60, "the search finds too little"
    known = catalogue().keys() | REASONS
    assert [(cause_id, file) for cause_id, file in raised if cause_id not in known] == []


def test_causes_of_rules_without_facts_are_named_elsewhere() -> None:
    """Check that each cause that no rule proves is named in the sources or by a message."""
    listed = {"doctor/rules.py", "doctor/remedies.py"}
    python = ((TREE / "src/usernsctl").rglob("*.py"), TREE / "src/usernsctl")
    native = ((TREE / "csrc").rglob("*.c"), TREE / "csrc")
    named = {text.causes[0] for text in TEXTS if len(text.causes) == 1}
    for files, top in (python, native):
        for file in files:
            if str(file.relative_to(top)) not in listed | WITHOUT_CAUSES:
                named |= set(re.findall('"([a-z-]+)"', file.read_text()))
    rules = [rule.id for rule in RULES if rule.holds is only_named]
    assert len(rules) > 30
    assert [cause_id for cause_id in rules if cause_id not in named] == []


def test_promised_ids_are_in_the_catalogue() -> None:
    promised = PROMISED_IDS.split()
    assert len(set(promised)) == 64
    assert [cause_id for cause_id in promised if cause_id not in catalogue()] == []


def test_core_has_each_cause_with_the_same_text() -> None:
    for _, entry in entries():
        known = _core.cause(entry.id)
        assert known is not None, entry.id
        assert (known.why, known.remedy) == (entry.why, entry.remedies["host"].strip())
    assert _core.cause("no-such-cause") is None


def test_ids_of_causes_are_unique() -> None:
    ids = [entry.id for _, entry in entries()]
    assert len(ids) == len(set(ids)) == len(catalogue())


@pytest.mark.parametrize("cause_id", list(catalogue()))
def test_catalogue_entry_is_complete(cause_id: str) -> None:
    cause = get(cause_id)
    assert cause.id == cause_id
    assert re.fullmatch("[a-z]+(-[a-z]+)*", cause_id)
    assert cause.title[-1] != "."
    assert len(cause.title) <= 60
    for sentence in (cause.why, cause.told_by):
        assert sentence.endswith((".", "(EOF).")), sentence
    assert cause.reference
    for place, remedy in cause.remedies.items():
        assert remedy == remedy.strip() != "", place
    assert "host" in cause.remedies


@pytest.mark.parametrize("cause_id", list(catalogue()))
def test_reasons_fit_into_100_columns(cause_id: str) -> None:
    assert len(f"  why: {get(cause_id).why} [{cause_id}]") <= 100


@pytest.mark.parametrize("in_vm", list(REAL))
def test_causes_are_reproduced_by_a_test_or_say_why_not(in_vm: bool) -> None:
    files = [file for place in REAL[in_vm] for file in (TREE / "tests" / place).rglob("*.py")]
    text = "".join(file.read_text() for file in files)
    quoted = set(re.findall(r'(?<=")[a-z-]+(?=")|(?<=\[)[a-z-]+(?=\])', text))
    said = [each.id for _, each in entries() if each.in_vm == in_vm and each.given is None]
    assert said
    assert [cause_id for cause_id in said if cause_id not in quoted] == []


def test_reasons_for_not_reproducing_a_cause_are_sentences() -> None:
    reasons = [entry.given for _, entry in entries() if entry.given is not None]
    assert [reason for reason in reasons if not re.fullmatch("[A-Za-z].*[.]", reason)] == []
    assert not [entry.id for _, entry in entries() if entry.in_vm and entry.given is not None]


@pytest.mark.parametrize("cause_id", list(catalogue()))
def test_remedies_fit_into_100_columns(cause_id: str) -> None:
    """Check that no line exceeds 96 columns: messages indent remedies by four columns."""
    for text in catalogue()[cause_id].remedies.values():
        assert all(len(line) <= 96 for line in text.split("\n"))


# Commands that only root can run, outside of comments.
OF_ROOT = re.compile(
    r"^(?:[^#\n]*; )?(?:apt-get |chmod \S+ [/$]|mkdir /mnt|mknod |modprobe |mount -t |"
    r"mount -o remount,(?!bind)|setcap |sysctl |umount |useradd |usermod )",
    re.MULTILINE,
)


@pytest.mark.parametrize("cause_id", list(catalogue()))
def test_remedies_say_which_commands_only_root_can_run(cause_id: str) -> None:
    for text in catalogue()[cause_id].remedies.values():
        if OF_ROOT.search(text):
            assert re.search("as root|sudo ", text)


@pytest.mark.parametrize("cause_id", list(catalogue()))
def test_remedies_by_ulimit_have_counterparts_for_containers(cause_id: str) -> None:
    """Check that a cause with a remedy by ulimit in a shell has one for each kind of container."""
    remedies = catalogue()[cause_id].remedies
    if "ulimit" in remedies["host"]:
        assert remedies.keys() >= {"docker", "podman", "kubernetes"}


def test_remedies_never_disable_seccomp() -> None:
    for cause in catalogue().values():
        for remedy in cause.remedies.values():
            assert "seccomp=unconfined" not in remedy
            assert "--privileged" not in remedy


@pytest.mark.parametrize("cause_id", ["helper-not-executable", "runsc-not-executable"])
def test_remedies_for_unexecutable_files_do_not_use_command_v(cause_id: str) -> None:
    # These remedies are for files that are not executable. In dash(1), `command -v` finds only
    # executable files.
    assert "command -v" not in catalogue()[cause_id].remedies["host"]


def test_commands_of_own_remedies_can_be_typed() -> None:
    """Check that remedies in Python sources contain no prose alternatives ("rm FILE, or ...")."""
    prose = re.compile(r'f?"(?:(?:usernsctl|chmod|mv|rm) |\{error\.remedy\})[^#"]*, or ')
    files = sorted((TREE / "src").rglob("*.py"))
    assert [(file.name, found) for file in files for found in prose.findall(file.read_text())] == []


def test_unknown_id_raises_keyerror() -> None:
    with pytest.raises(KeyError, match="no-such-cause"):
        get("no-such-cause")


def test_documentation_of_causes_is_up_to_date() -> None:
    check_output([sys.executable, TREE / "tools" / "cause_docs.py", "--check"])


def printed_lines(
    capsys: pytest.CaptureFixture[str], cause: str | None, remedy: str | None
) -> list[str]:
    print_error(NamespaceError("it failed", step="unshare", cause=cause, remedy=remedy))
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()


def test_error_of_the_core_is_printed_with_cause_and_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = _core.cause("no-proc")
    assert printed_lines(capsys, "no-proc", None) == [
        "usernsctl: unshare: it failed",
        f"  why: {known.why} [no-proc]",
        f"  remedy: {known.remedy}",
    ]


def test_own_remedy_of_an_error_takes_precedence(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed_lines(capsys, "name-taken", "do this")[2:] == ["  remedy: do this"]


def test_errors_without_a_known_cause_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed_lines(capsys, None, None) == ["usernsctl: unshare: it failed"]
    assert printed_lines(capsys, "no-such-cause", None)[1:] == ["  cause: no-such-cause"]
