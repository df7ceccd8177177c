"""What distillation, evaluation and the plan are given: labels, judgements, records of models, settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inranker_flow.artifacts.manifest import write_manifest
from tests.inputs.table import Artifact, Input, command, stage
from tests.models import causal

DOCS = {f"d{i}": f"vase {i}" for i in range(3)}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 2, "d0": 0}}
RANKED = {query: [(f"d{n}", 3.0 - n) for n in range(3)] for query in QRELS}
#: What is done to an area's folder before the stage runs.
Change = Callable[[Path], None]


def evaluated(here: Path, *changes: Change, champion: str = "", **config: Any) -> int:
    """`evaluate` on two queries with the demo's student; ``changes`` may damage what lies in ``here`` before."""
    from inranker_flow.rankers.checkpoints import locate
    from inranker_flow.stages.evaluate import evaluate
    from tests.unit.test_evaluation import make_candidates, make_collection

    make_collection(here / "collection", "vases", DOCS, dict.fromkeys(QRELS, "blue vase"), QRELS)
    make_candidates(here / "candidates", "vases", RANKED)
    shutil.copytree(locate("demo:student"), here / "student")
    (here / "student" / "scoring.json").write_text(json.dumps(READS))
    for change in changes:
        change(here)
    write_manifest(here / "student", dataset="vases", stage="distill")
    settings = {"teacher": False, "latency_queries": 0, **config}
    return stage(
        evaluate,
        configs={"config": settings, "teacher": {"checkpoint": "demo:teacher"}},
        inputs={
            "collections": [Artifact(here / "collection")], "candidates": [Artifact(here / "candidates")], "labels": [],
            "students": {"phase2": Artifact(here / "student")},
        },
        outputs={"evaluation": Artifact(here / "evaluation"), "report": Artifact(here / "report.html")},
        champion=champion,
    )  # fmt: skip


SERVED = {"checkpoint": "writer", "backend": "openai", "endpoint": "http://llm:8000/v1", "retries": 0}
READS = {"max_length": 64, "truncation": "document", "true_token": "▁true", "false_token": "▁false"}


def reads(**changed: Any) -> Change:
    def write(here: Path) -> None:
        (here / "student" / "scoring.json").write_text(json.dumps({**READS, **changed}))

    return write


def text(path: str, content: str) -> Change:
    def write(here: Path) -> None:
        (here / path).write_text(content)

    return write


def ranked(found: dict[str, list[tuple[str, float]]]) -> Change:
    def write(here: Path) -> None:
        from tests.unit.test_evaluation import make_candidates

        shutil.rmtree(here / "candidates")
        make_candidates(here / "candidates", "vases", found)

    return write


def judged(qrels: dict[str, dict[str, int]]) -> Change:
    def write(here: Path) -> None:
        from tests.unit.test_evaluation import make_collection

        shutil.rmtree(here / "collection")
        make_collection(here / "collection", "vases", DOCS, dict.fromkeys(qrels, "blue vase"), qrels)

    return write


def distilled(here: Path, *changes: Change, documents: int = 2, queries: int = 3, **config: Any) -> int:
    """`distill` for a step, on six labels and a tiny student."""
    from inranker_flow.stages.distill import distill
    from tests import models
    from tests.unit.test_distillation import training_set

    training_set(here / "labels", queries=queries, documents=documents)
    for change in changes:
        change(here)
    write_manifest(here / "labels", dataset="vases", stage="teacher_label")
    settings = {"checkpoint": models.t5(seed=1), "max_steps": 1, "batch_size": 4, "max_length": 64, **config}
    return stage(
        distill, name="distill_phase1", configs={"config": settings}, inputs={"training_sets": [Artifact(here / "labels")]},
        outputs={"model": Artifact(here / "model")}, start=None,
    )  # fmt: skip


def labelled(column: str, value: float) -> Change:
    """One label of the training set is ``value``."""

    def write(here: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = here / "labels" / "labels.parquet"
        table = pq.read_table(path)
        values = [value, *table.column(column).to_pylist()[1:]]
        pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(values)), path)

    return write


def without_labels(here: Path) -> None:
    from tests import models

    shutil.rmtree(here / "labels")
    models.collection(here / "labels", {"d": "apple"}, {"q": ("synthetic", "moon")}, {})


