"""What is measured is what serves: one record of how a student reads, in its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest

from inranker_flow import reading
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.sections import DistillConfig, EvaluateConfig, ScoringConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.model_registry import registration, registry
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.reading import Passages
from inranker_flow.stages.distill import distill
from inranker_flow.stages.evaluate import evaluate
from inranker_flow.stages.promote import model_digest
from inranker_flow.tracking.runs import current_run_id
from tests import models
from tests.promoting import VERSIONS, use_database
from tests.unit.test_distillation import training_set
from tests.unit.test_evaluation import make_candidates, make_collection

WORDS = [
    "river",
    "moon",
    "stone",
    "garden",
    "winter",
    "bridge",
    "apple",
    "copper",
    "doctor",
    "engine",
    "forest",
    "hammer",
]
QUERIES = {f"q{i}": f"how long does {WORDS[i]} take" for i in range(3)}


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    return training_set(tmp_path_factory.mktemp("labels") / "labels", queries=6)


@pytest.fixture(scope="module")
def following(tmp_path_factory, labels) -> Path:
    """A student of another length, to be measured against a registered one."""
    return trained(tmp_path_factory.mktemp("following") / "model", labels, max_length=48)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
            patch.setenv(name, "")
        yield use_database(tmp_path_factory.mktemp("mlflow"))


def world(folder: Path) -> tuple[Path, Path, dict[str, str]]:
    """A collection whose documents are longer than 64 tokens and differ only behind them, and its candidates."""
    random = np.random.default_rng(0)
    # The relevant one is last for BM25; letters take several tokens a word, so a prompt of 64 ends early.
    docs = {
        f"{query}-{n}": " ".join([*["garden"] * 58, *random.choice(WORDS, 40).tolist(), f"zxq{n}"])
        for query in QUERIES
        for n in range(3)
    }
    qrels = {query: {f"{query}-2": 1} for query in QUERIES}
    collection = make_collection(folder / "c", "long", docs, QUERIES, qrels)
    ranked = {query: [(f"{query}-{n}", 3.0 - n) for n in range(3)] for query in QUERIES}
    return collection, make_candidates(folder / "k", "long", ranked), docs


def trained(folder: Path, labels: Path, **settings) -> Path:
    config = DistillConfig(
        checkpoint=models.t5(seed=1), learning_rate=1e-3, warmup_steps=1, max_steps=2, batch_size=8,
        **{"max_length": 64, **settings},
    )  # fmt: skip
    distill(config, [labels], None, folder)
    return folder


def measured(tmp_path: Path, student: Path, config: EvaluateConfig, champion: str = "") -> dict[str, dict[str, float]]:
    """System -> document -> score, from the TREC runs; and the summary under ""."""
    collection, candidates, _ = world(tmp_path / "world")
    evaluate(
        config, TeacherConfig("demo:teacher"), [collection], [candidates], [], {"phase2": student}, champion,
        tmp_path / "evaluation", tmp_path / "report.html",
    )  # fmt: skip
    found = {}
    for path in (tmp_path / "evaluation" / "runs").glob("long.*.trec"):
        rows = [line.split() for line in path.read_text().splitlines()]
        found[path.name.split(".")[1]] = {row[2]: float(row[4]) for row in rows}
    return {**found, "": json.loads((tmp_path / "evaluation" / "summary.json").read_text())}


def served(tmp_path: Path, student: Path, summary: dict, docs: dict[str, str]) -> tuple[dict[str, float], str]:
    """Document -> what the registered pyfunc predicts; and the version's reference."""
    import mlflow

    serving = registration.Serving(summary["models"]["phase2"]["served"], VERSIONS)
    name = tmp_path.name
    digest = model_digest(student)
    version = registration.register(name, student, digest, {}, serving, current_run_id(name), "card")
    model = mlflow.pyfunc.load_model(version.reference)
    names = {query: [name for name in docs if name.startswith(query)] for query in QUERIES}
    rows = [{"query": QUERIES[query], "passages": [docs[name] for name in names[query]]} for query in QUERIES]
    predicted = model.predict(pandas.DataFrame(rows))
    scores: dict[str, float] = {}
    for query, group in zip(QUERIES, predicted, strict=True):
        scores |= dict(zip(names[query], group, strict=True))
    return scores, version.reference


