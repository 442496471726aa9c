"""A pytest plugin: tests in namespaces of their own, and what they require.

docs/pytest.md describes it. It is loaded into every session of pytest where usernsctl is installed,
so all that it takes to run a test is imported when a test asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    import usernsctl as un
    from usernsctl.pytest_plugin.needs import Needs

# Wrappers are of the old kind, since a session of an older pytest must at least start.

_MARKERS = {
    "userns": 'userns(map="root", mount=False, net=False, pid=False, ipc=False, uts=False, '
    'cgroup=False, time=False, init=True, propagation="private", mount_proc=False): run the test '
    'in a user namespace of its own. map is "root", "current", "auto", "subids", "all", an IdMap, '
    "or extents for uids and gids alike.",
    "userns_requires": "userns_requires(word, ...): skip the test where the machine lacks userns, "
    "subid, runsc, docker, kernel>=VERSION or cap:NAME, with the reason.",
}
_OPTION = "--userns-must-work"
_VARIABLE = "USERNSCTL_MUST_WORK"


class Subids(NamedTuple):
    """The extents of the caller's subordinate ranges, as ``IdMap.auto()`` maps them."""

    uids: tuple[un.Extent, ...]
    gids: tuple[un.Extent, ...]


class _Hooks:
    """The hook by which a test suite adds words of its own."""

    @pytest.hookspec
    def pytest_userns_needs(self) -> Mapping[str, Callable[[], str | None]]:  # type: ignore[empty-body]
        """Words for the mark ``userns_requires``, each with a function that tries what it is for.

        The function returns why it can't be had, or ``None`` if it can.
        """


_NEEDS = pytest.StashKey["Needs"]()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hook of this plugin."""
    pluginmanager.add_hookspecs(_Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of this plugin."""
    parser.getgroup("usernsctl").addoption(
        _OPTION,
        metavar="WORDS",
        help="what must work, with commas: a test that requires it fails where it would be skipped "
        f"otherwise. {_VARIABLE} in the environment is added to it.",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Describe the marks, and check what must work."""
    for line in _MARKERS.values():
        config.addinivalue_line("markers", line)
    if _must_work(config):
        # So that a word that nobody knows is told at once.
        _needs(config)


def _must_work(config: pytest.Config) -> list[str]:
    given = [config.getoption(_OPTION) or "", os.environ.get(_VARIABLE, "")]
    words = (word.strip() for text in given for word in text.split(","))
    return [word for word in words if word]


def _needs(config: pytest.Config) -> Needs:
    if _NEEDS not in config.stash:
        from usernsctl.pytest_plugin.needs import Needs

        trials: dict[str, Callable[[], str | None]] = {}
        for more in config.hook.pytest_userns_needs():
            trials.update(more)
        config.stash[_NEEDS] = Needs(_must_work(config), trials)
    return config.stash[_NEEDS]


def _asks(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in _MARKERS)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell all mistakes in marks before any test runs."""
    items = [item for item in session.items if _asks(item)]
    if items:
        from usernsctl.pytest_plugin import marks

        marks.check(items, _needs(session.config))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test if the machine lacks what it requires."""
    if _asks(item):
        from usernsctl.pytest_plugin import marks

        _needs(item.config)(*marks.required(item))


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> Generator[None, Any, None]:
    """Have what a test leaves in its `tmp_path` be the caller's before that is torn down."""
    yield
    item = request.node
    if request.fixturename == "tmp_path" and item.get_closest_marker("userns") is not None:
        from usernsctl.pytest_plugin import leftovers

        # It runs before the finalizer of `tmp_path` itself, and after those of its users.
        request.addfinalizer(lambda: leftovers.take_back(item))


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, None]:
    """Have whoever records warnings get those of the child as well."""
    if item.get_closest_marker("userns") is None:
        yield
    else:
        from usernsctl.pytest_plugin import running

        with running.warnings_of_both(item):
            yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Have a test with the mark ``userns`` run in a child."""
    if item.get_closest_marker("userns") is None:
        yield
    else:
        from usernsctl.pytest_plugin import running

        with running.in_a_child(item):
            yield


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Take the child's report for pytest's own.

    It is the innermost of the wrappers, so that all others see what they would have seen without a
    child.
    """
    outcome = yield
    # Whoever has neither a mark of ours nor the fixture of that name is none of our business.
    if _NEEDS in item.config.stash:
        from usernsctl.pytest_plugin import running

        running.report(item, call, outcome)


@pytest.fixture(scope="session")
def userns_requires(request: pytest.FixtureRequest) -> Needs:
    """The mark of the same name as a function, for what turns out only in the midst of a test."""
    return _needs(request.config)


@pytest.fixture
def userns(userns_requires: Needs) -> Iterator[un.Namespace]:
    """A new kept namespace, in which commands are root, with a mount namespace of its own."""
    import usernsctl as un

    userns_requires("userns")
    with un.Namespace.create(mount=True) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def kept_userns(userns_requires: Needs) -> Iterator[un.Namespace]:
    """One kept namespace like `userns` for all tests of the session."""
    import usernsctl as un

    userns_requires("userns")
    with un.Namespace.create(mount=True) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def userns_subids(userns_requires: Needs) -> Subids:
    """The caller's subordinate ranges, as ``IdMap.auto()`` maps them from 1 on."""
    import usernsctl as un

    userns_requires("subid")
    planned = un.plan(un.IdMap.auto())
    return Subids(_but_own(planned.uid), _but_own(planned.gid))


def _but_own(extents: tuple[un.Extent, ...]) -> tuple[un.Extent, ...]:
    return tuple(extent for extent in extents if extent.inside)
