"""`make plan`: one table before anything is started, measured where the models are here; nothing is left behind."""

from __future__ import annotations

import getpass
import json
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest

from inranker_flow.commands import run
from inranker_flow.profiles import load
from inranker_flow.rankers.devices import device_name
from inranker_flow.services import kfp_run
from inranker_flow.stages import notify
from inranker_flow.tracking import connection
from inranker_flow.tracking.parents import open_parent
from inranker_flow.tracking.runs import DEVICE, pipeline_run, stage_run
from pipelines import plan, submit
from tests import beir, promoting
from tests.databases import new_database
from tests.http_server import Answer, HttpServer
from tests.kfp_api import KfpApi, nodes

SMOKE = ["inranker", "--profile", "smoke"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, in which nothing may appear."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "work"


def printed(capsys, *options: str) -> str:
    assert plan.main(list(options)) == 0
    return capsys.readouterr().out


def test_models_that_are_here_are_measured(capsys, elsewhere, tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    out = printed(capsys, "inranker", "--profile", "demo", "--device", "here", "--json", str(tmp_path / "plan.json"))
    for text in ("demo:teacher: measured here", "demo:student: measured here",
                 "demo:generator: measured here", "without reuse", "no price"):  # fmt: skip
        assert text in out, text
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["rows"][-1]["pairs"] == 13_600 and 0 < data["rows"][-1]["hours"] < 1
    assert not list(elsewhere.iterdir()), "no database, no folder of runs"
    assert not (tmp_path / "store").exists(), "what is measured is nobody's work"


def test_stages_that_compute_record_their_device(tmp_path, monkeypatch):
    import torch  # noqa: F401 (a stage that has computed)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_database(tmp_path / "mlflow.db"))
    monkeypatch.setenv("INRANKER_ARTIFACT_ROOT", (tmp_path / "artifacts").as_uri())
    with stage_run("evaluate") as run:
        run.log_device()
    assert connection.client().get_run(run.run_id).data.tags[DEVICE] == device_name()


def test_another_device_is_reckoned_by_size_and_priced(capsys):
    out = printed(capsys, "inranker", "--profile", "paper", "--device", "H100", "--set", "cluster.gpu_hour_price=2.5")
    assert "GPU-hours (H100)" in out and "price" in out.splitlines()[0]
    assert "2,850 million weights on H100" in out and "measured here" not in out
    assert "assumed" in out and "ir_datasets' catalogue" in out
    total = next(line for line in out.splitlines() if " total " in line)
    assert total.split()[-1] != "?"


def test_calibration_can_be_forbidden(capsys):
    assert "measured here" not in printed(capsys, *SMOKE, "--device", "cpu", "--calibrate", "0")


def test_what_is_wrong_is_one_line_and_nothing_is_created(capsys, elsewhere, tmp_path):
    for options, said in (
        ([*SMOKE, "--device", "Z80"], "DEVICE: 'Z80' is not in the table"),
        ([*SMOKE, "--source", str(tmp_path / "nowhere"), "--device", "cpu"], "nowhere: no such file or folder"),
        ([*SMOKE, "--set", "retrieval.negtives=3"], "did you mean 'negatives'"),
        (["retrain", "--profile", "demo"], "corpora.uri is not set"),
        (["retrain", "--profile", "demo", "--set", f"corpora.uri={tmp_path}/none"], "nothing is stored there"),
        ([*SMOKE, "--device", "cpu", "--calibrate", "0", "--json", "/proc/none/plan.json"], "correct the path"),
    ):
        assert plan.main(options) == 2, options
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("FAILED: ") and said in lines[0], lines
    assert not list(elsewhere.iterdir())


def test_retrain_is_planned_for_every_corpus_below_its_prefix(capsys, tmp_path):
    corpora = tmp_path / "corpora"
    beir.write(corpora / "animals")
    beir.write(corpora / "stones", {"corpus.yaml": b"documents: 2\n"})
    beir.write(corpora / "wishes", {"corpus.yaml": b"promt: x\n"})
    (corpora / "empty").mkdir()
    (corpora / "empty" / "scan.png").write_text("nothing")
    out = printed(
        capsys, "retrain", "--profile", "demo", "--set", f"corpora.uri={corpora}", "--device", "cpu", "--calibrate", "0"
    )
    wanted = {"animals": "8", "stones": "4"}  # two queries for each document
    for name, queries in wanted.items():
        line = next(line for line in out.splitlines() if line.startswith(name) and "generate_queries" in line)
        assert line.split()[3] == queries
    assert "wishes: left out" in out and "empty: left out" in out and "retrain: for a night when it is due" in out


# --- handed on --------------------------------------------------------------------------------------------------------


def test_a_submitted_run_carries_its_plan(capsys, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "good")
    monkeypatch.setattr("pipelines.release.check_pushed", lambda images: [])
    with KfpApi(namespaces=("team-a",)) as server:
        arguments = ["inranker", "--profile", "demo", "--namespace", "team-a", "--host", server.url]
        assert submit.main(arguments) == 0, capsys.readouterr().err
        (run,) = server.runs.values()
        assert not server.violations
    assert run["description"].startswith(
        f"submitted by {getpass.getuser()}, planned without reuse: 2,400 queries, 13,600 "
    )
    assert re.search(r"tokens, \d+ (s|min)$", run["description"].partition("\n")[0])
    assert "plan        without reuse: 2,400 queries" in capsys.readouterr().out
    assert "plan" not in run["runtime_config"]["parameters"]


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A folder with MLflow's database, which this process uses."""
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        monkeypatch.setenv(name, "")  # put back at the end
    promoting.use_database(tmp_path)
    yield tmp_path
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return promoting.student(tmp_path_factory.mktemp("student") / "student", 1)


#: What stages of the demo reported: generation read half of its documents' queries in the store, the source's labels all.
DID = (
    ("prepare_corpus", "inns", {"documents": 1200.0}),
    ("prepare_corpus", "medicines", {"documents": 1200.0}),
    (
        "generate_queries",
        "medicines",
        {"queries": 2160.0, "documents": 1200.0, "resumed_documents": 600.0, "seconds": 36.0},
    ),
    ("teacher_label", "inns", {"pairs": 4000.0, "tokens": 66_238.0, "seconds": 1.0, "reused": 1.0}),
    ("teacher_label", "medicines", {"pairs": 8640.0, "tokens": 145_000.0, "seconds": 72.0}),
    ("distill_phase2", "medicines", {"steps": 650.0, "seconds": 720.0}),
    ("evaluate", "", {"pairs": 11_780.0, "seconds": 360.0}),
)


def report(student: Path, folder: Path, name: str) -> str:
    """The texts of the page that `promote` writes, as a stage of the run that the environment names."""
    evaluation = promoting.evaluation(folder / name, bm25=0.2, phase2=0.6)
    for stage, collection, numbers in DID:
        with stage_run(stage, collection) as run:
            run.log_metrics(numbers, {})
    with suppress(ZeroDivisionError), stage_run("distill_phase1", "inns") as failed:
        failed.log_metrics({"seconds": 3600.0}, {})
        raise ZeroDivisionError
    with stage_run("promote", "medicines"):
        stats = promoting.promote(name, student, evaluation)
    assert stats.verdict == "PROMOTE"
    page = evaluation.with_name(f"{name}.html").read_text(encoding="utf-8")
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_the_report_of_a_run_holds_its_plan_against_what_its_stages_did(registry, student):
    with pipeline_run("demo", {}) as parent:
        made = run._plan("inranker", load("demo", {}), registry, parent)
        text = report(student, registry, "planned")
    assert made and made.promised["queries"] == 2400 and made.promised["pairs"] == 13_600
    section = text.partition(" Planned before the run, as if nothing were there to be reused")[2]
    for row in (
        "prepare corpus documents 2,400 2,400 1.00×",
        "generate queries queries 2,400 1,080 50.0 % reused 0.90×",  # 2,160 of 2,400
        "teacher label pairs 13,600 8,640 29.4 % reused 0.90×",  # 8,640 of 9,600; 4,000 reused
        "distill phase1 hours not known reused –",  # the attempt that failed does not count
        "distill phase2 hours not known 0.20 –",
        "evaluate pairs 12,000 11,780 0.98×",
        "total hours not known 0.33 a part reused –",
    ):
        assert row in section, (row, section)
    assert "promote itself" in section and " promote hours" not in section


def test_the_report_of_a_submitted_run_holds_the_plan_of_its_description_against_reality(
    registry, student, monkeypatch, caplog
):
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "kfp-1")
    open_parent("kfp-1", "demo")
    said = "planned without reuse: 2,400 queries, 13,600 pairs, 230,000 tokens, 0.3000 hours"
    with HttpServer() as kfp:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url)
        kfp.answers["/apis/v2beta1/runs/kfp-1"] = [Answer(body={"run_id": "kfp-1", "description": said})]
        text = report(student, registry, "submitted")
        assert "generate queries queries 2,400 1,080 50.0 % reused 0.90×" in text
        assert "teacher label pairs 13,600 8,640 a part reused –" in text, "how many were planned for it is not known"
        assert "total hours 0.30 0.33 a part reused –" in text
        kfp.answers["/apis/v2beta1/runs/kfp-1"] = [Answer(503)]
        assert "Plan and reality" not in report(student, registry, "unheard")
    assert "what the run was planned with cannot be read (HTTP 503" in caplog.text


