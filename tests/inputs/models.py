"""Checkpoints: what they are, what they say of themselves, and the settings that say the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inranker_flow.config.sections import DistillConfig, GenerateConfig, TeacherConfig
from tests import models, teachers
from tests.inputs.table import Input, stage


@dataclass(frozen=True)
class Said:
    """A stage's answer."""

    pairs: int = 0


def look_at_teacher(teacher: TeacherConfig) -> Said:
    """What preflight does with it."""
    from inranker_flow.preflight.checkpoints import check_teacher

    print(check_teacher(teacher))
    return Said()


def look_at_student(student: DistillConfig) -> Said:
    from inranker_flow.preflight.checkpoints import check_student

    print(check_student(student))
    return Said()


def look_at_generator(generation: GenerateConfig) -> Said:
    from inranker_flow.preflight.generator import check_generator

    print(check_generator(generation))
    return Said()


def score(teacher: TeacherConfig) -> Said:
    """What labelling does with it."""
    from inranker_flow.rankers.loading import load_ranker

    logits = load_ranker(teacher.checkpoint, teacher.scoring, teacher.revision).score([("moon", "the river")])
    print("margin", "up" if logits[0, 1] > logits[0, 0] else "down")
    return Said(1)


def teacher(
    make: Callable[[Path], str], look: Callable[..., Said] = look_at_teacher, **scoring: Any
) -> Callable[[Path], int]:
    return lambda here: stage(look, configs={"teacher": {"checkpoint": make(here), "scoring": scoring}})


def student(make: Callable[[Path], str]) -> Callable[[Path], int]:
    return lambda here: stage(look_at_student, configs={"student": {"checkpoint": make(here)}})


def generator(make: Callable[[Path], str]) -> Callable[[Path], int]:
    return lambda here: stage(look_at_generator, configs={"generation": {"checkpoint": make(here)}})


def stub(name: str = "model", **config: Any) -> Callable[[Path], str]:
    """A folder whose config.json alone says anything."""
    return lambda here: str(models.stub_files(here / name, config))


def written(text: bytes) -> Callable[[Path], str]:
    """A folder with this config.json."""

    def make(here: Path) -> str:
        path = models.stub_files(here / "model", {})
        (path / "config.json").write_bytes(text)
        return str(path)

    return make


def changed(source: Callable[[], str], change: Callable[[Path], object]) -> Callable[[Path], str]:
    """A real checkpoint after ``change`` to its folder."""

    def make(here: Path) -> str:
        shutil.copytree(source(), here / "model")
        change(here / "model")
        return str(here / "model")

    return make


def labels(*names: str, **more: Any) -> Callable[[Path], object]:
    """A change of the labels' names."""

    def change(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        config |= {"id2label": dict(enumerate(names)), "label2id": {name: at for at, name in enumerate(names)}, **more}
        (path / "config.json").write_text(json.dumps(config))

    return change


def cut(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])