@pytest.mark.parametrize(
    ("training", "evaluation"),
    [
        ({}, {}),
        ({"max_length": 96}, {}),
        ({"truncation": "reference"}, {}),
        ({"truncation": "reference", "append_eos": False}, {}),
        ({"true_token": "▁apple", "false_token": "▁moon"}, {}),
        ({}, {"passage_words": 30}),
        ({}, {"passage_words": 30, "passage_stride": 7}),
        ({"truncation": "reference"}, {"passage_words": 99, "passage_stride": 99}),
        ({}, {"scoring": ScoringConfig(max_length=256, truncation="reference", dtype="float32")}),
    ],
    ids=str,
)
def test_an_evaluation_measures_what_the_pyfunc_predicts(tmp_path, database, labels, following, training, evaluation):
    student = trained(tmp_path / "student", labels, **training)
    config = EvaluateConfig(teacher=False, latency_queries=0, **evaluation)
    found = measured(tmp_path, student, config)
    _, _, docs = world(tmp_path / "again")
    predicted, reference = served(tmp_path, student, found[""], docs)
    assert predicted == pytest.approx(found["phase2"], abs=1e-5) and len(predicted) == 9
    # The registered version is measured as it is served, whatever the next profile says.
    (tmp_path / "world").rename(tmp_path / "world1")
    later = EvaluateConfig(teacher=False, latency_queries=0, passage_words=50, scoring=ScoringConfig(max_length=32))
    again = measured(tmp_path, following, later, reference)
    assert again["champion"] == pytest.approx(found["phase2"], abs=1e-5)
    reads = again[""]["models"]
    assert (reads["phase2"]["reads"]["max_length"], reads["phase2"]["served"]["passage_words"]) == (48, 50)
    assert reads["champion"]["served"]["passage_words"] == evaluation.get("passage_words", 0)


def test_the_folder_says_how_its_model_reads(tmp_path, labels):
    student = trained(tmp_path / "student", labels, max_length=80, truncation="reference", true_token="▁apple")
    said = {"max_length": 80, "truncation": "reference", "true_token": "▁apple", "false_token": "▁false"}
    said["kind"] = "monot5"
    assert json.loads((student / "scoring.json").read_text()) == said
    assert reading.of_folder(student).settings() == said
    (student / "scoring.json").unlink()
    assert reading.of_folder(student).settings() == said, "as folders of earlier days say it"
    (student / "training.json").write_text('{"config": {"max_length": 80}}')
    assert reading.of_folder(student).settings() == {**said, "truncation": "document", "true_token": "▁true"}
    for others in ("{}", "[]", '{"config": 7}', '{"config": {"lr": 1}}'):
        (student / "training.json").write_text(others)
        assert reading.of_folder(student) is None
    asked = ScoringConfig(max_length=99, dtype="float32")
    assert reading.scoring_of(student, asked) == asked, "what no folder says, the profile does"


