"""The pytest plugin, by sessions of pytest of their own: what they report, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import need

import usernsctl as un

pytest_plugins = ["pytester"]

INI = """
[pytest]
addopts = -p no:cacheprovider -p no:hypothesispytest --strict-markers -ra
filterwarnings = error
"""


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for a session of pytest; skips the test where there are no user namespaces."""
    need("userns")
    monkeypatch.delenv("USERNSCTL_MUST_WORK", raising=False)
    pytester.makeini(INI)
    return pytester


OUTCOMES = """
    import logging, os, sys
    import pytest

    @pytest.fixture
    def link():
        before = os.readlink("/proc/self/ns/user")
        yield before
        assert os.readlink("/proc/self/ns/user") == before

    @pytest.mark.userns
    def test_pass(link, tmp_path):
        assert os.getuid() == 0
        assert os.readlink("/proc/self/ns/user") != link
        (tmp_path / "file").write_text("")

    @pytest.mark.userns
    def test_fail():
        print("told to stdout")
        print("told to stderr", file=sys.stderr)
        logging.getLogger().warning("told to the log")
        one, two = [1, 2], [1, 3]
        assert one == two

    @pytest.mark.userns
    def test_skip():
        pytest.skip("for a reason")

    @pytest.mark.xfail(raises=ValueError)
    @pytest.mark.userns
    def test_xfail():
        raise ValueError

    @pytest.mark.xfail(raises=ValueError)
    @pytest.mark.userns
    def test_other():
        raise KeyError

    @pytest.mark.xfail(strict=True)
    @pytest.mark.userns
    def test_xpass():
        pass

    @pytest.mark.userns
    @pytest.mark.parametrize("number", [1, 2])
    class TestMethods:
        def test_method(self, number, record_property):
            record_property("seen", number)
            assert number != 2
"""


@pytest.mark.parametrize("options", [["--capture=fd"], ["--capture=sys"], ["-n", "2"]], ids=str)
def test_a_test_is_reported_as_if_it_ran_here(session: pytest.Pytester, options: list[str]) -> None:
    session.makepyfile(OUTCOMES)
    result = session.runpytest_subprocess(*options)
    result.assert_outcomes(passed=2, failed=4, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines_random(
        [
            "E *assert [[]1, 2[]] == [[]1, 3[]]",
            "told to stdout",
            "told to stderr",
            "WARNING * told to the log",
            "SKIPPED * for a reason",
            "XFAIL *test_xfail*",
            "FAILED *test_other - KeyError",
            "FAILED *test_xpass - *",
            "FAILED *test_method[[]2[]]*",
        ]
    )


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


def test_the_mark_says_which_namespaces_are_new(session: pytest.Pytester) -> None:
    session.makepyfile(NAMESPACES)
    session.runpytest_subprocess().assert_outcomes(passed=7)


def test_a_range_is_mapped(session: pytest.Pytester) -> None:
    try:
        un.plan(un.IdMap.auto())
    except un.PlanError as error:
        need("subid")
        pytest.skip(str(error))
    session.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.userns(map="auto")
        def test_auto(subids):
            assert sum(int(line.split()[2]) for line in open("/proc/self/uid_map")) == 1 + sum(
                extent.count for extent in subids.uids)
            os.setresuid(1, 1, 1)
        """
    )
    session.runpytest_subprocess("-W", "ignore::ResourceWarning").assert_outcomes(passed=1)


def process_names() -> str:
    return subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True).stdout


@pytest.mark.parametrize("pid", [False, True])
def test_a_timeout_ends_all_that_the_test_started(session: pytest.Pytester, pid: bool) -> None:
    seconds = f"86400.{os.getpid()}{int(pid)}"
    session.makepyfile(
        f"""
        import subprocess
        import pytest

        @pytest.mark.timeout(1)
        @pytest.mark.userns(pid={pid})
        def test_hang():
            subprocess.Popen(["setsid", "-f", "sleep", "{seconds}"])
            subprocess.run(["unshare", "-Ur", "sleep", "{seconds}"])
        """
    )
    result = session.runpytest_subprocess("-p", "no:unraisableexception")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Timeout*"])
    assert seconds not in process_names()


def test_a_passed_test_leaves_no_process_either(session: pytest.Pytester) -> None:
    seconds = f"86401.{os.getpid()}"
    session.makepyfile(
        f"""
        import subprocess
        import pytest

        @pytest.mark.userns
        def test_daemon():
            subprocess.run(["setsid", "-f", "sleep", "{seconds}"], check=True)
        """
    )
    session.runpytest_subprocess().assert_outcomes(passed=1)
    assert seconds not in process_names()


def test_a_process_that_dies_is_a_failure(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        import os, signal
        import pytest

        @pytest.mark.userns
        def test_killed():
            print("last words")
            os.kill(os.getpid(), signal.SIGKILL)

        @pytest.mark.userns(pid=True)
        def test_exits():
            os._exit(3)

        @pytest.mark.userns(map=["0:0:1", "0:1:1"])
        def test_no_such_map():
            pass

        @pytest.mark.userns
        def test_still_runs():
            pass
        """
    )
    result = session.runpytest_subprocess()
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines_random(
        [
            "the process that ran the test was killed by signal 9 before the test was over",
            "last words",
            "the process that ran the test ended with status 3 before the test was over",
            "the namespaces of the test can't be had: *",
        ]
    )


