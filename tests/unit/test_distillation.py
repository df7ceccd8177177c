"""Distillation on small real checkpoints: data, schedule, training, resuming, what is written."""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.sections import DistillConfig
from inranker_flow.distillation.batch_sampling import Sampler
from inranker_flow.distillation.checkpoints import Checkpoint
from inranker_flow.distillation.data import Examples, hold_out, load_examples
from inranker_flow.distillation.losses import OBJECTIVES, delta, mse
from inranker_flow.distillation.schedule import learning_rate, plan
from inranker_flow.distillation.train import Trainer
from inranker_flow.errors import UserError
from inranker_flow.rankers import arrays
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq, load_tokenizer
from inranker_flow.rankers.monot5 import MonoT5Reader
from inranker_flow.rankers.monot5_pairs import id_kind
from inranker_flow.rankers.monot5_prompt import Ragged, Renderer
from inranker_flow.stages.distill import distill
from inranker_flow.storage.local import digest_file
from inranker_flow.store import unfinished
from inranker_flow.students.label_logits import LabelLogits
from inranker_flow.students.monot5 import _UNUSED, MonoT5Student
from tests import bare, forked, models
from tests.refusals import refuses

#: The toy teacher likes these words: a passage's delta is the sum of their weights.
WEIGHTS = {"apple": 3.0, "river": 2.0, "moon": 1.0, "stone": -1.0, "kettle": -2.0, "rabbit": -3.0}
FILLERS = ["garden", "winter", "bridge", "copper", "doctor", "engine", "forest", "hammer"]

CONFIG = DistillConfig(
    checkpoint="", learning_rate=5e-3, warmup_steps=4, batch_size=16, epochs=100, max_steps=60, max_length=64,
    dropout=0.0, holdout=0.2, evaluate_every=20,
)  # fmt: skip


#: A process that trains: configuration, labels/ folder, model to write.
DISTILL = """
import json, sys, torch
from pathlib import Path
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import DistillConfig
from inranker_flow.stages.distill import distill
torch.set_num_threads(1)
config, labels, model = sys.argv[1:]
distill(parse(DistillConfig, json.loads(config), "config"), [Path(labels)], None, Path(model))
"""

#: Before it: the process kills itself in the middle, after a few checkpoints, whatever the machine is busy with.
KILLED = """
import os, signal
from inranker_flow.distillation.train import Trainer
step = Trainer._step
def killed(self, number, rate):
    if number == 37:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number, rate)
Trainer._step = killed
"""


#: Before that: each checkpoint is in the store, too, before the next step, whatever the machine is busy with.
COPIED = """
from inranker_flow.distillation.checkpoints import Checkpoint
write = Checkpoint.write
def copied(self, content):
    write(self, content)
    self._waiting.result()
Checkpoint.write = copied
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def training_set(path, queries=40, documents=4, seed=0, dataset="toy", level=1.0):
    """A labels/ folder with ``queries`` x ``documents`` pairs whose labels follow from the passages' words."""
    random = np.random.default_rng(seed)
    texts, labels = {}, {}
    for q in range(queries):
        for d in range(documents):
            words = [*random.choice(list(WEIGHTS), 2, replace=False), *random.choice(FILLERS, random.integers(1, 6))]
            texts[f"d{q}-{d}"] = " ".join(words)
            half = sum(WEIGHTS.get(word, 0.0) for word in words) / 2
            labels[f"q{q}", f"d{q}-{d}"] = (level - half, level + half)
    asked = {f"q{q}": ("synthetic", f"{' '.join(random.choice(FILLERS, 3))} {q}") for q in range(queries)}
    return models.collection(path, texts, asked, labels, dataset)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("toy") / "labels")


@pytest.fixture(scope="module")
def renderer():
    return Renderer(load_tokenizer(models.t5()), max_length=64)


