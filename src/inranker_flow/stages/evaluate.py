"""The stage `evaluate`: every system reranks the same candidates of the same test queries."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from inranker_flow import reading
from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.sections import EvaluateConfig, ScoringConfig, TeacherConfig
from inranker_flow.corpora.documents import passages_of
from inranker_flow.environment.variables import code_version
from inranker_flow.errors import UserError
from inranker_flow.evaluation import (
    by_query,
    comparisons,
    judged_sets,
    known_scores,
    leaks,
    measures,
    provenance,
    runs,
    serving_cost,
    sweeps,
    teaching,
    unjudged,
    wins_and_losses,
)
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.evaluation.reranking import Reranking, Scored
from inranker_flow.evaluation.systems import CHAMPION, System
from inranker_flow.judging import judged_runs
from inranker_flow.model_registry import licences, reference_scores
from inranker_flow.rankers import devices
from inranker_flow.reading import Passages
from inranker_flow.report.page import render
from inranker_flow.storage.local import atomic_write

log = logging.getLogger(__name__)

#: More datasets than this, and only means and the last student go into the metrics: long lists are not read.
_METRICS_FOR_DATASETS = 4


@dataclass(frozen=True)
class EvaluateStats:
    """``metrics``: "MEASURE/DATASET/SYSTEM" -> mean of the headline measure. ``scoring_seconds`` of all models.
    ``leaks``: test queries that are among the training queries. ``unmeasured``: models that could not be measured, as a
    damaged champion."""

    datasets: int
    skipped: int
    queries: int
    pairs: int
    leaks: int
    unmeasured: int
    scoring_seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    #: Targets of the run that a stage before left out.
    left_out: int = 0
    #: Queries that nobody has judged and no student was trained on.
    held_out: int = 0
    #: Largest difference of a logit from float32 on a sample, where a model computes in less on a CPU.
    largest_difference: float = 0.0


def evaluate(
    config: EvaluateConfig,
    teacher: TeacherConfig,
    collections: Sequence[Path],
    candidates: Sequence[Path],
    labels: Sequence[Path],
    students: Mapping[str, Path],
    champion: str,
    evaluation: Path,
    report: Path,
    left_out: Mapping[str, str] | None = None,
) -> EvaluateStats:
    """Measure the first stage, ``students``, the teacher and the ``champion`` ("" for none) on the test queries of every dataset.

    ``collections`` and ``candidates`` are joined by dataset name; a collection without judged test queries is skipped
    and named. ``labels`` are all training sets of the students, which must not hold test queries. Writes into
    ``evaluation``: measures.parquet (`tables.MEASURES`, by query), what `by_query`, `unjudged` and `judged_runs` write,
    runs/DATASET.SYSTEM.trec, summary.json; ``report`` is one HTML file, which `promote` writes again with the decision.
    ``left_out``: targets of the run of which nothing is here, and why.

    Raises :class:`UserError` for an unknown measure, foreign artifacts, candidates that say nothing, or scores not finite.
    """
    wanted = measures.parse(config.measures)
    _check(config)
    sets, skipped = _judged_sets(config, collections, candidates)
    further = _further(config, collections, candidates, skipped)
    held_out = unjudged.load(judged_sets.join(collections, candidates), labels, config)
    skipped = _not_measured(skipped, held_out)
    systems = _systems(config, teacher, labels, students, champion)
    leaked = _leaks(config, sets, collections, labels)  # before anything is scored: it is soon told
    # Whatever else may be refused is looked at before anything is scored, too.
    first_stage = provenance.first_stage(candidates)
    training, generation = provenance.trainings(students), provenance.generations(candidates)
    judged = [*sets, *further]
    _try(wanted, judged, first_stage["kind"])
    every = [*judged, *held_out.sets]
    reranking = Reranking(config, every, Passages(config.passage_words, config.passage_stride))
    for system in systems:
        reranking.add(system)

    shutil.rmtree(evaluation, ignore_errors=True)
    (evaluation / "runs").mkdir(parents=True)
    summary: dict[str, Any] = {
        "headline": config.measures[0],
        "measures": list(config.measures),
        "systems": [first_stage["kind"], *reranking.scored],
        "first_stage": first_stage,
        "students": list(students),
        **_costs(config, systems, reranking),
        **_by_candidates(_measure(wanted, judged, reranking.scored, evaluation, first_stage["kind"]), candidates),
        "unjudged": unjudged.measure(held_out, reranking.scored, judged, first_stage["kind"], evaluation),
        "skipped": skipped,
        "left_out": dict(left_out or {}),
        "leaks": leaked,
        "training": training,
        "base": provenance.base_reference(students),
        "generation": generation,
        "config": {"evaluation": as_dict(config), "teacher": as_dict(teacher)},
        "code": code_version(),
        "licences": _licences(students, teacher, collections),
    }
    summary["judge"] = judged_runs.judge_runs(config, teacher, every, reranking.scored, summary, evaluation)
    _compare(summary, sets, reranking.scored, table := tables.read(tables.MEASURES, evaluation))
    for student in systems[: len(students)][-1:]:
        _write_reference_scores(student, every, reranking.scored, evaluation)
    _write(summary, sets, table, evaluation, report)
    reranking.close()
    return EvaluateStats(
        datasets=len(sets),
        skipped=len(skipped),
        queries=sum(len(each.qrels) for each in sets),
        pairs=sum(len(each.pairs) for each in every),
        leaks=leaked["queries"],
        unmeasured=len(reranking.unmeasured),
        scoring_seconds=sum(each.costs.seconds for each in reranking.scored.values() if not each.same_as),
        metrics=_metrics(summary),
        left_out=len(summary["left_out"]),
        held_out=held_out.queries,
        largest_difference=reranking.largest_difference,
    )


def _further(
    config: EvaluateConfig, collections: Sequence[Path], candidates: Sequence[Path], skipped: Mapping[str, str]
) -> list[JudgedSet]:
    """Return the same judged queries with the candidates of further first stages (`retrieval.also`)."""
    loaded = (
        judged_sets.load(dataset, collection, found, config, name)
        for dataset, collection, found in judged_sets.join(collections, candidates)
        for name in (() if dataset in skipped else judged_sets.further(found))
    )
    return [each for each in loaded if each]


def _by_candidates(described: Mapping[str, Any], candidates: Sequence[Path]) -> dict[str, Any]:
    """Return the datasets, and beside them the same with the candidates of further first stages, each with its name."""
    names = {kind: name for folder in candidates for kind, name in judged_sets.further(folder).items()}
    kinds = {dataset: dataset.partition(judged_sets.FURTHER)[2] for dataset in described}
    return {
        "datasets": {dataset: each for dataset, each in described.items() if not kinds[dataset]},
        "further": {
            dataset: {"first_stage": names[kinds[dataset]], **each}
            for dataset, each in described.items()
            if kinds[dataset]
        },
    }


def _systems(
    config: EvaluateConfig,
    teacher: TeacherConfig,
    labels: Sequence[Path],
    students: Mapping[str, Path],
    champion: str,
) -> list[System]:
    passages = Passages(config.passage_words, config.passage_stride)
    systems = [System(name, str(path), "", config.scoring, passages) for name, path in students.items()]
    _tell_unused(config.scoring, systems)
    if config.teacher:
        systems.append(teaching.system(teacher, labels, passages))
    if champion:
        systems.append(System(CHAMPION, champion, "", config.scoring, passages))
    return systems


def _compare(summary: dict[str, Any], sets: Sequence[JudgedSet], scored: Mapping[str, Scored], table: Any) -> None:
    """Add what follows from the measures of all systems together."""
    summary["families"] = comparisons.families(summary)
    summary["average"] = comparisons.average(summary)
    summary["intervals"] = comparisons.intervals(summary, table)
    summary["comparisons"] = comparisons.comparisons(summary, table)
    summary["cases"] = wins_and_losses.cases(summary, sets, scored, table)


def _write(summary: Mapping[str, Any], sets: Sequence[JudgedSet], table: Any, evaluation: Path, report: Path) -> None:
    queries = by_query.write(evaluation, sets, summary, table)
    with atomic_write(evaluation / "summary.json") as out:
        out.write(json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False).encode())
    report.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(report) as out:
        origin = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
        out.write(render(summary, origin=origin, queries=queries).encode())
    write_manifest(evaluation, dataset=", ".join(each.dataset for each in sets) or "none", stage="evaluate")


def _write_reference_scores(
    student: System, sets: Sequence[JudgedSet], scored: Mapping[str, Scored], evaluation: Path
) -> None:
    """Write scores by which a server knows the student again."""
    own = [each.cut(student.served.passages) for each in sets]
    found = known_scores.choose(own, scored[student.name].scores, devices.settled_dtype(student.scoring.dtype))
    if found:
        reference_scores.write(found, evaluation)


def _judged_sets(
    config: EvaluateConfig, collections: Sequence[Path], candidates: Sequence[Path]
) -> tuple[list[JudgedSet], dict[str, str]]:
    sets, skipped = [], {}
    for dataset, collection, found in judged_sets.join(collections, candidates):
        judged_set = judged_sets.load(dataset, collection, found, config)
        if judged_set is None:
            told = read_manifest(collection).details.get("not_evaluated", "")
            skipped[dataset] = f"no judged test queries{f': {told}' if told else ''}"
            continue
        sets.append(judged_set)
        log.info("%s: %d test queries, %d candidates", dataset, len(judged_set.qrels), len(judged_set.pairs))
        if judged_set.dropped:
            log.info("%s: dropped %d candidates that are the query itself", dataset, judged_set.dropped)
    return sets, skipped


def _not_measured(skipped: Mapping[str, str], held_out: unjudged.HeldOut) -> dict[str, str]:
    """Return the data sets that nothing is measured on, and say them."""
    left = {dataset: reason for dataset, reason in skipped.items() if dataset not in held_out.datasets}
    for dataset, reason in left.items():
        log.warning("%s: NOT evaluated: %s", dataset, reason)
    return left


def _check(config: EvaluateConfig) -> None:
    """Raise :class:`UserError` for settings that cannot work, before anything is read."""
    judged_runs.check(config)
    if config.passage_stride > config.passage_words:
        raise UserError(
            f"evaluation.passage_stride: {config.passage_stride} is more than passage_words ({config.passage_words}), so "
            "that words between two passages would never be read",
            code="setting-conflict",
        )


def _tell_unused(asked: ScoringConfig, students: Sequence[System]) -> None:
    """Say which settings of `evaluation.scoring` count for nothing, because the students' folders say them."""
    found: dict[tuple[str, Any], list[str]] = {}
    for model in students:
        if model.scoring != asked:
            for name, counts in reading.unused(asked, model.scoring).items():
                found.setdefault((name, counts), []).append(model.name)
    for (name, counts), names in found.items():
        log.warning(
            "evaluation.scoring.%s: %r is not used: %s is measured as it serves, with the %r of its own folder",
            name, getattr(asked, name), " and ".join(names), counts,
        )  # fmt: skip


