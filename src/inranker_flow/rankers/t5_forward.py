"""The two label logits of a T5 in closed form: what a monoT5 computes, and nothing that it does not use.

A monoT5 reads one decoder step. Then self-attention in the decoder is over one position, so it is W_o W_v; cross-attention
needs no keys and values of the encoder's output, because (W_k h) q = h (W_k' q) and sum(p W_v h) = W_v sum(p h): 14 % of
the multiplications of every T5 size vanish. Two rows of the vocabulary are multiplied instead of all; query, key and value
are one product; position bias and padding are one mask, made once in a batch.

All is a function of the module's parameters: under autograd the gradients are those of the full forward, except that the
decoder's self-attention query, key and position bias get none (theirs are exactly zero).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from inranker_flow.rankers import gradients
from inranker_flow.rankers.kernels import QuantisedWeight, Weight, packed

_FAMILY = ("T5ForConditionalGeneration", "MT5ForConditionalGeneration")


@dataclass(frozen=True)
class _FeedForward:
    #: A norm's weights; None where the next matrices are multiplied by them.
    norm: Tensor | None
    #: One matrix; or two, gate and values, of the gated form (v1.1, Flan, mT5).
    inner: tuple[Weight, ...]
    outer: Weight
    activation: Callable[[Tensor], Tensor]
    is_relu: bool


@dataclass(frozen=True)
class _EncoderLayer:
    norm: Tensor | None
    qkv: Weight
    out: Weight
    feed_forward: _FeedForward


@dataclass(frozen=True)
class _DecoderLayer:
    norm: Tensor | None
    value: Weight
    out: Weight
    cross_norm: Tensor | None
    cross_query: Weight
    #: Key and value matrices, (heads, d_kv, d_model).
    cross_key: Tensor
    cross_value: Tensor
    cross_out: Weight
    feed_forward: _FeedForward


@dataclass(frozen=True)
class _Parts:
    """The model's parameters, arranged for :class:`T5Forward`."""

    embedding: Tensor
    start: Tensor
    position_bias: Tensor
    encoder: tuple[_EncoderLayer, ...]
    encoder_norm: Tensor | None
    decoder: tuple[_DecoderLayer, ...]
    decoder_norm: Tensor | None
    head: Tensor


def unsupported(model: Any) -> str:
    """Return the reason for which :class:`T5Forward` cannot stand for ``model``; empty if it can."""
    name = type(model).__name__
    if name not in _FAMILY or not type(model).__module__.startswith("transformers."):
        return f"a {name}"
    if model.lm_head.bias is not None:
        return "an output layer with bias"
    if any(type(module).__module__.partition(".")[0] not in ("torch", "transformers") for module in model.modules()):
        return "modules that are not its own"
    if any(type(module) is not nn.Linear for module in model.modules() if isinstance(module, nn.Linear)):
        return "linear layers of another kind"
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.bfloat16}:
        return f"weights in {', '.join(sorted(str(each).removeprefix('torch.') for each in dtypes))}"
    return ""


