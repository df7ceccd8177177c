"""Checkpoints that are odd or not whole: the right score, or one line before anything is paid for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inranker_flow.config.sections import DistillConfig, ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.preflight.checkpoints import check_student, check_teacher
from inranker_flow.rankers.kinds import find_kind
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.rankers.texts import Texts
from inranker_flow.students.base import is_embedding
from inranker_flow.students.loading import load_student
from tests import models, starts, teachers
from tests.refusals import refuses

PAIRS = [
    ("what is bread", "the river and the stone"),
    ("moon", "a garden"),
    ("apple yellow", "stone light summer " * 4),
]
CONFIG = DistillConfig(max_length=64)
Change = Callable[[Path], None]


def copy(source: str, path: Path, *changes: Change) -> str:
    """The checkpoint's folder, changed."""
    shutil.copytree(source, path)
    for change in changes:
        change(path)
    return str(path)


def settings(name: str = "config.json", **values: Any) -> Change:
    """Other values in a JSON file (None: without that key)."""

    def change(path: Path) -> None:
        found = {**json.loads((path / name).read_text()), **values}
        (path / name).write_text(json.dumps({key: value for key, value in found.items() if value is not None}))

    return change


def weights(made: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Other tensors."""

    def change(path: Path) -> None:
        from safetensors.torch import load_file, save_file

        save_file(made(load_file(path / "model.safetensors")), path / "model.safetensors", metadata={"format": "pt"})

    return change


def asked_for(name: str, **options: Any) -> DistillConfig:
    return DistillConfig(checkpoint=name, **{"max_length": 64, **options})


def scores(logits: np.ndarray) -> np.ndarray:
    return logits[:, 1] - logits[:, 0]


def trained(student: Any, pairs: list[tuple[str, str]] = PAIRS, pad_to: int = 1) -> np.ndarray:
    """What training computes of the pairs."""
    import torch

    texts = Texts.of(pairs)
    prompts = student.reader.prepare(texts.queries, texts.documents, texts.index)
    with torch.no_grad():
        inputs = map(torch.from_numpy, prompts.inputs(np.arange(len(pairs)), pad_to))
        found: np.ndarray = student.scorer(False).eval()(*inputs).double().numpy()
    return found


# --- tokenizers -------------------------------------------------------------------------------------------------------


def without_pad(path: Path) -> None:
    import transformers

    inner = teachers.wordpiece().backend_tokenizer
    marks = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **marks).save_pretrained(path)


@pytest.mark.parametrize(
    "change",
    [
        settings("tokenizer_config.json", padding_side="left", truncation_side="left"),
        settings("tokenizer_config.json", model_max_length=10**30),
        without_pad,
    ],
    ids=["left", "endless", "no-pad"],
)
def test_an_encoder_of_an_odd_tokenizer_scores_alike_in_sentence_transformers(tmp_path, change):
    library = pytest.importorskip("sentence_transformers")
    start = copy(starts.encoder("bert"), tmp_path / "start", change)
    folder = starts.as_student(start, CONFIG, f"odd-{tmp_path.name}")
    own = scores(load_ranker(folder, ScoringConfig(max_length=64)).score(PAIRS))
    theirs = library.CrossEncoder(folder, device="cpu").predict(PAIRS, batch_size=len(PAIRS))
    np.testing.assert_allclose(theirs, own, rtol=0, atol=1e-4)


def test_token_types_that_a_model_does_not_know_are_one_line(tmp_path):
    import torch

    start = copy(
        starts.encoder("bert"),
        tmp_path / "start",
        settings(type_vocab_size=1),
        weights(
            lambda found: {
                name: torch.clone(each[:1]) if "token_type" in name else each for name, each in found.items()
            }
        ),
    )
    with refuses("checkpoint-tokenizer", start, "token types up to 1", "model_input_names"):
        load_ranker(start, ScoringConfig(max_length=64))
    with refuses("checkpoint-tokenizer", start):
        load_student(start, CONFIG)


# --- what config.json says and what the weights say -------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("head", [True, False])
def test_another_number_of_layers_than_the_weights_have_is_refused(tmp_path, layers, head):
    start = copy(starts.encoder("bert", head=head), tmp_path / "m", settings(num_hidden_layers=layers))
    with refuses("checkpoint-config", start, f"says {layers} layers", "weights have 2"):
        check_student(asked_for(start))
    if head:
        with refuses("checkpoint-config", start):
            check_teacher(TeacherConfig(start))
        with refuses("checkpoint-config" if layers == 1 else "checkpoint-incomplete", start):
            load_ranker(start, ScoringConfig(max_length=64))
    with refuses("checkpoint-config" if layers == 1 else "checkpoint-incomplete", start):
        load_student(start, CONFIG)


def test_fewer_layers_in_a_t5s_config_are_refused_where_it_is_loaded(tmp_path):
    start = copy(models.t5(), tmp_path / "m", settings(num_layers=1))
    with refuses("checkpoint-config", start, "weights have 2"):
        load_student(start, CONFIG)


@pytest.mark.parametrize("name", ["vocab_size", "intermediate_size"])
def test_other_sizes_than_the_weights_have_are_no_random_weights(tmp_path, name):
    start = copy(starts.encoder("bert", head=False), tmp_path / "m", settings(**{name: 300}))
    with refuses("checkpoint-config", start, "sizes in config.json"):
        load_student(start, CONFIG)


def test_a_head_that_the_weights_lack_is_told_by_preflight(tmp_path):
    start = copy(
        starts.encoder("bert", head=False), tmp_path / "m", settings(architectures=["BertForSequenceClassification"])
    )
    for check in (lambda: check_student(asked_for(start)), lambda: check_teacher(TeacherConfig(start))):
        with refuses("checkpoint-incomplete", start, "hold no head"):
            check()


def test_a_head_that_config_does_not_name_is_kept(tmp_path):
    plain = starts.encoder("bert", ("no", "yes"))
    unnamed = copy(plain, tmp_path / "m", settings(architectures=None))
    assert (trained(load_student(unnamed, CONFIG)) == trained(load_student(plain, CONFIG))).all()
    for look in (lambda: check_teacher(TeacherConfig(unnamed)), lambda: find_kind(unnamed)):
        with refuses("checkpoint-kind", unnamed, "names no architectures", "teacher.scoring.kind"):
            look()
    bare = copy(starts.encoder("bert", head=False), tmp_path / "bare", settings(architectures=None))
    assert load_student(bare, CONFIG).model.config.num_labels == 1


def test_weights_that_are_not_finite_start_nothing(tmp_path):
    start = copy(
        starts.encoder("bert"),
        tmp_path / "m",
        weights(lambda found: {**found, "classifier.bias": found["classifier.bias"] * float("nan")}),
    )
    with refuses("checkpoint-damaged", start, "classifier.bias"):
        load_student(start, CONFIG)


def test_whole_weights_beside_an_adapter_are_refused(tmp_path):
    def adapter(path: Path) -> None:
        (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))

    start = copy(starts.llama(), tmp_path / "m", adapter)
    for attempt in (lambda: check_student(asked_for(start)), lambda: load_student(start, CONFIG)):
        with refuses("checkpoint-adapter", start, "whole weights and adapter_config.json"):
            attempt()


def test_a_t5_that_does_not_say_how_its_decoder_begins_scores_as_t5s_do(tmp_path):
    start = copy(models.t5(), tmp_path / "m", settings(decoder_start_token_id=None))
    found = load_ranker(start, ScoringConfig(max_length=64)).score(PAIRS)
    assert (found == load_ranker(models.t5(), ScoringConfig(max_length=64)).score(PAIRS)).all()
    np.testing.assert_allclose(trained(load_student(start, CONFIG)), found, rtol=0, atol=5e-6)


def test_a_monot5_of_a_tokenizer_that_cuts_the_beginning_is_saved_as_one_that_does_not(tmp_path):
    import transformers

    left = settings("tokenizer_config.json", truncation_side="left", padding_side="left")
    folder = starts.as_student(copy(models.t5(), tmp_path / "m", left), CONFIG, "odd-t5-left")
    read = transformers.AutoTokenizer.from_pretrained(folder)
    assert (read.truncation_side, read.padding_side) == ("right", "right")


def test_a_gguf_alone_is_named(tmp_path):
    (tmp_path / "model.Q4_K_M.gguf").write_bytes(b"GGUF")
    with refuses("checkpoint-incomplete", "model.Q4_K_M.gguf is of a format that is not read"):
        check_student(asked_for(str(tmp_path)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_takes_no_place_that_a_model_has_not(tmp_path, dtype):
    shorter = weights(
        lambda found: {name: each[:61].clone() if "position_emb" in name else each for name, each in found.items()}
    )
    start = copy(starts.encoder("bert"), tmp_path / "m", settings(max_position_embeddings=61), shorter)
    pairs = [*PAIRS, ("what is bread", "river stone " * 60)]
    scoring = ScoringConfig(max_length=61, dtype=dtype)
    assert np.isfinite(load_ranker(start, scoring).score(pairs)).all()
    assert np.isfinite(trained(load_student(start, DistillConfig(max_length=61)), pairs, pad_to=8)).all()


# --- kinds and settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [("qwen3", "Qwen3"), ("wav2vec2", "Wav2Vec2")])
def test_a_head_on_what_is_no_encoder_is_told_by_preflight(tmp_path, kind, name):
    config = {"model_type": kind, "architectures": [f"{name}ForSequenceClassification"]}
    path = models.stub_files(tmp_path / kind, config)
    with refuses("checkpoint-kind", f"a {name}ForSequenceClassification is no reranker"):
        check_teacher(TeacherConfig(str(path)))


@pytest.mark.parametrize("kind", ["fnet", "convbert", "nystromformer", "yoso"])
def test_an_encoder_that_reads_padding_is_refused(tmp_path, kind):
    path = models.stub_files(
        tmp_path / kind, {"model_type": kind, "architectures": ["XForSequenceClassification"], "num_labels": 1}
    )
    for attempt in (
        lambda: check_teacher(TeacherConfig(str(path))),
        lambda: check_student(asked_for(str(path))),
        lambda: find_kind(str(path)),
        lambda: load_student(str(path), CONFIG),
    ):
        with refuses("checkpoint-kind", f"a {kind} reads the padding"):
            attempt()


def test_an_encoder_that_reads_padding_is_refused_whatever_kind_is_set(tmp_path):
    import transformers

    read = teachers.wordpiece()
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": len(read)}
    config = transformers.FNetConfig(**shape, pad_token_id=read.pad_token_id, num_labels=1)
    start = teachers._saved(transformers.FNetForSequenceClassification(config), read, "odd-fnet")
    for kind in ("auto", "encoder"):
        with refuses("checkpoint-kind", "a fnet reads the padding"):
            load_ranker(start, ScoringConfig(max_length=64, kind=kind))


def test_more_tokens_than_positions_are_told_by_preflight():
    for checkpoint, most in ((starts.encoder("bert"), 512), (starts.encoder("roberta"), 512)):
        with refuses("setting-value", f"checkpoint's {most} positions", "phase1.max_length"):
            check_student(asked_for(checkpoint, max_length=most + 1))
        with refuses("setting-value", f"checkpoint's {most} positions", "teacher.scoring.max_length"):
            check_teacher(TeacherConfig(checkpoint, scoring=ScoringConfig(max_length=most + 1)))
        assert check_student(asked_for(checkpoint, max_length=most))


@pytest.mark.parametrize("layers", [(3,), (0, 2), (1, 0), (0, 0)])
def test_layers_that_are_not_there_are_told_by_preflight(layers):
    start = starts.encoder("bert")
    with refuses("setting-value", "phase1.layers", "layers 0 to 1"):
        check_student(asked_for(start, layers=layers))
    with refuses("setting-value", "layers 0 to 1"):
        load_student(start, asked_for(start, layers=layers))


def test_labels_of_a_student_are_named_by_its_own_settings(tmp_path):
    start = starts.encoder("bert", ("A", "B"))
    for attempt in (lambda: check_student(asked_for(start)), lambda: load_student(start, CONFIG)):
        with refuses("checkpoint-labels", start, "phase1.true_token") as error:
            attempt()
        assert "scoring" not in str(error.value)
    assert check_student(asked_for(start, true_token="B"))


# --- causal models ----------------------------------------------------------------------------------------------------


@cache
def causal(kind: str) -> str:
    """Folder of a random causal model of four layers that are not all alike."""
    import torch
    import transformers

    read = teachers.bpe()
    shape = {"vocab_size": len(read), "hidden_size": 48, "pad_token_id": 0, "initializer_range": 0.2}
    usual = {"num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96, "bos_token_id": None}
    name, own = {
        "smollm3": ("SmolLM3", {**usual, "num_key_value_heads": 2, "no_rope_layer_interval": 2}),
        "gpt_neo": (
            "GPTNeo",
            {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 16},
        ),
        "mamba": ("Mamba", {"num_hidden_layers": 4, "state_size": 8}),
        "bert": ("Bert", {**usual, "is_decoder": True}),
    }[kind]
    config = getattr(transformers, f"{name}Config")(**{**shape, **own})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = "LMHeadModel" if kind == "bert" else "ForCausalLM"
        return teachers._saved(getattr(transformers, f"{name}{head}")(config), read, f"odd-causal-{kind}")


@pytest.mark.parametrize(
    ("kind", "layers"), [("smollm3", (0, 1, 3)), ("smollm3", (3,)), ("gpt_neo", ()), ("mamba", (2,)), ("bert", (2,))]
)
def test_what_is_trained_is_what_is_loaded_and_what_transformers_computes(kind, layers):
    import torch
    import transformers

    config = DistillConfig(max_length=128, layers=layers)
    student = load_student(causal(kind), config)
    training = trained(student)
    folder = starts.as_student(causal(kind), config, f"odd-{kind}-{len(layers)}")
    np.testing.assert_allclose(
        load_ranker(folder, ScoringConfig(max_length=128)).score(PAIRS), training, rtol=0, atol=1e-5
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = Texts.of(PAIRS)
    prompts = student.reader.prepare(texts.queries, texts.documents, texts.index)
    for row, own in enumerate(training):
        ids, *_ = prompts.inputs(np.array([row]))
        with torch.no_grad():
            plain = model(torch.from_numpy(ids)).logits[0, -1, list(student.reader.labels)].double().numpy()
        np.testing.assert_allclose(plain, own, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "code", "facts"),
    [
        ({"true_token": "yes"}, "setting-missing", ("phase1.true_token", "both, or none")),
        ({"false_token": "no"}, "setting-missing", ("phase1.false_token", "both, or none")),
        ({"true_token": "yes", "false_token": "yes"}, "setting-conflict", ("phase1.true_token", "'yes'")),
        ({"true_token": "▁yes", "false_token": "no"}, "checkpoint-tokens", ("'▁yes'", "phase1.true_token")),
    ],
)
def test_answers_that_cannot_be_are_told_by_preflight(tokens, code, facts):
    with refuses(code, *facts):
        check_student(asked_for(starts.llama(), **tokens))
    with pytest.raises(UserError):
        load_student(starts.llama(), asked_for(starts.llama(), **tokens))
    assert check_student(asked_for(starts.llama(), true_token="yes", prompt="qwen3-reranker"))
    assert check_student(asked_for(starts.llama(), true_token="yes", false_token="no"))


@pytest.mark.parametrize("kind", ["xlm", "albert"])
def test_a_model_whose_layers_cannot_be_taken_apart_is_told_by_preflight(tmp_path, kind):
    path = models.stub_files(tmp_path / kind, {"model_type": kind, "architectures": ["XModel"]})
    with refuses("setting-conflict", "phase1.layers", "leave it empty"):
        check_student(asked_for(str(path), layers=(2,)))


def test_layers_made_by_their_number_in_an_unknown_way_are_refused(monkeypatch):
    from inranker_flow.students import layers

    # A model whose lists nobody knows yet: of those that transformers has, all are known.
    monkeypatch.setattr(layers, "_LISTS", ())
    with refuses("setting-conflict", "SmolLM3ForCausalLM", "leave it empty"):
        load_student(causal("smollm3"), DistillConfig(max_length=64, layers=(0, 1, 3)))
    with refuses("setting-conflict", "GPTNeoForCausalLM"):
        load_student(causal("gpt_neo"), DistillConfig(max_length=64, layers=(2,)))


@pytest.mark.parametrize("name", ["GPTNeoX", "GPT2", "Llama", "Bloom", "Mamba", "OPT"])
def test_embeddings_are_known_by_whatever_name(name):
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, f"{name}{'LMHeadModel' if name == 'GPT2' else 'ForCausalLM'}")(
            getattr(transformers, f"{name}Config")(num_hidden_layers=1)
        )
    own = model.get_input_embeddings().weight
    assert all(is_embedding(found) for found, weight in model.named_parameters() if weight is own)


def test_adapters_where_there_can_be_none_are_one_line():
    pytest.importorskip("peft")
    with refuses("setting-conflict", "lora_rank", "MambaForCausalLM", "set it to 0"):
        load_student(causal("mamba"), DistillConfig(max_length=64, lora_rank=2))
