"""Real text through the whole pipeline (real collections, the real T5 tokenizer, small random T5 checkpoints), and a
second run that computes nothing, even where KFP's cache knows nothing of the first; after a change of a corpus what changed
is computed. Run by `make integration`.

Where the real collections are absent the run is on the demo's world.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from inranker_flow.demo.world import make_world, write_beir
from inranker_flow.store import stage_results
from tests.models import DATA
from tests.processes import MAKE_RUN

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.long,
]

ROOT = Path(__file__).parents[2]
REAL = DATA.is_dir()
#: What the run is on: small, so that it ends in a minute.
OPTIONS = [
    *("--source", str(DATA / "train" / "squad-v1.1-dev"), "--targets", str(DATA / "collections" / "adi")),
    *("--tokenizer", str(DATA / "tokenizers" / "t5")),
    *("--set", "phase1.max_steps=3", "--set", "phase2.max_steps=3", "--set", "generation.documents=20"),
    *("--set", "corpus.max_train_queries=20"),
] if REAL else []  # fmt: skip


def run(folder: Path, store: Path, pipeline: str = "inranker", options: Sequence[str] = OPTIONS, **more: str) -> str:
    """What a run in ``folder`` printed."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "INRANKER_"))}
    command = [
        *MAKE_RUN,
        pipeline,
        "--profile",
        "smoke",
        "--run-dir",
        str(folder),
        *options,
    ]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**env, "INRANKER_STORE": str(store), **more},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def reused(out: str) -> set[str]:
    """Stages that the last table shows as reused."""
    return {line.split()[0] for line in out.splitlines() if line.split()[1:2] == ["reused"]}


def files(store: Path) -> dict[str, int]:
    return {str(path.relative_to(store)): path.stat().st_size for path in store.rglob("*") if path.is_file()}


def check_real(folder: Path) -> None:
    (evaluation,) = (folder / "artifacts").rglob("evaluation/summary.json")
    summary = json.loads(evaluation.read_text())
    # ../shared/data/README.md: BM25 .4802 at k1 0.9, b 0.4, English stop words, Snowball stemmer, title + text.
    assert summary["datasets"]["adi"]["systems"]["bm25"]["means"]["nDCG@10"] == pytest.approx(0.4802, abs=0.005)
    assert {"phase1", "phase2", "teacher"} <= set(summary["systems"])
    assert "adi" in (folder / "report.html").read_text()
    (labels,) = [path for path in (folder / "artifacts").rglob("labels/manifest.json") if "loop" in str(path)]
    assert json.loads(labels.read_text())["dataset"] == "adi"


def test_nothing_is_computed_twice(tmp_path):
    store = tmp_path / "store"
    first = run(tmp_path / "first", store)
    assert not reused(first)
    kept = files(store)
    assert {name.split("/")[0] for name in kept} == {"labels", "queries", "pairs", "stages", "content"}
    if REAL:
        check_real(tmp_path / "first")

    # Elsewhere: KFP's cache and MLflow's database are new.
    again = run(tmp_path / "again", store)
    assert reused(again) == set(stage_results.VERSIONS)
    assert files(store) == kept, "no teacher forward, no query: nothing is new"
    assert "labelling:" not in again and "writing queries" not in again and "distilling" not in again

    # A rebuilt image: all names in KFP's cache are others.
    rebuilt = run(tmp_path / "first", store, INRANKER_REGISTRY="registry.example/rebuilt")
    stages = {"retrieve", "teacher_label", "generate_queries", "distill_phase1", "distill_phase2"}
    assert reused(rebuilt) >= stages and files(store).keys() >= kept.keys()
    table = "\n".join(line for line in again.splitlines() if line.startswith(("inns", "medicines", "adi")))
    assert table and table in first and table in rebuilt


def test_retraining_on_a_changed_corpus_labels_what_changed_alone(tmp_path):
    corpus = tmp_path / "corpora" / "medicines"
    write_beir(make_world("target", 5, queries=0), corpus)
    settings = ("targets=[]", f"corpora.uri={tmp_path / 'corpora'}", "corpora.settle_seconds=0", "evaluation.teacher=false",
        "corpus.max_test_queries=20", "generation.documents=200")  # fmt: skip

    options = [word for setting in settings for word in ("--set", setting)]

    def retrain() -> dict[tuple[str, str], dict[str, float]]:
        """(stage, dataset) -> what it told the record of the run."""
        out = run(tmp_path / "run", tmp_path / "store", "retrain", options)
        assert "a run is due" in out
        lines = max((tmp_path / "run" / "artifacts" / "events").iterdir()).read_text().splitlines()
        return {(each["stage"], each["dataset"]): each["stats"] for each in map(json.loads, lines)}

    first = retrain()
    assert first["retrieve", "medicines"]["queries_kept"] == 0

    lines = (corpus / "corpus.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows[:: len(rows) // 24]:  # two in a hundred
        row["text"] += " It is kept in a dry place."
    (corpus / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = retrain()
    kept, labelled = again["retrieve", "medicines"], again["teacher_label", "medicines"]
    assert 0.9 * kept["train_queries"] < kept["queries_kept"] < kept["train_queries"]
    new = labelled["pairs"] - labelled["reused_pairs"]
    assert 0 < new <= 0.04 * labelled["pairs"]
    documents = again["generate_queries", "medicines"]["documents"]
    written = documents - again["generate_queries", "medicines"]["resumed_documents"]
    assert 0 < written <= 0.04 * documents
    assert again["teacher_label", "inns"].get("reused_pairs") == again["teacher_label", "inns"]["pairs"]
