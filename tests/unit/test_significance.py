"""The statistics, against scipy on the same vectors and against what they promise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inranker_flow.evaluation.significance import (
    RESAMPLES,
    Part,
    bootstrap_interval,
    compare,
    effect_size,
    holm,
    mean,
    parts_of,
    randomisation_p,
    t_p,
)


def differences(size: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """As between two rerankers: many queries level, the others either way."""
    random = np.random.default_rng(seed)
    return np.where(random.random(size) < 0.3, 0.0, random.laplace(shift, 0.1, size))


def mean_of(sample: np.ndarray, axis: int = 0) -> np.ndarray:
    return np.mean(sample, axis=axis)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_few_queries_give_scipys_exact_p(seed: int, alternative: str) -> None:
    sample = differences(12, 0.02, seed)
    expected = stats.permutation_test(
        (sample,), mean_of, permutation_type="samples", alternative=alternative, n_resamples=RESAMPLES
    )
    found = randomisation_p(parts_of([sample]), greater=alternative == "greater")
    assert expected.null_distribution.size == 2**12, "scipy tried all of them too"
    assert found == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [14, 60, 400])
def test_many_queries_give_scipys_p_but_for_sampling(seed: int, size: int) -> None:
    sample = differences(size, 0.15 / size**0.5, seed)
    for alternative in ("two-sided", "greater"):
        expected = stats.permutation_test(
            (sample,), mean_of, permutation_type="samples", alternative=alternative, n_resamples=RESAMPLES, rng=seed
        ).pvalue
        found = randomisation_p(parts_of([sample]), greater=alternative == "greater")
        # Both sample: four standard errors of a difference of two such shares.
        assert found == pytest.approx(expected, abs=4 * (2 * max(expected, 0.001) / RESAMPLES) ** 0.5)


def test_p_is_never_zero_and_the_same_every_time() -> None:
    parts = parts_of([np.full(100, 0.5)])
    assert randomisation_p(parts) == randomisation_p(parts) == 1 / (RESAMPLES + 1)
    assert randomisation_p(parts_of([np.full(6, 0.5)]), greater=True) == 1 / 64
    assert randomisation_p(parts_of([np.zeros(40)])) == randomisation_p(parts_of([np.zeros(40)]), greater=True) == 1.0
    assert randomisation_p([]) == randomisation_p([Part(1.0, np.array([]))]) == 1.0


def test_sign_vectors_in_blocks_are_those_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from inranker_flow.evaluation import significance

    parts = parts_of([differences(64, 0.01)])
    whole, interval = randomisation_p(parts), bootstrap_interval(parts)
    monkeypatch.setattr(significance, "_BLOCK", 64 * 1000)
    assert randomisation_p(parts) == whole
    assert bootstrap_interval(parts) == interval


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1), st.data())
def test_the_one_sided_p_never_rises_with_a_difference(size: int, seed: int, by: float, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    sample = np.round(random.uniform(-1, 1, size), data.draw(st.integers(0, 17)))
    better = sample.copy()
    better[data.draw(st.integers(0, size - 1))] += by
    before, after = (randomisation_p(parts_of([each]), greater=True) for each in (sample, better))
    assert after <= before


def test_an_outlier_raises_the_t_tests_p_but_not_this_ones() -> None:
    """Why the gate does not ask the t-test: a challenger that gets better on one query would lose its promotion."""
    sample = np.array([0.02] * 9 + [0.03])
    better = np.append(sample[:-1], 1.0)
    assert t_p(parts_of([better])) > 0.05 > t_p(parts_of([sample]))
    assert randomisation_p(parts_of([better]), greater=True) == randomisation_p(parts_of([sample]), greater=True)


@pytest.mark.parametrize("seed", range(5))
def test_t_is_scipys(seed: int) -> None:
    random = np.random.default_rng(seed)
    ours, theirs = random.random(50), random.random(50)
    parts = parts_of([ours - theirs])
    assert t_p(parts) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-9)
    assert effect_size(parts) == pytest.approx(stats.ttest_rel(ours, theirs).statistic / 50**0.5, rel=1e-9)


def test_over_two_parts_t_is_welchs() -> None:
    first, second = differences(30, 0.05, 1), differences(12, 0.1, 2)
    expected = stats.ttest_ind(first, -second, equal_var=False)
    assert t_p(parts_of([first, second])) == pytest.approx(expected.pvalue, rel=1e-9)


def test_the_interval_is_scipys_and_holds_the_truth_as_often_as_it_says() -> None:
    sample = differences(80, 0.03, 3)
    expected = stats.bootstrap((sample,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=1)
    low, high = bootstrap_interval(parts_of([sample]))
    error = expected.standard_error
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.1 * error)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.1 * error)
    random = np.random.default_rng(4)
    held = 0
    for _ in range(400):
        low, high = bootstrap_interval(parts_of([random.normal(0.02, 0.1, 50)]), resamples=500)
        held += low <= 0.02 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_no_correction_and_bonferronis(values: list[float]) -> None:
    adjusted = holm(values)
    for p, found in zip(values, adjusted, strict=True):
        assert p <= found <= min(1.0, len(values) * p) + 1e-12
    order = np.argsort(values, kind="stable")
    assert all(adjusted[a] <= adjusted[b] for a, b in pairwise(order))


def test_holm_errs_at_least_once_no_more_often_than_alpha() -> None:
    random = np.random.default_rng(0)
    wrong = sum(min(holm(random.random(5).tolist())) <= 0.05 for _ in range(4000))
    assert 0.03 <= wrong / 4000 <= 0.06


def test_degenerate_samples() -> None:
    level, constant = parts_of([np.zeros(3)]), parts_of([np.full(3, 0.25)])
    assert (t_p(level), effect_size(level), bootstrap_interval(level)) == (1.0, 0.0, (0.0, 0.0))
    assert (t_p(constant), effect_size(constant), bootstrap_interval(constant)) == (0.0, None, (0.25, 0.25))
    single = compare(parts_of([np.array([0.4])]))
    assert (single.p, single.p_t, single.effect, single.interval) == (1.0, 1.0, None, (0.4, 0.4))
    assert t_p([]) == 1.0 and effect_size([]) == 0.0


def test_parts_count_equally_whatever_their_size() -> None:
    parts = parts_of([np.full(10, 0.1), np.full(1000, 0.3)])
    assert mean(parts) == pytest.approx(0.2)
    low, high = bootstrap_interval(parts)
    assert low == pytest.approx(0.2) and high == pytest.approx(0.2)
