"""Tests of the pytest plugin. Each test runs pytest on generated test files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RunTests

pytestmark = pytest.mark.userns_requires("userns")

NAMESPACES = """
    import os
    import pytest
    import usernsctl as un

    KINDS = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
    OUTSIDE = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}

    def new():
        return {kind for kind in KINDS if os.readlink(f"/proc/self/ns/{kind}") != OUTSIDE[kind]}

    @pytest.mark.userns
    def test_user_alone():
        assert new() == {"user"}

    @pytest.mark.userns(mount=True, net=True, ipc=True, uts=True, cgroup=True)
    def test_others():
        assert new() == {"user", "mnt", "net", "ipc", "uts", "cgroup"}

    @pytest.mark.userns(pid=True)
    def test_pid():
        assert (os.getpid(), os.getppid()) == (2, 1)

    @pytest.mark.userns(pid=True, init=False)
    def test_pid_1():
        assert os.getpid() == 1
        pid = os.fork()
        if pid == 0:
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3

    @pytest.mark.userns(map="current")
    def test_current():
        assert new() == {"user"}
        assert os.getuid() == os.stat(__file__).st_uid

    @pytest.mark.userns(map=un.IdMap.keep_id(allow_single_id=True))
    def test_a_map_of_ones_own():
        assert os.getuid() == os.stat(__file__).st_uid

    @pytest.mark.userns(map=[(0, os.getuid(), 1)] if os.getuid() == os.getgid() else "root")
    def test_extents():
        assert os.getuid() == 0

    def test_fixtures(userns, kept_userns):
        assert new() == set()
        link = ["readlink", "/proc/self/ns/user"]
        assert len({OUTSIDE["user"], userns.check_output(link, text=True).strip(),
                    kept_userns.check_output(link, text=True).strip()}) == 3
"""


def test_mark_selects_the_new_namespaces(session: pytest.Pytester) -> None:
    session.makepyfile(NAMESPACES)
    session.runpytest_subprocess().assert_outcomes(passed=8)


@pytest.mark.userns_requires("subid")
def test_subordinate_range_is_mapped(run_tests: RunTests) -> None:
    run_tests(
        """
        @pytest.mark.userns(map="auto")
        def test_auto(userns_subids):
            with open("/proc/self/uid_map") as file:
                assert sum(int(line.split()[2]) for line in file) == 1 + sum(
                    extent.count for extent in userns_subids.uids)
            os.setresuid(1, 1, 1)
        """
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize("how", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_interrupt_or_exit_in_a_test_ends_the_session(run_tests: RunTests, how: str) -> None:
    result = run_tests(
        f"""
        @pytest.mark.userns
        def test_ends():
            {how}

        def test_never_runs():
            pass
        """
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes()


ONE_OF_EACH = """
    import pytest

    pytestmark = pytest.mark.userns

    def test_pass():
        pass

    def test_fail():
        one, two = [1, 2], [1, 3]
        print("told to stdout")
        assert one == two

    def test_skip():
        pytest.skip("for a reason")

    @pytest.mark.xfail
    def test_xfail():
        assert False
"""


def test_option_x_ends_the_session_at_the_first_failure(session: pytest.Pytester) -> None:
    session.makepyfile(ONE_OF_EACH)
    session.runpytest_subprocess("-x").assert_outcomes(passed=1, failed=1)


def test_xdist_workers_report_outcomes_and_output(session: pytest.Pytester) -> None:
    session.makepyfile(ONE_OF_EACH)
    result = session.runpytest_subprocess("-n", "2", "--durations=9", "-vv")
    result.assert_outcomes(passed=1, failed=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines_random(
        ["E *assert [[]1, 2[]] == [[]1, 3[]]", "told to stdout", "*call *::test_pass"]
    )


MODULE = """
    def inside():
        return 1

    def nowhere():
        return 2
"""

COVERED = """
    import module
    import pytest

    @pytest.mark.userns(pid=True)
    def test_inside():
        assert module.inside() == 1
"""


@pytest.mark.parametrize(
    "command",
    [
        ["pytest", "--cov=module", "--cov-report="],
        ["pytest", "--cov=module", "--cov-report=", "-n", "2"],
        ["coverage", "run", "--parallel-mode", "--include=module.py", "-m", "pytest"],
    ],
    ids=["pytest-cov", "pytest-cov and xdist", "coverage run"],
)
@pytest.mark.sampled(2)
def test_coverage_includes_lines_executed_in_the_child(
    session: pytest.Pytester, command: list[str]
) -> None:
    session.makepyfile(module=MODULE, test_it=COVERED)
    # Ignore the ResourceWarning that Python emits because coverage leaves its database open.
    result = session.run(sys.executable, "-m", *command, "-W", "ignore::ResourceWarning")
    result.assert_outcomes(passed=1)
    coverage = [sys.executable, "-m", "coverage"]
    if command[0] == "coverage":
        subprocess.run([*coverage, "combine", "--quiet"], cwd=session.path, check=True)
    measured = json.loads(subprocess.check_output([*coverage, "json", "-o", "-"], cwd=session.path))
    assert measured["files"]["module.py"]["missing_lines"] == [5]


def test_unsaved_coverage_data_is_a_warning(run_tests: RunTests) -> None:
    result = run_tests(
        """
        @pytest.mark.userns(mount=True)
        def test_elsewhere(tmp_path):
            os.chroot(tmp_path)
            os.chdir("/")
        """,
        "--cov=.",
        "-W",
        "ignore::ResourceWarning",
    )
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*PytestWarning: can't save the coverage data of the test: *"])


def test_late_fixture_setup_inside_fails(run_tests: RunTests) -> None:
    result = run_tests(
        """
        @pytest.fixture
        def late():
            yield

        @pytest.mark.userns
        def test_asks(request):
            request.getfixturevalue("late")

        @pytest.mark.userns
        def test_has_it(request, late):
            request.getfixturevalue("late")
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["the fixture late would never be torn down *make the fixture an argument"]
    )


def test_pyfunc_call_hooks_run_in_the_namespace(
    session: pytest.Pytester, run_tests: RunTests
) -> None:
    session.makeconftest(
        """
        import asyncio
        import pytest

        # Plugins for asynchronous tests implement this hook with tryfirst, too.
        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(pyfuncitem):
            asyncio.run(pyfuncitem.obj())
            return True
        """
    )
    run_tests(
        """
        import asyncio

        OUTSIDE = os.readlink("/proc/self/ns/user")

        @pytest.mark.userns
        async def test_it():
            assert os.readlink("/proc/self/ns/user") != OUTSIDE
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0
        """
    ).assert_outcomes(passed=1)


def test_hypothesis_runs_examples_in_the_namespace(run_tests: RunTests) -> None:
    run_tests(
        """
        from hypothesis import given, strategies as st

        OUTSIDE = os.readlink("/proc/self/ns/user")

        @pytest.mark.userns
        @given(st.integers())
        def test_it(number):
            assert os.readlink("/proc/self/ns/user") != OUTSIDE
        """
    ).assert_outcomes(passed=1)


def test_example_file_runs_as_any_user(session: pytest.Pytester) -> None:
    text = (Path(__file__).parents[3] / "examples" / "test_kernel_rules.py").read_text()
    session.makepyfile(test_kernel_rules=text)
    outcomes = session.runpytest_subprocess().parseoutcomes()
    skipped = outcomes.pop("skipped", 0)
    # Three of the file's ten tests need subordinate ids or privileges, and are skipped without
    # them.
    assert outcomes == {"passed": 10 - skipped}
    assert skipped <= 3
