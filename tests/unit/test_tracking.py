"""MLflow as people have it: its own client decides, and what is wrong is one line within seconds."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path

import mlflow
import pytest

from inranker_flow import progress
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.preflight.mlflow_server import check_mlflow
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.tracking import connection, curves, outcomes
from inranker_flow.tracking.runs import pipeline_run, stage_run
from inranker_flow.tracking.values import metric_name
from tests import beir
from tests.databases import new_database
from tests.http_server import Answer, HttpServer
from tests.refusals import refuses
from tests.servers import nobody

PASSWORD = "s3cret-of-anna"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A database of MLflow."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    new_database(path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    monkeypatch.setattr(connection, "_answered", set())
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    mlflow.set_tracking_uri(None)
    yield
    mlflow.set_tracking_uri(None)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        os.environ.pop(name, None)


@pytest.fixture
def database(made, tmp_path, monkeypatch):
    """Writes a database and names it as the one to use."""

    def use(content: bytes = made, name: str = "mlflow.db") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", connection.database_uri(path))
        monkeypatch.setenv("INRANKER_ARTIFACT_ROOT", (tmp_path / "artifacts").as_uri())
        return path

    return use


def answering(answer):
    server = HttpServer()
    server.answer = lambda request: answer(request) if callable(answer) else answer
    return server


REDIRECT = {"Location": "/login"}
REFUSALS = {
    "no password": (Answer(401, b"no"), "error code 401", "correct MLFLOW_TRACKING_USERNAME"),
    "another account": (Answer(403, {"error_code": "PERMISSION_DENIED", "message": "no"}), "PERMISSION_DENIED", "grant it"),
    "forbidden page": (Answer(403, b"<html>"), "error code 403", "grant it"),
    "login page": (Answer(200, b"<html>" + b"x" * 5000), "not in a valid JSON", "is no MLflow: a login page"),
    "redirect to a login page": (Answer(302, b"", REDIRECT), "error code 302", "give the address that it leads to"),
    "moved": (Answer(301, b"", {"Location": "https://127.0.0.1:9/"}), "error code 301", "give the address that it leads to"),
    "another program": (Answer(404, b"not here"), "error code 404", "no MLflow or an older one"),
    "older": (Answer(404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "x"}), "ENDPOINT_NOT_FOUND", "update that server"),
    "only GET": (Answer(405, b""), "error code 405", "no MLflow or an older one"),
    "internal error": (Answer(500, b"boom"), "too many 500", "see its log"),
    "bad gateway": (Answer(502, b"<html>bad gateway"), "too many 502", "a proxy in front of it"),
    "unavailable": (Answer(503, b""), "too many 503", "see its log"),
    "too often": (Answer(429, b""), "too many 429", "asked too often"),
    "garbage": (Answer(200, b"\x00\xff{"), "not in a valid JSON", "is no MLflow"),
    "a list": (Answer(200, []), "not in a valid JSON", "is no MLflow"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_a_server_says_is_one_line_with_a_remedy(kind, monkeypatch):
    answer, said, remedy = REFUSALS[kind]
    with answering(answer) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with pytest.raises(UserError) as caught:
            connection.client()
    message = str(caught.value)
    assert message.startswith(f"MLFLOW_TRACKING_URI: {server.url}: ") and said in message and remedy in message
    assert "\n" not in message and len(message) < 700
    assert len(server.requests) <= 2


def test_another_json_server_is_no_mlflow(monkeypatch):
    with answering(Answer(200, {"hello": 1})) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with refuses("registry-misbehaves"):
            check_mlflow()


def test_a_redirect_that_keeps_the_request_is_followed(monkeypatch):
    with answering(Answer(200, {"experiments": []})) as behind:
        location = f"{behind.url}/api/2.0/mlflow/experiments/search"
        with answering(Answer(308, b"", {"Location": location})) as server:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
            connection.client()
    assert [request.method for request in behind.requests] == ["POST"]


@pytest.mark.parametrize("kind", ["silent", "cut", "refused", "nowhere"])
def test_nobody_there_is_told_after_two_attempts(kind, monkeypatch):
    # The person's own setting decides how long is waited.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with nobody(kind if kind != "nowhere" else "refused") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url if kind != "nowhere" else "http://no-such-host.invalid")
        with refuses("server-no-answer"):
            connection.client()


def test_the_first_request_is_short_and_later_ones_are_patient_unless_somebody_has_set_it(monkeypatch):
    seen = []

    def look(request):
        seen.append({name: os.environ.get(name) for name in connection._FIRST})
        return Answer(200, {"experiments": []})

    with answering(look) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        client = connection.client()
        client.search_experiments()
        monkeypatch.setattr(connection, "_answered", set())  # as in a process of this one, which inherits
        connection.client()
        assert seen[0] == seen[2] == connection._FIRST
        assert seen[1] == {**connection._LATER, "MLFLOW_ALLOW_HTTP_REDIRECTS": None}
        monkeypatch.setattr(connection, "_answered", set())
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "33")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
        connection.client()
        assert seen[3]["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "33" and seen[3]["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"


@pytest.mark.parametrize("way", ["address", "variables", "token"])
def test_credentials_are_those_that_mlflow_knows_and_no_message_shows_them(way, monkeypatch):
    basic = "Basic " + base64.b64encode(f"anna:{PASSWORD}".encode()).decode()
    expected = f"Bearer {PASSWORD}" if way == "token" else basic

    def answer(request):
        right = request.headers.get("Authorization") == expected
        return (
            Answer(200, {"experiments": []})
            if right
            else Answer(401, f"not {request.headers.get('Authorization')}".encode())
        )

    with answering(answer) as server:
        address = server.url.replace("://", f"://anna:{PASSWORD}@") if way == "address" else server.url
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        if way == "variables":
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        if way == "token":
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", PASSWORD)
        assert connection.client().search_experiments() == []
        monkeypatch.setattr(connection, "_answered", set())
        server.answer = lambda request: Answer(
            401, f"not {request.headers.get('Authorization')} of {PASSWORD}".encode()
        )
        with pytest.raises(UserError) as caught:
            connection.client()
        assert PASSWORD not in str(caught.value) and basic.split()[1] not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("foo://bar", "give http://HOST:PORT of an MLflow server"),
        ("localhost:5000", "give http://HOST:PORT of an MLflow server"),
        ("./mlruns", "give http://HOST:PORT of an MLflow server"),
        ("file:///tmp/mlruns", "give http://HOST:PORT of an MLflow server"),
        ("http://[bad", "give http://HOST:PORT of an MLflow server"),
        ("http://host:port", "give http://HOST:PORT of an MLflow server"),
        ("mysql://anna:s3cret-of-anna@h/x", "install that database's driver"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_an_address_of_another_form_is_told_with_those_that_are_right(uri, says, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError) as caught:
        connection.client()
    assert says in str(caught.value) and "\n" not in str(caught.value) and PASSWORD not in str(caught.value)


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


NAMES = ["a b", "a%20b", "100%", "what?", "a#b", "ünï", "a@b:c", "a+b&c=d", "quote'\"s", "x;y"]


@pytest.mark.parametrize("name", NAMES)
def test_a_database_may_lie_in_a_folder_of_any_name(name, database, tmp_path):
    path = database(name=f"{name}/mlflow.db")
    mlflow_client = connection.client()
    run = mlflow_client.create_run(connection.experiment_id(mlflow_client)).info.run_id
    mlflow_client.set_terminated(run)
    assert names(tmp_path) == [name] and names(tmp_path / name) == ["mlflow.db"], "no folder of another name"
    with contextlib.closing(sqlite3.connect(path)) as opened:
        assert opened.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def test_a_relative_path_is_that_of_the_current_folder(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert connection.database_uri(Path("run/mlflow.db")) == f"sqlite:///{tmp_path}/run/mlflow.db"


@pytest.mark.parametrize("name", ["a b%20?#ü"])
def test_a_new_database_too(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    uri = connection.create_database(tmp_path / name / "mlflow.db")
    assert names(tmp_path) == [name] and names(tmp_path / name) == ["mlflow.db"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert connection.client().search_experiments()


def damaged(made: bytes) -> dict[str, bytes]:
    return {
        "half": made[: len(made) // 2],
        "overwritten": made[:4096] + b"\xff" * (len(made) - 4096),
        "text": b"hello, this is no database\n" * 100,
        "json": b'{"runs": []}' * 50,
    }


@pytest.mark.parametrize("kind", ["half", "overwritten", "text", "json"])
def test_a_damaged_database_is_told_with_the_ways_out(kind, database, made):
    database(damaged(made)[kind])
    with refuses("registry-refused") as caught:
        connection.client()
    assert "\n" not in str(caught.value) and "SQL:" not in str(caught.value)


def test_a_folder_and_a_file_on_the_way_are_told(database, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}")
    with refuses("registry-address"):
        connection.client()
    path = database()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/below/mlflow.db")
    with refuses("registry-address"):
        connection.client()
    with refuses("registry-address"):
        connection.create_database(path / "below" / "mlflow.db")


def test_a_database_of_another_version_is_told(database):
    path = database()
    with contextlib.closing(sqlite3.connect(path)) as opened:
        opened.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        opened.commit()
    with refuses("registry-refused"):
        connection.client()


def test_a_locked_database_is_told(database):
    path = database()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with refuses("registry-refused"):
            connection.client()


def test_a_database_that_may_only_be_read_is_told_when_it_is_to_be_written(database, monkeypatch):
    path = database()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{path}?mode=ro&uri=true")
    with refuses("registry-refused"), pipeline_run("x", {}):
        pass


@pytest.mark.parametrize("blank", ["", "   ", "\n"])
def test_an_empty_address_is_as_if_unset(blank, database, monkeypatch, tmp_path):
    database()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", blank)
    monkeypatch.chdir(tmp_path)
    assert variables.tracking_uri() == ""
    assert connection.client().search_experiments(), "in MLflow's own default, ./mlflow.db"
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", blank)
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "x")
    with refuses("registry-unset", "MLFLOW_TRACKING_URI"):
        check_mlflow()


# What a person does in MLflow's UI meanwhile


def test_a_deleted_experiment_is_told_with_the_way_back_before_anything_runs(database):
    database()
    mlflow_client = connection.client()
    number = mlflow_client.create_experiment(variables.experiment())
    mlflow_client.delete_experiment(number)
    for attempt in (check_mlflow, lambda: pipeline_run("x", {}).__enter__()):
        with pytest.raises(
            UserError,
            match=f"experiment inranker is deleted: .*restore --experiment-id {number}.*MLFLOW_EXPERIMENT_NAME",
        ):
            attempt()
    with refuses("experiment-deleted"), stage_run("retrieve"):
        pass


def test_another_experiment_is_the_way_round(database, monkeypatch):
    database()
    mlflow_client = connection.client()
    mlflow_client.delete_experiment(mlflow_client.create_experiment(variables.experiment()))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    assert "can be written" in check_mlflow()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    with pytest.raises(UserError, match="4711"):
        check_mlflow()


def test_a_parent_that_is_deleted_meanwhile_does_not_cost_the_stage(database, caplog):
    database()
    with (
        caplog.at_level(logging.WARNING),
        pipeline_run("x", {}) as parent,
        stage_run("retrieve") as stage,
    ):
        connection.client().delete_run(parent)
        stage.log_metrics({"rows": 1}, headline={"nDCG@10": 0.5})
    assert f"run {parent} is deleted in MLflow" in caplog.text
    found = connection.client().get_run(stage.run_id)
    assert found.info.status == "FINISHED" and found.data.metrics == {"rows": 1, "nDCG_at_10": 0.5}


def test_a_stage_whose_own_run_is_deleted_meanwhile_goes_on(database, caplog):
    database()
    with caplog.at_level(logging.WARNING), stage_run("retrieve") as stage:
        connection.client().delete_run(stage.run_id)
        stage.log_config({"a": {"b": 1}})
        stage.log_inputs({"source": {"inns": "0" * 64}})
        stage.log_metrics({"rows": 1}, headline={})
        stage.log_device()
        stage.log_outputs({})
    assert "is deleted in MLflow" in caplog.text


def test_a_run_that_was_ended_meanwhile_is_written_on(database):
    database()
    with stage_run("retrieve") as stage:
        connection.client().set_terminated(stage.run_id, "KILLED")
        stage.log_metrics({"rows": 1}, headline={})
    assert connection.client().get_run(stage.run_id).info.status == "FINISHED"


def test_a_run_of_kfps_plugin_that_is_not_there_is_told(database, monkeypatch):
    database()
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with refuses("registry-refused", "MLFLOW_RUN_ID"), stage_run("retrieve"):
        pass


# Names


@pytest.mark.parametrize(
    "name",
    ["nDCG@10", "P(rel=2)@5", "nDCG(dcg='exp-log2')@10", "", ".", "..", "../x", "/x", "x/", "a//b", "a/./b", "x" * 400,
     "zeile\nzwei", "tab\there", "nul\0", "日本語", "a;b", "100 %", "lone \ud800", "nvidia.com/gpu.present", "a:b"],
)  # fmt: skip
def test_every_name_is_one_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric_name, _validate_param

    _validate_metric_name(metric_name(name))
    _validate_param(metric_name(name), "x")


def test_names_stay_recognisable_and_different():
    assert metric_name("nDCG@10") == "nDCG_at_10" and metric_name("planned.seconds") == "planned.seconds"
    assert metric_name("P(rel=2)@5") == "P_rel_2_at_5"
    names = ["P(rel=2)@5", "P[rel=2]@5", "P(rel=2)_5", "x" * 400, "x" * 399, "a//b", "a/b", "/a/b", "", "."]
    assert len({metric_name(name) for name in names}) == len(names)


def test_odd_names_and_many_settings_are_written(database):
    database()
    many = {f"setting {i}": i for i in range(230)} | {"P(rel=2)@5": "http://anna:s3cret-of-anna@host"}
    with stage_run("evaluate") as stage:
        stage.log_config({"odd": many})
        stage.log_metrics({"P(rel=2)@5": 0.5, "": 1.0}, headline={})
    found = connection.client().get_run(stage.run_id).data
    assert len(found.params) == 231 and len(found.metrics) == 2
    assert PASSWORD not in str(found.params)


# What a person sees there


def test_curves_are_there_by_step_while_a_stage_works_and_the_dead_do_not_stop_it(database, monkeypatch):
    database()
    client = mlflow.MlflowClient()
    monkeypatch.setattr(curves, "EVERY", 0.01)
    with stage_run("distill_phase1", "inns") as run:
        progress.point(10, {"training/loss": 2.0, "training/learning_rate": 0.1})
        progress.point(20, {"training/loss": 1.0})
        while len(client.get_metric_history(run.run_id, "training/loss")) < 2:  # the test's limit ends it
            time.sleep(0.02)
        assert [(each.step, each.value) for each in client.get_metric_history(run.run_id, "training/loss")] == [
            (10, 2.0), (20, 1.0),
        ]  # fmt: skip
    with stage_run("distill_phase1", "inns") as run:
        client.delete_run(run.run_id)
        progress.point(10, {"training/loss": 2.0})
    assert not client.get_metric_history(run.run_id, "training/loss")


def test_the_rate_of_any_work_is_a_curve(database):
    database()
    with stage_run("teacher_label", "inns") as run:
        work = progress.Progress("labelling", 100, "tokens", every_seconds=0)
        work.advance(40)
        work.advance(60)
        work.finish()
    steps = [each.step for each in mlflow.MlflowClient().get_metric_history(run.run_id, "labelling/tokens_per_second")]
    assert steps[:2] == [40, 100]


def test_the_machine_is_watched_in_a_long_stage(database, monkeypatch):
    database()
    monkeypatch.setattr(curves, "EVERY", 0.05)  # the real monitor, which looks more often: else the test waits for it
    with stage_run("teacher_label") as run, curves.machine_watched(run.run_id, after=0):
        while "system/cpu_utilization_percentage" not in mlflow.MlflowClient().get_run(run.run_id).data.metrics:
            time.sleep(0.05)


def test_the_experiment_opens_among_runs_and_a_run_says_whose_it_is_and_of_what(database, monkeypatch):
    database()
    monkeypatch.setenv("INRANKER_GIT_REVISION", "12ab34-dirty")
    client = mlflow.MlflowClient()
    with pipeline_run("run", {"a": {"b": 3.0, "c": 0.5}, "all": "of them"}, {"a": {"b": 3.0, "c": 0.5}}) as parent:
        pass
    run = client.get_run(parent)
    assert client.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    assert run.data.params == {"a.b": "3", "a.c": "0.5"}
    assert (
        run.data.tags["mlflow.source.git.commit"] == "12ab34" and run.data.tags["mlflow.source.name"] == "inranker run"
    )
    assert run.data.tags["mlflow.user"] and "" not in run.data.tags.values()


SUMMARY = {
    "headline": "nDCG@10",
    "systems": ["bm25", "phase2"],
    "average": {"bm25": {"nDCG@10": 0.2}, "phase2": {"nDCG@10": 0.9}},
    "datasets": {
        "inns": {
            "digests": {},
            "systems": {
                "bm25": {"means": {"nDCG@10": 0.2, "R@20": 1.0}},
                "phase2": {"means": {"nDCG@10": 0.9, "R@20": 1.0}},
            },
        }
    },
}


def test_the_pipelines_run_shows_verdict_measures_and_collections_of_an_earlier_run_too(database, tmp_path):
    database()
    folder = tmp_path / "collection"
    prepare_corpus(PrepareConfig(), CorpusConfig(uri=str(beir.write(tmp_path / "beir", {})), name="inns"), folder)
    digest = read_manifest(folder).content
    with pipeline_run("first", {}), stage_run("prepare_corpus", "inns") as stage:
        stage.log_outputs({"collection": folder})
    summary = {**SUMMARY, "datasets": {"inns": {**SUMMARY["datasets"]["inns"], "digests": {"collection": digest}}}}
    with pipeline_run("second", {}) as parent:
        mlflow.MlflowClient().set_tag(parent, outcomes.NOTE, "[The run in Kubeflow Pipelines](http://kfp)")
        told = outcomes.note("PROMOTE", "inranker", "7", "better", summary, ["[page](#/experiments/{experiment})"])
        outcomes.tell(parent, "PROMOTE inranker v7: better", told, summary)
    run = mlflow.MlflowClient().get_run(parent)
    note = run.data.tags[outcomes.NOTE]
    assert note.startswith(
        "[The run in Kubeflow Pipelines](http://kfp)\n\n**PROMOTE** [inranker version 7](#/models/inranker"
    )
    assert "| inns | 0.2000 | 0.9000 |" in note and f"[page](#/experiments/{run.info.experiment_id})" in note
    assert run.data.metrics["R_at_20/inns/phase2"] == 1.0 and run.data.metrics["nDCG_at_10/mean/phase2"] == 0.9
    (shown,) = run.inputs.dataset_inputs
    assert shown.dataset.name == "inns" and str(tmp_path / "beir") in shown.dataset.source
    assert "doc_id" in shown.dataset.schema and '"documents"' in shown.dataset.profile
