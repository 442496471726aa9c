"""Tests of the child process in which the pytest plugin runs each test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RunTests
from processes import capture

import usernsctl as un

pytestmark = pytest.mark.userns_requires("userns")


def process_names() -> str:
    return capture(["ps", "-e", "-o", "args"]).stdout


def run_until_timeout(session: pytest.Pytester, code: str, *words: str) -> pytest.RunResult:
    """Run tests that hang until a timeout kills them; return the result.

    The timeout must expire after the tests have created the file "hangs". On a slow host, the tests
    run again with a longer timeout.
    """
    for seconds in (1, 5, 25):
        session.makepyfile(code.replace("SECONDS", str(seconds)))
        result = session.runpytest_subprocess(*words)
        if (session.path / "hangs").exists():
            break
    result.stdout.fnmatch_lines([f"*Timeout (>{seconds}.0s) from pytest-timeout."])
    return result


@pytest.mark.parametrize("pid", [False, True])
def test_timeout_kills_all_processes_of_the_test(session: pytest.Pytester, pid: bool) -> None:
    seconds = f"86400.{os.getpid()}{int(pid)}"
    result = run_until_timeout(
        session,
        f"""
        import subprocess
        import pytest

        @pytest.mark.timeout(SECONDS)
        @pytest.mark.userns(pid={pid})
        def test_hang():
            subprocess.Popen(["setsid", "-f", "sleep", "{seconds}"])
            subprocess.run(["unshare", "-Ur", "sh", "-c", ">hangs; exec sleep {seconds}"])
        """,
        *("-p", "no:unraisableexception"),
    )
    result.assert_outcomes(failed=1)
    # Check that the report shows the source line at which the timeout interrupted the test, as
    # without a namespace.
    result.stdout.fnmatch_lines(
        [">*subprocess.run(*unshare*", "E * Failed: Timeout (>*s) from pytest-timeout."]
    )
    assert seconds not in process_names()


def test_timeout_applies_with_sigalrm_blocked(session: pytest.Pytester) -> None:
    result = run_until_timeout(
        session,
        """
        import os
        import signal
        import time
        import pytest

        def expire():
            # os.fork() ignores exceptions of its callbacks, and so exceptions of the alarm handler.
            if signal.getitimer(signal.ITIMER_REAL)[0]:
                signal.setitimer(signal.ITIMER_REAL, 1e-6)
                time.sleep(10)

        os.register_at_fork(before=expire)

        @pytest.mark.timeout(SECONDS)
        @pytest.mark.userns
        def test_hang():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            open("hangs", "w").close()
            signal.sigwait([signal.SIGUSR1])

        @pytest.mark.timeout(60)
        @pytest.mark.userns
        def test_does_not():
            assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
        """,
    )
    result.assert_outcomes(failed=1, passed=1)


def test_timer_of_a_fixture_fires_in_the_test(run_tests: RunTests) -> None:
    run_tests(
        """
        import signal

        class Alarm(Exception):
            pass

        waits = []

        def ring(number, frame):
            # On a slow machine, SIGALRM may arrive before the test waits.
            if waits:
                waits.clear()
                raise Alarm

        @pytest.fixture
        def alarmed():
            before = signal.signal(signal.SIGALRM, ring)
            signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
            yield
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

        @pytest.mark.userns(pid=True)
        def test_waits(alarmed):
            with pytest.raises(Alarm):
                waits.append(True)
                while True:
                    signal.pause()
        """
    ).assert_outcomes(passed=1)


def test_passed_test_leaves_no_process(run_tests: RunTests) -> None:
    seconds = f"86401.{os.getpid()}"
    run_tests(
        f"""
        import subprocess

        @pytest.mark.userns
        def test_daemon():
            subprocess.run(["setsid", "-f", "sleep", "{seconds}"], check=True)
        """
    ).assert_outcomes(passed=1)
    assert seconds not in process_names()


# Skip with sanitizers, which report SIGSEGV and exit, so that the signal does not kill the process.
@pytest.mark.unsanitized
def test_death_of_the_test_process_is_a_failure(run_tests: RunTests) -> None:
    result = run_tests(
        """
        import ctypes, signal

        pytestmark = pytest.mark.userns

        def test_killed():
            print("last words", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        @pytest.mark.userns(pid=True)
        def test_crashes():
            ctypes.string_at(0)

        @pytest.mark.userns(pid=True)
        def test_exits():
            os._exit(3)

        def test_becomes_a_program():
            os.execvp("true", ["true"])

        @pytest.mark.userns(map=["0:0:1", "0:1:1"])
        def test_no_such_map():
            pass

        def test_still_runs():
            pass
        """
    )
    result.assert_outcomes(failed=5, passed=1)
    over = "before the test ended"
    result.stdout.fnmatch_lines(
        [
            f"the process that ran the test was killed by SIGKILL {over}",
            "last words",
            f"the process that ran the test was killed by SIGSEGV {over}",
            f"the process that ran the test ended with status 3 {over}",
            f"the process that ran the test ended with status 0 {over}",
            "can't create the namespaces of the test: *",
        ]
    )


def test_session_with_sigchld_ignored_reports_failures(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        import os, signal
        import pytest

        pytestmark = pytest.mark.userns

        def test_ends():
            assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN

        @pytest.mark.userns(pid=True)
        def test_ends_below_process_1():
            assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN

        @pytest.mark.userns(pid=True, init=False)
        def test_ends_as_process_1():
            assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN

        @pytest.mark.userns(pid=True)
        def test_exits():
            os._exit(3)
        """
    )
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        # pytest ignores SIGCHLD, so the kernel reaps the child, and its exit status is lost.
        result = session.runpytest_subprocess()
    finally:
        signal.signal(signal.SIGCHLD, before)
    result.assert_outcomes(failed=1, passed=3)
    result.stdout.fnmatch_lines(["the process that ran the test ended* before the test ended"])


