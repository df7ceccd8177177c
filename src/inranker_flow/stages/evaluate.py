"""The stage `evaluate`: every system reranks the same candidates of the same test queries."""

from __future__ import annotations

import gc
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from inranker_flow import reading
from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.parsing import as_dict, deciding
from inranker_flow.config.sections import EvaluateConfig, ScoringConfig, TeacherConfig
from inranker_flow.environment.variables import code_version
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.evaluation import (
    judged_sets,
    leaks,
    measures,
    provenance,
    runs,
    serving_cost,
    significance,
    wins_and_losses,
)
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.model_registry import licences, registry
from inranker_flow.rankers import Ranker, load_ranker
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.reading import WHOLE, Passages, Served
from inranker_flow.report.page import render
from inranker_flow.scratch import scratch_folder
from inranker_flow.storage.local import atomic_write, digest_file

log = logging.getLogger(__name__)

#: More datasets than this, and only means and the last student go into the metrics: long lists are not read.
_METRICS_FOR_DATASETS = 4
TEACHER, CHAMPION = "teacher", "champion"
#: What decides a checkpoint's scores; what else lies in its folder does not.
_DECISIVE = ("config.json", "*.safetensors", "*.bin", "*.model", "tokenizer*.json")


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


#: As `rankers.load_ranker`: (reference, scoring, revision) -> ranker.
Loader = Callable[[str, ScoringConfig, str], Ranker]


@dataclass(frozen=True)
class Model:
    """A system that reranks; two with the same ``identity`` give the same scores.

    ``asked`` and ``passages`` are what the profile says. A student reads as its folder says, and a registered version is
    served as its registration says: see ``scoring`` and ``served``.
    """

    name: str
    reference: str
    revision: str
    asked: ScoringConfig
    passages: Passages = WHOLE

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "weights": self.digest or [self.reference, self.revision],
            "scoring": deciding(self.scoring),
            "passages": as_dict(self.served.passages),
        }

    @cached_property
    def folder(self) -> Path | None:
        """Where its files are; None for one that comes from the hub or is made on the spot."""
        return None if self.reference.startswith("init:") else locate(self.reference)

    @cached_property
    def served(self) -> Served:
        """What it is served with, and so measured with, beside what its folder says."""
        if self.reference.startswith("models:"):
            return registry.served(self.reference)
        return Served(self.passages.words, self.passages.stride, self.asked.dtype)

    @cached_property
    def scoring(self) -> ScoringConfig:
        asked = replace(self.asked, dtype=self.served.dtype)
        # The teacher reads as its labels were made.
        return asked if self.name == TEACHER or self.folder is None else reading.scoring_of(self.folder, asked)

    @cached_property
    def digest(self) -> str:
        """Of a checkpoint's content; "" for one without a folder."""
        if self.folder is None:
            return ""
        files = sorted({path for pattern in _DECISIVE for path in self.folder.glob(pattern)})
        return sha256("\n".join(f"{path.name} {digest_file(path)}" for path in files).encode()).hexdigest()

    @cached_property
    def shape(self) -> str:
        """What its speed depends on: models of one shape take equally long for the same pairs. "" where it is not known."""
        config = serving_cost.shape(self.folder) if self.folder else ""
        return config and json.dumps([config, as_dict(self.scoring), self.identity["passages"]], sort_keys=True)


@dataclass(frozen=True)
class Scored:
    """One model's ``scores`` (true logit - false logit) for the candidates of all judged sets, and what they cost:
    ``pairs`` (a candidate's passages) in ``seconds``, and the milliseconds (``latencies``) of reranking 100 passages for one
    query, each as measured on ``device``. ``timed_as``: the system of the same shape whose times these are."""

    scores: np.ndarray
    seconds: float
    parameters: int
    latencies: np.ndarray
    device: str
    pairs: int = 0
    same_as: str = ""
    timed_as: str = ""


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
    """Measure BM25, ``students``, the teacher and the ``champion`` ("" for none) on the test queries of every dataset.

    ``collections`` and ``candidates`` are joined by dataset name; a collection without judged test queries is skipped
    and named. ``labels`` are all training sets of the students, which must not hold test queries. Writes into
    ``evaluation``: measures.parquet (`tables.MEASURES`, by query), runs/DATASET.SYSTEM.trec and summary.json; ``report`` is
    one HTML file with the evidence, which `promote` writes again with the decision. ``left_out``: targets of the run of which
    nothing is here, and why.

    Raises :class:`UserError` for an unknown measure, artifacts that do not belong
    together, candidates that say nothing, or scores that are not finite.
    """
    return compare(
        config, teacher, collections, candidates, labels, students, champion, evaluation, report, load_ranker, left_out
    )


