"""The plain pipeline: the order of the stages, what each is given, and what a second run finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.profiles import load
from inranker_flow.settings.keys import keys
from inranker_flow.settings.pin import pin
from inranker_flow.settings.profile import parse_overrides
from inranker_flow.workflow import pipelines, runner
from inranker_flow.workflow.tasks import STAGES, Run, run_task
from tests import beir
from tests.databases import new_database

SMALL = (
    *("corpus.max_documents=60", "corpus.max_train_queries=12", "corpus.max_test_queries=5", "generation.documents=8"),
    *("phase1.max_steps=2", "phase2.max_steps=2", "evaluation.latency_queries=0", "evaluation.teacher=false"),
    "promotion.min_queries=1",
)


def in_process(module, arguments):
    """What a process does, without one: imports would take most of the time."""
    try:
        run_task(Path(arguments[-1]))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_database(tmp_path / "mlflow.db"))
    monkeypatch.setenv("INRANKER_ARTIFACT_ROOT", (tmp_path / "mlartifacts").as_uri())
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INRANKER_EVENTS", str(tmp_path / "events"))
    return Run(tmp_path / "artifacts", in_process, "a-run")


def events(folder):
    found = [json.loads(line) for line in (folder / "events").read_text().splitlines()]
    (folder / "events").unlink()
    return found


def go(run, name="inranker", *settings):
    profile = pin(load("smoke", parse_overrides([*SMALL, *settings])))
    runner.PIPELINES[name](run, profile.arguments(), keys(name, profile, "code"))


def test_every_stage_runs_in_the_papers_order_and_a_second_run_computes_nothing(run, tmp_path):
    go(run)
    first = events(tmp_path)
    phase1 = [("prepare_corpus", "inns"), ("retrieve", "inns"), ("teacher_label", "inns"), ("distill_phase1", "inns")]
    phase2 = [(stage, "medicines") for stage in ("prepare_corpus", "generate_queries", "retrieve", "teacher_label")]
    end = ["distill_phase2", "evaluate", "export", "promote"]
    assert [(each["stage"], each["dataset"]) for each in first[1:9]] == phase1 + phase2
    assert first[0]["stage"] == "preflight" and [each["stage"] for each in first[9:]] == end
    student = run.root / "distill_phase2" / "all" / "model"
    assert read_manifest(student).stage == "distill" and (student / "scoring.json").is_file()
    assert (run.root / "promote" / "all" / "report").is_file()

    before = read_manifest(student).content
    go(run)
    again = {(each["stage"], each["dataset"]) for each in events(tmp_path) if each["reused"]}
    assert again == {(each["stage"], each["dataset"]) for each in first} - {
        ("preflight", ""), ("prepare_corpus", "inns"), ("prepare_corpus", "medicines"), ("promote", first[-1]["dataset"])
    }  # fmt: skip
    assert read_manifest(student).content == before


def test_a_stage_that_fails_ends_the_run_and_names_itself(run, tmp_path):
    with pytest.raises(RuntimeError, match="teacher_label inns ended with status 2"):
        go(run, "inranker", "teacher.scoring.true_token=nonsense")
    *_, failed = events(tmp_path)
    assert failed["stage"] == "teacher_label" and "nonsense" in failed["error"]
    assert not (run.root / "distill_phase1").exists()


def test_retrain_trains_for_what_is_new_and_then_has_nothing_to_do(run, tmp_path):
    documents = [{"_id": f"d{n}", "text": f"a page about shelf {n} and what lies on it"} for n in range(20)]
    (tmp_path / "corpora").mkdir()
    beir.write(tmp_path / "corpora" / "shelves", corpus=beir.jsonl(documents), queries=None, train=None, test=None)
    settings = ("targets=[]", f"corpora.uri={tmp_path / 'corpora'}", "corpora.settle_seconds=0")
    go(run, "retrain", *settings)
    stages = [(each["stage"], each["dataset"]) for each in events(tmp_path)]
    assert stages[1][0] == "discover" and ("teacher_label", "shelves") in stages and stages[-1][0] == "promote"
    go(run, "retrain", *settings)
    assert [each["stage"] for each in events(tmp_path)] == ["preflight", "discover"]


def test_the_table_holds_every_stage():
    assert set(runner.PIPELINES) == {"inranker", "retrain"}
    for reference in STAGES.values():
        module, function = reference.split(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_the_sections_are_those_of_the_profile():
    assert set(pipelines.SECTIONS) == set(load("demo").as_data())
