"""The gate: may a challenger serve instead of the champion?

Evidence is of four kinds, the most trusted first: people's judgements (human), a language model's grades (judge), the passage
that a query was written for (known_item), the teacher's scores (agreement). Each data set is asked by the most trusted that it
has, the last two together; no mean is over two kinds.

:func:`decide` is a pure function of values for each query that one evaluation measured, for both models, on the same
queries and the same candidates, of the policy, and of what else was found (leaks, cost). It refuses to compare where
the queries differ: with numbers stored on another day's test set any model can be made to win.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.config.sections import PromoteConfig
from inranker_flow.config.values import EvidenceName
from inranker_flow.errors import UserError
from inranker_flow.evaluation import measures, significance
from inranker_flow.evaluation.judged_sets import FURTHER
from inranker_flow.evaluation.significance import Part

#: dataset -> query id -> value of the policy's measure.
Measures = Mapping[str, Mapping[str, float]]
Verdict = Literal["PROMOTE", "HOLD", "REJECT"]

#: Differences below this are rounding, neither gain nor loss.
TOLERANCE = 1e-9
#: Kinds of evidence, the most trusted first.
ORDER: tuple[EvidenceName, ...] = ("human", "judge", "known_item", "agreement")
#: Those beside judgements; the last two are asked together.
_LEVELS: tuple[tuple[EvidenceName, ...], ...] = (ORDER[1:2], ORDER[2:])
_SYNTHETIC = ", on synthetic evidence"


@dataclass(frozen=True)
class Reason:
    """A reason: a stable ``code``, the ``dataset`` it is about ("" for all), a sentence, and the numbers in it."""

    code: str
    dataset: str
    message: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """``verdict`` and at least one reason, the decisive ones first and the worst of them before the others;
    ``against`` is what the challenger had to beat."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    #: champion, or the first stage by its kind.
    against: str
    #: Kinds of evidence that showed the gain of a PROMOTE, the most trusted first.
    shown_by: tuple[EvidenceName, ...] = ()


@dataclass(frozen=True)
class Versus:
    """Values of one kind of evidence: of the ``opponent`` (champion or first stage) and of the ``challenger``, by ``measure``."""

    opponent: Measures
    challenger: Measures
    measure: str

    def of(self, names: Set[str]) -> Versus:
        """Return the values on some data sets alone."""
        ours, theirs = (
            {name: side[name] for name in sorted(names) if name in side} for side in (self.challenger, self.opponent)
        )
        return Versus(theirs, ours, self.measure)


@dataclass(frozen=True)
class Evidence:
    """Other findings of the evaluation about the challenger; NaN for a cost that was not measured.

    ``leaks``: test queries among its training queries. ``latency_p95_ms``: to rerank 100 passages. ``size_mb``: of its
    files.
    """

    leaks: int = 0
    latency_p95_ms: float = math.nan
    size_mb: float = math.nan


def evidence_of(summary: Mapping[str, Any], system: str = "phase2") -> Evidence:
    """Return the evidence in an evaluation's summary.json; :class:`UserError` where the leak check is not in it."""
    if "leaks" not in summary:
        raise UserError(
            "summary.json: without a leak check, so it is of an older version: evaluate again", code="artifact-old"
        )
    model = summary["models"].get(system, {})
    found = (model.get(name) for name in ("latency_p95_ms", "size_mb"))
    return Evidence(int(summary["leaks"]["queries"]), *(math.nan if each is None else float(each) for each in found))