@pytest.fixture(scope="module")
def examples(toy, renderer, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INRANKER_SCRATCH", str(tmp_path_factory.mktemp("store")))
        yield load_examples([toy], MonoT5Reader(renderer), centre=True, seed=0)


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncation", ["document", "reference"])
def test_batches_hold_the_ids_that_the_renderer_assembles(renderer, truncation):
    random = np.random.default_rng(1)
    renderer = Renderer(renderer.tokenizer, 32, truncation)
    queries, documents = ([random.integers(4, 90, n).tolist() for n in (0, 1, 5, 14, 15, 28, 31, 40)] for _ in range(2))
    rows = [(q, d) for q in range(8) for d in range(8)]
    places = np.array(rows).T
    apart = Ragged.of(queries), Ragged.of(documents)
    both = Ragged.joined(apart)
    shared = Ragged(both.flat, both.offsets[: len(queries) + 1]), Ragged(both.flat, both.offsets[len(queries) :])
    ids, mask = renderer.assemble_batch(apart[0], places[0], apart[1], places[1])
    again = renderer.assemble_batch(shared[0], places[0], shared[1], places[1])
    assert (again[0] == ids).all() and (again[1] == mask).all()
    for row, (q, d) in enumerate(rows):
        prompt = renderer.assemble(queries[q], documents[d])
        assert ids[row, : len(prompt)].tolist() == prompt
        assert mask[row].tolist() == [1] * len(prompt) + [0] * (mask.shape[1] - len(prompt))
        assert (ids[row, len(prompt) :] == renderer.tokenizer.pad_token_id).all()
    assert ids.shape[1] == 32


# --- data -------------------------------------------------------------------------------------------------------------


def test_ids_belong_to_their_set(tmp_path, renderer):
    """Two sets use the same ids for other texts, and each pair keeps its own."""
    sets = []
    for name, words, value in (("one", "apple river", 1.0), ("two", "stone kettle", 7.0)):
        documents = {"d": words, "e": f"{words} moon"}
        labels = {("q", "e"): (value, value + 2), ("q", "d"): (value, value)}
        sets.append(models.collection(tmp_path / name, documents, {"q": ("synthetic", words)}, labels, name))
    examples = load_examples(sets, MonoT5Reader(renderer), centre=False, seed=0)
    batch = examples.batch(np.arange(4))
    prompts = [ids[mask == 1].tolist() for ids, mask in zip(*batch.inputs, strict=True)]
    assert prompts == [
        renderer.render("apple river", "apple river moon"), renderer.render("apple river", "apple river"),
        renderer.render("stone kettle", "stone kettle moon"), renderer.render("stone kettle", "stone kettle"),
    ]  # fmt: skip
    assert batch.teacher.tolist() == [[1, 3], [1, 1], [7, 9], [7, 7]]
    assert batch.sizes.tolist() == [2, 2]


def across_words() -> Any:
    """A tokenizer with a piece that spans words, as SentencePiece makes them with split_by_whitespace=false."""
    import string

    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", -50.0),
        *((f"▁{word}", -2.0) for word in models.WORDS.split()),
    ]
    vocabulary += [("▁moon▁Relevant:", -1.0), ("▁stone▁Document:", -1.0), ("▁", -9.0)]
    vocabulary += [(letter, -9.0) for letter in string.ascii_letters + ":"]
    inner = Tokenizer(Unigram(vocabulary, unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("append_eos", [True, False])
def test_prompts_whose_parts_cannot_be_joined_are_tokenised_whole(tmp_path, append_eos, caplog):
    tokenizer = across_words()
    queries = {"q0": "river", "q1": "the stone", "q2": "garden"}
    documents = {"d0": "a river", "d1": "bread and the moon", "d2": "stone in a garden for a long winter in the north"}
    labels = {(q, d): (0.0, float(number)) for number, (q, d) in enumerate(itertools.product(queries, documents))}
    asked = {key: ("synthetic", text) for key, text in queries.items()}
    # Two sets: rows of the second are counted on from those of the first.
    sets = [models.collection(tmp_path / name, documents, asked, labels, name) for name in ("one", "two")]
    renderer = Renderer(tokenizer, 64, append_eos=append_eos)
    examples = load_examples(sets, MonoT5Reader(renderer), centre=False, seed=0)
    assert (
        examples.prompts.odd.tolist() == [1, 3, 4, 5, 7, 10, 12, 13, 14, 16] and "tokenised as a whole" in caplog.text
    )
    rows = np.random.default_rng(0).permutation(18)
    batch = examples.batch(rows, pad_to=8)
    assert examples.lengths(rows).tolist() == batch.inputs[1].sum(1).tolist()
    pairs = list(itertools.product(queries.values(), documents.values())) * 2
    for row, ids, mask in zip(rows, batch.inputs[0], batch.inputs[1], strict=True):
        query, document = pairs[row]
        whole = tokenizer(f"Query: {query} Document: {document} Relevant:", add_special_tokens=False)["input_ids"]
        assert ids[mask == 1].tolist() == [*whole, *[tokenizer.eos_token_id] * append_eos]
        assert (ids[mask == 0] == tokenizer.pad_token_id).all()
    rows = np.array([0, 3, 5, 6, 16])
    some = examples.select(rows)
    assert some.prompts.odd.tolist() == [1, 2, 4]
    np.testing.assert_array_equal(some.batch(np.arange(5)).inputs[0], examples.batch(rows).inputs[0])


def test_queries_that_leave_no_room_are_counted(tmp_path, renderer, caplog):
    long = models.collection(
        tmp_path / "labels",
        {"d": "apple river", "e": "moon"},
        {"q": ("synthetic", "river " * 80), "r": ("synthetic", "moon")},
        {(q, d): (0.0, 1.0) for q in "qr" for d in "de"},
    )
    examples = load_examples([long], MonoT5Reader(renderer), centre=True, seed=0)
    assert "1 queries leave no room for a passage and are cut" in caplog.text
    assert examples.batch(np.arange(4)).inputs[0].shape == (4, 64)


def test_holdout_is_by_query_and_from_every_set(tmp_path, renderer):
    sets = [training_set(tmp_path / str(n), queries=n, seed=n, dataset=str(n)) for n in (10, 40, 40)]
    examples = load_examples(sets, MonoT5Reader(renderer), centre=True, seed=0)
    # The third set asks all that the second does: same texts, other rows.
    examples.text_hash[50:] = examples.text_hash[10:50]
    rows = np.arange(len(examples.query))
    held = hold_out(examples, rows, 0.1, 1000)
    training, heldout = (examples.text_hash[examples.query[part]] for part in (~held, held))
    assert not set(training) & set(heldout)
    assert np.bincount(examples.set_of[np.unique(examples.query[held])]).tolist() == [1, 4, 4]
    assert (held == hold_out(examples, rows, 0.1, 1000)).all()
    few = hold_out(examples, rows, 0.5, 5)
    assert np.bincount(examples.set_of[np.unique(examples.query[few])]).tolist() == [1, 2, 2]
    assert not hold_out(examples, rows, 0.0, 1000).any()


def test_holdout_depends_on_the_seed(toy, renderer, examples):
    rows = np.arange(len(examples.query))
    other = load_examples([toy], MonoT5Reader(renderer), centre=True, seed=1)
    assert (hold_out(examples, rows, 0.2, 1000) != hold_out(other, rows, 0.2, 1000)).any()


def test_texts_are_tokenised_once_and_mapped_from_disk(toy, renderer, examples, monkeypatch):
    first = load_examples([toy], MonoT5Reader(renderer), centre=True, seed=0)
    assert first.prompts._documents.flat.dtype == np.uint16
    assert isinstance(first.prompts._documents.flat.base, np.memmap | mmap.mmap), "mapped, not read"
    assert not first.prompts._documents.flat.flags.writeable

    def fail(*_):
        raise AssertionError("tokenised again")

    monkeypatch.setattr(Renderer, "_encode", fail)
    again = load_examples([toy], MonoT5Reader(renderer), centre=True, seed=0)
    assert again.store == first.store
    everything = np.arange(len(again.query))
    for batch, other in (
        (again.batch(everything), first.batch(everything)),
        (again.batch(everything), examples.batch(everything)),
    ):
        assert all(np.array_equal(*pair) for pair in zip(vars(batch).values(), vars(other).values(), strict=True))
    monkeypatch.undo()
    shorter = Renderer(renderer.tokenizer, max_length=32)
    assert load_examples([toy], MonoT5Reader(shorter), centre=True, seed=0).store != first.store


def test_a_failed_tokenising_leaves_no_half_of_a_store(toy, renderer, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr("inranker_flow.rankers.arrays.join", fail)
        with pytest.raises(OSError, match="disk full"):
            load_examples([toy], MonoT5Reader(renderer), centre=True, seed=0)
    store = load_examples([toy], MonoT5Reader(renderer), centre=True, seed=0).store
    assert [each.name for each in store.iterdir()] == ["store"]


def test_large_vocabularies_take_four_bytes(tmp_path):
    rows = {"some": [[65_536, 1], [], [2]], "none": [], "more": [[], [7, 8]]}
    for name, lists in rows.items():
        ids = arrays.Ids(np.int32, tmp_path, name)
        ids.add(lists[:1])
        ids.add(lists[1:])
        ids.done()
    arrays.join(tmp_path, list(rows), np.int32)
    for read, lists in zip(arrays.mapped_ragged(tmp_path, *rows), rows.values(), strict=True):
        assert [read.flat[a:b].tolist() for a, b in itertools.pairwise(read.offsets)] == lists
    assert id_kind(range(65_535)) is np.uint16 and id_kind(range(65_537)) is np.int32


@pytest.mark.parametrize("grouped", [False, True])
def test_every_pair_is_in_an_epoch_once(examples, grouped):
    rows = np.arange(3, 150)
    sampler = Sampler(examples, rows, whole_queries=False, batch_pairs=16, seed=0, grouped=grouped)
    assert sampler.steps_per_epoch == 10
    epochs = [np.concatenate([sampler.pieces(e * 10 + s)[0][0] for s in range(10)]) for e in range(2)]
    assert all(sorted(epoch) == rows.tolist() for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()
    # A step's batch is its own, whatever was asked for before: that is what a resumed training needs.
    again = Sampler(examples, rows, whole_queries=False, batch_pairs=16, seed=0, grouped=grouped)
    assert (again.pieces(13)[0][0] == sampler.pieces(13)[0][0]).all()


def padded_share(examples, sampler, steps):
    """Of the tokens that are computed, how many are padding."""
    lengths = [examples.lengths(sampler.pieces(step)[0][0]) for step in range(steps)]
    return 1 - sum(each.sum() for each in lengths) / sum(each.max() * len(each) for each in lengths)


def test_grouped_batches_hold_prompts_of_about_one_length_in_random_order(tmp_path, renderer):
    examples = load_examples([training_set(tmp_path / "set", queries=300)], MonoT5Reader(renderer), centre=True, seed=0)
    rows = np.arange(len(examples.query) - 5)
    iid, grouped = (Sampler(examples, rows, False, 16, 0, grouped=each) for each in (False, True))
    assert padded_share(examples, iid, 74) > 0.12 and padded_share(examples, grouped, 74) < 0.03
    means = [examples.lengths(grouped.pieces(step)[0][0]).mean() for step in range(74)]
    assert abs(np.corrcoef(np.arange(74), means)[0, 1]) < 0.4, "no drift from short to long"
    # The short last batch is a random one: neither the shortest prompts nor the longest.
    last = np.concatenate([grouped.pieces(75 * epoch + 74)[0][0] for epoch in range(20)])
    assert np.std(examples.lengths(last)) == pytest.approx(np.std(examples.lengths(rows)), rel=0.2)


@pytest.mark.parametrize("whole_queries", [False, True])
@pytest.mark.parametrize("ranks", [1, 3])
def test_parts_of_a_batch_keep_to_the_budget_and_are_the_batch(tmp_path, renderer, whole_queries, ranks):
    sets = [training_set(tmp_path / "a", queries=9, documents=3), training_set(tmp_path / "b", queries=11, documents=6)]
    examples = load_examples(sets, MonoT5Reader(renderer), centre=True, seed=0)
    rows, size_of = np.arange(len(examples.query)), np.bincount(examples.query)
    sampler = Sampler(examples, rows, whole_queries, batch_pairs=20, seed=0)
    budget, seen, several = 96, [], False
    for step in range(sampler.steps_per_epoch):
        ((whole, _),) = sampler.pieces(step)
        parts = [part for rank in range(ranks) for part in sampler.pieces(step, budget, rank, ranks, pad_to=8)]
        assert sorted(np.concatenate([rows for rows, _ in parts])) == sorted(whole)
        assert sum(share for _, share in parts) == pytest.approx(1)
        for part, share in parts:
            ids = examples.batch(part, pad_to=8).inputs[0]
            assert ids.shape[1] % 8 == 0
            units = len(examples.sizes(part)) if whole_queries else len(part)
            assert ids.size <= budget or units == 1
            several |= units > 1
            assert share * len(examples.sizes(whole) if whole_queries else whole) == pytest.approx(units)
            if whole_queries:
                queries = examples.query[part][np.cumsum(examples.sizes(part)) - 1]
                assert examples.sizes(part).tolist() == size_of[queries].tolist()  # none is cut
            seen += part.tolist()
    assert sorted(seen) == rows.tolist()
    assert several or whole_queries


# --- schedule ---------------------------------------------------------------------------------------------------------


def test_schedule_is_the_official_one():
    total, warmup, peak = 400_000, 20_000, 7e-5
    for t in (0, 1, 10_000, 19_999, 20_000, 20_001, 210_000, 399_999, 400_000):
        formula = peak * min(t / warmup, (total - t) / (total - warmup))
        assert learning_rate(t, total, warmup, peak) == pytest.approx(formula, rel=1e-12)


def test_schedule_ends_at_the_wanted_share():
    assert learning_rate(100, 100, 10, 2.0, 0.05) == pytest.approx(0.1)
    assert learning_rate(55, 100, 10, 2.0, 0.05) == pytest.approx((2.0 + 0.1) / 2)
    assert learning_rate(0, 100, 0, 2.0) == 2.0


def test_steps_and_warmup(caplog):
    assert plan(replace(CONFIG, epochs=3, max_steps=0, warmup_steps=5), 10) == (30, 5)
    assert plan(replace(CONFIG, epochs=3, max_steps=12, warmup_steps=5), 10) == (12, 5)
    assert not caplog.records
    assert plan(replace(CONFIG, epochs=3, max_steps=100, warmup_steps=20_000), 10) == (30, 3)
    assert "20000" in caplog.text


# --- student ----------------------------------------------------------------------------------------------------------


def plain_logits(model, labels, ids, mask):
    start = torch.full((len(ids), 1), model.config.decoder_start_token_id)
    return model(input_ids=ids, attention_mask=mask, decoder_input_ids=start).logits[:, 0, list(labels)]


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_plain_forward(examples, untied, checkpointing):
    """Except for what the closed form leaves out, whose gradient is exactly zero."""
    batch = examples.batch(np.arange(12))
    ids, mask = map(torch.from_numpy, batch.inputs)
    found = {}
    for closed in (False, True):
        model, tokenizer = load_seq2seq(models.t5(seed=1, untied=untied))
        labels = label_token_ids(tokenizer, "▁false", "▁true")
        logits = (
            LabelLogits(model, labels, checkpointing)(ids, mask) if closed else plain_logits(model, labels, ids, mask)
        )
        mse(logits, torch.from_numpy(batch.teacher), batch.sizes).backward()
        found[closed] = logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}
    torch.testing.assert_close(found[True][0], found[False][0], atol=1e-5, rtol=1e-6)
    without = [name for name, gradient in found[True][1].items() if gradient is None]
    assert without == [name for name in found[False][1] if _UNUSED.fullmatch(name)] and len(without) == 2 * 2 + 1
    for name, gradient in found[False][1].items():
        if name in without:
            assert gradient.abs().max() == 0
        else:
            error = (found[True][1][name] - gradient).abs().max()
            assert error <= 1e-5 * max(1, gradient.abs().max()), name


@pytest.mark.parametrize("untied", [False, True])
def test_dropout_is_where_t5_has_it(untied):
    """Over 20,000 draws the logits of one prompt have the mean and the spread that the plain forward gives them."""
    model, tokenizer = load_seq2seq(models.t5(seed=1, untied=untied), dropout=0.3)
    labels = label_token_ids(tokenizer, "▁false", "▁true")
    ids = torch.tensor([[5, 9, 14, 7, 30, 22, 1]]).expand(20_000, -1)
    model.train()
    torch.manual_seed(0)
    with torch.no_grad():
        closed = LabelLogits(model, labels)(ids, torch.ones_like(ids))
        plain = plain_logits(model, labels, ids, torch.ones_like(ids))
    assert plain.std(0).min() > 0.05 * plain.mean(0).abs().min()
    assert ((closed.mean(0) - plain.mean(0)).abs() < 5 * plain.std(0) / 100).all()
    torch.testing.assert_close(closed.std(0), plain.std(0), rtol=0.03, atol=0)
    margins = [delta(logits).std() for logits in (closed, plain)]
    torch.testing.assert_close(*margins, rtol=0.03, atol=0)


def test_recomputing_drops_out_the_same(examples):
    batch = examples.batch(np.arange(12))
    gradients = []
    for checkpointing in (False, True):
        model, tokenizer = load_seq2seq(models.t5(seed=1), dropout=0.2)
        scorer = LabelLogits(model, label_token_ids(tokenizer, "▁false", "▁true"), checkpointing).train()
        torch.manual_seed(3)
        scorer(*map(torch.from_numpy, batch.inputs)).square().sum().backward()
        gradients.append(model.shared.weight.grad)
    assert torch.equal(*gradients)


def test_a_model_without_a_closed_form_is_trained_by_its_own(examples, tmp_path, caplog):
    """UMT5 has a position bias in every layer."""
    from transformers import UMT5Config, UMT5ForConditionalGeneration

    tokenizer = examples.prompts.renderer.tokenizer
    config = UMT5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    torch.manual_seed(0)
    UMT5ForConditionalGeneration(config).save_pretrained(tmp_path / "umt5")
    tokenizer.save_pretrained(tmp_path / "umt5")
    student = MonoT5Student(str(tmp_path / "umt5"), CONFIG)
    model, labels = student.model, student.labels
    batch = examples.batch(np.arange(12))
    ids, mask = map(torch.from_numpy, batch.inputs)
    with caplog.at_level("INFO"):
        scorer = LabelLogits(model, labels)
    assert scorer.closed_form is None and "UMT5ForConditionalGeneration" in caplog.text
    assert torch.equal(scorer(ids, mask), plain_logits(model, labels, ids, mask))
    trainer = Trainer(replace(CONFIG, max_steps=20), examples, student)
    trainer.run(Checkpoint(tmp_path / "checkpoint.pt"))
    assert trainer.state.looks[-1].loss < trainer.state.looks[0].loss


def test_padding_changes_no_logit(examples):
    model, tokenizer = load_seq2seq(models.t5(seed=1))
    scorer = LabelLogits(model, label_token_ids(tokenizer, "▁false", "▁true"))
    batch = examples.batch(np.arange(12))
    ids, mask = (torch.from_numpy(array) for array in batch.inputs)
    longer = [torch.nn.functional.pad(array, (0, 64 - array.shape[1])) for array in (ids, mask)]
    alone = examples.batch(np.array([7]))
    with torch.no_grad():
        logits = scorer(ids, mask)
        torch.testing.assert_close(scorer(*longer), logits, atol=1e-5, rtol=0)
        one = scorer(*map(torch.from_numpy, alone.inputs))
        torch.testing.assert_close(one[0], logits[7], atol=1e-5, rtol=0)
        assert (scorer(longer[0], torch.ones_like(longer[1])) - logits).abs().max() > 1e-3  # the mask is what does it


def trainer_for(config: DistillConfig, examples: Examples) -> Trainer:
    return Trainer(config, examples, MonoT5Student(models.t5(seed=1), config))


def gradients_of(trainer: Trainer, step: int = 5) -> dict[str, torch.Tensor]:
    trainer._gradient(step)
    return {name: weight.grad for name, weight in trainer.weights.items() if weight.grad is not None}


@pytest.mark.parametrize("loss", OBJECTIVES)
@pytest.mark.parametrize("batching", ["iid", "grouped"])
def test_parts_change_no_gradient(examples, loss, batching):
    """The step with one part of everything against parts of one unit, and of some."""
    found = []
    for tokens in (100_000, 1, 200):
        trainer = trainer_for(replace(CONFIG, loss=loss, batching=batching, micro_batch_tokens=tokens), examples)
        found.append((len(trainer.sampler.pieces(5, tokens, pad_to=8)), gradients_of(trainer)))
    counts = [count for count, _ in found]
    assert counts[0] == 1 < counts[2] < counts[1] or OBJECTIVES[loss][1]
    for _, gradients in found[1:]:
        for name, whole in found[0][1].items():
            assert (gradients[name] - whole).abs().max() <= 1e-6 * max(1, whole.abs().max()), name


def test_out_of_memory_halves_the_parts_and_changes_no_gradient(examples, caplog):
    free, short = (trainer_for(CONFIG, examples) for _ in range(2))
    forward, refused, gradients = short.scorer.forward, [], []

    def with_less_memory(ids, mask):
        if ids.numel() > 100:
            refused.append(ids.numel())
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(ids, mask)

    short.scorer.forward = with_less_memory
    for trainer in (free, short):
        weights = trainer.weights.values()
        trainer.optimizer.step = lambda weights=weights: gradients.append(
            [w.grad for w in weights if w.grad is not None]
        )
        trainer._step(5, 1e-3)
    assert refused and short.step_tokens <= 100 and "out of memory" in caplog.text
    for whole, parts in zip(*gradients, strict=True):
        assert (whole - parts).abs().max() <= 1e-6


def test_a_device_without_memory_for_one_prompt_says_what_to_do(examples):
    trainer = trainer_for(CONFIG, examples)

    def never(ids, mask):
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.scorer.forward = never
    with refuses("out-of-memory", "gradient_checkpointing"):
        trainer._step(5, 1e-3)


# --- training ---------------------------------------------------------------------------------------------------------


def train(path, toy, **changes):
    checkpoint = changes.pop("checkpoint", models.t5(seed=1))
    stats = distill(replace(CONFIG, checkpoint=checkpoint, **changes), [toy], None, path)
    return stats, json.loads((path / "training.json").read_text())


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_the_student_learns_the_teachers_order(tmp_path, toy, loss):
    (tmp_path / "model").mkdir()  # as KFP may leave it
    stats, record = train(tmp_path / "model", toy, loss=loss, max_steps=80)
    first = record["looks"][0]
    assert [look["step"] for look in record["looks"]] == [0, 20, 40, 60, 80]
    # In float32 machines differ in the seventh digit: 80 steps make a few percent of it, far from these halves.
    assert stats.heldout_loss < 0.5 * first["loss"] and first["loss"] == stats.start_heldout_loss
    assert stats.heldout_kendall > first["kendall"] and stats.heldout_kendall > 0.5
    assert (stats.steps, stats.queries, stats.heldout_queries, stats.pairs) == (80, 32, 8, 128)
    assert record["train_loss"][-1]["step"] == 80 and record["train_loss"][-1]["loss"] < record["train_loss"][0]["loss"]


def judge(labels, relevant):
    """Write the pairs that are judged relevant into a labels/ folder."""
    columns = {"query_id": [q for q, _ in relevant], "doc_id": [d for _, d in relevant]}
    tables.write(tables.JUDGED, labels / tables.JUDGED.filename, columns)


@pytest.mark.parametrize("loss", ["ce", "lce", "mse+ce", "kl+lce"])
def test_the_student_learns_from_judgements(tmp_path, loss):
    """The passage of each query that the toy teacher likes best is judged relevant, but for the last queries' of all."""
    labels = training_set(tmp_path / "labels")
    table = tables.read(tables.LABELS, labels).to_pylist()
    best = {}
    for row in sorted(table, key=lambda row: row["true_logit"] - row["false_logit"]):
        best[row["query_id"]] = row["doc_id"]
    judge(labels, sorted((q, d) for q, d in best.items() if int(q[1:]) < 30))
    examples = load_examples([labels], MonoT5Reader(Renderer(load_tokenizer(models.t5()), 64)), True, 0)
    assert np.bincount(examples.relevance + 1).tolist() == [40, 90, 30]
    stats, record = train(tmp_path / "model", labels, loss=loss, max_steps=80)
    assert record["train_loss"][-1]["loss"] < 0.5 * record["train_loss"][0]["loss"]
    assert stats.heldout_kendall > record["looks"][0]["kendall"]


def test_a_loss_on_judgements_needs_some(tmp_path, toy):
    with refuses("nothing-to-train", "loss: mse+ce"):
        train(tmp_path / "model", toy, loss="mse+ce")


def heldout_logits(model, examples, trainer):
    scorer = LabelLogits(model, label_token_ids(examples.prompts.renderer.tokenizer, "▁false", "▁true")).eval()
    batch = examples.batch(trainer.heldout)
    with torch.no_grad():
        return scorer(*map(torch.from_numpy, batch.inputs)), batch


def test_the_best_student_is_written_not_the_last(tmp_path, toy, examples, monkeypatch):
    """The last ten steps move every weight by ten each, so what was learned before them is lost on any machine."""
    monkeypatch.setattr("inranker_flow.distillation.train.learning_rate", lambda step, *_: 5e-3 if step < 20 else 10.0)
    changes = {"evaluate_every": 2, "max_steps": 30}
    stats, record = train(tmp_path / "model", toy, **changes)
    looks = record["looks"]
    best = min(looks[1:], key=lambda look: look["loss"])
    assert best["step"] == stats.best_step <= 20 and best["loss"] == stats.heldout_loss < looks[-1]["loss"]
    trainer = trainer_for(replace(CONFIG, **changes), examples)
    logits, batch = heldout_logits(load_seq2seq(str(tmp_path / "model"))[0], examples, trainer)
    written = mse(logits, torch.from_numpy(batch.teacher), batch.sizes).item()
    assert written == pytest.approx(stats.heldout_loss, rel=1e-4)


@pytest.mark.parametrize("untied", [False, True])
def test_what_is_written_scores_as_what_was_trained(tmp_path, toy, examples, untied):
    checkpoint = models.t5(seed=1, untied=untied)
    config = replace(CONFIG, checkpoint=checkpoint, max_steps=10, evaluate_every=10)
    trainer = Trainer(config, examples, MonoT5Student(checkpoint, config))
    trainer.run(Checkpoint(tmp_path / "checkpoint.pt"))
    expected, _ = heldout_logits(trainer.model, examples, trainer)
    distill(config, [toy], None, tmp_path / "model")
    reloaded, _ = load_seq2seq(str(tmp_path / "model"))
    assert (reloaded.lm_head.weight is reloaded.shared.weight) is not untied
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tie_word_embeddings"] is not untied
    assert reloaded.dtype == torch.float32
    torch.testing.assert_close(heldout_logits(reloaded, examples, trainer)[0], expected, atol=1e-5, rtol=1e-5)
    manifest = read_manifest(tmp_path / "model")
    assert (manifest.dataset, manifest.stage) == ("toy", "distill")
    assert {"model.safetensors", "config.json", "tokenizer.json", "training.json"} <= set(manifest.files)


def test_phase_2_starts_from_phase_1_and_names_all_its_sets(tmp_path, toy):
    train(tmp_path / "phase1", toy, max_steps=5)
    other = training_set(tmp_path / "labels", seed=5, dataset="other")
    # A learning rate of next to nothing: what comes out is what went in.
    config = replace(CONFIG, learning_rate=1e-12, max_steps=2)
    distill(config, [toy, other], tmp_path / "phase1", tmp_path / "phase2")
    assert read_manifest(tmp_path / "phase2").dataset == "toy+other"
    weights = [load_seq2seq(str(tmp_path / name))[0].shared.weight for name in ("phase1", "phase2")]
    torch.testing.assert_close(*weights, atol=1e-8, rtol=0)
    record = json.loads((tmp_path / "phase2" / "training.json").read_text())
    assert [each["heldout_pairs"] for each in record["sets"].values()] == [32, 32]


def test_the_source_is_seen_again_in_the_share_that_is_asked_for(tmp_path, toy):
    train(tmp_path / "phase1", toy, max_steps=2)
    target = training_set(tmp_path / "labels", queries=30, seed=5, dataset="other")
    pairs = {}
    for share in (0.0, 0.25, 100.0):
        config, model = replace(CONFIG, replay=share, max_steps=2, holdout=0.0), tmp_path / f"phase2-{share}"
        distill(config, [target], tmp_path / "phase1", model, replay=toy)
        record = json.loads((model / "training.json").read_text())
        pairs[share] = {name: each["pairs"] for name, each in record["sets"].items()}
        seen = [each["dataset"] for each in record["inputs"]["training_sets"]]
        assert seen == (["other", "toy"] if share else ["other"]), "what was seen is on record"
    # Whole queries of four pairs: 30 of 120 are seven of them; all 160 pairs there are, where more is asked for.
    assert pairs == {
        0.0: {"1 other": 120},
        0.25: {"1 other": 120, "2 toy": 28},
        100.0: {"1 other": 120, "2 toy": 160},
    }


def test_selected_pairs_have_the_prompts_that_they_had(tmp_path, examples, renderer):
    rows = np.array([1, 2, 3, 8, 50])
    some = examples.select(rows)
    every = np.arange(len(rows))
    np.testing.assert_array_equal(some.lengths(every), examples.lengths(rows))
    ours, theirs = some.batch(every), examples.batch(rows)
    np.testing.assert_array_equal(ours.inputs[0], theirs.inputs[0])
    np.testing.assert_array_equal(ours.teacher, theirs.teacher)


def test_phase_2_goes_on_from_the_champion_where_it_shall(tmp_path, toy, monkeypatch, caplog):
    from inranker_flow.model_registry import stored_files

    for name, seed in (("phase1", 0), ("champion", 1)):
        train(tmp_path / name, toy, max_steps=2, seed=seed)
    monkeypatch.setattr(stored_files, "fetch", lambda reference: {"models:/m/3": tmp_path / "champion"}[reference])
    config = replace(CONFIG, learning_rate=1e-12, max_steps=1, start="champion")
    distill(config, [toy], tmp_path / "phase1", tmp_path / "onward", champion="models:/m/3")
    distill(config, [toy], tmp_path / "phase1", tmp_path / "first", champion="")
    assert "no champion to go on from" in caplog.text
    for ours, theirs in (("onward", "champion"), ("first", "phase1")):
        weights = [load_seq2seq(str(tmp_path / name))[0].shared.weight for name in (ours, theirs)]
        torch.testing.assert_close(*weights, atol=1e-8, rtol=0)


def test_centring_moves_the_level_that_the_student_learns(tmp_path):
    raised = training_set(tmp_path / "labels", level=20.0)
    losses = {c: train(tmp_path / str(c), raised, centre=c, max_steps=3)[0].heldout_loss for c in (True, False)}
    assert losses[False] > losses[True] + 100


def test_without_heldout_queries_the_last_step_is_taken(tmp_path, caplog):
    tiny = training_set(tmp_path / "labels", queries=3)
    stats, record = train(tmp_path / "model", tiny, holdout=0.02, max_steps=7)
    assert "no query is held out" in caplog.text
    assert (stats.best_step, stats.heldout_loss, stats.heldout_queries, record["looks"]) == (7, None, 0, [])


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16-weights"])
def test_bfloat16_on_request(tmp_path, toy, precision):
    """It computes with other numbers, learns, and hands on float32. How far it comes in so many steps, rounding decides,
    which differs from one CPU to the next: an optimiser's steps amplify the last digit."""
    stats, record = train(tmp_path / "model", toy, precision=precision, max_steps=40)
    plain, _ = train(tmp_path / "plain", toy, max_steps=40)
    assert record["precision"] == precision and stats.heldout_loss != plain.heldout_loss
    assert stats.heldout_loss < stats.start_heldout_loss
    written = load_seq2seq(str(tmp_path / "model"))[0].shared.weight
    assert written.dtype == torch.float32 and not torch.equal(written, written.bfloat16().float())


def test_many_small_steps_arrive_where_weights_are_bfloat16(examples):
    """By construction: a gradient of 1 moves AdamW by its rate, 2**-18, each step. A bfloat16 of 2**-6 or more has a spacing
    of 2**-13 or more, so each step would round back to nothing; 256 of them are 2**-10, eight spacings."""
    trainer = trainer_for(replace(CONFIG, precision="bfloat16-weights"), examples)
    before = {name: weight.detach().clone() for name, weight in trainer.weights.items()}
    bare = {name: weight.bfloat16() for name, weight in before.items()}
    for group in trainer.optimizer.param_groups:
        group["lr"] = 2.0**-18
    for _ in range(256):
        for weight in trainer.weights.values():
            weight.grad = torch.ones_like(weight)
        trainer.optimizer.step()
        trainer._copy(trainer.weights)
        for name in bare:
            bare[name] = bare[name] - 2.0**-18
    moved = 0
    for name, low in trainer.model.named_parameters():
        start, master = before[name], trainer.weights[name].detach()
        large = start.abs() >= 2**-6
        assert torch.equal(bare[name][large], start.bfloat16()[large]), "as it would be without masters"
        # Each step is rounded to float32, 2**-24 of the weight at most.
        bound = 256 * 2.0**-24 * (start.abs() + 1) + 1e-3 * 2.0**-10
        assert ((start - master - 2.0**-10).abs() <= bound).all(), name
        assert low.dtype == torch.bfloat16 and torch.equal(low, master.bfloat16()), name
        small = (start.abs() >= 2**-6) & (start.abs() < 2**-4)
        moved += int((low != start.bfloat16())[small].sum())
        assert (low != start.bfloat16())[small].all(), "a move of two spacings or more is seen"
    assert moved > 100


def test_the_gradients_of_all_parts_are_summed_in_float32(examples, monkeypatch):
    """The masters hold the very sum, in float32, of what each part's backward pass left in bfloat16."""
    trainer = trainer_for(replace(CONFIG, precision="bfloat16-weights", micro_batch_tokens=100), examples)
    sums: dict[str, torch.Tensor] = {}
    parts, add = [], trainer._add_to_masters

    def seen() -> None:
        for name, low in trainer.model.named_parameters():
            if low.grad is not None:
                assert low.grad.dtype == torch.bfloat16
                sums[name] = sums[name] + low.grad.float() if name in sums else low.grad.float()
        parts.append(1)
        add()

    monkeypatch.setattr(trainer, "_add_to_masters", seen)
    found = gradients_of(trainer)
    assert len(parts) > 2 and set(found) == set(sums)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32 and torch.equal(gradient, sums[name]), name
    plain = gradients_of(trainer_for(replace(CONFIG, micro_batch_tokens=100), examples))
    ours, theirs = (torch.cat([each[name].flatten() for name in sorted(plain)]) for each in (found, plain))
    # Downhill is downhill: a hundred roundings of 2**-9 each do not turn a gradient round.
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.8


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, toy, monkeypatch):
    """SIGKILL in the middle; dropout, so that random numbers count; the best step may lie before the kill."""
    config = replace(
        CONFIG, checkpoint=models.t5(seed=1), dropout=0.1, max_steps=75, evaluate_every=15, save_every=10,
        batching="grouped", micro_batch_tokens=200,
    )  # fmt: skip
    scratch = tmp_path / "scratch"
    given = KILLED + DISTILL, json.dumps(as_dict(config)), toy, tmp_path / "model"
    status, printed = forked.run(*given, OMP_NUM_THREADS="1", INRANKER_SCRATCH=str(scratch))
    assert status == -signal.SIGKILL and not (tmp_path / "model").exists(), printed

    undisturbed = distill(config, [toy], None, tmp_path / "undisturbed")
    monkeypatch.setenv("INRANKER_SCRATCH", str(scratch))
    continued = distill(config, [toy], None, tmp_path / "model")
    assert (undisturbed.resumed_step, continued.resumed_step) == (0, 30)
    assert (continued.best_step, continued.heldout_loss) == (undisturbed.best_step, undisturbed.heldout_loss)
    for name in ("model.safetensors", "training.json"):
        assert digest_file(tmp_path / "model" / name) == digest_file(tmp_path / "undisturbed" / name)
    assert not list(scratch.rglob("checkpoint.pt"))


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path, monkeypatch):
    """What outlives a pod."""
    uri = request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "store")
    monkeypatch.setenv("INRANKER_STORE", uri)
    return uri


