"""Training sets whose labels lie at other levels: told, or brought to one."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from inranker_flow.distillation.levels import far_apart, settle, standardised

NAMES = ("source", "target", "other")


def made(*levels: tuple[float, float], pairs: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels of as many sets, each with a mean and a standard deviation of true - false; their centres are random."""
    generator = np.random.default_rng(3)
    logits, sets = [], []
    for number, (mean, deviation) in enumerate(levels):
        deltas = generator.normal(size=pairs)
        deltas = mean + deviation * (deltas - deltas.mean()) / deltas.std()
        centres = generator.normal(size=pairs)
        logits.append(np.stack([centres - deltas / 2, centres + deltas / 2], axis=1))
        sets.append(np.full(pairs, number))
    order = generator.permutation(pairs * len(levels))
    return np.concatenate(logits)[order], np.concatenate(sets)[order]


def test_standardised_sets_have_one_level_and_one_spread_and_their_own_order():
    teacher, sets = made((9.0, 1.0), (-4.0, 3.0), (0.5, 2.0))
    found = standardised(teacher, sets)
    before, after = (each[:, 1] - each[:, 0] for each in (teacher, found))
    for number in range(3):
        own = sets == number
        assert after[own].mean() == pytest.approx(0, abs=1e-9) and after[own].std() == pytest.approx(2.0)
        np.testing.assert_array_equal(np.argsort(after[own]), np.argsort(before[own]))
    np.testing.assert_allclose(found.mean(1), teacher.mean(1), atol=1e-12)
    np.testing.assert_allclose(standardised(found, sets), found, atol=1e-9)


def test_one_set_loses_its_level_alone():
    teacher, sets = made((9.0, 1.5))
    found = standardised(teacher, sets)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], teacher[:, 1] - teacher[:, 0] - 9.0)


def test_equal_labels_and_none_are_no_numbers_to_divide_by():
    teacher = np.array([[-1.0, 1.0], [0.0, 2.0], [5.0, 5.0]], np.float32)
    found = standardised(teacher, np.array([0, 0, 1]))
    assert found.dtype == np.float32 and np.isfinite(found).all()
    np.testing.assert_array_equal(found, [[0, 0], [1, 1], [5, 5]])
    assert standardised(np.zeros((0, 2)), np.zeros(0, int)).shape == (0, 2)


@pytest.mark.parametrize(("levels", "apart"), [
    (((3.0, 2.0), (1.1, 2.0)), False),
    (((3.0, 2.0), (0.9, 2.0)), True),
    (((3.0, 2.0), (0.9, 9.0)), False),
    (((1.0, 1.0), (1.0, 1.0)), False),
    (((1.0, 0.0), (2.0, 0.0)), True),
    (((5.0, 2.0),), False),
])  # fmt: skip
def test_sets_that_are_further_apart_than_they_are_wide_are_told(levels, apart):
    teacher, sets = made(*levels)
    assert bool(far_apart(teacher, sets, NAMES)) == apart


def test_the_line_names_the_two_that_are_furthest_apart():
    teacher, sets = made((0.0, 1.0), (2.0, 1.0), (7.5, 1.0))
    said = far_apart(teacher, sets, NAMES)
    assert "source (0.00, spread 1.00) and other (7.50, spread 1.00)" in said and "target" not in said
    assert "standardise" in said and "\n" not in said


@pytest.mark.parametrize("loss", ["mse", "margin_mse", "kl", "ranknet"])
@pytest.mark.parametrize("standardise", ["none", "dataset"])
def test_only_mse_is_warned_of_and_only_without_standardising(loss, standardise, caplog):
    teacher, sets = made((9.0, 1.0), (-9.0, 1.0))
    with caplog.at_level(logging.WARNING):
        found = settle(teacher, sets, NAMES, loss, standardise)
    assert bool(caplog.records) == (loss == "mse" and standardise == "none")
    assert (found is teacher) == (standardise == "none")
