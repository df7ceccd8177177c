"""An evaluation by a judge: what the systems put on top is graded, and the grades are what they are measured by."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.hashing import priorities
from inranker_flow.config.language_model import JudgeConfig
from inranker_flow.config.sections import EvaluateConfig, TeacherConfig
from inranker_flow.evaluation import measures, runs
from inranker_flow.evaluation.judged_sets import FURTHER, JudgedSet
from inranker_flow.evaluation.reranking import Scored
from inranker_flow.evaluation.unjudged import described
from inranker_flow.generation.backends import check_here
from inranker_flow.generation.backends.local import Prompter
from inranker_flow.judging import agreement
from inranker_flow.judging.grading import GradeStats, Judge, Pair
from inranker_flow.judging.model import as_generator
from inranker_flow.rankers import families
from inranker_flow.rankers.checkpoints import load_tokenizer

log = logging.getLogger(__name__)

Qrels = dict[str, dict[str, int]]
#: system -> run (`tables.RUN`)
Rankings = Mapping[str, pa.Table]


def check(config: EvaluateConfig) -> None:
    """Raise :class:`UserError` for a judge that cannot work here, before anything is scored."""
    if not config.judge.checkpoint:
        return
    template, model = Judge(config.judge).prompts[0].template, as_generator(config.judge)
    measures.told_by_grades(config.measures, config.judge.depth)
    check_here(model)
    if model.backend != "openai":
        Prompter(load_tokenizer(model.checkpoint, model.revision), template, model)


def judge_runs(
    config: EvaluateConfig,
    teacher: TeacherConfig,
    every: Sequence[JudgedSet],
    scored: Mapping[str, Scored],
    summary: Mapping[str, Any],
    evaluation: Path,
) -> dict[str, Any]:
    """Grade what the systems put on top; return what the summary says of it, {} without a judge.

    ``every``: the sets that ``scored`` has scores for. Graded are the judged ones, and the held-out queries of data sets without
    judgements; what ``summary["unjudged"]`` says of these gets the means by the judge. Writes grades.parquet (`tables.GRADES`)
    and judged_measures.parquet (`tables.JUDGED_MEASURES`) into ``evaluation``.
    """
    if not config.judge.checkpoint:
        return {}
    judge, wanted = Judge(config.judge), measures.told_by_grades(config.measures, config.judge.depth)
    told: dict[str, Any] = {}
    total = GradeStats()
    with (
        tables.TableWriter(evaluation / tables.GRADES.filename, tables.GRADES) as graded,
        tables.TableWriter(evaluation / tables.JUDGED_MEASURES.filename, tables.JUDGED_MEASURES) as written,
    ):
        for judged_set, rankings in _ranked(every, scored, summary["systems"][0]):
            dataset, _, held_out = judged_set.dataset.partition(FURTHER)
            asked = chosen(list(judged_set.queries), config.judge.queries)
            table, stats = judge.grade(_pairs(judged_set, pool(rankings, asked, config.judge.depth)), dataset)
            total += stats
            graded.write(table.add_column(0, "dataset", pa.array([dataset] * table.num_rows, pa.string())))
            grades = qrels_of(table)
            found = {system: by_grades(wanted, grades, run) for system, run in rankings.items()}
            for system, values in found.items():
                for measure, each in values.items():
                    repeated = [[text] * len(each) for text in (dataset, system, measure)]
                    columns = [*repeated, list(each), list(each.values())]
                    written.write(dict(zip(tables.JUDGED_MEASURES.schema.names, columns, strict=True)))
            told[dataset] = {
                "queries": len(grades),
                "stats": dataclasses.asdict(stats),
                "systems": described(found),
                "agreement": None
                if held_out
                else _human(judged_set, wanted, grades, rankings, found, config.measures[0]),
            }
            if held_out:
                summary["unjudged"][dataset]["judge"] = told[dataset]["systems"]
    judge.close()
    return {
        **_named(config.judge, judge),
        "measures": list(wanted),
        "stats": dataclasses.asdict(total),
        "datasets": told,
        "kin": kin(config.judge, teacher),
    }


def kin(judge: JudgeConfig, teacher: TeacherConfig) -> str:
    """Return what a reader must know of a judge and a teacher of one family; "" where they are of none, as far as names tell."""
    mine = families.lineage(judge.checkpoint)
    others = [each.checkpoint for each in teacher.all if mine and families.lineage(each.checkpoint) == mine]
    if not others:
        return ""
    return (
        f"The judge ({judge.checkpoint}) and the teacher ({', '.join(others)}) are of one family, {mine}: they agree with each "
        "other beyond what people would say, so these grades favour students of this teacher."
    )


def chosen(query_ids: Sequence[str], most: int) -> list[str]:
    """Return at most so many queries, drawn by their ids; all for 0."""
    if not most or len(query_ids) <= most:
        return sorted(query_ids)
    ordered = sorted(query_ids)
    order = np.argsort(priorities(0, ordered), kind="stable")[:most]
    return [ordered[place] for place in np.sort(order)]


def pool(rankings: Rankings, query_ids: Sequence[str], depth: int) -> dict[str, list[str]]:
    """Return query id -> the documents that any system has among its first ``depth``, sorted."""
    wanted = pa.array(query_ids, pa.string())
    found: dict[str, set[str]] = {}
    for run in rankings.values():
        top = run.filter(pc.and_(pc.is_in(run.column("query_id"), wanted), pc.less_equal(run.column("rank"), depth)))
        for query_id, doc_id in zip(*(top.column(name).to_pylist() for name in ("query_id", "doc_id")), strict=True):
            found.setdefault(query_id, set()).add(doc_id)
    return {query_id: sorted(found[query_id]) for query_id in query_ids if query_id in found}


def qrels_of(table: pa.Table) -> Qrels:
    """Return the grades as judgements."""
    found: Qrels = {}
    for query_id, doc_id, grade in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found.setdefault(query_id, {})[doc_id] = grade
    return found


def by_grades(wanted: Mapping[str, Any], grades: Qrels, run: pa.Table) -> dict[str, dict[str, float]]:
    """Return measure -> query id -> value of a run, by grades: gains where a measure knows them, otherwise a passage is
    relevant from grade 2 on, as in TREC's Deep Learning track."""
    run = run.filter(pc.is_in(run.column("query_id"), pa.array(list(grades), pa.string())))
    binary = {name for name, each in wanted.items() if "rel" in each.SUPPORTED_PARAMS and "rel" not in each.params}
    only = {
        query: {doc: grade * (grade >= agreement.ANSWERS) for doc, grade in own.items()}
        for query, own in grades.items()
    }
    found: dict[str, dict[str, float]] = {}
    for names, qrels in ((binary, only), (set(wanted) - binary, grades)):
        if names:
            found |= measures.per_query({name: wanted[name] for name in wanted if name in names}, qrels, run)
    return {name: found[name] for name in wanted}


