"""Where the students come from, as the report shows it: training curves and the counts of query generation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.distillation.schedule import learning_rate
from inranker_flow.errors import UserError


def trainings(students: Mapping[str, Path]) -> dict[str, Any]:
    """Return student -> its loss and learning rate by step, and the held-out loss at each look, from the training.json of its
    folder."""
    return {name: found for name, folder in students.items() if (found := _training(folder / "training.json"))}


def _training(path: Path) -> dict[str, Any]:
    record = _record(path)
    if not record.get("train_loss"):
        return {}
    return {
        "loss": record["config"]["loss"],
        "seed": record["config"].get("seed"),
        "rates": _rates(record),
        "steps": record["steps"],
        "best_step": record["best_step"],
        "train": [[each["step"], each["loss"]] for each in record["train_loss"]],
        "heldout": [[each["step"], each["loss"], each["kendall"]] for each in record["looks"]],
        "sets": {name.partition(" ")[2]: each["pairs"] for name, each in record["sets"].items()},
    }


def _rates(record: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return (step, learning rate) where a training begins, where its warm-up ends, and where it ends; [] where a record of
    older code does not say."""
    config, total, warmup = record["config"], record["steps"], record.get("warmup_steps", 0)
    if "learning_rate" not in config or warmup >= total:
        return []
    rates = config["learning_rate"], config.get("final_learning_rate", 0.0)
    return [(step, learning_rate(step, total, warmup, *rates)) for step in dict.fromkeys((0, warmup, total))]


def base(students: Sequence[Path]) -> tuple[str, str] | None:
    """Return (reference, revision) of the checkpoint that the first training of the last of ``students`` began with."""
    record = _record(students[-1] / "training.json") if students else {}
    first = [*record.get("lineage", []), record][0]
    _, at, revision = str(first.get("inputs", {}).get("start", "")).partition("@")
    return (first["start"], revision if at else "") if "start" in first else None


def base_reference(students: Mapping[str, Path]) -> str:
    """Return the reference of :func:`base`; "" where that is not known."""
    found = base(list(students.values()))
    return found[0] if found else ""


def _record(path: Path) -> dict[str, Any]:
    """Return the content of a student's training.json; empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not readable ({error}); the student's training must run again", code="artifact-unreadable"
        ) from error
    return found if isinstance(found, dict) else {}


def first_stage(candidates: Sequence[Path]) -> dict[str, str]:
    """Return kind and name of what found the candidates, as `retrieve` noted them; of candidates by several, of any kind."""
    found = [read_manifest(each).details.get("first_stage", {"kind": "bm25", "name": "BM25"}) for each in candidates]
    kinds = {each["kind"] for each in found} or {"bm25"}
    names = list(dict.fromkeys(each["name"] for each in found)) or ["BM25"]
    return {"kind": kinds.pop() if len(kinds) == 1 else "candidates", "name": ", ".join(names)}


def generations(candidates: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the counts of the synthetic queries of each dataset, which `retrieve` noted beside its pairs."""
    found = map(read_manifest, candidates)
    return [{"dataset": each.dataset, **each.details["generation"]} for each in found if each.details.get("generation")]
