"""A target that is refused leaves the others going: the real stages, called as their adapters call them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from inranker_flow import profiles
from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import content_digest, read_manifest, write_manifest
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.execution import left_out
from inranker_flow.execution.run_stage import run_stage
from inranker_flow.stages.distill import distill
from inranker_flow.stages.evaluate import evaluate
from inranker_flow.stages.generate_queries import generate_queries
from inranker_flow.stages.preflight import preflight
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import retrieve
from inranker_flow.stages.teacher_label import teacher_label
from inranker_flow.storage import uris
from inranker_flow.tracking import connection
from inranker_flow.tracking.parents import parent_of_kfp
from inranker_flow.tracking.records import ends_of, left_out_of
from inranker_flow.tracking.runs import pipeline_run
from pipelines import submission
from tests import beir, models
from tests.databases import new_database
from tests.promoting import student, use
from tests.unit.test_evaluation import make_candidates, make_collection, make_labels

TEXTS = {"d": "a long moon", "e": "the stone bread"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a store, scratch, records of stages."""
    for name, place in {"STORE": "store", "SCRATCH": "scratch", "EVENTS": "events.jsonl"}.items():
        monkeypatch.setenv(f"INRANKER_{name}", str(tmp_path / place))
    yield tmp_path


def call(stage: Callable[..., Any], here: Path, outputs: str, **arguments: Any) -> Path:
    """Run a stage untracked (or as ``arguments`` say) into a folder of its own, with a page where the stage has one."""
    number = len(list(here.glob("out*")))
    out = here / f"out{number}"
    made: dict[str, Any] = {outputs: dsl.Dataset(uri=str(out / outputs))}
    if stage in (generate_queries, evaluate):
        made["report"] = dsl.Markdown(uri=str(out / "report"))
    metrics = dsl.Metrics(uri=str(out / "metrics"))
    inputs = {key: artifact(value) for key, value in arguments.pop("inputs", {}).items()}
    run_stage(
        stage,
        **{"tracked": False, **arguments},
        inputs=inputs,
        outputs=made,
        metrics=metrics,
    )
    return out / outputs


def artifact(given: Any) -> Any:
    if isinstance(given, dict):
        return {key: artifact(value) for key, value in given.items()}
    if isinstance(given, list):
        return [artifact(value) for value in given]
    return given and dsl.Dataset(uri=str(given))


def collection(here: Path, refused: str = "leave_out", **changed: Any) -> Path:
    folder = models.collection(here / "collection", **{"documents": TEXTS, "dataset": "medicines", **changed})
    write_manifest(folder, dataset="medicines", stage="prepare_corpus", refused=refused)
    return folder


def gone(folder: Path) -> tuple[str, str, str]:
    """The stage whose artifact stands for nothing, the stage that refused, the beginning of its reason."""
    found = read_manifest(folder)
    reason = left_out.reason_of(found)
    assert reason and found.dataset == "medicines" and not found.files
    return found.stage, reason.stage, reason.text


def broken(here: Path) -> Path:
    folder = here / "medicines"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text('{"_id": "1", "text": "one"}\n{"_id": "2", "text": \n')
    return folder


def prepare(here: Path, uri: Path, refused: str = "leave_out") -> Path:
    corpus = {"uri": str(uri), "name": "medicines", "refused": refused}
    return call(prepare_corpus, here, "collection", configs={"corpus": corpus, "config": {}})


def generate(here: Path, folder: Path, **config: Any) -> Path:
    section = {"checkpoint": "no/such", "prompt": "document", **config}
    configs = {"config": section, "corpus": {"uri": "x", "name": "medicines", "refused": "leave_out"}, "retrieval": {}}
    return call(generate_queries, here, "queries", configs=configs, inputs={"collection": folder})


def search(here: Path, folder: Path, queries: Path, **config: Any) -> Path:
    return call(
        retrieve, here, "candidates", configs={"config": config}, inputs={"collection": folder, "queries": queries},
        earlier="", language="",
    )  # fmt: skip


def label(here: Path, folder: Path, candidates: Path) -> Path:
    inputs = {"collection": folder, "candidates": candidates}
    return call(teacher_label, here, "labels", configs={"config": {"checkpoint": "no/such"}}, inputs=inputs)


def test_data_that_is_refused_leaves_the_target_out_and_says_so_in_one_line(here, capsys):
    found = prepare(here, broken(here))
    stage, by, why = gone(found)
    assert (stage, by) == ("prepare_corpus", "prepare_corpus") and "corpus.jsonl line 2: not JSON" in why
    assert [each.name for each in found.iterdir()] == ["manifest.json"], "nothing of what was written before"
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "LEFT OUT: target medicines: prepare_corpus: " in last and "line 2: not JSON" in last
    assert json.loads((found.parent / "metrics").read_text())["left_out"] == 1
    (event,) = map(json.loads, (here / "events.jsonl").read_text().splitlines())
    assert "error" not in event and event["stats"]["left_out"] == 1 and "line 2" in event["reason"]