def killed(config, labels, tmp_path, scratch):
    """A training that dies at step 37, with its machine: what is left is in the store."""
    given = COPIED + KILLED + DISTILL, json.dumps(as_dict(config)), labels, tmp_path / "lost"
    status, printed = forked.run(*given, OMP_NUM_THREADS="1", INRANKER_SCRATCH=str(tmp_path / scratch))
    assert status == -signal.SIGKILL, printed
    shutil.rmtree(tmp_path / scratch)


def test_a_training_whose_pod_is_lost_ends_as_an_undisturbed_one(tmp_path, toy, store, monkeypatch, caplog):
    """With two other processes, too, where float32 sums differ in their last digits."""
    config = replace(
        CONFIG, checkpoint=models.t5(seed=1), dropout=0.1, max_steps=75, evaluate_every=15, save_every=10,
        batching="grouped", micro_batch_tokens=200,
    )  # fmt: skip
    monkeypatch.setenv("INRANKER_STORE", "off")
    undisturbed = distill(config, [toy], None, tmp_path / "undisturbed")
    monkeypatch.setenv("INRANKER_STORE", store)
    killed(config, toy, tmp_path, "lost-scratch")
    with caplog.at_level("INFO"):
        continued = distill(config, [toy], None, tmp_path / "model")
    assert (undisturbed.resumed_step, continued.resumed_step) == (0, 30)
    assert f"checkpoint after step 30 fetched from {store}/unfinished/distill/" in caplog.text
    assert "continuing after step 30 of 75" in caplog.text
    for name in ("model.safetensors", "training.json"):
        assert digest_file(tmp_path / "model" / name) == digest_file(tmp_path / "undisturbed" / name)
    assert not list(unfinished.left(store)), "the stage is done"


