"""A pytest plugin: tests in namespaces of their own, and what they require.

docs/pytest.md describes it. Without a test that uses it, it does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import pytest

import usernsctl as un
from usernsctl.pytest_child import Channel, Child, fork, leave, move, refuse
from usernsctl.pytest_needs import OPTION, VARIABLE, Needs, check_word
from usernsctl.target import make_target, selected

_MAPS = {"root": un.IdMap.root, "auto": un.IdMap.auto, "current": un.IdMap.current}
_NAMESPACES = ("mount", "net", "pid", "ipc", "uts", "cgroup", "time")

_NEEDS = pytest.StashKey[Needs]()
# Of the test that this process runs for its parent.
_CHANNEL = pytest.StashKey[Channel]()
# What the child reported, until the parent's own report is due.
_REPORT = pytest.StashKey[dict[str, Any]]()


class Subids(NamedTuple):
    """The extents of the caller's subordinate ranges, as ``IdMap.auto()`` maps them."""

    uids: tuple[un.Extent, ...]
    gids: tuple[un.Extent, ...]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("usernsctl").addoption(
        OPTION,
        metavar="WORDS",
        help="what must work, with commas: a test that requires it fails where it would be skipped "
        f"otherwise. {VARIABLE} in the environment is added to it.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_NEEDS] = Needs.from_config(config)
    config.addinivalue_line(
        "markers",
        'userns(map="root", mount=False, net=False, pid=False, ipc=False, uts=False, cgroup=False, '
        'time=False, propagation="private", mount_proc=False): run the test in a user namespace of '
        'its own. map is "root", "auto", "current", an IdMap, or a list of extents for uids and '
        "gids alike.",
    )
    config.addinivalue_line(
        "markers",
        "requires(word, ...): skip the test where the machine lacks userns, subid, runsc, docker, "
        "kernel>=VERSION or cap:NAME, with the reason.",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for word in _required(item):
            check_word(word)
        marker = item.get_closest_marker("userns")
        if marker is None:
            continue
        if type(item).runtest is not pytest.Function.runtest:
            raise pytest.UsageError(
                f"{item.nodeid}: userns is for plain test functions and methods"
            )
        _read(marker, item.nodeid)
        if config.getoption("usepdb", False) or config.getoption("trace", False):
            raise pytest.UsageError(
                f"{item.nodeid}: --pdb and --trace can't be had: the test runs in a child, which "
                "has no terminal; leave such tests out: -m 'not userns'"
            )


def _required(item: pytest.Item) -> list[str]:
    words = [word for marker in item.iter_markers("requires") for word in marker.args]
    marker = item.get_closest_marker("userns")
    if marker is not None:
        words.append("subid" if marker.kwargs.get("map") == "auto" else "userns")
    return words


def pytest_runtest_setup(item: pytest.Item) -> None:
    for word in _required(item):
        item.config.stash[_NEEDS].demand(word)


class _Wanted(NamedTuple):
    """What a ``userns`` mark asks for."""

    idmap: un.IdMap
    namespaces: tuple[str, ...]
    propagation: Any
    mount_proc: bool


def _read(marker: pytest.Mark, where: str) -> _Wanted:
    options = dict(marker.kwargs)
    if marker.args:
        raise pytest.UsageError(f"{where}: userns takes its arguments by name")
    idmap = _idmap(options.pop("map", "root"), where)
    propagation = options.pop("propagation", "private")
    mount_proc = options.pop("mount_proc", False)
    if unknown := options.keys() - set(_NAMESPACES):
        raise pytest.UsageError(f"{where}: userns has no argument {', '.join(sorted(unknown))}")
    if mount_proc and not (options.get("pid") and options.get("mount")):
        raise pytest.UsageError(f"{where}: userns: mount_proc takes pid and mount as well")
    return _Wanted(idmap, selected(**options), propagation, mount_proc)


def _idmap(given: Any, where: str) -> un.IdMap:
    if isinstance(given, un.IdMap):
        return given
    if isinstance(given, str):
        if given in _MAPS:
            return _MAPS[given]()
    elif isinstance(given, Iterable):
        extents = list(given)
        return un.IdMap.extents(extents, extents)
    raise pytest.UsageError(
        f"{where}: userns: map must be {', '.join(_MAPS)}, an IdMap or extents, not {given!r}"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    marker = pyfuncitem.get_closest_marker("userns")
    if marker is None or _CHANNEL in pyfuncitem.stash:
        return None
    __tracebackhide__ = True
    wanted = _read(marker, pyfuncitem.nodeid)
    try:
        target = make_target(wanted.namespaces, idmap=wanted.idmap, propagation=wanted.propagation)
    except un.UsernsError as error:
        refuse(error)
    process = fork()
    if isinstance(process, Child):
        with contextlib.closing(process):
            pyfuncitem.stash[_REPORT] = process.report()
        return True
    pyfuncitem.stash[_CHANNEL] = process
    move(target, mount_proc=wanted.mount_proc, channel=process)
    return _call_in_child(pyfuncitem, process)


def _call_in_child(pyfuncitem: pytest.Function, channel: Channel) -> bool | None:
    try:
        # Once more, for whoever else calls functions: now it is not ours to do.
        return bool(pyfuncitem.ihook.pytest_pyfunc_call(pyfuncitem=pyfuncitem))
    except (KeyboardInterrupt, pytest.exit.Exception) as error:
        # These would end the session, which is the parent's.
        leave(channel, {"ended": str(error) or type(error).__name__})


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if _CHANNEL in item.stash:
        try:
            report = yield
            leave(item.stash[_CHANNEL], _to_data(item.config, report))
        finally:
            # Without a report to tell: the rest of the session is the parent's.
            os._exit(os.EX_SOFTWARE)
    report = yield
    if call.when != "call" or _REPORT not in item.stash:
        return report
    data = item.stash[_REPORT]
    del item.stash[_REPORT]
    if "ended" in data:
        pytest.exit(data["ended"])
    return _from_data(item.config, data)


def _to_data(config: pytest.Config, report: pytest.TestReport) -> dict[str, Any]:
    return dict(config.hook.pytest_report_to_serializable(config=config, report=report))


def _from_data(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    assert isinstance(report, pytest.TestReport)
    return report


@pytest.fixture
def userns(request: pytest.FixtureRequest) -> Iterator[un.Namespace]:
    """A new kept namespace, in which commands are root, with a mount namespace of its own."""
    request.config.stash[_NEEDS].demand("userns")
    with un.Namespace.create(mount=True) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def kept_userns(request: pytest.FixtureRequest) -> Iterator[un.Namespace]:
    """One kept namespace like `userns` for all tests of the session."""
    request.config.stash[_NEEDS].demand("userns")
    with un.Namespace.create(mount=True) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def subids(request: pytest.FixtureRequest) -> Subids:
    """The caller's subordinate ranges, as ``IdMap.auto()`` maps them from 1 on."""
    request.config.stash[_NEEDS].demand("subid")
    planned = un.plan(un.IdMap.auto())
    return Subids(_but_own(planned.uid), _but_own(planned.gid))


def _but_own(extents: tuple[un.Extent, ...]) -> tuple[un.Extent, ...]:
    return tuple(extent for extent in extents if extent.inside)
