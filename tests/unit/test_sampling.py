"""Tests of the sample of parametrized tests that `make test` runs."""

from __future__ import annotations

from itertools import product

import pytest
from conftest import TESTS, RunTests
from sampling import covering, spread


def test_sample_has_each_value_of_each_parameter() -> None:
    variants = [{"a": a, "b": b, "c": c} for a, b, c in product(range(2), range(3), range(6))]
    sample = [v for v, quick in zip(variants, covering(variants), strict=True) if quick]
    assert len(sample) == 6
    for name in "abc":
        assert {variant[name] for variant in sample} == {variant[name] for variant in variants}


SAMPLED = """
@pytest.mark.sampled
@pytest.mark.parametrize("a", [1, 2])
@pytest.mark.parametrize(("b", "c"), [([], 0), ([], 0), ([], 0), ([], 0)])
def test_it(a, b, c):
    pass
"""


def test_sampled_test_runs_with_each_value(
    run_tests: RunTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    markers = "markers=sampled\nthorough"
    found = run_tests(SAMPLED, "-p", "sampling", "-o", markers, "-m", "not thorough")
    found.assert_outcomes(passed=4, deselected=4)


@pytest.mark.parametrize(("total", "count", "size"), [(60, 7, 7), (3, 7, 3), (1, 1, 1)])
def test_sample_has_the_requested_size(total: int, count: int, size: int) -> None:
    sample = spread(total, count)
    assert (len(sample), sum(sample)) == (total, size)
    assert sample[0]


@pytest.mark.parametrize(("total", "count"), [(60, 7), (18, 3), (9, 2), (3, 2), (2, 2)])
def test_sample_has_the_first_and_the_last_variant(total: int, count: int) -> None:
    sample = spread(total, count)
    assert (sample[0], sample[-1]) == (True, True)
