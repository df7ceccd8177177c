"""Evaluation on small collections whose right answers are known by hand or from ir_measures read independently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import log2
from pathlib import Path
from unittest.mock import patch

import ir_measures
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.language_model import JudgeConfig
from inranker_flow.config.sections import EvaluateConfig, PromoteConfig, ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.evaluation import judged_sets, measures, reranking, runs
from inranker_flow.evaluation.gate import decide, evidence_of, from_measures
from inranker_flow.rankers.base import Ranker
from inranker_flow.rankers.batches import Batches
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.stages.evaluate import EvaluateStats, evaluate
from tests.generation_server import GenerationServer
from tests.refusals import refuses

TEACHER = TeacherConfig("big/teacher", revision="r1", scoring=ScoringConfig(max_length=99))


def make_collection(folder: Path, dataset: str, docs: Mapping, queries: Mapping, qrels: Mapping, origin="test") -> Path:
    corpus = {"doc_id": list(docs), "title": [""] * len(docs), "text": list(docs.values())}
    tables.write(tables.CORPUS, folder / "corpus.parquet", corpus)
    asked = [("train-1", "how", "supervised"), *((key, text, origin) for key, text in queries.items())]
    ids, texts, origins = map(list, zip(*asked, strict=True))
    columns = {"query_id": ids, "text": texts, "origin": origins, "source_doc_id": [None] * len(ids)}
    tables.write(tables.QUERIES, folder / "queries.parquet", columns)
    rows = [(query, doc, grade) for query, grades in qrels.items() for doc, grade in grades.items()]
    rows.append(("train-1", next(iter(docs)), 1))
    columns = dict(zip(("query_id", "doc_id", "relevance"), map(list, zip(*rows, strict=True)), strict=True))
    tables.write(tables.QRELS, folder / "qrels.parquet", columns)
    write_manifest(folder, dataset=dataset, stage="prepare_corpus")
    return folder


def make_candidates(folder: Path, dataset: str, ranked: Mapping[str, Sequence[tuple[str, float]]]) -> Path:
    rows = [(q, doc, i + 1, score) for q, docs in ranked.items() for i, (doc, score) in enumerate(docs)]
    columns = zip(*rows, strict=True) if rows else [[]] * 4
    names = tables.RUN.schema.names
    tables.write(tables.RUN, folder / "run.parquet", dict(zip(names, map(list, columns), strict=True)))
    write_manifest(folder, dataset=dataset, stage="retrieve")
    return folder


def make_labels(folder: Path, dataset: str, asked: Mapping[str, tuple[str, Sequence[str]]], origin="synthetic") -> Path:
    """A training set: query id -> (text, the passages that it is labelled with)."""
    ids = {text: f"p{i}" for i, text in enumerate(dict.fromkeys(p for _, found in asked.values() for p in found))}
    queries = {"query_id": list(asked), "text": [text for text, _ in asked.values()], "origin": [origin] * len(asked)}
    columns = {**queries, "source_doc_id": [None] * len(asked)}
    tables.write(tables.QUERIES, folder / "queries.parquet", columns)
    columns = {"doc_id": list(ids.values()), "title": [""] * len(ids), "text": list(ids)}
    tables.write(tables.CORPUS, folder / "corpus.parquet", columns)
    pairs = [(query, ids[passage]) for query, (_, found) in asked.items() for passage in found]
    columns = {"query_id": [query for query, _ in pairs], "doc_id": [doc for _, doc in pairs]}
    columns |= {name: [0.5] * len(pairs) for name in ("false_logit", "true_logit")}
    tables.write(tables.LABELS, folder / "labels.parquet", columns)
    write_manifest(folder, dataset=dataset, stage="teacher_label")
    return folder


def make_model(folder: Path, weights: str) -> Path:
    """A checkpoint folder, as far as its digest goes; ``ByText`` below scores for it."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(weights)
    (folder / "config.json").write_text("{}")
    (folder / "training.json").write_text(json.dumps({"folder": str(folder)}))
    return folder


class Looked:
    """Prompts that are the logits of their pairs."""

    cut_queries = 0

    def __init__(self, logits: np.ndarray) -> None:
        self.logits, self.lengths = logits, np.ones(len(logits), np.int64)

    def inputs(self, rows: np.ndarray, pad_to: int = 1, known: int = 0) -> tuple[np.ndarray, ...]:
        return (self.logits[rows],)

    def select(self, rows: np.ndarray) -> Looked:
        return Looked(self.logits[rows])