def compare(
    config: EvaluateConfig,
    teacher: TeacherConfig,
    collections: Sequence[Path],
    candidates: Sequence[Path],
    labels: Sequence[Path],
    students: Mapping[str, Path],
    champion: str,
    evaluation: Path,
    report: Path,
    load: Loader,
    left_out: Mapping[str, str] | None = None,
) -> EvaluateStats:
    """:func:`evaluate` with any loader of rankers."""
    wanted = measures.parse(config.measures)
    _check_passages(config)
    sets, skipped = _judged_sets(config, collections, candidates)
    passages = Passages(config.passage_words, config.passage_stride)
    models = [Model(name, str(path), "", config.scoring, passages) for name, path in students.items()]
    _tell_unused(config.scoring, models)
    if config.teacher:
        models.append(Model(TEACHER, teacher.checkpoint, teacher.revision, teacher.scoring, passages))
    if champion:
        models.append(Model(CHAMPION, champion, "", config.scoring, passages))

    leaked = _leaks(config, sets, collections, labels)  # before anything is scored: it is soon told
    # Whatever else may be refused is looked at before anything is scored, too.
    training, generation = provenance.trainings(students), provenance.generations(candidates)
    _try(wanted, sets)
    identity = [[[each.dataset, each.digests] for each in sets], config.drop_self, as_dict(passages), code_version()]
    timed = serving_cost.requests(sets, config.latency_queries)
    scored, unmeasured, scratch = _score_all(models, sets, timed, [*identity, config.latency_queries], load)

    shutil.rmtree(evaluation, ignore_errors=True)
    (evaluation / "runs").mkdir(parents=True)
    summary: dict[str, Any] = {
        "headline": config.measures[0],
        "measures": list(config.measures),
        "systems": ["bm25", *scored],
        "students": list(students),
        "models": {model.name: _describe(model, scored) for model in models if model.name in scored},
        "latency": {"passages": serving_cost.PASSAGES, "queries": config.latency_queries, "filled": timed.filled},
        "unmeasured": unmeasured,
        "datasets": _measure(wanted, sets, scored, evaluation),
        "skipped": skipped,
        "left_out": dict(left_out or {}),
        "leaks": leaked,
        "training": training,
        "generation": generation,
        "config": {"evaluation": as_dict(config), "teacher": as_dict(teacher)},
        "code": code_version(),
    }
    summary["families"] = _families(summary)
    summary["average"] = _average(summary)
    table = tables.read(tables.MEASURES, evaluation)
    summary["intervals"] = _intervals(summary, table)
    summary["comparisons"] = _comparisons(summary, table)
    summary["cases"] = _cases(summary, sets, scored, table)
    summary["licences"] = _licences(students, teacher, collections)
    with atomic_write(evaluation / "summary.json") as out:
        out.write(json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False).encode())
    report.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(report) as out:
        out.write(render(summary).encode())
    write_manifest(evaluation, dataset=", ".join(each.dataset for each in sets) or "none", stage="evaluate")
    for folder in scratch:
        shutil.rmtree(folder, ignore_errors=True)
    return EvaluateStats(
        datasets=len(sets),
        skipped=len(skipped),
        queries=sum(len(each.qrels) for each in sets),
        pairs=sum(len(each.pairs) for each in sets),
        leaks=leaked["queries"],
        unmeasured=len(unmeasured),
        scoring_seconds=sum(each.seconds for each in scored.values() if not each.same_as),
        metrics=_metrics(summary),
        left_out=len(summary["left_out"]),
    )


