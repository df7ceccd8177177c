"""How far a judge agrees with people: on passages (Cohen's kappa), on systems (Kendall's tau), on the level (bias)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Qrels = Mapping[str, Mapping[str, int]]

#: From this grade of a judge on a passage answers the query; of people's too, where they have as many grades.
ANSWERS = 2


def describe(human: Qrels, grades: Qrels, means: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return the agreement on the pairs that both have graded, and on systems by their ``means`` (by people, by the judge).

    ``kappa_binary``: relevant or not. ``kappa_grades``: the grades as they are, None where people have two. ``tau``: of the
    order of the systems, None for fewer than two or where one side has all of them level. ``bias``: mean of the judge less
    mean by people, over the systems.
    """
    both = [
        (grade, mine[doc_id])
        for query_id, theirs in human.items()
        for mine in [grades.get(query_id, {})]
        for doc_id, grade in theirs.items()
        if doc_id in mine
    ]
    people, judge = (np.array([pair[side] for pair in both], np.int64) for side in (0, 1))
    highest = max((grade for theirs in human.values() for grade in theirs.values()), default=0)
    relevant = people >= (ANSWERS if highest > ANSWERS else 1), judge >= ANSWERS
    return {
        "pairs": len(both),
        "kappa_binary": kappa(*relevant),
        "kappa_grades": kappa(np.maximum(people, 0), judge) if highest > 1 else None,
        "relevant": [_share(each) for each in relevant],
        "systems": len(means),
        "tau": tau([each for each, _ in means.values()], [each for _, each in means.values()]),
        "bias": float(np.mean([mine - theirs for theirs, mine in means.values()])) if means else None,
    }


def sentence(told: Mapping[str, Any]) -> str:
    """Return an agreement in words."""
    shown = {
        name: "none" if told[name] is None else f"{told[name]:.2f}" for name in ("kappa_binary", "kappa_grades", "tau")
    }
    bias = "none" if told["bias"] is None else f"{told['bias']:+.3f}"
    return (
        f"the judge agrees with people at kappa {shown['kappa_binary']} (relevant or not) and {shown['kappa_grades']} (grades) "
        f"on {told['pairs']:,} pairs, at tau {shown['tau']} on the order of {told['systems']} systems, with a bias of {bias}"
    )


def kappa(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return Cohen's kappa of two equally long arrays of classes; None where ``one`` has a single class: such pairs, as of
    collections that name relevant documents alone, tell no judge from another."""
    classes = np.unique(np.concatenate([one, other]))
    if np.unique(one).size < 2:
        return None
    chance = float(sum(np.mean(one == each) * np.mean(other == each) for each in classes))
    return (float(np.mean(one == other)) - chance) / (1 - chance)


def tau(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of two orders of the same systems."""
    from scipy import stats

    found = float(stats.kendalltau(one, other).statistic) if len(one) > 1 else math.nan
    return found if math.isfinite(found) else None


def _share(mask: np.ndarray) -> float | None:
    return float(mask.mean()) if mask.size else None
