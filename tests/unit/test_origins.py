"""What the page says of its run, as MLflow has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from inranker_flow.tracking import connection
from inranker_flow.tracking.origins import origin_of, version_page
from inranker_flow.tracking.records import run_page, run_that_wrote
from inranker_flow.tracking.runs import keep_parameters
from tests.promoting import registry_of_a_module


@pytest.fixture(scope="module", autouse=True)
def records(tmp_path_factory):
    with registry_of_a_module(tmp_path_factory.mktemp("origins")) as folder:
        yield folder


def run(name: str, begun: int, **tags: str) -> str:
    client = connection.client()
    return client.create_run(connection.experiment_id(client), begun, tags, name).info.run_id


def test_a_run_tells_its_name_its_beginning_and_all_its_settings_without_secrets(records: Path) -> None:
    made = run("inranker-demo-1", 1_796_000_000_000)
    assert origin_of(made) == {
        "name": "inranker-demo-1", "date": "2026-11-30 00:53 UTC", "run": made, "settings": {}, "mlflow": "",
    }  # fmt: skip
    keep_parameters(made, {"source": {"uri": "s3://anna:hunter2@host/c"}, "run_key": "k"}, {})
    kept = origin_of(made)["settings"]
    assert kept["run_key"] == "k" and "hunter2" not in str(kept)


def test_an_output_was_made_by_the_first_run_that_has_it(records: Path) -> None:
    tag = {"digest.evaluation": "ab" * 32}
    repeated, computed = run("repeated", 2_000, **tag), run("computed", 1_000, **tag)
    assert run_that_wrote("evaluation", "ab" * 32) == repeated
    assert run_that_wrote("evaluation", "ab" * 32, first=True) == computed
    assert run_that_wrote("evaluation", "cd" * 32, first=True) == ""


@pytest.mark.parametrize(
    ("server", "page"),
    [
        ("https://mlflow.example.org/", "https://mlflow.example.org/#/models/m/versions/3"),
        ("http://mlflow:5000", ""),
        ("https://anna:hunter2@mlflow.example.org", ""),
        ("sqlite:////tmp/mlflow.db", ""),
    ],
)
def test_a_version_has_a_page_where_a_browser_finds_it(monkeypatch, server: str, page: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert version_page("m", "3") == page and run_page("") == ""
