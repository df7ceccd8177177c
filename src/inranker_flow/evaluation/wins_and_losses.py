"""The queries on which two systems differ most, with what each of them puts on top: for a person to see why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inranker_flow.evaluation import runs
from inranker_flow.evaluation.gate import from_measures
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.evaluation.reranking import Scored

#: Queries of a data set that are shown with their passages on either side, those that are listed below them, and passages of
#: each ranking.
LARGEST, LISTED, TOP = 3, 50, 3
#: Characters of a passage and of a query that are kept; of more data sets than a page is read for, shorter passages.
_PASSAGE, _SHORTER, _MANY, _QUERY = 320, 160, 4, 400
#: What is less is rounding.
_LEVEL = 1e-9

#: dataset -> query id -> value of the headline measure.
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Ranked:
    """One system: its ``values`` by query, and the ``scores`` of the rows of each dataset's ``JudgedSet.run``."""

    name: str
    values: Values
    scores: Mapping[str, np.ndarray]


def cases(
    summary: Mapping[str, Any], sets: Sequence[JudgedSet], scored: Mapping[str, Scored], table: Any
) -> list[dict[str, Any]]:
    """Return the last student's largest wins and losses against the champion; without one, against the student before it and
    the first stage."""
    last, first = list(summary["students"])[-1:], summary["systems"][0]
    others = ["champion"] if "champion" in scored else [*list(summary["students"])[-2:-1], first]

    def ranked(system: str) -> Ranked:
        scores, offset = {}, 0
        for each in sets:
            rows = slice(offset, offset + each.run.num_rows)
            offset = rows.stop
            found = -each.run.column("rank").to_numpy()
            scores[each.dataset] = found if system == first else scored[system].scores[rows]
        return Ranked(system, from_measures(table, system, summary["headline"]), scores)

    return [compare(sets, ranked(mine), ranked(other)) for mine in last for other in others]


def compare(sets: Sequence[JudgedSet], ours: Ranked, theirs: Ranked) -> dict[str, Any]:
    """Return queries won, lost and level (more than rounding apart), in all and by data set, and the ``margins``.

    ``wins`` and ``losses`` of a data set: the three largest, with query, both values, the first three passages of either
    ranking, and the best judged candidate where none of those is relevant; then ``more_wins`` and ``more_losses``, at most 50,
    with query and values alone. ``margins``: [from, to, queries] of each bar of their histogram, level ones apart.
    """
    most = max(1, LISTED * _MANY // max(len(sets), _MANY))
    found = [_of_set(each, ours, theirs, most, _SHORTER if len(sets) > _MANY else _PASSAGE) for each in sets]
    differences = np.array([one for _, several in found for one in several], np.float64)
    datasets = [told for told, _ in found]
    counts = {name: sum(each[name] for each in datasets) for name in ("won", "lost", "level")}
    return {
        "system": ours.name,
        "against": theirs.name,
        **counts,
        "datasets": datasets,
        "margins": margins(differences),
    }


def _of_set(
    judged: JudgedSet, ours: Ranked, theirs: Ranked, most: int, characters: int
) -> tuple[dict[str, Any], list[float]]:
    values = ours.values[judged.dataset], theirs.values[judged.dataset]
    found = sorted((value - values[1][query_id], query_id) for query_id, value in values[0].items())
    losses = [query_id for difference, query_id in found if difference < -_LEVEL]
    wins = [query_id for difference, query_id in found[::-1] if difference > _LEVEL]
    named = _Cases(judged, ours, theirs, characters)
    return {
        "dataset": judged.dataset,
        "won": len(wins),
        "lost": len(losses),
        "level": len(found) - len(wins) - len(losses),
        "wins": [named.case(query_id) for query_id in wins[:LARGEST]],
        "losses": [named.case(query_id) for query_id in losses[:LARGEST]],
        "more_wins": [named.listed(query_id) for query_id in wins[LARGEST : LARGEST + most]],
        "more_losses": [named.listed(query_id) for query_id in losses[LARGEST : LARGEST + most]],
    }, [difference for difference, _ in found]


def margins(differences: np.ndarray) -> list[tuple[float, float, int]]:
    """Return (from, to, queries) of bars of one width, from the largest loss to the largest win; [] where all are level.

    A bar ends at 0, and a difference on the border of two belongs to the one that is further from 0.
    """
    told = differences[np.abs(differences) > _LEVEL]
    if not told.size:
        return []
    most = float(np.abs(told).max())
    power = 10.0 ** np.floor(np.log10(most / 10))
    width = next(float(digit * power) for digit in (1, 2, 5, 10) if digit * power * 10 >= most * (1 - _LEVEL))
    # The largest whole one ends a bar instead of beginning the next.
    places = np.minimum(np.floor(np.abs(told) / width + _LEVEL), np.ceil(most / width - _LEVEL) - 1) + 1
    places = (places * np.sign(told)).astype(int)
    numbers = [each for each in range(int(places.min()), int(places.max()) + 1) if each]
    bounds = {each: sorted((each * width, (each - (1 if each > 0 else -1)) * width)) for each in numbers}
    return [(round(low, 9), round(high, 9), int((places == each).sum())) for each, (low, high) in bounds.items()]


class _Cases:
    """Queries of one dataset, as data."""

    def __init__(self, judged_set: JudgedSet, ours: Ranked, theirs: Ranked, characters: int) -> None:
        self.set, self.ours, self.theirs, self.characters = judged_set, ours, theirs, characters
        firsts = runs.query_starts(judged_set.run)
        ids = judged_set.run.column("query_id").take(firsts).to_pylist()
        self.rows = {
            query_id: slice(int(first), int(end))
            for query_id, first, end in zip(ids, firsts, [*firsts[1:], judged_set.run.num_rows], strict=True)
        }

    def listed(self, query_id: str) -> dict[str, Any]:
        return {
            "query_id": query_id,
            "text": self.set.queries[query_id][:_QUERY],
            "values": [float(each.values[self.set.dataset][query_id]) for each in (self.ours, self.theirs)],
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
                "text": text if len(text) <= self.characters else text[: self.characters - 1].rstrip() + "…",
            }

        tops = [sorted(place, key=place.__getitem__)[:TOP] for place in places]
        best = max(range(len(ids)), key=lambda row: (grades.get(ids[row], 0), -places[0][row]))
        shown = any(grades.get(ids[row], 0) > 0 for top in tops for row in top)
        return {
            **self.listed(query_id),
            "top": [[passage(row) for row in top] for top in tops],
            "relevant": None if shown else passage(best),
        }

    def _places(self, system: Ranked, rows: slice, ids: Sequence[str]) -> dict[int, int]:
        """Return the row of the query -> rank, from 1, as in the run."""
        scores = system.scores[self.set.dataset][rows]
        order = sorted(range(len(ids)), key=lambda row: (-scores[row], ids[row]))
        return {row: rank for rank, row in enumerate(order, 1)}
