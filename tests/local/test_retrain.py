"""`make run PIPELINE=retrain`: trains when there is something new, and else says why not, in seconds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from inranker_flow.demo.world import make_world, write_beir
from tests.processes import MAKE_RUN

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "INRANKER_"))}
    command = [
        *MAKE_RUN,
        "retrain",
        "--profile",
        "smoke",
        "--run-dir",
        str(folder / "run"),
    ]
    settings = ("targets=[]", f"corpora.uri={folder / 'corpora'}", "corpora.settle_seconds=0",
        "corpus.max_test_queries=20", "generation.documents=20", "evaluation.teacher=false")  # fmt: skip
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run([*command, *options], cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)


def stages(out: str) -> set[str]:
    """Stages that the last table shows as having worked."""
    return {
        line.split()[0] for line in out.splitlines() if line.split()[2:] and line.split()[1].replace(".", "").isdigit()
    }


def test_it_trains_for_new_corpora_once_and_a_broken_one_is_in_nobodys_way(tmp_path):
    write_beir(make_world("target", 5, queries=0), tmp_path / "corpora" / "medicines")
    (tmp_path / "corpora" / "broken").mkdir()
    (tmp_path / "corpora" / "broken" / "corpus.jsonl").write_text('{"_id": "1", "text": "cut o')
    first = run(tmp_path)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "a run is due: no model was trained in this way yet: medicines" in first.stdout
    assert "broken: quarantined" in first.stdout and "broken: the corpus is empty" in first.stdout
    assert {"discover", "teacher_label", "distill_phase2", "promote"} <= stages(first.stdout)

    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert (
        "Nothing to do: models:/inranker-smoke/1 was trained in this way, on just these corpora: medicines."
        in again.stdout
    )
    assert "teacher_label" not in again.stdout and "generate_queries" not in again.stdout
    assert "SUCCEEDED" in again.stdout, "the exit handler says that all is well"


def test_what_it_needs_is_said_before_anything_runs(tmp_path):
    ended = run(tmp_path, "--set", "corpora.uri=")
    assert ended.returncode == 2 and "corpora.uri" in ended.stderr and not (tmp_path / "run").exists()
    ended = run(tmp_path, "--set", "corpora.marked=x")
    assert ended.returncode == 2 and "corpora.marked: unknown key; did you mean 'marker'?" in ended.stderr
