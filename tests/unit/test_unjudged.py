"""Evidence where nobody has judged anything: queries that are held out, what is measured by them, and what it decides."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inranker_flow import profiles
from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.language_model import JudgeConfig
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, EvaluateConfig, GenerateConfig, PromoteConfig
from inranker_flow.evaluation.gate import Decision, Versus, decide
from inranker_flow.evaluation.unjudged import from_evidence
from inranker_flow.generation import held_out
from inranker_flow.model_registry import model_card
from inranker_flow.report.page import render
from inranker_flow.stages import promote
from inranker_flow.stages.generate_queries import generate_queries
from inranker_flow.stages.retrieve import retrieve
from tests import models
from tests.generation_server import GenerationServer
from tests.promoting import training
from tests.refusals import refuses
from tests.unit.test_evaluation import World, make_candidates, world  # noqa: F401 - a fixture

# --- which queries are held out


def sentence(seed: int, words: int = 40) -> str:
    random = np.random.default_rng(seed)
    return " ".join(f"w{number}" for number in random.integers(0, 5000, words))


def asked(documents: Mapping[str, str], each: int = 2) -> pa.Table:
    """Queries of words of each document, in the order of the documents."""
    rows = [
        (f"{name}#q{number}", " ".join(text.split()[5 * number : 5 * number + 5]), "synthetic", name)
        for name, text in documents.items()
        for number in range(each)
    ]
    return pa.table(
        dict(zip(tables.QUERIES.schema.names, map(list, zip(*rows, strict=True)), strict=True)), tables.QUERIES.schema
    )


def sides(queries: pa.Table, column: str = "source_doc_id") -> tuple[set[str], set[str]]:
    """Values of a column of the queries that are held out, and of the others."""
    rows = queries.to_pylist()
    held = {row[column] for row in rows if row["origin"] == held_out.ORIGIN}
    return held, {row[column] for row in rows if row["origin"] != held_out.ORIGIN}


def test_whole_documents_are_held_out() -> None:
    documents = {f"d{number}": sentence(number) for number in range(100)}
    queries = held_out.split(asked(documents), 30, documents, {}, 0.9)
    held, trained = sides(queries)
    assert len(held) == 15 and not held & trained
    assert queries.column("origin").to_pylist().count("held_out") == 30


def test_what_is_nearly_the_same_stays_together() -> None:
    documents = {f"d{number}": sentence(number) for number in range(100)}
    copies = {f"copy of {name}": f"{text} and a few words more" for name, text in [*documents.items()][:50]}
    held, trained = sides(held_out.split(asked(documents | copies), 60, documents | copies, {}, 0.9))
    groups = [{name, f"copy of {name}"} for name in [*documents][:50]]
    assert held and all(group <= held or group <= trained for group in groups)


def test_documents_of_which_the_same_is_asked_stay_together() -> None:
    documents = {f"d{number}": sentence(number) for number in range(100)}
    rows = asked(documents).to_pylist()
    for place, row in enumerate(rows):
        # The same of d0 and d1, of d2 and d3, ...
        row["text"] = f"what is the longest river of region {place // 4}"
    held, trained = sides(held_out.split(pa.Table.from_pylist(rows, tables.QUERIES.schema), 40, documents, {}, 0.9))
    pairs = [{f"d{number}", f"d{number + 1}"} for number in range(0, 100, 2)]
    assert held and all(pair <= held or pair <= trained for pair in pairs)


def test_the_passages_of_a_document_stay_together() -> None:
    passages = {f"d{number}-{part}": sentence(10 * number + part) for number in range(50) for part in range(3)}
    document_of = {name: name.split("-")[0] for name in passages}
    held, trained = sides(held_out.split(asked(passages, 1), 30, passages, document_of, 0.9))
    assert held and not {document_of[name] for name in held} & {document_of[name] for name in trained}


def test_a_group_as_large_as_the_corpus_trains() -> None:
    documents = {f"d{number}": f"{sentence(0)} {sentence(number, 3)}" for number in range(100)}
    assert sides(held_out.split(asked(documents), 30, documents, {}, 0.9))[0] == set()


def test_the_choice_depends_on_texts_alone() -> None:
    documents = {f"d{number}": sentence(number) for number in range(200)}
    chosen = sides(held_out.split(asked(documents), 40, documents, {}, 0.9), "text")[0]
    renamed = {f"other {number}": text for number, text in enumerate([*documents.values()][::-1])}
    assert sides(held_out.split(asked(renamed), 40, renamed, {}, 0.9), "text")[0] == chosen
    grown = documents | {f"new {number}": sentence(1000 + number) for number in range(20)}
    again = sides(held_out.split(asked(grown), 40, grown, {}, 0.9), "text")[0]
    assert len(chosen & again) > len(chosen) / 2, "most of a corpus that has grown is what it was"


def test_a_small_corpus_says_how_many_it_can(caplog: pytest.LogCaptureFixture) -> None:
    documents = {f"d{number}": sentence(number) for number in range(12)}
    with caplog.at_level(logging.WARNING):
        queries = held_out.split(asked(documents, 1), 200, documents, {}, 0.9)
    assert queries.column("origin").to_pylist().count("held_out") == 2
    assert "2 of the 200 queries that evaluation.synthetic_queries asks for" in caplog.text


# --- the stages


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path


CROPS = GenerateConfig(backend="crop", crop="span", held_out=10)
SEARCH = RetrieveConfig(depth=10, test_depth=5, negatives=2)


def prepared(place: Path, queries: Mapping[str, tuple[str, str]] = {}) -> Path:
    return models.collection(place / "collection", {f"d{n}": sentence(n) for n in range(60)}, dict(queries))


def rows(table: tables.Table, folder: Path) -> list[dict]:
    return list(tables.read(table, folder).to_pylist())


def test_held_out_queries_are_searched_and_never_paired(place: Path) -> None:
    collection = prepared(place)
    stats = generate_queries(CROPS, collection, place / "queries")
    assert (stats.held_out, stats.queries) == (10, 50)
    held, trained = sides(tables.read(tables.QUERIES, place / "queries"), "query_id")
    found = retrieve(SEARCH, collection, place / "queries", place / "candidates")
    assert (found.held_out_queries, found.train_queries, found.test_queries) == (10, 50, 0)
    folder = place / "candidates"
    assert {row["query_id"] for row in rows(tables.PAIRS, folder)} == trained
    assert {row["query_id"] for row in rows(tables.QUERIES, folder)} == trained
    assert {row["query_id"] for row in rows(tables.QUERIES, folder / "held_out")} == held
    assert {row["query_id"] for row in rows(tables.RUN, folder / "held_out")} == held
    assert rows(tables.RUN, folder) == []


@pytest.mark.parametrize(("for_", "expected"), [("unjudged", 0), ("all", 10)])
def test_a_target_with_test_queries_holds_out_where_it_is_asked_to(place: Path, for_: str, expected: int) -> None:
    collection = prepared(place, {"t1": ("test", sentence(0, 3))})
    config = replace(CROPS, held_out_for=for_)  # type: ignore[arg-type]
    assert generate_queries(config, collection, place / "queries").held_out == expected
    retrieve(SEARCH, collection, place / "queries", place / "candidates")
    assert (place / "candidates" / "held_out").is_dir() == bool(expected)


def test_queries_that_people_asked_are_held_out_without_a_known_item(place: Path) -> None:
    log = {f"l{number}": ("log", " ".join(sentence(number).split()[7:13])) for number in range(20)}
    corpus = CorpusConfig(uri="x", name="toy", queries="log")
    stats = generate_queries(CROPS, prepared(place, log), place / "queries", corpus=corpus)
    held = [row for row in rows(tables.QUERIES, place / "queries") if row["origin"] == "held_out"]
    assert (stats.held_out, stats.queries) == (4, 16) == (len(held), 20 - len(held))
    assert all(row["source_doc_id"] is None for row in held)


# --- what is measured


def hold_out(candidates: Path, asked: Mapping[str, tuple[str, str | None, Sequence[str]]], dataset: str) -> None:
    """query id -> text, its passage, candidates in the first stage's order."""
    folder = candidates / "held_out"
    columns = {
        "query_id": list(asked), "text": [text for text, *_ in asked.values()], "origin": ["held_out"] * len(asked),
        "source_doc_id": [source for _, source, _ in asked.values()],
    }  # fmt: skip
    tables.write(tables.QUERIES, folder / "queries.parquet", columns)
    found = {name: [(doc, float(-place)) for place, doc in enumerate(docs)] for name, (*_, docs) in asked.items()}
    make_candidates(folder, dataset, found)
    (folder / "manifest.json").unlink()
    write_manifest(candidates, dataset=dataset, stage="retrieve")


