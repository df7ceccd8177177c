"""Real text through the whole pipeline: real collections, the real T5 tokenizer, small random T5 checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent: the real collections are not part of the project")
def test_adi_goes_through_every_stage(tmp_path):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "INRANKER_"))}
    command = [
        sys.executable, "-m", "pipelines.run", "inranker", "--profile", "smoke", "--run-dir", str(tmp_path),
        "--source", str(DATA / "train" / "squad-v1.1-dev"), "--targets", str(DATA / "collections" / "adi"),
        "--tokenizer", str(DATA / "tokenizers" / "t5"),
        "--set", "phase1.max_steps=3", "--set", "phase2.max_steps=3", "--set", "generation.documents=20",
        "--set", "corpus.max_train_queries=20",
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    (evaluation,) = (tmp_path / "artifacts").rglob("evaluation/summary.json")
    summary = json.loads(evaluation.read_text())
    # ../shared/data/README.md: BM25 .4802 at k1 0.9, b 0.4, English stop words, Snowball stemmer, title + text.
    assert summary["datasets"]["adi"]["systems"]["bm25"]["means"]["nDCG@10"] == pytest.approx(0.4802, abs=0.005)
    assert {"phase1", "phase2", "teacher"} <= set(summary["systems"])
    assert "adi" in (tmp_path / "report.html").read_text()
    (labels,) = [path for path in (tmp_path / "artifacts").rglob("labels/manifest.json") if "loop" in str(path)]
    assert json.loads(labels.read_text())["dataset"] == "adi"
