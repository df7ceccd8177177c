"""Causal students trained by LoRA adapters: what is trained, what is kept, what is merged, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inranker_flow import reading
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.sections import DistillConfig, ScoringConfig
from inranker_flow.distillation import optimizer
from inranker_flow.distillation.data import load_examples
from inranker_flow.distillation.losses import mse
from inranker_flow.distillation.train import Trainer
from inranker_flow.preflight.checkpoints import check_student
from inranker_flow.profiles import load
from inranker_flow.rankers import templates
from inranker_flow.rankers.checkpoints import load_generator
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.reranker import Reranker
from inranker_flow.settings.pin import pin
from inranker_flow.stages.distill import distill
from inranker_flow.storage.local import digest_file
from inranker_flow.students.base import depth
from inranker_flow.students.causal import _answers
from inranker_flow.students.loading import load_student
from tests import forked, models, starts, teachers
from tests.refusals import refuses
from tests.unit.test_distillation import DISTILL, KILLED, training_set

CONFIG = DistillConfig(
    learning_rate=1e-2, warmup_steps=4, batch_size=16, epochs=100, max_steps=24, max_length=200, dropout=0.0, holdout=0.2,
    evaluate_every=12, lora_rank=4, lora_dropout=0.1,
)  # fmt: skip
#: Of several lengths, so that batches are padded; one document is cut.
PAIRS = [
    ("what is bread", "the river and the stone"),
    ("how long does it take", "bread " * 190),
    ("moon " * 20 + "moon", "a stone in the garden"),
    ("moon", "a"),
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("toy") / "labels", queries=20)


@cache
def start(kind: str) -> str:
    """Folder of a causal checkpoint; ``reranker``: of a published family, which its name says."""
    if kind != "reranker":
        return starts.llama() if kind == "tied-llama" else teachers.causal(kind)
    folder = models.folder() / "Qwen3-Reranker-0.0B"
    shutil.copytree(teachers.causal("qwen3"), folder)
    return str(folder)


#: Tied and untied outputs, capped logits, transposed layers and positions that are learnt, another tokenizer.
KINDS = ("reranker", "llama", "tied-llama", "gemma2", "gpt2", "metaspace")


def adapted(kind: str, **changes: object):
    """A student whose adapters add something."""
    student = load_student(start(kind), replace(CONFIG, checkpoint=start(kind), **changes))
    generator = torch.Generator().manual_seed(0)
    for name, weight in student.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.02, generator=generator)
    return student


def examples_of(student, path: Path):
    labels = models.collection(
        path,
        {f"d{number}": document.strip() for number, (_, document) in enumerate(PAIRS)},
        {f"q{number}": ("synthetic", query) for number, (query, _) in enumerate(PAIRS)},
        {(f"q{number}", f"d{number}"): (0.0, 1.0) for number in range(len(PAIRS))},
    )
    return load_examples([labels], student.reader, True, 0)


def logits(student, examples, checkpointing: bool = False) -> torch.Tensor:
    batch = examples.batch(np.arange(len(PAIRS)), 8)
    return student.scorer(checkpointing)(*map(torch.from_numpy, batch.inputs))


def written(student, folder: Path) -> Path:
    student.finish()
    student.save(folder)
    (folder / reading.FILENAME).write_text(json.dumps(vars(student.reads)))
    return folder


# --- what is trained, and what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_by_its_adapters_and_its_folder_is_a_plain_one_that_scores_as_measured(kind, tmp_path, toy):
    config = replace(CONFIG, checkpoint=start(kind))
    stats = distill(config, [toy], None, tmp_path / "model")
    looks = json.loads((tmp_path / "model" / "training.json").read_text())["looks"]
    assert stats.heldout_loss < 0.9 * looks[0]["loss"]

    files = {each.name for each in (tmp_path / "model").iterdir()}
    assert "model.safetensors" in files and not [name for name in files if "adapter" in name]
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (start(kind), tmp_path / "model"))
    assert before.keys() == after.keys() and {each.dtype for each in after.values()} == {torch.float32}
    plain, _ = load_generator(start(kind))
    assert stats.parameters == sum(each.numel() for each in plain.parameters())
    outputs = {f"{name}.weight" for name, each in plain.named_modules() if each is plain.get_output_embeddings()}
    linear = {
        f"{name}.weight" for name, each in plain.named_modules() if type(each).__name__ in ("Linear", "Conv1D")
    } - outputs
    assert {name for name in before if not torch.equal(before[name], after[name])} == linear

    student = load_student(start(kind), config)
    examples = load_examples([toy], student.reader, config.centre, config.seed)
    trainer = Trainer(config, examples, student)
    ranker = load_ranker(
        str(tmp_path / "model"), reading.scoring_of(tmp_path / "model", ScoringConfig(dtype="float32"))
    )
    found = torch.from_numpy(ranker.job(examples.prompts).score(trainer.heldout)).float()
    loss = mse(found, torch.from_numpy(examples.teacher[trainer.heldout]), examples.sizes(trainer.heldout))
    assert loss.item() == pytest.approx(stats.heldout_loss, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_training_scores_as_scoring_does(kind, tmp_path):
    """Of the same ids, padded on the left, logits are equal to 5e-6 in fp32: apart from the weights, and merged into them."""
    student = adapted(kind)
    examples = examples_of(student, tmp_path / "labels")
    student.scorer(False).eval()
    with torch.no_grad():
        batch = examples.batch(np.arange(len(PAIRS)), 8)
        assert (batch.inputs[1][:, 0] == 0).any(), "something is padded"
        taught = logits(student, examples).double().numpy()
    folder = written(student, tmp_path / "model")
    pairs = [(query, document.strip()) for query, document in PAIRS]
    ranker = load_ranker(str(folder), reading.scoring_of(folder, ScoringConfig(dtype="float32")))
    for ours, theirs in zip(ranker.prepare_pairs(pairs)._prompts.inputs(np.arange(4), 8), batch.inputs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(ranker.score(pairs), taught, atol=5e-6, rtol=0)
    np.testing.assert_allclose(Reranker(folder).score(pairs), taught[:, 1] - taught[:, 0], atol=1e-5, rtol=0)


def test_a_published_reranker_keeps_its_prompt_and_another_model_gets_the_plain_one():
    for kind, prompt, answers in (
        ("reranker", "qwen3-reranker", ("no", "yes")),
        ("qwen3", "plain", ("Ġfalse", "Ġtrue")),
        ("metaspace", "plain", ("▁no", "▁yes")),
    ):
        reads = load_student(start(kind), CONFIG).reads
        assert (reads.prompt, (reads.false_token, reads.true_token)) == (templates.read(prompt), answers)


def test_only_adapters_are_trained_and_they_add_nothing_at_first(tmp_path):
    student, whole = (load_student(start("llama"), replace(CONFIG, lora_rank=rank)) for rank in (4, 0))
    trained = optimizer.trained(student.model, False)
    assert trained and all(".lora_" in name for name in trained)
    assert {depth(name, 3) for name in trained} == {1, 2, 3}, "each has the learning rate of its layer"
    examples = examples_of(student, tmp_path / "labels")
    for each in (student, whole):
        each.scorer(False).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(student, examples), logits(whole, examples), atol=0, rtol=0)


def test_the_seed_alone_decides_the_new_matrices():
    def matrices(seed: int) -> list[torch.Tensor]:
        torch.rand(seed + 3)
        before = torch.get_rng_state()
        model = load_student(start("llama"), replace(CONFIG, seed=seed)).model
        assert torch.equal(torch.get_rng_state(), before), "the process draws as if nothing had been made"
        return [each.clone() for name, each in model.named_parameters() if "lora_A" in name]

    first, again, other = matrices(0), matrices(0), matrices(1)
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))


@pytest.mark.parametrize(("alpha", "scale"), [(0, 2.0), (6, 1.5)])
def test_rank_scale_and_dropout_are_the_settings(alpha, scale):
    model = load_student(start("llama"), replace(CONFIG, lora_alpha=alpha, lora_dropout=0.25)).model
    layer = model.model.layers[0].mlp.down_proj
    assert (layer.r, layer.scaling) == ({"default": 4}, {"default": scale})
    assert layer.lora_dropout["default"].p == 0.25


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_models_own_dropout_is_another_setting_whatever_it_is_called(rate):
    """GPT-2's: attn_pdrop, embd_pdrop and resid_pdrop."""
    for kind in ("gpt2", "llama"):
        model = load_student(start(kind), replace(CONFIG, dropout=rate, lora_dropout=0.0)).model
        assert {each.p for each in model.modules() if isinstance(each, torch.nn.Dropout)} <= {rate}
        assert kind != "gpt2" or model.config.attn_pdrop == rate


