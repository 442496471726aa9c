"""Tests of the samples of variants that `make test` runs."""

from __future__ import annotations

from itertools import product

import pytest
from sampling import covering, spread


def test_sample_has_each_value_of_each_parameter() -> None:
    variants = [{"a": a, "b": b, "c": c} for a, b, c in product(range(2), range(3), range(6))]
    sample = [v for v, quick in zip(variants, covering(variants), strict=True) if quick]
    assert len(sample) == 6
    for name in "abc":
        assert {variant[name] for variant in sample} == {variant[name] for variant in variants}


@pytest.mark.parametrize(("total", "count", "size"), [(60, 7, 7), (3, 7, 3), (1, 1, 1)])
def test_sample_has_the_requested_size(total: int, count: int, size: int) -> None:
    sample = spread(total, count)
    assert (len(sample), sum(sample)) == (total, size)
