"""The gate's rules by example, and its properties by search."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inranker_flow.artifacts import tables
from inranker_flow.config.sections import PromoteConfig
from inranker_flow.errors import UserError
from inranker_flow.evaluation.gate import Decision, Evidence, decide, evidence_of, from_measures
from tests.refusals import refuses

POLICY = PromoteConfig(min_gain=0.0, max_loss=0.01, min_queries=3)
#: Six queries whose differences have the same sign happen by luck once in 2^6: less often than alpha.
QUERIES = 6
ORDER = {"REJECT": 0, "HOLD": 1, "PROMOTE": 2}


def measured(**means: float) -> dict[str, dict[str, float]]:
    return {name: {f"q{i}": mean for i in range(QUERIES)} for name, mean in means.items()}


def codes(decision: Decision) -> list[str]:
    return [reason.code for reason in decision.reasons]


def test_a_better_model_is_promoted_and_says_by_how_much() -> None:
    decision = decide(measured(a=0.5, b=0.5), measured(a=0.6, b=0.52), POLICY)
    assert (decision.verdict, decision.against) == ("PROMOTE", "champion")
    assert decision.reasons[0].numbers["gain"] == pytest.approx(0.06)
    assert {r.dataset: round(r.numbers["gain"], 9) for r in decision.reasons[1:]} == {"a": 0.1, "b": 0.02}


def test_the_worst_dataset_is_named_first_whatever_it_is_called() -> None:
    champion = measured(a=0.5, b=0.5, c=0.5, d=0.5, e=0.5)
    worse = decide(champion, measured(a=0.47, b=0.9, c=0.1, d=0.3, e=0.3), POLICY)
    assert [each.dataset for each in worse.reasons] == ["c", "d", "e", "a"], "of equal ones by name"
    assert worse == decide(dict(reversed(champion.items())), measured(e=0.3, d=0.3, c=0.1, b=0.9, a=0.47), POLICY)
    few = {"a": {f"q{i}": 0.5 for i in range(4)}, "b": {"q0": 0.5}, "c": {f"q{i}": 0.5 for i in range(2)}}
    held = decide(few, few, PromoteConfig(min_queries=5))
    assert [each.dataset for each in held.reasons if each.code == "few_queries"] == ["b", "c", "a"]


def test_the_first_model_must_beat_bm25() -> None:
    better = decide(None, measured(a=0.6), POLICY, baseline=measured(a=0.5))
    worse = decide(None, measured(a=0.4), POLICY, baseline=measured(a=0.5))
    assert (better.verdict, better.against, worse.verdict) == ("PROMOTE", "bm25", "REJECT")
    assert "BM25" in worse.reasons[0].message


def test_with_a_champion_bm25_is_not_the_opponent() -> None:
    decision = decide(measured(a=0.7), measured(a=0.6), POLICY, baseline=measured(a=0.1))
    assert (decision.verdict, decision.against, codes(decision)) == ("REJECT", "champion", ["dataset_worse"])


@pytest.mark.parametrize(
    ("champion", "challenger", "verdict", "code"),
    [
        (measured(a=0.5), {"a": {**measured(a=0.9)["a"], "q1": math.nan}}, "REJECT", "not_finite"),
        (measured(a=0.5), {"a": {**measured(a=0.9)["a"], "q1": math.inf}}, "REJECT", "not_finite"),
        ({"a": {**measured(a=0.1)["a"], "q1": math.nan}}, measured(a=0.5), "REJECT", "not_finite"),
        (measured(a=0.5, b=0.5), measured(a=0.9), "REJECT", "dataset_lost"),
        (measured(a=0.5), {"a": {"q0": 0.9, "q1": 0.9, "q2": 0.9}}, "REJECT", "queries_differ"),
        (measured(a=0.5), {"a": {"q0": 0.9, "q1": 0.9, "q2": 0.9, "x": 0.9}}, "REJECT", "queries_differ"),
        (measured(a=0.5), {"a": {**measured(a=0.9)["a"], "more": 0.9}}, "REJECT", "queries_differ"),
        (measured(a=0.5, b=0.5), measured(a=0.9, b=0.48), "REJECT", "dataset_worse"),
        (measured(a=0.5), {}, "REJECT", "no_dataset"),
        ({}, measured(a=0.5), "REJECT", "no_dataset"),
        ({"a": {}}, {"a": {}}, "HOLD", "few_queries"),
        (measured(a=0.5), measured(a=0.5), "HOLD", "no_gain"),
        (measured(a=0.5, b=0.5), measured(a=0.505, b=0.495), "HOLD", "no_gain"),
    ],
)
def test_rules(champion: dict, challenger: dict, verdict: str, code: str) -> None:
    decision = decide(champion, challenger, POLICY)
    assert (decision.verdict, codes(decision)) == (verdict, [code])
    assert decision.reasons[0].message


def test_no_opponent_at_all_is_a_rejection_not_a_win() -> None:
    assert codes(decide(None, measured(a=1.0), POLICY)) == ["no_dataset"]


def test_limits_are_exact_up_to_rounding() -> None:
    policy = replace(POLICY, min_gain=0.1, max_loss=0.01)
    assert decide(measured(a=0.5), measured(a=0.6), policy).verdict == "HOLD"  # 0.6 - 0.5 is not more than 0.1
    assert decide(measured(a=0.5), measured(a=0.6001), policy).verdict == "PROMOTE"
    assert decide(measured(a=0.51), measured(a=0.50), policy).verdict == "HOLD"  # a loss of 0.01 is allowed
    assert decide(measured(a=0.51), measured(a=0.4999), policy).verdict == "REJECT"


def test_a_dataset_only_the_challenger_has_does_not_count() -> None:
    decision = decide(measured(a=0.5), measured(a=0.6, new=0.0), POLICY)
    assert (decision.verdict, decision.reasons[0].numbers["datasets"]) == ("PROMOTE", 1)


def by_query(*values: float) -> dict[str, dict[str, float]]:
    return {"a": {f"q{i:02}": value for i, value in enumerate(values)}}


def test_a_gain_that_may_be_luck_is_held() -> None:
    champion = by_query(*[0.5] * 20)
    lucky = decide(champion, by_query(*[0.6] * 11, *[0.42] * 9), POLICY)
    assert (lucky.verdict, codes(lucky)) == ("HOLD", ["not_significant"])
    assert lucky.reasons[0].numbers["p"] > 0.05 and "may be luck" in lucky.reasons[0].message
    steady = decide(champion, by_query(*[0.52] * 18, *[0.49] * 2), POLICY)
    assert steady.verdict == "PROMOTE" and steady.reasons[0].numbers["p"] < 0.001
    assert decide(champion, by_query(*[0.6] * 11, *[0.42] * 9), replace(POLICY, alpha=1.0)).verdict == "PROMOTE"


def test_p_is_of_all_datasets_together_each_with_its_weight_in_the_mean() -> None:
    from scipy import stats

    random = np.random.default_rng(3)
    gains = {"large": random.normal(0.01, 0.1, 9), "small": random.normal(0.06, 0.1, 3)}
    champion = {name: {f"q{i}": 0.5 for i in range(values.size)} for name, values in gains.items()}
    challenger = {name: {f"q{i}": 0.5 + value for i, value in enumerate(values)} for name, values in gains.items()}
    weighted = np.concatenate([values / values.size / 2 for values in gains.values()])
    expected = stats.permutation_test((weighted,), np.sum, permutation_type="samples", alternative="greater",
                                      n_resamples=10_000).pvalue  # fmt: skip
    decision = decide(champion, challenger, replace(POLICY, max_loss=1.0))
    assert decision.reasons[0].numbers["p"] == pytest.approx(expected, abs=1e-12)


def test_few_queries_are_said_beside_what_they_cannot_show() -> None:
    assert codes(decide(by_query(0.5), by_query(0.9), POLICY)) == ["few_queries", "not_significant"]


def test_the_parts_of_cqadupstack_are_one_dataset() -> None:
    champion = measured(**{"cqadupstack-a": 0.5, "cqadupstack-b": 0.5, "other": 0.5})
    challenger = measured(**{"cqadupstack-a": 0.48, "cqadupstack-b": 0.56, "other": 0.54})
    decision = decide(champion, challenger, POLICY)  # a alone lost 0.02, the family won 0.02
    assert decision.verdict == "PROMOTE" and decision.reasons[0].numbers["datasets"] == 2
    assert decision.reasons[0].numbers["gain"] == pytest.approx((0.02 + 0.04) / 2)
    assert [reason.dataset for reason in decision.reasons[1:]] == ["cqadupstack", "other"]
    lost = decide(champion, {name: values for name, values in challenger.items() if name != "cqadupstack-b"}, POLICY)
    assert (lost.verdict, codes(lost), lost.reasons[0].dataset) == ("REJECT", ["dataset_lost"], "cqadupstack-b")
    few = decide(champion, challenger, replace(POLICY, min_queries=2 * QUERIES))
    assert [reason.dataset for reason in few.reasons] == ["other"], "the family has the queries of its parts"


@pytest.mark.parametrize(
    ("policy", "evidence", "verdict", "code"),
    [
        ({}, Evidence(leaks=1), "HOLD", "leak"),
        ({"max_leaks": 1}, Evidence(leaks=2), "HOLD", "leak"),
        ({"max_leaks": 2}, Evidence(leaks=2), "PROMOTE", "gain"),
        ({"latency_budget_ms": 50}, Evidence(latency_p95_ms=50.1), "REJECT", "latency_budget"),
        ({"latency_budget_ms": 50}, Evidence(latency_p95_ms=50.0), "PROMOTE", "gain"),
        ({"latency_budget_ms": 50}, Evidence(), "HOLD", "latency_not_measured"),
        ({"size_budget_mb": 250}, Evidence(size_mb=900), "REJECT", "size_budget"),
        ({"size_budget_mb": 250}, Evidence(size_mb=240), "PROMOTE", "gain"),
        ({"size_budget_mb": 250}, Evidence(), "HOLD", "size_not_measured"),
        ({}, Evidence(latency_p95_ms=1e9, size_mb=1e9), "PROMOTE", "gain"),
    ],
)
def test_leaks_and_budgets(policy: dict, evidence: Evidence, verdict: str, code: str) -> None:
    decision = decide(measured(a=0.5), measured(a=0.6), replace(POLICY, **policy), evidence=evidence)
    assert (decision.verdict, decision.reasons[0].code) == (verdict, code)


def test_a_worse_model_is_rejected_even_where_the_evidence_leaks() -> None:
    assert decide(measured(a=0.5), measured(a=0.3), POLICY, evidence=Evidence(leaks=3)).verdict == "REJECT"


def test_evidence_is_read_from_the_summary() -> None:
    summary = {"leaks": {"queries": 2}, "models": {"phase2": {"latency_p95_ms": 12.5, "size_mb": 240}, "phase1": {}}}
    assert evidence_of(summary) == Evidence(2, 12.5, 240.0)
    assert evidence_of(summary, "phase1").leaks == 2 and math.isnan(evidence_of(summary, "phase1").size_mb)
    with refuses("artifact-old"):
        evidence_of({"models": {}})


def equal_systems(random: np.random.Generator, queries: int) -> tuple[dict, dict]:
    """Two systems that are equally good: nDCG-like values with level queries, which one is called which is a coin's."""
    first = random.beta(2, 2, queries)
    second = np.where(random.random(queries) < 0.4, first, np.clip(first + random.laplace(0, 0.12, queries), 0, 1))
    swap = random.random(queries) < 0.5
    return by_query(*np.where(swap, second, first)), by_query(*np.where(swap, first, second))


