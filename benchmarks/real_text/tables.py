"""Tables of what was measured: nDCG@10 with intervals, and paired tests of every variant against phase 1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.real_text.students import evaluations
from inranker_flow.artifacts import tables
from inranker_flow.evaluation.significance import bootstrap_interval, compare, holm, parts_of

MEASURE = "nDCG@10"
#: System -> data set -> query -> its measure, the mean over seeds.
Measured = Mapping[str, Mapping[str, Mapping[str, float]]]


def read(root: Path) -> tuple[list[int], Measured]:
    """Return the seeds that were measured, and the means over them."""
    seeds: list[int] = []
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for seed, folder in evaluations(root):
        seeds.append(seed)
        for row in tables.read(tables.MEASURES, folder).to_pylist():
            if row["measure"] == MEASURE:
                values[row["system"]][row["dataset"]][row["query_id"]].append(row["value"])
    means = {
        system: {name: {query: float(np.mean(each)) for query, each in rows.items()} for name, rows in sets.items()}
        for system, sets in values.items()
    }
    return seeds, means


def show(root: Path, base: str = "phase 1") -> str:
    """Return the tables as Markdown: means with 95 % intervals, then differences to ``base`` with Holm's p over the data sets."""
    seeds, measured = read(root)
    names = sorted(measured[base])
    lines = [f"{MEASURE}, mean over seeds {', '.join(map(str, seeds))} (95 % bootstrap interval over queries)", ""]
    lines += [_row(["system", *(f"{name} ({len(measured[base][name])})" for name in names)]), _rule(len(names) + 1)]
    for system, sets in measured.items():
        lines.append(_row([system, *(_mean(sets[name]) for name in names)]))
    lines += ["", f"Difference to {base}: mean, and p of the paired randomisation test, Holm over the data sets", ""]
    lines += [_row(["system", *names]), _rule(len(names) + 1)]
    for system, sets in measured.items():
        if system == base:
            continue
        found = [compare(parts_of([_difference(sets[name], measured[base][name])])) for name in names]
        corrected = holm([each.p for each in found])
        cells = [f"{each.difference:+.3f} ({p:.2g})" for each, p in zip(found, corrected, strict=True)]
        lines.append(_row([system, *cells]))
    return "\n".join(lines)


def _mean(values: Mapping[str, float]) -> str:
    numbers = np.array(list(values.values()))
    low, high = bootstrap_interval(parts_of([numbers]))
    return f"{numbers.mean():.3f} [{low:.3f}, {high:.3f}]"


def _difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> np.ndarray:
    return np.array([ours[query] - theirs[query] for query in sorted(theirs)])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(count: int) -> str:
    return "|" + "---|" * count