def test_a_setting_that_counts_for_nothing_is_told_once(tmp_path, labels, caplog):
    student = trained(tmp_path / "student", labels)
    scoring = ScoringConfig(max_length=128, kind="causal", batch_tokens=4096)
    found = measured(tmp_path, student, EvaluateConfig(teacher=False, latency_queries=0, scoring=scoring))
    lines = [record.getMessage() for record in caplog.records if "is not used" in record.getMessage()]
    assert lines == [
        "evaluation.scoring.max_length: 128 is not used: phase2 is measured as it serves, with the 64 of its own folder",
        "evaluation.scoring.kind: 'causal' is not used: phase2 is measured as it serves, with the 'monot5' of its own folder",
    ]
    assert found[""]["models"]["phase2"]["reads"]["max_length"] == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no usable scoring.json, which says how the model reads; restore it"),
        ("[]", "scoring.json: expected a section with keys"),
        ("{}", "scoring.json.max_length: missing"),
        (
            '{"max_length": 0, "truncation": "document", "true_token": "a", "false_token": "b"}',
            "max_length: 0 is below 1",
        ),
        (
            '{"max_length": 9, "truncation": "left", "true_token": "a", "false_token": "b"}',
            "truncation: 'left' is not one",
        ),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, content, message):
    (tmp_path / "scoring.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        reading.of_folder(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_equal_weights_that_are_served_otherwise_are_another_version(tmp_path, database, following):
    run = current_run_id("m")
    plain, passages = ({}, {"passage_words": 30, "dtype": "auto"})
    versions = [
        registration.register("m", following, "digest", {}, registration.Serving(each, VERSIONS), run, "card").version
        for each in (plain, passages, plain, passages)
    ]
    assert versions == ["1", "2", "1", "2"]
    assert registry.served("models:/m/2").passages == Passages(30) and registry.served("models:/m/1").passage_words == 0


@pytest.mark.parametrize(
    ("passages", "text", "parts"),
    [
        (Passages(), "a b c", ["a b c"]),
        (Passages(3), "a b  c", ["a b  c"]),
        (Passages(2), "a b c", ["a b", "b c"]),
        (Passages(2, 2), "a b c", ["a b", "b c"]),
        (Passages(1, 1), "a b", ["a", "b"]),
        (Passages(4, 4), "a b c d e f", ["a b c d", "c d e f"]),
        (Passages(5), "", [""]),
    ],
)
def test_passages(passages, text, parts):
    assert passages.cut(text) == parts


def test_a_quality_that_only_passages_show(tmp_path, labels):
    """The measure's values are those of the passages' scores, not of the beginning's."""
    student = trained(tmp_path / "student", labels)
    config = EvaluateConfig(teacher=False, latency_queries=0, passage_words=30, passage_stride=10)
    found = measured(tmp_path, student, config)["phase2"]
    _, _, docs = world(tmp_path / "again")
    ranker = load_ranker(str(student), reading.scoring_of(student, ScoringConfig()))
    for name, text in docs.items():
        logits = ranker.score([(QUERIES[name.partition("-")[0]], part) for part in Passages(30, 10).cut(text)])
        assert found[name] == pytest.approx((logits[:, 1] - logits[:, 0]).max(), abs=1e-5)


def test_a_model_whose_folder_says_nothing_is_served_as_it_was_measured(tmp_path, database, following):
    """`promote` itself registers it, from what the evaluation wrote."""
    import mlflow

    from tests.promoting import evaluation, promote, training

    student = Path(shutil.copytree(following, tmp_path / "student"))
    (student / "scoring.json").unlink()
    record = training()
    record["config"].pop("max_length")
    record["config"] |= {"max_tokens": 40}
    (student / "training.json").write_text(json.dumps(record))
    write_manifest(student, dataset="toy", stage="distill")
    assert reading.of_folder(student) is None
    folder = evaluation(tmp_path / "e", bm25=0.2, phase2=0.6)
    summary = json.loads((folder / "summary.json").read_text())
    reads = {"max_length": 40, "truncation": "document", "true_token": "", "false_token": ""}
    summary["models"]["phase2"] |= {
        "reads": reads,
        "served": {"passage_words": 20, "passage_stride": 0, "dtype": "auto"},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    write_manifest(folder, dataset="toy", stage="evaluate")
    with pytest.MonkeyPatch.context() as patch:
        # The card needs the length, too; this test is about what serves.
        patch.setattr("inranker_flow.model_registry.model_card.describe", lambda *_: "about")
        patch.setattr("inranker_flow.model_registry.model_card.write", lambda *_: "card")
        promote("silent", student, folder)
    model = mlflow.pyfunc.load_model("models:/silent/1")
    text = " ".join(["garden"] * 30 + ["moon"] * 25)
    [[score]] = model.predict(pandas.DataFrame([{"query": "a river", "passages": [text]}]))
    ranker = load_ranker(str(student), ScoringConfig(max_length=40))
    logits = ranker.score([("a river", part) for part in Passages(20).cut(text)])
    assert score == pytest.approx((logits[:, 1] - logits[:, 0]).max(), abs=1e-5)
