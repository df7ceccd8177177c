"""The rows of the page's tables, from summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inranker_flow.evaluation.judged_sets import FURTHER
from inranker_flow.evaluation.measures import grouped

#: Below this (Holm-corrected) a difference is called significant.
SIGNIFICANT = 0.05
#: Counts of query generation that say no reason why a query was dropped.
_WHOLE = ("documents", "generated", "queries", "kept")
_NOTED = ("held_out", "logged", "passed_through", "short_documents", "long_documents", "cut_documents")


def names(summary: Mapping[str, Any]) -> list[str]:
    """Return the names that count as one dataset each."""
    return list(grouped(summary["datasets"]))


def measured(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table of all measures: each dataset's rows, then the means over the datasets where there are several."""
    marks = _marks(summary)
    rows: list[dict[str, Any]] = []

    def add(dataset: str, name: str, means: Mapping[str, Mapping[str, float]], best: Mapping[str, float]) -> None:
        for place, measure in enumerate(summary["measures"]):
            values = {system: means[system][measure] for system in summary["systems"]}
            first = place == 0
            cells = [
                {
                    "value": value,
                    "top": value == max(values.values()),
                    "mark": marks.get((dataset, measure, system)),
                    "interval": summary["intervals"][system].get(dataset) if measure == summary["headline"] else None,
                }
                for system, value in values.items()
            ]
            rows.append(
                {
                    "name": name if first else "",
                    "measure": measure,
                    "cells": cells,
                    "best": best.get(measure),
                    "rule": first and bool(rows),
                }
            )

    for dataset, found in summary["datasets"].items():
        means = {system: each["means"] for system, each in found["systems"].items()}
        add(dataset, dataset, means, found["ceiling"]["means"])
    for family, found in summary["families"].items():
        add(family, f"{family} (mean of {len(found['parts'])})", found["systems"], {})
    if len(names(summary)) > 1:
        add("", "Mean", summary["average"], {})
    return rows


def _marks(summary: Mapping[str, Any]) -> dict[tuple[str, str, str], str]:
    """Return (dataset, measure, system) -> ▲ or ▼ where a student differs significantly from the system before it."""
    students = summary["students"]
    before = dict(zip(students, [summary["systems"][0], *students], strict=False))
    return {
        (row["dataset"], row["measure"], row["system"]): "▲" if row["difference"] > 0 else "▼"
        for row in summary["comparisons"]
        if before[row["system"]] == row["against"] and row["p_holm"] < SIGNIFICANT
    }


def sweeps(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return of the mean over the datasets, where there are several, and of each dataset: its "name", "cutoffs" (family,
    [cut-off], {system: values}) and "depths" ([candidates], {system: values}); [] where an evaluation has none."""
    found = [
        {"name": name, "cutoffs": _cutoffs(each["systems"]), "depths": _depths(each["systems"])}
        for name, each in summary["datasets"].items()
        if any(system.get("cutoffs") or system.get("depths") for system in each["systems"].values())
    ]
    groups = list(grouped(each["name"] for each in found).values())
    if len(groups) < 2:
        return found
    by_name = {each["name"]: each for each in found}
    return [
        {"name": "the mean over the datasets", **_mean([[by_name[name] for name in group] for group in groups])},
        *found,
    ]


def _cutoffs(systems: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return family -> system -> cut-off -> value."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for system, each in systems.items():
        for family, values in each.get("cutoffs", {}).items():
            found.setdefault(family, {})[system] = values
    return found


def _depths(systems: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return system -> number of reranked candidates -> value."""
    return {system: each["depths"] for system, each in systems.items() if each.get("depths")}


def _mean(groups: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the means over datasets, each the mean of its parts, of what all of them have."""

    def over(parts: Sequence[Any]) -> Any:
        if not isinstance(parts[0], Mapping):
            return float(np.mean(parts))
        common = [key for key in parts[0] if all(key in part for part in parts)]
        return {key: over([part[key] for part in parts]) for key in common}

    kinds = ("cutoffs", "depths")
    return dict(over([over([{kind: each[kind] for kind in kinds} for each in group]) for group in groups]))


def side_by_side(summary: Mapping[str, Any], first_stage: str) -> list[dict[str, Any]]:
    """Return the headline measure of all systems on the candidates of each first stage; [] where there is one alone."""
    further: Mapping[str, Any] = summary.get("further", {})
    rows: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(name.partition(FURTHER)[0] for name in further):
        found = [(first_stage, summary["systems"][0], summary["datasets"][dataset])]
        for name, each in further.items():
            if name.startswith(f"{dataset}{FURTHER}"):
                kind = name.partition(FURTHER)[2]
                found.append((each["first_stage"], kind, each))
        for place, (shown, first, each) in enumerate(found):
            means = each["systems"]
            values = [means[system]["means"][summary["headline"]] for system in (first, *summary["systems"][1:])]
            rows.append(
                {
                    "dataset": "" if place else dataset,
                    "rule": bool(rows) and not place,
                    "first_stage": shown,
                    "values": values,
                    "top": max(values),
                    "best": each["ceiling"]["means"][summary["headline"]],
                }
            )
    return rows


def ties(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return system -> its largest tie rate over the datasets."""
    return {
        system: max((found["systems"][system]["tie_rate"] for found in summary["datasets"].values()), default=0.0)
        for system in summary["systems"]
    }


def steps(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the headline measure's comparisons, grouped by step."""
    found: dict[tuple[str, str], list[Any]] = {}
    for row in summary["comparisons"]:
        if row["measure"] == summary["headline"]:
            found.setdefault((row["system"], row["against"]), []).append(row)
    return [{"system": system, "against": against, "rows": rows} for (system, against), rows in found.items()]


def generated(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return of each target how many queries were written, which reasons dropped how many of them, the most first, what else
    there is to know, and how many are left to train on; without counts of nothing."""
    found = []
    for each in summary["generation"]:
        counts = {name: count for name, count in each["counts"].items() if count}
        dropped = sorted(set(counts) - {*_WHOLE, *_NOTED}, key=lambda name: (-counts[name], name))
        found.append(
            {
                "dataset": each["dataset"],
                "documents": counts.get("documents"),
                "generated": counts.get("generated"),
                "dropped": [(_words(name), counts[name]) for name in dropped],
                "noted": [(_words(name), counts[name]) for name in _NOTED if name in counts],
                "kept": counts.get("queries", counts.get("kept")),
                "samples": each["samples"],
            }
        )
    return found


def _words(name: str) -> str:
    return name.replace("_", " ")