def grown(path: Path) -> None:
    """New words that the model has no rows for."""
    found = json.loads((path / "tokenizer.json").read_text())
    word = {"content": "kombucha", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    found["added_tokens"].append({"id": 5_000, **word, "special": False})
    (path / "tokenizer.json").write_text(json.dumps(found))


def two(seed: int = 0) -> str:
    return teachers.encoder("bert", 2, seed)


QWEN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
GEMMA = {"model_type": "gemma", "architectures": ["GemmaForCausalLM"]}
CODE = {"auto_map": {"AutoConfig": "configuration_x.XConfig"}}
REMEDY = ("scoring.true_token", "scoring.false_token")

INPUTS = [
    Input(
        "labels by name",
        teacher(changed(two, labels("not_relevant", "relevant")), score),
        ("'relevant' says relevant",),
        0,
    ),
    Input(
        "labels reversed",
        teacher(changed(two, labels("Relevant", "IRRELEVANT")), score),
        ("'Relevant' says relevant",),
        0,
    ),
    Input(
        "labels of an NLI model with two",
        teacher(changed(two, labels("entailment", "not-entailment")), score),
        ("'entailment' says relevant",),
        0,
    ),
    Input("labels without names", teacher(lambda here: two(), score), ("LABEL_1 taken for relevant by convention",), 0),
    Input("labels that say nothing", teacher(changed(two, labels("A", "B"))), ("'A', 'B'", *REMEDY)),
    Input("labels that both say relevant", teacher(changed(two, labels("yes", "true"))), ("do not say which", *REMEDY)),
    Input(
        "labels that contradict themselves",
        teacher(changed(two, labels("no", "yes", label2id={"no": 1, "yes": 0}))),
        ("contradicts itself", "positions (0 to 1)"),
    ),
    Input(
        "labels by the settings",
        teacher(changed(two, labels("A", "B")), score, true_token="A"),
        ("'A' says relevant, as the settings say",),
        0,
    ),
    Input("a label that is not there", teacher(lambda here: two(), true_token="yes"), ("no label 'yes'", "'LABEL_0'")),
    Input(
        "three labels",
        teacher(lambda here: teachers.encoder("bert", 3)),
        ("its head has 3 labels", *REMEDY),
    ),
    Input(
        "three labels and the two that count",
        teacher(lambda here: teachers.encoder("bert", 3), score, true_token="LABEL_2", false_token="LABEL_0"),
        ("'LABEL_2' says relevant",),
        0,
    ),
    Input("one label", teacher(lambda here: teachers.encoder(), score), ("taken for a cross-encoder: one label",), 0),
    Input("one label that says irrelevant", teacher(changed(teachers.encoder, labels("irrelevant"))), REMEDY),
    Input("mxbai by its name", teacher(stub("mxbai-rerank-base-v2", **QWEN)), ("mxbai-rerank-base-v2: there",), 0),
    Input(
        "mxbai by its origin", teacher(stub(**QWEN, _name_or_path="mixedbread-ai/mxbai-rerank-large-v2")), ("there",), 0
    ),
    Input("a Qwen2.5 of no known family", teacher(stub(**QWEN)), ("teacher.scoring.prompt", "mxbai-rerank-v2")),
    Input("a Qwen2.5 and its prompt", teacher(stub(**QWEN), prompt="mxbai-rerank-v2"), ("there",), 0),
    Input("bge-gemma by its name", teacher(stub("bge-reranker-v2-gemma", **GEMMA)), ("there",), 0),
    Input("a name and another model", teacher(stub("Qwen3-Reranker-4B", **GEMMA)), ("gemma is no qwen3-reranker",)),
    Input(
        "a prompt that is not there",
        teacher(lambda here: teachers.causal(), score, prompt="mxbai"),
        ("scoring.prompt: mxbai",),
    ),
    Input(
        "a family that scores otherwise",
        teacher(
            stub("ctxl-rerank-v2-instruct-multilingual-1b", model_type="qwen3", architectures=["Qwen3ForCausalLM"])
        ),
        ("puts the document before the query",),
    ),
    Input(
        "a family that brings code",
        teacher(stub("bge-reranker-v2-minicpm-layerwise", model_type="minicpm", architectures=["X"], **CODE)),
        ("brings code of its own",),
    ),
    Input(
        "code of its own",
        teacher(stub(model_type="xbert", architectures=["XModel"], **CODE)),
        ("configuration_x", "never run"),
    ),
    Input(
        "code that is not needed",
        teacher(stub(model_type="bert", architectures=["BertForSequenceClassification"], **CODE)),
        ("is not run: transformers knows bert",),
        0,
    ),
    Input(
        "a model type that nobody knows",
        teacher(stub(model_type="bertt")),
        ("transformers knows no model type 'bertt'",),
    ),
    Input(
        "quantised weights", teacher(stub(model_type="qwen3", quantization_config={"quant_method": "awq"})), ("(awq)",)
    ),
    Input("an empty config.json", teacher(written(b"")), ("config.json is empty",)),
    Input("a config.json that is a list", teacher(written(b"[]")), ("holds a list",)),
    Input("half a config.json", teacher(written(b'{"model_type": ')), ("config.json is no JSON",)),
    Input("a config.json with a byte order mark", teacher(written(b"\xef\xbb\xbf{}")), ("byte order mark",)),
    Input("a pointer of Git LFS", teacher(written(b"version https://git-lfs.github.com/spec/v1\n")), ("git lfs pull",)),
    Input("a bi-encoder", teacher(stub(architectures=["BertModel"], model_type="bert")), ("gives vectors",)),
    Input("a bare language model", teacher(stub(architectures=["BertForMaskedLM"])), ("has not learnt to rank",)),
    Input(
        "a decoder with a head",
        teacher(stub(architectures=["LlamaForSequenceClassification"], model_type="llama"), score),
        ("reads a prompt of its own",),
    ),
    Input(
        "a BART",
        teacher(stub(architectures=["BartForConditionalGeneration"], model_type="bart", is_encoder_decoder=True)),
        ("is no reranker",),
    ),
    Input(
        "a T5 without the label words",
        teacher(lambda here: models.t5(tokenizer=models.tokenizer_folder(("true",)))),
        ("no token '▁false'",),
    ),
    Input(
        "no weights",
        teacher(changed(models.t5, lambda path: (path / "model.safetensors").unlink())),
        ("holds no weights",),
    ),
    Input("half of the weights", teacher(changed(models.t5, cut)), ("damaged or cut off", "bytes")),
    Input(
        "no tokenizer",
        teacher(changed(teachers.encoder, lambda path: (path / "tokenizer.json").unlink())),
        ("holds no tokenizer",),
    ),
    Input(
        "a damaged tokenizer",
        teacher(changed(models.t5, lambda path: (path / "tokenizer.json").write_text("{")), score),
        ("tokenizer.json is no JSON",),
    ),
    Input("a tokenizer larger than its model", teacher(changed(models.t5, grown)), ("5,001 tokens", "153 rows")),
    Input(
        "a tokenizer larger than its model, loaded",
        teacher(changed(teachers.encoder, grown), score),
        ("tokens", "rows"),
    ),
    Input(
        "a decoder with a head as student",
        student(stub(model_type="qwen3", architectures=["Qwen3ForSequenceClassification"])),
        ("cannot be the student", "phase1.checkpoint"),
    ),
    Input("an encoder as student", student(lambda here: teachers.encoder()), ("there",), 0),
    Input("a causal model as student", student(lambda here: teachers.causal()), ("there",), 0),
    Input("a T5 as student", student(lambda here: models.t5()), ("there",), 0),
    Input("an encoder as generator", generator(lambda here: teachers.encoder()), ("writes nothing",)),
]
