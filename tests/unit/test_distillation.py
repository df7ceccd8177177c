"""Distillation on small real checkpoints: data, schedule, training, resuming, what is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from inranker_flow.config import DistillConfig, as_dict
from inranker_flow.distillation import distill
from inranker_flow.distillation.data import Examples, Sampler, hold_out, load_examples
from inranker_flow.distillation.losses import OBJECTIVES
from inranker_flow.distillation.student import LabelLogits, quicken
from inranker_flow.distillation.train import Trainer, learning_rate, plan
from inranker_flow.errors import UserError
from inranker_flow.manifest import read_manifest
from inranker_flow.prompts import Ragged, Renderer
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq, load_tokenizer
from inranker_flow.storage import digest_file
from tests import models

#: The toy teacher likes these words: a passage's delta is the sum of their weights.
WEIGHTS = {"apple": 3.0, "river": 2.0, "moon": 1.0, "stone": -1.0, "kettle": -2.0, "rabbit": -3.0}
FILLERS = ["garden", "winter", "bridge", "copper", "doctor", "engine", "forest", "hammer"]

CONFIG = DistillConfig(
    checkpoint="", learning_rate=5e-3, warmup_steps=4, batch_size=16, epochs=100, max_steps=60, max_length=64,
    dropout=0.0, holdout=0.2, evaluate_every=20,
)  # fmt: skip


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
def examples(toy, renderer):
    return load_examples([toy], renderer, centre=True, seed=0)


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncation", ["document", "reference"])
def test_batches_hold_the_ids_that_the_renderer_assembles(renderer, truncation):
    random = np.random.default_rng(1)
    renderer = Renderer(renderer.tokenizer, 32, truncation)
    queries, documents = ([random.integers(4, 90, n).tolist() for n in (0, 1, 5, 14, 15, 28, 31, 40)] for _ in range(2))
    rows = [(q, d) for q in range(8) for d in range(8)]
    ids, mask = renderer.assemble_batch(
        Ragged.of(queries), np.array([q for q, _ in rows]), Ragged.of(documents), np.array([d for _, d in rows])
    )
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
    examples = load_examples(sets, renderer, centre=False, seed=0)
    batch = examples.batch(np.arange(4))
    prompts = [ids[mask == 1].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    assert prompts == [
        renderer.render("apple river", "apple river moon"), renderer.render("apple river", "apple river"),
        renderer.render("stone kettle", "stone kettle moon"), renderer.render("stone kettle", "stone kettle"),
    ]  # fmt: skip
    assert batch.teacher.tolist() == [[1, 3], [1, 1], [7, 9], [7, 7]]
    assert batch.sizes.tolist() == [2, 2]


def test_holdout_is_by_query_and_from_every_set(tmp_path, renderer):
    sets = [training_set(tmp_path / str(n), queries=n, seed=n, dataset=str(n)) for n in (10, 40, 40)]
    examples = load_examples(sets, renderer, centre=True, seed=0)
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
    other = load_examples([toy], renderer, centre=True, seed=1)
    assert (hold_out(examples, rows, 0.2, 1000) != hold_out(other, rows, 0.2, 1000)).any()


def test_every_pair_is_in_an_epoch_once(examples):
    rows = np.arange(3, 150)
    sampler = Sampler(examples, rows, whole_queries=False, batch_pairs=16, seed=0)
    assert sampler.steps_per_epoch == 10
    epochs = [np.concatenate([sampler.pieces(e * 10 + s)[0][0] for s in range(10)]) for e in range(2)]
    assert all(sorted(epoch) == rows.tolist() for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()
    # A step's batch is its own, whatever was asked for before: that is what a resumed training needs.
    again = Sampler(examples, rows, whole_queries=False, batch_pairs=16, seed=0)
    assert (again.pieces(13)[0][0] == sampler.pieces(13)[0][0]).all()


def test_batches_of_whole_queries(tmp_path, renderer):
    sets = [training_set(tmp_path / "a", queries=9, documents=3), training_set(tmp_path / "b", queries=11, documents=6)]
    examples = load_examples(sets, renderer, centre=True, seed=0)
    sampler = Sampler(examples, np.arange(len(examples.query)), whole_queries=True, batch_pairs=20, seed=0)
    size_of = np.bincount(examples.query)
    seen = []
    for step in range(sampler.steps_per_epoch):
        for rows, share in sampler.pieces(step, 2):
            queries = examples.query[rows][np.cumsum(examples.sizes(rows)) - 1]
            assert examples.sizes(rows).tolist() == size_of[queries].tolist()  # none is cut
            assert 0 < share < 1
            seen += queries.tolist()
    assert sorted(seen) == list(range(20))


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


@pytest.mark.parametrize("untied", [False, True])
def test_two_rows_and_quick_parts_equal_the_full_forward(renderer, examples, untied):
    batch = examples.batch(np.arange(12))
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    found = {}
    for short in (False, True):
        model, tokenizer = load_seq2seq(models.t5(seed=1, untied=untied))
        scorer = LabelLogits(model, label_token_ids(tokenizer, "▁false", "▁true"))
        assert scorer.short
        if short:
            quicken(model)
        scorer.short = short
        logits = scorer(ids, mask)
        OBJECTIVES["mse"].loss(logits, torch.from_numpy(batch.teacher), batch.sizes).backward()
        found[short] = logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}
    torch.testing.assert_close(found[True][0], found[False][0], atol=1e-5, rtol=1e-6)
    for name, gradient in found[False][1].items():
        torch.testing.assert_close(found[True][1][name], gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_a_model_that_scales_otherwise_takes_the_full_forward():
    model, tokenizer = load_seq2seq(models.t5(seed=1))
    labels = label_token_ids(tokenizer, "▁false", "▁true")
    head = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 2 * head(hidden)
    scorer = LabelLogits(model, labels)
    ids = torch.tensor([[5, 6, 7]])
    full = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=torch.zeros(1, 1, dtype=int))
    assert not scorer.short
    assert torch.equal(scorer(ids, torch.ones_like(ids)), full.logits[:, 0, list(labels)])


def test_padding_changes_no_logit(examples):
    model, tokenizer = load_seq2seq(models.t5(seed=1))
    scorer = LabelLogits(model, label_token_ids(tokenizer, "▁false", "▁true"))
    batch = examples.batch(np.arange(12))
    ids, mask = (torch.from_numpy(array) for array in (batch.input_ids, batch.attention_mask))
    longer = [torch.nn.functional.pad(array, (0, 64 - array.shape[1])) for array in (ids, mask)]
    alone = examples.batch(np.array([7]))
    with torch.no_grad():
        logits = scorer(ids, mask)
        torch.testing.assert_close(scorer(*longer), logits, atol=1e-5, rtol=0)
        one = scorer(torch.from_numpy(alone.input_ids), torch.from_numpy(alone.attention_mask))
        torch.testing.assert_close(one[0], logits[7], atol=1e-5, rtol=0)
        assert (scorer(longer[0], torch.ones_like(longer[1])) - logits).abs().max() > 1e-3  # the mask is what does it


def trainer_for(config: DistillConfig, examples: Examples) -> Trainer:
    model, tokenizer = load_seq2seq(models.t5(seed=1), dropout=0.0)
    return Trainer(config, examples, model, label_token_ids(tokenizer, "▁false", "▁true"))


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_accumulation_changes_no_gradient(examples, loss):
    """Also where the parts are of unequal size: 16 pairs in 3 parts."""
    trainers = [trainer_for(replace(CONFIG, loss=loss, gradient_accumulation=parts), examples) for parts in (1, 3)]
    gradients = []
    for trainer in trainers:
        trainer.optimizer.step = trainer.optimizer.zero_grad = lambda: None
        trainer._step(5, 1e-3)
        gradients.append([weight.grad for weight in trainer.student.parameters()])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


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
    assert stats.heldout_loss < 0.3 * first["loss"] and first["loss"] == stats.start_heldout_loss
    assert stats.heldout_kendall > first["kendall"] + 0.2 and stats.heldout_kendall > 0.75
    assert (stats.steps, stats.queries, stats.heldout_queries, stats.pairs) == (80, 32, 8, 128)
    assert record["train_loss"][-1]["step"] == 80 and record["train_loss"][-1]["loss"] < record["train_loss"][0]["loss"]


def heldout_logits(model, examples, trainer):
    scorer = LabelLogits(model, label_token_ids(examples.renderer.tokenizer, "▁false", "▁true")).eval()
    batch = examples.batch(trainer.heldout)
    with torch.no_grad():
        return scorer(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)), batch


def test_the_best_student_is_written_not_the_last(tmp_path, toy, examples):
    changes = {"learning_rate": 2e-2, "final_learning_rate": 1.0, "evaluate_every": 1, "max_steps": 40}
    stats, record = train(tmp_path / "model", toy, **changes)
    looks = record["looks"]
    best = min(looks[1:], key=lambda look: look["loss"])
    assert best["step"] == stats.best_step < 40 and best["loss"] == stats.heldout_loss < 0.9 * looks[-1]["loss"]
    trainer = trainer_for(replace(CONFIG, **changes), examples)
    logits, batch = heldout_logits(load_seq2seq(str(tmp_path / "model"))[0], examples, trainer)
    written = OBJECTIVES["mse"].loss(logits, torch.from_numpy(batch.teacher), batch.sizes).item()
    assert written == pytest.approx(stats.heldout_loss, rel=1e-4)


@pytest.mark.parametrize("untied", [False, True])
def test_what_is_written_scores_as_what_was_trained(tmp_path, toy, examples, untied):
    checkpoint = models.t5(seed=1, untied=untied)
    model, tokenizer = load_seq2seq(checkpoint, dropout=0.0)
    config = replace(CONFIG, checkpoint=checkpoint, max_steps=10, evaluate_every=10)
    trainer = Trainer(config, examples, model, label_token_ids(tokenizer, "▁false", "▁true"))
    trainer.run(tmp_path / "checkpoint.pt")
    expected, _ = heldout_logits(trainer.student, examples, trainer)
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


def test_centring_moves_the_level_that_the_student_learns(tmp_path):
    raised = training_set(tmp_path / "labels", level=20.0)
    losses = {c: train(tmp_path / str(c), raised, centre=c, max_steps=3)[0].heldout_loss for c in (True, False)}
    assert losses[False] > losses[True] + 100


def test_without_heldout_queries_the_last_step_is_taken(tmp_path, caplog):
    tiny = training_set(tmp_path / "labels", queries=3)
    stats, record = train(tmp_path / "model", tiny, holdout=0.02, max_steps=7)
    assert "no query is held out" in caplog.text
    assert (stats.best_step, stats.heldout_loss, stats.heldout_queries, record["looks"]) == (7, None, 0, [])


def test_bfloat16_on_request(tmp_path, toy):
    stats, record = train(tmp_path / "model", toy, precision="bfloat16", max_steps=20)
    plain, _ = train(tmp_path / "plain", toy, max_steps=20)
    assert record["precision"] == "bfloat16"
    assert stats.heldout_loss != plain.heldout_loss
    assert stats.heldout_loss == pytest.approx(plain.heldout_loss, rel=0.3)
    assert load_seq2seq(str(tmp_path / "model"))[0].dtype == torch.float32


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, toy, monkeypatch):
    """SIGKILL in the middle; dropout, so that random numbers count; the best step may lie before the kill."""
    config = replace(CONFIG, checkpoint=models.t5(seed=1), dropout=0.1, max_steps=150, evaluate_every=15, save_every=10)
    script = (
        "import json, sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from inranker_flow.config import DistillConfig, parse; from inranker_flow.distillation import distill\n"
        "config, labels, model = sys.argv[1:]\n"
        "distill(parse(DistillConfig, json.loads(config), 'config'), [Path(labels)], None, Path(model))\n"
    )
    scratch = tmp_path / "scratch"
    command = [sys.executable, "-c", script, json.dumps(as_dict(config)), str(toy), str(tmp_path / "model")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "INRANKER_SCRATCH": str(scratch)})
    try:
        deadline = time.monotonic() + 60
        while not list(scratch.rglob("checkpoint.pt")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "model").exists()

    undisturbed = distill(config, [toy], None, tmp_path / "undisturbed")
    monkeypatch.setenv("INRANKER_SCRATCH", str(scratch))
    continued = distill(config, [toy], None, tmp_path / "model")
    assert undisturbed.resumed_step == 0 < continued.resumed_step < 150
    assert (continued.best_step, continued.heldout_loss) == (undisturbed.best_step, undisturbed.heldout_loss)
    for name in ("model.safetensors", "training.json"):
        assert digest_file(tmp_path / "model" / name) == digest_file(tmp_path / "undisturbed" / name)
    assert not list(scratch.rglob("checkpoint.pt"))


def test_only_the_same_work_is_continued(tmp_path, toy, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    same = {"max_steps": 6, "save_every": 5}
    with monkeypatch.context() as patched:
        patched.setattr("inranker_flow.distillation.train._write", fail)
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
    trainer.run(tmp_path / "checkpoint.pt")
    assert trainer.resumed_step == 0 and "not readable" in caplog.text


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_with_advice(tmp_path, toy):
    huge = training_set(tmp_path / "labels", level=1e30)
    with pytest.raises(UserError, match=r"held-out loss is inf before the first step: check the checkpoint"):
        train(tmp_path / "model", huge, centre=False)
    with pytest.raises(UserError, match=r"training loss is inf at step 1 of 60: lower learning_rate"):
        train(tmp_path / "model", huge, centre=False, holdout=0.0)
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+ of 60: lower learning_rate"):
        train(tmp_path / "model", toy, learning_rate=1e38, max_grad_norm=0.0)
    assert not (tmp_path / "model").exists()


def test_no_labels(tmp_path):
    empty = models.collection(tmp_path / "labels", {"d": "apple"}, {"q": ("synthetic", "moon")}, {})
    with pytest.raises(UserError, match=r"labels\.parquet: no labels"):
        train(tmp_path / "model", empty)


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
    with pytest.raises(UserError, match="kl compares the documents of a query"):
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
    ],
)
def test_bad_settings(tmp_path, toy, changes, message):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "model", toy, **changes)


def test_a_used_output_folder_is_refused_before_training(tmp_path, toy):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "note").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        distill(CONFIG, [toy], None, tmp_path / "model")