def test_without_a_plan_or_with_one_that_cannot_be_read_there_is_a_report_without_the_section(
    registry, student, caplog
):
    with pipeline_run("by schedule", {}):
        assert "Plan and reality" not in report(student, registry, "unplanned")
    assert not [each for each in caplog.records if each.levelname == "WARNING"], "nothing is wrong"
    with pipeline_run("damaged", {}) as parent:
        run._plan("inranker", load("demo", {}), registry, parent)
        (file,) = (registry / "mlartifacts").rglob("plan.json")
        file.unlink()
        assert "Plan and reality" not in report(student, registry, "damaged")
    assert (
        "the report does not hold the plan against reality: " in caplog.text and "cannot read the plan" in caplog.text
    )


def test_at_the_end_notify_holds_the_plan_against_what_was_done(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_database(tmp_path / "mlflow.db"))
    monkeypatch.setenv("INRANKER_ARTIFACT_ROOT", (tmp_path / "artifacts").as_uri())
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "kfp-1")
    monkeypatch.setattr(kfp_run, "PAUSE", 0.01)  # the real one is seconds, and changes when is asked, not what
    open_parent("kfp-1", "demo")
    for stage, numbers in (
        ("teacher_label", {"pairs": 40.0, "tokens": 900.0, "seconds": 36.0}),
        ("generate_queries", {"queries": 9.0, "tokens": 100.0, "seconds": 36.0}),
    ):
        with stage_run(stage, "sample") as run:
            run.log_metrics(numbers, {})
    details = {"task_details": nodes("inranker-x7k2q", {"evaluate": "SUCCEEDED"})}
    body = {"run_id": "kfp-1", "state": "RUNNING", "run_details": details}
    said = "planned without reuse: 10 queries, 44 pairs, 1,000 tokens, 0.0300 hours"
    with HttpServer() as kfp, HttpServer({"/hook": [Answer(200, b"ok")]}) as webhook:
        kfp.answers["/apis/v2beta1/runs/kfp-1"] = [Answer(body={**body, "description": said})]
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url)
        monkeypatch.setenv("INRANKER_WEBHOOK_URL", f"{webhook.url}/hook")
        notify.notify("SUCCEEDED", None, "kfp-1", "demo")
        told = json.loads(webhook.requests[0].body)["text"].splitlines()
        assert told[1:3] == [said, "computed in this run: 9 queries, 40 pairs, 900 tokens, 72 s"]
        kfp.answers["/apis/v2beta1/runs/kfp-1"] = [Answer(body={**body, "description": "my own words"})]
        notify.notify("SUCCEEDED", None, "kfp-1", "demo")
        assert "computed" not in webhook.requests[1].body.decode()
    assert os.environ["INRANKER_KFP_RUN_ID"] == "kfp-1"
