"""Scoring in 8 bits on a CPU: how exact it is, that this is said, and where it is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers import devices, kernels
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.stages.teacher_label import teacher_label
from tests import models, teachers
from tests.unit.test_labelling import DOCUMENTS, PAIRS, QUERIES, read

needs_int8 = pytest.mark.skipif(not kernels.int8_works(), reason="this CPU has no exact 8-bit products (VNNI)")
INT8 = ScoringConfig(dtype="int8")


@needs_int8
@pytest.mark.parametrize("positive", [False, True])
def test_a_product_differs_by_no_more_than_the_rounding(positive):
    torch.manual_seed(0)
    x, weight, to = torch.randn(37, 96), torch.randn(40, 96), torch.randn(37, 40)
    x[3], weight[5] = 0, 0
    x[7] *= 1e6  # rows have scales of their own: the others do not suffer
    x = x.relu() if positive else x
    quantised, exact = kernels.QuantisedWeight(weight, positive), x @ weight.t()
    # Half a step of each number, times the other factor, summed over the row.
    steps_x = x.abs().amax(1, keepdim=True) / (255 if positive else 127)
    steps_w = weight.abs().amax(1) / 127
    bound = steps_x / 2 * weight.abs().sum(1) + (x.abs().sum(1, keepdim=True) + 96 * steps_x / 2) * steps_w / 2
    bound = bound * (1 + 1e-5) + 1e-5
    assert ((quantised(x) - exact).abs() <= bound).all()
    assert ((quantised.relu(x) - exact.relu()).abs() <= bound).all()
    assert ((quantised.added(x, to) - exact - to).abs() <= bound + exact.abs() * 1e-6).all()
    assert (quantised(x)[3] == 0).all() and (quantised(x)[:, 5] == 0).all()


@needs_int8
@pytest.mark.parametrize("untied", [False, True])
def test_logits_are_near_those_in_float32(untied):
    pairs = [(QUERIES[query], DOCUMENTS[document]) for query, document in PAIRS]
    exact = load_ranker(models.t5(untied=untied), ScoringConfig()).score(pairs)
    found = load_ranker(models.t5(untied=untied), INT8).score(pairs)
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max() + 0.02
    margins = [each[:, 1] - each[:, 0] for each in (found, exact)]
    assert np.corrcoef(*margins)[0, 1] > 0.99


@needs_int8
def test_labelling_says_and_records_what_it_costs(tmp_path, caplog):
    inputs = models.collection(tmp_path / "collection", DOCUMENTS), models.candidates(tmp_path / "c", QUERIES, PAIRS)
    with caplog.at_level("INFO", "inranker_flow"):
        teacher_label(TeacherConfig(models.t5(), scoring=INT8), *inputs, tmp_path / "labels")
    teacher_label(TeacherConfig(models.t5()), *inputs, tmp_path / "exact")
    error = read_manifest(tmp_path / "labels").details["error_against_float32"]
    exact, found = read(tmp_path / "exact"), read(tmp_path / "labels")
    difference = np.abs(np.array([np.subtract(found[pair], exact[pair]) for pair in exact]))
    assert error["pairs"] == len(PAIRS)
    assert error["largest_difference"] == pytest.approx(difference.max(), abs=1e-5)
    assert error["mean_difference"] == pytest.approx(difference.mean(), abs=1e-5)
    assert 0.9 < error["spearman"] <= 1
    assert f"{error['largest_difference']:.2g} at most; Spearman of the margins" in caplog.text
    assert "in int8, closed-form forward pass" in caplog.text
    assert "error_against_float32" not in read_manifest(tmp_path / "exact").details


@pytest.mark.parametrize("teacher", [teachers.causal, teachers.encoder])
def test_other_kinds_are_refused(teacher):
    with pytest.raises(UserError, match=r"scoring.dtype int8 is for monoT5 teachers; set it to float32 or bfloat16"):
        load_ranker(teacher(), INT8)


@needs_int8
def test_the_plain_forward_is_refused():
    with pytest.raises(UserError, match=r"int8 is for the fast forward pass, which is not for forward: reference"):
        load_ranker(models.t5(), ScoringConfig(dtype="int8", forward="reference"))


def test_a_gpu_and_a_cpu_without_the_instructions_are_refused(monkeypatch):
    with pytest.raises(UserError, match="int8 is for CPUs, and this machine computes on cuda; set it to bfloat16"):
        devices.pick_dtype("int8", torch.device("cuda"))
    monkeypatch.setattr(kernels, "int8_works", lambda: False)
    with pytest.raises(UserError, match="int8 needs a CPU with VNNI instructions; set it to float32"):
        devices.pick_dtype("int8", torch.device("cpu"))