def decide(
    champion: Measures | None,
    challenger: Measures,
    policy: PromoteConfig,
    *,
    baseline: Measures | None = None,
    evidence: Evidence = Evidence(),
    first_stage: str = "bm25",
    others: Mapping[EvidenceName, Versus] = {},
) -> Decision:
    """PROMOTE, HOLD or REJECT ``challenger``, against ``champion`` or, for a first model (None), against ``baseline``.

    These are measures by judgements; ``others`` are those by other kinds of evidence, asked for data sets without
    judgements, or of which the policy does not ask those (`PromoteConfig.evidence`).

    REJECT: nothing was measured, a value is not finite, a dataset or queries are missing on one side, a dataset is
    worse by more than ``policy.max_loss`` by any kind that is asked, or a budget is exceeded. HOLD: the evidence does not
    suffice: leaks, a budget without its measurement, fewer than ``policy.min_queries`` judged queries on a dataset, or no kind
    by which the mean gain over its datasets is greater than ``policy.min_gain`` and no luck. Else PROMOTE. Another kind than
    judgements is not asked for a dataset with fewer queries than that.

    "Luck" is one hypothesis for each kind, that the mean gain over its datasets is no more than 0: a one-sided paired
    randomisation test over the queries of all these datasets together, each with the weight that it has in the mean. Several
    kinds share ``policy.alpha`` (Bonferroni), so a challenger that is no better by any is promoted in at most that share of
    all evaluations; ``max_loss`` can only refuse.

    Datasets that only the challenger has do not count; the parts of a family (`measures.grouped`) count as one. Raising
    any of the challenger's values never lowers the verdict. Raises :class:`UserError` for a policy that would let a
    model win against itself, or that is not a number.
    """
    for name in ("min_gain", "max_loss", "alpha", "latency_budget_ms", "size_budget_mb"):
        value = getattr(policy, name)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"promotion.{name}: {value} is not a finite number of at least 0", code="setting-value")
    against = first_stage if champion is None else "champion"
    opponent = (baseline or {}) if champion is None else champion

    asked = _asked(opponent, challenger, others, policy)
    rejections = [
        reason
        for each in asked or [_Asked("human", Versus(opponent, challenger, policy.measure))]
        for reason in _incomparable(each.versus.opponent, each.versus.challenger, against)
    ]
    if rejections:
        few = _few_queries(others, policy)
        return (
            Decision("REJECT", tuple(rejections), against)
            if asked or not few
            else Decision("HOLD", tuple(few), against)
        )
    losses = [reason for each in asked for reason in each.losses(policy, against)] + _over_budget(evidence, policy)
    if losses:
        return Decision("REJECT", tuple(losses), against)
    shared = replace(policy, alpha=policy.alpha / max(sum(each.shows for each in asked), 1))
    gains = [(each, *_gain(each, shared, against)) for each in asked if each.shows]
    shown = [(each, gain) for each, gain, doubts in gains if not doubts]
    doubts = _leaks(evidence, policy) + _not_measured(evidence, policy)
    doubts += _few_queries({"human": Versus(opponent, challenger, policy.measure)}, policy)
    doubts += [doubt for *_, found in gains for doubt in found if not shown]
    if not gains:
        doubts += [*_few_queries(others, policy), _no_evidence(policy)]
    if doubts or not shown:
        return Decision("HOLD", tuple(doubts), against)
    by_dataset = (
        Reason("dataset_gain", name, f"{each.measure} on {name}: {gain:+.4f}", {"gain": gain})
        for each in asked
        for name, gain in each.gains.items()
    )
    gain, *further = (gain for _, gain in shown)
    reasons = (replace(gain, message=gain.message + _also([each for each, _ in shown])), *further, *by_dataset)
    return Decision("PROMOTE", reasons, against, tuple(each.kind for each, _ in shown))


#: Kind of evidence -> how its measures are named.
BY = {
    "human": "",
    "judge": " by the judge's grades",
    "known_item": " by known items",
    "agreement": " by agreement with the teacher",
}
#: What a verdict rests on that no judgement shows.
_RESTS_ON = {"human": "", "judge": ", on a judge's grades", "known_item": _SYNTHETIC, "agreement": _SYNTHETIC}


@dataclass(frozen=True)
class _Asked:
    """A kind of evidence and what it says; ``shows``: it may show a gain, and not refuse alone."""

    kind: EvidenceName
    versus: Versus
    shows: bool = True

    @property
    def measure(self) -> str:
        return self.versus.measure + BY[self.kind]

    @cached_property
    def groups(self) -> dict[str, list[Part]]:
        return _groups(self.versus.opponent, self.versus.challenger)

    @cached_property
    def gains(self) -> dict[str, float]:
        """Dataset -> mean gain."""
        return {name: significance.mean(parts) for name, parts in self.groups.items() if parts}

    @property
    def mean(self) -> float:
        """The mean gain over the datasets; 0 without any."""
        return math.fsum(self.gains.values()) / len(self.gains) if self.gains else 0.0

    @property
    def over(self) -> str:
        """The name of its dataset, or how many there are."""
        return next(iter(self.gains)) if len(self.gains) == 1 else f"{len(self.gains)} datasets"

    def losses(self, policy: PromoteConfig, against: str) -> list[Reason]:
        """Return the datasets that are too much worse, the worst first."""
        return [
            Reason(
                "dataset_worse",
                name,
                f"{self.measure} on {name} is {-gain:.4f} below {_title(against)}; {policy.max_loss:g} is allowed",
                {"gain": gain, "max_loss": policy.max_loss},
            )
            for name, gain in sorted(self.gains.items(), key=lambda each: (each[1], each[0]))
            if gain < -policy.max_loss - TOLERANCE
        ]


