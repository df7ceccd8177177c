"""What 8 bits cost: measured against float32 on the job's own pairs, before the job."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from inranker_flow.config.sections import Teacher
from inranker_flow.rankers.base import Prompts, Ranker
from inranker_flow.rankers.loading import load_ranker

log = logging.getLogger(__name__)

#: Pairs that are scored twice.
SAMPLE = 256


def measure_error(config: Teacher, prompts: Prompts, ranker: Ranker) -> dict[str, float]:
    """Return ``ranker`` against the same teacher in float32, on pairs of all lengths.

    Returns the number of pairs, the largest and the mean difference of a logit, and Spearman's correlation of the margins.
    """
    order = np.argsort(-prompts.lengths, kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, min(SAMPLE, len(order))).astype(np.int64))]
    log.info("%s: comparing %s with float32 on %s pairs", config.checkpoint, config.scoring.dtype, len(rows))
    found = ranker.job(prompts).score(rows)
    exact = load_ranker(config.checkpoint, replace(config.scoring, dtype="float32"), config.revision)
    expected = exact.job(prompts).score(rows)
    difference = np.abs(found - expected)
    error = {
        "pairs": len(rows),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "spearman": _correlation(*(np.argsort(np.argsort(each[:, 1] - each[:, 0])) for each in (found, expected))),
    }
    log.info(
        "%s: in %s a logit differs from float32 by %.2g in the mean, %.2g at most; Spearman of the margins %.4f",
        config.checkpoint, config.scoring.dtype, error["mean_difference"], error["largest_difference"], error["spearman"],
    )  # fmt: skip
    return error


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 else 1.0
