"""Scoring, labelling and tests/gpu with nothing but torch, transformers, accelerate, numpy, pyarrow, safetensors, pytest."""

from __future__ import annotations

import subprocess
import sys

from tests import bare, models, teachers

SCRIPT = """
import importlib.util, pathlib, sys

for name in ("boto3", "mlflow", "bm25s", "kfp", "scipy", "pandas", "ir_measures", "sentencepiece", "xdist"):
    assert importlib.util.find_spec(name) is None, name

import pytest
from inranker_flow.config.sections import ScoringConfig, TeacherConfig
from inranker_flow.stages.teacher_label import teacher_label
from inranker_flow.rankers.loading import load_ranker

if __name__ == "__main__":
    folder, *checkpoints = sys.argv[1:]
    for checkpoint in checkpoints:
        print(load_ranker(checkpoint, ScoringConfig()).score([("a", "b")]).shape)
    folder = pathlib.Path(folder)
    teacher = TeacherConfig(checkpoints[0], processes=2)
    print(teacher_label(teacher, folder / "collection", folder / "candidates", folder / "labels").pairs)
    # On a machine with a GPU they would take minutes: collecting them imports everything.
    sys.exit(pytest.main(["tests/gpu", "--collect-only", "-q", "-o", "addopts="]))
"""


def test_scoring_and_labelling_need_few_packages_and_so_do_the_tests_for_gpus(tmp_path):
    models.collection(tmp_path / "collection", {"d": "a moon", "e": "a stone"})
    models.candidates(tmp_path / "candidates", {"q": "where is the moon"}, [("q", "d"), ("q", "e")])
    (tmp_path / "script.py").write_text(SCRIPT)
    checkpoints = ["demo:teacher", models.t5(), teachers.causal(), teachers.encoder()]
    (tmp_path / "site").mkdir()
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path, *checkpoints],
        env=bare.environment(tmp_path / "site"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == ["(1, 2)"] * 4 + ["2"], done.stderr
    assert "tests/gpu/test_scoring.py::test_all_gpus_give_the_labels_of_one" in done.stdout
    assert "tests/gpu/test_training.py::test_two_gpus_train_as_one" in done.stdout
