"""Tests of the pytest plugin's marks, and of the requirements that tests declare."""

from __future__ import annotations

import os
import re
import sys

import pytest
from conftest import RunTests

# Mark for tests that run as each kind of user, because they depend on ids, subordinate ranges or
# capabilities.
each_user = pytest.mark.each_user


def test_unmet_requirements_skip_with_a_reason(
    session: pytest.Pytester, run_tests: RunTests
) -> None:
    result = run_tests(
        """
        @pytest.mark.userns_requires("kernel>=4.0")
        def test_runs():
            pass

        @pytest.mark.userns_requires("kernel>=99.1")
        def test_new_kernel():
            raise AssertionError

        def test_asks_late(userns_requires):
            userns_requires("kernel>=4.0")
            userns_requires("kernel>=4.0", "kernel>=99.1")
            raise AssertionError
        """
    )
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(
        [f"SKIPPED [[]1] test_*.py:{line}: kernel>=99.1: this kernel is *" for line in (9, 13)]
    )
    must = session.runpytest_subprocess("--userns-must-work=kernel>=99.1")
    # pytest counts a failure during the setup of a test as an error.
    must.assert_outcomes(passed=1, errors=1, failed=1)
    must.stdout.fnmatch_lines(["kernel>=99.1 must work, but this kernel is *"] * 2)


@each_user
def test_capabilities_are_those_outside_the_namespace(run_tests: RunTests) -> None:
    result = run_tests(
        """
        @pytest.mark.userns_requires("cap:SYS_ADMIN", "cap:CAP_SETFCAP")
        @pytest.mark.userns_requires("userns")
        @pytest.mark.userns
        def test_it():
            pass
        """
    )
    if os.geteuid() == 0:
        result.assert_outcomes(passed=1)
    else:
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(["*cap:SYS_ADMIN: this process does not hold CAP_SYS_ADMIN"])


NOWHERE = ["env", "PATH=/usr/bin/nowhere"]
LIMIT = "/proc/sys/user/max_user_namespaces"
# Tuples of a requirement, a command that runs pytest where the requirement is not met, and the
# expected reason for the skip.
UNMET_REQUIREMENTS = [
    pytest.param(
        "userns",
        ["unshare", "-Ur", "sh", "-c", f'echo 0 >{LIMIT}; exec "$@"', "-"],
        "*max-user-namespaces: *sysctl*",
        marks=each_user,
        id="userns",
    ),
    pytest.param(
        "subid",
        ["unshare", "-Ur"],
        "*[[]no-subordinate-range: *usermod*",
        marks=each_user,
        id="subid",
    ),
    pytest.param("runsc", NOWHERE, "*runsc*", id="runsc"),
    pytest.param("docker", NOWHERE, "*docker: No such file or directory*", id="docker"),
]


@pytest.mark.userns_requires("userns")
@pytest.mark.parametrize(("word", "command_prefix", "message"), UNMET_REQUIREMENTS)
@pytest.mark.sampled(4)
def test_unmet_requirement_is_reported_with_its_cause(
    session: pytest.Pytester, word: str, command_prefix: list[str], message: str
) -> None:
    check_skipped(session, word, command_prefix, message)


# Shell script that runs a command with empty /etc/subuid and /etc/subgid. So all ids are free, and
# the remedy can name a range: the remedy is a complete command.
NO_GRANTS = """
touch empty
mount --bind empty /etc/subuid && mount --bind empty /etc/subgid && exec "$@"
"""


@pytest.mark.userns_requires("subid")
@each_user
def test_skip_reason_has_a_remedy_for_the_machine(session: pytest.Pytester) -> None:
    command_prefix = ["unshare", "-Urm", "--map-auto", "sh", "-c", NO_GRANTS, "-"]
    message_pattern = (
        "*[[]no-subordinate-range: *; usermod --add-subuids *-* --add-subgids *-* root * as root[]]"
    )
    check_skipped(session, "subid", command_prefix, message_pattern)


def check_skipped(
    session: pytest.Pytester, word: str, command_prefix: list[str], message_pattern: str
) -> None:
    """Run pytest with `command_prefix`; check that a test that requires `word` is skipped."""
    session.makepyfile(
        f"""
        import pytest

        @pytest.mark.userns_requires("{word}")
        def test_it():
            raise AssertionError
        """
    )
    pytest_of_ours = [sys.executable, "-m", "pytest"]
    result = session.run(*command_prefix, *pytest_of_ours)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED * {word}: {message_pattern}"])
    must = session.run(*command_prefix, *pytest_of_ours, f"--userns-must-work=docker,{word}")
    must.assert_outcomes(errors=1)
    must.stdout.fnmatch_lines([f"{word} must work, but {message_pattern}"])


def test_suites_can_define_requirements(session: pytest.Pytester, run_tests: RunTests) -> None:
    session.makeconftest(
        """
        def pytest_userns_needs():
            return {"coffee": lambda: "the pot is empty", "water": lambda: None}
        """
    )
    result = run_tests(
        """
        @pytest.mark.userns_requires("water")
        def test_runs():
            pass

        @pytest.mark.userns_requires("coffee")
        def test_does_not():
            raise AssertionError
        """
    )
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * coffee: the pot is empty"])
    must = session.runpytest_subprocess("--userns-must-work=coffee")
    must.assert_outcomes(passed=1, errors=1)


