"""What the student is trained on, and how its agreement with the teacher is measured.

Shapes: ``student`` and ``teacher`` are (pairs, 2) logits [false, true]; ``sizes`` is (queries,), the number of
consecutive pairs that belong to each query; ``relevance`` is (pairs,): 1 judged relevant, 0 another passage of a query with
judgements, -1 of a query without any. The score of a pair is delta = true - false: ranking depends on it alone.
"""

from __future__ import annotations

from collections.abc import Callable
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


def ce(student: Tensor, relevance: Tensor, sizes: np.ndarray) -> Tensor:
    """Return the loss that monoT5 is fine-tuned with (arXiv 2003.06713): the cross-entropy of the judgement and the softmax over
    {false, true}, mean over pairs; a pair without a judgement counts as 0."""
    import torch

    values = torch.nn.functional.binary_cross_entropy_with_logits(
        delta(student), relevance.clamp(min=0), reduction="none"
    )
    return (values * (relevance >= 0)).mean()


def lce(student: Tensor, relevance: Tensor, sizes: np.ndarray) -> Tensor:
    """Return the localized contrastive loss (arXiv 2101.08751, equation 3): mean over queries of -log softmax of a relevant
    passage's delta among all of the query's passages.

    Of several relevant ones the mean is taken; a query without judgements counts as 0.
    """
    import torch

    values, mask = by_query(torch.stack([delta(student), relevance], dim=1), sizes)
    logs = values[:, :, 0].masked_fill(~mask, torch.finfo(values.dtype).min).log_softmax(1)
    relevant = (values[:, :, 1] > 0) & mask
    losses = -(logs * relevant).sum(1) / relevant.sum(1).clamp(min=1)
    return losses.mean()


Loss = Callable[["Tensor", "Tensor", np.ndarray], "Tensor"]
#: Losses on the teacher's labels, and on judgements: with whether their batches must hold whole queries.
OBJECTIVES: dict[str, tuple[Loss, bool]] = {
    "mse": (mse, False),
    "margin_mse": (margin_mse, True),
    "kl": (kl, True),
    "ranknet": (ranknet, True),
}
JUDGED: dict[str, tuple[Loss, bool]] = {"ce": (ce, False), "lce": (lce, True)}


class Objective:
    """The loss that a setting names: one on the teacher's labels, one on judgements (``weight``), or both: ``mse+ce``."""

    def __init__(self, name: str, weight: float = 1.0) -> None:
        terms = name.split("+")
        self._soft = [OBJECTIVES[each][0] for each in terms if each in OBJECTIVES]
        self._judged = [JUDGED[each][0] for each in terms if each in JUDGED]
        self._weight = weight if self._soft else 1.0
        self.whole_queries = any({**OBJECTIVES, **JUDGED}[each][1] for each in terms)

    @property
    def reads_judgements(self) -> bool:
        """Whether judgements are part of it."""
        return bool(self._judged)

    def loss(self, student: Tensor, teacher: Tensor, sizes: np.ndarray, relevance: Tensor | None = None) -> Tensor:
        """Return the loss of some pairs; ``relevance`` is needed where :attr:`reads_judgements`."""
        parts = [each(student, teacher, sizes) for each in self._soft]
        if self._judged:
            if relevance is None:
                raise ValueError("a loss on judgements without judgements")
            parts += [self._weight * each(student, relevance.to(student.dtype), sizes) for each in self._judged]
        total: Tensor = sum(parts[1:], parts[0])
        return total


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
