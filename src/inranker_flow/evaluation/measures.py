"""Measures by query (ir_measures, so a setting's ``nDCG@10`` is everybody's nDCG@10), and what counts as a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import pyarrow as pa

from inranker_flow.errors import UserError
from inranker_flow.text_files import quoted, shown
from inranker_flow.tracking.values import metric_name

_FAMILY = "cqadupstack"


#: Parameter of a measure -> whether ``value`` can be one. Evaluators are C and Perl: what they do not expect ends the
#: process (`nDCG@0`), or gives a number of no meaning.
_PARAMETERS: dict[str, Callable[[Any], bool]] = {
    "cutoff": lambda value: _whole(value) and 1 <= value <= 100_000,
    "rel": lambda value: _whole(value) and 1 <= value <= 1_000,
    "recall": lambda value: _number(value) and 0 <= value <= 1,
    "p": lambda value: _number(value) and 0 < value < 1,
    "beta": lambda value: _number(value) and 0 < value <= 100,
    "gains": lambda value: (
        isinstance(value, dict)
        and 0 < len(value) <= 100
        and all(_whole(grade) and abs(grade) <= 1_000 for grade in value)
        and all(_whole(gain) and 0 <= gain <= 100_000 for gain in value.values())
    ),
    "dcg": lambda value: value in ("log2", "exp-log2"),
    "judged_only": lambda value: isinstance(value, bool),
    "relative": lambda value: isinstance(value, bool),
    "normalize": lambda value: isinstance(value, bool),
}


#: Grades of a query that are all lower end the process (trec_eval counts grades in an array); TREC's -2 is spam. To every
#: measure they are as little as this one.
_LOWEST = -1
#: A higher one is no grade: trec_eval would take gigabytes to count up to it.
HIGHEST = 1_000_000


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


#: Judgements and a run as they may be: ids of any form, all relevant, none, nothing found, grades below zero. Each query has
#: its candidates in order.
_QRELS = {
    "query one": {"doc-1": 2, "doc 2": 1, "文書": 0},
    "q-2": {"doc-1": 1},
    "all": {"a": 1, "b": 1},
    "none": {"a": 0},
    "lost": {"z": 1},
    "below": {"a": -1, "b": 3},
}
_RUN = {
    query: {doc: -float(place) for place, doc in enumerate(docs)}
    for query, docs in {
        "query one": ("x", "doc-1", "文書"),
        "q-2": ("doc 2", "doc-1"),
        "all": ("a", "b"),
        "none": ("a",),
        "lost": ("a", "b"),
        "below": ("a", "b", "c"),
        "not judged": ("a",),
    }.items()
}


def parse(names: Sequence[str]) -> dict[str, Any]:
    """Return name -> ir_measures measure, in order; :class:`UserError` naming the first that is unknown or cannot be had.

    Each has computed a few values: what a measure's own program refuses is refused here, and not after all scoring.
    """
    parsed: dict[str, Any] = {}
    same: dict[str, str] = {}
    for name in names:
        measure = _parse(name)
        for key in (str(measure), metric_name(name)):
            if key in same:
                raise UserError(
                    f"evaluation.measures: {shown(same[key])} and {shown(name)} are one measure, or one name in MLflow; "
                    "leave one out",
                    code="measure-twice",
                )
        same |= {str(measure): name, metric_name(name): name}
        parsed[name] = measure
    if not parsed:
        raise UserError(
            "evaluation.measures: empty; name at least one, the first is the headline (nDCG@10)", code="setting-missing"
        )
    return parsed


@cache
def _parse(name: str) -> Any:
    import ir_measures

    if len(name) > 100:  # longer ones are none, and would overflow the parser
        raise _refused(name)
    try:
        measure = ir_measures.parse_measure(name)
        able = [
            each for each in ir_measures.DefaultPipeline.providers if each.is_available() and each.supports(measure)
        ]
    except (NameError, ValueError, TypeError, SyntaxError, AssertionError, AttributeError, RecursionError, MemoryError):
        able = []
    if not able:
        raise _refused(name)
    for parameter, value in measure.params.items():
        if not _PARAMETERS.get(parameter, lambda _: False)(value):
            raise _refused(name, f"{parameter} cannot be {quoted(value, 30)}")
    if able[0].NAME == "gdeval":
        raise _refused(name, "its program, gdeval.pl, takes only numbers as ids")
    try:
        values = {metric.query_id: metric.value for metric in ir_measures.iter_calc([measure], _QRELS, _RUN)}
    except Exception as error:  # the evaluators' own, which have no common base
        raise _refused(name, " ".join(str(error).split())[:100]) from error
    if not {"query one", "q-2"} <= set(values) or not all(map(math.isfinite, values.values())):
        raise _refused(name, "it has no value for some queries")
    return measure


def _refused(name: str, why: str = "") -> UserError:
    return UserError(
        f"evaluation.measures: {quoted(name)} is not a measure that ir_measures can compute here{f' ({why})' if why else ''}; "
        "write it as nDCG@10, RR@10, R@100, AP@1000 or P(rel=2)@10",
        code="measure-unknown",
    )


def tells_orders_apart(name: str, depth: int) -> bool:
    """Return whether the measure ``name`` can be better for one order of ``depth`` candidates than for another."""
    import ir_measures

    measure = parse([name])[name]
    depth = min(depth, cutoff(name) + 1) if cutoff(name) else min(depth, 1000)
    # One relevant document, with a grade that any measure counts, among others that are judged too.
    qrels = {"q": {f"{number}": 0 for number in range(depth)} | {"relevant": 1000}}
    first, last = (
        {"q": {"relevant" if number == place else f"{number}": -float(number) for number in range(depth)}}
        for place in (0, depth - 1)
    )
    values = [ir_measures.calc_aggregate([measure], qrels, run) for run in (first, last)]
    return next(iter(values[0].values())) > next(iter(values[1].values()))


def cutoff(name: str) -> int:
    """Return the cutoff of a measure; 0 for one that reads the whole ranking."""
    return int(parse([name])[name].params.get("cutoff", 0))


def told_by_grades(names: Sequence[str], depth: int) -> dict[str, Any]:
    """Return the measures of ``names`` that a judge's grades of the first ``depth`` passages can tell: name -> measure.

    Raises :class:`UserError` where the first of them, the headline, is none.
    """
    found = {name: each for name, each in parse(names).items() if 0 < cutoff(name) <= depth}
    if names[0] not in found:
        raise UserError(
            f"evaluation.judge.depth: {depth} passages are graded, and {names[0]} reads more of a ranking; raise it to the "
            "cutoff of that measure, or name another measure first (evaluation.measures)",
            code="setting-conflict",
        )
    return found


def per_query(
    measures: Mapping[str, Any], qrels: Mapping[str, Mapping[str, int]], run: pa.Table
) -> dict[str, dict[str, float]]:
    """Measure name -> query id -> value, for every judged query; 0 for one without candidates.

    ``run`` is a `tables.RUN` table; its ranks decide.
    """
    import ir_measures

    # The rank is given as the score: evaluators sort by score in single precision and break ties their own way.
    ranked: dict[str, dict[str, float]] = {}
    columns = (run.column(name).to_pylist() for name in ("query_id", "doc_id", "rank"))
    for query_id, doc_id, position in zip(*columns, strict=True):
        ranked.setdefault(query_id, {})[doc_id] = -float(position)
    qrels = {
        query_id: own
        if min(own.values(), default=0) >= _LOWEST
        else {doc_id: max(grade, _LOWEST) for doc_id, grade in own.items()}
        for query_id, own in qrels.items()
    }
    found = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    names: dict[str, list[str]] = {}
    for name, measure in measures.items():
        names.setdefault(str(measure), []).append(name)
    # An evaluator that is given nothing at all may raise, or leave the queries out.
    if measures and any(query_id in qrels for query_id in ranked):
        for metric in ir_measures.iter_calc(list(measures.values()), qrels, ranked):
            for name in names[str(metric.measure)]:
                if metric.query_id in ranked:
                    found[name][metric.query_id] = float(metric.value)
    return found


def grouped(datasets: Iterable[str]) -> dict[str, list[str]]:
    """Return name -> test sets that count as one dataset: BEIR averages the twelve forums of cqadupstack (cqadupstack-*)."""
    groups: dict[str, list[str]] = {}
    for dataset in datasets:
        groups.setdefault(_FAMILY if dataset.startswith(f"{_FAMILY}-") else dataset, []).append(dataset)
    return groups