def evidence(world: World, kind: str, system: str, measure: str = "nDCG@10") -> dict[str, float]:  # noqa: F811
    table = tables.read(tables.EVIDENCE, world.tmp / "evaluation")
    return from_evidence(table, kind, system, measure).get("training only", {})  # type: ignore[arg-type]


def test_known_items_and_agreement_are_measured_beside_judgements(world: World) -> None:  # noqa: F811
    """The passages are vase 0 to 3; the teacher's scores of them: 1, 0, 30, 0."""
    hold_out(
        world.candidates[2],
        {
            "h1": ("which", "d2", ["d0", "d1", "d2"]),
            "h2": ("asked", None, ["d1", "d0"]),
            "h3": ("flat", "d1", ["d1", "d3"]),
        },
        "training only",
    )
    world.rankers["big/teacher"].true_logits["vase 0"] = 1.0  # type: ignore[index]
    stats = world.evaluate()
    assert stats.held_out == 3
    first, third = 1.0, 1 / math.log2(4)
    assert evidence(world, "known_item", "bm25") == pytest.approx({"h1": third, "h3": first})
    assert evidence(world, "known_item", "phase2") == pytest.approx({"h1": first, "h3": first}), "vase 2, 1, 0"
    assert evidence(world, "known_item", "bm25", "RR@10") == pytest.approx({"h1": 1 / 3, "h3": 1.0})
    # The teacher's order is vase 2, 0, 1 with gains 1, 1/30, 0; it does not tell the candidates of h3 apart.
    best = 1 + 1 / 30 / math.log2(3)
    assert evidence(world, "agreement", "bm25") == pytest.approx(
        {"h1": (1 / 30 + 1 / math.log2(4)) / best, "h2": 1 / math.log2(3)}
    )
    assert evidence(world, "agreement", "phase2")["h1"] == pytest.approx((1 + 1 / 30 / 2) / best)
    assert evidence(world, "agreement", "phase2", "tau")["h1"] == pytest.approx(1 / 3)
    assert evidence(world, "agreement", "phase1", "tau")["h1"] == 0, "it scores them alike"
    assert not evidence(world, "agreement", "teacher")
    summary = world.summary()
    assert set(summary["datasets"]) == {"vases", "lamps"} and set(summary["unjudged"]) == {"training only"}
    found = summary["unjudged"]["training only"]
    assert (found["queries"], found["known_items"], found["leaked"]) == (3, 2, 0)
    gains = {system: each["means"]["nDCG@10"] - (third + first) / 2 for system, each in found["known_item"].items()}
    assert found["kept"] == pytest.approx({name: gains[name] / gains["teacher"] for name in ("phase1", "phase2")})
    page = (world.tmp / "out" / "report.html").read_text()
    assert "Without judgements" in page and "nDCG@10, known items" in page and "tau, agreement with the teacher" in page


