"""`make run`, whole: the compiled YAML, KFP's local runner, real models, real MLflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from inranker_flow.artifacts import tables
from inranker_flow.evaluation.gate import from_measures
from inranker_flow.store.sharing import HELPS
from pipelines.placement import PLACEMENT
from tests.processes import MAKE_RUN

pytestmark = pytest.mark.timeout(900)  # the first test waits for a whole run, and the machine may be busy

ROOT = Path(__file__).parents[2]
UNCACHED = [stage for stage, row in PLACEMENT.items() if not row.cache]
#: All others but what pods do beside a stage, where the profile asks for several.
CACHED = [stage for stage, row in PLACEMENT.items() if row.cache and stage not in HELPS]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "INRANKER_"))}
    command = [
        *MAKE_RUN,
        "inranker",
        "--run-dir",
        str(folder / "run"),
        *options,
    ]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The first run, on a seed that no recipe was chosen on."""
    folder = tmp_path_factory.mktemp("demo")
    ended = run(folder, "--seed", "11")
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return folder, ended.stdout


def cached(out: str) -> list[str]:
    """Stages that the last table shows as cached."""
    return [line.split()[0] for line in out.splitlines() if line.split()[1:2] == ["cached"]]


def outputs(folder: Path, name: str) -> list[Path]:
    return sorted((folder / "run" / "artifacts").rglob(f"*/{name}"))


def test_each_phase_helps_and_significantly_so(demo):
    from scipy.stats import ttest_rel

    folder, _ = demo
    (evaluation,) = outputs(folder, "evaluation")
    table = tables.read(tables.MEASURES, evaluation)
    values = {
        system: from_measures(table, system, "nDCG@10")["medicines"]
        for system in ("bm25", "phase1", "phase2", "teacher")
    }
    means = {system: sum(each.values()) / len(each) for system, each in values.items()}
    assert {len(each) for each in values.values()} == {200}
    assert means["bm25"] < means["phase1"] < means["phase2"] <= means["teacher"] + 0.01
    assert means["phase2"] >= 0.90
    for lower, higher in (("bm25", "phase1"), ("phase1", "phase2")):
        order = sorted(values[lower])
        assert ttest_rel([values[higher][q] for q in order], [values[lower][q] for q in order]).pvalue < 0.01


def test_the_terminal_shows_results_stages_verdict_and_where_to_look(demo):
    folder, out = demo
    assert "medicines" in out and "inns" in out and "phase2" in out
    assert "PROMOTE inranker version 1: mean nDCG@10 gain over BM25" in out
    for stage in ("prepare_corpus", "teacher_label", "distill_phase2", "promote"):
        assert any(line.startswith(stage) and "cached" not in line for line in out.splitlines()), stage
    assert str(folder / "run" / "report.html") in out and "mlflow ui" in out and "models:/inranker@champion" in out


def test_the_report_stands_alone(demo):
    folder, _ = demo
    page = (folder / "run" / "report.html").read_text()
    assert "<svg" in page and "medicines" in page and "phase2" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="http' not in page and "@import" not in page


def test_the_report_holds_the_plan_against_reality(demo):
    folder, out = demo
    page = (folder / "run" / "report.html").read_text()
    section = page.partition(">Plan and reality</h2>")[2].partition("<details")[0]
    text = " ".join(re.sub(r"<[^>]*>", " ", section).split())
    assert "prepare corpus documents 2,400 2,400 1.00×" in text and "teacher label pairs 13,600 " in text
    assert "reused" not in text.partition("Ratio")[2], "a first run computes everything"
    # The terminal says the same numbers.
    (computed,) = [line for line in out.splitlines() if line.startswith("computed in this run")]
    for name in ("queries", "pairs", "tokens"):
        real = re.search(rf"([\d,]+) {name}", computed).group(1)
        assert re.search(rf"{name} [\d,]+ {real} \d\.\d\d×", text), (name, computed, text)


def test_mlflow_has_one_parent_and_a_child_for_each_task(demo, monkeypatch):
    import mlflow

    folder, _ = demo
    uri = f"sqlite:///{folder}/run/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("inranker")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    children = [each for each in runs if each.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(parents) == 1 and {each.info.status for each in runs} == {"FINISHED"}
    # prepare, retrieve and label run for the source and for the target; preflight and notify have no run of
    # their own, and nothing looks for corpora.
    assert len(children) == len(PLACEMENT) - len(HELPS) - 3 + 3
    assert parents[0].data.metrics["nDCG_at_10/medicines/phase2"] >= 0.9
    assert "report.html" in [each.path for each in client.list_artifacts(parents[0].info.run_id)]
    labelled = [each for each in children if each.data.tags["inranker.stage"] == "teacher_label"]
    assert all(each.data.params["config.checkpoint"] == "demo:teacher" for each in labelled)
    assert all(each.inputs.dataset_inputs for each in labelled)
    assert client.get_model_version_by_alias("inranker", "champion").tags["inranker.verdict"] == "PROMOTE"


def test_a_second_run_is_cache_hits_only(demo):
    folder, _ = demo
    ended = run(folder, "--seed", "11")
    assert ended.returncode == 0, ended.stderr
    assert cached(ended.stdout) == CACHED
    assert UNCACHED == ["preflight", "discover", "promote", "notify"]
    assert "PROMOTE inranker version 1" in ended.stdout, "the same question has the same answer"


def test_another_policy_costs_no_labels(demo):
    """Changing the gate runs the gate: everything before it is a cache hit."""
    folder, _ = demo
    ended = run(folder, "--seed", "11", "--set", "promotion.min_gain=0.99", "--set", "promotion.model_name=strict")
    assert ended.returncode == 0, ended.stderr
    assert cached(ended.stdout) == CACHED
    assert "HOLD strict version 1" in ended.stdout


def test_every_run_file_is_trec_with_unique_ranks(demo):
    folder, _ = demo
    (evaluation,) = outputs(folder, "evaluation")
    files = sorted((evaluation / "runs").glob("*.trec"))
    assert len(files) == 2 * 4  # two collections; BM25, two students, teacher
    for file in files:
        ranks: dict[str, list[int]] = {}
        for line in file.read_text().splitlines():
            query_id, q0, _doc_id, rank, score, _tag = line.split()
            assert q0 == "Q0" and float(score) == float(score)
            ranks.setdefault(query_id, []).append(int(rank))
        assert all(found == list(range(1, len(found) + 1)) for found in ranks.values())


def test_summary_and_measures_agree(demo):
    folder, _ = demo
    (evaluation,) = outputs(folder, "evaluation")
    summary = json.loads((evaluation / "summary.json").read_text())
    table = tables.read(tables.MEASURES, evaluation)
    for dataset, found in summary["datasets"].items():
        for system, numbers in found["systems"].items():
            for measure, mean in numbers["means"].items():
                values = from_measures(table, system, measure)[dataset].values()
                assert mean == pytest.approx(sum(values) / len(values), abs=1e-9)
