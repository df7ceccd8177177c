"""`inranker serve`, `serving`, `verify` and `try` on a local run: real stages, a real registry, a server in a process."""

from __future__ import annotations

import json
import shutil
import signal
import threading

import numpy as np
import pytest

from inranker_flow import scratch
from inranker_flow.commands import last_run, serve, serving, try_query, verify
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, EvaluateConfig, PrepareConfig, PromoteConfig, TeacherConfig
from inranker_flow.evaluation import judged_sets
from inranker_flow.model_registry import registry
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.reranker import Reranker
from inranker_flow.stages.evaluate import evaluate
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.promote import promote
from inranker_flow.stages.retrieve import retrieve
from inranker_flow.tracking.runs import pipeline_run
from tests import starts
from tests.loaders import load
from tests.promoting import student, use_database
from tests.serving import process

SOURCE = CorpusConfig(uri="demo:target/1", name="medicines")
RETRIEVAL = RetrieveConfig(test_depth=20)
EVALUATION = EvaluateConfig(measures=("nDCG@10",), latency_queries=0, teacher=False)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A folder of runs as `make run` leaves it: the artifacts that the stages write, their records, and the registry."""
    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        patch.setenv(name, "")  # put back at the end
    folder = tmp_path_factory.mktemp("runs") / "run"
    made = folder / "artifacts" / "one"
    made.mkdir(parents=True)
    patch.setenv("INRANKER_SCRATCH", str(folder / "scratch"))
    patch.setenv("INRANKER_STORE", "off")
    use_database(folder)
    trained = student(made / "model", 0, starts.student("bert"))
    settings = {"retrieval": as_dict(RETRIEVAL), "source": as_dict(SOURCE), "targets": []}
    with pipeline_run("inranker-demo-1", settings), scratch.aside(made / "work", folder=True):
        prepare_corpus(PrepareConfig(max_train_queries=1, max_test_queries=12), SOURCE, made / "collection")
        retrieve(RETRIEVAL, made / "collection", None, made / "candidates")
        measured = made / "evaluation"
        evaluate(
            EVALUATION, TeacherConfig(""), [made / "collection"], [made / "candidates"], [], {"phase2": trained}, "",
            measured, made / "page.html",
        )  # fmt: skip
        promote(
            PromoteConfig(model_name="toy", alpha=1.0, max_loss=1.0, min_queries=1), trained, measured, "", "k", (SOURCE,), "w",
            made / "decision", made / "report.html",
        )  # fmt: skip
    events = [
        {
            "stage": "evaluate",
            "dataset": "",
            "inputs": {"collections": [str(made / "collection")], "candidates": [str(made / "candidates")]},
            "outputs": {"evaluation": str(measured)},
        },
        {
            "stage": "promote",
            "dataset": "",
            "inputs": {"student": str(trained), "evaluation": str(measured)},
            "outputs": {"decision": str(made / "decision"), "report": str(made / "report.html")},
        },
    ]
    lines = "".join(json.dumps(each) + "\n" for each in events)
    (folder / "artifacts" / "events").mkdir()
    (folder / "artifacts" / "events" / "inranker-demo-1.jsonl").write_text(lines)
    yield folder
    import mlflow

    mlflow.set_tracking_uri(None)
    patch.undo()


@pytest.fixture(scope="module")
def champion(run_dir):
    with process("toy", f"--run-dir={run_dir}", "--poll=0.2", "--max-passages=100") as (started, client):
        yield started, client


def test_the_evaluation_leaves_reference_scores_that_are_registered(run_dir):
    found = json.loads((run_dir / "artifacts" / "one" / "evaluation" / "reference_scores.json").read_text())
    assert len(found["pairs"]) == 8 and found["dtype"] == "float32"
    scores = Reranker("models:/toy@champion").score([tuple(each) for each in found["pairs"]])
    np.testing.assert_allclose(scores, found["scores"], atol=1e-4)


def test_what_was_measured_is_what_serves_and_what_every_library_scores(champion, run_dir, capsys):
    """The run, the endpoint, and the loaders of the model's card: the scores of the run's 240 pairs to 1e-4."""
    _, client = champion
    assert verify.main([client.url, f"--run-dir={run_dir}", "--tolerance=1e-4"]) == 0
    said = capsys.readouterr().out
    assert "serves models:/toy/1; inranker-demo-1 measured it as phase2" in said
    assert "medicines  nDCG@10" in said and "240 scores" in said and "SAME" in said
    run = last_run.find(run_dir)
    [parts] = judged_sets.join(run.collections, run.candidates)
    judged = judged_sets.load(*parts, EVALUATION)
    assert judged is not None
    measured = verify._recorded(run.evaluation / "runs" / "medicines.phase2.trec", judged)
    ends = [*judged.starts[1:], len(judged.pairs)]
    lists = [judged.pairs[start:end] for start, end in zip(judged.starts, ends, strict=True)]
    found = load("toy").scores([(pairs[0][0], [passage for _, passage in pairs]) for pairs in lists])
    assert set(found) >= {"own", "transformers", "pyfunc"} and np.std(measured) > 1e-2
    for scores in found.values():
        np.testing.assert_allclose(np.concatenate(scores), measured, rtol=0, atol=1e-4)


def test_another_model_under_the_same_measure_is_different(run_dir, tmp_path, capsys):
    other = tmp_path / "model"
    shutil.copytree(locate("demo:teacher"), other)
    with process(str(other)) as (_, client):
        assert verify.main([client.url, f"--run-dir={run_dir}"]) == 2
        assert "did not measure" in capsys.readouterr().err
        assert verify.main([client.url, f"--run-dir={run_dir}", "--system=phase2"]) == 1
        assert "DIFFERENT" in capsys.readouterr().out


def test_serving_tells_what_serves(champion, capsys):
    _, client = champion
    client.post("/rerank", {"query": "a cough", "documents": ["syrup"]})
    assert serving.main([client.url]) == 0
    said = capsys.readouterr().out
    assert "serves models:/toy/1 since 2" in said and "registry   answers" in said and " ms" in said
    told = {"serves": "models:/toy/1", "failed": {"models:/toy/2": "its files are gone"}, "challenger": "models:/toy/3"}
    samples = {
        "inranker_canary_requests_total": 30, "inranker_canary_compared_total": 20, "inranker_canary_top_differs_total": 5,
        "inranker_canary_seconds_count{champion}": 20, "inranker_canary_seconds_sum{champion}": 0.4,
    }  # fmt: skip
    shown = serving.show("http://x", told, samples)
    assert "FAILED     models:/toy/2: its files are gone" in shown
    assert (
        "models:/toy/3: 30 requests, another best passage in 25.0% of 20" in shown and "champion: mean 20.0 ms" in shown
    )


def test_try_shows_both_rankings_on_80_columns(run_dir, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert try_query.main(["syrup for a cough", f"--run-dir={run_dir}"]) == 0
    said = capsys.readouterr().out
    assert "BM25 on medicines: the best 5 of 20" in said and "models:/toy/1 ranks these 20" in said
    assert max(map(len, said.splitlines())) <= 80 and " was " in said
    assert try_query.main(["zzzz", f"--run-dir={run_dir}"]) == 0
    assert "finds nothing for 'zzzz'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (try_query.main, ["  "], "QUERY: empty"),
        (try_query.main, ["a", "--corpus=lamps"], "CORPUS: 'lamps' was not in inranker-demo-1; there is: medicines"),
        (serving.main, ["http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9"),
        (serve.main, ["nobody"], "nobody: no version serves"),
        (serve.main, ["models:/toy/9"], "models:/toy/9"),
        (serve.main, ["/nowhere"], "/nowhere: no such checkpoint folder"),
        (serve.main, ["toy", "--canary=2"], "CANARY: 2 is no share"),
        (serve.main, ["demo:student", "--canary=0.1"], "CANARY: only for a registered model"),
        (serve.main, ["toy", "--backend=tpu"], "BACKEND: 'tpu' is unknown"),
        (serve.main, ["toy", "--queue=0"], "QUEUE: 0 is below 1"),
        (serve.main, ["toy", "--host=203.0.113.1"], "PORT: cannot listen at 203.0.113.1:8080"),
        (serve.main, ["toy", "--port=eighty"], "PORT: invalid int value"),
    ],
)
def test_bad_input_is_one_line(run_dir, capsys, main, arguments, said):
    given = [] if main is serving.main else [f"--run-dir={run_dir}"]
    port = (
        ["--port=0"] if main is serve.main and not any("port" in each or "host" in each for each in arguments) else []
    )
    assert main([*arguments, *given, *port]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("FAILED: ") and said in error and "\n" not in error


def test_without_a_run_there_is_nothing_to_try(tmp_path, capsys):
    assert try_query.main(["a", f"--run-dir={tmp_path}"]) == 2
    assert "holds no run that came to a verdict; make run makes one" in capsys.readouterr().err


def test_a_process_ends_on_sigterm_and_answers_what_is_under_way(champion, run_dir):
    started, client = champion
    documents = [f"passage {number} about syrup and cough {'of the river ' * 30}" for number in range(100)]
    client.post("/rerank", {"query": "a cough", "documents": documents})  # what is slow once
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(client.post("/rerank", {"query": "a cough", "documents": documents}))
    )
    before = client.metric("inranker_waiting_seconds_count")
    asking.start()
    while client.metric("inranker_waiting_seconds_count") == before and not answers:
        pass
    started.send_signal(signal.SIGTERM)
    asking.join()
    assert started.wait() == 0 and [status for status, _ in answers] == [200]
    assert started.stderr is not None
    lines = [json.loads(line) for line in started.stderr.read().splitlines()]
    assert {"request", "models:/toy/1 serves as champion"} <= {each["message"] for each in lines}
    assert "syrup" not in json.dumps(lines) and registry.champion("toy")
