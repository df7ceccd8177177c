"""What the student is trained on, and how its agreement with the teacher is measured.

Shapes: ``student`` and ``teacher`` are (pairs, 2) logits [false, true]; ``sizes`` is (queries,), the number of
consecutive pairs that belong to each query. The score of a pair is delta = true - false: ranking depends on it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def mse(student: Tensor, teacher: Tensor, sizes: np.ndarray) -> Tensor:
    """Return InRanker's loss (arXiv 2401.06910): 1/(2B) * sum over pairs and over {false, true} of (student - teacher)^2.

    It equals mean((delta_s - delta_t)^2) / 4 + mean((mean_s - mean_t)^2): the second term asks for a level of the two
    logits that ranking does not need, and zero-centred targets (:func:`centred`) set that level to 0.
    """
    return (student - teacher).square().mean()


def margin_mse(student: Tensor, teacher: Tensor, sizes: np.ndarray) -> Tensor:
    """Return MarginMSE (arXiv 2010.02666) over all pairs (i, j) of documents of a query, not positive and negative alone.

    Mean over queries of mean over i < j of ((s_i - s_j) - (t_i - t_j))^2 with s, t the deltas. With e = s - t that is
    twice the unbiased variance of e, so no n x n matrix is built. A query needs two documents.
    """
    error, mask = by_query(delta(student) - delta(teacher), sizes)
    count = mask.sum(1)
    mean = error.sum(1) / count
    squares = ((error - mean[:, None]) * mask).square().sum(1)
    return (2 * squares / (count - 1)).mean()


def kl(student: Tensor, teacher: Tensor, sizes: np.ndarray) -> Tensor:
    """Return listwise: mean over queries of KL(softmax of the teacher's deltas || softmax of the student's) over its
    documents.

    The cross-entropy of ListNet (ICML 2007) less the teacher's own entropy, so that 0 is a perfect fit.
    """
    import torch

    values, mask = by_query(torch.stack([delta(student), delta(teacher)], dim=1), sizes)
    # Not -inf: 0 * (-inf - -inf) would be nan, and so would its gradient.
    logs = values.masked_fill(~mask[:, :, None], torch.finfo(values.dtype).min).log_softmax(1)
    return ((logs[:, :, 1].exp() * (logs[:, :, 1] - logs[:, :, 0])) * mask).sum(1).mean()


def ranknet(student: Tensor, teacher: Tensor, sizes: np.ndarray) -> Tensor:
    """Return RankNet (ICML 2005) over the teacher's order, as RankGPT distils (arXiv 2304.09542, section 4; `rank_loss.py`).

    Mean over queries of mean over pairs with t_i > t_j of log(1 + exp(s_j - s_i)), s and t the deltas. RankGPT's code takes
    the mean over all pairs of the batch at once: the same where queries have equally many documents and no ties. A query
    that the teacher does not order counts as 0.
    """
    import torch

    values, mask = by_query(torch.stack([delta(student), delta(teacher)], dim=1), sizes)
    differences = values[:, :, None] - values[:, None, :]
    ordered = (differences[..., 1] > 0) & mask[:, :, None] & mask[:, None, :]
    losses = torch.nn.functional.softplus(-differences[..., 0]) * ordered
    return (losses.sum((1, 2)) / ordered.sum((1, 2)).clamp(min=1)).mean()


@dataclass(frozen=True)
class Objective:
    """A loss and whether its batches must hold whole queries."""

    loss: Callable[[Tensor, Tensor, np.ndarray], Tensor]
    whole_queries: bool


OBJECTIVES = {
    "mse": Objective(mse, False),
    "margin_mse": Objective(margin_mse, True),
    "kl": Objective(kl, True),
    "ranknet": Objective(ranknet, True),
}


def delta(logits: Tensor) -> Tensor:
    """Return (..., 2) logits [false, true] -> (...) true - false, the log odds of relevance."""
    return logits[..., 1] - logits[..., 0]


def centred(logits: np.ndarray) -> np.ndarray:
    """Return the teacher's logits less the mean of the two: (1, 5) -> (-2, 2). The softmax over them does not change."""
    centre: np.ndarray = logits - logits.mean(axis=1, keepdims=True)
    return centre


def by_query(values: Tensor, sizes: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return (pairs, ...) ordered by query -> ((queries, most documents, ...) padded with 0, mask of the real ones)."""
    import torch

    counts = torch.from_numpy(np.asarray(sizes, dtype=np.int64)).to(values.device, non_blocking=True)
    mask = torch.arange(int(max(sizes)), device=values.device) < counts[:, None]
    grid = values.new_zeros(*mask.shape, *values.shape[1:])
    real = mask.reshape(*mask.shape, *[1] * (values.dim() - 1)).expand_as(grid)
    # masked_scatter, because indexing with a mask makes a GPU wait for its number of elements.
    return grid.masked_scatter(real, values), mask


def kendall(student: np.ndarray, teacher: np.ndarray, sizes: np.ndarray) -> float:
    """Return the mean over queries of Kendall's tau between the deltas, both (pairs,), over pairs that the teacher orders.

    1: the student orders the documents of every query as the teacher does; 0: no relation. NaN when the teacher orders
    nothing (queries with one document).
    """
    taus, start = [], 0
    for size in sizes:
        rows = slice(start, start + size)
        start += size
        wanted = np.sign(teacher[rows, None] - teacher[None, rows])
        ordered = np.count_nonzero(wanted)
        if ordered:
            taus.append((np.sign(student[rows, None] - student[None, rows]) * wanted).sum() / ordered)
    return float(np.mean(taus)) if taus else float("nan")