def test_where_nobody_has_judged_anything_the_page_and_the_card_say_what_was_measured(world: World) -> None:  # noqa: F811
    hold_out(world.candidates[2], {"h1": ("which", "d2", ["d0", "d1", "d2"])}, "training only")
    stats = world.evaluate(collections=world.collections[1:2], candidates=world.candidates[2:])
    assert (stats.datasets, stats.skipped, stats.held_out) == (0, 0, 1)
    summary = world.summary()
    page = render(summary)
    assert "Nobody has judged a test query here." in page and "Nothing was measured" not in page
    card = model_card.write(model_card.Told("inranker", "phase2", training(), summary))
    assert "no dataset with judged test queries" in card and "**without judgements**, by known items" in card


def test_judged_measures_are_the_same_with_and_without_held_out_queries(world: World) -> None:  # noqa: F811
    world.evaluate()
    before, average = world.values("phase2"), world.summary()["average"]
    assert world.summary()["unjudged"] == {}
    hold_out(world.candidates[2], {"h1": ("which", "d2", ["d0", "d1", "d2"])}, "training only")
    world.evaluate()
    assert (world.values("phase2"), world.summary()["average"]) == (before, average)


def test_a_held_out_query_that_another_target_trains_on_is_left_out(world: World) -> None:  # noqa: F811
    asked = {"h1": ("which", "d2", ["d0", "d2"]), "h2": ("another question", "d1", ["d1", "d0"])}
    hold_out(world.candidates[2], asked, "training only")
    stats = world.evaluate()
    assert (stats.held_out, stats.leaks) == (1, 0), "no judged query leaked, so nothing is held"
    assert set(evidence(world, "known_item", "bm25")) == {"h1"}
    assert world.summary()["unjudged"]["training only"]["leaked"] == 1


