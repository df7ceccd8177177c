"""What was planned beside what a run's stages computed: for the report, `make run`'s last lines and `notify`.

What stages did comes as (stage, collection, its numbers), as `records.stages_of` reads it. Only what was computed in the
run counts: a stage that KFP's cache answered is not there at all, one that the store answered says ``reused``, and others
say how much of their work they found done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inranker_flow.store.sharing import HELPS

#: (stage, collection or "", its numbers)
Report = tuple[str, str, Mapping[str, float]]

#: Stages that compute with a model, and so on a device.
DEVICE_STAGES = ("generate_queries", "teacher_label", "distill_phase1", "distill_phase2", "evaluate")
#: Stage -> the counts that a plan has too, by the same names. Others have one name and two meanings: the tokens of
#: `generate_queries` are those it wrote, and a plan's are those it read, too.
COUNTS = {
    "prepare_corpus": ("documents",),
    "generate_queries": ("queries",),
    "teacher_label": ("pairs", "tokens"),
    "evaluate": ("pairs",),
}
#: Stage -> its number of things found done, and that of all of them.
_FOUND = {
    "generate_queries": ("resumed_documents", "documents"),
    "teacher_label": ("reused_pairs", "pairs"),
    "distill_phase1": ("resumed_step", "steps"),
    "distill_phase2": ("resumed_step", "steps"),
}


@dataclass(frozen=True)
class Compared:
    """One quantity of one stage, over all collections ("total": over all stages).

    ``planned`` is None where the plan did not know; ``real`` what was computed. ``reused`` is the share of the plan that
    was not computed because it was there, from 0 to 1, None where it is only known that some was. ``ratio`` is that of
    what is real to the rest of the plan; None where there is nothing to compare. ``before``: of what was reused in full, the
    amount as an earlier run computed it; None where that is not known.
    """

    stage: str
    quantity: str
    planned: float | None
    real: float
    reused: float | None
    ratio: float | None
    before: float | None = None


def reused(stage: str, numbers: Mapping[str, float]) -> float:
    """Return the share of a task's work that was found done, from 0 to 1."""
    if numbers.get("reused"):
        return 1.0
    found, whole = _FOUND.get(stage, ("", ""))
    return min(numbers.get(found, 0) / numbers[whole], 1.0) if numbers.get(whole) else 0.0