def test_an_earlier_student_gets_new_adapters_in_phase_2(tmp_path, toy):
    config = replace(CONFIG, checkpoint=start("reranker"), max_steps=4, evaluate_every=4)
    distill(config, [toy], None, tmp_path / "phase1")
    distill(replace(config, checkpoint=""), [toy], tmp_path / "phase1", tmp_path / "phase2")
    first, second = (load_file(tmp_path / phase / "model.safetensors") for phase in ("phase1", "phase2"))
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert reading.of_folder(tmp_path / "phase1") == reading.of_folder(tmp_path / "phase2")


def test_students_of_two_targets_are_merged_whole(tmp_path, toy):
    """With some of the start's layers, too, which the students have no more."""
    other = training_set(tmp_path / "other", queries=20, seed=1, dataset="other")
    config = replace(
        CONFIG, checkpoint=start("llama"), max_steps=4, evaluate_every=4, merge="mean", layers=(0, 2), max_length=64
    )
    distill(config, [toy, other], None, tmp_path / "merged")
    alone = [
        distill(replace(config, merge="none"), [each], None, tmp_path / each.parent.name / "alone")
        and load_file(tmp_path / each.parent.name / "alone" / "model.safetensors")
        for each in (toy, other)
    ]
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert found.keys() == alone[0].keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, (alone[0][name] + alone[1][name]) / 2)


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16-weights"])
@pytest.mark.parametrize("kind", ["tied-llama", "llama"])
def test_lower_precision_merges_in_float32(kind, precision, tmp_path, toy):
    stats = distill(
        replace(CONFIG, checkpoint=start(kind), precision=precision, max_steps=12), [toy], None, tmp_path / "model"
    )
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (start(kind), tmp_path / "model"))
    assert {each.dtype for each in after.values()} == {torch.float32}
    assert stats.heldout_loss < stats.start_heldout_loss
    norms = [name for name in before if "norm" in name]
    assert norms and all(torch.equal(before[name], after[name]) for name in [*norms, "model.embed_tokens.weight"])
    name = "model.layers.0.mlp.down_proj.weight"
    moved = after[name] - before[name]
    # What was added has the adapters' rank: rounding the weights to bfloat16 on the way would have any.
    values = torch.linalg.svdvals(moved)
    assert values[3] > 0 and values[4] < 1e-3 * values[3]


