"""Measures by query (ir_measures, so a setting's ``nDCG@10`` is everybody's nDCG@10), and what counts as a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from inranker_flow.errors import UserError

_FAMILY = "cqadupstack"


def parse(names: Sequence[str]) -> dict[str, Any]:
    """Name -> ir_measures measure, in order; :class:`UserError` naming the first that is unknown or cannot be had."""
    import ir_measures

    parsed = {}
    for name in names:
        try:
            measure = ir_measures.parse_measure(name)
            usable = ir_measures.DefaultPipeline.supports(measure)
        except (NameError, ValueError, TypeError, SyntaxError, AssertionError):
            usable = False
        if not usable:
            raise UserError(
                f"evaluation.measures: {name!r} is not a measure that ir_measures can compute here; "
                "write it as nDCG@10, RR@10, R@100, AP@1000 or P(rel=2)@10"
            )
        parsed[name] = measure
    if not parsed:
        raise UserError("evaluation.measures: empty; name at least one, the first is the headline (nDCG@10)")
    return parsed


def per_query(
    measures: Mapping[str, Any], qrels: Mapping[str, Mapping[str, int]], run: pa.Table
) -> dict[str, dict[str, float]]:
    """Measure name -> query id -> value, for every judged query; 0 for one without candidates.

    ``run`` is a `schemas.RUN` table; its ranks decide.
    """
    import ir_measures

    # The rank is given as the score: evaluators sort by score in single precision and break ties their own way.
    ranked: dict[str, dict[str, float]] = {}
    columns = (run.column(name).to_pylist() for name in ("query_id", "doc_id", "rank"))
    for query_id, doc_id, position in zip(*columns, strict=True):
        ranked.setdefault(query_id, {})[doc_id] = -float(position)
    found = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    names: dict[str, list[str]] = {}
    for name, measure in measures.items():
        names.setdefault(str(measure), []).append(name)
    # An evaluator that is given nothing at all may raise, or leave the queries out.
    if any(query_id in qrels for query_id in ranked):
        for metric in ir_measures.iter_calc(list(measures.values()), qrels, ranked):
            for name in names[str(metric.measure)]:
                if metric.query_id in ranked:
                    found[name][metric.query_id] = float(metric.value)
    return found


def grouped(datasets: Iterable[str]) -> dict[str, list[str]]:
    """Name -> test sets that count as one dataset: BEIR averages the twelve forums of cqadupstack (cqadupstack-*)."""
    groups: dict[str, list[str]] = {}
    for dataset in datasets:
        groups.setdefault(_FAMILY if dataset.startswith(f"{_FAMILY}-") else dataset, []).append(dataset)
    return groups