def computed(stage: str, numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the amounts that a task computed itself: its counts and, of a stage with a model, the hours of its devices."""
    before = reused(stage, numbers)
    # Tokens are those of this process already.
    found = {
        name: float(round(numbers.get(name, 0) * (1 - before)))
        if name != "tokens" or before == 1
        else numbers.get(name, 0.0)
        for name in COUNTS.get(stage, ())
    }
    if stage in DEVICE_STAGES:
        seconds = numbers.get("seconds", 0.0) if before < 1 else 0.0
        found["hours"] = seconds / 3600 * numbers.get("devices", 1.0)
    return found


def done(reports: Iterable[Report]) -> dict[str, float]:
    """Return the amounts that stages computed, by the names of `Plan.promised`."""
    found = dict.fromkeys(("queries", "pairs", "tokens", "hours"), 0.0)
    for stage, _, numbers in _named(reports):
        own = computed(stage, numbers)
        found["hours"] += own.get("hours", 0)
        if stage in ("generate_queries", "teacher_label"):
            for name in COUNTS[stage]:
                found[name] += own[name]
    return found


def of_sentence(promised: Mapping[str, float], targets: int) -> dict[str, Any]:
    """Return a plan's data (as `Plan.as_data`) of which only the totals are known, for a source and ``targets``."""
    rows: list[dict[str, Any]] = [
        {"stage": stage, "collection": "", "tasks": tasks}
        for stage, tasks in zip(DEVICE_STAGES, (targets, targets + 1, 1, 1, 1), strict=True)
    ]
    rows[0] |= {"queries": promised.get("queries", 0)}
    rows[1] |= {"pairs": promised.get("pairs", 0), "tokens": promised.get("tokens", 0)}
    return {"rows": [*rows, {"stage": "total", "collection": "", "hours": promised.get("hours")}]}


def left_out(plan: Mapping[str, Any], targets: Iterable[str]) -> list[str]:
    """Return collections that were planned for and are not in the run: `discover` may have set them aside."""
    names = dict.fromkeys(row["collection"] for row in plan["rows"] if row["collection"])
    return [name for name in list(names)[1:] if name not in set(targets)]  # the source is the first


def compare(plan: Mapping[str, Any], reports: Iterable[Report], without: Sequence[str] = ()) -> list[Compared]:
    """Return ``plan`` (data as `Plan.as_data` gives it) beside what the tasks of a run that has all its stages behind it did.

    A task that left no report was answered by a cache. Collections ``without`` are no part of the run.
    """
    found = _once(reports)
    rows = _with_judge([row for row in plan["rows"] if row["collection"] not in without])
    lines, hours = [], []
    for stage in ("prepare_corpus", *DEVICE_STAGES):
        mine = [(row, _share(row, found)) for row in rows if row["stage"] == stage]
        own = [computed(stage, numbers) for kind, _, numbers in found if kind == stage]
        for name in (*COUNTS.get(stage, ()), *(("hours",) if stage in DEVICE_STAGES else ())):
            parts = [(row.get(name), share) for row, share in mine if name in row]
            if parts:
                lines.append(_compared(stage, name, parts, sum(each[name] for each in own)))
        hours += [(row.get("hours"), share) for row, share in mine if stage in DEVICE_STAGES]
    total = next(row for row in plan["rows"] if row["stage"] == "total")
    spent = sum(computed(stage, numbers).get("hours", 0.0) for stage, _, numbers in found)
    known = any("hours" in row for row in rows if row["stage"] in DEVICE_STAGES)
    # Where only the total is planned, it can be compared if nothing was reused.
    whole = all(share == 0 for _, share in hours)
    parts = hours if known else [(total["hours"], 0.0 if whole else None)]
    lines.append(_compared("total", "hours", parts, spent))
    price = plan.get("price")
    if price and lines[-1].planned is not None:
        each = lines[-1]
        lines.append(Compared("total", "price", each.planned * price, each.real * price, each.reused, each.ratio))
    lines += _stored(rows, found)
    return [each for each in lines if each.planned or each.real or each.planned is None]


def with_earlier(rows: Sequence[Compared], earlier: Sequence[Compared]) -> list[Compared]:
    """Give ``rows`` that were reused in full the amounts of an ``earlier`` run that computed them."""
    known = {(each.stage, each.quantity): each.real for each in earlier if each.reused != 1}
    return [replace(each, before=known.get((each.stage, each.quantity))) if each.reused == 1 else each for each in rows]


def _with_judge(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows with the hours of a judge among those of `evaluate`, which asks it."""
    judge = next((row for row in rows if row["stage"] == "judge"), None)
    if judge is None:
        return list(rows)
    return [
        {**row, "hours": None if None in (row["hours"], judge["hours"]) else row["hours"] + judge["hours"]}
        if row["stage"] == "evaluate"
        else row
        for row in rows
        if row is not judge
    ]


def _stored(rows: Sequence[Mapping[str, Any]], reports: Sequence[Report]) -> list[Compared]:
    """Return bytes of the artifacts of every task that ran, whatever of its work it found done: they are written again."""
    mine = [row for row in rows if row["stage"] != "total" and "stored" in row]
    if not mine:
        return []
    ran = {stage for stage, _, _ in reports} | {(stage, collection) for stage, collection, _ in reports}
    parts = [
        (
            row["stored"],
            0.0 if ((row["stage"], row["collection"]) if row["collection"] else row["stage"]) in ran else 1.0,
        )
        for row in mine
    ]
    stages = {row["stage"] for row in mine}
    real = sum(numbers.get("stored_bytes", 0.0) for stage, _, numbers in reports if stage in stages)
    return [_compared("total", "stored", parts, real)]


def _named(reports: Iterable[Report]) -> list[Report]:
    """Return the amounts of the pods beside a task (`cluster.workers`) under the task's stage, without idle pods."""
    return [
        (HELPS.get(stage, stage), collection, numbers)
        for stage, collection, numbers in reports
        if stage not in HELPS or numbers.get("tokens")
    ]


def _once(reports: Iterable[Report]) -> list[Report]:
    """Without the attempts that the store answered where another computed the same: KFP tries a task again whose pod was
    lost after its work."""
    every = _named(reports)
    worked = {(stage, collection) for stage, collection, numbers in every if not numbers.get("reused")}
    return [each for each in every if not each[2].get("reused") or each[:2] not in worked]


def _share(row: Mapping[str, Any], reports: Sequence[Report]) -> float | None:
    """Return the share of a planned row that was computed before; None if a task of it did not report."""
    mine = [
        each for each in reports if each[0] == row["stage"] and (not row["collection"] or each[1] == row["collection"])
    ]
    tasks, seen = row.get("tasks", 1), len({collection for _, collection, _ in mine})
    shares = [reused(stage, numbers) for stage, _, numbers in mine]
    if all(share == 1 for share in shares):
        return 1.0  # those without a report, too
    if seen < tasks or (tasks > 1 and any(shares)):
        return None
    return min(shares)


def _compared(stage: str, name: str, parts: Sequence[tuple[float | None, float | None]], real: float) -> Compared:
    """From (planned, share that was there) of each row."""
    shares = [share for _, share in parts]
    planned = None if any(each is None for each, _ in parts) else float(sum(each or 0 for each, _ in parts))
    left = None
    if planned is not None and None not in shares:
        left = float(sum((each or 0) * (1 - (share or 0)) for each, share in parts))
    if not any(share != 0 for share in shares):
        known: float | None = 0.0
    elif all(share == 1 for share in shares):
        known = 1.0
    else:
        known = 1 - left / planned if left is not None and planned else None
    return Compared(stage, name, planned, real, known, real / left if left else None)
