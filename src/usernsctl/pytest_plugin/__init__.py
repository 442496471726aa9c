"""A pytest plugin: tests in namespaces of their own, and what they require.

docs/pytest.md describes it. Without a test that uses it, it does nothing.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import pytest

import usernsctl as un
from usernsctl.commands.target import make_target
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
from usernsctl.pytest_plugin.marks import MARKERS, Wanted, required, wanted
from usernsctl.pytest_plugin.needs import OPTION, VARIABLE, Hooks, Lacking, Needs

# Wrappers are of the old kind, since a session of an older pytest must at least start.


class Subids(NamedTuple):
    """The extents of the caller's subordinate ranges, as ``IdMap.auto()`` maps them."""

    uids: tuple[un.Extent, ...]
    gids: tuple[un.Extent, ...]


@dataclass(eq=False)
class _Inside:
    """What the child knows: it runs a test, and whether that is over."""

    item: pytest.Item
    channel: Channel
    warned: int
    over: bool = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of a subtest; only the parent has whoever counts and shows it."""
        self.channel.send({"subtest": _to_data(self.item.config, report)})


_NEEDS = pytest.StashKey[Needs]()
# Only in a child.
_INSIDE = pytest.StashKey[_Inside]()
# What the child reported, until the parent's own report is due.
_REPORT = pytest.StashKey[pytest.TestReport]()
_WARNINGS = pytest.StashKey[list[warnings.WarningMessage]]()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("usernsctl").addoption(
        OPTION,
        metavar="WORDS",
        help="what must work, with commas: a test that requires it fails where it would be skipped "
        f"otherwise. {VARIABLE} in the environment is added to it.",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[_NEEDS] = Needs.from_config(config)
    for line in MARKERS:
        config.addinivalue_line("markers", line)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell all mistakes in marks before any test runs."""
    mistakes = [problem for item in session.items if (problem := _problem(item))]
    if mistakes:
        raise pytest.UsageError("\n".join(mistakes))


def _problem(item: pytest.Item) -> str | None:
    try:
        for word in required(item):
            item.config.stash[_NEEDS].check(word)
        asked = wanted(item)
    except (ValueError, pytest.UsageError) as error:
        return f"{item.nodeid}: {error}"
    options = item.config.option
    if asked and (getattr(options, "usepdb", False) or getattr(options, "trace", False)):
        return (
            f"{item.nodeid}: --pdb and --trace can't be had: the test runs in a child, which has "
            "no terminal; leave such tests out: -m 'not userns'"
        )
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    asked = wanted(item)
    words = required(item) + ([asked.need] if asked else [])
    item.config.stash[_NEEDS](*words)


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, None]:
    """Collect the warnings of parent and child, for whoever else records them."""
    if item.get_closest_marker("userns") is None:
        yield
        return
    with warnings.catch_warnings(record=True) as recorded:
        item.stash[_WARNINGS] = recorded
        yield
    for found in recorded:
        # Filters have had their say where it was given.
        warnings.showwarning(found.message, found.category, found.filename, found.lineno)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    asked = wanted(item)
    if asked is None:
        yield
        return
    # Below all hooks that call functions, so that none of them can run it elsewhere.
    inner = item.runtest
    setattr(item, "runtest", lambda: _run(item, asked, inner))  # noqa: B010 - a method of its own
    try:
        yield
    finally:
        del item.__dict__["runtest"]


def _run(item: pytest.Item, asked: Wanted, inner: Callable[[], None]) -> None:
    """What the test is in the parent: to hear what became of it in the child."""
    __tracebackhide__ = True
    try:
        planned = un.plan(asked.idmap)
        target = make_target(asked.namespaces, planned=planned, propagation=asked.propagation)
    except un.UsernsError as error:
        refuse(error)
    process = fork()
    if isinstance(process, Channel):
        inside = _Inside(item, process, len(item.stash.get(_WARNINGS, [])))
        item.config.stash[_INSIDE] = inside
        try:
            _relay_subtests(inside)
            move(target, mount_proc=asked.mount_proc, channel=process)
            inner()
        except (KeyboardInterrupt, pytest.exit.Exception) as error:
            # These end the session, which is the parent's, without a report.
            _leave(inside, None, error)
        finally:
            if process.closed:
                os.write(2, b"a process that the test forked came back from it\n")
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
    """Report subtests as they come, and return the last words of the child."""
    __tracebackhide__ = True
    capture = item.config.pluginmanager.getplugin("capturemanager")
    for message in process.messages():
        if "subtest" not in message:
            return message
        report = _from_data(item.config, message["subtest"])
        # What is shown of it is no output of the test.
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            item.ihook.pytest_runtest_logreport(report=report)
    raise AssertionError("messages() ends by a failure")