@pytest.mark.long
def test_several_processes_go_on_from_the_store(tmp_path, toy, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    config = replace(CONFIG, checkpoint=models.t5(seed=1), save_every=15)
    killed(config, toy, tmp_path, "lost-scratch")
    stats = distill(replace(config, processes=2), [toy], None, tmp_path / "model")
    assert (stats.resumed_step, stats.steps) == (30, 60) and not list(unfinished.left(str(tmp_path / "store")))


def test_a_store_that_takes_no_copies_costs_a_warning(tmp_path, toy, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "file" / "store"))
    assert train(tmp_path / "model", toy, max_steps=6, save_every=2)[0].steps == 6
    assert "the store has no copy of this checkpoint" in caplog.text


def content(step):
    return {"step": step, "weights": {"w": torch.full((3,), float(step))}}


def fetched(tmp_path, place):
    """What another pod finds."""
    other = Checkpoint(tmp_path / "elsewhere" / "checkpoint.pt", place)
    other.file.parent.mkdir()
    other.fetch(anew=False)
    return other.read()


@pytest.mark.parametrize(("ends_well", "last"), [(True, 1), (False, 3)])
def test_a_slow_store_costs_versions_and_no_steps(tmp_path, monkeypatch, ends_well, last):
    """The second is passed over for the third, which is copied where somebody may ask for it."""
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    begun, may_end, copied = threading.Event(), threading.Event(), []

    def slow(path, uri, number, save=unfinished.save):
        begun.set()
        may_end.wait()
        save(path, uri, number)
        copied.append(number)

    monkeypatch.setattr(unfinished, "save", slow)
    place = unfinished.place("distill", 1)
    (tmp_path / "here").mkdir()
    with contextlib.suppress(UserError), Checkpoint(tmp_path / "here" / "checkpoint.pt", place) as checkpoint:
        for step in (1, 2, 3):
            checkpoint.write(content(step))
            begun.wait()
        shutdown = checkpoint._pool.shutdown
        checkpoint._pool.shutdown = lambda: (may_end.set(), shutdown())  # while the block ends
        if not ends_well:
            raise UserError("the loss is nan")
    assert copied == [1, 3][: 1 if ends_well else 2]
    assert fetched(tmp_path, place)["step"] == last
    assert [each.name for each in (tmp_path / "here").iterdir()] == ["checkpoint.pt"]


