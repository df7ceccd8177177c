"""A precision below float32 on a CPU: its error is measured on the job's own pairs, whatever the job, and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import EvaluateConfig, ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.model_registry import reference_scores
from inranker_flow.model_registry.reference_scores import ReferenceScores
from inranker_flow.rankers import devices
from inranker_flow.report.page import render
from inranker_flow.reranker import Reranker
from inranker_flow.scoring.job import Work
from inranker_flow.serving import backends
from inranker_flow.serving import models as served_models
from inranker_flow.stages.evaluate import evaluate
from inranker_flow.stages.teacher_label import help_label, teacher_label
from tests import models, teachers
from tests.unit.test_evaluation import make_candidates, make_collection, make_labels
from tests.unit.test_labelling import DOCUMENTS, PAIRS, QUERIES, read

ROUNDED = ScoringConfig(dtype="bfloat16")
ERROR = {"pairs", "largest_difference", "mean_difference", "spearman"}


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Path, Path]:
    return models.collection(tmp_path / "collection", DOCUMENTS), models.candidates(tmp_path / "c", QUERIES, PAIRS)


@pytest.mark.parametrize("teacher", [models.t5, teachers.causal, teachers.encoder])
def test_labels_in_bfloat16_come_with_their_error(teacher, asked, tmp_path, caplog):
    with caplog.at_level("INFO", "inranker_flow"):
        stats = teacher_label(TeacherConfig(teacher(), scoring=ROUNDED), *asked, tmp_path / "rounded")
    exact = teacher_label(TeacherConfig(teacher()), *asked, tmp_path / "exact")
    error = read_manifest(tmp_path / "rounded").details["error_against_float32"]
    found, expected = read(tmp_path / "rounded"), read(tmp_path / "exact")
    difference = np.abs(np.array([np.subtract(found[pair], expected[pair]) for pair in PAIRS]))
    assert set(error) == ERROR and error["pairs"] == len(PAIRS) and difference.max() > 0
    assert error["largest_difference"] == pytest.approx(difference.max(), abs=1e-5)
    assert error["mean_difference"] == pytest.approx(difference.mean(), abs=1e-5)
    assert stats.largest_difference == error["largest_difference"] and exact.largest_difference == 0
    assert f"in bfloat16 a logit differs from float32 by {error['mean_difference']:.2g} in the mean" in caplog.text
    assert "times as fast on these pairs" in caplog.text
    assert "error_against_float32" not in read_manifest(tmp_path / "exact").details


def test_a_helper_and_a_second_process_measure_it_too(asked, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("INRANKER_WORKERS", "2")
    config = TeacherConfig(models.t5(), scoring=ROUNDED, shard_pairs=5, processes=2)
    with caplog.at_level("INFO", "inranker_flow"):
        help_label(config, *asked, 1)
    assert "in bfloat16 a logit differs from float32 by" in caplog.text
    teacher_label(config, *asked, tmp_path / "labels")
    assert "error_against_float32" not in read_manifest(tmp_path / "labels").details, "nothing was left to compute"


def test_each_model_of_an_evaluation_says_its_error(tmp_path):
    ranked = {f"q{i}": [(f"d{(5 * i + k) % 40}", 9.0 - k) for k in range(5)] for i in range(6)}
    sets = (
        [make_collection(tmp_path / "c", "toy", DOCUMENTS, QUERIES, {q: {f[1][0]: 1} for q, f in ranked.items()})],
        [make_candidates(tmp_path / "k", "toy", ranked)],
        [make_labels(tmp_path / "l", "toy", {"t1": ("another question", ["a passage"])})],
    )
    config = EvaluateConfig(latency_queries=0, scoring=ROUNDED)
    stats = evaluate(
        config, TeacherConfig(models.t5(seed=3)), *sets, {"phase1": Path(models.t5(seed=1))}, models.t5(seed=0),
        tmp_path / "evaluation", tmp_path / "report.html",
    )  # fmt: skip
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    errors = {name: model.get("error_against_float32") for name, model in summary["models"].items()}
    assert errors["teacher"] is None, "its labels are exact"
    for name in ("phase1", "champion"):
        assert set(errors[name]) == ERROR and errors[name]["pairs"] == 30 and errors[name]["largest_difference"] > 0
    assert stats.largest_difference == max(errors[name]["largest_difference"] for name in ("phase1", "champion"))
    assert render(summary).count("computed in bfloat16: on 30 pairs its logits differ from float32 by") == 2


def test_the_work_of_several_models_has_the_larger_error():
    small, large = {"largest_difference": 0.01}, {"largest_difference": 0.03}
    assert (Work(error=small) + Work(error=large) + Work()).error == large
    assert (Work() + Work()).error == {}


def test_only_less_than_float32_on_a_cpu_is_compared(monkeypatch):
    # The rule is asked about either kind of device, of which a machine has one; nothing is computed.
    monkeypatch.setattr(devices, "pick_device", lambda: torch.device("cpu"))
    assert [devices.rounds_on_cpu(each) for each in ("auto", "float32", "bfloat16", "int8")] == [
        False,
        False,
        True,
        True,
    ]
    monkeypatch.setattr(devices, "pick_device", lambda: torch.device("cuda"))
    assert not devices.rounds_on_cpu("bfloat16")


def test_a_server_computes_in_what_it_is_told_and_says_the_difference(tmp_path, caplog):
    pairs = [(QUERIES["q1"], DOCUMENTS[f"d{i}"]) for i in range(8)]
    folder = Path(shutil.copytree(models.t5(), tmp_path / "student"))
    exact = Reranker(folder).score(pairs)
    reference_scores.write(ReferenceScores("float32", pairs, exact.tolist()), folder)
    with caplog.at_level("INFO", "inranker_flow"):
        loaded = served_models.load(str(folder), backends.loader("torch", "bfloat16"))
        assert loaded.backend.dtype == "bfloat16"
        assert "in bfloat16 the scores of 8 pairs differ from those of the evaluation, in float32, by" in caplog.text
        caplog.clear()
        assert served_models.load(str(folder), backends.loader("torch")).backend.dtype == "float32"
    assert "differ from those of the evaluation" not in caplog.text
    with pytest.raises(UserError, match="DTYPE: onnx computes in what it was exported in"):
        backends.loader("onnx", "bfloat16")
