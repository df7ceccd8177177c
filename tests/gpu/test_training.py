"""Training on a GPU: the same gradients and losses as on a CPU, bf16, memory, several GPUs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from inranker_flow.config.sections import DistillConfig
from inranker_flow.distillation.data import load_examples
from inranker_flow.distillation.train import Trainer
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq
from inranker_flow.rankers.monot5 import MonoT5Reader
from inranker_flow.rankers.monot5_prompt import Renderer
from inranker_flow.stages.distill import distill
from inranker_flow.students.label_logits import LabelLogits
from inranker_flow.students.monot5 import MonoT5Student
from tests import models

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

CONFIG = DistillConfig(
    learning_rate=5e-3, warmup_steps=4, batch_size=16, epochs=100, max_steps=60, max_length=64, dropout=0.0, holdout=0.2,
    evaluate_every=20, precision="float32",
)  # fmt: skip


@pytest.fixture
def toy(tmp_path):
    """Labels that follow from one word of the passage."""
    random = np.random.default_rng(0)
    weights = {"apple": 3.0, "river": 2.0, "moon": 1.0, "stone": -1.0, "kettle": -2.0, "rabbit": -3.0}
    documents, labels = {}, {}
    for number in range(160):
        word = random.choice(list(weights))
        documents[f"d{number}"] = f"{word} {' '.join(['garden', 'winter', 'bridge'][: random.integers(1, 4)])}"
        labels[f"q{number // 4}", f"d{number}"] = (-weights[word] / 2, weights[word] / 2)
    queries = {f"q{number}": ("synthetic", f"north {number}") for number in range(40)}
    return models.collection(tmp_path / "labels", documents, queries, labels)


def trained(tmp_path, toy, name, **changes):
    config = replace(CONFIG, checkpoint=models.t5(seed=1), **{"processes": 1, **changes})
    stats = distill(config, [toy], None, tmp_path / name)
    return stats, json.loads((tmp_path / name / "training.json").read_text())


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_on_the_gpu_are_those_on_the_cpu(toy, untied, checkpointing, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    found = {}
    for device in ("cpu", "cuda"):
        model, tokenizer = load_seq2seq(models.t5(seed=1, untied=untied))
        batch = load_examples([toy], MonoT5Reader(Renderer(tokenizer, 64)), True, 0).batch(np.arange(32), pad_to=8)
        labels = label_token_ids(tokenizer, "▁false", "▁true")
        scorer = LabelLogits(model.to(device), labels, checkpointing).to(device)
        logits = scorer(*(torch.from_numpy(each).to(device) for each in batch.inputs))
        (logits - torch.from_numpy(batch.teacher).to(device)).square().mean().backward()
        found[device] = {
            name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None
        }
    for name, gradient in found["cpu"].items():
        assert (found["cuda"][name] - gradient).abs().max() < 1e-4 * max(1, gradient.abs().max()), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "bfloat16-weights"])
@pytest.mark.parametrize("batching", ["iid", "grouped"])
def test_the_student_learns(tmp_path, toy, precision, batching):
    stats, record = trained(tmp_path, toy, "model", precision=precision, batching=batching)
    assert record["precision"] == precision
    assert stats.heldout_loss < 0.5 * stats.start_heldout_loss


def test_a_training_goes_on_where_it_was_killed(tmp_path, toy, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    changes = {"dropout": 0.1, "save_every": 7}
    whole, _ = trained(tmp_path, toy, "whole", **changes)
    with monkeypatch.context() as patched:
        patched.setattr("inranker_flow.stages.distill._write", fail)
        with pytest.raises(OSError, match="disk full"):
            trained(tmp_path, toy, "model", **changes)
    continued, _ = trained(tmp_path, toy, "model", **changes)
    assert continued.resumed_step == 56
    assert continued.heldout_loss == pytest.approx(whole.heldout_loss, rel=1e-3)


def test_a_batch_that_does_not_fit_is_computed_in_parts(toy):
    """A real lack of memory: the process may have a few MiB more than it has."""
    config = replace(CONFIG, batch_size=128, max_length=512, holdout=0.0)
    student = MonoT5Student("init:small", config)
    trainer = Trainer(config, load_examples([toy], student.reader, True, 0), student)
    trainer._gradient(0)
    torch.cuda.synchronize()
    trainer.optimizer.zero_grad()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer._gradient(0)
    held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    trainer.optimizer.zero_grad()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((held + (peak - held) / 2) / total)
    try:
        before = trainer.step_tokens
        trainer._step(0, 1e-3)
        assert trainer.step_tokens < before
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs here")
def test_two_gpus_train_as_one(tmp_path, toy):
    one, _ = trained(tmp_path, toy, "one", max_steps=20)
    two, _ = trained(tmp_path, toy, "two", max_steps=20, processes=2)
    assert two.heldout_loss == pytest.approx(one.heldout_loss, rel=1e-3)
