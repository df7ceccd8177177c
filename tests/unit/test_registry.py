"""The registry, on a real MLflow database with a real T5 student."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from inranker_flow import promote, registry, schemas, tracking
from inranker_flow.config import PromoteConfig
from inranker_flow.errors import UserError
from inranker_flow.manifest import write_manifest

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"}
PASSAGES = ["the inn lies on the hill", "a cure for the cough", ""]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    import mlflow

    folder = tmp_path_factory.mktemp("mlflow")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    patch.setenv("INRANKER_ARTIFACT_ROOT", (folder / "mlartifacts").as_uri())
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    yield folder
    mlflow.set_tracking_uri(None)
    patch.undo()


def _student(folder, seed: int):
    from inranker_flow.rankers.checkpoints import load_seq2seq

    model, tokenizer = load_seq2seq(f"init:tiny?seed={seed}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = {"max_length": 128, "truncation": "document", "true_token": "▁true", "false_token": "▁false"}
    (folder / "training.json").write_text(json.dumps({"config": config, "versions": VERSIONS}))
    write_manifest(folder, dataset="medicines", stage="distill_phase2")
    return folder


def _evaluation(folder, **systems: float):
    folder.mkdir()
    queries = [f"q{i}" for i in range(30)]
    rows = {"dataset": [], "system": [], "measure": [], "query_id": [], "value": []}
    for system, value in systems.items():
        rows["dataset"] += ["medicines"] * 30
        rows["system"] += [system] * 30
        rows["measure"] += ["nDCG@10"] * 30
        rows["query_id"] += queries
        rows["value"] += [value] * 30
    schemas.write(schemas.MEASURES, folder / "measures.parquet", rows)
    (folder / "summary.json").write_text(json.dumps({"models": {"phase2": {}}, "leaks": {"queries": 0, "found": []}}))
    write_manifest(folder, dataset="medicines", stage="evaluate")
    return folder


def _promote(config, student, evaluation, champion, run_key, decision):
    report = evaluation.with_name(f"{evaluation.name}.html")
    report.write_text("<p>the evidence</p>")
    return promote.promote(config, student, evaluation, report, champion, run_key, decision)


def test_from_first_model_to_champion_to_a_refused_challenger(database, tmp_path):
    config = PromoteConfig(model_name="toy")
    first, second, third = (_student(tmp_path / f"student{i}", i) for i in range(3))

    stats = _promote(config, first, _evaluation(tmp_path / "e1", bm25=0.2, phase2=0.6), "", "k1", tmp_path / "d1")
    assert (stats.verdict, stats.promoted, stats.version) == ("PROMOTE", 1, "1")
    serving = registry.champion("toy")
    assert serving.reference == "models:/toy/1"
    assert serving.tags["run_key"] == "k1" and serving.tags["inranker.against"] == ""
    decision = json.loads((tmp_path / "d1" / "decision.json").read_text())
    assert decision["verdict"] == "PROMOTE" and decision["against"] == "bm25" and decision["reasons"]
    run_id = tracking.client().get_model_version("toy", "1").run_id
    assert "report.html" in [each.path for each in tracking.client().list_artifacts(run_id)], (
        "the evidence stays beside"
    )

    worse = _evaluation(tmp_path / "e2", bm25=0.2, phase2=0.5, champion=0.6)
    stats = _promote(config, second, worse, "models:/toy/1", "k2", tmp_path / "d2")
    assert (stats.verdict, stats.version) == ("REJECT", "2")
    assert registry.champion("toy").version == "1"
    assert tracking.client().get_model_version_by_alias("toy", "challenger").version in ("2", 2)

    better = _evaluation(tmp_path / "e3", bm25=0.2, phase2=0.7, champion=0.6)
    stats = _promote(config, third, better, "models:/toy/1", "k3", tmp_path / "d3")
    assert (stats.verdict, stats.version) == ("PROMOTE", "3") and registry.champion("toy").version == "3"

    # The same work again (its outputs were lost): the same version, no copy.
    again = _promote(config, third, better, "models:/toy/1", "k3", tmp_path / "d4")
    assert (again.verdict, again.version) == ("PROMOTE", "3")

    # Other code makes the champion again: no gain over itself, and its record is not rewritten.
    same = _evaluation(tmp_path / "e4", bm25=0.2, phase2=0.7, champion=0.7)
    again = _promote(config, third, same, "models:/toy/3", "k9", tmp_path / "d6")
    serving = registry.champion("toy")
    assert (again.verdict, serving.version) == ("HOLD", "3")
    assert (serving.tags["run_key"], serving.tags["inranker.verdict"]) == ("k3", "PROMOTE")

    # Measured against a champion that no longer serves: nothing moves, however good it looks.
    fourth = _student(tmp_path / "student4", 4)
    stats = _promote(config, fourth, better, "models:/toy/1", "k4", tmp_path / "d5")
    assert stats.verdict == "HOLD" and registry.champion("toy").version == "3"
    assert (
        "became champion after this evaluation began"
        in json.loads((tmp_path / "d5" / "decision.json").read_text())["reasons"][0]["message"]
    )


def test_a_champion_that_was_not_measured_is_refused(database, tmp_path):
    student = _student(tmp_path / "student", 9)
    with pytest.raises(UserError, match="no nDCG@10 of the champion models:/toy2/1"):
        _promote(
            PromoteConfig(model_name="toy2"),
            student,
            _evaluation(tmp_path / "e", bm25=0.2, phase2=0.6),
            "models:/toy2/1",
            "k",
            tmp_path / "d",
        )
    assert registry.champion("toy2") is None and not (tmp_path / "d").exists()


def test_the_champion_loads_as_pyfunc_and_as_plain_folder_with_equal_scores(database, tmp_path):
    """In a fresh process that has no project on its path: the registered model brings its own code."""
    from inranker_flow.config import ScoringConfig
    from inranker_flow.rankers import load_ranker

    student = _student(tmp_path / "student", 5)
    serving = registry.Serving({"max_length": 128}, VERSIONS)
    registry.set_alias(
        registry.register("served", student, "digest", {}, serving, tracking.current_run_id("served")),
        registry.CHAMPION,
    )
    script = f"""
import json, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/served@champion")
rows = pandas.DataFrame([{{"query": "where is the inn", "passages": {PASSAGES!r}}}, {{"query": "x", "passages": []}}])
print(json.dumps(model.predict(rows)))
"""
    env = {key: value for key, value in __import__("os").environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    scores = json.loads(ended.stdout.splitlines()[-1])
    expected = load_ranker(str(student), ScoringConfig(max_length=128)).score(
        [("where is the inn", passage) for passage in PASSAGES]
    )
    assert scores[1] == []
    assert scores[0] == pytest.approx((expected[:, 1] - expected[:, 0]).tolist(), abs=1e-6)
    plain = load_ranker(str(registry.fetch("models:/served@champion")), ScoringConfig(max_length=128))
    assert (plain.score([("where is the inn", passage) for passage in PASSAGES]) == expected).all()
