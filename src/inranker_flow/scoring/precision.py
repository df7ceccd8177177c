"""What a precision below float32 costs on a CPU: measured against float32 on the job's own pairs, before the job."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np

from inranker_flow.rankers.base import Prompts, Ranker
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.scoring.job import Checkpoint

log = logging.getLogger(__name__)

#: Pairs that are scored twice.
SAMPLE = 256


def measure_error(checkpoint: Checkpoint, prompts: Prompts, ranker: Ranker) -> dict[str, float]:
    """Return the error of ``ranker`` against the same ``checkpoint`` in float32, on pairs of all lengths.

    Returns the number of pairs, the largest and the mean difference of a logit, and Spearman's correlation of the margins.
    The log says how fast it is against float32, too: without the instructions for it, a lower precision is slower.
    """
    name, dtype = checkpoint.reference, checkpoint.scoring.dtype
    order = np.argsort(-prompts.lengths, kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, min(SAMPLE, len(order))).astype(np.int64))]
    log.info("%s: comparing %s with float32 on %s pairs", name, dtype, len(rows))
    found, seconds = _timed(ranker, prompts, rows)
    exact = load_ranker(name, replace(checkpoint.scoring, dtype="float32"), checkpoint.revision)
    expected, exact_seconds = _timed(exact, prompts, rows)
    difference = np.abs(found - expected)
    error = {
        "pairs": len(rows),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "spearman": _correlation(*(np.argsort(np.argsort(each[:, 1] - each[:, 0])) for each in (found, expected))),
    }
    log.info(
        "%s: in %s a logit differs from float32 by %.2g in the mean, %.2g at most; Spearman of the margins %.4f; %.2f times as "
        "fast on these pairs",
        name, dtype, error["mean_difference"], error["largest_difference"], error["spearman"],
        exact_seconds / max(seconds, 1e-9),
    )  # fmt: skip
    return error


def _timed(ranker: Ranker, prompts: Prompts, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the logits of the pairs ``rows``, and the CPU seconds that they took."""
    start = time.process_time()
    return ranker.job(prompts).score(rows), time.process_time() - start


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 else 1.0