def _leaks(
    config: EvaluateConfig, sets: Sequence[JudgedSet], collections: Sequence[Path], labels: Sequence[Path]
) -> dict[str, Any]:
    folders = {read_manifest(folder).dataset: folder for folder in collections}
    tests = [
        leaks.JudgedQuery(each.dataset, query_id, each.queries[query_id], relevant)
        for each in sets
        for query_id, relevant in _relevant(each, folders[each.dataset]).items()
    ]
    found = leaks.check(tests, folders, labels, config.leak_similarity)
    return leaks.as_data(found, config.leak_similarity, labels)


def _relevant(judged_set: JudgedSet, collection: Path) -> dict[str, tuple[str, ...]]:
    """Return the relevant documents of each query, or the passages of those that were cut."""
    found = {
        query_id: [doc for doc, grade in judged_set.qrels[query_id].items() if grade > 0]
        for query_id in judged_set.queries
    }
    every = {doc for docs in found.values() for doc in docs}
    parts = passages_of(collection, every) if judged_set.members else {}
    return {query_id: tuple(each for doc in docs for each in parts.get(doc, [doc])) for query_id, docs in found.items()}


def _costs(config: EvaluateConfig, systems: Sequence[System], reranking: Reranking) -> dict[str, Any]:
    """Return what the summary says of the models themselves."""
    return {
        "models": {
            system.name: _describe(system, reranking.scored) for system in systems if system.name in reranking.scored
        },
        "latency": {
            "passages": serving_cost.PASSAGES,
            "queries": config.latency_queries,
            "filled": reranking.candidates(reranking.passages).timed.filled,
        },
        "unmeasured": reranking.unmeasured,
    }