def test_without_a_teacher_there_is_no_agreement(world: World) -> None:  # noqa: F811
    hold_out(world.candidates[2], {"h1": ("which", "d2", ["d0", "d1", "d2"])}, "training only")
    world.evaluate(EvaluateConfig(measures=("nDCG@10",), teacher=False))
    assert "agreement" not in world.summary()["unjudged"]["training only"]
    assert evidence(world, "known_item", "phase2") and not evidence(world, "agreement", "phase2")


def test_a_judge_grades_the_queries_that_nobody_has_judged_and_the_gate_asks_it(world: World) -> None:  # noqa: F811
    """It finds vase 2 alone of use; of the data sets that people have judged it is not asked by the gate."""
    asked = {f"h{number}": (f"which one {number}", None, ["d0", "d1", "d2"]) for number in range(8)}
    hold_out(world.candidates[2], asked, "training only")

    def answer(prompt: str) -> str:
        return f"##final score: {3 if 'vase 2' in prompt or 'lamp 1' in prompt else 0}"

    with GenerationServer(model="judge-t5", answer=answer) as server:
        judge = JudgeConfig("judge-t5", backend="openai", endpoint=server.url)
        config = EvaluateConfig(measures=("nDCG@10",), judge=judge)
        stats = world.evaluate(config)
    summary = world.summary()
    found = summary["judge"]["datasets"]
    assert set(found) == {"vases", "lamps", "training only"} and found["training only"]["agreement"] is None
    means = {system: each["means"]["nDCG@10"] for system, each in summary["unjudged"]["training only"]["judge"].items()}
    assert means == pytest.approx({"bm25": 0.5, "phase1": 0.5, "phase2": 1.0, "teacher": 1.0})
    assert stats.metrics["judge nDCG@10/training only/phase2"] == 1.0
    page = (world.tmp / "out" / "report.html").read_text()
    assert page.count("nDCG@10, the judge&#39;s grades") == 3 and "the judge agrees with people at kappa" in page
    policy = PromoteConfig(measure="nDCG@10", min_queries=3)
    others = promote._others(policy, world.tmp / "evaluation", summary, "bm25")
    decision = decide(None, {}, policy, baseline={}, others={"judge": others["judge"].of({"training only"})})
    assert (decision.verdict, decision.shown_by) == ("PROMOTE", ("judge",)) and "known_item" not in others
    assert "on a judge's grades" in decision.reasons[0].message


