"""The mark `sampled`: `make test` runs some variants of a test, and `make test-all` all.

`sampled` alone runs each value of each parameter; `sampled(COUNT)` runs that many variants. The
other variants get the mark `thorough`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import pytest


def covering(variants: Sequence[Mapping[str, Hashable]]) -> list[bool]:
    """Return for each variant whether it belongs to a sample that has each value of each parameter.

    A variant maps the names of the parameters to their values.
    """
    missing = {value for variant in variants for value in variant.items()}
    taken = set()
    while missing:
        news = [len(missing & variant.items()) for variant in variants]
        best = news.index(max(news))
        missing -= variants[best].items()
        taken.add(best)
    return [position in taken for position in range(len(variants))]


def spread(total: int, count: int) -> list[bool]:
    """Return for each of `total` variants whether it belongs to a sample of `count`.

    Samples of more than one have the first and the last variant.
    """
    count = min(count, total)
    taken = {step * (total - 1) // max(count - 1, 1) for step in range(count)}
    return [position in taken for position in range(total)]


def tries(few: int, many: int) -> pytest.MarkDecorator:
    """Return a decorator that sets the argument `count`: `few`, and `many` in `make test-all`."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.thorough)])


def values_of(item: pytest.Function) -> dict[str, int]:
    """Return the identities of the values of a variant's parameters, which need not be hashable.

    The positions in `item.callspec.indices` are those of the variants, not of the values.
    """
    return {name: id(value) for name, value in item.callspec.params.items()}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    variants = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("sampled"):
            variants[item.nodeid.split("[")[0]].append(item)
    for found in variants.values():
        count = found[0].get_closest_marker("sampled").args
        if count:
            sample = spread(len(found), *count)
        else:
            sample = covering([values_of(item) for item in found])
        for item, quick in zip(found, sample, strict=True):
            if not quick:
                item.add_marker(pytest.mark.thorough)