def _describe(system: System, scored: Mapping[str, Scored]) -> dict[str, Any]:
    result = scored[system.name]
    costs, latencies = result.costs, np.array(result.costs.latencies)
    # Of all systems of its shape together: apart, they differ by noise.
    timer = result.timed_as or system.name
    alike = [each.costs for name, each in scored.items() if (each.timed_as or name) == timer and not each.same_as]
    alike = [each for each in alike if each.processes == costs.processes] or [costs]
    seconds, pairs = sum(each.seconds for each in alike), sum(each.pairs for each in alike)
    scoring = as_dict(system.scoring)
    return {
        "reference": system.reference,
        "revision": system.revision,
        "digest": system.digest,
        "parameters": costs.parameters,
        "size_mb": system.size_mb,
        "seconds": costs.seconds,
        "pairs_per_second": pairs / seconds if seconds else 0.0,
        # What that rests on; the scores of the pairs that were found had been paid for before.
        "timed_pairs": pairs,
        "found_pairs": result.found,
        "sampled": costs.sampled,
        "processes": costs.processes,
        "latency_median_ms": float(np.median(latencies)) if latencies.size else None,
        "latency_p95_ms": float(np.percentile(latencies, 95)) if latencies.size else None,
        "latency_queries": int(latencies.size),
        "device": costs.device,
        "same_as": result.same_as,
        "timed_as": result.timed_as,
        # How it read, and so is served.
        "reads": {name: scoring[name] for name in reading.NAMES},
        "served": as_dict(system.served),
        **({"error_against_float32": dict(costs.error)} if costs.error else {}),
    }


