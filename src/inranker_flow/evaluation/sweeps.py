"""How measures change with their cut-off and with the number of candidates that are reranked, from scores that are there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.errors import UserError
from inranker_flow.evaluation import measures, runs
from inranker_flow.evaluation.judged_sets import JudgedSet

#: Cut-offs of each measure that has one, as far as the candidates go.
CUTOFFS = (1, 3, 5, 10, 20, 50, 100)
#: How many of the first stage's candidates are reranked, beside all of them.
DEPTHS = (10, 20, 50, 100, 200, 500)


def at_cutoffs(wanted: Mapping[str, Any], judged: JudgedSet) -> dict[str, Any]:
    """Return name -> measure for the ``wanted`` ones at other cut-offs; without those that cannot be had there."""
    depth = int(pc.max(judged.run.column("rank")).as_py() or 0)
    found: dict[str, Any] = {}
    cut = [measure for measure in wanted.values() if measure.params.get("cutoff")]
    every = sorted({*CUTOFFS, *(measure.params["cutoff"] for measure in cut)})
    for measure in cut:
        for cutoff in every:
            name = str(measure @ cutoff)
            if cutoff <= depth and name not in found:
                with suppress(UserError):  # MLflow's or the evaluator's limits are told of the wanted ones alone
                    found |= measures.parse([name])
    return found


def by_cutoff(measures_: Mapping[str, Any], judged: JudgedSet, run: pa.Table) -> dict[str, dict[str, float]]:
    """Return family (``nDCG``) -> cut-off -> mean over the queries, of the measures that :func:`at_cutoffs` found."""
    found: dict[str, dict[str, float]] = {}
    for name, values in measures.per_query(measures_, judged.qrels, run).items():
        family, _, cutoff = name.rpartition("@")
        mean = float(np.mean(list(values.values())))
        if np.isfinite(mean):  # a measure may have no value for a query at one cut-off alone
            found.setdefault(family, {})[cutoff] = mean
    return found


def by_depth(headline: Mapping[str, Any], judged: JudgedSet, scores: np.ndarray, whole: float) -> dict[str, float]:
    """Return number of candidates that are reranked -> mean of the ``headline`` measure, which is ``whole`` for all of them.

    The candidates below keep the first stage's order.
    """
    ranks = judged.run.column("rank").to_numpy()
    depth = int(ranks.max(initial=0))
    ids = judged.run.column("query_id"), judged.run.column("doc_id")
    below = float(scores.min(initial=0.0)) - ranks
    found: dict[str, float] = {}
    for few in DEPTHS:
        if few < depth:
            run = runs.rank(*ids, np.where(ranks <= few, scores, below))
            [values] = measures.per_query(headline, judged.qrels, run).values()
            found[str(few)] = float(np.mean(list(values.values())))
    return found | ({str(depth): whole} if depth else {})
