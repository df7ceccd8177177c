"""Evaluations of next to nothing, and records with holes: a page in any case, or one line before anything is scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.sections import EvaluateConfig
from inranker_flow.errors import UserError
from inranker_flow.evaluation import serving_cost
from inranker_flow.generation import report as generation_report
from inranker_flow.report.curves import curve_svg
from inranker_flow.report.page import render
from inranker_flow.stages.generate_queries import _sentence
from tests.refusals import refuses
from tests.summaries import RISING, Page, make_summary, text_of
from tests.unit.test_evaluation import TEACHER, ByText, World, compare, make_candidates, make_collection, make_model


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))


def look(step: int, kendall: float | None = None) -> dict:
    return {"step": step, "loss": 1.0, "kendall": kendall}


def record(folder: Path, **changed: object) -> None:
    """A training.json as `distill` writes it."""
    content = {
        "config": {"loss": "mse"}, "steps": 2, "best_step": 2, "looks": [look(0), look(2)], "start": "x", "inputs": {},
        "train_loss": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "sets": {"1 toy": {"pairs": 1}}, **changed,
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(content), encoding="utf-8")


def run(
    tmp: Path,
    docs: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    ranked: Mapping,
    logits: Mapping[str, float],
    config: EvaluateConfig | None = None,
    students: tuple[str, ...] = ("phase1", "phase2"),
    champion: str = "",
    **training: object,
) -> tuple[dict, str]:
    """An evaluation of one small collection: its summary and the page's text."""
    collection = make_collection(tmp / "c", "tiny", docs, dict.fromkeys(qrels, "what is it"), qrels)
    candidates = make_candidates(tmp / "k", "tiny", ranked)
    folders = {name: make_model(tmp / name, name) for name in students}
    for folder in folders.values():
        record(folder, **training)
    compare(
        config or EvaluateConfig(), TEACHER, [collection], [candidates], [], folders, champion, tmp / "e", tmp / "r.html",
        load=lambda *_: ByText(logits),
    )  # fmt: skip
    html = (tmp / "r.html").read_text(encoding="utf-8")
    words = set(text_of(html).replace("None of the test queries", "").split())
    assert Page(html).open == [] and not {"nan", "None", "inf", "undefined"} & words
    return json.loads((tmp / "e" / "summary.json").read_text()), text_of(html)


ONE = ({"d0": "x"}, {"q": {"d0": 1}}, {"q": [("d0", 1.0)]}, {"x": 1.0})


def test_one_query_with_one_document_whose_held_out_queries_have_one_too(tmp_path: Path) -> None:
    summary, text = run(tmp_path, *ONE)
    assert summary["average"]["phase2"]["nDCG@10"] == 1.0 and "Phase 2 reaches nDCG@10 1.0000 on tiny" in text
    assert "Kendall's tau not defined" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "training",
    [
        {"looks": []},
        {"train_loss": []},
        {"looks": [look(0, 0.5), look(1), look(2, -1.0)], "best_step": 1},
        {"steps": 1, "train_loss": [{"step": 1, "loss": 0.0}], "looks": [], "best_step": 1},
    ],
    ids=["no held-out queries", "no curve", "tau at some looks", "one step without a loss"],
)
def test_training_records_with_holes(tmp_path: Path, training: dict) -> None:
    run(tmp_path, *ONE, **training)


@pytest.mark.parametrize(
    ("docs", "qrels", "ranked", "logits", "config", "students"),
    [
        # all ties
        ({"d0": "x", "d1": "y"}, {"q": {"d1": 1}}, {"q": [("d0", 1.0), ("d1", 1.0)]}, {}, {}, ("phase2",)),
        # nobody differs, and several queries
        ({"d0": "x"}, {"a": {"d0": 1}, "b": {"d0": 1}}, {"a": [("d0", 1.0)], "b": [("d0", 1.0)]}, {}, {}, ("phase2",)),
        # queries without candidates
        ({"d0": "x"}, {"a": {"d0": 1}, "b": {"d0": 1}}, {"a": [("d0", 1.0)]}, {"x": 1.0}, {}, ("phase1", "phase2")),
        # no teacher, no latency, no student
        (*ONE, {"teacher": False, "latency_queries": 0}, ("phase2",)),
        (*ONE, {"teacher": False}, ()),
        # negative grades, and more of one than of the candidates
        ({"d0": "x", "d1": "y"}, {"q": {"d0": -1, "d1": 3}}, {"q": [("d0", 2.0), ("d1", 1.0)]}, {"y": 1.0}, {}, ("phase2",)),
        # measures that count, and measures that are 0 everywhere
        (*ONE, {"measures": ("NumRet", "nDCG@10")}, ("phase2",)),
        (*ONE, {"measures": ("P(rel=9)@5", "nDCG@10")}, ("phase2",)),
        # scores at the ends of what a float holds
        ({"d0": "x", "d1": "y"}, {"q": {"d1": 1}}, {"q": [("d0", 1.0), ("d1", 0.5)]}, {"x": -1e300, "y": 1e300}, {}, ("phase2",)),
    ],
    ids=["ties", "level", "no candidates", "no teacher", "no student", "negative grade", "counts", "zeros", "ends"],
)  # fmt: skip
def test_small_evaluations_have_a_page(
    tmp_path: Path, docs: dict, qrels: dict, ranked: dict, logits: dict, config: dict, students: tuple[str, ...]
) -> None:
    summary, _ = run(tmp_path, docs, qrels, ranked, logits, EvaluateConfig(**config), students)
    assert set(students) <= set(summary["systems"]) and list(summary["datasets"]) == ["tiny"]