class ByText(Ranker):
    """A ranker whose true logit for a passage is looked up; ``calls`` are the pairs that it was given, call by call."""

    parameters = 7
    device = torch.device("cpu")

    def __init__(self, true_logits: Mapping[str, float]) -> None:
        self.true_logits, self.calls, self.reader, self.batches = true_logits, [], LooksUp(self), Batches(10**6, 1)

    def forward(self, logits: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(logits)


class LooksUp:
    """The reader of a :class:`ByText`."""

    def __init__(self, ranker: ByText) -> None:
        self.ranker, self.identity = ranker, f"that of {id(ranker)}"

    def prepare(self, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray) -> Looked:
        self.ranker.calls.append([(queries[query], documents[document]) for query, document in pairs])
        true = [self.ranker.true_logits.get(documents[document], 0.0) for document in pairs[:, 1]]
        return Looked(np.array([[0.25, each + 0.25] for each in true]).reshape(-1, 2))


def compare(*arguments: object, load: Callable[..., Ranker], **named: object) -> EvaluateStats:
    """`evaluate` with models that ``load`` gives."""
    with patch.object(reranking, "load_ranker", load):
        return evaluate(*arguments, **named)  # type: ignore[arg-type]


class World:
    """Two datasets that share ids (never texts), one without test queries; the folders are given in other orders."""

    def __init__(self, tmp: Path) -> None:
        docs = {f"d{i}": f"vase {i}" for i in range(4)}
        self.collections = [
            make_collection(
                tmp / "c1", "vases", docs, {"q1": "blue vase", "q2": "red", "q3": "unjudged", "q4": "nothing found"},
                {"q1": {"d2": 2, "d0": 0}, "q2": {"d1": 1, "d3": 1}, "q4": {"d0": 1}},
            ),
            make_collection(tmp / "c2", "training only", docs, {"q9": "x"}, {"q9": {"d0": 1}}, origin="supervised"),
            make_collection(tmp / "c3", "lamps", {f"d{i}": f"lamp {i}" for i in range(3)}, {"q1": "lamp"},
                            {"q1": {"d1": 1}}),
        ]  # fmt: skip
        self.candidates = [
            make_candidates(tmp / "k3", "lamps", {"q1": [("d0", 3.0), ("d1", 2.0), ("d2", 2.0)]}),
            make_candidates(
                tmp / "k1", "vases",
                {"q2": [("d3", 5.0), ("d0", 4.0)], "q1": [("d0", 9.0), ("d1", 8.0), ("d2", 7.0)], "q3": [("d0", 1.0)]},
            ),
            make_candidates(tmp / "k2", "training only", {}),
        ]  # fmt: skip
        self.labels = [make_labels(tmp / "l1", "training only", {"t1": ("another question", ["a passage"])})]
        self.students = {"phase1": make_model(tmp / "m1", "one"), "phase2": make_model(tmp / "m2", "two")}
        self.rankers = {
            str(self.students["phase1"]): ByText({"vase 0": 1.0, "vase 1": 1.0, "vase 2": 1.0, "vase 3": -1.0}),
            str(self.students["phase2"]): ByText({"vase 2": 3.0, "vase 1": 1.5, "lamp 1": 0.5}),
            "big/teacher": ByText({"vase 2": 30.0, "lamp 1": 1e-9}),
        }
        self.loads: list[tuple[str, ScoringConfig, str]] = []
        self.tmp = tmp

    def load(self, reference: str, scoring: ScoringConfig, revision: str) -> ByText:
        self.loads.append((reference, scoring, revision))
        return self.rankers[reference]

    def evaluate(self, config: EvaluateConfig | None = None, champion: str = "", **changed: object) -> EvaluateStats:
        config = config or EvaluateConfig(measures=("nDCG@10", "RR@10", "R@2"))
        arguments = {
            "collections": self.collections, "candidates": self.candidates, "labels": self.labels, "students": self.students,
            "champion": champion, "evaluation": self.tmp / "evaluation", "report": self.tmp / "out" / "report.html",
            "load": self.load, **changed,
        }  # fmt: skip
        return compare(config, TEACHER, **arguments)  # type: ignore[arg-type]

    def summary(self) -> dict:
        return json.loads((self.tmp / "evaluation" / "summary.json").read_text())

    def values(self, system: str, measure: str = "nDCG@10") -> dict[str, dict[str, float]]:
        return from_measures(tables.read(tables.MEASURES, self.tmp / "evaluation"), system, measure)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    return World(tmp_path)


def test_every_system_is_measured_on_the_same_queries_and_candidates(world: World) -> None:
    stats = world.evaluate()
    third, second = 1 / log2(4), 1 / log2(3)
    # q1: d2 is third for BM25, and for phase 1, which ties all three (by id). q4 has no candidates: 0. q3 is unjudged.
    two_relevant = 1 / (1 + second)
    assert world.values("bm25") == {
        "vases": pytest.approx({"q1": third, "q2": two_relevant, "q4": 0.0}),
        "lamps": pytest.approx({"q1": second}),
    }
    # q2: d0 (1.0) goes before d3 (-1.0)
    assert world.values("phase1")["vases"] == pytest.approx({"q1": third, "q2": second * two_relevant, "q4": 0.0})
    assert world.values("phase2") == {
        "vases": pytest.approx({"q1": 1.0, "q2": second * two_relevant, "q4": 0.0}),  # d0 and d3 tie: d0 first
        "lamps": pytest.approx({"q1": 1.0}),
    }
    assert world.values("teacher")["lamps"] == {"q1": 1.0}  # 1e-9 decides: nothing is rounded
    summary = world.summary()
    assert summary["systems"] == ["bm25", "phase1", "phase2", "teacher"]
    assert list(summary["datasets"]) == ["vases", "lamps"]
    assert summary["skipped"] == {"training only": "no judged test queries"}
    vases = summary["datasets"]["vases"]
    assert (vases["queries"], vases["without_candidates"], vases["pairs"]) == (3, 1, 5)
    assert vases["ceiling"]["recall"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert vases["ceiling"]["means"]["nDCG@10"] == pytest.approx((1 + two_relevant + 0) / 3)
    assert vases["systems"]["phase1"]["tie_rate"] == pytest.approx(3 / 5)
    assert vases["systems"]["bm25"]["tie_rate"] == 0.0
    assert (stats.datasets, stats.skipped, stats.queries, stats.pairs) == (2, 1, 4, 8)
    assert stats.metrics["nDCG@10/vases/bm25"] == pytest.approx((third + two_relevant) / 3)
    assert stats.metrics["nDCG@10/mean/phase2"] == pytest.approx(summary["average"]["phase2"]["nDCG@10"])
    assert "vases" in (world.tmp / "out" / "report.html").read_text()
    assert summary["models"]["phase1"]["parameters"] == 7


def test_each_model_is_loaded_once_and_scores_everything_in_one_call(world: World) -> None:
    champion = make_model(world.tmp / "champion", "old")
    world.rankers[str(champion)] = ByText({})
    config = EvaluateConfig(scoring=ScoringConfig(max_length=64))
    world.evaluate(config, champion=str(champion))
    assert world.loads == [
        (str(world.students["phase1"]), config.scoring, ""),
        (str(world.students["phase2"]), config.scoring, ""),
        ("big/teacher", TEACHER.scoring, "r1"),
        (str(champion), config.scoring, ""),
    ]
    for ranker in world.rankers.values():
        pairs, *timed = ranker.calls
        assert len(pairs) == 8 and ("blue vase", "vase 2") in pairs and ("lamp", "lamp 2") in pairs
        assert [len(each) for each in timed] == [100] * 21, "one to warm up, then each timed query"


def test_a_champion_that_is_a_students_copy_is_not_scored_again(world: World) -> None:
    champion = make_model(world.tmp / "champion", "two")  # phase 2's weights, in another folder
    world.evaluate(champion=str(champion))
    assert str(champion) not in [reference for reference, _, _ in world.loads]
    assert world.values("champion") == world.values("phase2")
    assert world.summary()["models"]["champion"]["same_as"] == "phase2"


def test_real_checkpoints_are_scored_as_their_ranker_scores_them(world: World) -> None:
    student = Path(shutil.copytree(locate("demo:student"), world.tmp / "student"))
    champion = Path(shutil.copytree(student, world.tmp / "served"))
    (champion / "training.json").write_text("{}")
    scoring = ScoringConfig(max_length=64)
    evaluate(
        EvaluateConfig(scoring=scoring), TeacherConfig("demo:teacher"), world.collections, world.candidates,
        world.labels, {"phase2": student}, str(champion), world.tmp / "evaluation", world.tmp / "report.html",
    )  # fmt: skip
    rows = (world.tmp / "evaluation" / "runs" / "lamps.phase2.trec").read_text().splitlines()
    found = {row.split()[2]: float(row.split()[4]) for row in rows}
    logits = load_ranker(str(student), scoring).score([("lamp", f"lamp {i}") for i in range(3)])
    assert [found[f"d{i}"] for i in range(3)] == pytest.approx((logits[:, 1] - logits[:, 0]).tolist(), abs=1e-5)
    models = world.summary()["models"]
    assert models["champion"]["same_as"] == "phase2" and models["champion"]["digest"] == models["phase2"]["digest"]
    assert models["teacher"]["parameters"] > 0 and models["teacher"]["seconds"] > 0 and models["teacher"]["digest"]
    for found in models.values():
        assert 0 < found["latency_median_ms"] <= found["latency_p95_ms"] and found["latency_queries"] == 20
        assert found["pairs_per_second"] > 0 and "thread" in found["device"]
    assert models["champion"]["latency_p95_ms"] == models["phase2"]["latency_p95_ms"], "equal models are measured once"
    weights = (student / "model.safetensors").stat().st_size / 1e6
    assert weights < models["phase2"]["size_mb"] < weights + 0.1 and models["teacher"]["size_mb"] > weights
    tight = replace(PromoteConfig(), latency_budget_ms=models["phase2"]["latency_p95_ms"] / 2, min_queries=1)
    values = {"args": {"q1": 1.0}}
    decided = decide(None, values, tight, baseline=values, evidence=evidence_of(world.summary()))
    assert (decided.verdict, decided.reasons[0].code) == ("REJECT", "latency_budget")


def test_no_teacher_no_champion(world: World) -> None:
    world.evaluate(EvaluateConfig(teacher=False))
    assert world.summary()["systems"] == ["bm25", "phase1", "phase2"]
    assert {(row["against"], row["system"]) for row in world.summary()["comparisons"]} == {
        ("bm25", "phase1"), ("phase1", "phase2"), ("bm25", "phase2"),
    }  # fmt: skip


def test_trec_files_read_back_to_the_same_measures(world: World) -> None:
    world.evaluate()
    for system in ("bm25", "phase2", "teacher"):
        path = world.tmp / "evaluation" / "runs" / f"vases.{system}.trec"
        rows = [line.split() for line in path.read_text().splitlines()]
        assert {(len(row), row[1], row[5]) for row in rows} == {(6, "Q0", system)}
        assert [(row[0], int(row[3])) for row in rows] == [("q1", 1), ("q1", 2), ("q1", 3), ("q2", 1), ("q2", 2)]
    # The teacher's run on the lamps has no ties at the top, so a reader that knows the file alone agrees.
    found = ir_measures.read_trec_run(str(world.tmp / "evaluation" / "runs" / "lamps.teacher.trec"))
    [metric] = ir_measures.iter_calc([ir_measures.nDCG @ 10], {"q1": {"d1": 1}}, list(found))
    assert metric.value == world.values("teacher")["lamps"]["q1"] == 1.0


def test_scores_keep_all_their_digits_and_ids_with_blanks_stay_one_word(tmp_path: Path) -> None:
    score = 0.1 + 0.2
    run = runs.rank(pa.chunked_array([["q 1"]]), pa.chunked_array([["d\t1"]]), np.array([score]))
    runs.write_trec(tmp_path / "a.trec", run, "my system")
    fields = (tmp_path / "a.trec").read_text().split()
    assert fields == ["q%201", "Q0", "d%091", "1", repr(score), "my%20system"] and float(fields[4]) == score


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(min_size=1, max_size=3), st.sampled_from([-0.0, 0.0, 1.5])),
                unique_by=lambda row: row[:2]), st.randoms())  # fmt: skip
