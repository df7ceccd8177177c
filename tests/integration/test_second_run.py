"""A second run of the compiled pipeline computes nothing, even where KFP's cache knows nothing of the first. Run by
`make integration`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from inranker_flow import reuse

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("INRANKER_INTEGRATION"), reason="minutes: run by `make integration`"),
]

ROOT = Path(__file__).parents[2]


def run(folder: Path, store: Path, **more: str) -> tuple[str, float]:
    """What a run in ``folder`` printed, and its CPU seconds, which a busy machine does not change."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "INRANKER_"))}
    command = [sys.executable, "-m", "pipelines.run", "inranker", "--profile", "smoke", "--run-dir", str(folder)]
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


def test_nothing_is_computed_twice(tmp_path):
    store = tmp_path / "store"
    first, _ = run(tmp_path / "first", store)
    assert not reused(first)
    kept = files(store)
    assert {name.split("/")[0] for name in kept} == {"labels", "queries", "stages", "content"}

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
    table = "\n".join(line for line in again.splitlines() if line.startswith(("inns", "medicines")))
    assert table and table in first and table in rebuilt