def test_a_measure_without_a_value_is_one_line_before_anything_is_scored(tmp_path: Path, monkeypatch) -> None:
    from inranker_flow.evaluation import measures

    real = measures.per_query

    def undefined(wanted, qrels, run):
        found = real(wanted, qrels, run)
        return {
            name: {q: float("nan") if name == "RR@10" else v for q, v in each.items()} for name, each in found.items()
        }

    monkeypatch.setattr(measures, "per_query", undefined)
    with pytest.raises(
        UserError, match=r"evaluation\.measures: RR@10 has no value for 1 of the 1 .* of tiny"
    ) as caught:
        run(tmp_path, *ONE)
    assert "\n" not in str(caught.value) and not (tmp_path / "e").exists()


@pytest.mark.parametrize("content", ["{", "\x00", "[1", '{"a": }'])
def test_a_damaged_record_of_a_training_is_one_line_before_anything_is_scored(tmp_path: Path, content: str) -> None:
    world = World(tmp_path)
    (world.students["phase1"] / "training.json").write_text(content)
    with refuses("model-foreign", "training.json") as caught:
        world.evaluate()
    assert "\n" not in str(caught.value) and world.loads == []


def test_an_empty_target_is_told_and_the_others_are_measured(tmp_path: Path) -> None:
    world = World(tmp_path)
    empty = tmp_path / "empty"
    tables.write(tables.CORPUS, empty / "corpus.parquet", {"doc_id": [], "title": [], "text": []})
    nothing = {"query_id": [], "text": [], "origin": [], "source_doc_id": []}
    tables.write(tables.QUERIES, empty / "queries.parquet", nothing)
    tables.write(tables.QRELS, empty / "qrels.parquet", {"query_id": [], "doc_id": [], "relevance": []})
    write_manifest(empty, dataset="empty", stage="prepare_corpus")
    found = make_candidates(tmp_path / "none", "empty", {})
    stats = world.evaluate(collections=[*world.collections, empty], candidates=[*world.candidates, found])
    assert (stats.datasets, world.summary()["skipped"]["empty"]) == (2, "no judged test queries")


# --- one measurement for each shape -------------------------------------------------------------------------------------


def shaped(folder: Path, **changed: object) -> None:
    config = {"model_type": "t5", "d_model": 48, "num_layers": 2, "eos_token_id": 1, "dropout_rate": 0.1, **changed}
    (folder / "config.json").write_text(json.dumps(config))


def test_systems_of_one_shape_share_one_measurement(tmp_path: Path) -> None:
    world = World(tmp_path)
    champion = make_model(tmp_path / "champion", "old")
    world.rankers[str(champion)] = ByText({})
    shaped(world.students["phase1"])
    shaped(world.students["phase2"], eos_token_id=2, dropout_rate=0.0, transformers_version="9")
    shaped(champion, num_layers=3)
    world.evaluate(champion=str(champion))
    found = world.summary()["models"]
    calls = {name: len(world.rankers[str(folder)].calls) for name, folder in world.students.items()}
    assert calls == {"phase1": 1 + 21, "phase2": 1} and len(world.rankers[str(champion)].calls) == 1 + 21
    assert [found[name]["timed_as"] for name in ("phase1", "phase2", "champion")] == ["", "phase1", ""]
    for key in ("latency_median_ms", "latency_p95_ms", "latency_queries", "pairs_per_second"):
        assert found["phase2"][key] == found["phase1"][key], key
    assert "same shape as Phase 1, so timed once for both" in text_of((tmp_path / "out" / "report.html").read_text())


