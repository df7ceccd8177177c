"""The gate: may a challenger serve instead of the champion?

:func:`decide` is a pure function of values for each query that one evaluation measured, for both models, on the same
queries and the same candidates. It refuses to compare where the queries differ: with numbers stored on another day's
test set any model can be made to win.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.config import PromoteConfig
from inranker_flow.errors import UserError

#: dataset -> query id -> value of the policy's measure.
Measures = Mapping[str, Mapping[str, float]]
Verdict = Literal["PROMOTE", "HOLD", "REJECT"]

#: Differences below this are rounding, neither gain nor loss.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Reason:
    """Why: a stable ``code``, the ``dataset`` it is about ("" for all), a sentence, and the numbers in it."""

    code: str
    dataset: str
    message: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """``verdict`` and at least one reason, the decisive ones first; ``against`` is what the challenger had to beat."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    against: Literal["champion", "bm25"]


def decide(
    champion: Measures | None, challenger: Measures, policy: PromoteConfig, *, baseline: Measures | None = None
) -> Decision:
    """PROMOTE, HOLD or REJECT ``challenger``, against ``champion`` or, for a first model (None), against ``baseline``.

    REJECT: nothing was measured, a value is not finite, a dataset or queries are missing on one side, or a dataset is
    worse by more than ``policy.max_loss``. HOLD: fewer than ``policy.min_queries`` queries on a dataset, or a mean gain
    over the datasets that is not greater than ``policy.min_gain``. Else PROMOTE. Datasets that only the challenger has
    do not count. Raises :class:`UserError` for a policy that would let a model win against itself.
    """
    for name in ("min_gain", "max_loss"):
        value = getattr(policy, name)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"promotion.{name}: {value} is not a finite number of at least 0")
    against: Literal["champion", "bm25"] = "bm25" if champion is None else "champion"
    opponent = (baseline or {}) if champion is None else champion

    rejections = _incomparable(opponent, challenger, against)
    if rejections:
        return Decision("REJECT", tuple(rejections), against)

    gains = {name: _mean(challenger[name]) - _mean(opponent[name]) for name in sorted(opponent) if opponent[name]}
    losses = [
        Reason(
            "dataset_worse",
            name,
            f"{policy.measure} on {name} is {-gain:.4f} below {_title(against)}; {policy.max_loss:g} is allowed",
            {"gain": gain, "max_loss": policy.max_loss},
        )
        for name, gain in gains.items()
        if gain < -policy.max_loss - TOLERANCE
    ]
    if losses:
        return Decision("REJECT", tuple(losses), against)

    doubts = [
        Reason(
            "few_queries",
            name,
            f"{len(values)} test queries on {name} prove nothing; the policy asks for {policy.min_queries}",
            {"queries": len(values), "min_queries": policy.min_queries},
        )
        for name, values in sorted(opponent.items())
        if len(values) < max(policy.min_queries, 1)
    ]
    mean_gain = math.fsum(gains.values()) / len(gains) if gains else 0.0
    numbers = {"gain": mean_gain, "min_gain": policy.min_gain, "datasets": len(gains)}
    over = f"{next(iter(gains))}" if len(gains) == 1 else f"{len(gains)} datasets"
    if gains and mean_gain <= policy.min_gain + TOLERANCE:
        message = (
            f"mean {policy.measure} gain over {_title(against)} is {mean_gain:+.4f} on {over}; "
            f"more than {policy.min_gain:g} is needed"
        )
        doubts.append(Reason("no_gain", "", message, numbers))
    if doubts:
        return Decision("HOLD", tuple(doubts), against)

    message = (
        f"mean {policy.measure} gain over {_title(against)} is {mean_gain:+.4f} on {over}, "
        f"and none is worse by more than {policy.max_loss:g}"
    )
    each = (
        Reason("dataset_gain", name, f"{policy.measure} on {name}: {gain:+.4f}", {"gain": gain})
        for name, gain in gains.items()
    )
    return Decision("PROMOTE", (Reason("gain", "", message, numbers), *each), against)


def from_measures(table: pa.Table, system: str, measure: str) -> dict[str, dict[str, float]]:
    """The values of one ``system`` and ``measure`` out of a measures table (`schemas.MEASURES`), for :func:`decide`.

    Empty when the table does not hold them: a missing champion is ``from_measures(...) or None``.
    """
    chosen = pc.and_(pc.equal(table.column("system"), system), pc.equal(table.column("measure"), measure))
    found: dict[str, dict[str, float]] = {}
    columns = (table.filter(chosen).column(name).to_pylist() for name in ("dataset", "query_id", "value"))
    for dataset, query_id, value in zip(*columns, strict=True):
        found.setdefault(dataset, {})[query_id] = value
    return found


def _incomparable(opponent: Measures, challenger: Measures, against: str) -> list[Reason]:
    """Everything that forbids a comparison."""
    if not opponent or not challenger:
        who = "the challenger" if not challenger else _title(against)
        return [Reason("no_dataset", "", f"{who} was measured on no dataset, so nothing can be compared")]
    reasons = []
    for whose, measures in (("the challenger", challenger), (_title(against), opponent)):
        for name, values in sorted(measures.items()):
            bad = sorted(query_id for query_id, value in values.items() if not math.isfinite(value))
            if bad:
                text = f"{whose} has no finite value on {name} for {len(bad)} queries, the first is {bad[0]!r}"
                reasons.append(Reason("not_finite", name, text, {"queries": len(bad)}))
    for name in sorted(opponent):
        if name not in challenger:
            text = f"{_title(against)} was measured on {name}, the challenger was not"
            reasons.append(Reason("dataset_lost", name, text))
            continue
        ours, theirs = set(challenger[name]), set(opponent[name])
        if ours != theirs:
            missing, extra = len(theirs - ours), len(ours - theirs)
            text = (
                f"the queries of {name} differ: {missing} were measured for {_title(against)} alone, "
                f"{extra} for the challenger alone"
            )
            reasons.append(Reason("queries_differ", name, text, {"missing": missing, "extra": extra}))
    return reasons


def _mean(values: Mapping[str, float]) -> float:
    # fsum is exact whatever the order, so equal models have equal means and a better value never lowers one.
    return math.fsum(values.values()) / len(values)


def _title(against: str) -> str:
    return "BM25" if against == "bm25" else "the champion"
