"""An encoder student's folder against what servers ask of it, by their sources: neither of them runs here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from inranker_flow.config.sections import DistillConfig
from tests import starts

#: Name of a start -> model type and architecture of its student.
KNOWN = {
    "bert": ("bert", "BertForSequenceClassification"),
    "roberta": ("xlm-roberta", "XLMRobertaForSequenceClassification"),
    "modernbert": ("modernbert", "ModernBertForSequenceClassification"),
}
#: The fields without a default of text-embeddings-inference's BertConfig and ModernBertConfig.
FIELDS: dict[str, dict[type, tuple[str, ...]]] = {
    "bert": {
        int: (
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
            *("max_position_embeddings", "type_vocab_size", "pad_token_id"),
        ),
        float: ("hidden_dropout_prob", "initializer_range", "layer_norm_eps"),
        str: ("hidden_act",),
    },
    "modernbert": {
        int: (
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
            *("max_position_embeddings", "pad_token_id", "cls_token_id", "sep_token_id", "global_attn_every_n_layers"),
            *("local_attention",),
        ),
        float: (
            *("initializer_range", "initializer_cutoff_factor", "norm_eps", "global_rope_theta", "local_rope_theta"),
            *("attention_dropout",),
        ),
        bool: ("norm_bias", "attention_bias"),
        str: ("hidden_activation", "classifier_activation"),
    },
}
FIELDS["xlm-roberta"] = FIELDS["bert"]
#: The weights of its classification heads: name -> rows, or None where that is the model's width.
HEADS: dict[str, dict[str, int | None]] = {
    "bert": {"bert.pooler.dense.weight": None, "classifier.weight": 1, "classifier.bias": 1},
    "xlm-roberta": {
        "classifier.dense.weight": None, "classifier.dense.bias": None,
        "classifier.out_proj.weight": 1, "classifier.out_proj.bias": 1,
    },
    "modernbert": {
        "head.dense.weight": None, "head.norm.weight": None, "classifier.weight": 1, "classifier.bias": 1,
    },
}  # fmt: skip


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", KNOWN)
def test_text_embeddings_inference_serves_it_as_a_reranker(name):
    """`/rerank` is there for a `...Classification` architecture with one id2label and a label2id (`get_backend_model_type` and
    `run` in router/src/lib.rs); it reads a tokenizer.json, and `max_seq_length` in the first file of `ST_CONFIG_NAMES`
    (core/src/download.rs). Types and weights: backends/candle/src/models/{bert,modernbert}.rs.

    huggingface/text-embeddings-inference, 1.7 to 1.8.
    """
    folder = Path(starts.student(name, max_length=96))
    model_type, architecture = KNOWN[name]
    config = read(folder, "config.json")
    assert (config["model_type"], config["architectures"]) == (model_type, [architecture])
    assert config["id2label"] == {"0": "LABEL_0"} and config["label2id"] == {"LABEL_0": 0}
    assert read(folder, "sentence_bert_config.json")["max_seq_length"] == 96
    assert (folder / "tokenizer.json").is_file() and (folder / "model.safetensors").is_file()
    assert not (folder / "modules.json").exists(), (
        "which names the parts of a bi-encoder or of a reranker of several parts"
    )
    for kind, names in FIELDS[model_type].items():
        for each in names:
            assert isinstance(config[each], (int, float) if kind is float else kind), each
    with safe_open(folder / "model.safetensors", "numpy") as weights:
        for each, rows in HEADS[model_type].items():
            assert weights.get_slice(each).get_shape()[0] == (rows or config["hidden_size"]), each


@pytest.mark.parametrize("name", KNOWN)
def test_vllm_serves_it_by_its_score_api(name):
    """Only a classification model with `num_labels` 1 has it (docs/models/pooling_models/scoring.md), of an architecture in
    `_SEQUENCE_CLASSIFICATION_MODELS` (vllm/model_executor/models/registry.py). The activation is that of
    `config.sentence_transformers`, if it is one of torch.nn.modules (`get_cross_encoder_act_fn`,
    vllm/model_executor/layers/pooler/activations.py), else the logistic function. The longest input is `max_seq_length` of
    sentence_bert_config.json, if that has `do_lower_case` too (`get_sentence_transformer_tokenizer_config`,
    vllm/transformers_utils/config.py).

    vllm-project/vllm, 0.13 to 0.32.
    """
    from transformers import AutoConfig

    folder = Path(starts.student(name, max_length=96))
    config = AutoConfig.from_pretrained(folder)
    supported = {
        "BertForSequenceClassification", "ModernBertForSequenceClassification", "RobertaForSequenceClassification",
        "XLMRobertaForSequenceClassification",
    }  # fmt: skip
    assert config.architectures[0] in supported and config.num_labels == 1
    activation = config.sentence_transformers["activation_fn"]
    assert activation == "torch.nn.modules.linear.Identity"
    module, _, function = activation.rpartition(".")
    assert getattr(__import__(module, fromlist=[function]), function)()(3.5) == 3.5
    assert read(folder, "sentence_bert_config.json") == {"max_seq_length": 96, "do_lower_case": False}


def test_a_modernbert_keeps_its_rotary_bases(tmp_path):
    """Both of them under both names, also when another training starts from its folder."""
    first = tmp_path / "first"
    shutil.copytree(starts.student("modernbert", max_length=96), first)
    config = read(first, "config.json")
    del config["rope_parameters"]  # as transformers 4 wrote it
    config |= {"global_rope_theta": 7000.0, "local_rope_theta": 800.0}
    (first / "config.json").write_text(json.dumps(config), encoding="utf-8")
    again = starts.as_student(str(first), DistillConfig(max_length=96), "rotary")
    found = read(Path(starts.as_student(again, DistillConfig(max_length=96), "rotary-again")), "config.json")
    assert (found["global_rope_theta"], found["local_rope_theta"]) == (7000.0, 800.0)
    assert {kind: each["rope_theta"] for kind, each in found["rope_parameters"].items()} == {
        "full_attention": 7000.0,
        "sliding_attention": 800.0,
    }


@pytest.mark.parametrize(
    ("kept", "every", "told"), [((), 2, False), ((0, 2), 1, False), ((0, 1, 3), 3, False), ((0, 1, 2, 4), 0, True)]
)
def test_a_shallower_modernbert_says_which_layers_see_everything(kept, every, told, caplog):
    """By `global_attn_every_n_layers` in text-embeddings-inference, by `layer_types` in transformers 5."""
    start = starts.encoder("modernbert", head=False, layers=6)
    config = DistillConfig(max_length=96, layers=kept)
    folder = Path(starts.as_student(start, config, f"shallow-{'-'.join(map(str, kept))}"))
    found = read(folder, "config.json")
    whole = [each == "full_attention" for each in found["layer_types"]]
    assert len(whole) == (len(kept) or 6) == found["num_hidden_layers"]
    period = found["global_attn_every_n_layers"]
    assert (whole == [place % period == 0 for place in range(len(whole))]) is not told
    assert period == (every or 2) and ("follows no rhythm" in caplog.text) == told
