"""The same systems on the candidates of several first stages, in one evaluation; the gate asks on those that it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inranker_flow import profiles
from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, EvaluateConfig, PrepareConfig, PromoteConfig, TeacherConfig
from inranker_flow.evaluation import gate
from inranker_flow.stages.evaluate import evaluate
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.promote import _decide
from inranker_flow.stages.retrieve import retrieve
from tests import beir, starts
from tests.refusals import refuses

#: What another retriever finds for the two test queries: other passages than BM25 does.
RUN = "q2 Q0 d4 1 9.5 own\nq2 Q0 d3 2 8.5 own\nq2 Q0 d1 3 1.0 own\n"


@pytest.fixture
def candidates(tmp_path) -> tuple[Path, Path]:
    folder = beir.write(tmp_path / "beir", {"own.trec": RUN.encode()})
    collection = tmp_path / "collection"
    prepare_corpus(PrepareConfig(), CorpusConfig(uri=str(folder), name="sample", runs=("own.trec",)), collection)
    found = tmp_path / "candidates"
    stats = retrieve(RetrieveConfig(also=("run",), test_depth=10, negatives=1), collection, None, found)
    assert stats.run_rows == 1, "of the first stage that training is by"
    return collection, found


def measured(tmp_path: Path, candidates: tuple[Path, Path]) -> dict:
    collection, found = candidates
    student = Path(starts.student("bert"))
    stats = evaluate(
        EvaluateConfig(measures=("nDCG@10", "RR@10"), teacher=False, latency_queries=0), TeacherConfig("none"),
        [collection], [found], [], {"phase2": student}, "", tmp_path / "evaluation", tmp_path / "report.html",
    )  # fmt: skip
    assert (stats.datasets, stats.queries, stats.pairs) == (1, 1, 4)
    assert stats.metrics["nDCG@10/sample@run/run"] < stats.metrics["nDCG@10/sample/bm25"]
    return json.loads((tmp_path / "evaluation" / "summary.json").read_text())


def test_each_first_stage_has_candidates_of_its_own(candidates):
    _, found = candidates
    assert [row["doc_id"] for row in tables.read(tables.RUN, found).to_pylist()] == ["d3"]
    other = tables.read(tables.RUN, found / "also" / "run").to_pylist()
    assert [row["doc_id"] for row in other] == ["d4", "d3", "d1"]
    details = read_manifest(found).details
    assert details["first_stage"]["kind"] == "bm25" and [each["kind"] for each in details["also"]] == ["run"]
    # Pairs to train on are the first one's alone.
    assert len(tables.read(tables.PAIRS, found)) <= 4


def test_systems_are_measured_side_by_side(tmp_path, candidates):
    summary = measured(tmp_path, candidates)
    assert list(summary["datasets"]) == ["sample"] and list(summary["further"]) == ["sample@run"]
    first, other = summary["datasets"]["sample"], summary["further"]["sample@run"]
    assert first["systems"]["bm25"]["means"]["RR@10"] == 1.0, "BM25 finds d3 alone"
    assert other["systems"]["run"]["means"]["RR@10"] == 0.5, "the run has it second"
    assert other["first_stage"] == "the run files"
    assert other["pairs"] == 3 and other["ceiling"]["means"]["RR@10"] == 1.0
    assert list(summary["average"]["bm25"]) == ["nDCG@10", "RR@10"] and summary["average"]["bm25"]["RR@10"] == 1.0
    assert {each["dataset"] for each in summary["comparisons"]} == {"sample"}
    page = (tmp_path / "report.html").read_text()
    assert "On the candidates of each first stage" in page and "the run files" in page
    assert (tmp_path / "evaluation" / "runs" / "sample@run.phase2.trec").is_file()


def test_the_gate_asks_on_the_candidates_that_the_policy_names(tmp_path, candidates):
    summary = measured(tmp_path, candidates)
    for name, told in (("", 1.0), ("bm25", 1.0), ("run", 0.5)):
        policy = PromoteConfig(candidates=name, measure="RR@10", min_queries=1)
        decided = _decide(policy, tmp_path / "evaluation", summary, "", {})
        table = tables.read(tables.MEASURES, tmp_path / "evaluation")
        asked = "run" if name == "run" else ""
        values = gate.on_candidates(gate.from_measures(table, asked or "bm25", "RR@10"), asked)
        assert values == {"sample": {"q2": told}}
        assert decided.against == "bm25" and decided.verdict in ("HOLD", "REJECT")
        assert {reason.code for reason in decided.reasons} != {"no_dataset"}


def test_a_policy_about_candidates_that_nobody_finds_is_refused():
    with refuses("setting-conflict", "promotion.candidates", "retrieval.also"):
        profiles.load("demo", {"promotion.candidates": "dense"})
    with refuses("setting-conflict", "retrieval.also"):
        profiles.load("demo", {"retrieval.also": ["bm25"]})
    with refuses("setting-conflict", "retrieval.also", "twice"):
        profiles.load("demo", {"retrieval.also": ["run", "run"], "source.runs": ["a"]})
    with refuses("setting-missing", "retrieval.dense.checkpoint"):
        profiles.load("demo", {"retrieval.also": ["dense"]})