def _measure(
    wanted: Mapping[str, Any], sets: Sequence[JudgedSet], scored: Mapping[str, Scored], evaluation: Path, first: str
) -> dict[str, Any]:
    """Write measures and runs; returns what the summary says about each dataset. The first system is the one that found its
    candidates: ``first``, or the further first stage in its name."""
    described: dict[str, Any] = {}
    offset = 0
    with tables.TableWriter(evaluation / tables.MEASURES.filename, tables.MEASURES) as writer:
        for judged_set in sets:
            rows = slice(offset, offset + judged_set.run.num_rows)
            offset = rows.stop
            systems: dict[str, Any] = {}
            found_by = judged_set.dataset.partition(judged_sets.FURTHER)[2] or first
            # Of further first stages the wanted measures are enough.
            others = sweeps.at_cutoffs(wanted, judged_set) if found_by == first else {}
            for system in (found_by, *scored):
                run = judged_set.run if system == found_by else _rerank(judged_set, scored[system].scores[rows])
                found = _measured(wanted, judged_set, run, system)
                runs.write_trec(evaluation / "runs" / f"{judged_set.dataset}.{system}.trec", run, system)
                for measure, values in found.items():
                    repeated = [[each] * len(values) for each in (judged_set.dataset, system, measure)]
                    columns = [*repeated, list(values), list(values.values())]
                    writer.write(dict(zip(tables.MEASURES.schema.names, columns, strict=True)))
                means = {measure: _mean(values) for measure, values in found.items()}
                systems[system] = {
                    "means": means,
                    "tie_rate": runs.tie_rate(run),
                    "cutoffs": sweeps.by_cutoff(others, judged_set, run),
                    "depths": _depths(wanted, judged_set, scored[system].scores[rows], means)
                    if system != found_by == first
                    else {},
                }
            described[judged_set.dataset] = {
                "queries": len(judged_set.qrels),
                "without_candidates": len(set(judged_set.qrels) - set(judged_set.run.column("query_id").to_pylist())),
                "pairs": len(judged_set.pairs),
                "dropped": judged_set.dropped,
                "ceiling": _ceiling(wanted, judged_set),
                "digests": judged_set.digests,
                "systems": systems,
                **({"by": "document"} if judged_set.members else {}),
            }
    return described


