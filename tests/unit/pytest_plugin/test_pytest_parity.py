"""Tests that pytest reports the same results with and without namespaces."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import RunTests

# conftest.py that records the reports, exceptions and warnings that plugins receive.
CONFTEST = """
    import json, re
    import pytest

    SEEN = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(item, call):
        outcome = yield
        report = outcome.get_result()
        error = call.excinfo.typename if call.excinfo else None
        # Reports of subtests are created in the child process.
        if not item.nodeid.startswith("test_subtests.py"):
            SEEN.append(["made", item.name, report.when, report.outcome, error])
        setattr(item, "report_of_" + report.when, report)

    def pytest_runtest_logreport(report):
        text = re.sub("0x[0-9a-f]+", "0x", report.longreprtext)
        SEEN.append(["logged", type(report).__name__, report.nodeid, report.when, report.outcome,
                     getattr(report, "wasxfail", None), text, report.sections,
                     [[name, str(value)] for name, value in report.user_properties]])

    def pytest_warning_recorded(warning_message, when, nodeid):
        SEEN.append(["warned", str(warning_message.message), warning_message.category.__name__,
                     warning_message.filename, warning_message.lineno, when, nodeid])

    def pytest_exception_interact(node, call, report):
        if not node.nodeid.startswith("test_subtests.py"):
            SEEN.append(["raised", node.name, call.excinfo.typename])

    def pytest_sessionfinish():
        with open("seen.json", "w") as file:
            json.dump(SEEN, file)

    @pytest.fixture
    def knows_its_report(request):
        yield
        assert request.node.report_of_call.failed
"""

START = """
    import logging, os, subprocess, sys, threading, unittest, warnings
    import pytest

    pytestmark = [pytest.mark.userns(pid=True)] if "INSIDE" in os.environ else []
"""

OUTCOMES = """
    class Local(ValueError):
        def __init__(self, first, second):
            super().__init__(first)
            self.lock = threading.Lock()

    def test_pass():
        print("told to stdout")

    def test_fail(knows_its_report):
        print("told to stdout")
        print("told to stderr", file=sys.stderr)
        logging.getLogger().warning("told to the log")
        one, two = [1, 2], [1, 3]
        assert one == two

    def test_skip():
        pytest.skip("for a reason")

    def test_xfail_within():
        pytest.xfail("for a reason")

    @pytest.mark.xfail(raises=ValueError)
    def test_xfail():
        raise ValueError

    @pytest.mark.xfail(raises=Local, reason="it can't be pickled")
    def test_xfail_of_a_kind():
        raise Local(1, 2)

    @pytest.mark.xfail(raises=KeyError, strict=True)
    def test_other():
        raise Local(1, 2)

    @pytest.mark.xfail
    def test_xpass():
        pass

    @pytest.mark.xfail(strict=True)
    def test_strict():
        pass

    class Dumb(Exception):
        def __str__(self):
            raise RuntimeError

    def test_raises_what_can_not_be_told():
        raise Dumb from KeyError("cause")

    # Before pytest 8.4, the traceback also has frames of pytest.
    @pytest.mark.skipif(pytest.version_tuple < (8, 4), reason="pytest")
    def test_raises_a_group():
        raise ExceptionGroup("many", [ValueError(1), Local(1, 2)])

    def test_ends_python():
        sys.exit(3)

    def test_is_deep():
        test_is_deep()

    def test_returns():
        return 1

    async def test_is_a_coroutine():
        pass

    @pytest.mark.parametrize("number", [1, 2])
    class TestMethods:
        def test_method(self, number, record_property):
            record_property("seen", number)
            record_property("odd", threading.Event)
            assert number != 2

    class TestUnittest(unittest.TestCase):
        def setUp(self):
            print("told by setUp")

        def test_pass(self):
            pass

        def test_fail(self):
            self.assertEqual(1, 2)

        def test_skip(self):
            self.skipTest("for a reason")

        @unittest.expectedFailure
        def test_expected(self):
            self.fail()