def test_ranks_are_unique_and_do_not_depend_on_the_order_of_the_input(rows: list, random: object) -> None:
    def ranked(given_rows: list) -> list[dict]:
        queries, docs = (pa.chunked_array([pa.array([row[i] for row in given_rows], pa.string())]) for i in (0, 1))
        return runs.rank(queries, docs, np.array([row[2] for row in given_rows], np.float64)).to_pylist()

    shuffled = [*rows]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    result = ranked(rows)
    assert result == ranked(shuffled)
    for query in "ab":
        own = [row for row in result if row["query_id"] == query]
        assert [row["rank"] for row in own] == list(range(1, len(own) + 1))
        assert own == sorted(own, key=lambda row: (-row["score"], row["doc_id"]))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([], 0.0), ([1.0], 0.0), ([3.0, 2.0, 1.0], 0.0), ([2.0, 2.0, 1.0], 2 / 3), ([0.0, -0.0], 1.0)],
)
def test_tie_rate(scores: list[float], expected: float) -> None:
    queries = pa.chunked_array([pa.array(["q"] * len(scores), pa.string())])
    docs = pa.chunked_array([pa.array([str(i) for i in range(len(scores))], pa.string())])
    assert runs.tie_rate(runs.rank(queries, docs, np.array(scores))) == pytest.approx(expected)