# --- killed, recomputed, shared out -----------------------------------------------------------------------------------


def test_a_killed_training_ends_as_an_undisturbed_one_and_its_checkpoint_holds_adapters_alone(
    tmp_path, toy, monkeypatch
):
    config = replace(
        CONFIG, checkpoint=start("tied-llama"), dropout=0.1, max_steps=40, evaluate_every=15, save_every=10,
        batching="grouped", micro_batch_tokens=400,
    )  # fmt: skip
    scratch = tmp_path / "scratch"
    given = KILLED + DISTILL, json.dumps(as_dict(config)), toy, tmp_path / "model"
    status, printed = forked.run(*given, OMP_NUM_THREADS="1", INRANKER_SCRATCH=str(scratch))
    assert status == -signal.SIGKILL, printed
    [file] = scratch.rglob("checkpoint.pt")
    content = torch.load(file, weights_only=True)
    for part in ("weights", "best_weights"):
        assert content[part] and all(".lora_" in name for name in content[part])

    undisturbed = distill(config, [toy], None, tmp_path / "undisturbed")
    monkeypatch.setenv("INRANKER_SCRATCH", str(scratch))
    continued = distill(config, [toy], None, tmp_path / "model")
    assert (undisturbed.resumed_step, continued.resumed_step) == (0, 30)
    for name in ("model.safetensors", "training.json"):
        assert digest_file(tmp_path / "model" / name) == digest_file(tmp_path / "undisturbed" / name)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_layers_are_computed_again_in_the_backward_pass_with_the_same_gradient(kind, tmp_path):
    """Whether or not anything that goes into them asks for a gradient: embeddings are frozen."""
    gradients, calls = [], []
    for checkpointing in (False, True):
        student = adapted(kind, lora_dropout=0.0)
        examples = examples_of(student, tmp_path / f"labels-{checkpointing}")
        seen: list[int] = []
        inside = {"llama": "model.layers.0.self_attn.q_proj", "gpt2": "transformer.h.0.attn.c_attn"}[kind]
        student.model.get_submodule(inside).register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        student.model.train()
        logits(student, examples, checkpointing).square().sum().backward()
        gradients.append([each.grad for each in student.model.parameters() if each.requires_grad])
        calls.append(len(seen))
    assert calls == [1, 2]
    for plain, again in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(plain, again)


# --- the answers of a new student -------------------------------------------------------------------------------------