def _judged_sets(
    config: EvaluateConfig, collections: Sequence[Path], candidates: Sequence[Path]
) -> tuple[list[JudgedSet], dict[str, str]]:
    sets, skipped = [], {}
    for dataset, collection, found in judged_sets.join(collections, candidates):
        judged_set = judged_sets.load(dataset, collection, found, config)
        if judged_set is None:
            told = read_manifest(collection).details.get("not_evaluated", "")
            skipped[dataset] = f"no judged test queries{f': {told}' if told else ''}"
            log.warning("%s: NOT evaluated: %s", dataset, skipped[dataset])
            continue
        sets.append(judged_set)
        log.info("%s: %d test queries, %d candidates", dataset, len(judged_set.qrels), len(judged_set.pairs))
        if judged_set.dropped:
            log.info("%s: dropped %d candidates that are the query itself", dataset, judged_set.dropped)
    return sets, skipped


def _check_passages(config: EvaluateConfig) -> None:
    if config.passage_stride > config.passage_words:
        raise UserError(
            f"evaluation.passage_stride: {config.passage_stride} is more than passage_words ({config.passage_words}), so "
            "that words between two passages would never be read"
        )


def _tell_unused(asked: ScoringConfig, students: Sequence[Model]) -> None:
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
    tests = [
        leaks.JudgedQuery(
            each.dataset, query_id, text, tuple(doc for doc, grade in each.qrels[query_id].items() if grade > 0)
        )
        for each in sets
        for query_id, text in each.queries.items()
    ]
    folders = {read_manifest(folder).dataset: folder for folder in collections}
    found = leaks.check(tests, folders, labels, config.leak_similarity)
    return leaks.as_data(found, config.leak_similarity, labels)


def _score_all(
    models: Sequence[Model], sets: Sequence[JudgedSet], timed: serving_cost.Requests, identity: list[Any], load: Loader
) -> tuple[dict[str, Scored], dict[str, str], list[Path]]:
    """Scores of each model, in order, why a champion has none, and the scratch folders that hold the scores until the
    evaluation is written.

    A model sees the pairs of all datasets in one call (it sorts them by length once); equal models are scored once. A
    champion that cannot be scored is reported and left out: the gate then holds, with that as its reason.
    """
    unmeasured: dict[str, str] = {}
    scored: dict[str, Scored] = {}
    firsts: dict[str, str] = {}
    folders: list[Path] = []
    for model in models:
        try:
            _score_one(model, sets, timed, identity, load, scored, firsts, folders)
        except UserError as error:
            if model.name != CHAMPION or isinstance(error, NoAnswer):
                raise
            log.warning("champion: not measured: %s", error)
            unmeasured[model.name] = str(error)
    return scored, unmeasured, folders


def _score_one(
    model: Model,
    sets: Sequence[JudgedSet],
    timed: serving_cost.Requests,
    identity: list[Any],
    load: Loader,
    scored: dict[str, Scored],
    firsts: dict[str, str],
    folders: list[Path],
) -> None:
    """Add the scores of ``model`` to ``scored``: those of an equal one, of an earlier attempt, or new ones.

    ``firsts``: the first system with an identity, and the first of a shape.
    """
    key = json.dumps(model.identity, sort_keys=True)
    same = firsts.setdefault(key, model.name)
    if same != model.name:
        log.info("%s: the same model as %s, so the same scores", model.name, same)
        scored[model.name] = replace(scored[same], same_as=same, timed_as="")
        return
    if model.served.passages != model.passages:
        sets = [each.cut(model.served.passages) for each in sets]
        timed = serving_cost.requests(sets, len(timed.lists[1:]))
        log.warning(
            "%s: served, and so measured, by %s; the others by %s",
            model.name, _in_words(model.served.passages), _in_words(model.passages),
        )  # fmt: skip
    # Two measurements of one shape differ by noise alone, so it is measured once.
    timer = firsts.get(model.shape, "") if model.shape else ""
    timer = timer if timer and scored[timer].device == serving_cost.device_name() else ""
    folder = scratch_folder("evaluate", model.identity, identity)
    folders.append(folder)
    kept = folder / "scores.npz"
    if kept.exists():
        with np.load(kept) as found:
            plain = {name: found[name].item() for name in ("seconds", "parameters", "device", "pairs", "timed_as")}
            result = Scored(scores=found["scores"], latencies=found["latencies"], **plain)
        log.info("%s: scores of an earlier attempt found", model.name)
    else:
        pairs = [pair for judged_set in sets for pair in judged_set.pairs]
        result = _score(model, pairs, serving_cost.Requests([], 0) if timer else timed, load)
        result = replace(result, scores=_best(sets, result.scores), timed_as=timer)
        if timer:
            result = replace(result, latencies=scored[timer].latencies)
        with atomic_write(kept) as out:
            np.savez(out, **{name: value for name, value in vars(result).items() if name != "same_as"})
    scored[model.name] = result
    if model.shape:
        firsts.setdefault(model.shape, model.name)


