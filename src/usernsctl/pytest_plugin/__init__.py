"""Pytest plugin that runs tests in their own namespaces, and skips tests with unmet requirements.

docs/pytest.md describes the plugin. If usernsctl is installed, every pytest session loads this
module, so it imports the other modules only when a test uses a mark or fixture of the plugin.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    import usernsctl as un
    from usernsctl.pytest_plugin.needs import Needs

# The hook wrappers in this file are old-style (hookwrapper=True), so that releases of pytest
# without new-style wrappers (wrapper=True) can load the plugin.

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
    """The extents with which ``IdMap.auto()`` maps the caller's subordinate ids."""

    uids: tuple[un.Extent, ...]
    gids: tuple[un.Extent, ...]


class _Hooks:
    """Specification of the hook by which test suites define additional requirements."""

    @pytest.hookspec
    def pytest_userns_needs(self) -> Mapping[str, Callable[[], str | None]]:  # type: ignore[empty-body]
        """Return additional requirements for the mark ``userns_requires``, keyed by name.

        Each value is a function that returns the reason why the requirement is not met, or ``None``
        if it is met.
        """


_NEEDS = pytest.StashKey["Needs"]()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the specification of this plugin's hook."""
    pluginmanager.add_hookspecs(_Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command-line option of this plugin."""
    parser.getgroup("usernsctl").addoption(
        _OPTION,
        metavar="WORDS",
        help="requirements that must be met, separated by commas: a test with such a requirement "
        f"fails instead of being skipped. {_VARIABLE} in the environment has more of them.",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, and check the requirements in --userns-must-work."""
    for line in _MARKERS.values():
        config.addinivalue_line("markers", line)
    if _must_work(config):
        # Report unknown requirements before the tests are collected.
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


def _has_mark(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in _MARKERS)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Report all invalid marks before any test runs."""
    items = [item for item in session.items if _has_mark(item)]
    if items:
        from usernsctl.pytest_plugin import marks

        marks.check(items, _needs(session.config))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose requirements this host does not meet."""
    if _has_mark(item):
        from usernsctl.pytest_plugin import marks

        _needs(item.config)(*marks.required(item))


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> Generator[None, Any, None]:
    """Register a finalizer of `tmp_path` that makes the caller the owner of all files there.

    Otherwise pytest could not remove files that the test has created with other ids.
    """
    yield
    item = request.node
    if request.fixturename == "tmp_path" and item.get_closest_marker("userns") is not None:
        from usernsctl.pytest_plugin import leftovers

        # Finalizers run in reverse order: first those of fixtures that use `tmp_path`, then this
        # finalizer, and last the finalizer of `tmp_path` itself, which removes files.
        request.addfinalizer(lambda: leftovers.take_back(item))


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, None]:
    """Record the warnings of a test's child process together with the parent's warnings."""
    if item.get_closest_marker("userns") is None:
        yield
    else:
        from usernsctl.pytest_plugin import running

        with running.warnings_of_both(item):
            yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Run a test with the mark ``userns`` in a child process."""
    if item.get_closest_marker("userns") is None:
        yield
    else:
        from usernsctl.pytest_plugin import running

        with running.run_in_child(item):
            yield


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Replace pytest's report of a test with the report of the child process.

    trylast makes this wrapper the innermost wrapper, so that all other wrappers see the child's
    report.
    """
    outcome = yield
    # If the stash entry is missing, no test of the session uses a mark or fixture of the plugin.
    if _NEEDS in item.config.stash:
        from usernsctl.pytest_plugin import running

        running.report(item, call, outcome)


@pytest.fixture(scope="session")
def userns_requires(request: pytest.FixtureRequest) -> Needs:
    """Return a function that skips the calling test unless requirements are met.

    Use this fixture for the requirements of a part of a test, and the mark ``userns_requires`` for
    the requirements of a whole test.
    """
    return _needs(request.config)


@pytest.fixture
def userns(userns_requires: Needs) -> Iterator[un.Namespace]:
    """Create a user namespace and a mount namespace, in which commands are root."""
    import usernsctl as un

    userns_requires("userns")
    with un.Namespace.create(mount=True) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def kept_userns(userns_requires: Needs) -> Iterator[un.Namespace]:
    """Create a user namespace like `userns`, which all tests of the session share."""
    import usernsctl as un

    userns_requires("userns")
    with un.Namespace.create(mount=True) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def userns_subids(userns_requires: Needs) -> Subids:
    """Return the extents with which ``IdMap.auto()`` maps the caller's subordinate ids."""
    import usernsctl as un

    userns_requires("subid")
    planned = un.plan(un.IdMap.auto())
    return Subids(_without_own(planned.uid), _without_own(planned.gid))


def _without_own(extents: tuple[un.Extent, ...]) -> tuple[un.Extent, ...]:
    return tuple(extent for extent in extents if extent.inside)
