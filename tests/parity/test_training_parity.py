"""The paper's settings give the original trainer's ids, losses and steps, against a plain re-computation of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inranker_flow.config.sections import DistillConfig
from inranker_flow.distillation.data import load_examples
from inranker_flow.distillation.schedule import learning_rate
from inranker_flow.distillation.train import Trainer
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq
from inranker_flow.rankers.monot5 import MonoT5Reader
from inranker_flow.rankers.monot5_prompt import Renderer
from inranker_flow.students.monot5 import MonoT5Student
from tests import models
from tests.parity.test_parity import DOCUMENTS, LONG, QUERIES, tokenizers

#: What `DistillConfig` needs to say for the original's training: its ids, its schedule is the default.
OFFICIAL = {"truncation": "reference", "append_eos": False}


@pytest.fixture(params=tokenizers())
def tokenizer(request):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(request.param())


def official_ids(tokenizer, query: str, document: str, max_length: int = 512) -> list[int]:
    """As InRanker's `training/trainer.py` makes them: three parts without special tokens, 10 tokens kept free."""
    query_ids, document_ids, suffix = (
        tokenizer.encode(text, add_special_tokens=False)
        for text in (f"Query: {query}", f"Document: {document}", " Relevant:")
    )
    return (query_ids + document_ids[: max_length - 10 - len(query_ids)] + suffix)[:max_length]


@pytest.mark.parametrize("max_length", [32, 128, 512])
def test_ids_are_those_that_the_original_trains_on(tokenizer, max_length):
    renderer = Renderer(tokenizer, max_length, **OFFICIAL)
    passages = models.real_passages(300)
    pairs = [(query, document) for query in [*QUERIES, LONG, LONG[:700]] for document in [*DOCUMENTS, LONG]]
    pairs += zip(QUERIES * 100, passages, strict=False)
    seen = set()
    for query, document in pairs:
        expected = official_ids(tokenizer, query, document, max_length)
        assert renderer.render(query, document) == expected
        seen.add((len(expected) == max_length, expected[-len(renderer._suffix) :] == renderer._suffix))
    # Whole prompts; cut documents that keep the suffix; and queries of more than the limit, which lose it.
    assert {(False, True), (True, False)} <= seen


def test_a_long_passage_leaves_ten_tokens_free_and_a_long_query_nothing(tokenizer):
    """Measured on the original (5a.9, 5a.10): 502 + ` Relevant:`; a query of more than 502 tokens loses the suffix."""
    renderer = Renderer(tokenizer, 512, **OFFICIAL)
    suffix = renderer._suffix
    cut = renderer.render("what is bread", LONG * 3)
    assert len(cut) == 502 + len(suffix) and cut[-len(suffix) :] == suffix
    lost = renderer.render(LONG * 3, LONG)
    assert len(lost) == 512 and lost[-len(suffix) :] != suffix
    assert tokenizer.eos_token_id not in cut + lost


def collection(path, tokenizer_name=None):
    """A labels/ folder whose labels are not centred, with long passages."""
    random = np.random.default_rng(0)
    words = [word for word in models.WORDS.split() if word.isalpha()]
    documents = {f"d{i}": " ".join(random.choice(words, random.integers(3, 90))) for i in range(48)}
    queries = {f"q{i}": ("synthetic", " ".join(random.choice(words, 4))) for i in range(12)}
    labels = {(f"q{i // 4}", f"d{i}"): tuple(random.normal(2, 4, 2)) for i in range(48)}
    return models.collection(path, documents, queries, labels)


class Plain:
    """The original's step, written anew: padded to the full length, all of the vocabulary, `MSELoss`, HF's defaults."""

    def __init__(self, model, labels, examples, length):
        self.model, self.labels, self.examples, self.length = model, list(labels), examples, length
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)

    def loss(self, rows) -> torch.Tensor:
        batch = self.examples.batch(rows)
        more = (0, self.length - batch.inputs[0].shape[1])
        logits = self.model(
            input_ids=torch.nn.functional.pad(torch.from_numpy(batch.inputs[0]), more),
            attention_mask=torch.nn.functional.pad(torch.from_numpy(batch.inputs[1]), more),
            decoder_input_ids=torch.zeros(len(rows), 1, dtype=torch.int64),
        ).logits[:, :, self.labels][:, 0]
        return torch.nn.MSELoss()(logits, torch.from_numpy(batch.teacher))

    def step(self, rows, rate) -> float:
        loss = self.loss(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("untied", [False, True])
def test_losses_and_steps_are_those_of_a_plain_training(tmp_path, centre, untied):
    """Item 7, 8 and 13: the loss of every step and the weights after ten, raw labels (phase 1) and centred (phase 2)."""
    config = DistillConfig(
        learning_rate=1e-3, warmup_steps=3, batch_size=8, max_steps=10, epochs=10, max_length=64, dropout=0.0, holdout=0.0,
        centre=centre, micro_batch_tokens=256, **OFFICIAL,
    )  # fmt: skip
    checkpoint = models.t5(seed=2, untied=untied)
    theirs, _ = load_seq2seq(checkpoint, dropout=0.0)
    student = MonoT5Student(checkpoint, config)
    examples = load_examples([collection(tmp_path / "labels")], student.reader, centre, config.seed)
    if centre:
        assert np.abs(examples.teacher.sum(1)).max() < 1e-5
    else:
        assert np.abs(examples.teacher.sum(1)).mean() > 1
    trainer = Trainer(config, examples, student)
    plain = Plain(theirs.train(), student.labels, examples, config.max_length)
    trainer.scorer.train()
    losses = []
    for step in range(10):
        rows = np.concatenate([rows for rows, _ in trainer.sampler.pieces(step)])
        rate = learning_rate(step, 10, 3, config.learning_rate)
        assert rate == pytest.approx(config.learning_rate * min(step / 3, (10 - step) / 7))
        losses.append((trainer._step(step, rate)[0].item(), plain.step(rows, rate)))
    found, expected = np.array(losses).T
    assert np.abs(found - expected).max() < 1e-5 * max(1, expected.max())
    assert expected[-1] != pytest.approx(expected[0], rel=1e-2)
    for (name, weight), other in zip(student.model.named_parameters(), theirs.parameters(), strict=True):
        assert (weight - other).abs().max() < 1e-5, name


def test_training_without_the_end_mark_and_scoring_with_it_differ(tmp_path):
    """Item 6: one token, another loss; which is why it is a setting."""
    model, tokenizer = load_seq2seq(models.t5(seed=2), dropout=0.0)
    labels = label_token_ids(tokenizer, "▁false", "▁true")
    folder, losses = collection(tmp_path / "labels"), {}
    for append in (True, False):
        examples = load_examples([folder], MonoT5Reader(Renderer(tokenizer, 64, append_eos=append)), True, 0)
        batch = examples.batch(np.arange(8))
        ends = batch.inputs[0][np.arange(8), batch.inputs[1].sum(1) - 1]
        assert (ends == tokenizer.eos_token_id).all() == append
        losses[append] = Plain(model, labels, examples, 64).loss(np.arange(8)).item()
    assert abs(losses[True] - losses[False]) > 1e-3