def test_of_two_equal_systems_one_is_promoted_no_more_often_than_alpha() -> None:
    """1,000 evaluations of 50 queries. Without the test of significance every second one would promote."""
    random = np.random.default_rng(20_240_106)
    draws = [equal_systems(random, 50) for _ in range(1000)]
    rate = {}
    for alpha in (0.05, 1.0):
        policy = replace(POLICY, alpha=alpha)
        rate[alpha] = sum(decide(*draw, policy).verdict == "PROMOTE" for draw in draws) / len(draws)
    error = math.sqrt(0.05 * 0.95 / len(draws))
    assert 0.05 - 3 * error <= rate[0.05] <= 0.05 + 3 * error
    assert rate[1.0] > 0.4


@pytest.mark.parametrize(
    ("key", "value"),
    [("min_gain", -0.1), ("max_loss", -0.1), ("min_gain", math.nan), ("alpha", math.nan), ("size_budget_mb", math.inf)],
)
def test_a_policy_that_lets_a_model_beat_itself_is_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"promotion.{key}"):
        decide(measured(a=0.5), measured(a=0.5), replace(POLICY, **{key: value}))


def test_from_measures_takes_one_system_and_measure() -> None:
    rows = [
        ("d1", "phase2", "nDCG@10", "q1", 0.5),
        ("d1", "phase2", "RR@10", "q1", 0.9),
        ("d1", "bm25", "nDCG@10", "q1", 0.1),
        ("d2", "phase2", "nDCG@10", "q1", 0.7),
    ]
    columns = dict(zip(tables.MEASURES.schema.names, map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table(columns, schema=tables.MEASURES.schema)
    assert from_measures(table, "phase2", "nDCG@10") == {"d1": {"q1": 0.5}, "d2": {"q1": 0.7}}
    assert (from_measures(table, "champion", "nDCG@10") or None) is None


# Values as measures have them: in [0, 1], often equal.
VALUES = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
POLICIES = st.builds(
    PromoteConfig, min_gain=st.sampled_from([0.0, 0.02]), max_loss=st.sampled_from([0.0, 0.01, 0.5, 2.0]),
    min_queries=st.integers(0, 4), alpha=st.sampled_from([0.05, 0.3, 1.0]),
)  # fmt: skip
EVIDENCE = st.builds(Evidence, leaks=st.integers(0, 1))


@st.composite
def two_models(draw: st.DrawFn) -> tuple[dict, dict]:
    """Measures of two models on the same datasets and queries."""
    names = st.sampled_from(["a", "b", "cqadupstack-a", "cqadupstack-b"])
    shape = draw(st.dictionaries(names, st.integers(1, 6), min_size=1))
    first, second = ({name: {f"q{i}": draw(VALUES) for i in range(n)} for name, n in shape.items()} for _ in "ab")
    return first, second


@given(two_models(), POLICIES, EVIDENCE)
def test_a_model_never_beats_itself(models: tuple[dict, dict], policy: PromoteConfig, evidence: Evidence) -> None:
    assert decide(models[0], models[0], policy, evidence=evidence).verdict == "HOLD"
    assert decide(None, models[0], policy, baseline=models[0]).verdict == "HOLD"


@given(two_models(), POLICIES)
def test_never_both_ways_and_always_a_reason(models: tuple[dict, dict], policy: PromoteConfig) -> None:
    there, back = decide(models[0], models[1], policy), decide(models[1], models[0], policy)
    assert not there.verdict == back.verdict == "PROMOTE"
    assert there.reasons and back.reasons


@settings(max_examples=200, deadline=None)
@given(two_models(), POLICIES, EVIDENCE, st.data())
def test_a_better_challenger_never_does_worse(
    models: tuple[dict, dict], policy: PromoteConfig, evidence: Evidence, data: st.DataObject
) -> None:
    """Exactly, the test of significance included: see `significance.randomisation_p`."""
    champion, challenger = models
    better = {
        name: {query: data.draw(st.floats(value, 1)) for query, value in values.items()}
        for name, values in challenger.items()
    }
    before, after = (decide(champion, each, policy, evidence=evidence) for each in (challenger, better))
    assert ORDER[after.verdict] >= ORDER[before.verdict]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.5), POLICIES)
