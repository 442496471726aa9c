"""The mark `sampled`: `make test` runs some variants of a test, and `make test-all` all.

`sampled` alone runs each value of each parameter; `sampled(COUNT)` runs that many variants. The
other variants get the mark `thorough`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest


def covering(variants: Sequence[Mapping[str, int]]) -> list[bool]:
    """Return for each variant whether it belongs to a sample that has each value of each parameter.

    A variant maps the names of the parameters to the positions of their values.
    """
    sizes = {name: 1 + max(variant[name] for variant in variants) for name in variants[0]}
    diagonal = [
        {name: step % size for name, size in sizes.items()} for step in range(max(sizes.values()))
    ]
    return [dict(variant) in diagonal for variant in variants]


def spread(total: int, count: int) -> list[bool]:
    """Return for each of `total` variants whether it belongs to a sample of `count`."""
    taken = {step * total // count for step in range(count)} if count < total else range(total)
    return [position in taken for position in range(total)]


def tries(few: int, many: int) -> pytest.MarkDecorator:
    """Return a decorator that sets the argument `count`: `few`, and `many` in `make test-all`."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.thorough)])


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
            sample = covering([item.callspec.indices for item in found])
        for item, quick in zip(found, sample, strict=True):
            if not quick:
                item.add_marker(pytest.mark.thorough)
