"""Students of every kind through training, measurement, gate, registry and serving: one follows another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from inranker_flow import reading
from inranker_flow.commands import champion as by_hand
from inranker_flow.config.sections import DistillConfig, EvaluateConfig, PromoteConfig, TeacherConfig
from inranker_flow.model_registry import history, registry, stored_files
from inranker_flow.reranker import Reranker
from inranker_flow.stages.distill import distill
from inranker_flow.stages.evaluate import evaluate
from tests import models, starts
from tests.promoting import promote, use_database
from tests.unit.test_distillation import training_set
from tests.unit.test_evaluation import make_candidates, make_collection
from tests.unit.test_labelling import DOCUMENTS, NOUNS

QUERIES = {f"q{i}": f"what is a {NOUNS[i % len(NOUNS)]} and number {i}" for i in range(24)}
RANKED = {f"q{i}": [(f"d{(5 * i + k) % 40}", 9.0 - k) for k in range(7)] for i in range(24)}
#: Each serves in its turn.
LINE = ("t5", "bert", "llama", "modernbert", "t5")
CONFIG = DistillConfig(max_length=64, max_steps=1, learning_rate=1e-4, warmup_steps=1, batch_size=16, dropout=0.0)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    use_database(tmp_path)
    yield
    mlflow.set_tracking_uri(None)


def best_for(ranker: Reranker) -> dict[str, dict[str, int]]:
    """Judgements after which ``ranker`` is perfect: of each query its first passage is relevant."""
    found = {}
    for query, ranked in RANKED.items():
        scores = ranker.score([(QUERIES[query], DOCUMENTS[doc]) for doc, _ in ranked])
        found[query] = {ranked[int(np.argmax(scores))][0]: 1}
    return found


def test_a_champion_of_one_kind_is_succeeded_by_one_of_another(database: None, tmp_path: Path) -> None:
    labels = training_set(tmp_path / "labels")
    candidates = make_candidates(tmp_path / "candidates", "toy", RANKED)
    serving, kinds = "", []
    for number, name in enumerate(LINE):
        start, kind = starts.ALL[name]()
        folder = tmp_path / str(number)
        config = replace(CONFIG, checkpoint=start, seed=number, learning_rate=1e-4 * (number + 1))
        distill(config, [labels], None, folder / "model")
        ours = Reranker(folder / "model")
        collection = make_collection(folder / "collection", "toy", DOCUMENTS, QUERIES, best_for(ours))
        evaluate(
            EvaluateConfig(teacher=False, latency_queries=1), TeacherConfig(models.t5(seed=3)), [collection], [candidates],
            [labels], {"phase2": folder / "model"}, serving, folder / "evaluation", folder / "report.html",
        )  # fmt: skip
        measured = json.loads((folder / "evaluation" / "summary.json").read_text())
        assert measured["models"]["phase2"]["reads"]["kind"] == kind
        assert measured["datasets"]["toy"]["systems"]["phase2"]["means"]["nDCG@10"] == 1.0
        assert measured["models"]["phase2"]["size_mb"] > 0 and measured["models"]["phase2"]["latency_median_ms"] > 0
        if serving:
            assert measured["models"]["champion"]["reads"]["kind"] == kinds[-1]
            assert measured["datasets"]["toy"]["systems"]["champion"]["means"]["nDCG@10"] < 1.0
        policy = PromoteConfig(model_name="line", max_loss=1.0)
        stats = promote("line", folder / "model", folder / "evaluation", serving, f"k{number}", policy=policy)
        assert (stats.verdict, stats.version) == ("PROMOTE", str(number + 1))
        serving, kinds = f"models:/line/{number + 1}", [*kinds, kind]
        assert_served(serving, kind, ours)
        page = (folder / "evaluation.html").read_text()
        assert "<strong>PROMOTE</strong>" in page and "monot5" not in page.lower()

    assert "version 4 serves now, in place of 5" in by_hand.rollback("line", "the fifth is slow")
    assert reading.of_folder(stored_files.fetch("models:/line@champion")).kind == "encoder"
    assert "version 3 serves now, in place of 4" in by_hand.promote("line", "3", "a causal one, by hand")
    assert reading.of_folder(stored_files.fetch("models:/line@champion")).kind == "causal"
    assert [entry.kind for entry in history.read("line")] == ["PROMOTE"] * 5 + ["ROLLBACK", "MANUAL"]


def assert_served(reference: str, kind: str, ours: Reranker) -> None:
    """The registered version loads through MLflow and here, gives the folder's scores, and its card says its kind."""
    import mlflow

    by_hand.check(registry.version(*reference.removeprefix("models:/").split("/")))
    query, passages = "where is the moon", ["a garden", "the moon and the river " * 30, "bread"]
    expected = ours.score([(query, passage) for passage in passages])
    rows = pandas.DataFrame([{"query": query, "passages": passages}])
    [found] = mlflow.pyfunc.load_model(reference).predict(rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    loaded = Reranker(reference).score([(query, passage) for passage in passages])
    np.testing.assert_allclose(loaded, expected, atol=1e-5)
    folder = stored_files.fetch(reference)
    assert reading.of_folder(folder).kind == kind
    assert ("A monoT5 reranker" in (folder / "README.md").read_text()) == (kind == "monot5")


@pytest.mark.parametrize(("phase1", "serving"), [("t5", "bert"), ("modernbert", "llama"), ("llama", "t5")])
def test_phase_2_goes_on_from_a_champion_of_another_kind(
    phase1: str, serving: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = training_set(tmp_path / "labels")
    for name, start in (("phase1", phase1), ("champion", serving)):
        distill(replace(CONFIG, checkpoint=starts.ALL[start]()[0]), [labels], None, tmp_path / name)
    monkeypatch.setattr(stored_files, "fetch", lambda reference: {"models:/m/3": tmp_path / "champion"}[reference])
    config = replace(CONFIG, learning_rate=1e-12, start="champion")
    distill(config, [labels], tmp_path / "phase1", tmp_path / "phase2", champion="models:/m/3")
    pairs = [("where is the moon", text) for text in ("a garden", "the moon and the river")]
    scores = [Reranker(tmp_path / name).score(pairs) for name in ("phase2", "champion")]
    np.testing.assert_allclose(*scores, atol=1e-5)
    record = json.loads((tmp_path / "phase2" / "training.json").read_text())
    assert record["reads"]["kind"] == starts.ALL[serving]()[1]
    assert [each["start"] for each in record["lineage"]] == [starts.ALL[serving]()[0]]
