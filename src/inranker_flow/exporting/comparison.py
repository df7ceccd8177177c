"""A variant against its checkpoint: the scores of the same pairs, the measure of the same queries, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.evaluation import measures, runs, serving_cost
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.evaluation.serving_cost import Pair
from inranker_flow.rankers.base import Ranker


@dataclass(frozen=True)
class Sample:
    """Whole lists of some test queries of every set; ``timed``: requests as the evaluation times them."""

    sets: Sequence[JudgedSet]
    measure: str
    timed: Sequence[Sequence[Pair]]

    @property
    def pairs(self) -> list[Pair]:
        return [pair for each in self.sets for pair in each.pairs]

    @property
    def queries(self) -> int:
        return sum(len(each.qrels) for each in self.sets)

    def mean(self, scores: np.ndarray) -> float:
        """Return the mean of the measure over the sets, of a ranking by ``scores`` of :attr:`pairs`."""
        wanted, means, start = measures.parse([self.measure]), [], 0
        for each in self.sets:
            best = each.best(scores[start : start + len(each.pairs)])
            start += len(each.pairs)
            run = runs.rank(each.run.column("query_id"), each.run.column("doc_id"), best)
            [values] = measures.per_query(wanted, each.qrels, run).values()
            means.append(np.mean(list(values.values())))
        return float(np.mean(means))


def sample(sets: Sequence[JudgedSet], pairs: int, measure: str, latency_queries: int) -> Sample:
    """Return a sample of about ``pairs`` pairs, at least one query of each set."""
    few = [_few(each, pairs / len(sets)) for each in sets]
    return Sample(few, measure, serving_cost.requests(sets, latency_queries).lists)


def _few(judged_set: JudgedSet, pairs: float) -> JudgedSet:
    starts = runs.query_starts(judged_set.run)
    count = max(1, min(len(starts), round(len(starts) * pairs / len(judged_set.pairs))))
    ids = judged_set.run.column("query_id")
    chosen = [ids[int(starts[place])].as_py() for place in np.linspace(0, len(starts) - 1, count).astype(int)]
    kept = np.flatnonzero(pc.is_in(ids, pa.array(chosen, pa.string())).to_numpy())
    ends = np.append(judged_set.starts, len(judged_set.pairs))[1:]
    own = [judged_set.pairs[judged_set.starts[row] : ends[row]] for row in kept]
    return replace(
        judged_set,
        qrels={query_id: judged_set.qrels[query_id] for query_id in chosen},
        run=judged_set.run.take(pa.array(kept)),
        pairs=[pair for each in own for pair in each],
        starts=np.cumsum([0, *map(len, own[:-1])], dtype=np.int64),
    )


def margins(ranker: Ranker, pairs: Sequence[Pair]) -> np.ndarray:
    """Return how much more the answer true is than false, for each pair."""
    logits = ranker.score(pairs)
    difference: np.ndarray = logits[:, 1] - logits[:, 0]
    return difference


def agreement(scores: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return the ``largest_difference`` of scores and their rank correlation, ``spearman``: 0 where there is none."""
    from scipy.stats import spearmanr

    if not np.isfinite(scores).all():
        return {"largest_difference": float("inf"), "spearman": 0.0}
    largest = float(np.abs(scores - reference).max(initial=0.0))
    if largest == 0:
        return {"largest_difference": 0.0, "spearman": 1.0}
    ordered = np.ptp(scores) > 0 and np.ptp(reference) > 0
    return {
        "largest_difference": largest,
        "spearman": float(spearmanr(scores, reference).statistic) if ordered else 0.0,
    }


def latency(ranker: Callable[[int], Ranker], timed: Sequence[Sequence[Pair]], threads: int) -> Mapping[str, Any]:
    """Return median and 95th percentile in ms of a request of 100 passages, by number of CPUs: one, and all (``threads``)."""
    found: dict[str, Any] = {}
    for name, count in (("one", 1), ("all", threads)):
        if name == "all" and count == 1:
            found[name] = found["one"]
            continue
        times = serving_cost.latencies(ranker(count).score, timed) if timed else []
        found[name] = {f"p{part}_ms": float(np.percentile(times, part)) if times else None for part in (50, 95)}
    return found
