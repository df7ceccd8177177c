"""What a BERT's or RoBERTa's reranking head says, without what it does not read: in the last layer, all tokens but the first.

The first token's scores over the others are (W_k x) q = x (W_k' q), and what it reads is W_v sum(p x): so the last layer has no
product of all tokens at all. In the other layers query, key and value are one product. Under autograd the gradients are those
of the model's own forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from inranker_flow.rankers import gradients
from inranker_flow.rankers.kernels import linear

_FAMILY = tuple(f"{kind}ForSequenceClassification" for kind in ("Bert", "Roberta", "XLMRoberta"))


def supported(model: Any) -> bool:
    """Return whether :class:`BertForward` can stand for ``model``."""
    modules = list(model.modules())
    return (
        type(model).__name__ in _FAMILY
        and all(type(each).__module__.partition(".")[0] in ("torch", "transformers") for each in modules)
        and all(type(each) is nn.Linear for each in modules if isinstance(each, nn.Linear))
        and not model.config.is_decoder
    )


class BertForward:
    """(ids, mask, token types or None) -> what the head says, (n, labels); see the module's text.

    Reads the parameters anew at each call, and drops out where ``transformers`` would while the model is in training mode.
    """

    def __init__(self, model: Any, recompute: bool = False) -> None:
        if not supported(model):
            raise ValueError(f"no forward pass for a {type(model).__name__}")
        self._model, self._base = model, model.base_model
        self._heads = model.config.num_attention_heads
        #: Run each layer but the last again in the backward pass instead of keeping what it computed.
        self.recompute = recompute

    def __call__(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Tensor:
        embedded = self._base.embeddings(input_ids=ids, token_type_ids=types)
        count, length, width = embedded.shape
        x = embedded.reshape(count * length, width)
        padding = x.new_zeros(count, 1, 1, length)
        if mask is not None:
            padding = padding.masked_fill_(mask[:, None, None] == 0, torch.finfo(x.dtype).min)
        *layers, last = self._base.encoder.layer
        masked = padding.to(self._product_dtype(x))
        if self._by_hand(x):
            masked = masked.expand(-1, self._heads, length, -1).contiguous()
        for layer in layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(self._layer, layer, x, masked, use_reentrant=False)
            else:
                x = self._layer(layer, x, masked)
        first = self._last_layer(last, x.view(embedded.shape), padding[:, 0])[:, None]
        model = self._model
        pooler = getattr(self._base, "pooler", None)
        logits: Tensor = model.classifier(first if pooler is None else model.dropout(pooler(first)))
        return logits

    def _layer(self, layer: Any, x: Tensor, masked: Tensor) -> Tensor:
        own, (count, _, _, length) = layer.attention.self, masked.shape
        parts = own.query, own.key, own.value
        qkv = linear(x, torch.cat([each.weight for each in parts]), torch.cat([each.bias for each in parts]))
        if self._by_hand(x):
            read = gradients.attention(qkv, None, masked, _rate(own.dropout), own.scaling)
        else:
            query, key, value = qkv.view(count, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            read = F.scaled_dot_product_attention(query, key, value, masked, _rate(own.dropout), scale=own.scaling)
            read = read.transpose(1, 2).reshape(count * length, -1)
        return self._after_attention(layer, read, x)

    def _last_layer(self, layer: Any, x: Tensor, padding: Tensor) -> Tensor:
        """Return the first tokens' states, (n, width)."""
        own, first = layer.attention.self, x[:, 0]
        shape = self._heads, own.attention_head_size, x.shape[-1]
        query = own.query(first).view(len(x), self._heads, -1).transpose(0, 1)
        by_key = torch.bmm(query, own.key.weight.view(shape)).transpose(0, 1)
        constant = torch.bmm(query, own.key.bias.view(self._heads, -1, 1)).transpose(0, 1)
        scores = (torch.bmm(by_key, x.transpose(1, 2)) + constant).float() * own.scaling + padding
        weights = gradients.drop(scores.softmax(-1), _rate(own.dropout)).to(x.dtype)
        context = torch.bmm(weights, x).transpose(0, 1)
        value = torch.bmm(context, own.value.weight.view(shape).transpose(1, 2)).transpose(0, 1)
        value = value + own.value.bias.view(self._heads, -1) * weights.sum(-1, keepdim=True)
        return self._after_attention(layer, value.reshape(len(x), -1), first)

    def _after_attention(self, layer: Any, read: Tensor, x: Tensor) -> Tensor:
        for output in (layer.attention.output, layer.output):
            if output is layer.output:
                inner = layer.intermediate.dense
                read = layer.intermediate.intermediate_act_fn(linear(x, inner.weight, inner.bias))
            read = linear(read, output.dense.weight, output.dense.bias)
            x = output.LayerNorm(gradients.drop_and_add(read, x, _rate(output.dropout)))
        return x

    def _by_hand(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and (torch.is_grad_enabled() or self._model.training)

    def _product_dtype(self, x: Tensor) -> torch.dtype:
        kind = x.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _rate(dropout: nn.Dropout) -> float:
    return dropout.p if dropout.training else 0.0
