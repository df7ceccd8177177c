"""Small models with random weights, ``init:SIZE[?tokenizer=REFERENCE&seed=N]``: the same in every process."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inranker_flow.config.values import Kind
from inranker_flow.errors import UserError


@dataclass(frozen=True)
class Shape:
    """Settings of a configuration of transformers, and the ``weights`` of its layers, about."""

    kind: Kind
    settings: dict[str, int]
    weights: int


def _t5(width: int, head: int, inner: int, layers: int, heads: int) -> Shape:
    settings = {"d_model": width, "d_kv": head, "d_ff": inner, "num_layers": layers, "num_heads": heads}
    return Shape("monot5", settings, layers * width * (12 * heads * head + 4 * inner))


def _stack(kind: Kind, width: int, inner: int, layers: int, heads: int) -> Shape:
    settings = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return Shape(kind, settings, layers * width * (4 * width + 3 * inner))


#: ``small`` is t5-small's shape, ``encoder-small`` MiniLM-L6's.
SIZES: dict[str, Shape] = {
    "tiny": _t5(64, 16, 128, 2, 4),
    "mini": _t5(256, 32, 1024, 4, 8),
    "small": _t5(512, 64, 2048, 6, 8),
    "encoder-tiny": _stack("encoder", 64, 128, 2, 4),
    "encoder-mini": _stack("encoder", 256, 1024, 4, 8),
    "encoder-small": _stack("encoder", 384, 1536, 6, 12),
    "causal-tiny": _stack("causal", 64, 128, 2, 4),
    "causal-mini": _stack("causal", 256, 1024, 4, 8),
}


def options(reference: str) -> tuple[str, dict[str, str]]:
    """Return the size and options of an ``init:`` reference; :class:`UserError` for one that is none."""
    size, _, query = reference.removeprefix("init:").partition("?")
    found = {"tokenizer": "demo:student", "seed": "0"}
    for option in filter(None, query.split("&")):
        key, _, value = option.partition("=")
        if key not in found or not value:
            raise UserError(
                f"{reference}: {option!r} is not understood; the form is init:SIZE?tokenizer=FOLDER&seed=N",
                code="address-form",
            )
        found[key] = value
    if size not in SIZES:
        raise UserError(f"{reference}: no size {size!r}; there is {', '.join(SIZES)}", code="checkpoint-size-unknown")
    if not re.fullmatch("[0-9]{1,9}", found["seed"]):
        raise UserError(
            f"{reference}: seed {found['seed']!r} is not a whole number of at most nine digits", code="setting-value"
        )
    if found["tokenizer"].startswith("init:"):
        raise UserError(
            f"{reference}: {found['tokenizer']} has no tokenizer of its own; name a folder or a checkpoint",
            code="checkpoint-tokenizer",
        )
    return size, found


def kind_of(reference: str) -> Kind:
    """Return the kind of an ``init:`` reference."""
    return SIZES[options(reference)[0]].kind


def dress(reference: str, tokenizer: Any) -> Any:
    """Return ``tokenizer`` as a model of this size reads: an encoder's writes ``[CLS] query [SEP] document [SEP]``."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    if kind_of(reference) != "encoder" or tokenizer.cls_token:
        return tokenizer
    marks = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer.add_special_tokens(marks)
    inner = tokenizer.backend_tokenizer
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(mark, inner.token_to_id(mark)) for mark in marks.values()],
    )
    # A class of its own would write its own marks again when it is loaded.
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=tokenizer.pad_token, unk_token=tokenizer.unk_token, **marks
    )


def make(reference: str, tokenizer: Any, change: Callable[[Any], None] | None = None) -> Any:
    """Return the model, in float32; the seed decides its weights, whatever else the process did before.

    ``change`` sets what it likes in the configuration beforehand.
    """
    import torch

    size, found = options(reference)
    build, config = {"monot5": _make_t5, "encoder": _make_bert, "causal": _make_llama}[SIZES[size].kind](
        tokenizer, SIZES[size].settings
    )
    if change:
        change(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(found["seed"]))
        return build(config)


def _make_t5(tokenizer: Any, settings: dict[str, int]) -> tuple[Any, Any]:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration, T5Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        **settings,
    )


def _make_bert(tokenizer: Any, settings: dict[str, int]) -> tuple[Any, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification, BertConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1, **settings
    )


def _make_llama(tokenizer: Any, settings: dict[str, int]) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM, LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **settings,
    )