def test_equal_scores_of_different_queries_are_no_tie() -> None:
    run = runs.rank(pa.chunked_array([["a", "b"]]), pa.chunked_array([["d", "d"]]), np.array([1.0, 1.0]))
    assert runs.tie_rate(run) == 0.0


def drop_self_world(tmp_path: Path, passage: str, relevance: int) -> dict:
    docs = {"1": passage, "2": "the other passage"}
    collection = make_collection(
        tmp_path / "c", "args", docs, {"1": "Cats  are better"}, {"1": {"2": 1, "1": relevance}}
    )
    candidates = make_candidates(tmp_path / "k", "args", {"1": [("1", 9.0), ("2", 1.0)]})
    compare(EvaluateConfig(teacher=False), TEACHER, [collection], [candidates], [], {}, "", tmp_path / "e",
            tmp_path / "r.html", load=lambda *_: ByText({}))  # fmt: skip
    return json.loads((tmp_path / "e" / "summary.json").read_text())["datasets"]["args"]


@pytest.mark.parametrize(
    ("passage", "relevance", "dropped"),
    [
        ("Pets: cats are better", 0, 1),  # arguana, quora: the query is a document of the corpus
        ("Pets: ｃats are better", 0, 1),  # the same words in another form of Unicode
        ("a passage that happens to be numbered 1", 0, 0),  # cisi, vaswani: both number from 1
        ("cats are better", 1, 0),  # judged relevant: somebody meant it
    ],
)
def test_a_query_does_not_find_itself(tmp_path: Path, passage: str, relevance: int, dropped: int) -> None:
    found = drop_self_world(tmp_path, passage, relevance)
    assert (found["dropped"], found["pairs"]) == (dropped, 2 - dropped)
    expected = 1.0 if dropped else ((1 + 1 / log2(3)) / (1 + 1 / log2(3)) if relevance else 1 / log2(3))
    assert found["systems"]["bm25"]["means"]["nDCG@10"] == pytest.approx(expected)


