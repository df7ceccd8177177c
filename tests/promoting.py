"""What `promote` works with: real small students, evaluations that say what a test wants, and a real registry."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from inranker_flow import reading
from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.sections import CorpusConfig, PromoteConfig
from inranker_flow.model_registry import history
from inranker_flow.stages import promote as stage
from inranker_flow.tracking import connection
from tests.databases import new_database

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"}
QUERIES = 30


def use_database(folder: Path) -> str:
    """A new SQLite registry in ``folder``, which this process (and those it starts) then uses; returns its address."""
    uri = new_database(folder / "mlflow.db")
    use(uri, folder)
    return uri


@contextmanager
def registry_of_a_module(folder: Path) -> Iterator[Path]:
    """Let this process use a new registry in ``folder`` until the block ends."""
    import mlflow

    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        patch.setenv(name, "")  # put back at the end
    use_database(folder)
    yield folder
    mlflow.set_tracking_uri(None)
    patch.undo()


def use(uri: str, folder: Path) -> None:
    """Let this process use the registry ``uri``, whose runs keep their files below ``folder`` (if it is a database)."""
    import mlflow

    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ["INRANKER_ARTIFACT_ROOT"] = (folder / "mlartifacts").as_uri()
    mlflow.set_tracking_uri(uri)


def stored(name: str, number: str = "1") -> Path:
    """The folder in which a local registry keeps the MLflow model of a version."""
    return Path(urlsplit(connection.client().get_model_version_download_uri(name, number)).path)


def training(max_length: int = 128, truncation: str = "document") -> dict:
    """A training.json of phase 2, as `distill` writes it."""
    config = {
        "max_length": max_length, "truncation": truncation, "true_token": "▁true", "false_token": "▁false",
        "loss": "mse", "batch_size": 32, "learning_rate": 7e-5, "seed": 1,
    }  # fmt: skip
    phase1 = {
        "start": "google-t5/t5-small",
        "inputs": {"start": "google-t5/t5-small@main", "training_sets": [{"dataset": "inns", "digest": "a" * 64}]},
        "sets": {"1 inns": {"pairs": 900, "heldout_pairs": 100}},
    }
    return {
        "start": "/models/phase1",
        "inputs": {"start": f"sha256:{'b' * 64}", "training_sets": [{"dataset": "medicines", "digest": "c" * 64}]},
        "lineage": [phase1],
        "sets": {"1 medicines": {"pairs": 450, "heldout_pairs": 50}},
        "steps": 300,
        "best_step": 200,
        "config": config,
        "versions": VERSIONS,
    }


def student(folder: Path, seed: int, checkpoint: str | None = None, max_length: int = 128) -> Path:
    """A model folder as phase 2 writes it, with random weights (or those of the folder ``checkpoint``)."""
    if checkpoint:
        shutil.copytree(checkpoint, folder)
    else:
        from inranker_flow.rankers.checkpoints import load_seq2seq

        model, tokenizer = load_seq2seq(f"init:tiny?seed={seed}")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    reads = reading.of_folder(folder)
    record = training(max_length) | ({"reads": reads.settings()} if reads else {})
    (folder / "training.json").write_text(json.dumps(record), encoding="utf-8")
    write_manifest(folder, dataset="medicines", stage="distill")
    return folder


def summary(unmeasured: dict[str, str] | None = None, **systems: float) -> dict:
    """A summary.json as `evaluate` writes it: one dataset, the same value for every query of a system."""
    compared = [
        {
            "dataset": "medicines", "measure": "nDCG@10", "system": "phase2", "against": against, "queries": QUERIES,
            "difference": systems["phase2"] - value, "better": 20, "worse": 3, "p": 0.001, "p_holm": 0.002,
            "interval": [systems["phase2"] - value - 0.01, systems["phase2"] - value + 0.01], "effect": 0.5,
        }
        for against, value in systems.items() if against != "phase2" and "phase2" in systems
    ]  # fmt: skip
    return {
        "headline": "nDCG@10",
        "measures": ["nDCG@10"],
        "systems": list(systems),
        "students": [name for name in systems if name.startswith("phase")],
        "skipped": {},
        "datasets": {
            "medicines": {
                "queries": QUERIES,
                "without_candidates": 0,
                "pairs": 300,
                "dropped": 0,
                "ceiling": {"depth": 10, "recall": 1.0, "means": {"nDCG@10": 0.9}},
                "digests": {"collection": "d" * 64, "candidates": "e" * 64},
                "systems": {name: {"means": {"nDCG@10": value}, "tie_rate": 0.0} for name, value in systems.items()},
            }
        },
        "families": {},
        "average": {name: {"nDCG@10": value} for name, value in systems.items()},
        "intervals": {name: {"medicines": [value - 0.01, value + 0.01], "": None} for name, value in systems.items()},
        "comparisons": compared,
        "cases": [],
        "training": {},
        "generation": [],
        "licences": {"base": "apache-2.0", "teacher": "", "data": {"medicines": "cc-by-4.0", "inns": ""}},
        "config": {"teacher": {"checkpoint": "castorini/monot5-3b-msmarco-10k", "revision": "0123abc"}},
        "code": "f00d",
        "latency": {"passages": 100, "queries": 20, "filled": 0},
        "models": {
            name: {
                "reference": name,
                "revision": "",
                "digest": "d1" * 32,
                "parameters": 1_000_000,
                "size_mb": 4.0,
                "seconds": 1.0,
                "pairs_per_second": 300.0,
                "latency_median_ms": 20.0,
                "latency_p95_ms": 30.0,
                "latency_queries": 20,
                "device": "a processor",
                "same_as": "",
            }
            for name in systems
            if name != "bm25"
        },
        "leaks": {
            "queries": 0,
            "found": [],
            "similarity": 0.9,
            "training_sets": ["medicines"],
            "training_queries": 9,
            "passages": {},
        },
        "unmeasured": unmeasured or {},
    }


def evaluation(
    folder: Path, unmeasured: dict[str, str] | None = None, left_out: dict[str, str] | None = None, **systems: float
) -> Path:
    """An evaluation folder: ``systems`` have this nDCG@10 on every query; ``left_out``: targets, and why."""
    folder.mkdir(parents=True)
    rows: dict[str, list] = {"dataset": [], "system": [], "measure": [], "query_id": [], "value": []}
    for system, value in systems.items():
        rows["dataset"] += ["medicines"] * QUERIES
        rows["system"] += [system] * QUERIES
        rows["measure"] += ["nDCG@10"] * QUERIES
        rows["query_id"] += [f"q{i}" for i in range(QUERIES)]
        rows["value"] += [value + i * 1e-4 for i in range(QUERIES)]
    tables.write(tables.MEASURES, folder / "measures.parquet", rows)
    found = {**summary(unmeasured, **systems), "left_out": left_out or {}}
    (folder / "summary.json").write_text(json.dumps(found), encoding="utf-8")
    write_manifest(folder, dataset="medicines", stage="evaluate")
    return folder


def promote(
    name: str,
    student: Path,
    evaluation: Path,
    champion: str = "",
    run_key: str = "k",
    decision: Path | None = None,
    policy: PromoteConfig | None = None,
    targets: tuple[CorpusConfig, ...] = (CorpusConfig(uri="demo:target/1", name="medicines"),),
    exported: Path | None = None,
) -> stage.PromoteStats:
    """The stage; decision and page are written beside the evaluation."""
    report = evaluation.with_name(f"{evaluation.name}.html")
    decision = decision or evaluation.with_name(f"{evaluation.name}-decision")
    policy = policy or PromoteConfig(model_name=name)
    return stage.promote(policy, student, evaluation, champion, run_key, targets, "work", decision, report, exported)


def reasons(evaluation: Path) -> list[dict]:
    """What the decision about ``evaluation`` gives as its reasons."""
    found = json.loads((evaluation.with_name(f"{evaluation.name}-decision") / "decision.json").read_text())
    return found["reasons"]


def previous(name: str) -> tuple[history.State, str]:
    """Return the settled state and the version that a rollback restores."""
    state = history.settle(name)
    return state, next(version.version for version, _ in history.leads_back(name, state) if version)
