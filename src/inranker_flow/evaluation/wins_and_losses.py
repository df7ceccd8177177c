"""The queries on which two systems differ most, with what each of them puts on top: for a person to see why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inranker_flow.evaluation import runs
from inranker_flow.evaluation.judged_sets import JudgedSet

#: Queries shown on either side, and passages of each ranking.
LARGEST, TOP = 10, 3
#: Characters of a passage and of a query that are kept.
_PASSAGE, _QUERY = 320, 400
#: Points of the curve of all differences.
_POINTS = 240

#: dataset -> query id -> value of the headline measure.
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Ranked:
    """One system: its ``values`` by query, and the ``scores`` of the rows of each dataset's ``JudgedSet.run``."""

    name: str
    values: Values
    scores: Mapping[str, np.ndarray]


def compare(sets: Sequence[JudgedSet], ours: Ranked, theirs: Ranked) -> dict[str, Any]:
    """Return queries won, lost and level (more than rounding apart), the largest of each, and the curve of all differences.

    ``wins`` and ``losses``: at most ten each, the largest first, with query, both values, the first three passages of
    either ranking, and the best judged candidate where none of those is relevant. ``curve``: at most 240 of the sorted
    differences, evenly spaced.
    """
    found = sorted(
        (value - theirs.values[each.dataset][query_id], each.dataset, query_id)
        for each in sets
        for query_id, value in ours.values[each.dataset].items()
    )
    differences = np.array([difference for difference, _, _ in found], np.float64)
    won, lost = int((differences > 1e-9).sum()), int((differences < -1e-9).sum())
    chosen = found[: min(LARGEST, lost)], found[::-1][: min(LARGEST, won)]
    named = {each.dataset: _Cases(each, ours, theirs) for each in sets}
    losses, wins = ([named[dataset].case(query_id) for _, dataset, query_id in side] for side in chosen)
    points = np.unique(np.linspace(0, len(found) - 1, min(_POINTS, len(found))).round().astype(int))
    return {
        "system": ours.name,
        "against": theirs.name,
        "won": won,
        "lost": lost,
        "level": len(found) - won - lost,
        "wins": wins,
        "losses": losses,
        "curve": [round(float(value), 4) for value in differences[points]] if found else [],
    }


class _Cases:
    """Queries of one dataset, as data."""

    def __init__(self, judged_set: JudgedSet, ours: Ranked, theirs: Ranked) -> None:
        self.set, self.ours, self.theirs = judged_set, ours, theirs
        firsts = runs.query_starts(judged_set.run)
        ids = judged_set.run.column("query_id").take(firsts).to_pylist()
        self.rows = {
            query_id: slice(int(first), int(end))
            for query_id, first, end in zip(ids, firsts, [*firsts[1:], judged_set.run.num_rows], strict=True)
        }

    def case(self, query_id: str) -> dict[str, Any]:
        rows = self.rows[query_id]
        ids = self.set.run.column("doc_id").slice(rows.start, rows.stop - rows.start).to_pylist()
        grades = self.set.qrels[query_id]
        places = [self._places(each, rows, ids) for each in (self.ours, self.theirs)]

        def passage(row: int) -> dict[str, Any]:
            _, text = self.set.pairs[int(self.set.starts[rows.start + row])]
            return {
                "doc_id": ids[row],
                "grade": grades.get(ids[row]),
                "ranks": [place[row] for place in places],
                "text": text if len(text) <= _PASSAGE else text[: _PASSAGE - 1].rstrip() + "…",
            }

        tops = [sorted(place, key=place.__getitem__)[:TOP] for place in places]
        best = max(range(len(ids)), key=lambda row: (grades.get(ids[row], 0), -places[0][row]))
        shown = any(grades.get(ids[row], 0) > 0 for top in tops for row in top)
        return {
            "dataset": self.set.dataset,
            "query_id": query_id,
            "text": self.set.queries[query_id][:_QUERY],
            "values": [float(each.values[self.set.dataset][query_id]) for each in (self.ours, self.theirs)],
            "top": [[passage(row) for row in top] for top in tops],
            "relevant": None if shown else passage(best),
        }

    def _places(self, system: Ranked, rows: slice, ids: Sequence[str]) -> dict[int, int]:
        """Return the row of the query -> rank, from 1, as in the run."""
        scores = system.scores[self.set.dataset][rows]
        order = sorted(range(len(ids)), key=lambda row: (-scores[row], ids[row]))
        return {row: rank for rank, row in enumerate(order, 1)}