def test_exit_status_and_signal_in_a_pid_namespace_are_reported(run_tests: RunTests) -> None:
    """Check that status 143 and SIGTERM are distinguished: PID 1 exits with 143 for both."""
    result = run_tests(
        """
        import signal

        pytestmark = pytest.mark.userns(pid=True)

        def test_is_killed():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

        def test_is_killed_by_way_of_process_1():
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            os.kill(1, signal.SIGUSR1)
            while True:
                signal.pause()

        def test_exits():
            os._exit(143)
        """
    )
    result.assert_outcomes(failed=3)
    over = "before the test ended"
    result.stdout.fnmatch_lines(
        [
            f"the process that ran the test was killed by SIGTERM {over}",
            f"the process that ran the test was killed by SIGUSR1 {over}",
            f"the process that ran the test ended with status 143 {over}",
        ]
    )


def test_orphans_in_a_pid_namespace_are_reaped(run_tests: RunTests) -> None:
    run_tests(
        """
        import subprocess, time

        @pytest.mark.userns(pid=True, mount=True, mount_proc=True)
        def test_orphans():
            for _ in range(5):
                subprocess.run(["sh", "-c", "sleep 0.01 &"], check=True)
            while set(filter(str.isdecimal, os.listdir("/proc"))) != {"1", str(os.getpid())}:
                time.sleep(0.01)
        """,
        "-o",
        "timeout=60",
    ).assert_outcomes(passed=1)