def test_a_file_that_a_setting_names_and_that_is_gone_leaves_the_target_out(here):
    """Its place was there when the run began: its documents are."""
    folder = beir.write(here / "medicines")
    (folder / "sub").mkdir()
    for path, said in ((f"{here}/lost", "no such file"), (f"{folder}/sub", "not a file")):
        for settings in ({"log": path, "queries": "log"}, {"runs": [path]}, {"labels": f"soft-labels:{path}"}):
            corpus = {"uri": str(folder), "name": "medicines", "refused": "leave_out", **settings}
            stage, by, why = gone(call(prepare_corpus, here, "collection", configs={"corpus": corpus, "config": {}}))
            assert (stage, by) == ("prepare_corpus", "prepare_corpus") and path in why and said in why
            with pytest.raises(SystemExit):
                corpus["refused"] = "end"
                call(prepare_corpus, here, "collection", configs={"corpus": corpus, "config": {}})


def test_no_usable_query_leaves_the_target_out(here):
    found = generate(here, collection(here), min_document_words=1000)
    assert gone(found)[:2] == ("generate_queries", "generate_queries")
    assert (found.parent / "report").read_text().startswith("**Left out** by generate_queries: ")


def test_queries_that_find_nothing_leave_the_target_out(here):
    queries = models.synthetic(here / "queries", [("q", "zebra", "d")], dataset="medicines")
    stage, by, why = gone(search(here, collection(here), queries))
    assert (stage, by) == ("retrieve", "retrieve") and "find nothing, such as" in why
    # Else the evaluation of the others would be another one in each run.
    assert why.startswith("queries: 1 of 1 training") and str(here) not in why


@pytest.mark.parametrize("asked", ["zebra", "bread"])
def test_candidates_that_tell_nothing_leave_the_target_out_before_anything_is_trained(here, asked):
    """`evaluate` would end the run for them, after all training."""
    folder = collection(here, queries={"t": ("test", asked)})
    models._write(tables.QRELS, folder, [("t", "d", 1)])
    write_manifest(folder, dataset="medicines", stage="prepare_corpus", refused="leave_out")
    queries = models.synthetic(here / "queries", [("q", "moon", "d")], dataset="medicines")
    stage, by, why = gone(search(here, folder, queries, max_without_hits=1))
    assert (stage, by) == ("retrieve", "retrieve") and "judged relevant" in why and "retrieval.test_depth" in why
    assert ("no candidate" if asked == "zebra" else "none of the 1 candidates that BM25") in why
    write_manifest(folder, dataset="medicines", stage="prepare_corpus", refused="end")
    with pytest.raises(SystemExit):
        search(here, folder, queries, max_without_hits=1)


def test_nothing_to_label_leaves_the_target_out(here):
    candidates = models.candidates(here / "candidates", {}, [], dataset="medicines")
    stage, by, why = gone(label(here, collection(here), candidates))
    assert (stage, by) == ("teacher_label", "teacher_label") and "no pairs to label" in why


@pytest.mark.parametrize("refused", ["end", ""])
def test_the_source_and_a_strict_profile_end_the_run(here, refused, capsys):
    with pytest.raises(SystemExit) as ended:
        prepare(here, broken(here), refused)
    assert ended.value.code == 2 and "FAILED: " in capsys.readouterr().out.strip().splitlines()[-1]
    candidates = models.candidates(here / "candidates", {}, [], dataset="medicines")
    with pytest.raises(SystemExit):
        label(here, collection(here, refused), candidates)
    assert not list(here.rglob("out*/*/manifest.json"))


def test_what_another_attempt_may_mend_fails(here, monkeypatch, capsys):
    """A place that is not there (a mount, a server) says nothing about the target, nor does a checkpoint."""
    with pytest.raises(SystemExit):
        prepare(here, here / "not-mounted")
    with pytest.raises(SystemExit):
        generate(here, collection(here))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(SystemExit):
        prepare(here, Path("s3://bucket/medicines"))
    out = capsys.readouterr().out
    assert out.count("FAILED: ") == 3 and "LEFT OUT" not in out


def test_later_stages_hand_it_on_without_work(here, capsys):
    """The checkpoints do not exist, and a settings error would be one line: none of it is looked at."""
    folder = prepare(here, broken(here))
    queries = generate(here, folder)
    candidates = search(here, folder, queries)
    labels = label(here, folder, candidates)
    told = {gone(each)[2] for each in (folder, queries, candidates, labels)}
    assert len(told) == 1 and {gone(each)[1] for each in (queries, candidates, labels)} == {"prepare_corpus"}
    assert [gone(each)[0] for each in (queries, candidates, labels)] == [
        "generate_queries",
        "retrieve",
        "teacher_label",
    ]
    assert capsys.readouterr().out.count("LEFT OUT: target medicines: prepare_corpus: ") == 4