# --- what it decides

POLICY = PromoteConfig(min_queries=3)


def values(mean: float, *names: str, queries: int = 8) -> dict[str, dict[str, float]]:
    return {name: {f"q{number}": mean for number in range(queries)} for name in names}


def versus(theirs: float, ours: float, *names: str, queries: int = 8) -> Versus:
    return Versus(values(theirs, *names, queries=queries), values(ours, *names, queries=queries), "nDCG@10")


def codes(decision: Decision) -> list[str]:
    return [each.code for each in decision.reasons]


def test_a_first_model_is_promoted_on_synthetic_evidence() -> None:
    found = {"known_item": versus(0.5, 0.6, "a"), "agreement": versus(0.5, 0.7, "a")}
    decision = decide(None, {}, POLICY, baseline={}, others=found)  # type: ignore[arg-type]
    assert (decision.verdict, decision.shown_by) == ("PROMOTE", ("known_item", "agreement"))
    assert decision.reasons[0].message.endswith(", on synthetic evidence; by agreement with the teacher +0.2000 on a")


@pytest.mark.parametrize(("known", "agreement"), [(0.4, 0.9), (0.9, 0.4)])
def test_kinds_that_contradict_each_other_promote_nothing(known: float, agreement: float) -> None:
    found = {"known_item": versus(0.5, known, "a"), "agreement": versus(0.5, agreement, "a")}
    decision = decide(None, {}, POLICY, baseline={}, others=found)  # type: ignore[arg-type]
    assert (decision.verdict, codes(decision)) == ("REJECT", ["dataset_worse"])


def test_judgements_go_before_other_evidence_of_a_data_set_and_keep_their_veto() -> None:
    better = {"known_item": versus(0.1, 0.9, "a"), "agreement": versus(0.1, 0.9, "a")}
    assert decide(values(0.5, "a"), values(0.5, "a"), POLICY, others=better).verdict == "HOLD", "not asked for a"
    elsewhere = {"known_item": versus(0.1, 0.9, "b")}
    decision = decide(values(0.5, "a"), values(0.5, "a"), POLICY, others=elsewhere)
    assert (decision.verdict, decision.shown_by) == ("PROMOTE", ("known_item",))
    assert decide(values(0.5, "a"), values(0.4, "a"), POLICY, others=elsewhere).verdict == "REJECT"
    both = decide(values(0.5, "a"), values(0.6, "a"), POLICY, others=elsewhere)
    assert both.reasons[0].message.endswith("; by known items +0.8000 on b, on synthetic evidence"), "it is read alone"
    asked = replace(POLICY, evidence=("known_item",))
    assert decide(values(0.5, "a"), values(0.5, "a"), asked, others=better).verdict == "PROMOTE"
    assert decide(values(0.5, "a"), values(0.4, "a"), asked, others=better).verdict == "REJECT"


def test_a_judge_goes_before_known_items() -> None:
    found = {"judge": versus(0.5, 0.6, "a"), "known_item": versus(0.5, 0.1, "a")}
    decision = decide(None, {}, POLICY, baseline={}, others=found)  # type: ignore[arg-type]
    assert (decision.verdict, decision.shown_by) == ("PROMOTE", ("judge",))
    assert "on a judge's grades" in decision.reasons[0].message


def test_the_policy_names_what_may_decide() -> None:
    found = {"known_item": versus(0.5, 0.9, "b"), "agreement": versus(0.5, 0.9, "b")}
    human = replace(POLICY, evidence=("human",))
    held = decide(values(0.5, "a"), values(0.5, "a"), human, others=found)  # type: ignore[arg-type]
    assert (held.verdict, codes(held)) == ("HOLD", ["no_gain"])
    nothing = decide(values(0.5, "a"), values(0.9, "a"), replace(POLICY, evidence=("judge",)))
    assert (nothing.verdict, codes(nothing)) == ("HOLD", ["no_evidence"])


