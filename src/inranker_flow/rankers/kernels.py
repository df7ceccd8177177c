"""Matrix products on a CPU by oneDNN: as exact as PyTorch's default, twice as fast where that is slow.

PyTorch multiplies float32 matrices with MKL, which keeps to AVX2 on processors that are not Intel's: on an AVX-512 AMD
core it reaches 105 GFLOP/s where oneDNN reaches 250. PyTorch's own compiler calls oneDNN through the same operators.
Where AVX2 is all that there is, MKL is the faster one: on such an AMD core 86 GFLOP/s where oneDNN has 75 with packed weights
and 60 for the gradient of a weight.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: Multiplications below which a call's fixed costs decide, and PyTorch's default is the cheaper one.
_SMALL = 1 << 20
#: Elements below which a weight matrix is not packed, for the same reason.
SMALL_WEIGHT = 1 << 15
#: The least of a scale: rows of zeros have one, too.
_LEAST = 1e-30
#: Rows that a weight is packed for; other numbers of rows work as well.
_PACKED_FOR = 2048


class Weight:
    """A weight matrix (out, in) as it is: what training uses, because nothing of it can go stale."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T``."""
        return linear(x, self.weight)

    def relu(self, x: Tensor) -> Tensor:
        """Return ``relu(x @ weight.T)``."""
        return F.relu(self(x))

    def added(self, x: Tensor, to: Tensor) -> Tensor:
        """Return ``to + x @ weight.T``."""
        return to + self(x)


class PackedWeight(Weight):
    """A weight matrix in oneDNN's own order, for inference on a CPU; ReLU and sum happen while a tile is in cache."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR))

    def __call__(self, x: Tensor) -> Tensor:
        return _onednn(x, self.weight)

    def relu(self, x: Tensor) -> Tensor:
        return _onednn(x, self.weight, "relu")

    def added(self, x: Tensor, to: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, to, self.weight, None, "add")
        return result


class PackedLinear(torch.nn.Module):
    """A linear layer with its bias, packed as :class:`PackedWeight` is: for inference, in the place of the layer."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _PACKED_FOR)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return result


class QuantisedWeight(Weight):
    """A weight matrix in 8 bits, a scale for each row of it, for inference on a CPU; rows of ``x`` get theirs at each call.

    The sums are exact whole numbers; what is lost is what rounding to 255 steps loses. ``positive``: no number of any ``x``
    is negative (it comes from a ReLU), so that all 255 steps are above zero.
    """

    def __init__(self, weight: Tensor, positive: bool = False) -> None:
        weight = weight.detach().float()
        scales = weight.abs().amax(1).clamp_min_(_LEAST) / 127
        whole = (weight / scales[:, None]).round_().to(torch.int8)
        super().__init__(torch.ops.onednn.qlinear_prepack(whole, [_PACKED_FOR, weight.shape[1]]))
        self._scales, self._zeros = scales, torch.zeros(len(scales), dtype=torch.int64)
        self._positive = positive

    def __call__(self, x: Tensor) -> Tensor:
        product, scales = self._product(x)
        return product.mul_(scales)

    def relu(self, x: Tensor) -> Tensor:
        product, scales = self._product(x, "relu")
        return product.mul_(scales)  # which are positive

    def added(self, x: Tensor, to: Tensor) -> Tensor:
        return torch.addcmul(to, *self._product(x))

    def _product(self, x: Tensor, after: str = "none") -> tuple[Tensor, Tensor]:
        """Return the product in float32 and the scale that each of its rows still has to be multiplied by."""
        # VNNI multiplies unsigned numbers by signed ones: zero is in the middle.
        zero, steps = (0, 255) if self._positive else (128, 127)
        scales = (x if self._positive else x.abs()).amax(-1, keepdim=True).clamp_min_(_LEAST) / steps
        whole = (x / scales).round_()
        whole = (whole.add_(zero) if zero else whole).to(torch.uint8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, zero, self.weight, self._scales, self._zeros, None, 1.0, 0, torch.float32, after, [], ""
        )
        return product, scales


@cache
def int8_works() -> bool:
    """Return whether this build of PyTorch and this processor have oneDNN's product of 8-bit numbers, and its sums are exact.

    (Without VNNI instructions they may saturate.)
    """
    try:
        with torch.no_grad():
            x, weight = torch.full((16, 256), 255.0), torch.full((16, 256), 127.0)
            found = QuantisedWeight(weight, positive=True)(x)
            return torch.allclose(found, torch.full_like(found, 255.0 * 127.0 * 256.0))
    except (RuntimeError, AttributeError, NotImplementedError):  # this build has no such product: that is the answer
        return False


def packed(weight: Tensor) -> Weight:
    """Return ``weight`` in the form that is fastest for inference on its device; it must not change any more."""
    weight = weight.detach()
    if weight.device.type == "cpu" and weight.numel() >= SMALL_WEIGHT and packing_pays(weight.dtype):
        return PackedWeight(weight)
    return Weight(weight)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``F.linear``, under autograd too."""
    rows = x.numel() // x.shape[-1]
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or weight.dtype != torch.float32  # bfloat16 takes oneDNN anyway
        or rows * weight.numel() < _SMALL
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()  # the compiler knows these operators with constant weights only
        or torch.jit.is_tracing()  # type: ignore[attr-defined]  # and ONNX none of them
        or not mkl_is_slow()
        or not onednn_works(torch.float32)
    ):
        return F.linear(x, weight, bias)
    result: Tensor = _Linear.apply(x, weight) if torch.is_grad_enabled() else _onednn(x, weight)
    return result if bias is None else result + bias


@cache
def mkl_is_slow() -> bool:
    """Return whether MKL leaves units of this processor unused: it has AVX-512 and is not Intel's.

    On Intel's, MKL is the faster one for a weight that is not packed.
    """
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_f")) and "intel" not in str(found.get("cpu_name", "")).lower()


def packing_pays(dtype: Any) -> bool:
    """Return whether oneDNN with packed weights of ``dtype`` works and is faster here than PyTorch's default."""
    return (dtype != torch.float32 or torch.backends.cpu.get_cpu_capability() == "AVX512") and onednn_works(dtype)


@cache
def onednn_works(dtype: Any) -> bool:
    """Return whether this build of PyTorch and this processor have oneDNN's product of ``dtype``, and it gives what it should."""
    try:
        x, weight = torch.eye(16, dtype=dtype), torch.arange(256, dtype=dtype).reshape(16, 16)
        with torch.no_grad():
            order = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
            sums = torch.ops.mkldnn._linear_pointwise.binary(x, x, order, None, "add")
            return torch.equal(_onednn(x, weight), weight.T) and torch.equal(sums, x + weight.T)
    except (RuntimeError, AttributeError, NotImplementedError):  # operators of PyTorch's compiler, not of its interface
        return False


def _onednn(x: Tensor, weight: Tensor, after: str = "none") -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, after, [], "")
    return result


class _Linear(torch.autograd.Function):
    """``x @ weight.T`` and its two gradients, all three by oneDNN."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return _onednn(x, weight)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = context.saved_tensors
        to_x = to_weight = None
        if context.needs_input_grad[0]:
            to_x = _onednn(gradient, weight.t())
        if context.needs_input_grad[1]:
            flat = gradient.reshape(-1, gradient.shape[-1])
            to_weight = _onednn(flat.t(), x.reshape(-1, x.shape[-1]).t())
        return to_x, to_weight
