"""What the report shows about single queries, trainings, generated queries and licences."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.sections import EvaluateConfig, TeacherConfig
from inranker_flow.evaluation import provenance, significance
from inranker_flow.evaluation.gate import from_measures
from inranker_flow.evaluation.wins_and_losses import LISTED
from inranker_flow.model_registry import licences
from inranker_flow.stages.retrieve import noted
from tests.unit.test_evaluation import ByText, World, compare, make_candidates, make_collection, make_model


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    return World(tmp_path)


def evaluate_many(tmp_path: Path, queries: int, champion: bool) -> dict:
    """Queries with five candidates, of which the last is relevant: phase 2 puts it first for even queries; for queries
    that three divides, the other system does. Returns the summary."""
    docs = {f"d{q}-{i}": f"passage {q} {i}" for q in range(queries) for i in range(5)}
    collection = make_collection(
        tmp_path / "c", "set", docs, {f"q{q}": f"question {q}" for q in range(queries)},
        {f"q{q}": {f"d{q}-4": 1, f"d{q}-1": 0} for q in range(queries)},
    )  # fmt: skip
    ranked = {f"q{q}": [(f"d{q}-{i}", 5.0 - i) for i in range(5)] for q in range(queries)}
    candidates = make_candidates(tmp_path / "k", "set", ranked)
    even = ByText({f"passage {q} 4": 9.0 for q in range(0, queries, 2)})
    third = ByText({f"passage {q} 4": 9.0 for q in range(0, queries, 3)})
    students = {"phase1": make_model(tmp_path / "m1", "one"), "phase2": make_model(tmp_path / "m2", "two")}
    served = make_model(tmp_path / "m3", "three")
    rankers = {str(students["phase1"]): third, str(students["phase2"]): even, str(served): third}
    compare(
        EvaluateConfig(teacher=False, latency_queries=0), TeacherConfig("t"), [collection], [candidates], [], students,
        str(served) if champion else "", tmp_path / "e", tmp_path / "r.html", load=lambda reference, *_: rankers[reference],
    )  # fmt: skip
    return json.loads((tmp_path / "e" / "summary.json").read_text())


def test_the_largest_wins_and_losses_of_a_data_set_are_shown_with_what_either_put_on_top(tmp_path: Path) -> None:
    [case] = evaluate_many(tmp_path, 40, champion=True)["cases"]
    assert (case["system"], case["against"]) == ("phase2", "champion")
    [found] = case["datasets"]
    # Of 40: 20 even, 14 divided by three, 7 both.
    for each in (case, found):
        assert (each["won"], each["lost"], each["level"]) == (13, 7, 20)
    assert len(found["wins"]) == len(found["losses"]) == 3, "with their passages"
    assert (len(found["more_wins"]), len(found["more_losses"])) == (10, 4) and "top" not in found["more_wins"][0]
    win, loss = found["wins"][0], found["losses"][0]
    number = win["query_id"][1:]
    assert int(number) % 2 == 0 and int(number) % 3 and win["text"] == f"question {number}"
    ours, theirs = win["top"]
    # All that ties is ordered by document id, as in the run.
    assert [each["doc_id"] for each in ours] == [f"d{number}-{i}" for i in (4, 0, 1)]
    assert [each["doc_id"] for each in theirs] == [f"d{number}-{i}" for i in (0, 1, 2)]
    assert ours[0] == {"doc_id": f"d{number}-4", "grade": 1, "ranks": [1, 5], "text": f"passage {number} 4"}
    assert [each["grade"] for each in theirs] == [None, 0, None] and theirs[0]["ranks"] == [2, 1]
    assert win["values"][0] == 1.0 > win["values"][1] and loss["values"][0] < loss["values"][1] == 1.0
    # Every win and loss is 1 against the fifth place.
    margin = 1 - 1 / np.log2(6)
    assert win["relevant"] is None and [count for _, _, count in case["margins"] if count] == [7, 13]
    assert case["margins"][-1][0] <= margin <= case["margins"][-1][1]
    assert "question" in (tmp_path / "r.html").read_text()


def test_without_a_champion_the_student_is_compared_with_the_one_before_and_bm25(tmp_path: Path) -> None:
    found = evaluate_many(tmp_path, 300, champion=False)["cases"]
    assert [(each["system"], each["against"]) for each in found] == [("phase2", "phase1"), ("phase2", "bm25")]
    [told] = found[1]["datasets"]
    assert found[1]["lost"] == 0 and told["losses"] == [] and len(told["wins"]) == 3
    assert len(told["more_wins"]) == LISTED < told["won"] - 3, "the others are in the CSV"
    [place] = {each["top"][1][0]["ranks"][1] for each in told["wins"]}
    assert place == 1, "BM25's own order"


def test_measures_are_swept_over_cutoffs_and_depths_from_the_scores_that_are_there(tmp_path: Path) -> None:
    """The relevant document is the eleventh of twelve; phase 2 puts it first, phase 1 last."""
    docs = {f"d{i:02}": f"passage {i}" for i in range(12)}
    collection = make_collection(tmp_path / "c", "set", docs, {"q": "=question"}, {"q": {"d10": 1}})
    candidates = make_candidates(tmp_path / "k", "set", {"q": [(each, 12.0 - i) for i, each in enumerate(docs)]})
    students = {name: make_model(tmp_path / name, name) for name in ("phase1", "phase2")}
    rankers = {
        str(students["phase1"]): ByText({"passage 10": -1.0, "passage 9": 5.0}),
        str(students["phase2"]): ByText({"passage 10": 9.0}),
    }
    compare(
        EvaluateConfig(measures=("nDCG@10", "R@4"), teacher=False, latency_queries=0), TeacherConfig("t"), [collection],
        [candidates], [], students, "", tmp_path / "e", tmp_path / "r.html", load=lambda reference, *_: rankers[reference],
    )  # fmt: skip
    systems = json.loads((tmp_path / "e" / "summary.json").read_text())["datasets"]["set"]["systems"]
    assert systems["phase2"]["cutoffs"] == dict.fromkeys(("nDCG", "R"), dict.fromkeys(("1", "3", "4", "5", "10"), 1.0))
    assert set(systems["phase1"]["cutoffs"]["R"].values()) == {0.0} and systems["bm25"]["depths"] == {}
    # Of ten candidates neither sees it; of all twelve phase 2 finds it.
    assert systems["phase2"]["depths"] == {"10": 0.0, "12": 1.0} and systems["phase1"]["depths"] == {
        "10": 0.0,
        "12": 0.0,
    }
    rows = list(csv.reader((tmp_path / "e" / "queries.csv").read_text().splitlines()))
    assert rows[0][:5] == ["dataset", "query_id", "query", "nDCG@10 bm25", "nDCG@10 phase1"]
    assert rows[1:] == [["set", "q", "'=question", "0.0000", "0.0000", "1.0000", "0.0000", "0.0000", "1.0000"]], (
        "no formula"
    )
    assert "queries.csv" in (tmp_path / "r.html").read_text()


def test_where_nothing_relevant_is_on_top_the_best_candidate_is_shown(world: World) -> None:
    docs = {f"d{i}": f"lamp {i}" for i in range(9)}
    collection = make_collection(world.tmp / "c", "lamps", docs, {"q": "lamp"}, {"q": {"d8": 2, "d7": 1}})
    candidates = make_candidates(world.tmp / "k", "lamps", {"q": [(f"d{i}", 9.0 - i) for i in range(9)]})
    far = ByText({"lamp 8": -1.0, "lamp 7": -2.0})
    near = ByText({"lamp 8": -1.0})
    world.rankers |= {str(world.students["phase1"]): near, str(world.students["phase2"]): far}
    world.evaluate(EvaluateConfig(teacher=False), collections=[collection], candidates=[candidates], labels=[])
    [won] = next(each["wins"] for each in world.summary()["cases"][0]["datasets"] if each["dataset"] == "lamps")
    assert won["relevant"] == {"doc_id": "d8", "grade": 2, "ranks": [8, 9], "text": "lamp 8"}


def test_a_long_text_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    docs = {"a": "x " * 5000, "b": "y"}
    collection = make_collection(tmp_path / "c", "d", docs, {"q": "w " * 5000}, {"q": {"b": 1}})
    candidates = make_candidates(tmp_path / "k", "d", {"q": [("a", 2.0), ("b", 1.0)]})
    students = {"phase2": make_model(tmp_path / "m", "m")}
    compare(EvaluateConfig(teacher=False, latency_queries=0), TeacherConfig("t"), [collection], [candidates], [], students,
            "", tmp_path / "e", tmp_path / "r.html", load=lambda *_: ByText({"y": 1.0}))  # fmt: skip
    assert (tmp_path / "r.html").stat().st_size < 60_000


def test_every_mean_has_the_bootstrap_interval_of_its_queries(tmp_path: Path) -> None:
    summary = evaluate_many(tmp_path, 40, champion=True)
    table = tables.read(tables.MEASURES, tmp_path / "e")
    for system in ("bm25", "phase1", "phase2", "champion"):
        values = np.array(list(from_measures(table, system, "nDCG@10")["set"].values()))
        low, high = summary["intervals"][system]["set"]
        drawn = np.random.default_rng(7).choice(values, (20_000, values.size)).mean(axis=1)
        assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)
        assert low <= values.mean() <= high and summary["intervals"][system][""] is None
    assert summary["intervals"]["bm25"]["set"] == pytest.approx([1 / np.log2(6)] * 2)


def test_the_mean_over_datasets_weighs_them_equally_in_its_interval(world: World) -> None:
    world.evaluate(EvaluateConfig(latency_queries=0))
    table = tables.read(tables.MEASURES, world.tmp / "evaluation")
    sets = [np.array(list(each.values())) for each in from_measures(table, "phase1", "nDCG@10").values()]
    parts = significance.parts_of(sets)
    assert world.summary()["intervals"]["phase1"][""] == pytest.approx(significance.bootstrap_interval(parts))


def write_training(folder: Path, **record: object) -> None:
    (folder / "training.json").write_text(json.dumps(record))


def test_training_curves_and_generation_counts_are_in_summary_and_report(world: World) -> None:
    record = {
        "start": "google-t5/t5-small", "inputs": {"start": "google-t5/t5-small@main"},
        "config": {"loss": "mse", "seed": 3, "learning_rate": 0.5},
        "warmup_steps": 4,
        "steps": 20, "best_step": 10, "train_loss": [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}],
        "looks": [{"step": 10, "loss": 1.5, "kendall": 0.5}], "sets": {"1 vases": {"pairs": 90, "heldout_pairs": 10}},
    }  # fmt: skip
    for folder in world.students.values():
        write_training(folder, **record)
    written = world.tmp / "queries"
    written.mkdir()
    counts = {"documents": 12, "generated": 24, "off_topic": 3, "queries": 21}
    samples = [{"query": f"sample {n}", "doc_id": "d", "document": "text"} for n in range(20)]
    write_manifest(written, dataset="vases", stage="generate_queries", counts=counts, generator="t5-q", samples=samples)
    candidates = world.candidates[0]
    dataset = read_manifest(candidates).dataset
    write_manifest(candidates, dataset=dataset, stage="retrieve", generation=noted(written))
    world.evaluate()
    summary = world.summary()
    assert summary["training"]["phase2"] == {
        "loss": "mse", "seed": 3, "rates": [[0, 0.0], [4, 0.5], [20, 0.0]],
        "steps": 20, "best_step": 10, "train": [[10, 2.0], [20, 1.0]], "heldout": [[10, 1.5, 0.5]],
        "sets": {"vases": 90},
    }  # fmt: skip
    [generation] = summary["generation"]
    assert generation["counts"] == counts and len(generation["samples"]) == 5
    page = (world.tmp / "out" / "report.html").read_text()
    assert "off topic" in page and "sample 4" in page and "20 steps on vases (90 pairs)" in page


def test_the_base_is_what_the_first_phase_began_with(tmp_path: Path) -> None:
    first, last = (make_model(tmp_path / name, name) for name in ("one", "two"))
    phase1 = {"start": "google-t5/t5-small", "inputs": {"start": "google-t5/t5-small@v1"}}
    write_training(last, start="/runs/one", inputs={"start": "sha256:00"}, lineage=[phase1])
    write_training(first, start="/models/t5", inputs={"start": "sha256:00"})
    assert provenance.base([first, last]) == ("google-t5/t5-small", "v1")
    assert provenance.base([first]) == ("/models/t5", "")
    assert provenance.base([]) is None


CARD = "---\nlicense: mit\ntags: [x]\n---\n# A model\n"


@pytest.mark.parametrize(
    ("card", "config", "expected"),
    [
        (CARD, "{}", "mit"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "{}", "mit, apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", "{}", "llama3"),
        ("# No front matter", '{"license": "bsd-3-clause"}', "bsd-3-clause"),
        ("---\nlicense: [\n---\n", '{"license": "bsd-3-clause"}', "bsd-3-clause"),
        (None, '{"license": null}', ""),
        (None, "not json", ""),
        (None, "[]", ""),
    ],
)
def test_a_checkpoints_licence_is_what_its_card_or_its_configuration_says(tmp_path, card, config, expected) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    (tmp_path / "config.json").write_text(config)
    assert licences.of_checkpoint(str(tmp_path)) == expected


def test_a_card_of_the_hub_is_read_from_its_cache_where_the_hub_is_not_asked(tmp_path, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert licences.of_checkpoint("owner/model") == "", "not known, and no reason to fail"
    snapshot = tmp_path / "models--owner--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "README.md").write_text(CARD)
    assert licences.of_checkpoint("owner/model") == "mit"
    assert licences.of_checkpoint("init:tiny") == "" and licences.of_checkpoint("demo:teacher") == "apache-2.0"


def test_licences_of_base_teacher_and_data_are_in_the_summary(world: World) -> None:
    base, teacher = make_model(world.tmp / "base", "b"), make_model(world.tmp / "teacher", "t")
    (base / "README.md").write_text(CARD)
    (teacher / "config.json").write_text('{"license": "cc-by-nc-4.0"}')
    write_training(world.students["phase2"], start=str(base), inputs={"start": "sha256:0"})
    write_manifest(world.collections[0], dataset="vases", stage="prepare_corpus", licence="cc-by-4.0")
    world.rankers[str(teacher)] = world.rankers["big/teacher"]
    arguments = [world.collections, world.candidates, world.labels, world.students, ""]
    compare(EvaluateConfig(latency_queries=0), TeacherConfig(str(teacher)), *arguments, world.tmp / "evaluation",
            world.tmp / "r.html", load=world.load)  # fmt: skip
    assert world.summary()["licences"] == {
        "base": "mit", "teacher": "cc-by-nc-4.0", "data": {"vases": "cc-by-4.0", "training only": "", "lamps": ""},
    }  # fmt: skip