def test_a_target_whose_queries_failed_has_no_pairs_whatever_its_collection_is(here):
    folder = collection(here)
    candidates = search(here, folder, generate(here, folder, min_document_words=1000))
    assert gone(label(here, folder, candidates))[1] == "generate_queries"


def test_a_marker_shows_its_stage_in_kfps_metadata(here):
    marker = dsl.Dataset(uri=str(here / "o" / "collection"))
    corpus = {"uri": str(broken(here)), "name": "medicines", "refused": "leave_out"}
    run_stage(
        prepare_corpus, configs={"corpus": corpus, "config": {}}, outputs={"collection": marker}, tracked=False
    )  # fmt: skip
    assert marker.metadata["left_out"] == "prepare_corpus" and marker.metadata["dataset"] == "medicines"


def training_set(path: Path, dataset: str) -> Path:
    models.collection(path, TEXTS, {f"q{n}": ("synthetic", f"where {n} moon") for n in range(4)}, dataset=dataset)
    labels = {("q0", "d"): (0.0, 1.0), ("q1", "e"): (1.0, 0.0), ("q2", "d"): (0.0, 2.0), ("q3", "e"): (0.0, 3.0)}
    models._write(tables.LABELS, path, [(*key, *values) for key, values in labels.items()])
    write_manifest(path, dataset=dataset, stage="teacher_label")
    return path


def marker(path: Path, stage: str, dataset: str = "medicines", why: str = "corpus.jsonl line 2: not JSON") -> Path:
    left_out.write({"it": path}, dataset, stage, left_out.Reason("prepare_corpus", why))
    return path


def phase2(here: Path, *sets: Path) -> Path:
    config = {"max_steps": 2, "batch_size": 2, "warmup_steps": 0, "max_length": 64, "holdout": 0.0}
    model = here / "start"
    if not model.exists():
        student(model, 1, models.t5())
    inputs = {"training_sets": list(sets), "start": model, "replay": None}
    return call(distill, here, "model", name="distill_phase2", configs={"config": config}, inputs=inputs, champion="")


def test_phase_2_trains_on_the_others_and_it_is_the_work_of_these_alone(here, capsys):
    alone = training_set(here / "alone", "lamps")
    first = phase2(here, alone)
    second = phase2(here, alone, marker(here / "marker", "teacher_label"))
    training = json.loads((second / "training.json").read_text())
    assert [each["dataset"] for each in training["inputs"]["training_sets"]] == ["lamps"]
    assert content_digest(first) == content_digest(second)
    *_, event = map(json.loads, (here / "events.jsonl").read_text().splitlines())
    assert event["reused"], "another night with the same targets trains nothing"
    assert "without target medicines, left out by prepare_corpus: corpus.jsonl line 2" in capsys.readouterr().out


def test_where_every_target_is_left_out_the_run_ends_with_their_reasons(here, capsys):
    sets = [marker(here / f"m{n}", "teacher_label", f"t{n}", f"why {n}") for n in range(5)]
    with pytest.raises(SystemExit) as ended:
        phase2(here, *sets)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert ended.value.code == 2 and last.endswith(
        "FAILED: every target was left out, so there is nothing to adapt to: t0: prepare_corpus: why 0; "
        "t1: prepare_corpus: why 1; t2: prepare_corpus: why 2; and 2 more (docs/runbook.md#all-left-out)"
    )


def test_evaluate_measures_the_others_and_drops_all_artifacts_of_a_target(here):
    """One whose labels failed has a collection and candidates, which nobody was adapted to."""
    docs = {f"d{n}": f"vase {n}" for n in range(3)}
    sets = []
    for dataset in ("vases", "medicines"):
        folder = here / dataset
        made = make_collection(folder / "c", dataset, docs, {"q1": "blue vase"}, {"q1": {"d1": 1}})
        ranked = {"q1": [("d0", 3.0), ("d1", 2.0), ("d2", 1.0)]}
        candidates = make_candidates(folder / "k", dataset, ranked)
        labels = make_labels(folder / "l", dataset, {"t1": ("another question", ["a passage"])})
        sets.append((made, candidates, labels))
    collections, candidates, labels = map(list, zip(*sets, strict=True))
    labels[1] = marker(here / "marker", "teacher_label")
    config = {"measures": ["nDCG@10"], "teacher": False, "latency_queries": 0, "scoring": {"max_length": 64}}
    inputs = {
        "collections": collections,
        "candidates": candidates,
        "labels": labels,
        "students": {"phase2": student(here / "student", 1, models.t5())},
    }
    configs = {"config": config, "teacher": {"checkpoint": "no/such"}}
    done = call(evaluate, here, "evaluation", configs=configs, inputs=inputs, champion="")
    summary = json.loads((done / "summary.json").read_text())
    assert list(summary["datasets"]) == ["vases"] and summary["leaks"]["training_sets"] == ["vases"]
    assert summary["left_out"] == {"medicines": "prepare_corpus: corpus.jsonl line 2: not JSON"}
    page = (done.parent / "report").read_text()
    assert "Left out: medicines" in page and "corpus.jsonl line 2: not JSON" in page
    assert json.loads((done.parent / "metrics").read_text())["left_out"] == 1