def _relay_subtests(inside: _Inside) -> None:
    """Keep reports from who would show them, send them elsewhere, or write them down, in vain."""
    config, session = inside.item.config, inside.item.session
    for found in config.hook.pytest_runtest_logreport.get_hookimpls():
        # The session counts failures, which tells a subtest whether to go on.
        is_wrapper = found.hookwrapper or getattr(found, "wrapper", False)
        if found.plugin is not session and not is_wrapper:
            setattr(found, "function", _ignore)  # noqa: B010 - typed as final
    config.pluginmanager.register(inside)


def _ignore(*_: object) -> None:
    pass


def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> None:
    if _INSIDE in request.config.stash:
        pytest.fail(
            f"the fixture {fixturedef.argname} would be set up inside, and never be torn down: let "
            "the test take it as an argument",
            pytrace=False,
        )


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """In the child, send the report and end; in the parent, take it for pytest's own.

    It is the innermost of the wrappers, so that all others see in the parent what they would have
    seen without a child.
    """
    outcome = yield
    inside = item.config.stash.get(_INSIDE, None)
    if inside is not None:
        if inside.over:
            _end(inside, outcome, call)
        return
    if call.when == "call" and _REPORT in item.stash:
        report = item.stash[_REPORT]
        del item.stash[_REPORT]
        outcome.force_result(report)
        item.user_properties[:] = report.user_properties
        _add_sections(item, report)
    if call.excinfo and isinstance(call.excinfo.value, Lacking):
        # It is the test that is skipped here, and not some line of ours.
        path, line, _ = item.reportinfo()
        location = os.fspath(path), (line or 0) + 1
        outcome.get_result().longrepr = (*location, str(call.excinfo.value))


def _add_sections(item: pytest.Item, report: pytest.TestReport) -> None:
    """Keep what was captured for the report of the teardown, which has it all."""
    for title, text in report.sections:
        what, _, when = title.removeprefix("Captured ").rpartition(" ")
        if when == "call":
            item.add_report_section(when, what, text)


def _end(inside: _Inside, outcome: Any, call: pytest.CallInfo[None]) -> NoReturn:
    try:
        config, report = inside.item.config, outcome.get_result()
        # Where a test has failed by its subtests alone, pytest says so only when it asks for this.
        config.hook.pytest_report_teststatus(report=report, config=config)
        _leave(inside, _to_data(config, report), call.excinfo.value if call.excinfo else None)
    finally:
        os._exit(os.EX_SOFTWARE)


def _leave(inside: _Inside, report: dict[str, Any] | None, error: BaseException | None) -> NoReturn:
    recorded = inside.item.stash.get(_WARNINGS, [])
    if problem := save_coverage():
        warning = pytest.PytestWarning(f"the lines that the test ran can't be counted: {problem}")
        path, line, _ = inside.item.location
        recorded.append(warnings.WarningMessage(warning, type(warning), path, (line or 0) + 1))
    told = []
    for found in recorded[inside.warned :]:
        assert isinstance(found.message, Warning)
        told.append((describe(found.message), found.filename, found.lineno))
    last = {"report": report, "error": describe(error) if error else None, "warnings": told}
    leave(inside.channel, last)


def _to_data(config: pytest.Config, report: pytest.TestReport) -> dict[str, Any]:
    return dict(config.hook.pytest_report_to_serializable(config=config, report=report))


def _from_data(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    assert isinstance(report, pytest.TestReport)
    return report


@pytest.fixture(scope="session")
def requires(request: pytest.FixtureRequest) -> Needs:
    """The mark of the same name as a function, for what turns out only in the midst of a test."""
    return request.config.stash[_NEEDS]


@pytest.fixture
def userns(requires: Needs) -> Iterator[un.Namespace]:
    """A new kept namespace, in which commands are root, with a mount namespace of its own."""
    requires("userns")
    with un.Namespace.create(mount=True) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def kept_userns(requires: Needs) -> Iterator[un.Namespace]:
    """One kept namespace like `userns` for all tests of the session."""
    requires("userns")
    with un.Namespace.create(mount=True) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def subids(requires: Needs) -> Subids:
    """The caller's subordinate ranges, as ``IdMap.auto()`` maps them from 1 on."""
    requires("subid")
    planned = un.plan(un.IdMap.auto())
    return Subids(_but_own(planned.uid), _but_own(planned.gid))


def _but_own(extents: tuple[un.Extent, ...]) -> tuple[un.Extent, ...]:
    return tuple(extent for extent in extents if extent.inside)
