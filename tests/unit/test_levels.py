"""Training sets whose labels lie at other levels: told, or brought to one."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from inranker_flow.config.sections import DistillConfig
from inranker_flow.distillation.data import load_examples
from inranker_flow.distillation.levels import far_apart, settle, settled, standardised
from inranker_flow.students.loading import load_student
from tests import models

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


@pytest.mark.parametrize("loss", ["mse", "mse+lce", "margin_mse", "margin_mse+ce", "kl", "ranknet", "lce"])
@pytest.mark.parametrize("standardise", ["none", "dataset"])
def test_only_mse_is_warned_of_and_only_without_standardising(loss, standardise, caplog):
    teacher, sets = made((9.0, 1.0), (-9.0, 1.0))
    with caplog.at_level(logging.WARNING):
        found = settle(teacher, sets, NAMES, loss, standardise)
    assert bool(caplog.records) == (loss in ("mse", "mse+lce") and standardise == "none")
    assert (found is teacher) == (standardise == "none")


def test_training_sets_are_settled_each_by_its_own_pairs(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    folders = []
    for name, level in (("near", 0.0), ("far", 30.0)):
        labels = {(f"q{n}", f"d{m}"): (0.0, level + n + 2 * m) for n in range(5) for m in range(4)}
        texts = {f"d{m}": f"passage {m} of {name}" for m in range(4)}
        asked = {f"q{n}": ("synthetic", f"question {n} to {name}") for n in range(5)}
        folders.append(models.collection(tmp_path / name, texts, asked, labels, name))
    reader = load_student(models.t5(), DistillConfig()).reader
    examples = load_examples(folders, reader, centre=True, seed=0)
    assert settled(examples, DistillConfig()).teacher is examples.teacher
    assert "near (5.00" in caplog.text and "far (35.00" in caplog.text
    found = settled(examples, DistillConfig(standardise="dataset"))
    deltas, sets = found.teacher[:, 1] - found.teacher[:, 0], examples.set_of[examples.query]
    for number in (0, 1):
        before = (examples.teacher[:, 1] - examples.teacher[:, 0])[sets == number]
        np.testing.assert_allclose(deltas[sets == number], before - before.mean(), atol=1e-4)
    assert found.teacher.dtype == np.float32 and found.prompts is examples.prompts