def test_a_better_challenger_never_does_worse_on_many_queries(seed: int, by: float, policy: PromoteConfig) -> None:
    """Where p is near alpha and its sign vectors are a sample."""
    random = np.random.default_rng(seed)
    champion = by_query(*random.random(40))
    values = np.array([*champion["a"].values()]) + random.normal(0.03, 0.12, 40)
    before, *steps = (
        ORDER[decide(champion, by_query(*(values + by * (np.arange(40) < raised))), policy).verdict]
        for raised in (0, 1, 5, 40)
    )
    assert [before, *steps] == sorted([before, *steps])


@given(two_models(), POLICIES, EVIDENCE)
def test_better_evidence_never_does_worse(models: tuple[dict, dict], policy: PromoteConfig, evidence: Evidence) -> None:
    clean = decide(*models, policy)
    assert ORDER[clean.verdict] >= ORDER[decide(*models, policy, evidence=evidence).verdict]


@settings(max_examples=50)
@given(two_models(), POLICIES, st.data())
def test_a_missing_dataset_query_or_number_always_rejects(
    models: tuple[dict, dict], policy: PromoteConfig, data: st.DataObject
) -> None:
    champion, challenger = models
    name = data.draw(st.sampled_from(sorted(challenger)))
    without = {key: values for key, values in challenger.items() if key != name}
    assert decide(champion, without, policy).verdict == "REJECT"
    spoilt = {**challenger, name: {**challenger[name], "q0": math.nan}}
    assert decide(champion, spoilt, policy).verdict == "REJECT"
    assume(len(challenger[name]) > 1)
    fewer = {**challenger, name: {key: value for key, value in challenger[name].items() if key != "q0"}}
    assert decide(champion, fewer, policy).verdict == "REJECT"