def used(here: Path) -> None:
    (here / "model").mkdir()
    (here / "model" / "x").write_text("")


def planned(here: Path, *options: str) -> int:
    return command("plan", "inranker", "--profile", "smoke", "--calibrate", "0", *options)


def large(here: Path) -> str:
    """A collection with more test queries than a first look takes."""
    folder = here / "large"
    (folder / "qrels").mkdir(parents=True)
    names = range(700)
    rows = [json.dumps({"_id": f"d{i}", "title": "", "text": f"passage {i}"}) for i in names]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": f"q{i}", "text": f"which {i}"}) for i in names))
    rows = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in names)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows))
    return str(folder)


def prepared(here: Path, **config: Any) -> int:
    from inranker_flow.stages.prepare_corpus import prepare_corpus

    return stage(
        prepare_corpus, configs={"corpus": {"uri": large(here), "name": "large"}, "config": config},
        outputs={"collection": Artifact(here / "collection")},
    )  # fmt: skip


INPUTS = [
    # --- how a model reads
    Input("a student of another length than the profile's", lambda here: evaluated(here, scoring={"max_length": 128}),
          ("evaluation.scoring.max_length: 128 is not used", "with the 64 of its own folder"), 0),
    Input("other label words in the profile than the student's", lambda here: evaluated(here, scoring={"true_token": "▁yes"}),
          ("evaluation.scoring.true_token: '▁yes' is not used",), 0),
    Input("a causal prompt for students", lambda here: evaluated(here, scoring={"kind": "causal"}),
          ("evaluation.scoring.kind: 'causal' is not used", "'monot5'"), 0),
    Input("a record of reading that is cut off", lambda here: evaluated(here, text("student/scoring.json", '{"max_length"')),
          ("no usable scoring.json, which says how the model reads; restore it",)),
    Input("a record of reading that is a list", lambda here: evaluated(here, text("student/scoring.json", "[64]")),
          ("scoring.json: expected a section with keys",)),
    Input("a record of reading without a length", lambda here: evaluated(here, text("student/scoring.json", "{}")),
          ("scoring.json.max_length: missing",)),
    Input("a record of reading with an unknown key", lambda here: evaluated(here, reads(max_lenght=64)),
          ("scoring.json.max_lenght: unknown key; did you mean 'max_length'?",)),
    Input("a record of reading with another truncation", lambda here: evaluated(here, reads(truncation="left")),
          ("scoring.json.truncation: 'left' is not one of 'document', 'reference'",)),
    Input("a record of reading with a token that is none", lambda here: evaluated(here, reads(true_token="▁mabe")),
          ("no token '▁mabe'",)),
    Input("a record of a training that is cut off", lambda here: evaluated(here, text("student/training.json", "{")),
          ("training.json: not readable", "must run again")),
    Input("passages that leave words out", lambda here: evaluated(here, passage_words=3, passage_stride=4),
          ("evaluation.passage_stride: 4 is more than passage_words (3)",)),
    Input("passages longer than every document", lambda here: evaluated(here, passage_words=500), ("done in",), 0),
    Input("passages of one word", lambda here: evaluated(here, passage_words=1), ("done in",), 0),
    # --- what is measured
    Input("all candidates level", lambda here: evaluated(here, ranked({q: [(d, 1.0) for d in DOCS] for q in QRELS})),
          ("done in",), 0),
    Input("one query with one document",
          lambda here: evaluated(here, judged({"q1": {"d1": 1}}), ranked({"q1": [("d1", 1.0)]})),
          ("vases: 1 test queries, 1 candidates",), 0),
    Input("a run without hits", lambda here: evaluated(here, ranked({})),
          ("run.parquet: no candidates for any of the 2 judged test queries of vases",)),
    Input("a run in which nothing is relevant", lambda here: evaluated(here, ranked({"q1": [("d0", 1.0)]})),
          ("none of the 1 candidates of vases is judged relevant", "retrieval.test_depth")),
    Input("a candidate that is in no corpus", lambda here: evaluated(here, ranked({"q1": [("gone", 1.0)]})),
          ("document 'gone' is not in", "run retrieve again")),
    Input("judgements that say that nothing is relevant", lambda here: evaluated(here, judged({"q1": {"d1": 0}})),
          ("is judged relevant, so every system would get 0",)),
    Input("an unknown measure", lambda here: evaluated(here, measures=["nDGC@10"]), ("evaluation.measures: 'nDGC@10'",)),
    Input("no measure", lambda here: evaluated(here, measures=[]), ("evaluation.measures",)),
    Input("a measure that counts as headline", lambda here: evaluated(here, measures=["NumRet", "nDCG@10"]), ("done in",), 0),
    Input("a judge without a chat template", lambda here: evaluated(here, judge={"checkpoint": causal()}),
          ("its tokenizer has no chat template", "evaluation.judge.prompt")),
    Input("a judge whose server is gone", lambda here: evaluated(here, judge={**SERVED, "endpoint": "http://127.0.0.1:9/v1"}),
          ("http://127.0.0.1:9/v1: nobody answers there",)),
    Input("a judge that grades fewer than the headline reads", lambda here: evaluated(here, judge={**SERVED, "depth": 5}),
          ("evaluation.judge.depth: 5 passages",)),
    Input("a champion that is no folder", lambda here: evaluated(here, champion="./nowhere"),
          ("champion: not measured: ./nowhere: no such checkpoint",), 0),
    Input("a student without weights", lambda here: evaluated(here, lambda at: (at / "student" / "model.safetensors").unlink()),
          ("student: holds no weights",)),
    Input("a student whose config is damaged", lambda here: evaluated(here, text("student/config.json", "{")),
          ("student",)),
    # --- labels
    Input("a label that is nan", lambda here: distilled(here, labelled("true_logit", float("nan"))),
          ("labels.parquet: the logits of 1 of 6 pairs are no finite float32 numbers",)),
    Input("a label that is infinite", lambda here: distilled(here, labelled("false_logit", float("inf"))),
          ("label them again",)),
    Input("a label beyond float32", lambda here: distilled(here, labelled("true_logit", -1e300)), ("no finite float32",)),
    Input("no labels", lambda here: distilled(here, without_labels), ("no labels, so there is nothing to train on",)),
    Input("all queries with one document for a listwise loss", lambda here: distilled(here, documents=1, loss="kl"),
          ("kl compares the documents of a query, but no query of ", " has two; use mse")),
    Input("one document each and the loss of the paper", lambda here: distilled(here, documents=1), ("done in",), 0),
    Input("all queries held out", lambda here: distilled(here, holdout=1.0), ("holdout: 1.0",)),
    Input("none may be held out", lambda here: distilled(here, holdout=0.5, holdout_max_queries=0),
          ("no query is held out",), 0),
    Input("a learning rate beyond reason", lambda here: distilled(here, learning_rate=1e38), ("1e+38 is above 1",)),
    Input("a second moment that never decays", lambda here: distilled(here, adam_beta2=1.0), ("adam_beta2: 1.0",)),
    Input("no student to start from", lambda here: distilled(here, checkpoint=""), ("checkpoint: empty",)),
    Input("a student without its label words", lambda here: distilled(here, true_token="▁yes"), ("▁yes",)),
    Input("an output folder in use", lambda here: distilled(here, used),
          ("model: exists and is not an empty folder",)),
    # --- the plan of a first look
    Input("a first look at much data", lambda here: planned(here, "--source", large(here)),
          ("large: 50 of its 700 test queries are taken (corpus.max_test_queries)",), 0),
    Input("a limit of test queries", lambda here: prepared(here, max_test_queries=50),
          ("large: 50 of its 700 test queries are taken (corpus.max_test_queries)",), 0),
    Input("a limit of documents", lambda here: prepared(here, max_test_queries=1, max_documents=9),
          ("large: 9 of its 700 documents are taken (corpus.max_documents)",), 0),
    Input("limits that cut nothing", lambda here: prepared(here, max_test_queries=700, max_documents=700), ("done in",), 0),
    Input("a first look at little data", lambda here: planned(here), ("total",), 0),
    Input("a first look at no data", lambda here: planned(here, "--source", "./nowhere"), ("nowhere",)),
    Input("a plan for a device that nobody knows", lambda here: planned(here, "--device", "H9000"), ("H9000",)),
]  # fmt: skip