def test_timeout_entering_namespaces_is_a_failure(
    session: pytest.Pytester, run_tests: RunTests
) -> None:
    session.makeconftest(
        """
        import signal
        from usernsctl.pytest_plugin import child

        child._START_SECONDS = 0.3
        child.Target.enter = lambda target: signal.pause()
        """
    )
    result = run_tests(
        """
        @pytest.mark.userns
        def test_nothing():
            pass
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the test's process did not enter its namespaces within 0.3 s"])


def test_processes_forked_by_a_test_do_not_report(run_tests: RunTests) -> None:
    run_tests(
        """
        @pytest.mark.userns
        def test_comes_back_twice(capfd):
            pid = os.fork()
            if pid == 0:
                assert "another report"
                return
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == os.EX_SOFTWARE
            told = capfd.readouterr().err
            assert told == "a process forked by the test returned from the test function\\n"

        @pytest.mark.userns
        def test_ends_before_its_child():
            told, teller = os.pipe()
            if os.fork() == 0:
                os.close(told)
                os.write(teller, b"+")
                os.execvp("sleep", ["sleep", "1000"])
            os.read(told, 1)
        """,
        "-W",
        "ignore",
    ).assert_outcomes(passed=2)


def test_killed_session_leaves_no_test_process(session: pytest.Pytester) -> None:
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
        assert process.stderr.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
        # End of file shows that the last process with the pipe's write end has exited.
        assert process.stderr.read() == b""


LEAVES = """
    import os
    import pytest
    import usernsctl as un

    @pytest.fixture
    def looks_afterwards(tmp_path):
        yield
        assert os.lstat(tmp_path / "directory").st_uid != os.geteuid()

    @pytest.mark.userns(map={idmap})
    @pytest.mark.parametrize("how", ["passes", "fails", "is killed", "is another user"])
    def test_leaves(tmp_path, looks_afterwards, how):
        below = tmp_path / "directory" / "below"
        below.mkdir(parents=True)
        (below / "file").write_text("kept")
        (below / "link").symlink_to("/etc/passwd")
        os.mkfifo(below / "pipe", 0)
        for path in [*below.iterdir(), below, below.parent]:
            os.chown(path, {other}, {other}, follow_symlinks=False)
        os.chmod(below, 0)
        os.chmod(below.parent, 0o700)
        assert how != "fails"
        if how == "is killed":
            os.kill(os.getpid(), 9)
        if how == "is another user":
            os.setresuid({other}, {other}, {other})
"""


@pytest.mark.sampled(1)
@pytest.mark.userns_requires("subid")
@pytest.mark.parametrize(
    ("idmap", "other"), [('"auto"', "3"), ("un.IdMap.keep_id()", "3"), ('"subids"', "THEIRS")]
)
def test_files_of_other_users_left_by_a_test_can_be_deleted(
    session: pytest.Pytester, tmp_path: Path, idmap: str, other: str
) -> None:
    theirs = un.plan(un.IdMap.auto()).uid[-1].outside
    code = LEAVES.format(idmap=idmap, other=other.replace("THEIRS", str(theirs)))
    session.makepyfile(code)
    base = tmp_path / "base"
    result = session.runpytest_subprocess(f"--basetemp={base}")
    result.assert_outcomes(passed=2, failed=2)
    assert [*base.glob("*/directory")]
    left = [*base.rglob("*")]
    assert {os.lstat(path).st_uid for path in left} == {os.geteuid()}
    assert os.lstat("/etc/passwd").st_uid == 0
    # Check that a second pytest session can delete the files that the first session has left.
    session.makepyfile("def test_nothing(tmp_path): pass")
    result = session.runpytest_subprocess(f"--basetemp={base}")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*rm_rf*")
    assert len([*base.iterdir()]) <= 2


CHANGES_DIRECTORY = """
    import os, shutil
    import pytest

    @pytest.mark.userns(map="auto")
    @pytest.mark.parametrize("how", ["chown", "chmod", "chmod below", "remove", "replace"])
    def test_changes(tmp_path, how):
        below = tmp_path / "below" / "foreign"
        below.mkdir(parents=True)
        (below / "file").write_text("kept")
        os.chown(below, 3, 3)
        os.chmod(below, 0o700)
        if how == "chown":
            os.chown(tmp_path, 3, 3)
        elif how == "chmod":
            os.chmod(tmp_path, 0)
        elif how == "chmod below":
            os.chmod(below.parent, 0)
        else:
            shutil.rmtree(tmp_path)
        if how == "replace":
            tmp_path.symlink_to("/etc")
"""


@pytest.mark.userns_requires("subid")
def test_a_test_may_change_the_directory_tmp_path_itself(
    session: pytest.Pytester, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    session.makepyfile(CHANGES_DIRECTORY)
    result = session.runpytest_subprocess(f"--basetemp={base}")
    result.assert_outcomes(passed=5)
    # Check that a second pytest session can delete the files that the first session has left.
    session.makepyfile("def test_nothing(tmp_path): pass")
    result = session.runpytest_subprocess(f"--basetemp={base}")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*rm_rf*")