def test_an_interrupted_evaluation_does_not_score_twice(world: World) -> None:
    def broken(reference: str, scoring: ScoringConfig, revision: str) -> ByText:
        if reference == "big/teacher":
            raise KeyboardInterrupt
        return world.load(reference, scoring, revision)

    with pytest.raises(KeyboardInterrupt):
        world.evaluate(load=broken)
    assert not (world.tmp / "evaluation" / "manifest.json").exists()
    world.evaluate()
    assert [reference for reference, _, _ in world.loads].count(str(world.students["phase1"])) == 1
    assert world.values("phase2")["lamps"] == {"q1": 1.0}
    assert not list((world.tmp / "scratch").rglob("scores.npz"))
    assert world.summary()["models"]["phase1"]["latency_queries"] == 20, "what was measured before is kept"
    assert len(world.rankers[str(world.students["phase1"])].calls) == 1 + 21


def test_other_candidates_are_scored_anew_after_an_interruption(world: World) -> None:
    def broken(reference: str, scoring: ScoringConfig, revision: str) -> ByText:
        if reference == "big/teacher":
            raise KeyboardInterrupt
        return world.load(reference, scoring, revision)

    with pytest.raises(KeyboardInterrupt):
        world.evaluate(load=broken)
    world.candidates[0] = make_candidates(world.tmp / "other", "lamps", {"q1": [("d2", 2.0), ("d1", 1.0)]})
    world.evaluate()
    assert [reference for reference, _, _ in world.loads].count(str(world.students["phase1"])) == 2


def test_nothing_to_measure_is_an_answer_not_a_crash(world: World) -> None:
    stats = world.evaluate(collections=world.collections[1:2], candidates=world.candidates[2:])
    assert (stats.datasets, stats.pairs, world.loads, stats.metrics) == (0, 0, [], {})
    assert "Nothing was measured" in (world.tmp / "out" / "report.html").read_text()
    assert tables.read(tables.MEASURES, world.tmp / "evaluation").num_rows == 0


@pytest.mark.parametrize("name", ["nDGC@10", "nDCG@", "", "NERR8@10", "print(1)"])
def test_an_unknown_measure_is_refused_by_name(world: World, name: str) -> None:
    with refuses("measure-unknown", "evaluation.measures", "nDCG@10") as caught:
        world.evaluate(EvaluateConfig(measures=("nDCG@10", name)))
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)
    assert world.loads == []


def test_collections_and_candidates_must_belong_together(world: World) -> None:
    with pytest.raises(UserError, match=r"c1: no candidates for dataset 'vases'.*lamps, training only"):
        world.evaluate(candidates=[world.candidates[0], world.candidates[2]])
    with pytest.raises(UserError, match=r"c1: the second of the collections that is named 'vases'"):
        world.evaluate(collections=[*world.collections, world.collections[0]])


def test_a_candidate_without_text_is_named(world: World) -> None:
    world.candidates[0] = make_candidates(world.tmp / "stale", "lamps", {"q1": [("d1", 2.0), ("gone", 1.0)]})
    with pytest.raises(UserError, match=r"stale/run\.parquet: document 'gone' is not in .*c3/corpus\.parquet"):
        world.evaluate()


def test_scores_that_are_not_numbers_are_refused(world: World) -> None:
    world.rankers[str(world.students["phase2"])] = ByText({"vase 2": float("nan")})
    with pytest.raises(UserError, match=r"phase2 .*: 1 of 8 scores are not finite.*scoring\.dtype"):
        world.evaluate()


