"""Run a test in a child process, and report the result in the parent."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any, NoReturn

import pytest

from usernsctl._system.target import make_target
from usernsctl.errors import UsernsError
from usernsctl.maps import plan
from usernsctl.pytest_plugin.child import (
    Channel,
    Child,
    describe,
    fork,
    leave,
    move,
    rebuild,
    refuse,
    save_coverage,
)
from usernsctl.pytest_plugin.marks import Wanted, wanted
from usernsctl.pytest_plugin.needs import Lacking


class _Inside:
    """Pytest plugin that is registered only in the child process.

    :ivar over: whether the test function has returned or raised an exception.
    """

    def __init__(self, item: pytest.Item, channel: Channel, warned: int) -> None:
        self.item = item
        self.channel = channel
        self.warned = warned
        self.over = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send the report of a subtest to the parent, which counts it and prints it."""
        self.channel.send({"subtest": _to_data(self.item.config, report)})

    def pytest_fixture_setup(self, fixturedef: Any) -> None:
        pytest.fail(
            f"the fixture {fixturedef.argname} would never be torn down in the namespace: "
            "make the fixture an argument",
            pytrace=False,
        )

    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
        """Send the report of the test to the parent, and exit the child."""
        outcome = yield
        if self.over:
            _end(self, outcome, call)


# The child's report, stored until pytest requests the report from the parent.
_REPORT = pytest.StashKey[pytest.TestReport]()
# The child's warnings, stored until pytest requests the report from the parent.
_WARNINGS = pytest.StashKey[list[warnings.WarningMessage]]()


@contextlib.contextmanager
def warnings_of_both(item: pytest.Item) -> Iterator[None]:
    """Record the warnings of parent and child during a ``with`` block, and then show them again.

    Other recorders of warnings, such as pytest's own, then receive the warnings.
    """
    with warnings.catch_warnings(record=True) as recorded:
        item.stash[_WARNINGS] = recorded
        yield
    for found in recorded:
        # Call showwarning(), which applies no filters: the test's filters were applied when the
        # warning was recorded.
        warnings.showwarning(found.message, found.category, found.filename, found.lineno)


@contextlib.contextmanager
def run_in_child(item: pytest.Item) -> Iterator[None]:
    """During a ``with`` block, replace the test's function by one that runs the test in a child."""
    mark = wanted(item)
    assert mark is not None
    # Replace item.runtest, which only pytest's innermost hook calls, so that no other hook runs the
    # test in the parent.
    inner = item.runtest
    setattr(item, "runtest", lambda: _run(item, mark, inner))  # noqa: B010 - a method of its own
    try:
        yield
    finally:
        del item.__dict__["runtest"]


def _run(item: pytest.Item, mark: Wanted, inner: Callable[[], None]) -> None:
    """Run the test in a child; reproduce its report, warnings and exception in the parent."""
    __tracebackhide__ = True
    try:
        planned = plan(mark.idmap)
        target = make_target(
            mark.namespaces,
            init=mark.has_init,
            planned=planned,
            propagation=mark.propagation,
        )
    except UsernsError as error:
        refuse(error)
    process = fork()
    if isinstance(process, Channel):
        inside = _Inside(item, process, len(item.stash.get(_WARNINGS, [])))
        try:
            _relay_subtests(inside)
            move(target, mount_proc=mark.mount_proc, channel=process)
            inner()
        except (KeyboardInterrupt, pytest.exit.Exception) as error:
            # Send the exception without a report. The parent raises the exception again, so that
            # the session ends.
            _leave(inside, None, error)
        finally:
            if process.closed:
                os.write(2, b"a process forked by the test returned from the test function\n")
                os._exit(os.EX_SOFTWARE)
            inside.over = True
        return
    with contextlib.closing(process):
        last = _follow(item, process)
    for data in last["warnings"]:
        found = rebuild(data[0])
        assert isinstance(found, Warning)
        warnings.showwarning(found, type(found), *data[1:])
    if last["report"]:
        item.stash[_REPORT] = _from_data(item.config, last["report"])
    if last["error"]:
        raise rebuild(last["error"])


def _follow(item: pytest.Item, process: Child) -> dict[str, Any]:
    """Report each subtest as it finishes, and return the last message of the child."""
    __tracebackhide__ = True
    capture = item.config.pluginmanager.getplugin("capturemanager")
    for message in process.messages():
        if "subtest" not in message:
            return message
        report = _from_data(item.config, message["subtest"])
        # Disable capturing, because the printed report is not part of the test's output.
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            item.ihook.pytest_runtest_logreport(report=report)
    raise AssertionError("messages() raises when the child has ended")


def _relay_subtests(inside: _Inside) -> None:
    """Disable the report handlers of other plugins in the child, and register `inside`.

    The parent calls these handlers with the reports of the child.
    """
    config, session = inside.item.config, inside.item.session
    for found in config.hook.pytest_runtest_logreport.get_hookimpls():
        # Keep the session's own handler, which counts failures and stops subtests after --maxfail.
        is_wrapper = found.hookwrapper or getattr(found, "wrapper", False)
        if found.plugin is not session and not is_wrapper:
            setattr(found, "function", _ignore)  # noqa: B010 - typed as final
    config.pluginmanager.register(inside)


def _ignore(*_: object) -> None:
    pass


def report(item: pytest.Item, call: pytest.CallInfo[None], outcome: Any) -> None:
    """Replace pytest's report of a test with the child's; report unmet requirements as skips."""
    if call.when == "call" and _REPORT in item.stash:
        child_report = item.stash[_REPORT]
        del item.stash[_REPORT]
        outcome.force_result(child_report)
        item.user_properties[:] = child_report.user_properties
        _add_sections(item, child_report)
    if call.excinfo and isinstance(call.excinfo.value, Lacking):
        # Report the location of the test, not a line of this plugin, as the location of the skip.
        path, line, _ = item.reportinfo()
        location = os.fspath(path), (line or 0) + 1
        outcome.get_result().longrepr = (*location, str(call.excinfo.value))


def _add_sections(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the output that was captured in the child to the report of the teardown."""
    for title, text in report.sections:
        what, _, when = title.removeprefix("Captured ").rpartition(" ")
        if when == "call":
            item.add_report_section(when, what, text)


def _end(inside: _Inside, outcome: Any, call: pytest.CallInfo[None]) -> NoReturn:
    try:
        config, report = inside.item.config, outcome.get_result()
        # Call this hook, in which pytest marks a test as failed if one of its subtests has failed.
        config.hook.pytest_report_teststatus(report=report, config=config)
        _leave(inside, _to_data(config, report), call.excinfo.value if call.excinfo else None)
    finally:
        os._exit(os.EX_SOFTWARE)


def _leave(inside: _Inside, report: dict[str, Any] | None, error: BaseException | None) -> NoReturn:
    recorded = inside.item.stash.get(_WARNINGS, [])
    if problem := save_coverage():
        warning = pytest.PytestWarning(f"can't save the coverage data of the test: {problem}")
        path, line, _ = inside.item.location
        recorded.append(warnings.WarningMessage(warning, type(warning), path, (line or 0) + 1))
    described = []
    for found in recorded[inside.warned :]:
        assert isinstance(found.message, Warning)
        described.append((describe(found.message), found.filename, found.lineno))
    last = {"report": report, "error": describe(error) if error else None, "warnings": described}
    leave(inside.channel, last)


def _to_data(config: pytest.Config, report: pytest.TestReport) -> dict[str, Any]:
    return dict(config.hook.pytest_report_to_serializable(config=config, report=report))


def _from_data(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    assert isinstance(report, pytest.TestReport)
    return report