def test_too_few_held_out_queries_decide_nothing() -> None:
    few = {"known_item": versus(0.5, 0.9, "b", queries=2)}
    alone = decide(None, {}, POLICY, baseline={}, others=few)  # type: ignore[arg-type]
    assert (alone.verdict, codes(alone)) == ("HOLD", ["few_queries"])
    assert "2 held-out queries on b" in alone.reasons[0].message
    beside = decide(values(0.5, "a"), values(0.9, "a"), POLICY, others=few)  # type: ignore[arg-type]
    assert (beside.verdict, beside.shown_by) == ("PROMOTE", ("human",))


def test_kinds_share_alpha() -> None:
    """Six equal gains happen by luck once in 64."""
    policy = replace(POLICY, alpha=0.02)
    alone = decide(values(0.5, "a", queries=6), values(0.6, "a", queries=6), policy)
    flat = {"known_item": versus(0.5, 0.5, "b", queries=6)}
    shared = decide(values(0.5, "a", queries=6), values(0.6, "a", queries=6), policy, others=flat)
    assert (alone.verdict, shared.verdict) == ("PROMOTE", "HOLD")


VALUES = st.floats(0, 1)


@st.composite
def mixed(draw: st.DrawFn) -> tuple[dict, dict, dict[str, tuple[dict, dict]]]:
    def side(names: str, count: int) -> dict[str, dict[str, float]]:
        return {name: {f"q{number}": draw(VALUES) for number in range(count)} for name in names}

    count = draw(st.integers(3, 7))
    human = draw(st.sampled_from(["", "a", "ab"]))
    kinds = {
        kind: (side("bc", count), side("bc", count))
        for kind in ("judge", "known_item", "agreement")
        if draw(st.booleans())
    }
    return side(human, count), side(human, count), kinds


@settings(max_examples=100, deadline=None)
@given(mixed(), st.data())
def test_a_better_challenger_never_does_worse_by_any_evidence(found: tuple, data: st.DataObject) -> None:
    champion, challenger, kinds = found

    def better(side: dict) -> dict:
        return {name: {key: data.draw(st.floats(value, 1)) for key, value in own.items()} for name, own in side.items()}

    policy = PromoteConfig(min_queries=3, max_loss=data.draw(st.sampled_from([0.0, 0.1, 0.5])), alpha=0.5)
    others = {kind: Versus(theirs, ours, "nDCG@10") for kind, (theirs, ours) in kinds.items()}
    raised = {kind: Versus(theirs, better(ours), "nDCG@10") for kind, (theirs, ours) in kinds.items()}
    before = decide(champion, challenger, policy, others=others)  # type: ignore[arg-type]
    after = decide(champion, better(challenger), policy, others=raised)  # type: ignore[arg-type]
    order = {"REJECT": 0, "HOLD": 1, "PROMOTE": 2}
    assert before.reasons and order[after.verdict] >= order[before.verdict]
    same = {kind: Versus(each.opponent, each.opponent, "nDCG@10") for kind, each in others.items()}
    assert decide(champion, champion, policy, others=same).verdict != "PROMOTE"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "kind", "setting"),
    [
        ({"evaluation.synthetic_queries": 0}, "known_item", "evaluation.synthetic_queries=0"),
        ({"evaluation.teacher": False}, "agreement", "evaluation.teacher=false"),
        ({}, "judge", "evaluation.judge.checkpoint="),
    ],
)
def test_evidence_that_is_not_measured_is_refused(changes: dict, kind: str, setting: str) -> None:
    with refuses("setting-conflict", kind, setting):
        profiles.load("demo", {"promotion.evidence": [kind], **changes})


def test_the_number_of_held_out_queries_reaches_the_stage_that_writes_them() -> None:
    profile = profiles.load("demo", {"evaluation.synthetic_queries": 50, "evaluation.synthetic_for": "all"})
    assert (profile.generation.held_out, profile.generation.held_out_for) == (50, "all")
