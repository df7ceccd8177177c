"""Evidence where nobody has judged anything: queries that were held out of the training.

known_item
    The passage that a query was written for is its only relevant one (nDCG@10, RR@10). Other passages may answer it as well,
    so values are too low for every system, and a written query shares words with its passage, which favours the first stage.
agreement
    nDCG@10 with the teacher's scores as gains, from 0 (the worst candidate of a query) to 1 (the best), and Kendall's tau (b)
    with them. It says how much of the teacher a student has learned, not whether the teacher is right.

Neither is ever averaged with measures that rest on judgements.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.config.sections import EvaluateConfig
from inranker_flow.config.values import EvidenceName
from inranker_flow.evaluation import judged_sets, leaks, measures, runs, significance
from inranker_flow.evaluation.gate import from_measures
from inranker_flow.evaluation.judged_sets import FURTHER, JudgedSet
from inranker_flow.evaluation.reranking import Scored
from inranker_flow.evaluation.systems import TEACHER

log = logging.getLogger(__name__)

KNOWN_ITEM: EvidenceName = "known_item"
AGREEMENT: EvidenceName = "agreement"
#: The first of each decides.
MEASURES: Mapping[EvidenceName, tuple[str, ...]] = {KNOWN_ITEM: ("nDCG@10", "RR@10"), AGREEMENT: ("nDCG@10", "tau")}
_CUTOFF = 10

#: Measure -> query id -> value.
_Values = dict[str, dict[str, float]]


@dataclass(frozen=True)
class HeldOut:
    """The held-out queries of each data set with their candidates, named ``DATASET@held_out``; ``leaked``: data set -> those
    left out."""

    sets: list[JudgedSet]
    leaked: dict[str, int]

    @property
    def queries(self) -> int:
        """How many there are."""
        return sum(len(each.queries) for each in self.sets)

    @property
    def datasets(self) -> set[str]:
        """The data sets that have some."""
        return {_dataset(each) for each in self.sets}


def _dataset(held_out: JudgedSet) -> str:
    return held_out.dataset.partition(FURTHER)[0]


def load(joined: Sequence[tuple[str, Path, Path]], labels: Sequence[Path], config: EvaluateConfig) -> HeldOut:
    """Return the held-out queries, without those that a training set of ``labels`` holds, or nearly.

    ``joined``: (dataset, collection, candidates). A query's judgement is the passage that it was written for; one that people
    asked has none. Raises :class:`UserError` as `judged_sets.read` does.
    """
    found = {name: _queries(candidates) for name, _, candidates in joined}
    leaked = _leaked(found, joined, labels, config)
    sets, counts = [], {}
    for name, collection, candidates in joined:
        kept = [row for row in found[name] if (name, row["query_id"]) not in leaked]
        if len(kept) < len(found[name]):
            counts[name] = len(found[name]) - len(kept)
            log.warning("%s: %d held-out queries are like training queries: left out", name, counts[name])
        if not kept:
            continue
        qrels = {row["query_id"]: {row["source_doc_id"]: 1} if row["source_doc_id"] else {} for row in kept}
        texts = {row["query_id"]: row["text"] for row in kept}
        label = f"{name}{FURTHER}{tables.HELD_OUT}"
        sets.append(judged_sets.read(label, qrels, texts, candidates / tables.HELD_OUT, collection, candidates, config))
        log.info("%s: %d held-out queries, %d candidates", name, len(kept), len(sets[-1].pairs))
    return HeldOut(sets, counts)


def _queries(candidates: Path) -> list[dict[str, Any]]:
    folder = candidates / tables.HELD_OUT
    return list(tables.read(tables.QUERIES, folder).to_pylist()) if folder.is_dir() else []


def _leaked(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    joined: Sequence[tuple[str, Path, Path]],
    labels: Sequence[Path],
    config: EvaluateConfig,
) -> set[tuple[str, str]]:
    """Return (dataset, query id) of those that are, nearly, among the training queries of any data set."""
    tests = [leaks.JudgedQuery(name, row["query_id"], row["text"], ()) for name, rows in found.items() for row in rows]
    if not tests:
        return set()
    folders = {name: collection for name, collection, _ in joined}
    report = leaks.check(tests, folders, labels, config.leak_similarity)
    return {(each.dataset, each.query_id) for each in report.leaks}


def measure(
    held_out: HeldOut, scored: Mapping[str, Scored], before: Sequence[JudgedSet], first: str, evaluation: Path
) -> dict[str, Any]:
    """Write the evidence into the folder ``evaluation`` (`tables.EVIDENCE`); return what the summary says of each data set.

    ``scored``: of every system, the scores of all candidates: those of the sets ``before``, then the held-out ones.
    ``first``: the first stage's kind.
    """
    first_row = sum(each.run.num_rows for each in before)
    told: dict[str, Any] = {}
    with tables.TableWriter(evaluation / tables.EVIDENCE.filename, tables.EVIDENCE) as writer:
        for each in held_out.sets:
            dataset = _dataset(each)
            rows = slice(first_row, first_row + each.run.num_rows)
            first_row = rows.stop
            scores = {first: -each.run.column("rank").to_numpy().astype(np.float64)}
            scores |= {name: found.scores[rows] for name, found in scored.items()}
            values = {KNOWN_ITEM: _known_item(each, scores), AGREEMENT: _agreement(each, scores)}
            for kind, systems in values.items():
                for system, found in systems.items():
                    for name, by_query in found.items():
                        repeated = [[part] * len(by_query) for part in (dataset, kind, system, name)]
                        columns = [*repeated, list(by_query), list(by_query.values())]
                        writer.write(dict(zip(tables.EVIDENCE.schema.names, columns, strict=True)))
            told[dataset] = {
                "queries": len(each.queries),
                "known_items": sum(bool(grades) for grades in each.qrels.values()),
                "leaked": held_out.leaked.get(dataset, 0),
                "pairs": len(each.pairs),
                "digests": each.digests,
                **{kind: described(systems) for kind, systems in values.items() if systems},
            }
            told[dataset]["kept"] = _kept(told[dataset].get(KNOWN_ITEM, {}), first)
    return told


def from_evidence(table: pa.Table, kind: str, system: str, measure: str) -> dict[str, dict[str, float]]:
    """As `gate.from_measures`, of one kind of evidence out of a table `tables.EVIDENCE`."""
    return from_measures(table.filter(pc.equal(table.column("evidence"), kind)), system, measure)


def described(systems: Mapping[str, _Values]) -> dict[str, Any]:
    """Return system -> its means, and the 95 % interval of the first measure."""
    found = {}
    for system, values in systems.items():
        arrays = {name: np.array(list(by_query.values())) for name, by_query in values.items()}
        first = next(iter(arrays.values()))
        found[system] = {
            "means": {name: float(array.mean()) for name, array in arrays.items()},
            "interval": significance.bootstrap_interval(significance.parts_of([first])),
        }
    return found


def _kept(systems: Mapping[str, Any], first: str) -> dict[str, float]:
    """Return system -> how much of the teacher's gain over the first stage it has, by the known items; {} without a gain."""
    if TEACHER not in systems:
        return {}
    means = {system: each["means"][MEASURES[KNOWN_ITEM][0]] for system, each in systems.items()}
    gain = means[TEACHER] - means[first]
    others = [system for system in means if system not in (first, TEACHER)]
    return {system: (means[system] - means[first]) / gain for system in others} if gain > 0 else {}