def _best(sets: Sequence[JudgedSet], scores: np.ndarray) -> np.ndarray:
    """The score of each candidate, from those of its passages."""
    found, offset = [np.zeros(0)], 0
    for each in sets:
        found.append(each.best(scores[offset : offset + len(each.pairs)]))
        offset += len(each.pairs)
    return np.concatenate(found)


def _in_words(passages: Passages) -> str:
    if not passages.words:
        return "whole documents, cut at max_length"
    return f"passages of {passages.words} words, {passages.stride or max(1, passages.words // 2)} apart"


def _score(model: Model, pairs: Sequence[tuple[str, str]], timed: serving_cost.Requests, load: Loader) -> Scored:
    if not pairs:
        return Scored(np.zeros(0), 0.0, 0, np.zeros(0), "")
    ranker = load(model.reference, model.scoring, model.revision)
    log.info("%s: scoring %s pairs", model.name, f"{len(pairs):,}")
    start = time.perf_counter()
    logits = np.asarray(ranker.score(pairs), np.float64)
    seconds = time.perf_counter() - start
    latencies = np.array(serving_cost.latencies(ranker.score, timed.lists))
    parameters, device = ranker.parameters, serving_cost.device_name()
    del ranker
    gc.collect()  # one model at a time: a 3B teacher leaves no room for others
    scores = logits[:, 1] - logits[:, 0]
    bad = int(scores.size - np.isfinite(scores).sum())
    if bad:
        section = "teacher" if model.name == TEACHER else "evaluation"
        raise UserError(
            f"{model.name} ({model.reference}): {bad} of {scores.size} scores are not finite numbers; "
            f"if the checkpoint overflows in half precision, set {section}.scoring.dtype to float32"
        )
    return Scored(scores, seconds, parameters, latencies, device, len(pairs))


def _describe(model: Model, scored: Mapping[str, Scored]) -> dict[str, Any]:
    result = scored[model.name]
    # Of all systems of its shape together: apart, they differ by noise.
    timer = result.timed_as or model.name
    alike = [each for name, each in scored.items() if (each.timed_as or name) == timer and not each.same_as] or [result]
    seconds = sum(each.seconds for each in alike)
    scoring = as_dict(model.scoring)
    return {
        "reference": model.reference,
        "revision": model.revision,
        "digest": model.digest,
        "parameters": result.parameters,
        "size_mb": serving_cost.size_mb(model.reference, model.revision),
        "seconds": result.seconds,
        "pairs_per_second": sum(each.pairs for each in alike) / seconds if seconds else 0.0,
        "latency_median_ms": float(np.median(result.latencies)) if result.latencies.size else None,
        "latency_p95_ms": float(np.percentile(result.latencies, 95)) if result.latencies.size else None,
        "latency_queries": int(result.latencies.size),
        "device": result.device,
        "same_as": result.same_as,
        "timed_as": result.timed_as,
        # How it read, and so is served.
        "reads": {name: scoring[name] for name in reading.NAMES},
        "served": as_dict(model.served),
    }