@pytest.mark.parametrize("how", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_a_test_may_end_the_session(session: pytest.Pytester, how: str) -> None:
    session.makepyfile(
        f"""
        import pytest

        @pytest.mark.userns
        def test_ends():
            {how}

        def test_never_runs():
            pass
        """
    )
    result = session.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes()


def test_the_first_failure_ends_the_session_if_asked_for(session: pytest.Pytester) -> None:
    session.makepyfile(OUTCOMES)
    session.runpytest_subprocess("-x").assert_outcomes(passed=1, failed=1)


def test_lines_that_only_the_child_runs_are_covered(session: pytest.Pytester) -> None:
    session.makepyfile(
        module="""
        def inside():
            return 1

        def nowhere():
            return 2
        """,
        test_it="""
        import module
        import pytest

        @pytest.mark.userns(pid=True)
        def test_inside():
            assert module.inside() == 1
        """,
    )
    # What its own database leaves open is none of ours.
    options = ["--cov=module", "--cov-report=json:coverage.json", "-W", "ignore::ResourceWarning"]
    session.runpytest_subprocess(*options).assert_outcomes(passed=1)
    measured = json.loads((session.path / "coverage.json").read_text())
    assert measured["files"]["module.py"]["missing_lines"] == [5]


def test_requirements_skip_with_the_reason(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        import pytest

        @pytest.mark.requires("kernel>=4.0", "userns")
        def test_runs():
            pass

        @pytest.mark.requires("kernel>=99.1")
        def test_new_kernel():
            raise AssertionError

        @pytest.mark.requires("cap:SYS_ADMIN")
        @pytest.mark.userns
        def test_what_counts_is_outside():
            pass
        """
    )
    result = session.runpytest_subprocess("-rs")
    root = os.geteuid() == 0
    result.assert_outcomes(passed=1 + root, skipped=2 - root)
    result.stdout.fnmatch_lines(["SKIPPED * kernel>=99.1: this kernel is *"])
    must = session.runpytest_subprocess("--userns-must-work=kernel>=99.1")
    # A skip that is none is a failure to set the test up, which pytest calls an error.
    must.assert_outcomes(passed=1 + root, errors=1, skipped=1 - root)
    must.stdout.fnmatch_lines(["kernel>=99.1 must work, but this kernel is *"])


@pytest.mark.parametrize(
    ("body", "options", "told"),
    [
        ("@pytest.mark.userns(map='wrong')", [], "*map must be root, auto, current*'wrong'*"),
        ("@pytest.mark.userns('auto')", [], "*takes its arguments by name*"),
        ("@pytest.mark.userns(network=True)", [], "*no argument network*"),
        ("@pytest.mark.userns(mount_proc=True)", [], "*mount_proc takes pid and mount*"),
        ("@pytest.mark.requires('magic')", [], "*'magic' is no requirement; there are userns*"),
        ("@pytest.mark.userns", ["--pdb"], "*--pdb and --trace can't be had*"),
        ("", ["--userns-must-work=magic"], "*'magic' is no requirement*"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    session: pytest.Pytester, body: str, options: list[str], told: str
) -> None:
    session.makepyfile(f"import pytest\n\n{body}\ndef test_it():\n    raise AssertionError\n")
    result = session.runpytest_subprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_what_is_no_plain_function_is_refused(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        import unittest
        import pytest

        @pytest.mark.userns
        class Tests(unittest.TestCase):
            def test_it(self):
                pass
        """
    )
    result = session.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*userns is for plain test functions and methods*"])


def test_a_killed_session_leaves_no_test(session: pytest.Pytester) -> None:
    seconds = f"86402.{os.getpid()}"
    session.makepyfile(
        f"""
        import os, subprocess
        import pytest

        @pytest.mark.userns(pid=True)
        def test_hang():
            os.execvp("sh", ["sh", "-c", "echo ready >&2; exec sleep {seconds}"])
        """
    )
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"]
    with subprocess.Popen(command, cwd=session.path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
        # Its end is the end of the last process that has this pipe.
        assert process.stderr.read() == b""
