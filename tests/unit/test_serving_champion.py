"""A server follows the champion: real versions in a real MLflow database, exchanged while they serve."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inranker_flow.commands import serving
from inranker_flow.commands.champion import promote as let_serve
from inranker_flow.commands.champion import rollback
from inranker_flow.errors import UserError
from inranker_flow.model_registry import registry, stored_files
from inranker_flow.reranker import Reranker
from inranker_flow.serving import models
from inranker_flow.serving.backends import loader
from inranker_flow.serving.metrics import Metrics
from inranker_flow.serving.service import Service
from inranker_flow.tracking import connection
from tests.promoting import registry_of_a_module, stored, student
from tests.refusals import refuses
from tests.serving import PASSAGES, QUERY, running, version


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with registry_of_a_module(tmp_path_factory.mktemp("mlflow")) as folder:
        yield folder


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    return [student(folder / str(seed), seed) for seed in range(3)]


@pytest.fixture(autouse=True)
def use(database, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}/mlflow.db")
    monkeypatch.setenv("INRANKER_ARTIFACT_ROOT", (database / "mlartifacts").as_uri())
    # What another process has fetched is not there.
    stored_files._fetched.clear()


def followed(name, metrics=None, canary=False):
    return models.Followed(name, loader("torch"), metrics or Metrics(), poll=3600.0, canary=canary)


def scores(folder):
    return Reranker(folder).score([(QUERY, each) for each in PASSAGES])


def checkpoint(name, number):
    return stored(name, number) / "artifacts" / "checkpoint"


def asked(client):
    status, found = client.post("/rerank", {"query": QUERY, "documents": PASSAGES, "raw_scores": True})
    assert status == 200
    return np.array([each["relevance_score"] for each in sorted(found["results"], key=lambda each: each["index"])])


def test_a_promotion_and_a_rollback_change_what_serves(database, students, tmp_path):
    version("plain", students[0], tmp_path / "e1")
    metrics = Metrics()
    made = followed("plain", metrics)
    with running(Service("plain", made, metrics)) as client:
        np.testing.assert_allclose(asked(client), scores(students[0]), atol=1e-4)
        before = stored_files.fetch("models:/plain/1")
        version("plain", students[1], tmp_path / "e2")
        np.testing.assert_allclose(asked(client), scores(students[0]), atol=1e-4)
        made.look()
        np.testing.assert_allclose(asked(client), scores(students[1]), atol=1e-4)
        assert client.get("/health")[1]["serves"] == "models:/plain/2"
        assert not before.exists(), "the files of the version before are gone"
        rollback("plain", "worse for users")
        made.look()
        made.look()
        np.testing.assert_allclose(asked(client), scores(students[0]), atol=1e-4)
        assert client.metric('inranker_model_version{alias="champion",reference="models:/plain/1"}') == 1
        assert client.metric("inranker_model_version") == 1, "one version serves"
        assert client.metric("inranker_model_changes_total") == 3


def test_reference_scores_lie_in_the_version_and_are_checked_by_their_digest(database, students, tmp_path):
    version("known", students[0], tmp_path / "e1")
    file = checkpoint("known", "1") / "reference_scores.json"
    found = json.loads(file.read_text())
    assert found["dtype"] == "float32" and found["pairs"][0] == [QUERY, PASSAGES[0]]
    assert found["scores"] == pytest.approx(scores(students[0]).tolist())
    file.write_text(json.dumps({**found, "scores": [0.0] * 5}))
    stored_files._fetched.clear()
    with refuses("registry-damaged", "reference_scores.json"):
        stored_files.fetch("models:/known/1")


BROKEN = {
    "changed weights": lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
    "a file that is gone": lambda folder: (folder / "config.json").unlink(),
    "files that are gone": shutil.rmtree,
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_version_never_serves_and_is_named(database, students, tmp_path, damage):
    name = damage.replace(" ", "-")
    version(name, students[0], tmp_path / "e1")
    metrics = Metrics()
    made = followed(name, metrics)
    version(name, students[1], tmp_path / "e2")
    BROKEN[damage](checkpoint(name, "2"))
    stored_files._fetched.clear()  # the promotion has looked at it, in another process
    with running(Service(name, made, metrics)) as client:
        made.look()
        np.testing.assert_allclose(asked(client), scores(students[0]), atol=1e-4)
        state = client.get("/health")[1]
        assert state["serves"] == f"models:/{name}/1" and list(state["failed"]) == [f"models:/{name}/2"]
        assert client.metric('inranker_model_failed{alias="champion"}') == 1
        made.look()
        assert client.metric("inranker_model_failures_total") == 1, "not fetched again at every look"
        rollback(name, "damaged")
        made.look()
        assert client.metric('inranker_model_failed{alias="champion"}') == 0


def test_a_version_that_scores_otherwise_than_evaluated_never_serves(database, students, tmp_path):
    version("odd", students[0], tmp_path / "e1")
    made = followed("odd")
    version("odd", students[1], tmp_path / "e2", wrong=0.01)
    made.look()
    assert made.current("champion").version == "1"
    [reason] = made.state()["failed"].values()
    assert "was evaluated at" in reason and "is not the model that was evaluated" in reason
    with refuses("scores-changed", "models:/odd/2"):
        models.load("models:/odd/2", loader("torch"))


def test_a_version_of_a_server_that_is_tried_again_serves_when_it_is_whole(database, students, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_FIRST", 0.0)
    version("mended", students[0], tmp_path / "e1")
    made = followed("mended")
    version("mended", students[1], tmp_path / "e2")
    weights = checkpoint("mended", "2") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    stored_files._fetched.clear()
    made.look()
    weights.write_bytes(whole)
    made.look()
    assert made.current("champion").version == "2" and not made.state()["failed"]


def test_a_disk_that_is_full_leaves_the_old_version_and_no_part_of_the_new(database, students, tmp_path, monkeypatch):
    import mlflow

    version("full", students[0], tmp_path / "e1")
    made = followed("full")
    version("full", students[1], tmp_path / "e2")
    stored_files._fetched.clear()
    places = []

    def download(artifact_uri, dst_path):
        places.append(dst_path)
        with open(f"{dst_path}/model.safetensors", "wb") as part:
            part.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    # The system's own refusal would need a disk of the test's: what MLflow raises then is this.
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    made.look()
    assert made.current("champion").version == "1" and "No space left" in made.state()["failed"]["models:/full/2"]
    assert places and not any(Path(each).exists() for each in places)


def test_a_registry_that_goes_away_is_told_and_what_serves_goes_on(database, students, tmp_path):
    import mlflow

    version("alone", students[0], tmp_path / "e1")
    metrics = Metrics()
    made = followed("alone", metrics)
    with running(Service("alone", made, metrics)) as client:
        address = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri("http://127.0.0.1:9")  # nobody listens there
        made.look()
        np.testing.assert_allclose(asked(client), scores(students[0]), atol=1e-4)
        assert client.metric("inranker_registry_up") == 0
        assert client.get("/health")[1]["registry"].startswith("does not answer: ")
        mlflow.set_tracking_uri(address)
        made.look()
        assert client.metric("inranker_registry_up") == 1


def test_a_server_that_starts_before_its_registry_serves_when_that_answers(database, students, tmp_path, capsys):
    import mlflow

    version("early", students[0], tmp_path / "e1")
    metrics, address = Metrics(), mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")  # nobody listens there
    made = followed("early", metrics, canary=True)
    with running(Service("early", made, metrics, canary=1.0)) as client:
        made.look()
        status, state = client.get("/health")
        assert status == 503 and state["serves"] == "" and "no MLflow server answers" in state["registry"]
        assert client.get("/v2/health/ready")[0] == 503 and client.get("/v2/health/live")[0] == 200
        refused = client.send("POST", "/rerank", json.dumps({"query": QUERY, "documents": PASSAGES}).encode())
        assert (
            refused.status == 503 and refused.headers["Retry-After"] == "1" and b"no model serves yet" in refused.data
        )
        assert client.post("/v2/models/early/infer", {"inputs": []})[0] == 503
        assert serving.main([client.url]) == 0 and "serves nothing yet" in capsys.readouterr().out
        mlflow.set_tracking_uri(address)
        made.look()
        np.testing.assert_allclose(asked(client), scores(students[0]), atol=1e-4)
        assert client.get("/v2/health/ready")[0] == 200 and client.get("/health")[1]["registry"] == "answers"


def test_without_a_champion_there_is_nothing_to_serve(database):
    with refuses("version-missing", "nobody"):
        followed("nobody")


def test_a_champion_that_was_taken_away_serves_on(database, students, tmp_path):
    version("lost", students[0], tmp_path / "e1")
    made = followed("lost")
    connection.client().delete_registered_model_alias("lost", "champion")
    made.look()
    assert made.current("champion").version == "1"


def test_a_canary_is_answered_by_the_challenger_and_compared(database, students, tmp_path):
    version("canary", students[0], tmp_path / "e1")
    metrics = Metrics()
    made = followed("canary", metrics, canary=True)
    made.look()
    assert made.challenger() is None, "champion and challenger are one version"
    version("canary", students[1], tmp_path / "e2", promoted=False)
    made.look()
    challenger = made.challenger()
    assert challenger is not None and challenger.version == "2" and made.current("champion").version == "1"
    with running(Service("canary", made, metrics, canary=1.0)) as client:
        np.testing.assert_allclose(asked(client), scores(students[1]), atol=1e-4)
        differs = np.argmax(scores(students[0])) != np.argmax(scores(students[1]))
        while client.metric("inranker_canary_compared_total") < 1:
            pass
        assert client.metric("inranker_canary_top_differs_total") == differs
        assert client.metric('inranker_canary_seconds_count{alias="champion"}') == 1
        assert client.metric('inranker_canary_seconds_count{alias="challenger"}') == 1
        let_serve("canary", "2", "it is better")
        made.look()
        assert made.challenger() is None and made.current("champion").version == "2"
        np.testing.assert_allclose(asked(client), scores(students[1]), atol=1e-4)
        assert stored_files.fetch("models:/canary/2").is_dir()


def test_a_canary_of_no_share_is_the_champions_alone(database, students, tmp_path):
    version("none", students[0], tmp_path / "e1")
    metrics = Metrics()
    made = followed("none", metrics, canary=True)
    version("none", students[1], tmp_path / "e2", promoted=False)
    made.look()
    with running(Service("none", made, metrics, canary=0.0)) as client:
        np.testing.assert_allclose(asked(client), scores(students[0]), atol=1e-4)
        assert client.metric("inranker_canary_requests_total") == 0


def test_what_is_no_version_is_refused(database):
    with pytest.raises(UserError):
        models.load("models:/nobody/7", loader("torch"))
    with refuses("setting-value", "BACKEND"):
        loader("tensorrt")
    assert registry.champion("nobody") is None
