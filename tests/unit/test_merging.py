"""One student for each target, merged: weights, records, and a killed stage that goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from inranker_flow.distillation.merging import merged, slerp
from inranker_flow.distillation.train import Trainer
from inranker_flow.reranker import Reranker
from inranker_flow.stages.distill import distill
from inranker_flow.students.loading import load_student
from tests import starts
from tests.unit.test_distillation import CONFIG, training_set


def weights(seed: int, size: int = 50) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(size, generator=random), "b": torch.randn(3, 4, generator=random), "n": torch.tensor([seed])
    }  # fmt: skip


def test_the_mean_of_three_students():
    parts = [weights(seed) for seed in range(3)]
    found = merged(iter(parts), "mean")
    for name in ("a", "b"):
        torch.testing.assert_close(found[name], sum(part[name] for part in parts) / 3)
    assert found["n"].tolist() == [0], "a counter is no weight"


def test_slerp_goes_along_the_arc():
    one, other = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    torch.testing.assert_close(slerp(one, other, 0.5), torch.tensor([2.0, 2.0]) / 2**0.5)
    torch.testing.assert_close(
        slerp(one, other, 1 / 3), 2 * torch.tensor([np.cos(np.pi / 6), np.sin(np.pi / 6)]).float()
    )
    torch.testing.assert_close(slerp(one, one * 3, 0.5), one * 2, msg="parallel ones have no arc")
    torch.testing.assert_close(slerp(one * 0, other, 0.5), other / 2)
    found = merged(iter([weights(0), weights(1)]), "slerp")["a"]
    assert found.norm() > merged(iter([weights(0), weights(1)]), "mean")["a"].norm()


@pytest.fixture
def targets(tmp_path):
    return [
        training_set(tmp_path / name, queries=30, seed=seed, dataset=name) for seed, name in enumerate(("one", "two"))
    ]


@pytest.mark.parametrize("name", ["t5", "bert"])
@pytest.mark.parametrize("method", ["mean", "slerp"])
def test_a_student_for_each_target_and_then_one(tmp_path, targets, name, method):
    reference, kind = starts.ALL[name]()
    config = replace(CONFIG, checkpoint=reference, max_steps=20, merge=method)
    source = training_set(tmp_path / "source", queries=10, seed=9, dataset="source")
    config = replace(config, replay=0.25)
    stats = distill(config, targets, None, tmp_path / "model", replay=source)
    alone = replace(config, merge="none")
    for number, target in enumerate(targets):
        distill(alone, [target], None, tmp_path / f"alone{number}", replay=source)
    students = [load_student(str(tmp_path / f"alone{number}"), alone).model.state_dict() for number in range(2)]
    written = load_student(str(tmp_path / "model"), alone).model.state_dict()
    for key, weight in merged(iter(students), method).items():
        torch.testing.assert_close(written[key], weight, atol=0, rtol=0)
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert [each["dataset"] for each in record["inputs"]["training_sets"]] == ["one", "source", "two"]
    assert [each["steps"] for each in record["merged"]] == [20, 20] and stats.steps == record["steps"] == 40
    assert record["reads"]["kind"] == kind and [look["step"] for look in record["looks"]] == [40]
    assert stats.heldout_loss == record["looks"][0]["loss"] and stats.final_train_loss is None
    assert np.isfinite(Reranker(tmp_path / "model").score([("what is bread", "apple river")])).all()


def test_a_killed_merge_trains_no_student_twice(tmp_path, targets, monkeypatch):
    config = replace(CONFIG, checkpoint=starts.t5(), max_steps=10, merge="mean")
    distill(config, targets, None, tmp_path / "whole")
    steps, inner = [], Trainer._step

    def dies(trainer, step, rate):
        steps.append(step)
        if len(steps) == 15:
            raise KeyboardInterrupt
        return inner(trainer, step, rate)

    monkeypatch.setattr(Trainer, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        distill(config, targets, None, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    steps[:] = range(100)
    distill(config, targets, None, tmp_path / "model")
    assert len(steps) - 100 <= 10, "of the second student alone"
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "model")]
    assert files[0] == files[1]