def _measure(
    wanted: Mapping[str, Any], sets: Sequence[JudgedSet], scored: Mapping[str, Scored], evaluation: Path
) -> dict[str, Any]:
    """Write measures and runs; returns what the summary says about each dataset."""
    described: dict[str, Any] = {}
    offset = 0
    with tables.TableWriter(evaluation / tables.MEASURES.filename, tables.MEASURES) as writer:
        for judged_set in sets:
            rows = slice(offset, offset + judged_set.bm25.num_rows)
            offset = rows.stop
            systems: dict[str, Any] = {}
            for system in ("bm25", *scored):
                run = judged_set.bm25 if system == "bm25" else _rerank(judged_set, scored[system].scores[rows])
                found = _measured(wanted, judged_set, run, system)
                runs.write_trec(evaluation / "runs" / f"{judged_set.dataset}.{system}.trec", run, system)
                for measure, values in found.items():
                    repeated = [[each] * len(values) for each in (judged_set.dataset, system, measure)]
                    columns = [*repeated, list(values), list(values.values())]
                    writer.write(dict(zip(tables.MEASURES.schema.names, columns, strict=True)))
                means = {measure: _mean(values) for measure, values in found.items()}
                systems[system] = {"means": means, "tie_rate": runs.tie_rate(run)}
            described[judged_set.dataset] = {
                "queries": len(judged_set.qrels),
                "without_candidates": len(set(judged_set.qrels) - set(judged_set.bm25.column("query_id").to_pylist())),
                "pairs": len(judged_set.pairs),
                "dropped": judged_set.dropped,
                "ceiling": _ceiling(wanted, judged_set),
                "digests": judged_set.digests,
                "systems": systems,
            }
    return described


def _try(wanted: Mapping[str, Any], sets: Sequence[JudgedSet]) -> None:
    """Measure BM25, whose scores are there, before hours of scoring: what a measure cannot be asked, it says now."""
    for judged_set in sets:
        _measured(wanted, judged_set, judged_set.bm25, "bm25")
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
                "another measure"
            )
    return found


def _rerank(judged_set: JudgedSet, scores: np.ndarray) -> Any:
    return runs.rank(judged_set.bm25.column("query_id"), judged_set.bm25.column("doc_id"), scores)


def _ceiling(wanted: Mapping[str, Any], judged_set: JudgedSet) -> dict[str, Any]:
    """What no reranker of these candidates can pass: ``recall`` of the relevant documents in the first stage's
    ``depth`` candidates (R@depth), and the ``means`` of a reranker that knows the judgements."""
    ids = zip(*(judged_set.bm25.column(name).to_pylist() for name in ("query_id", "doc_id")), strict=True)
    gains = np.array([judged_set.qrels[query_id].get(doc_id, 0) for query_id, doc_id in ids], np.float64)
    best = _rerank(judged_set, gains)
    everything = measures.parse([f"R@{max(best.num_rows, 1)}"])
    [recall] = measures.per_query(everything, judged_set.qrels, best).values()
    found = _measured(wanted, judged_set, best, "the judgements")
    depth = int(pc.max(judged_set.bm25.column("rank")).as_py())
    return {"depth": depth, "recall": _mean(recall), "means": {name: _mean(values) for name, values in found.items()}}


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean(list(values.values())))