def _depths(
    wanted: Mapping[str, Any], judged_set: JudgedSet, scores: np.ndarray, means: Mapping[str, float]
) -> dict[str, float]:
    headline = next(iter(wanted))
    return sweeps.by_depth({headline: wanted[headline]}, judged_set, scores, means[headline])


def _try(wanted: Mapping[str, Any], sets: Sequence[JudgedSet], first: str) -> None:
    """Measure the first stage, whose scores are there, before hours of scoring: what a measure cannot be asked, it says now."""
    for judged_set in sets:
        _measured(wanted, judged_set, judged_set.run, first)
        _ceiling(wanted, judged_set)


def _measured(wanted: Mapping[str, Any], judged_set: JudgedSet, run: Any, system: str) -> dict[str, dict[str, float]]:
    """`measures.per_query`; :class:`UserError` for a measure that has no value for a query."""
    found = measures.per_query(wanted, judged_set.qrels, run)
    for measure, values in found.items():
        bad = [query_id for query_id, value in values.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"evaluation.measures: {measure} has no value for {len(bad)} of the {len(values)} judged test queries of "
                f"{judged_set.dataset} (the first: {bad[0]!r}, with the ranking of {system}), so there is no mean; take "
                "another measure",
                code="measure-no-value",
            )
    return found


def _rerank(judged_set: JudgedSet, scores: np.ndarray) -> Any:
    return runs.rank(judged_set.run.column("query_id"), judged_set.run.column("doc_id"), scores)


def _ceiling(wanted: Mapping[str, Any], judged_set: JudgedSet) -> dict[str, Any]:
    """Return the bounds that no reranker of these candidates can pass: ``recall`` of the relevant documents in the first
    stage's ``depth`` candidates (R@depth), and the ``means`` of a reranker that knows the judgements."""
    ids = zip(*(judged_set.run.column(name).to_pylist() for name in ("query_id", "doc_id")), strict=True)
    gains = np.array([judged_set.qrels[query_id].get(doc_id, 0) for query_id, doc_id in ids], np.float64)
    best = _rerank(judged_set, gains)
    everything = measures.parse([f"R@{max(best.num_rows, 1)}"])
    [recall] = measures.per_query(everything, judged_set.qrels, best).values()
    found = _measured(wanted, judged_set, best, "the judgements")
    depth = int(pc.max(judged_set.run.column("rank")).as_py())
    return {"depth": depth, "recall": _mean(recall), "means": {name: _mean(values) for name, values in found.items()}}


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean(list(values.values())))


def _licences(students: Mapping[str, Path], teacher: TeacherConfig, collections: Sequence[Path]) -> dict[str, Any]:
    """Under which licence the base model, the teacher and each collection's texts are; "" where they do not say."""
    base = provenance.base(list(students.values())[-1:])
    return {
        "base": licences.of_checkpoint(*base) if base else "",
        "teacher": teaching.licence(teacher),
        "data": {
            manifest.dataset: str(manifest.details.get("licence") or "") for manifest in map(read_manifest, collections)
        },
    }


def _metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    headline, datasets = summary["headline"], summary["datasets"]
    groups = measures.grouped(datasets)
    chosen = summary["systems"] if len(groups) <= _METRICS_FOR_DATASETS else list(summary["students"])[-1:]
    found = {
        f"{headline}/{dataset}/{system}": comparisons.over(summary, system, parts)[headline]
        for dataset, parts in groups.items()
        for system in chosen
    }
    for dataset, each in summary["further"].items():
        for system in (dataset.partition(judged_sets.FURTHER)[2], *list(summary["students"])[-1:]):
            found[f"{headline}/{dataset}/{system}"] = each["systems"][system]["means"][headline]
    for dataset, each in summary["unjudged"].items():
        for kind, (measure, *_) in unjudged.MEASURES.items():
            for system, described in each.get(kind, {}).items():
                found[f"{kind} {measure}/{dataset}/{system}"] = described["means"][measure]
    for dataset, each in summary["judge"].get("datasets", {}).items():
        for system, described in each["systems"].items():
            found[f"judge {headline}/{dataset}/{system}"] = described["means"][headline]
    if len(groups) > 1:
        found |= {f"{headline}/mean/{system}": means[headline] for system, means in summary["average"].items()}
    return found