def pairs_of(
    wanted: Mapping[str, Sequence[str]], queries: Mapping[str, str], texts: Mapping[str, str]
) -> Iterator[Pair]:
    """Yield the pairs to grade: ``wanted`` documents of each query."""
    for query_id, doc_ids in wanted.items():
        for doc_id in doc_ids:
            yield Pair(query_id, doc_id, queries[query_id], texts[doc_id])


def _ranked(
    every: Sequence[JudgedSet], scored: Mapping[str, Scored], first: str
) -> Iterator[tuple[JudgedSet, dict[str, pa.Table]]]:
    """Yield each set that is graded with every system's ranking of its candidates."""
    judged = {each.dataset for each in every if FURTHER not in each.dataset}
    offset = 0
    for each in every:
        rows = slice(offset, offset + each.run.num_rows)
        offset = rows.stop
        dataset, further, kind = each.dataset.partition(FURTHER)
        if not each.run.num_rows or (further and (kind != tables.HELD_OUT or dataset in judged)):
            continue
        ids = each.run.column("query_id"), each.run.column("doc_id")
        yield each, {first: each.run} | {name: runs.rank(*ids, found.scores[rows]) for name, found in scored.items()}


def _pairs(judged_set: JudgedSet, wanted: Mapping[str, Sequence[str]]) -> Iterator[Pair]:
    """Yield the pairs of a set; of a document that was cut what is graded are the passages that its query found."""
    if not judged_set.members:
        yield from pairs_of(wanted, judged_set.queries, judged_set.documents)
        return
    ids = (judged_set.run.column(name).to_pylist() for name in ("query_id", "doc_id"))
    parts = dict(zip(zip(*ids, strict=True), judged_set.members, strict=True))
    for query_id, doc_ids in wanted.items():
        found = {each: "\n".join(judged_set.documents[part] for part in parts[query_id, each]) for each in doc_ids}
        yield from pairs_of({query_id: doc_ids}, judged_set.queries, found)


def _human(
    judged_set: JudgedSet,
    wanted: Mapping[str, Any],
    grades: Qrels,
    rankings: Rankings,
    found: Mapping[str, Mapping[str, Mapping[str, float]]],
    headline: str,
) -> dict[str, Any]:
    """Return the agreement with the judgements of the same queries."""
    human = {query_id: judged_set.qrels[query_id] for query_id in grades}
    only = {headline: wanted[headline]}
    means = {}
    for system, run in rankings.items():
        mine = run.filter(pc.is_in(run.column("query_id"), pa.array(list(human), pa.string())))
        theirs = _means(measures.per_query(only, human, mine))
        means[system] = theirs[headline], _means(found[system])[headline]
    told = agreement.describe(human, grades, means)
    log.info("%s: %s", judged_set.dataset, agreement.sentence(told))
    return told


def _means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean(list(each.values()))) if each else 0.0 for name, each in values.items()}


def _named(config: JudgeConfig, judge: Judge) -> dict[str, Any]:
    template = judge.prompts[0].template
    names = ("checkpoint", "revision", "backend", "depth", "max_passage_tokens", "max_new_tokens")
    told = {name: getattr(config, name) for name in names}
    return {**told, "prompt": template.name, "prompt_digest": template.digest}