def _asked(
    opponent: Measures, challenger: Measures, others: Mapping[EvidenceName, Versus], policy: PromoteConfig
) -> list[_Asked]:
    """Return the kinds that are asked, the most trusted first, each with the data sets that none before it speaks for."""
    listed = policy.evidence or ORDER
    covered: set[str] = set()
    found = []
    if opponent or challenger:
        found.append(_Asked("human", Versus(opponent, challenger, policy.measure), "human" in listed))
        covered |= {*opponent, *challenger} if "human" in listed else set()
    for level in _LEVELS:
        own = []
        for kind in level:
            versus = others.get(kind)
            names = _sufficient(versus, policy) - covered if versus and kind in listed else set()
            if versus and names:
                own.append(_Asked(kind, versus.of(names)))
        found += own
        covered |= {name for each in own for name in each.versus.opponent}
    return found


def _no_evidence(policy: PromoteConfig) -> Reason:
    text = (
        f"none of the kinds of evidence that may show a gain was measured: {', '.join(policy.evidence)} "
        "(promotion.evidence)"
    )
    return Reason("no_evidence", "", text)


def _sufficient(versus: Versus, policy: PromoteConfig) -> set[str]:
    """Return the data sets of which enough queries were measured for the opponent."""
    return {name for name, values in versus.opponent.items() if len(values) >= max(policy.min_queries, 1)}


def _groups(opponent: Measures, challenger: Measures) -> dict[str, list[Part]]:
    """Return dataset -> differences by query, sorted by query id; without test sets that hold no query."""
    groups = {}
    for name, parts in measures.grouped(sorted(opponent)).items():
        sets = [
            np.array([challenger[part][query_id] - value for query_id, value in sorted(opponent[part].items())])
            for part in parts
            if opponent[part]
        ]
        groups[name] = significance.parts_of(sets) if sets else []
    return groups


def _budgets(evidence: Evidence, policy: PromoteConfig) -> list[tuple[str, str, float, float]]:
    """Return (name, sentence about the value, value, budget) of each budget that the policy has."""
    found = [
        ("latency", "the 95th percentile of reranking 100 passages, in ms,", evidence.latency_p95_ms),
        ("size", "the size of the model, in MB,", evidence.size_mb),
    ]
    budgets = policy.latency_budget_ms, policy.size_budget_mb
    return [(*each, budget) for each, budget in zip(found, budgets, strict=True) if budget > 0]


def _over_budget(evidence: Evidence, policy: PromoteConfig) -> list[Reason]:
    return [
        Reason(
            f"{name}_budget",
            "",
            f"{sentence} is {value:.1f}; the budget is {budget:g}",
            {"value": value, "budget": budget},
        )
        for name, sentence, value, budget in _budgets(evidence, policy)
        if value > budget
    ]


def _not_measured(evidence: Evidence, policy: PromoteConfig) -> list[Reason]:
    return [
        Reason(f"{name}_not_measured", "", f"{sentence} was not measured; the budget is {budget:g}", {"budget": budget})
        for name, sentence, value, budget in _budgets(evidence, policy)
        if math.isnan(value)
    ]


def _leaks(evidence: Evidence, policy: PromoteConfig) -> list[Reason]:
    if evidence.leaks <= policy.max_leaks:
        return []
    text = (
        f"{evidence.leaks} test queries are among the training queries, so the measures prove nothing; the report lists "
        f"them: drop them from the training data (promotion.max_leaks allows {policy.max_leaks})"
    )
    return [Reason("leak", "", text, {"leaks": evidence.leaks, "max_leaks": policy.max_leaks})]