class T5Forward:
    """(ids, mask) -> logits [false, true] of a T5 or mT5; see the module's text.

    Reads the parameters anew at each call, and drops out where ``transformers`` would while the model is in training mode.
    After :meth:`freeze` they are kept in the form that is fastest for inference.
    """

    def __init__(self, model: Any, labels: Sequence[int]) -> None:
        reason = unsupported(model)
        if reason:
            raise ValueError(f"no closed form for {reason}")
        config = model.config
        self.heads, self.d_kv, self.eps = config.num_heads, config.d_kv, config.layer_norm_epsilon
        self.buckets, self.max_distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
        #: T5 v1.0 scales the decoder's output before its tied matrix; v1.1, Flan and mT5 do not.
        self.scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
        start = config.decoder_start_token_id
        self.start = config.pad_token_id if start is None else start
        self.labels = list(labels)
        #: Run each encoder layer again in the backward pass instead of keeping what it computed.
        self.recompute = False
        self._model: Any = model
        self._frozen: _Parts | None = None
        self._first: Tensor | None = None
        self._also: Tensor | None = None
        self._fused_attention = True
        self._traced = False

    def freeze(self, compile: bool = False, int8: bool = False) -> T5Forward:
        """For inference only, with the weights as they are now. The model's own copies of large matrices are dropped.

        ``compile``: let torch.compile fuse what lies between the products, once for all shapes. ``int8``: the encoder's
        products in 8 bits (`kernels.QuantisedWeight`).
        """
        with torch.no_grad():
            self._frozen = self._parts(freeze=True, pack=not compile, int8=int8)
            self._first = self._after_self_attention(self._frozen.decoder[0], self._frozen.start, 0.0)
        # On a CPU without matrix units PyTorch's fused attention is slower in bfloat16 than three products.
        where = self._frozen.embedding
        self._fused_attention = not (
            where.device.type == "cpu" and where.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()
        )
        self._model = None
        if compile:
            self._run = torch.compile(self._run, dynamic=True)  # type: ignore[method-assign]
        return self

    def freeze_to_trace(self) -> T5Forward:
        """As :meth:`freeze`, in operators that can be traced for any batch and any length."""
        with torch.no_grad():
            self._frozen = self._parts(freeze=True, pack=False, fold=False)  # a graph may be made one of 8 bits
            self._first = self._after_self_attention(self._frozen.decoder[0], self._frozen.start, 0.0)
        self._model, self._traced = None, True
        return self

    def __call__(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return logits, float32 (n, 2), of ``ids`` (n, length). ``mask`` is 1 where a token is and 0 in the padding; None
        says that there is no padding."""
        parts = self._frozen or self._parts()
        return self._run(parts, ids, mask)

    def _run(self, parts: _Parts, ids: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self._model.config.dropout_rate if self._model is not None and self._model.training else 0.0
        if self._frozen is None:
            embedded, parts = self._looked_up(parts, ids)
        else:
            embedded = F.embedding(ids, parts.embedding)
        encoded = self._encode(parts, embedded, mask, dropout)
        decoded = self._decode(parts, encoded, mask, dropout)
        with torch.autocast(ids.device.type, enabled=False):  # logits of 8 bits would tie
            return F.linear(decoded.float() * self.scale, parts.head.float())

    def _looked_up(self, parts: _Parts, ids: Tensor) -> tuple[Tensor, _Parts]:
        """Return embeddings of ``ids``, and the parts with their rows of the vocabulary from the same look-up where the head is
        tied: the gradient of every look-up is as large as the vocabulary."""
        tied = self._model.lm_head.weight is self._model.shared.weight
        if self._also is None or self._also.device != ids.device:  # not at each call: a GPU would wait
            self._also = torch.tensor([self.start, *self.labels], device=ids.device)
        also = self._also if tied else self._also[:1]
        rows = F.embedding(torch.cat([ids.flatten(), also]), parts.embedding)
        embedded, start, head = rows.split([ids.numel(), 1, len(also) - 1])
        return embedded.view(*ids.shape, -1), replace(parts, start=start, head=head if tied else parts.head)

    # --- the encoder --------------------------------------------------------------------------------------------------

    def _encode(self, parts: _Parts, embedded: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        count, length, _ = embedded.shape
        x = gradients.drop(embedded.reshape(count * length, -1), dropout)
        bias = self._bias(parts, length, x.dtype)
        if self._by_hand(x, dropout):
            # Of a product of 16 bits the sum has 16 bits, under autocast too.
            bias = bias.to(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else bias.dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._by_hand(x, dropout)):
            padding = None if mask is None else _padding(mask, bias.dtype)[:, None, None]
            masked = bias.expand(count, -1, -1, -1) if padding is None else bias + padding
        for layer in parts.encoder:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(self._encoder_layer, layer, x, bias, masked, dropout, use_reentrant=False)
            else:
                x = self._encoder_layer(layer, x, bias, masked, dropout)
        return gradients.drop(self._norm(x, parts.encoder_norm), dropout).view(count, length, -1)

    def _by_hand(self, x: Tensor, dropout: float) -> bool:
        """Whether attention is `gradients.attention`: a CPU's fused kernel is not for a bias with a gradient, nor for dropout."""
        return x.device.type == "cpu" and self._frozen is None and (torch.is_grad_enabled() or dropout > 0)

    def _encoder_layer(self, layer: _EncoderLayer, x: Tensor, bias: Tensor, masked: Tensor, dropout: float) -> Tensor:
        qkv = layer.qkv(self._norm(x, layer.norm))
        x = _residual(layer.out, self._attention(qkv, bias, masked, dropout), x, dropout)
        return self._feed_forward(layer.feed_forward, x, dropout)

    def _attention(self, qkv: Tensor, bias: Tensor, masked: Tensor, dropout: float) -> Tensor:
        """Return what each head reads, (n * length, heads * d_kv). ``masked`` is ``bias`` and the padding."""
        if self._by_hand(qkv, dropout):
            return gradients.attention(qkv, bias, masked, dropout)
        count, _, length, _ = masked.shape
        query, key, value = qkv.view(count, length, 3, self.heads, self.d_kv).permute(2, 0, 3, 1, 4)
        if qkv.device.type != "cpu" or self._fused_attention:
            read = F.scaled_dot_product_attention(query, key, value, attn_mask=masked, dropout_p=dropout, scale=1.0)
        else:
            flat = (-1, length, self.d_kv)
            scores = torch.baddbmm(masked.flatten(0, 1), query.reshape(flat), key.reshape(flat).transpose(1, 2))
            read = torch.bmm(scores.softmax(-1), value.reshape(flat)).view(query.shape)
        return read.transpose(1, 2).reshape(count * length, -1)

    def _bias(self, parts: _Parts, length: int, dtype: torch.dtype) -> Tensor:
        """Return the position bias (1, heads, length, length): it depends on the distance alone, so each distance is looked up
        once."""
        if self._traced:  # a trace fixes the windows below
            place = torch.arange(length)
            apart = _bucket(place[None, :] - place[:, None], self.buckets, self.max_distance)
            return F.embedding(apart, parts.position_bias).permute(2, 0, 1)[None]
        distance = torch.arange(1 - length, length, device=parts.position_bias.device)
        bias = parts.position_bias[_bucket(distance, self.buckets, self.max_distance)].t()
        # Row i starts at distance -i, which is place length - 1 - i.
        return bias.unfold(1, length, 1).flip(1)[None].to(dtype)

    # --- the decoder: one step ----------------------------------------------------------------------------------------

    def _decode(self, parts: _Parts, encoded: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """Return the last hidden state (n, d_model). Without dropout the rows are equal until the first cross-attention: one
        is made."""
        x = parts.start
        if dropout:
            x = gradients.drop(x.expand(len(encoded), -1), dropout)
        padding = None if mask is None else _padding(mask, torch.float32)[:, None]
        for number, layer in enumerate(parts.decoder):
            known = self._first if number == 0 else None
            x = self._after_self_attention(layer, x, dropout) if known is None else known
            x = self._cross_attention(layer, x, encoded, padding, dropout)
            x = self._feed_forward(layer.feed_forward, x, dropout)
        return gradients.drop(self._norm(x, parts.decoder_norm), dropout)

    def _after_self_attention(self, layer: _DecoderLayer, x: Tensor, dropout: float) -> Tensor:
        value = layer.value(self._norm(x, layer.norm))
        if dropout:  # of the attention's only weight, 1, in each head
            value = (
                value.view(len(x), self.heads, -1) * gradients.drop(value.new_ones(len(x), self.heads, 1), dropout)
            ).flatten(1)
        return _residual(layer.out, value, x, dropout)

    def _cross_attention(
        self, layer: _DecoderLayer, x: Tensor, encoded: Tensor, padding: Tensor | None, dropout: float
    ) -> Tensor:
        query = layer.cross_query(self._norm(x, layer.cross_norm)).view(x.shape[0], self.heads, self.d_kv)
        query = torch.bmm(query.transpose(0, 1), layer.cross_key).transpose(0, 1)  # (n or 1, heads, d_model)
        scores = torch.bmm(query.expand(encoded.shape[0], -1, -1), encoded.transpose(1, 2)).float()
        weights = (scores if padding is None else scores + padding).softmax(-1)
        context = torch.bmm(gradients.drop(weights, dropout).to(encoded.dtype), encoded)  # (n, heads, d_model)
        value = torch.bmm(context.transpose(0, 1), layer.cross_value.transpose(1, 2)).transpose(0, 1)
        return _residual(layer.cross_out, value.reshape(encoded.shape[0], -1), x.expand(encoded.shape[0], -1), dropout)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _feed_forward(self, layer: _FeedForward, x: Tensor, dropout: float) -> Tensor:
        normed = self._norm(x, layer.norm)
        if layer.is_relu and len(layer.inner) == 1:
            if dropout and x.device.type == "cpu":
                inner = gradients.relu_and_drop(layer.inner[0](normed), dropout)
                return _residual(layer.outer, inner, x, dropout)
            inner = layer.inner[0].relu(normed)
        else:
            inner = layer.activation(layer.inner[0](normed))
            if len(layer.inner) > 1:
                inner = inner * layer.inner[1](normed)
        return _residual(layer.outer, gradients.drop(inner, dropout), x, dropout)

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """Return T5's layer norm: a scale by the root mean square, summed in float32."""
        if x.device.type != "cpu":
            return F.rms_norm(x, x.shape[-1:], weight, self.eps)
        if weight is None:
            return x * gradients.inverse_root_mean_square(x, self.eps)
        if self._frozen is None and torch.is_grad_enabled():
            return gradients.rms_norm(x, weight, self.eps)
        return x * gradients.inverse_root_mean_square(x, self.eps) * weight

    # --- parameters ---------------------------------------------------------------------------------------------------

    def _parts(self, freeze: bool = False, pack: bool = True, int8: bool = False, fold: bool = True) -> _Parts:
        """Return the parameters as they are now. ``freeze``: detached (and packed), and the module's own matrices dropped.

        ``fold``: the weights of norms become part of the next matrices, where these are not of 8 bits: there columns as unlike
        as a norm's weights would share a scale.
        """
        model, folds = self._model, freeze and fold and not int8

        def matrix(
            *linears: nn.Linear, after: Tensor | None = None, int8: bool = False, positive: bool = False
        ) -> Weight:
            weights = [folded(each.weight, after) for each in linears]
            joined = torch.cat(weights) if len(weights) > 1 else weights[0]
            if not freeze:
                return Weight(joined)
            for each in linears:
                each.weight = nn.Parameter(torch.empty(0), requires_grad=False)
            if int8:
                return QuantisedWeight(joined, positive)
            return packed(joined) if pack else Weight(joined.detach())

        def vector(tensor: Tensor) -> Tensor:
            return tensor.detach() if freeze else tensor

        def norm(weight: Tensor) -> Tensor | None:
            return None if folds else vector(weight)

        def folded(weight: Tensor, after: Tensor | None) -> Tensor:
            return vector(weight) * vector(after) if folds and after is not None else weight

        def by_head(weight: Tensor) -> Tensor:
            return vector(folded(weight, model.encoder.final_layer_norm.weight)).view(self.heads, self.d_kv, -1)

        def feed_forward(layer: Any, int8: bool = False) -> _FeedForward:
            dense = layer.DenseReluDense
            inner = (dense.wi_0, dense.wi_1) if hasattr(dense, "wi_0") else (dense.wi,)
            is_relu = isinstance(dense.act, nn.ReLU)
            return _FeedForward(
                norm=norm(layer.layer_norm.weight),
                inner=tuple(matrix(each, after=layer.layer_norm.weight, int8=int8) for each in inner),
                outer=matrix(dense.wo, int8=int8, positive=is_relu and len(inner) == 1),
                activation=_quick(dense.act),
                is_relu=is_relu,
            )

        def encoder_layer(block: Any) -> _EncoderLayer:
            attention, before = block.layer[0].SelfAttention, block.layer[0].layer_norm.weight
            return _EncoderLayer(
                norm=norm(before),
                qkv=matrix(attention.q, attention.k, attention.v, after=before, int8=int8),
                out=matrix(attention.o, int8=int8),
                feed_forward=feed_forward(block.layer[1], int8),
            )

        def decoder_layer(block: Any) -> _DecoderLayer:
            own, cross = block.layer[0].SelfAttention, block.layer[1].EncDecAttention
            before, between = (block.layer[each].layer_norm.weight for each in (0, 1))
            return _DecoderLayer(
                norm=norm(before),
                value=matrix(own.v, after=before),
                out=matrix(own.o),
                cross_norm=norm(between),
                cross_query=matrix(cross.q, after=between),
                cross_key=by_head(cross.k.weight),
                cross_value=by_head(cross.v.weight),
                cross_out=matrix(cross.o),
                feed_forward=feed_forward(block.layer[2]),
            )

        first, embedding = model.encoder.block[0].layer[0].SelfAttention, vector(model.shared.weight)
        return _Parts(
            embedding=embedding,
            start=embedding[self.start : self.start + 1],
            position_bias=vector(first.relative_attention_bias.weight),
            encoder=tuple(map(encoder_layer, model.encoder.block)),
            encoder_norm=norm(model.encoder.final_layer_norm.weight),
            decoder=tuple(map(decoder_layer, model.decoder.block)),
            decoder_norm=norm(model.decoder.final_layer_norm.weight),
            head=vector(folded(model.lm_head.weight[self.labels], model.decoder.final_layer_norm.weight)),
        )


def _residual(weight: Weight, x: Tensor, to: Tensor, dropout: float) -> Tensor:
    return gradients.drop_and_add(weight(x), to, dropout) if dropout else weight.added(x, to)


def _padding(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a token is, the lowest number in the padding."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask == 0, torch.finfo(dtype).min)


def _bucket(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Return T5's bucket of a distance, to both sides: exact near by, logarithmic further away (as `transformers` rounds it)."""
    from transformers.models.t5.modeling_t5 import T5Attention

    result: Tensor = T5Attention._relative_position_bucket(
        distance, bidirectional=True, num_buckets=buckets, max_distance=max_distance
    )
    return result


def _quick(activation: Any) -> Callable[[Tensor], Tensor]:
    """Return GELU in its tanh form as one kernel instead of eight."""
    quick: Callable[[Tensor], Tensor] = activation
    if type(activation).__name__ == "NewGELUActivation":
        quick = nn.GELU(approximate="tanh")
    return quick
