"""Small random bi-encoders, made and saved by sentence-transformers itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

KINDS = ("mean", "cls", "decoder")
TEXTS = [
    "What is granite?",
    "Granite is a coarse-grained rock that is mostly made of quartz, feldspar and mica. " * 9,
    "Rain falls on the mountains",
    "  blanks around it  ",
    "",
    "ÜBER die Größe und 日本語 " * 3,
]


def make(folder: Path, kind: str, prompts: Mapping[str, str] | None = None, **pooling: Any) -> Path:
    """Save a bi-encoder of one ``kind`` in ``folder``."""
    torch = pytest.importorskip("torch")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel, Qwen3Config, Qwen3Model

    from inranker_flow.rankers.checkpoints import DEMO

    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "student")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}
    rows = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if kind == "decoder":
        model = Qwen3Model(Qwen3Config(**size, **rows, num_key_value_heads=2, head_dim=8, max_position_embeddings=512))
    else:
        model = BertModel(BertConfig(**size, **rows, max_position_embeddings=512))
    plain = folder.parent / f".{folder.name}-plain"
    model.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=40)
    mode = {"decoder": "lasttoken"}.get(kind, kind)
    modules = [transformer, Pooling(32, pooling_mode=mode, **pooling)]
    modules += [Normalize()] if kind != "cls" else []
    made = sentence_transformers.SentenceTransformer(
        modules=modules, prompts=prompts, similarity_fn_name="dot" if kind == "cls" else "cosine"
    )
    made.save(str(folder))
    return folder