def test_the_next_run_is_not_answered_by_a_cache(here):
    """What decides a key of KFP's cache is other than before, and stays so when it went well."""
    targets = (CorpusConfig("a", "medicines"), CorpusConfig("b", "lamps"))
    before = left_out.settled(targets, "leave_out")
    assert [(each.refused, each.again) for each in before] == [("leave_out", "")] * 2
    prepare(here, broken(here))
    after = left_out.settled(targets, "leave_out")
    assert after[0].again and after[1] == before[1] and left_out.settled(targets, "leave_out") == after
    assert after[0].content == before[0].content == targets[0].content, "it is the same corpus all the same"
    label(here, collection(here), models.candidates(here / "candidates", {}, [], dataset="medicines"))
    assert left_out.settled(targets, "leave_out")[0].again not in ("", after[0].again)


def test_without_a_store_it_is_left_out_too(here, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", "off")
    gone(prepare(here, broken(here)))
    assert left_out.settled((CorpusConfig("a", "medicines"),) * 2, "leave_out")[0].again == ""


def test_who_is_left_out_is_the_profiles_to_say_and_each_targets(here):
    one, other = CorpusConfig("a", "a"), CorpusConfig("b", "b", refused="end")
    assert [each.refused for each in left_out.settled((one, other), "leave_out")] == ["leave_out", "end"]
    assert [each.refused for each in left_out.settled((one, one), "end")] == ["end", "end"]
    assert [each.refused for each in left_out.settled((one,), "leave_out")] == ["end"], "the only one"


def test_mlflow_knows_how_the_stage_ended(here):
    use(new_database(here / "mlflow.db"), here)
    with pipeline_run("inranker", {}) as parent:
        corpus = {"uri": str(broken(here)), "name": "medicines", "refused": "leave_out"}
        folder = call(prepare_corpus, here, "collection", configs={"corpus": corpus, "config": {}}, tracked=True)
        call(
            teacher_label, here, "labels", tracked=True, configs={"config": {"checkpoint": "no/such"}},
            inputs={"collection": folder, "candidates": marker(here / "k", "retrieve")},
        )  # fmt: skip
    ends = ends_of(parent)
    assert {(each.stage, each.dataset, each.failed, each.left_out) for each in ends} == {
        ("prepare_corpus", "medicines", False, True), ("teacher_label", "medicines", False, True),
    }  # fmt: skip
    assert list(left_out_of(parent)) == ["medicines"]
    assert "line 2: not JSON" in left_out_of(parent)["medicines"]
    client = connection.client()
    assert {run.info.status for run in client.search_runs([connection.experiment_id(client)])} == {"FINISHED"}


def test_preflight_settles_what_becomes_of_each_target_and_the_parent_run_has_the_settings(here, monkeypatch):
    use(new_database(here / "mlflow.db"), here)
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "run-7")
    targets = "targets=[{name: a, uri: 'demo:target/1'}, {name: b, uri: 'demo:target/2', refused: end}]"
    uris.put(b"0a1b2c3d", str(here / "store" / "left-out" / "a"))
    arguments = submission.arguments("inranker", profiles.load("smoke"))
    stats = preflight(
        "inranker", arguments["values"], "", "", "", "", "", targets, {"stage": "x", "cpu": "1", "memory": "1Gi", "queue": "q",
        "tolerations": []}, "", "", here / "report.md",
    )  # fmt: skip
    told = [(each["name"], each.get("refused"), each.get("again")) for each in stats.sections["targets"]]
    assert told == [("a", "leave_out", "0a1b2c3d"), ("b", "end", None)]
    strict = preflight(
        "inranker", arguments["values"], "", "", "", "", "", f"{targets} corpora.refused=end", {"stage": "x", "cpu": "1",
        "memory": "1Gi", "queue": "q", "tolerations": []}, "", "", here / "report.md",
    )  # fmt: skip
    assert [each["refused"] for each in strict.sections["targets"]] == ["end", "end"], "of a run that is tried again"
    client = connection.client()
    shown = client.get_run(parent_of_kfp("run-7")).data.params
    assert shown["pipeline"] == "inranker" and shown["work_key"] == stats.keys["work_key"] and len(shown) < 60
    assert "" not in shown.values() and not [each for each in shown.values() if each.endswith(".0")]
