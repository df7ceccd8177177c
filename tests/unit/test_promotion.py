"""The gate's rules by example, and its properties by search."""

from __future__ import annotations

import math
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inranker_flow import schemas
from inranker_flow.config import PromoteConfig
from inranker_flow.errors import UserError
from inranker_flow.promotion import Decision, decide, from_measures

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


@pytest.mark.parametrize(("key", "value"), [("min_gain", -0.1), ("max_loss", -0.1), ("min_gain", math.nan)])
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
    columns = dict(zip(schemas.MEASURES.schema.names, map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table(columns, schema=schemas.MEASURES.schema)
    assert from_measures(table, "phase2", "nDCG@10") == {"d1": {"q1": 0.5}, "d2": {"q1": 0.7}}
    assert (from_measures(table, "champion", "nDCG@10") or None) is None


# Values as measures have them: in [0, 1], often equal.
VALUES = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
POLICIES = st.builds(
    PromoteConfig, min_gain=st.sampled_from([0.0, 0.02]), max_loss=st.sampled_from([0.0, 0.01, 0.5, 2.0]),
    min_queries=st.integers(0, 4),
)  # fmt: skip


@st.composite
def two_models(draw: st.DrawFn) -> tuple[dict, dict]:
    """Measures of two models on the same datasets and queries."""
    shape = draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), min_size=1))
    first, second = ({name: {f"q{i}": draw(VALUES) for i in range(n)} for name, n in shape.items()} for _ in "ab")
    return first, second


@given(two_models(), POLICIES)
def test_a_model_never_beats_itself(models: tuple[dict, dict], policy: PromoteConfig) -> None:
    assert decide(models[0], models[0], policy).verdict == "HOLD"
    assert decide(None, models[0], policy, baseline=models[0]).verdict == "HOLD"


@given(two_models(), POLICIES)
def test_never_both_ways_and_always_a_reason(models: tuple[dict, dict], policy: PromoteConfig) -> None:
    there, back = decide(models[0], models[1], policy), decide(models[1], models[0], policy)
    assert not there.verdict == back.verdict == "PROMOTE"
    assert there.reasons and back.reasons


@given(two_models(), POLICIES, st.data())
def test_a_better_challenger_never_does_worse(
    models: tuple[dict, dict], policy: PromoteConfig, data: st.DataObject
) -> None:
    champion, challenger = models
    better = {
        name: {query: data.draw(st.floats(value, 1)) for query, value in values.items()}
        for name, values in challenger.items()
    }
    before, after = decide(champion, challenger, policy), decide(champion, better, policy)
    assert ORDER[after.verdict] >= ORDER[before.verdict]


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