def _known_item(judged: JudgedSet, scores: Mapping[str, np.ndarray]) -> dict[str, _Values]:
    qrels = {query: grades for query, grades in judged.qrels.items() if grades}
    if not qrels:
        return {}
    wanted = measures.parse(MEASURES[KNOWN_ITEM])
    ids = judged.run.column("query_id"), judged.run.column("doc_id")
    return {system: measures.per_query(wanted, qrels, runs.rank(*ids, each)) for system, each in scores.items()}


def _agreement(judged: JudgedSet, scores: Mapping[str, np.ndarray]) -> dict[str, _Values]:
    """Return the agreement of each system but the teacher, on the queries whose candidates the teacher tells apart."""
    if TEACHER not in scores:
        return {}
    found: dict[str, _Values] = {
        system: {name: {} for name in MEASURES[AGREEMENT]} for system in scores if system != TEACHER
    }
    _, order = np.unique(judged.run.column("doc_id").to_numpy(zero_copy_only=False), return_inverse=True)
    for query, rows in _by_query(judged.run):
        teacher = scores[TEACHER][rows]
        spread = float(np.ptp(teacher)) if teacher.size else 0.0
        if not spread:
            continue
        gains = (teacher - teacher.min()) / spread
        for system, values in found.items():
            own = scores[system][rows]
            values["nDCG@10"][query] = _ndcg(gains, own, order[rows])
            values["tau"][query] = _tau(own, teacher)
    return found if all(values["nDCG@10"] for values in found.values()) else {}


def _by_query(run: pa.Table) -> Iterator[tuple[str, slice]]:
    starts = runs.query_starts(run)
    names = run.column("query_id").take(pa.array(starts)).to_pylist()
    for name, start, end in zip(names, starts, [*starts[1:], run.num_rows], strict=True):
        yield name, slice(int(start), int(end))


def _ndcg(gains: np.ndarray, scores: np.ndarray, order: np.ndarray) -> float:
    """Return nDCG@10 of the order by ``scores``; equal scores stand in the ``order`` of their documents, as in a run."""
    discounts = 1 / np.log2(np.arange(2, _CUTOFF + 2))
    ranked = gains[np.lexsort((order, -scores))][:_CUTOFF]
    best = np.sort(gains)[::-1][:_CUTOFF]
    return float((ranked @ discounts[: ranked.size]) / (best @ discounts[: best.size]))


def _tau(scores: np.ndarray, teacher: np.ndarray) -> float:
    """Return Kendall's tau-b; 0 where ``scores`` are all equal: they say nothing of the order."""
    from scipy import stats

    return float(stats.kendalltau(scores, teacher).statistic) if np.ptp(scores) else 0.0
