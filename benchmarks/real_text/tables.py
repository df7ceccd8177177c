"""Tables of what was measured: nDCG@10 by judgements and agreement with the teacher, with intervals and paired tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.real_text.domains import SOURCE
from benchmarks.real_text.students import COMPARED, evaluations
from inranker_flow.artifacts import tables
from inranker_flow.corpora import run_files
from inranker_flow.evaluation.significance import bootstrap_interval, compare, holm, parts_of

MEASURE, AGREEMENT = "nDCG@10", "Kendall's tau with the teacher"
#: The same with each seed, and every query's number; what phase 2's variants change one thing of.
UNSEEDED, STANDARD = ("bm25", "phase 1", "teacher"), "written"
#: System -> seed -> data set -> query -> its measure. What no seed changes has seed 0.
Measured = Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]]
#: Data set -> query -> a measure, the mean over seeds.
Values = Mapping[str, Mapping[str, float]]
#: (system, data set, query, its value).
Row = tuple[str, str, str, float]


def show(root: Path) -> str:
    """Return the tables as Markdown."""
    folders = list(evaluations(root))
    taught = {path.name: path for _, folder in folders for path in (folder / "runs").glob("*.teacher.trec")}
    parts = []
    for name, rows in ((MEASURE, _judged), (AGREEMENT, partial(_agreeing, taught.values()))):
        measured = _measured((seed, rows(folder)) for seed, folder in folders)
        seeds = ", ".join(map(str, sorted(measured[STANDARD])))
        compared = [each for each in (*UNSEEDED, *(each.name for each in COMPARED)) if each in measured]
        parts.append(
            f"{name}, mean over seeds {seeds} (95 % bootstrap interval over queries)\n\n{_values(measured, compared)}"
        )
        for base in ("phase 1", "more source"):
            parts.append(f"{name}, difference to {base} (p of the paired randomisation test, Holm over the data sets)")
            parts.append(_differences(measured, compared, base))
        changed = [each for each in measured if each not in compared]
        for base in (STANDARD, "phase 1"):
            parts.append(
                f"{name}, one thing of {STANDARD} changed, difference to {base} with the same seeds (p as above)"
            )
            parts.append(_differences(measured, changed, base))
    return "\n\n".join(parts)


def _judged(folder: Path) -> Iterable[Row]:
    for row in tables.read(tables.MEASURES, folder).to_pylist():
        if row["measure"] == MEASURE:
            yield row["system"], row["dataset"], row["query_id"], row["value"]


def _agreeing(taught: Iterable[Path], folder: Path) -> Iterable[Row]:
    """For each query, over the candidates that all systems put in order. ``taught``: the teacher's runs."""
    from scipy import stats

    for path in taught:
        dataset = path.name.removesuffix(".teacher.trec")
        teacher = _scores(path)
        for other in sorted((folder / "runs").glob(f"{dataset}.*.trec")):
            system = other.name.removeprefix(f"{dataset}.").removesuffix(".trec")
            if system == "teacher":
                continue
            for query, scores in _scores(other).items():
                pairs = np.array([(score, teacher[query][document]) for document, score in scores.items()])
                tau = stats.kendalltau(pairs[:, 0], pairs[:, 1]).statistic if len(pairs) > 1 else np.nan
                if not np.isnan(tau):  # one candidate, or all alike: there is no order
                    yield system, dataset, query, float(tau)


def _scores(path: Path) -> dict[str, dict[str, float]]:
    """Read a run: query -> document -> score."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in run_files.read(str(path)).to_pylist():
        found[row["query_id"]][row["doc_id"]] = row["score"]
    return found


def _measured(parts: Iterable[tuple[int, Iterable[Row]]]) -> Measured:
    found: dict[str, dict[int, dict[str, dict[str, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for seed, rows in parts:
        for system, dataset, query, value in rows:
            found[system][0 if system in UNSEEDED else seed][dataset][query] = value
    return found


def _mean_of(seeds: Iterable[Values]) -> Values:
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sets in seeds:
        for name, rows in sets.items():
            for query, value in rows.items():
                values[name][query].append(value)
    return {name: {query: float(np.mean(each)) for query, each in rows.items()} for name, rows in values.items()}


def _paired(measured: Measured, system: str, base: str) -> tuple[Values, Values]:
    """Return the values of two systems, the means over the seeds that both have, or over all where one has none."""
    ours, theirs = measured[system], measured[base]
    common = set(ours) & set(theirs)
    return _mean_of([ours[seed] for seed in common or ours]), _mean_of([theirs[seed] for seed in common or theirs])


def _values(measured: Measured, systems: Sequence[str]) -> str:
    means = {each: _mean_of(measured[each].values()) for each in systems}
    names = sorted(means["phase 1"])
    lines = [_row(["system", *(f"{name} ({len(means['phase 1'][name])})" for name in names)]), _rule(len(names) + 1)]
    lines += [_row([system, *(_mean(sets[name]) for name in names)]) for system, sets in means.items()]
    return "\n".join(lines)


def _differences(measured: Measured, systems: Sequence[str], base: str) -> str:
    names = sorted(measured["phase 1"][0])
    lines = [_row(["system (seeds)", *names, "the targets together"]), _rule(len(names) + 2)]
    for system in systems:
        if system == base:
            continue
        ours, theirs = _paired(measured, system, base)
        values = {name: _difference(ours[name], theirs[name]) for name in names if name in ours}
        found = [compare(parts_of([each])) for each in values.values()]
        corrected = holm([each.p for each in found])
        cells = [f"{each.difference:+.3f} ({p:.2g})" for each, p in zip(found, corrected, strict=True)]
        # Each with the same weight; one question, so its p is as it is.
        pooled = compare(parts_of([each for name, each in values.items() if name != SOURCE]))
        seeds = "" if 0 in measured[system] else f" ({len(measured[system])})"
        lines.append(_row([f"{system}{seeds}", *cells, f"{pooled.difference:+.3f} ({pooled.p:.2g})"]))
    return "\n".join(lines)


def _mean(values: Mapping[str, float]) -> str:
    numbers = np.array(list(values.values()))
    low, high = bootstrap_interval(parts_of([numbers]))
    return f"{numbers.mean():.3f} [{low:.3f}, {high:.3f}]"


def _difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> np.ndarray:
    return np.array([ours[query] - theirs[query] for query in sorted(theirs) if query in ours])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(count: int) -> str:
    return "|" + "---|" * count
