"""Parts of a forward pass on a CPU with gradients of their own: fewer passes over memory than autograd would take.

Dropout takes 8 random bits for each number instead of a draw from a distribution, so its rate is a multiple of 1/256. The bits
come from PyTorch's generator one after another: they depend on the seed alone, not on the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

_STEPS = 256


def drop(x: Tensor, rate: float) -> Tensor:
    """Return ``x`` with a share ``rate`` of its numbers 0 and the others so much larger that the mean stays."""
    if not rate or x.device.type != "cpu":
        return F.dropout(x, rate) if rate else x
    result: Tensor = _Drop.apply(x, _threshold(rate))
    return result


def drop_and_add(x: Tensor, to: Tensor, rate: float) -> Tensor:
    """Return ``to + drop(x)``."""
    if not rate or x.device.type != "cpu":
        return to + drop(x, rate)
    result: Tensor = _DropAndAdd.apply(x, to, _threshold(rate))
    return result


def relu_and_drop(x: Tensor, rate: float) -> Tensor:
    """Return ``drop(relu(x))``."""
    result: Tensor = _ReluAndDrop.apply(x, _threshold(rate))
    return result


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``x``, (rows, d), over the root mean square of each row, times ``weight``."""
    result: Tensor = _RmsNorm.apply(x, weight, eps)
    return result


def attention(qkv: Tensor, bias: Tensor | None, masked: Tensor, rate: float, scale: float = 1.0) -> Tensor:
    """Return what each head reads, (n * length, heads * d), of queries, keys and values; ``scale`` is that of their products.

    ``qkv``: (n * length, 3 * heads * d). ``masked``, (n, heads, length, length), is added to the products: ``bias``, (1, heads,
    length, length), which gets the gradient, and the padding.
    """
    result: Tensor = _Attention.apply(qkv, bias, masked, _threshold(rate), scale)
    return result


def inverse_root_mean_square(x: Tensor, eps: float) -> Tensor:
    """Return 1 over the root mean square of each row, summed in float32, in the type of ``x``."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.rsqrt(norm.square() / x.shape[-1] + eps).to(x.dtype)


def _threshold(rate: float) -> int:
    """Return how many of 256 values of a byte are dropped: none only for a rate of 0, and never all."""
    return min(max(round(rate * _STEPS), 1), _STEPS - 1) if rate else 0


def _bytes(x: Tensor) -> Tensor:
    """Return a random byte for each number of ``x``."""
    count = x.numel()
    drawn = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
    return drawn.view(torch.uint8)[:count].view(x.shape)


def _factors(random: Tensor, threshold: int, dtype: torch.dtype) -> Tensor:
    """Return what each number is multiplied by: 0, or one over the share that is kept."""
    return torch.ge(random, threshold, out=torch.empty(random.shape, dtype=dtype)).mul_(_scale(threshold))


def _scale(threshold: int) -> float:
    return _STEPS / (_STEPS - threshold)


class _Drop(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, threshold: int) -> Tensor:
        random = _bytes(x)
        context.save_for_backward(random)
        context.threshold = threshold
        return _factors(random, threshold, x.dtype).mul_(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (random,) = context.saved_tensors
        return _factors(random, context.threshold, gradients[0].dtype).mul_(gradients[0]), None


class _DropAndAdd(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, to: Tensor, threshold: int) -> Tensor:
        random = _bytes(x)
        context.save_for_backward(random)
        context.threshold, context.dtype = threshold, x.dtype
        return _factors(random, threshold, to.dtype).mul_(x).add_(to)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (random,) = context.saved_tensors
        return _factors(random, context.threshold, context.dtype).mul_(gradients[0]), gradients[0], None


class _ReluAndDrop(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, threshold: int) -> Tensor:
        found = _factors(_bytes(x), threshold, x.dtype).mul_(x).clamp_min_(0)
        context.save_for_backward(found)
        context.threshold = threshold
        return found

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # What is 0 was dropped or not above 0: neither has a gradient.
        (found,) = context.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradients[0], found, 0)
        return gradient.mul_(_scale(context.threshold)), None


class _RmsNorm(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = inverse_root_mean_square(x, eps)
        normed = x * scale
        context.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,), (normed, scale, weight) = gradients, context.saved_tensors
        both = gradient * normed
        along = torch.mv(both, weight / weight.numel())[:, None]
        to_x = (gradient * weight).addcmul_(normed, along, value=-1).mul_(scale)
        return to_x, both.sum(0), None


class _Attention(Function):
    @staticmethod
    def forward(context: Any, qkv: Tensor, bias: Tensor | None, masked: Tensor, threshold: int, scale: float) -> Tensor:
        count, heads, length, _ = masked.shape
        parts = qkv.view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4).reshape(3, count * heads, length, -1)
        query, key, value = parts
        weights = torch.baddbmm(masked.flatten(0, 1), query, key.transpose(1, 2), alpha=scale).softmax(-1)
        random = _bytes(weights) if threshold else None
        context.save_for_backward(parts, weights, random)
        context.threshold, context.scale, context.shape = threshold, scale, (count, heads, length, -1)
        dropped = weights if random is None else _factors(random, threshold, weights.dtype).mul_(weights)
        read = torch.bmm(dropped, value)
        return read.view(context.shape).transpose(1, 2).reshape(count * length, -1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        parts, weights, random = context.saved_tensors
        count, heads, length, _ = context.shape
        query, key, value = parts
        read = gradients[0].view(count, length, heads, -1).transpose(1, 2).reshape(count * heads, length, -1)
        to_parts = torch.empty_like(parts)
        to_weights = torch.bmm(read, value.transpose(1, 2))
        dropped = weights
        if random is not None:
            factors = _factors(random, context.threshold, weights.dtype)
            to_weights.mul_(factors)
            dropped = factors.mul_(weights)
        torch.bmm(dropped.transpose(1, 2), read, out=to_parts[2])
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        torch.bmm(to_scores, key, out=to_parts[0])
        torch.bmm(to_scores.transpose(1, 2), query, out=to_parts[1])
        to_parts[:2].mul_(context.scale)
        to_bias = (
            to_scores.view(count, heads, length, length).sum(0, keepdim=True) if context.needs_input_grad[1] else None
        )
        to_qkv = to_parts.view(3, count, heads, length, -1).permute(1, 3, 0, 2, 4).reshape(count * length, -1)
        return to_qkv, to_bias, None, None, None