def _few_queries(kinds: Mapping[EvidenceName, Versus], policy: PromoteConfig) -> list[Reason]:
    """Return the data sets with too few queries, the smallest first."""
    counts = {
        name: (sum(len(versus.opponent[part]) for part in parts), kind)
        for kind, versus in kinds.items()
        for name, parts in measures.grouped(sorted(versus.opponent)).items()
    }
    return [
        Reason(
            "few_queries",
            name,
            f"{count} {'test' if kind == 'human' else 'held-out'} queries on {name} prove nothing; the policy asks for "
            f"{policy.min_queries}",
            {"queries": count, "min_queries": policy.min_queries},
        )
        for name, (count, kind) in sorted(counts.items(), key=lambda each: (each[1][0], each[0]))
        if count < max(policy.min_queries, 1)
    ]


def _gain(asked: _Asked, policy: PromoteConfig, against: str) -> tuple[Reason, list[Reason]]:
    """Return the mean gain over the datasets as the reason to promote, and what speaks against that."""
    gains, mean = asked.gains, asked.mean
    numbers: dict[str, float] = {"gain": mean, "min_gain": policy.min_gain, "datasets": len(gains)}
    found = f"mean {asked.versus.measure} gain{BY[asked.kind]} over {_title(against)} is {mean:+.4f} on {asked.over}"
    if mean <= policy.min_gain + TOLERANCE:
        doubt = Reason("no_gain", "", f"{found}; more than {policy.min_gain:g} is needed", numbers)
        return doubt, [doubt] if gains else []
    every = [Part(part.weight / len(gains), part.differences) for parts in asked.groups.values() for part in parts]
    p = significance.randomisation_p(every, greater=True)
    numbers |= {"p": p, "alpha": policy.alpha}
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    if p > policy.alpha:
        text = f"{found}, which may be luck ({shown}); the policy asks for p <= {policy.alpha:g}"
        doubt = Reason("not_significant", "", text, numbers)
        return doubt, [doubt]
    text = f"{found} ({shown}), and none is worse by more than {policy.max_loss:g}{_RESTS_ON[asked.kind]}"
    return Reason("gain", "", text, numbers), []


def _also(shown: Sequence[_Asked]) -> str:
    """Return what the kinds after the first one show, for the sentence about that one: it is read alone."""
    found = [f"{BY[each.kind].strip()} {each.mean:+.4f} on {each.over}" for each in shown[1:]]
    first, last = (_RESTS_ON[each.kind] for each in (shown[0], shown[-1]))
    return f"; {', '.join(found)}{last if last != first else ''}" if found else ""


def on_candidates(values: Measures, first_stage: str) -> dict[str, Mapping[str, float]]:
    """Return the values that were measured on the candidates of a further ``first_stage``; "": of the one that training is by."""
    parts = {name: name.partition(FURTHER) for name in values}
    return {dataset: values[name] for name, (dataset, _, found) in parts.items() if found == first_stage}


def from_measures(table: pa.Table, system: str, measure: str) -> dict[str, dict[str, float]]:
    """Return the values of one ``system`` and ``measure`` out of a measures table (`tables.MEASURES`), for :func:`decide`.

    Empty when the table does not hold them: a missing champion is ``from_measures(...) or None``.
    """
    chosen = pc.and_(pc.equal(table.column("system"), system), pc.equal(table.column("measure"), measure))
    found: dict[str, dict[str, float]] = {}
    columns = (table.filter(chosen).column(name).to_pylist() for name in ("dataset", "query_id", "value"))
    for dataset, query_id, value in zip(*columns, strict=True):
        found.setdefault(dataset, {})[query_id] = value
    return found


def _incomparable(opponent: Measures, challenger: Measures, against: str) -> list[Reason]:
    """Return everything that forbids a comparison."""
    if not opponent or not challenger:
        who = "the challenger" if not challenger else _title(against)
        return [Reason("no_dataset", "", f"{who} was measured on no dataset, so nothing can be compared")]
    reasons = []
    for whose, found in (("the challenger", challenger), (_title(against), opponent)):
        for name, values in sorted(found.items()):
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


def _title(against: str) -> str:
    return {"champion": "the champion", "bm25": "BM25"}.get(against, "the first stage")
