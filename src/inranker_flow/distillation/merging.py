"""Several students that began alike become one: the mean of their weights, or their spherical mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Weights = Mapping[str, "Tensor"]
#: Cosine from which on two weights point the same way: slerp divides by the sine of their angle.
_PARALLEL = 0.9995


def merged(students: Iterable[Weights], method: Literal["none", "mean", "slerp"]) -> dict[str, Tensor]:
    """Return the weights of one student in the middle of ``students``, which are read one after another.

    The n-th is mixed in with a share of 1/n, so that all count alike. ``mean``: model soups (arXiv 2203.05482); ``slerp``:
    each tensor on the arc between the two (Shoemake 1985, as merging tools and arXiv 2606.19037 take it). Numbers that are no
    weights, such as counters, stay those of the first.
    """
    result: dict[str, Tensor] = {}
    for number, weights in enumerate(students, 1):
        for name, weight in weights.items():
            if name not in result:
                result[name] = weight.detach().clone()
            elif weight.is_floating_point():
                mix = slerp if method == "slerp" else _lerp
                result[name] = mix(result[name], weight.detach(), 1 / number)
    return result


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Return the tensor at ``share`` of the way from ``one`` to ``other`` along the arc between their directions."""
    import torch

    # In float64: the sine of a small angle is the difference of nearly equal numbers.
    a, b = one.double().flatten(), other.double().flatten()
    lengths = a.norm() * b.norm()
    cosine = float(a @ b / lengths) if lengths > 0 else 1.0
    if abs(cosine) > _PARALLEL:
        return _lerp(one, other, share)
    angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
    found = (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
    return found.reshape(one.shape).to(one.dtype)


def _lerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    return one + (other - one) * share
