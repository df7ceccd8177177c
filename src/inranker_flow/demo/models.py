"""Blank T5 models of a few thousand parameters, started so that comparing words is easy to learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inranker_flow.demo.vocabulary import IDS, PAD, pieces

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import T5ForConditionalGeneration

EMBEDDING_STD = 0.3
OUTPUT_SCALE = 0.3  # attention and feed-forward outputs start small, so that words keep their identity
SELF_MATCH = 6.0  # attention logit of a word with itself
LOOK_AWAY = -8.0  # bias that closes a direction to a head


@dataclass(frozen=True)
class Size:
    """The dimensions of one model."""

    width: int
    hidden: int
    heads: int = 4
    head_width: int = 16
    encoder_layers: int = 2
    decoder_layers: int = 1


TEACHER = Size(width=128, hidden=128)
STUDENT = Size(width=32, hidden=64, heads=8, head_width=8)
GENERATOR = Size(width=64, hidden=128)


def blank(size: Size) -> T5ForConditionalGeneration:
    """Return a new model; torch's random state decides its weights."""
    import torch
    from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

    # Tied embeddings, as transformers 5 forces them for every T5: one matrix, nothing that a reload could mix up.
    config = T5Config(
        vocab_size=len(pieces()),
        d_model=size.width,
        d_ff=size.hidden,
        d_kv=size.head_width,
        num_heads=size.heads,
        num_layers=size.encoder_layers,
        num_decoder_layers=size.decoder_layers,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=IDS[PAD],
        eos_token_id=1,
        decoder_start_token_id=IDS[PAD],
    )
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        model.shared.weight.normal_(0.0, EMBEDDING_STD)
        # T5 divides by sqrt(width) before the output matrix; start as if it did not.
        model.decoder.final_layer_norm.weight.fill_(math.sqrt(size.width))
        for name, weight in model.named_parameters():
            if name.endswith((".o.weight", ".wo.weight")):
                weight.mul_(OUTPUT_SCALE)
        for block in model.encoder.block:
            attention = block.layer[0].SelfAttention
            for head in range(size.heads):
                _compare_words(attention.q.weight, attention.k.weight, head, size)
        _give_heads_a_direction(model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    model.generation_config = GenerationConfig(
        pad_token_id=IDS[PAD], eos_token_id=1, decoder_start_token_id=IDS[PAD], max_new_tokens=12
    )
    return model


def _compare_words(query: Tensor, key: Tensor, head: int, size: Size) -> None:
    """Make one head look for the word itself: the same projection on both sides, with logit SELF_MATCH."""
    import torch

    rows = slice(head * size.head_width, (head + 1) * size.head_width)
    projection = torch.nn.init.orthogonal_(torch.empty(size.head_width, size.width))
    query[rows] = key[rows] = projection * math.sqrt(SELF_MATCH / size.head_width)


def _give_heads_a_direction(bias: Tensor) -> None:
    """A quarter of the heads see only earlier words (the passage looks into the query), a quarter only later ones.

    Buckets: 0 is the word itself, the first half earlier words, the second half later words.
    """
    buckets, heads = bias.shape
    half, quarter = buckets // 2, heads // 4
    bias.zero_()
    bias[0, : 2 * quarter] = LOOK_AWAY
    bias[half:, :quarter] = LOOK_AWAY
    bias[:half, quarter : 2 * quarter] = LOOK_AWAY
