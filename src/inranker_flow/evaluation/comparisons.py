"""What the summary says of systems together: means over datasets, their intervals, and each step of the method compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from inranker_flow.evaluation import measures, significance
from inranker_flow.evaluation.gate import from_measures


def families(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Test sets that count as one dataset together: its parts, and system -> measure -> mean of the parts' means."""
    return {
        name: {"parts": parts, "systems": {system: over(summary, system, parts) for system in summary["systems"]}}
        for name, parts in measures.grouped(summary["datasets"]).items()
        if parts != [name]
    }


def over(summary: Mapping[str, Any], system: str, parts: Sequence[str]) -> dict[str, float]:
    """Measure -> mean of the means over the datasets ``parts``."""
    means = [summary["datasets"][part]["systems"][system]["means"] for part in parts]
    return {measure: float(np.mean([each[measure] for each in means])) for measure in summary["measures"]}


def average(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return system -> measure -> mean over the datasets, where a family counts as one; empty without datasets."""
    groups = measures.grouped(summary["datasets"]).values()
    if not groups:
        return {}
    found: dict[str, dict[str, float]] = {}
    for system in summary["systems"]:
        means = [over(summary, system, parts) for parts in groups]
        found[system] = {measure: float(np.mean([each[measure] for each in means])) for measure in summary["measures"]}
    return found


def intervals(summary: Mapping[str, Any], table: Any) -> dict[str, Any]:
    """Return system -> dataset ("" for the mean over the datasets) -> 95 % bootstrap interval of the headline measure."""
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


def comparisons(summary: Mapping[str, Any], table: Any) -> list[dict[str, Any]]:
    """Return each step of the method by measure and dataset: mean difference, queries won and lost, both paired tests, effect.

    The first student against the first stage, each later one against the student before it, the last against both, the teacher
    and the champion. Holm corrects over the datasets of one such step and measure; a family is one dataset.
    """
    last, first = list(summary["students"])[-1:], summary["systems"][0]
    chain = list(pairwise([first, *summary["students"]]))
    chain += [(first, mine) for mine in last if (first, mine) not in chain]
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
