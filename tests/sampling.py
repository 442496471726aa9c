"""The mark `sampled`: `make test` runs a sample of a test's variants; `make test-all` runs all.

`sampled` without a count selects variants so that each value of each parameter occurs.
`sampled(COUNT)` selects COUNT variants. All other variants get the mark `thorough`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import pytest


def covering(variants: Sequence[Mapping[str, Hashable]]) -> list[bool]:
    """Return for each variant whether it is in a sample that covers each value of each parameter.

    A variant maps parameter names to values.
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
    """Return for each of `total` variants whether it is in an evenly spaced sample of `count`.

    A sample of two or more variants contains the first and the last variant.
    """
    count = min(count, total)
    taken = {step * (total - 1) // max(count - 1, 1) for step in range(count)}
    return [position in taken for position in range(total)]


def tries(few: int, many: int) -> pytest.MarkDecorator:
    """Return a mark that runs a test with `count=few`, and in `make test-all` with `many`, too."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.thorough)])


def values_of(item: pytest.Function) -> dict[str, int]:
    """Return the id() of each value of a variant's parameters, because a value may be unhashable.

    The positions in `item.callspec.indices` can't be used, since they number variants, not values.
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