def test_a_model_of_one_shape_that_reads_otherwise_is_timed_by_itself(tmp_path: Path) -> None:
    world = World(tmp_path)
    for name, length in (("phase1", 32), ("phase2", 64)):
        shaped(world.students[name])
        said = {"max_length": length, "truncation": "document", "true_token": "a", "false_token": "b"}
        (world.students[name] / "scoring.json").write_text(json.dumps(said))
    world.evaluate()
    assert world.summary()["models"]["phase2"]["timed_as"] == ""
    assert {scoring.max_length for _, scoring, _ in world.loads[:2]} == {32, 64}


def test_a_shape_is_sizes_and_tokenizer(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
        shaped(tmp_path / name)
    shaped(tmp_path / "b", d_model=64)
    (tmp_path / "c" / "tokenizer.json").write_text("{}")
    (tmp_path / "d" / "model.safetensors").write_text("weights do not count")
    a, b, c, d = (serving_cost.shape(tmp_path / name) for name in "abcd")
    assert a == d and len({a, b, c}) == 3
    for content in ("", "[]", "{}", "\xff"):
        (tmp_path / "a" / "config.json").write_text(content, encoding="latin-1")
        assert serving_cost.shape(tmp_path / "a") == ""


# --- what the page says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "p", "note"),
    [
        ([-0.2] * 5, 0.001, "significantly: 5 worse"),
        ([0.2] * 5, 0.001, "significantly: 5 better"),
        ([0.2, 0.1, -0.1, 0.0, 0.2], 0.001, "significantly: 3 better, 1 worse, 1 neither"),
        ([-0.2] * 5, 0.4, "significantly: 5 neither"),
        ([-0.2], 0.001, "significantly worse"),
        ([0.2], 0.001, "significantly better"),
        ([0.2], 0.4, "not significant"),
    ],
)
def test_the_tile_says_better_worse_and_neither(differences: list[float], p: float, note: str) -> None:
    datasets = {f"d{i}": {"bm25": 0.5, "phase2": 0.5 + each} for i, each in enumerate(differences)}
    text = text_of(render(make_summary(datasets, p=p)))
    assert f"{note} " in text and "significant on" not in text


def test_the_page_says_how_models_were_read() -> None:
    summary = make_summary({"d": {**RISING, "champion": 0.9}})
    reads = {"max_length": 64, "truncation": "document", "true_token": "a", "false_token": "b"}
    for name, words in (("phase1", 0), ("phase2", 0), ("champion", 120)):
        summary["models"][name] |= {"reads": reads, "served": {"passage_words": words}}
    text = text_of(render(summary))
    assert "Phase 1 and Phase 2 read 64 tokens, as they serve. Champion read 64 tokens, passages of 120 words" in text


def test_curves_with_holes() -> None:
    training = {"loss": "mse", "steps": 1, "best_step": 1, "train": [[1, 0.0]], "heldout": [[0, 0.0, None]]}
    assert "Kendall's tau not defined" in curve_svg("phase1", training, ["bm25"])


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "none dropped"),
        ({"copied": 0, "leaked": 0}, "none dropped"),
        ({"copied": 2, "leaked": 0, "short": 1}, "2 copied, 1 short dropped"),
    ],
)
def test_what_was_dropped_is_said_in_words(counts: dict, said: str) -> None:
    assert _sentence(counts) == said


@pytest.mark.parametrize(
    "missing", ["revision", "prompt", "sampling", "versions", "backend", "tokens_per_second", "counts"]
)
def test_the_page_of_generated_queries_has_no_empty_numbers(missing: str) -> None:
    details = {
        "generator": "t5", "revision": "r1", "prompt": "inpars", "sampling": {"sampling": "uniform"}, "backend": "vllm",
        "versions": {"vllm": "1"}, "tokens_per_second": 12.0, "counts": {"kept": 3},
    }  # fmt: skip
    whole = generation_report.markdown("toy", details)
    assert (
        "t5 r1, prompt inpars. sampling uniform." in whole and "Backend vllm (vllm 1), 12 tokens per second." in whole
    )
    for hole in ({k: v for k, v in details.items() if k != missing}, {**details, missing: type(details[missing])()}):
        page = generation_report.markdown("toy", hole)
        assert not any(bad in page for bad in ("()", " ,", " .", "..", ", ,", "prompt .", "None", "( "))


def test_equal_scores_of_every_system_are_level(tmp_path: Path) -> None:
    docs = {f"d{i}": f"t{i}" for i in range(3)}
    ranked = {f"q{i}": [(f"d{n}", 1.0) for n in range(3)] for i in range(4)}
    summary, text = run(tmp_path, docs, {f"q{i}": {"d1": 1} for i in range(4)}, ranked, {})
    assert {row["p"] for row in summary["comparisons"]} == {1.0} and np.isfinite(summary["average"]["bm25"]["nDCG@10"])
    assert "level with" in text