def test_comparisons_are_paired_corrected_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase 2 puts the relevant document first for most queries of two datasets, and p agrees with scipy."""
    from scipy import stats

    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    rng = np.random.default_rng(0)
    collections, candidates = [], []
    logits = {}
    for name, size in (("a", 30), ("b", 12)):
        docs = {f"d{i}": f"{name} {i}" for i in range(size * 3)}
        queries = {f"q{i}": f"query {i}" for i in range(size)}
        qrels = {f"q{i}": {f"d{3 * i + 2}": 1} for i in range(size)}
        ranked = {f"q{i}": [(f"d{3 * i + j}", 3.0 - j) for j in range(3)] for i in range(size)}
        logits |= {text: float(rng.normal() + (int(doc[1:]) % 3 == 2)) for doc, text in docs.items()}
        collections.append(make_collection(tmp_path / f"c{name}", name, docs, queries, qrels))
        candidates.append(make_candidates(tmp_path / f"k{name}", name, ranked))
    student = make_model(tmp_path / "m", "m")
    compare(EvaluateConfig(teacher=False), TEACHER, collections, candidates, [], {"phase2": student}, "", tmp_path / "e",
            tmp_path / "r.html", load=lambda *_: ByText(logits))  # fmt: skip
    table = tables.read(tables.MEASURES, tmp_path / "e")
    rows = [row for row in json.loads((tmp_path / "e" / "summary.json").read_text())["comparisons"]
            if row["measure"] == "nDCG@10"]  # fmt: skip
    assert [row["dataset"] for row in rows] == ["a", "b"]
    for row in rows:
        ours, theirs = (from_measures(table, s, "nDCG@10")[row["dataset"]] for s in ("phase2", "bm25"))
        keys = sorted(ours)
        expected = stats.ttest_rel([ours[k] for k in keys], [theirs[k] for k in keys])
        assert row["p_t"] == pytest.approx(expected.pvalue)
        assert row["difference"] == pytest.approx(np.mean(list(ours.values())) - np.mean(list(theirs.values())))
        assert row["better"] == sum(ours[k] > theirs[k] for k in keys) and row["worse"] == 0
    for key in ("p", "p_t"):
        small, large = sorted(row[key] for row in rows)
        assert sorted(row[f"{key}_holm"] for row in rows) == pytest.approx(sorted([2 * small, max(2 * small, large)]))
        assert small < 0.01


def test_a_long_document_is_its_best_passage(tmp_path: Path) -> None:
    """The answer is at the end, beyond what a reader of the beginning sees; the title is above every passage."""
    text = " ".join(f"w{i}" for i in range(9)) + " answer"
    docs = {"d1": text, "d2": "w1 w2"}
    collection = make_collection(tmp_path / "c", "long", docs, {"q1": "what"}, {"q1": {"d1": 1}})
    candidates = make_candidates(tmp_path / "k", "long", {"q1": [("d2", 2.0), ("d1", 1.0)]})
    ranker = ByText({"w6 w7 w8 answer": 5.0, "w1 w2": 1.0})
    student = make_model(tmp_path / "m", "m")

    def best(**settings: int) -> float:
        config = EvaluateConfig(teacher=False, latency_queries=0, **settings)
        compare(config, TEACHER, [collection], [candidates], [], {"phase2": student}, "", tmp_path / "e",
                tmp_path / "r.html", load=lambda *_: ranker)  # fmt: skip
        table = tables.read(tables.MEASURES, tmp_path / "e")
        return from_measures(table, "phase2", "nDCG@10")["long"]["q1"]

    assert best() == pytest.approx(1 / log2(3))
    assert best(passage_words=4, passage_stride=3) == 1.0
    passages = {passage for _, passage in ranker.calls[-1]}
    assert passages == {"w1 w2", "w0 w1 w2 w3", "w3 w4 w5 w6", "w6 w7 w8 answer"}
    best(passage_words=4)
    assert sorted(passage.split()[0] for _, passage in ranker.calls[-1]) == ["w0", "w1", "w2", "w4", "w6"]
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["datasets"]["long"]["pairs"] == 5 and summary["datasets"]["long"]["ceiling"]["depth"] == 2
    with pytest.raises(UserError, match=r"evaluation\.passage_stride: 5 is more than passage_words \(4\)"):
        best(passage_words=4, passage_stride=5)


def test_cqadupstacks_parts_are_averaged_as_one_dataset(tmp_path: Path) -> None:
    """Two forums of one query each and a dataset of its own: the mean is over two, not over three."""
    collections, candidates = [], []
    for name, place in (("cqadupstack-a", 0), ("cqadupstack-b", 1), ("other", 1)):
        docs = {"d0": "x", "d1": "y"}
        collections.append(make_collection(tmp_path / f"c{name}", name, docs, {"q": "z"}, {"q": {f"d{place}": 1}}))
        candidates.append(make_candidates(tmp_path / f"k{name}", name, {"q": [("d0", 2.0), ("d1", 1.0)]}))
    students = {"phase2": make_model(tmp_path / "m", "m")}
    stats = compare(EvaluateConfig(teacher=False), TEACHER, collections, candidates, [], students, "", tmp_path / "e",
                    tmp_path / "r.html", load=lambda *_: ByText({"y": 1.0}))  # fmt: skip
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    second = 1 / log2(3)
    family = summary["families"]["cqadupstack"]
    assert family["parts"] == ["cqadupstack-a", "cqadupstack-b"]
    assert family["systems"]["bm25"]["nDCG@10"] == pytest.approx((1 + second) / 2)
    assert summary["average"]["bm25"]["nDCG@10"] == pytest.approx(((1 + second) / 2 + second) / 2)
    assert stats.metrics["nDCG@10/mean/bm25"] == summary["average"]["bm25"]["nDCG@10"]
    assert "nDCG@10/cqadupstack/phase2" in stats.metrics and "nDCG@10/cqadupstack-a/phase2" not in stats.metrics
    rows = [row for row in summary["comparisons"] if row["measure"] == "nDCG@10"]
    assert [(row["dataset"], row["queries"]) for row in rows] == [("cqadupstack", 2), ("other", 1)]
    assert "cqadupstack (mean of 2)" in (tmp_path / "r.html").read_text()


def test_a_leaked_test_query_is_in_the_summary_the_stats_and_the_report(world: World) -> None:
    world.labels.append(make_labels(world.tmp / "l2", "vases", {"t7": ("Blue vase?", ["vase 2"])}))
    stats = world.evaluate()
    leaks = world.summary()["leaks"]
    assert stats.leaks == leaks["queries"] == 1
    [leak] = leaks["found"]
    assert (leak["dataset"], leak["query_id"], leak["trained_on"], leak["judged_pairs"]) == ("vases", "q1", "vases", 1)
    page = (world.tmp / "out" / "report.html").read_text()
    assert "1 test queries are among the 2 training queries" in page and "Blue vase?" in page


@pytest.mark.parametrize(
    ("ranked", "message"),
    [
        (
            {"q1": [("d0", 3.0), ("d2", 2.0)]},
            r"c3/qrels\.parquet: none of the 2 candidates of lamps is judged relevant",
        ),
        ({}, r"bad/run\.parquet: no candidates for any of the 1 judged test queries of lamps"),
    ],
)
def test_candidates_that_say_nothing_are_refused(world: World, ranked: Mapping, message: str) -> None:
    world.candidates[0] = make_candidates(world.tmp / "bad", "lamps", ranked)
    with pytest.raises(UserError, match=message) as caught:
        world.evaluate()
    assert "\n" not in str(caught.value) and world.loads == []
    assert not (world.tmp / "evaluation").exists()


POOL = Path(__file__).parents[3] / "shared" / "data" / "collections" / "trec-dl-2019-pool"


def official_qrels() -> dict[str, dict[str, int]]:
    if not POOL.is_dir():
        pytest.skip("the TREC DL 2019 pool is not beside the repository (../shared/data/collections)")
    qrels: dict[str, dict[str, int]] = {}
    for line in (POOL / "qrels" / "official.tsv").read_text().splitlines()[1:]:
        query_id, doc_id, grade = line.split("\t")
        qrels.setdefault(query_id, {})[doc_id] = int(grade)
    return qrels


@pytest.mark.parametrize(
    ("file", "published"),
    [("bm25", 0.5058), ("d-bert-kd-tasb", 0.7210), ("splade-p-p-ensemble-distil", 0.7308)],
)
def test_measures_are_trec_evals_on_trec_dl_2019(file: str, published: float) -> None:
    """trec_eval itself (pytrec_eval) on the same judgements and ranks, query by query."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels = official_qrels()
    rows = [line.split() for line in (POOL / "runs" / f"{file}-top100.trec").read_text().splitlines()]
    run = pa.table({"query_id": [r[0] for r in rows], "doc_id": [r[2] for r in rows], "rank": [int(r[3]) for r in rows],
                    "score": [float(r[4]) for r in rows]})  # fmt: skip
    ours = measures.per_query(measures.parse(["nDCG@10", "AP", "R(rel=2)@100", "P@5"]), qrels, run)
    ranked: dict[str, dict[str, float]] = {}
    for query_id, _, doc_id, rank, _, _ in rows:
        ranked.setdefault(query_id, {})[doc_id] = 1000.0 - int(rank)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map", "P.5"}).evaluate(ranked)
    graded = pytrec_eval.RelevanceEvaluator(qrels, {"recall.100"}, relevance_level=2).evaluate(ranked)
    assert set(ours["nDCG@10"]) == set(theirs) and len(theirs) == 43
    for query_id, expected in theirs.items():
        for name, key in (("nDCG@10", "ndcg_cut_10"), ("AP", "map"), ("P@5", "P_5")):
            assert ours[name][query_id] == pytest.approx(expected[key], abs=1e-9)
        assert ours["R(rel=2)@100"][query_id] == pytest.approx(graded[query_id]["recall_100"], abs=1e-9)
    assert np.mean([*ours["nDCG@10"].values()]) == pytest.approx(published, abs=5e-5)


