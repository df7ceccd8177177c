"""What becomes of the champion when MLflow dies in the middle, or may not be written: a real server, a real database."""

from __future__ import annotations

import contextlib
import sys

import pytest

from inranker_flow.errors import UserError
from inranker_flow.model_registry import history, registry, stored_files
from inranker_flow.tracking import connection
from inranker_flow.tracking.runs import stage_run
from tests.databases import new_database
from tests.http_server import Answer, HttpServer
from tests.promoting import evaluation, promote, student, use, use_database
from tests.refusals import refuses
from tests.servers import free_ports, running


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        monkeypatch.setenv(name, "")
    # A refused connection is tried again for seconds, which changes nothing here.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    return [student(folder / str(seed), seed) for seed in range(2)]


class Server:
    """An MLflow server on SQLite that keeps the artifacts too; it can be killed and started again."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.database = new_database(folder / "mlflow.db")
        (self.port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self._stack, self.alive = contextlib.ExitStack(), False

    def start(self) -> None:
        """Start it, if it is not alive."""
        if self.alive:
            return
        options = [
            "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1", "--backend-store-uri", self.database,
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        command = [sys.executable, "-m", "mlflow", "server", *options]
        alone = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._stack.enter_context(running(command, self.folder / "log", f"{self.uri}/health", seconds=120, **alone))
        self.alive = True

    def kill(self) -> None:
        self._stack.close()
        self.alive = False


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """One server for all tests: a start takes seconds."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def server(started):
    started.start()
    use(started.uri, started.folder)
    return started


class _Fatal:
    """An MlflowClient whose server is killed just before the first call that ``when`` names."""

    def __init__(self, client, server: Server, when) -> None:
        self._client, self._server, self._when = client, server, when

    def __getattr__(self, name: str):
        found = getattr(self._client, name)

        def call(*args, **options):
            if self._when(name, args):
                self._server.kill()
            return found(*args, **options)

        return call if name.startswith(("create_", "set_", "log_")) else found


#: Where the server dies: a name for the model, and which call it is.
MOMENTS = {
    "uploading": lambda name, args: name == "log_model_artifacts",
    "registering": lambda name, args: name == "create_model_version" and not args[0].endswith("-history"),
    "recording": lambda name, args: name == "create_model_version" and args[0].endswith("-history"),
    "moving": lambda name, args: name == "set_registered_model_alias" and args[1] == "champion",
}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_server_that_dies_in_between_leaves_the_old_champion_and_is_told_in_one_line(
    server, students, tmp_path, monkeypatch
):
    real = connection.client
    for name, when in MOMENTS.items():
        promote(name, students[0], evaluation(tmp_path / f"{name}1", bm25=0.2, phase2=0.6), "", "k1")
        better = evaluation(tmp_path / f"{name}2", bm25=0.2, phase2=0.7, champion=0.6)
        with monkeypatch.context() as patch:
            patch.setattr(connection, "client", lambda when=when: _Fatal(real(), server, when))
            with pytest.raises(UserError) as caught:
                promote(name, students[1], better, f"models:/{name}/1", "k2")
        message = str(caught.value)
        assert message.startswith(f"{server.uri}: cannot ") and "\n" not in message, message
        assert message.endswith("start that server and run again"), message
        server.start()
        assert registry.champion(name).version == "1"
        assert (stored_files.fetch(f"models:/{name}@champion") / "model.safetensors").is_file()
        assert promote(name, students[1], better, f"models:/{name}/1", "k2").verdict == "PROMOTE"
        assert registry.champion(name).version == "2"
        assert [(each.source, each.target) for each in history.read(name)] == [("", "1"), ("1", "2")]
        assert len(connection.client().search_model_versions(f"name = '{name}'")) == 2


def test_a_stage_says_why_it_failed_also_when_the_server_that_should_hear_it_is_gone(server):
    with pytest.raises(UserError, match="the reason"), stage_run("promote"):
        server.kill()
        raise UserError("the reason")


def test_a_database_that_may_not_be_written_is_told_in_one_line_and_serves_on(students, tmp_path):
    use_database(tmp_path)
    promote("m", students[0], evaluation(tmp_path / "e1", bm25=0.2, phase2=0.6), "", "k1")
    connection.client().create_model_version("m", "s3://nowhere/2")
    use(f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true", tmp_path)
    with refuses("registry-refused") as caught:
        promote("m", students[1], evaluation(tmp_path / "e2", bm25=0.2, phase2=0.7, champion=0.6), "models:/m/1", "k2")
    assert "\n" not in str(caught.value)
    assert registry.champion("m").version == "1"
    with refuses("registry-refused"):
        history.move(registry.Version("m", "2", {}), "MANUAL", "ann", "w", {})
    assert registry.champion("m").version == "1" and len(history.read("m")) == 1


def test_a_registry_that_refuses_the_account_is_no_empty_registry(students, tmp_path):
    """ "No permission" must not look like "no champion": then any model would be the first."""
    body = {"error_code": "PERMISSION_DENIED", "message": "Permission denied"}
    with HttpServer() as proxy:
        proxy.answer = lambda request: Answer(200 if request.path == "/health" else 403, body)
        use(proxy.url, tmp_path)
        with refuses("registry-refused", "inranker-mlflow"):
            promote("m", students[0], evaluation(tmp_path / "e", bm25=0.2, phase2=0.6), "", "k1")
        with refuses("registry-refused", "PERMISSION_DENIED"):
            registry.champion("m")
    assert not (tmp_path / "e-decision").exists()
