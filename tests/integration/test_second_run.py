"""Real text through the whole pipeline (real collections, the real T5 tokenizer, small random T5 checkpoints), and a
second run that computes nothing, even where KFP's cache knows nothing of the first. Run by `make integration`.

Where the real collections are absent the run is on the demo's world.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from inranker_flow import reuse
from tests.models import DATA

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("INRANKER_INTEGRATION"), reason="minutes: run by `make integration`"),
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


def run(folder: Path, store: Path, **more: str) -> tuple[str, float]:
    """What a run in ``folder`` printed, and its CPU seconds, which a busy machine does not change."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "INRANKER_"))}
    command = [sys.executable, "-m", "pipelines.run", "inranker", "--profile", "smoke", "--run-dir", str(folder)]
    command += OPTIONS
    before = _cpu()
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**env, "INRANKER_STORE": str(store), **more},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout, _cpu() - before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    first, _ = run(tmp_path / "first", store)
    assert not reused(first)
    kept = files(store)
    assert {name.split("/")[0] for name in kept} == {"labels", "queries", "stages", "content"}
    if REAL:
        check_real(tmp_path / "first")

    # Elsewhere: KFP's cache and MLflow's database are new.
    again, seconds = run(tmp_path / "again", store)
    assert reused(again) == set(reuse.VERSIONS)
    assert files(store) == kept, "no teacher forward, no query: nothing is new"
    assert "labelling:" not in again and "writing queries" not in again and "distilling" not in again
    assert seconds < 60

    # A rebuilt image: all names in KFP's cache are others.
    rebuilt, seconds = run(tmp_path / "first", store, INRANKER_REGISTRY="registry.example/rebuilt")
    stages = {"retrieve", "teacher_label", "generate_queries", "distill_phase1", "distill_phase2"}
    assert reused(rebuilt) >= stages and files(store).keys() >= kept.keys() and seconds < 60
    table = "\n".join(line for line in again.splitlines() if line.startswith(("inns", "medicines", "adi")))
    assert table and table in first and table in rebuilt
