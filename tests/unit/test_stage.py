"""The wrapper, with real KFP artifacts and a real MLflow database."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from kfp import dsl

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.errors import UserError
from inranker_flow.execution.run_stage import run_stage
from inranker_flow.store import unfinished
from inranker_flow.tracking import connection
from inranker_flow.tracking.parents import close_parent, open_parent, own_parent
from inranker_flow.tracking.runs import pipeline_run, stage_run
from tests.databases import new_database


@dataclass(frozen=True)
class Stats:
    rows: int
    speed: float
    note: str = "text is no metric"


def toy(config: RetrieveConfig, collection: Path, extra: list[Path], candidates: Path, page: Path) -> Stats:
    candidates.mkdir()
    rows = {"query_id": ["q"], "doc_id": ["d"], "relevance": [config.depth]}
    tables.write(tables.QRELS, candidates / "qrels.parquet", rows)
    write_manifest(candidates, dataset=read_manifest(collection).dataset, stage="toy", extra=len(extra))
    page.write_text("<p>report</p>")
    return Stats(1, 2.5)


def listing(corpora: tuple[CorpusConfig, ...], room: dict) -> Stats:
    return Stats(len(corpora), 0.5, ",".join([*(each.name for each in corpora), *room]))


def refusing(config: RetrieveConfig, collection: Path) -> Stats:
    raise UserError("corpus.jsonl line 7: no _id;\n  add one")


def breaking(config: RetrieveConfig, collection: Path) -> Stats:
    raise ZeroDivisionError("division by zero")


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_database(tmp_path / "mlflow.db"))
    monkeypatch.setenv("INRANKER_ARTIFACT_ROOT", (tmp_path / "mlartifacts").as_uri())
    monkeypatch.setenv("INRANKER_EVENTS", str(tmp_path / "events.jsonl"))
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield tmp_path
    mlflow.set_tracking_uri(None)


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "collection"
    folder.mkdir()
    tables.write(tables.CORPUS, folder / "corpus.parquet", {"doc_id": ["d"], "title": [""], "text": ["x"]})
    write_manifest(folder, dataset="vaswani", stage="prepare_corpus")
    return dsl.Dataset(uri=str(folder))


def _events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_a_stage_gets_paths_and_leaves_metrics_metadata_and_a_run(tracked, collection):
    out, page = dsl.Dataset(uri=str(tracked / "o" / "candidates")), dsl.HTML(uri=str(tracked / "o" / "page"))
    metrics = dsl.Metrics(uri=str(tracked / "o" / "metrics"))
    with pipeline_run("inranker", {"seed": 1}) as parent:
        run_stage(
            toy,
            configs={"config": {"depth": 30.0}},
            inputs={"collection": collection, "extra": [collection, collection]},
            outputs={"candidates": out, "page": page},
            metrics=metrics,
        )
    assert tables.read(tables.QRELS, out.path)["relevance"].to_pylist() == [30]
    assert out.metadata["dataset"] == "vaswani" and len(out.metadata["digest"]) == 16
    assert metrics.metadata["rows"] == 1 and json.loads(Path(metrics.path).read_text())["speed"] == 2.5

    client = connection.client()
    runs = client.search_runs([connection.experiment_id(client)])
    child = next(run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent)
    assert len(runs) == 2 and {run.info.status for run in runs} == {"FINISHED"}
    assert child.data.params["config.depth"] == "30"
    assert child.data.metrics["rows"] == 1 and "seconds" in child.data.metrics
    assert child.data.tags["inranker.stage"] == "toy" and child.data.tags["inranker.dataset"] == "vaswani"
    assert child.data.tags["digest.candidates"].startswith(out.metadata["digest"])
    assert [each.dataset.name for each in child.inputs.dataset_inputs][0] == "vaswani.collection"
    for run_id in (child.info.run_id, parent):
        assert "page.html" in [each.path for each in client.list_artifacts(run_id)]
    (event,) = _events(tracked)
    assert (event["stage"], event["dataset"], event["stats"]["rows"]) == ("toy", "vaswani", 1)
    assert event["inputs"] == {"collection": collection.path, "extra": [collection.path] * 2}
    assert event["outputs"] == {"candidates": out.path, "page": page.path}


def test_a_run_that_kfp_injected_is_joined(tracked, collection, monkeypatch):
    client = connection.client()
    run_id = client.create_run(connection.experiment_id(client)).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    out, page = dsl.Dataset(uri=str(tracked / "candidates")), dsl.HTML(uri=str(tracked / "page"))
    run_stage(
        toy,
        configs={"config": {}},
        inputs={"collection": collection, "extra": []},
        outputs={"candidates": out, "page": page},
    )
    (run,) = client.search_runs([connection.experiment_id(client)])
    assert run.info.run_id == run_id and run.data.metrics["rows"] == 1
    assert run.info.status == "RUNNING", "whoever started the run ends it"


@pytest.mark.parametrize(
    ("stage", "configs", "message"),
    [
        (refusing, {"config": {}}, "corpus.jsonl line 7: no _id; add one"),
        (breaking, {"config": {}}, "ZeroDivisionError: division by zero (unexpected"),
        (refusing, {"config": {"dept": 3}}, "config.dept: unknown key; did you mean 'depth'?"),
    ],
)
def test_a_failure_is_one_last_line_and_a_status(tracked, collection, capsys, stage, configs, message):
    with pytest.raises(SystemExit) as ended:
        run_stage(stage, configs=configs, inputs={"collection": collection})
    assert ended.value.code == 2
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "FAILED: " in last and message in last
    assert message in _events(tracked)[-1]["error"]
    client = connection.client()
    assert {run.info.status for run in client.search_runs([connection.experiment_id(client)])} <= {"FAILED"}


def test_a_list_of_sections_is_parsed_and_the_stats_come_back(tracked):
    corpora = [{"uri": "demo:source/1", "name": "inns"}, {"uri": "demo:target/1", "name": "medicines"}]
    stats = run_stage(listing, configs={"corpora": corpora}, room={"cpu": "8"})
    assert stats == Stats(2, 0.5, "inns,medicines,cpu")
    client = connection.client()
    (run,) = client.search_runs([connection.experiment_id(client)])
    logged = json.loads(run.data.params["corpora"])
    assert logged == [as_dict(CorpusConfig(**each)) for each in corpora], "with the defaults, which KFP is not told"


@pytest.mark.parametrize(
    ("corpora", "message"),
    [
        ([{"uri": "a", "name": "b"}, {"uri": "a"}], "corpora[1].name: missing"),
        ([{"uri": "a", "nmae": "b"}], "corpora[0].nmae: unknown key; did you mean 'name'?"),
        ({"uri": "a", "name": "b"}, "corpora: expected a list"),
    ],
)
def test_a_bad_list_of_sections_is_refused_by_place(tracked, capsys, corpora, message):
    with pytest.raises(SystemExit):
        run_stage(listing, configs={"corpora": corpora}, room={})
    assert f"FAILED: {message}" in capsys.readouterr().out


def test_an_untracked_stage_works_where_mlflow_does_not(tracked, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run_stage(listing, configs={"corpora": []}, tracked=False, room={}).rows == 0
    (event,) = _events(tracked)
    assert event["stats"]["rows"] == 0 and "error" not in event


def test_stages_of_a_cluster_run_find_their_parent_and_those_of_others_do_not(tracked, collection, monkeypatch):
    parent = open_parent("run-1", "inranker run-1")
    assert open_parent("run-1", "again") == parent
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "run-1")
    with stage_run("retrieve") as ours:
        ours.log_metrics({"rows": 1}, headline={"nDCG@10": 0.5})
    client = connection.client()
    assert client.get_run(parent).data.metrics == {"nDCG_at_10": 0.5}, "headlines are the parent's too"
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "run-2")
    with stage_run("retrieve") as others:
        assert (ours.parent_id, others.parent_id) == (parent, "")
    close_parent("run-2", "FINISHED")  # nobody opened one
    assert client.get_run(parent).info.status == "RUNNING"
    monkeypatch.setenv("INRANKER_PARENT_RUN_ID", others.run_id)
    assert own_parent() == "", "`make run` brings its own"
    with stage_run("retrieve") as local:
        assert local.parent_id == others.run_id


def test_an_mlflow_server_that_does_not_answer_is_told_in_seconds(tmp_path):
    script = "from inranker_flow.tracking import connection; connection.client()"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**__import__("os").environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=200,  # MLflow's own client would try for more than four minutes
    )
    assert ended.returncode != 0
    assert "NoAnswer: MLFLOW_TRACKING_URI: no MLflow server answers at http://127.0.0.1:9" in ended.stderr


def long_one(config: RetrieveConfig, collection: Path, candidates: Path) -> Stats:
    """A stage whose unfinished work lies below the store until it is done."""
    place = unfinished.place("toy", config.depth)
    stats = toy(config, collection, [], candidates, candidates.parent / "page")
    unfinished.save(candidates / "qrels.parquet", place, 1)
    unfinished.remove(place)
    return stats


def test_what_a_stage_kept_outlives_it_until_its_output_is_safe(tmp_path, collection, monkeypatch):
    """A pod that is lost while it uploads has lost its output: the next one needs the checkpoint still."""
    store = tmp_path / "store"
    monkeypatch.setenv("INRANKER_STORE", str(store))
    (tmp_path / "file").touch()

    def run(name: str) -> None:
        out = dsl.Dataset(uri=str(tmp_path / name / "candidates"))
        given = {"configs": {"config": {"depth": 30}}, "inputs": {"collection": collection}}
        run_stage(long_one, tracked=False, outputs={"candidates": out}, **given)

    monkeypatch.setenv("INRANKER_ARTIFACTS", str(tmp_path / "file" / "artifacts"))
    with pytest.raises(SystemExit):
        run("lost")
    assert len(list(unfinished.left(str(store)))) == 1
    monkeypatch.delenv("INRANKER_ARTIFACTS")
    run("safe")
    assert not list(unfinished.left(str(store)))