def test_the_later_of_two_checkpoints_is_taken(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    place = unfinished.place("distill", 1)
    with contextlib.suppress(UserError), Checkpoint(tmp_path / "checkpoint.pt", place) as checkpoint:
        checkpoint.write(content(20))
        raise UserError("told to end")
    for here, anew, wanted in ((10, False, 20), (30, False, 30), (30, True, 20), (None, False, 20)):
        there = Checkpoint(tmp_path / "other.pt", place)
        Checkpoint(there.file).write(content(here)) if here else there.file.write_bytes(b"half a file")
        there.fetch(anew)
        assert there.read()["step"] == wanted, here


def test_only_the_same_work_is_continued(tmp_path, toy, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    same = {"max_steps": 6, "save_every": 5}
    with monkeypatch.context() as patched:
        patched.setattr("inranker_flow.stages.distill._write", fail)
        with pytest.raises(OSError, match="disk full"):
            train(tmp_path / "model", toy, **same)
    assert train(tmp_path / "other", toy, learning_rate=1e-3, **same)[0].resumed_step == 0
    assert train(tmp_path / "model", toy, **same)[0].resumed_step == 5
    assert train(tmp_path / "again", toy, **same)[0].resumed_step == 0  # the scratch folder went with the first success


def test_a_start_that_was_better_is_said(tmp_path, toy, caplog):
    train(tmp_path / "phase1", toy)
    caplog.clear()
    config = replace(CONFIG, learning_rate=0.5, max_steps=3, evaluate_every=1)
    stats = distill(config, [toy], tmp_path / "phase1", tmp_path / "phase2")
    assert stats.best_step >= 1 and stats.heldout_loss > stats.start_heldout_loss
    assert "never fell below that of the start" in caplog.text


def test_an_unreadable_checkpoint_is_started_over(examples, tmp_path, caplog):
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    trainer = trainer_for(replace(CONFIG, max_steps=3), examples)
    trainer.run(Checkpoint(tmp_path / "checkpoint.pt"))
    assert trainer.resumed_step == 0 and "not readable" in caplog.text


# --- several processes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "batching"), [("mse", "grouped"), pytest.param("kl", "iid", marks=pytest.mark.long)])
def test_two_processes_train_as_one(tmp_path, toy, loss, batching):
    """The same loss curve and looks; 131 pairs or 33 queries leave a short last batch, with parts of one prompt."""
    changes = {"loss": loss, "batching": batching, "micro_batch_tokens": 100, "max_steps": 30, "save_every": 7}
    records = {}
    for count in (1, 2):
        path = tmp_path / str(count)
        stats, record = train(path, toy, processes=count, **changes)
        assert record.pop("config") == {
            **as_dict(replace(CONFIG, checkpoint=models.t5(seed=1), **changes)),
            "processes": count,
        }
        records[count] = record, load_seq2seq(str(path))[0].shared.weight, stats
    (one, weights, stats), (two, other, stats_of_two) = records[1], records[2]
    curves = [[each["loss"] for each in record["train_loss"]] for record in (one, two)]
    assert len(curves[0]) == 30 and np.abs(np.subtract(*curves)).max() < 1e-5
    looks = [[(look["step"], look["kendall"]) for look in record["looks"]] for record in (one, two)]
    assert looks[0] == looks[1] and stats_of_two.heldout_loss == pytest.approx(stats.heldout_loss, abs=1e-5)
    torch.testing.assert_close(other, weights, atol=1e-4, rtol=0)
    assert (stats_of_two.pairs, stats_of_two.steps) == (stats.pairs, 30)


@pytest.mark.long
def test_two_processes_continue_what_one_began(tmp_path, toy, monkeypatch):
    """Killed as one process, continued as two: the number of processes is not part of what is trained."""

    def fail(*_):
        raise OSError("disk full")

    same = {"max_steps": 20, "save_every": 5}
    whole, _ = train(tmp_path / "whole", toy, **same)
    with monkeypatch.context() as patched:
        patched.setattr("inranker_flow.stages.distill._write", fail)
        with pytest.raises(OSError, match="disk full"):
            train(tmp_path / "model", toy, **same)
    continued, _ = train(tmp_path / "model", toy, processes=2, **same)
    assert continued.resumed_step == 15
    assert continued.heldout_loss == pytest.approx(whole.heldout_loss, abs=1e-5)


@pytest.mark.long
def test_what_a_process_refuses_reaches_the_caller(tmp_path, toy):
    huge = training_set(tmp_path / "labels", level=1e30)
    with pytest.raises(UserError, match="held-out loss is inf before the first step"):
        train(tmp_path / "model", huge, centre=False, processes=2)
    assert not (tmp_path / "model").exists()


def test_more_processes_than_gpus_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="processes: 3, but this machine has 2 GPUs"):
        train(tmp_path / "model", tmp_path / "nothing", processes=3)


def test_splitting_the_weights_is_refused(examples, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"with FSDP, which splits the weights.*use `accelerate launch --multi_gpu`"):
        trainer_for(CONFIG, examples)


@pytest.mark.parametrize("content", ["", "{}", '{"config": {}, "training_sets": [], "start": null}'])
def test_a_job_that_is_none_is_one_line(tmp_path, capsys, content):
    from inranker_flow.distillation.__main__ import main

    (tmp_path / "job.json").write_text(content)
    assert main([str(tmp_path / "job.json")]) == 2
    assert "job.json: not a job" in capsys.readouterr().err


# --- dependencies -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_training_needs_nothing_but_what_a_bare_gpu_machine_has(tmp_path, toy):
    """torch, transformers, accelerate, numpy, pyarrow, safetensors and what they bring along."""
    config = as_dict(replace(CONFIG, checkpoint=models.t5(seed=1), max_steps=2))
    command = [sys.executable, "-c", DISTILL, json.dumps(config), str(toy), str(tmp_path / "model")]
    (tmp_path / "site").mkdir()
    done = subprocess.run(command, env=bare.environment(tmp_path / "site"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "model.safetensors").exists()


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_with_advice(tmp_path, toy):
    huge = training_set(tmp_path / "labels", level=1e30)
    with refuses("training-diverged", "held-out"):
        train(tmp_path / "model", huge, centre=False)
    with pytest.raises(UserError, match=r"training loss is inf at step 1 of 60: lower learning_rate"):
        train(tmp_path / "model", huge, centre=False, holdout=0.0)
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+ of 60: lower learning_rate"):
        train(tmp_path / "model", toy, learning_rate=1e38, max_grad_norm=0.0)
    assert not (tmp_path / "model").exists()


def test_no_labels(tmp_path):
    empty = models.collection(tmp_path / "labels", {"d": "apple"}, {"q": ("synthetic", "moon")}, {})
    with refuses("nothing-to-train", "labels.parquet"):
        train(tmp_path / "model", empty)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_labels_that_are_no_numbers_are_named(tmp_path, value):
    """1e39 is one, but not in float32, in which the student is trained."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = training_set(tmp_path / "labels", queries=3)
    path = folder / "labels.parquet"
    table = pq.read_table(path)
    values = table.column("true_logit").to_pylist()
    values[5] = value
    pq.write_table(table.set_column(table.schema.get_field_index("true_logit"), "true_logit", pa.array(values)), path)
    with pytest.raises(
        UserError, match=r"labels\.parquet: the logits of 1 of 12 pairs are no finite float32"
    ) as caught:
        train(tmp_path / "model", folder)
    assert "\n" not in str(caught.value) and "'q1'" in str(caught.value) and not (tmp_path / "model").exists()


def test_no_query_is_held_out_where_none_may_be(tmp_path, toy, caplog):
    stats, _ = train(tmp_path / "model", toy, holdout_max_queries=0, max_steps=2)
    assert stats.heldout_queries == 0 and "no query is held out" in caplog.text


def test_a_label_of_an_unknown_passage(tmp_path):
    broken = models.collection(
        tmp_path / "labels",
        {"d": "apple"},
        {"q": ("synthetic", "moon")},
        {("q", "d"): (0.0, 1.0), ("q", "x"): (0.0, 1.0)},
    )
    with pytest.raises(UserError, match=r"row 2 has doc_id 'x'"):
        train(tmp_path / "model", broken)


def test_listwise_losses_need_two_documents(tmp_path):
    single = training_set(tmp_path / "labels", documents=1)
    with refuses("setting-conflict"):
        train(tmp_path / "model", single, loss="kl")


def test_queries_with_one_document_are_left_out_of_listwise_losses(tmp_path, toy, caplog):
    single = training_set(tmp_path / "labels", queries=5, documents=1)
    config = replace(CONFIG, checkpoint=models.t5(seed=1), loss="margin_mse", max_steps=2)
    stats = distill(config, [toy, single], None, tmp_path / "model")
    assert stats.queries + stats.heldout_queries == 40 and "5 of 165 pairs" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ""}, "checkpoint: empty"),
        ({"holdout": 1.0}, "holdout: 1.0"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"true_token": "▁yes"}, "▁yes"),
        ({"true_token": "▁false"}, "must differ"),
        ({"adam_beta2": 1.0}, r"adam_beta2: 1\.0"),
        ({"holdout": 0.99, "holdout_max_queries": 1000, "loss": "kl"}, None),
    ],
)
def test_bad_settings(tmp_path, toy, changes, message):
    if message is None:  # unusual, and right: 39 of 40 queries are held out
        assert train(tmp_path / "model", toy, **changes, max_steps=1)[0].queries == 1
        return
    with pytest.raises(UserError, match=message):
        train(tmp_path / "model", toy, **changes)


def test_a_used_output_folder_is_refused_before_training(tmp_path, toy):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "note").write_text("mine")
    with refuses("folder-not-empty"):
        distill(CONFIG, [toy], None, tmp_path / "model")