MISTAKES = [
    ("userns(map='rot')", "userns: map must be one of 'root', 'current', *'rot'"),
    ("userns(map=7)", "userns: map must be an IdMap, one of 'root', *7"),
    ("userns(map=['0:0'])", 'userns: map: *"0:0" is not an extent*inside:outside:count*'),
    ("userns(map=[(0, 0)])", "userns: map must be an IdMap, *such as '0:1000:1', not [[](0, 0)]"),
    ("userns('auto')", "userns needs keyword arguments, as in *"),
    ("userns(network=True)", "userns has no argument network; it has map, mount, net, *"),
    ("userns(mount='yes')", "userns: mount must be True or False, not 'yes'"),
    ("userns(propagation='public')", "userns: propagation must be one of private, *'public'"),
    ("userns(mount_proc=True)", "userns: mount_proc needs pid and mount"),
    ("userns(init=False)", "userns: init needs pid"),
    ("userns(pid=True, init=1)", "userns: init must be True or False, not 1"),
    (
        "userns_requires('kernell>=5')",
        "'kernell>=5' is not a requirement; use userns, *kernel>=5.12*",
    ),
    ("userns_requires('kernel>=new')", "'kernel>=new' is not a requirement; *"),
    ("userns_requires('cap:SYS_ADMN')", "'cap:SYS_ADMN' is not a requirement; *cap:SYS_ADMIN*"),
    ("userns_requires(7)", "7 is not a requirement; *"),
    ("userns_requires", "userns_requires needs positional arguments, as in *"),
    ("userns_requires(word='subid')", "userns_requires needs positional arguments, as in *"),
]


def test_invalid_marks_are_reported_before_any_test(session: pytest.Pytester) -> None:
    tests = [
        f"@pytest.mark.{mark}\ndef test_{number}():\n    raise AssertionError\n"
        for number, (mark, _) in enumerate(MISTAKES)
    ]
    session.makepyfile(test_it="import pytest\n\n" + "\n".join(tests))
    result = session.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "AssertionError" not in result.stdout.str()
    wanted = [
        f"*test_it.py::test_{number}: {message_pattern}"
        for number, (_, message_pattern) in enumerate(MISTAKES)
    ]
    result.stderr.fnmatch_lines(wanted)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--pdb", "*::test_it: --pdb and --trace need a terminal*-m 'not userns'"),
        ("--trace", "*::test_it: --pdb and --trace need a terminal*-m 'not userns'"),
        ("--userns-must-work=magic", "*'magic' is not a requirement; use userns*"),
    ],
)
def test_unsupported_options_are_refused(run_tests: RunTests, option: str, message: str) -> None:
    result = run_tests(
        """
        @pytest.mark.userns
        def test_it():
            raise AssertionError

        def test_other():
            pass
        """,
        option,
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_deselected_tests_do_not_refuse_options(run_tests: RunTests) -> None:
    result = run_tests(
        """
        @pytest.mark.userns
        def test_it():
            raise AssertionError

        def test_other():
            pass
        """,
        "--pdb",
        "-m",
        "not userns",
    )
    result.assert_outcomes(passed=1, deselected=1)


def test_nearest_mark_wins(run_tests: RunTests) -> None:
    run_tests(
        """
        pytestmark = pytest.mark.userns(map=[(7, os.geteuid(), 1)])

        def test_module():
            assert os.getuid() == 7

        @pytest.mark.userns(map=[(8, os.geteuid(), 1)])
        class TestClass:
            def test_class(self):
                assert os.getuid() == 8

            @pytest.mark.userns
            def test_function(self):
                assert os.getuid() == 0
        """
    ).assert_outcomes(passed=3)


FOREIGN_CONFTEST = """
    import pytest

    def pytest_configure(config):
        config.addinivalue_line("markers", "requires(what): a mark that is not ours")
        config.addinivalue_line("markers", "subids: another one")

    @pytest.fixture
    def requires(request):
        return [mark.args for mark in request.node.iter_markers("requires")]

    @pytest.fixture
    def subids():
        return "whatever"
"""

FOREIGN_TESTS = """
    import sys
    import pytest

    @pytest.mark.requires("openai")
    @pytest.mark.subids
    def test_has_words_of_its_own(requires, subids):
        assert requires == [("openai",)]
        assert subids == "whatever"

    @pytest.mark.requires
    def test_asks_for_nothing(requires):
        assert requires == [()]

    def test_nothing_of_ours_was_imported():
        ours = {name for name in sys.modules if name.partition(".")[0] == "usernsctl"}
        assert ours == {"usernsctl", "usernsctl.pytest_plugin"}
        assert not {"_cffi_backend", "prctl"} & sys.modules.keys()
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["here", "xdist"])
@pytest.mark.sampled(1)
def test_plugin_ignores_marks_and_fixtures_of_other_suites(
    session: pytest.Pytester, options: tuple[str, ...]
) -> None:
    session.makeconftest(FOREIGN_CONFTEST)
    session.makepyfile(FOREIGN_TESTS)
    session.runpytest_subprocess(*options).assert_outcomes(passed=3)


def test_names_of_the_plugin_contain_userns(session: pytest.Pytester) -> None:
    outputs = []
    for option in ("--fixtures", "--markers"):
        result = session.runpytest_subprocess(option, "-v")
        assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        outputs.append(result.stdout.str())
    fixtures = re.findall(r"^(\w+).* -- .*usernsctl/pytest_plugin", outputs[0], re.MULTILINE)
    assert sorted(fixtures) == ["kept_userns", "userns", "userns_requires", "userns_subids"]
    marks = re.findall(r"^@pytest\.mark\.(\w+)", outputs[1], re.MULTILINE)
    assert {"userns", "userns_requires"} <= set(marks)
    without = session.runpytest_subprocess("--markers", "-p", "no:usernsctl").stdout.str()
    others = re.findall(r"^@pytest\.mark\.(\w+)", without, re.MULTILINE)
    assert set(marks) - set(others) == {"userns", "userns_requires"}