def test_a_judge_grades_what_the_systems_put_on_top_and_measures_them_apart(world: World) -> None:
    """Its grades are those of the people, so it agrees with them."""
    grades = {"blue vase": {"vase 2": 3, "vase 1": 1}, "red": {"vase 3": 2}, "lamp": {"lamp 1": 3}}

    def answer(prompt: str) -> str:
        query, passage = (prompt.partition(f"{name}: ")[2].partition("\n")[0] for name in ("Query", "Passage"))
        return f"##final score: {grades.get(query, {}).get(passage, 0)}"

    with GenerationServer(model="judge", answer=answer) as server:
        judge = JudgeConfig("judge", backend="openai", endpoint=server.url, depth=2)
        config = EvaluateConfig(measures=("nDCG@2", "RR@2", "R@100"), judge=judge)
        world.evaluate(config)
        asked = len(server.generating())
        told = world.summary()["judge"]
        vases = told["datasets"]["vases"]
        # q1: BM25 has d0, d1 and phase 2 d2, d1 on top; q2 and the lamp: two candidates each.
        assert asked == told["stats"]["calls"] == 7 and vases["stats"]["counts"] == {"0": 2, "1": 1, "2": 1, "3": 1}
        assert told["measures"] == ["nDCG@2", "RR@2"], "what reads deeper than the grades go is not measured by them"
        assert vases["queries"] == 2 and vases["systems"]["phase2"]["means"]["RR@2"] == pytest.approx((1 + 0.5) / 2)
        assert vases["systems"]["bm25"]["means"]["RR@2"] == pytest.approx((0 + 1) / 2), "grade 1 answers nothing"
        assert vases["agreement"]["kappa_binary"] == 1.0
        assert told["datasets"]["lamps"]["agreement"]["kappa_binary"] is None, "of one pair nothing can be told"
        assert vases["agreement"]["pairs"] == 3 and vases["agreement"]["tau"] > 0 and told["kin"] == ""
        world.evaluate(config)
        assert len(server.generating()) == asked + 7, "without a store nothing is kept when the evaluation is written"
    folder = world.tmp / "evaluation"
    table = tables.read(tables.GRADES, folder).to_pylist()
    found = {(row["dataset"], row["query_id"], row["doc_id"]): row["grade"] for row in table}
    assert found["vases", "q1", "d2"] == 3 and found["lamps", "q1", "d1"] == 3 and len(found) == 7
    values = from_measures(tables.read(tables.JUDGED_MEASURES, folder), "phase2", "nDCG@2")
    assert values == {"vases": pytest.approx({"q1": 1.0, "q2": 1 / log2(3)}), "lamps": {"q1": 1.0}}
    assert "R@100" in world.summary()["average"]["bm25"], "by people everything is measured as before"


def test_a_judge_that_reads_less_than_the_headline_measure_is_refused_before_anything_is_scored(world: World) -> None:
    config = EvaluateConfig(judge=JudgeConfig("judge", backend="openai", endpoint="http://127.0.0.1:9", depth=5))
    with refuses("setting-conflict", "evaluation.judge.depth: 5", "nDCG@10"):
        world.evaluate(config)
    with refuses("backend-missing", "evaluation.judge.backend"):
        world.evaluate(EvaluateConfig(judge=JudgeConfig("judge", backend="vllm")))
    assert not world.loads


def test_a_relevance_that_is_no_grade_is_named_before_anything_is_scored(tmp_path):
    qrels = {"q1": {"d1": 1, "d2": 1_735_689_600}}
    collection = make_collection(tmp_path / "collection", "toy", {"d1": "moon", "d2": "sun"}, {"q1": "which"}, qrels)
    candidates = make_candidates(tmp_path / "candidates", "toy", {"q1": [("d1", 2.0), ("d2", 1.0)]})
    with pytest.raises(UserError, match="query 'q1' has document 'd2' with relevance 1735689600, which is no grade"):
        judged_sets.load("toy", collection, candidates, EvaluateConfig())
