"""Small random checkpoints of every kind that a student can start from, made on the spot and once in a session."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from inranker_flow import reading
from inranker_flow.config.sections import DistillConfig
from tests import models, teachers


@cache
def encoder(
    kind: str = "bert", labels: tuple[str, ...] = ("LABEL_0",), head: bool = True, layers: int = 2, seed: int = 0
) -> str:
    """Folder of a random encoder; ``kind``: bert, roberta, deberta, electra, modernbert. Without ``head``: the model alone."""
    import torch
    import transformers

    read = teachers.unigram() if kind == "roberta" else teachers.wordpiece()
    shape: dict[str, Any] = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": layers, "num_attention_heads": 4,
        "vocab_size": len(read), "initializer_range": 0.1, "pad_token_id": read.pad_token_id,
    }  # fmt: skip
    own = {
        "bert": {},
        "roberta": {"max_position_embeddings": 514, "type_vocab_size": 1},
        "deberta": {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
        "electra": {"embedding_size": 24},
        "modernbert": {
            "global_attn_every_n_layers": 2, "local_attention": 16, "initializer_cutoff_factor": 2.0,
            "cls_token_id": read.cls_token_id, "sep_token_id": read.sep_token_id, "bos_token_id": None, "eos_token_id": None,
        },
    }[kind]  # fmt: skip
    name = {"roberta": "XLMRoberta", "deberta": "DebertaV2", "modernbert": "ModernBert"}.get(kind, kind.capitalize())
    config = getattr(transformers, f"{name}Config")(
        **shape, **own, id2label=dict(enumerate(labels)), label2id={each: place for place, each in enumerate(labels)}
    )
    architecture = "ForSequenceClassification" if head else "Model"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}{architecture}")(config)
    return teachers._saved(model, read, f"start-{kind}-{'-'.join(labels)}-{head}-{layers}-{seed}")


@cache
def llama(layers: int = 2) -> str:
    """Folder of a random causal model that is no reranker."""
    import torch
    import transformers

    read = teachers.bpe()
    config = transformers.LlamaConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=4, vocab_size=len(read),
        max_position_embeddings=1024, pad_token_id=read.pad_token_id, initializer_range=0.1, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return teachers._saved(transformers.LlamaForCausalLM(config), read, f"start-llama-{layers}")


@cache
def t5(layers: int = 2) -> str:
    """Folder of a random T5."""
    import torch
    import transformers

    if layers == 2:
        return models.t5()
    read = transformers.AutoTokenizer.from_pretrained(models.tokenizer_folder())
    config = transformers.T5Config(
        vocab_size=len(read), d_model=48, d_kv=12, d_ff=96, num_layers=layers, num_heads=4, decoder_start_token_id=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return teachers._saved(transformers.T5ForConditionalGeneration(config), read, f"start-t5-{layers}")


#: Name -> folder and kind, of a checkpoint with so many layers.
ALL: dict[str, Callable[..., tuple[str, str]]] = {
    "t5": lambda layers=2: (t5(layers), "monot5"),
    "bert": lambda layers=2: (encoder("bert", layers=layers), "encoder"),
    "roberta": lambda layers=2: (encoder("roberta", layers=layers), "encoder"),
    "deberta": lambda layers=2: (encoder("deberta", head=False, layers=layers), "encoder"),
    "electra": lambda layers=2: (encoder("electra", head=False, layers=layers), "encoder"),
    "modernbert": lambda layers=2: (encoder("modernbert", head=False, layers=layers), "encoder"),
    "llama": lambda layers=2: (llama(layers), "causal"),
    "init-encoder": lambda layers=2: ("init:encoder-tiny", "encoder"),
}


@cache
def student(name: str, max_length: int = 64, layers: int = 2) -> str:
    """Folder of a student that starts from ``ALL[name]``, as the stage writes it, without its training."""
    return as_student(
        ALL[name](layers=layers)[0], DistillConfig(max_length=max_length), f"{name}-{max_length}-{layers}"
    )


def as_student(reference: str, config: DistillConfig, name: str) -> str:
    """Folder of the untrained student that starts from ``reference``."""
    from inranker_flow.students.loading import load_student

    made, path = load_student(reference, config), models.folder() / f"student-{name}"
    path.mkdir()
    made.finish()
    made.save(path)
    (path / reading.FILENAME).write_text(json.dumps(made.reads.settings()), encoding="utf-8")
    return str(path)