"""

FIXTURES = """
    @pytest.fixture(scope="session")
    def whole():
        print("session")
        yield []
        print("session over")

    @pytest.fixture(scope="module")
    def module(whole):
        print("module")
        yield whole
        print("module over")

    @pytest.fixture
    def function(module):
        print("function")
        yield module
        print("function over")

    def test_all(function):
        print("test")

    def test_again(function):
        pass

    def test_output(capsys):
        print("one")
        assert capsys.readouterr().out == "one\\n"
        print("left over")

    def test_descriptors(capfd):
        subprocess.run(["echo", "one"], check=True)
        assert capfd.readouterr().out == "one\\n"
        subprocess.run(["echo", "left over"], check=True)

    def test_log(caplog):
        logging.getLogger().error("to be seen")
        assert caplog.messages == ["to be seen"]

    def test_patches(monkeypatch, tmp_path):
        monkeypatch.setenv("PATCHED", "1")
        monkeypatch.chdir(tmp_path)
        with open("file", "w"):
            pass
        assert (tmp_path / "file").exists()

    def test_is_not_patched():
        assert "PATCHED" not in os.environ

    def test_threads():
        threads = [threading.Thread(target=sys.stdout.write, args=["x"]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @pytest.fixture
    def fails():
        yield
        print("fails")
        assert not "torn down"

    def test_fails_twice(fails):
        print("one")
        assert not "failed"

    def test_writes_much():
        sys.stdout.write("much " * 400000)
        assert False
"""

WARNINGS = """
    class Mine(UserWarning):
        def __init__(self, first, second):
            super().__init__(first)

    @pytest.fixture
    def warned():
        warnings.warn("of the setup")
        yield
        warnings.warn("of the teardown")

    def test_warns(warned):
        warnings.warn("of the test")
        warnings.warn(Mine("of a kind", 2))

    def test_records(recwarn):
        warnings.warn("recorded")
        assert len(recwarn) == 1

    def test_expects():
        with pytest.warns(UserWarning, match="expected"):
            warnings.warn("expected")
        warnings.warn("not expected")

    @pytest.mark.filterwarnings("error")
    def test_error():
        warnings.warn("an error")

    @pytest.mark.filterwarnings("ignore")
    def test_ignored():
        warnings.warn("ignored")

    def test_thread():
        thread = threading.Thread(target=int, args=["x"], name="thrower")
        thread.start()
        thread.join()
"""

SUBTESTS = """
    def test_subtests(subtests):
        for number in range(4):
            with subtests.test("number", number=number):
                print("number", number)
                if number == 2:
                    pytest.skip("for a reason")
                assert number != 1
        print("at the end")

    def test_all_pass(subtests):
        with subtests.test():
            pass
"""

HAS_SUBTESTS = pytest.version_tuple >= (9,)
has_subtests = pytest.mark.skipif(not HAS_SUBTESTS, reason="this pytest has no subtests")


def session_record(
    session: pytest.Pytester, *options: str
) -> tuple[list[Any], dict[str, int], str]:
    result = session.runpytest_subprocess(*options)
    found = json.loads((session.path / "seen.json").read_text())
    document = (session.path / "result.xml").read_text()
    document = re.sub(r'(time|timestamp|hostname)="[^"]*"', "", document)
    return found, result.parseoutcomes(), re.sub("0x[0-9a-f]+", "0x", document)


@pytest.mark.parametrize("capture", ["fd", "sys", "no"])
@pytest.mark.sampled(1)
def test_reports_are_the_same_with_and_without_namespaces(
    session: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capture: str
) -> None:
    session.makeconftest(CONFTEST)
    session.makepyfile(
        test_outcomes=START + OUTCOMES,
        test_fixtures=START + FIXTURES,
        test_warnings=START + WARNINGS,
        test_subtests=START + SUBTESTS if HAS_SUBTESTS else "",
    )
    options = [f"--capture={capture}", "--junitxml=result.xml", "-W", "default"]
    options += ["-o", "junit_logging=all"]
    plain = session_record(session, *options)
    monkeypatch.setenv("INSIDE", "1")
    inside = session_record(session, *options)
    for one, other in zip(plain[0], inside[0], strict=False):
        assert str(other)[:9000] == str(one)[:9000]
    assert inside == plain


def test_tmp_path_of_a_failed_test_is_kept(session: pytest.Pytester, run_tests: RunTests) -> None:
    run_tests(
        """
        @pytest.mark.userns
        @pytest.mark.parametrize("good", [True, False])
        def test_it(tmp_path, good):
            (tmp_path / "file").write_text("")
            assert good
        """,
        "-o",
        "tmp_path_retention_policy=failed",
        "--basetemp=kept",
    )
    kept = [path.parent.name for path in session.path.glob("kept/*/file")]
    # Both names stand for one directory: test_it_False_current is a symbolic link to
    # test_it_False_0.
    assert set(kept) == {"test_it_False_0", "test_it_False_current"}


def test_output_is_shown_without_capture(run_tests: RunTests) -> None:
    run_tests(
        """
        @pytest.mark.userns
        def test_it():
            print("told to stdout")
        """,
        "-s",
    ).stdout.fnmatch_lines(["*told to stdout"])


@has_subtests
def test_unittest_subtests_are_reported(run_tests: RunTests) -> None:
    result = run_tests(
        """
        import unittest

        @pytest.mark.userns
        class TestUnittest(unittest.TestCase):
            def test_subtests(self):
                for number in range(3):
                    with self.subTest(number=number):
                        self.assertNotEqual(number, 1)
        """
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["E *AssertionError: 1 == 1", "SUBFAILED(number='1') *"])


@has_subtests
def test_failed_subtest_ends_the_session_with_option_x(run_tests: RunTests) -> None:
    result = run_tests(
        """
        pytestmark = pytest.mark.userns

        def test_it(subtests):
            for number in range(3):
                with subtests.test(number=number):
                    assert False

        def test_never_runs():
            pass
        """,
        "-x",
    )
    result.stdout.fnmatch_lines(["*stopping after 2 failures*"])
    assert "passed" not in result.parseoutcomes()