def test_the_answer_is_the_piece_that_the_tokenizer_makes_where_the_model_goes_on():
    words = ("yes", "no", "true", "false")
    metaspace = teachers.metaspace()
    for name, after, answers in (
        ("after a colon", "\nRelevant:{answer}", ("▁no", "▁yes")),
        ("on a new line", "\nRelevant?\n{answer}", ("no", "yes")),
    ):
        template = templates.load(f"{{query}} {{document}}{after}", "")
        assert _answers("x", metaspace, template) == answers, name
    for template in ("plain", "{query} {document}\nAnswer:\n{answer}"):
        loaded = templates.load(template, "")
        false, true = _answers("x", bpe(words), loaded)
        [text] = bpe(words).batch_decode([bpe(words).convert_tokens_to_ids([true])])
        blank = "" if loaded.after.endswith("\n") else " "
        assert (text, false) == (f"{blank}yes", "no" if not blank else "Ġno")
    with refuses("checkpoint-tokens", "x", "true_token"):
        _answers("x", teachers.bpe(merges=False), templates.load("plain", ""))


@cache
def bpe(words: tuple[str, ...]):
    """A byte-level BPE with all of ``words``, with a blank before them and without one."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=alphabet)
    made.train_from_iterator([f" {word}\n{word}\n" * 50 for word in words], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


# --- what is refused, before anything is paid for ---------------------------------------------------------------------


def test_adapters_for_another_kind_are_refused_at_submission_in_preflight_and_by_the_stage():
    for name in ("t5", "bert", "init-encoder"):
        reference, kind = starts.ALL[name]()
        config = replace(CONFIG, checkpoint=reference, max_length=64)
        with refuses("setting-conflict", reference, "phase1.lora_rank 4", kind):
            check_student(config)
        with refuses("setting-conflict", reference, "phase2.lora_rank 4", kind):
            check_student(replace(config, lora_rank=0), config)
        assert check_student(replace(config, lora_rank=0), replace(config, start="champion"))
        with refuses("setting-conflict", reference, "lora_rank 4", kind):
            load_student(reference, config)
        for phase in ("phase1", "phase2"):
            settings = {"phase1.checkpoint": reference, "phase1.max_length": 64, "phase2.max_length": 64}
            with refuses("setting-conflict", f"{phase}.lora_rank 4", kind):
                load("demo", {**settings, f"{phase}.lora_rank": 4})
    reference = starts.ALL["llama"]()[0]
    profile = load("demo", {"phase1.checkpoint": reference, "phase1.lora_rank": 4, "phase2.lora_rank": 4})
    assert check_student(profile.phase1, profile.phase2).endswith("of the kind causal")


def test_without_peft_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    for act in (
        lambda: load("demo", {"phase1.checkpoint": start("llama"), "phase1.lora_rank": 4}),
        lambda: check_student(replace(CONFIG, checkpoint=start("llama"))),
        lambda: load_student(start("llama"), CONFIG),
    ):
        with refuses("package-missing", "lora_rank", "peft", "inranker-flow[train]"):
            act()
    load_student(start("llama"), replace(CONFIG, lora_rank=0))


def test_an_adapter_alone_is_no_start(tmp_path):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_generator(start("llama"))
    get_peft_model(model, LoraConfig(target_modules="all-linear")).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").is_file() and not (tmp_path / "config.json").exists()
    base = start("llama")
    for act in (
        lambda: check_student(replace(CONFIG, checkpoint=str(tmp_path))),
        lambda: load_student(str(tmp_path), CONFIG),
        lambda: pin(load("demo", {"phase1.checkpoint": str(tmp_path)})),
    ):
        with refuses("checkpoint-adapter", str(tmp_path), base, "merge_and_unload"):
            act()


def test_a_prompt_of_ones_own_is_looked_at_at_submission_and_goes_along_as_text(tmp_path):
    path = tmp_path / "mine.txt"
    for text, code in (("{document}", "prompt-form"), (None, "prompt-missing")):
        path.write_text(text) if text else path.unlink()
        with refuses(code, "phase1.prompt", str(path)):
            load("demo", {"phase1.checkpoint": start("llama"), "phase1.prompt": str(path)})
    path.write_text("Q {query} D {document} {answer}")
    settings = {"phase1.checkpoint": start("llama"), "phase1.prompt": str(path), "phase2.prompt": "plain"}
    pinned = pin(load("demo", settings))
    assert (pinned.phase1.prompt, pinned.phase2.prompt) == (path.read_text(), "plain")


def test_settings_of_adapters_that_are_not_asked_for_are_told():
    from inranker_flow.settings.checks import notes

    told = [each for each in notes(load("demo", {"phase2.lora_alpha": 8})) if "lora" in each]
    assert told and "phase2.lora_rank" in told[0]