def _families(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Test sets that count as one dataset together: its parts, and system -> measure -> mean of the parts' means."""
    return {
        name: {"parts": parts, "systems": {system: _over(summary, system, parts) for system in summary["systems"]}}
        for name, parts in measures.grouped(summary["datasets"]).items()
        if parts != [name]
    }


def _over(summary: Mapping[str, Any], system: str, parts: Sequence[str]) -> dict[str, float]:
    means = [summary["datasets"][part]["systems"][system]["means"] for part in parts]
    return {measure: float(np.mean([each[measure] for each in means])) for measure in summary["measures"]}


def _average(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """System -> measure -> mean over the datasets, where a family counts as one; empty without datasets."""
    groups = measures.grouped(summary["datasets"]).values()
    if not groups:
        return {}
    found: dict[str, dict[str, float]] = {}
    for system in summary["systems"]:
        means = [_over(summary, system, parts) for parts in groups]
        found[system] = {measure: float(np.mean([each[measure] for each in means])) for measure in summary["measures"]}
    return found


def _intervals(summary: Mapping[str, Any], table: Any) -> dict[str, Any]:
    """System -> dataset ("" for the mean over the datasets) -> 95 % bootstrap interval of the headline measure."""
    from inranker_flow.evaluation.gate import from_measures

    found: dict[str, Any] = {}
    groups = measures.grouped(summary["datasets"])
    for system in summary["systems"]:
        values = from_measures(table, system, summary["headline"])
        sets = {name: np.array(list(values[name].values())) for name in summary["datasets"]}
        parts = {name: significance.parts_of([sets[name] for name in names]) for name, names in groups.items()}
        each = {name: significance.parts_of([value]) for name, value in sets.items()} | parts
        every = [part for group in parts.values() for part in group]
        whole = [significance.Part(part.weight / len(groups), part.differences) for part in every]
        found[system] = {name: significance.bootstrap_interval(some) for name, some in each.items()}
        found[system][""] = significance.bootstrap_interval(whole) if len(groups) > 1 else None
    return found


def _cases(
    summary: Mapping[str, Any], sets: Sequence[JudgedSet], scored: Mapping[str, Scored], table: Any
) -> list[dict[str, Any]]:
    """The last student's largest wins and losses against the champion; without one, against the student before it and
    BM25."""
    from inranker_flow.evaluation.gate import from_measures

    last = list(summary["students"])[-1:]
    others = ["champion"] if "champion" in scored else [*list(summary["students"])[-2:-1], "bm25"]

    def ranked(system: str) -> wins_and_losses.Ranked:
        scores, offset = {}, 0
        for each in sets:
            rows = slice(offset, offset + each.bm25.num_rows)
            offset = rows.stop
            bm25 = -each.bm25.column("rank").to_numpy()
            scores[each.dataset] = bm25 if system == "bm25" else scored[system].scores[rows]
        return wins_and_losses.Ranked(system, from_measures(table, system, summary["headline"]), scores)

    return [wins_and_losses.compare(sets, ranked(mine), ranked(other)) for mine in last for other in others]


def _licences(students: Mapping[str, Path], teacher: TeacherConfig, collections: Sequence[Path]) -> dict[str, Any]:
    """Under which licence the base model, the teacher and each collection's texts are; "" where they do not say."""
    base = provenance.base(list(students.values())[-1:])
    return {
        "base": licences.of_checkpoint(*base) if base else "",
        "teacher": licences.of_checkpoint(teacher.checkpoint, teacher.revision),
        "data": {
            manifest.dataset: str(manifest.details.get("licence") or "") for manifest in map(read_manifest, collections)
        },
    }


def _comparisons(summary: Mapping[str, Any], table: Any) -> list[dict[str, Any]]:
    """Each step of the method by measure and dataset: mean difference, queries won and lost, both paired tests, effect.

    The first student against BM25, each later one against the student before it, the last against BM25, the teacher
    and the champion. Holm corrects over the datasets of one such step and measure; a family is one dataset.
    """
    from inranker_flow.evaluation.gate import from_measures

    last = list(summary["students"])[-1:]
    chain = list(pairwise(["bm25", *summary["students"]]))
    chain += [("bm25", mine) for mine in last if ("bm25", mine) not in chain]
    chain += [(other, mine) for mine in last for other in ("teacher", "champion") if other in summary["systems"]]
    groups = measures.grouped(summary["datasets"])
    compared = []
    for measure in summary["measures"]:
        values = {system: from_measures(table, system, measure) for system in summary["systems"]}
        for against, system in chain:
            rows = []
            for dataset, names in groups.items():
                sets = [_differences(values[system][name], values[against][name]) for name in names]
                named = {"dataset": dataset, "measure": measure, "system": system, "against": against}
                rows.append({**named, **_comparison(sets)})
            for key in ("p", "p_t"):
                corrected = significance.holm([row[key] for row in rows])
                rows = [{**row, f"{key}_holm": p} for row, p in zip(rows, corrected, strict=True)]
            compared += rows
    return compared


def _differences(ours: Mapping[str, float], theirs: Mapping[str, float]) -> np.ndarray:
    return np.array([ours[query_id] - theirs[query_id] for query_id in sorted(ours)], np.float64)


def _comparison(sets: Sequence[np.ndarray]) -> dict[str, Any]:
    every = np.concatenate(sets)
    counted = {"better": int((every > 0).sum()), "worse": int((every < 0).sum()), "queries": every.size}
    return {**asdict(significance.compare(significance.parts_of(sets))), **counted}


def _metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    headline, datasets = summary["headline"], summary["datasets"]
    groups = measures.grouped(datasets)
    chosen = summary["systems"] if len(groups) <= _METRICS_FOR_DATASETS else list(summary["students"])[-1:]
    found = {
        f"{headline}/{dataset}/{system}": _over(summary, system, parts)[headline]
        for dataset, parts in groups.items()
        for system in chosen
    }
    if len(groups) > 1:
        found |= {f"{headline}/mean/{system}": means[headline] for system, means in summary["average"].items()}
    return found
