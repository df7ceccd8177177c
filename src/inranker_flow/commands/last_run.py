"""The last local run in RUN_DIR that came to a verdict: its evaluation, what was measured there, and its settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inranker_flow.artifacts.manifest import check
from inranker_flow.commands import console
from inranker_flow.config.parsing import parse
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.errors import UserError
from inranker_flow.execution import artifact_transfer
from inranker_flow.retrieval.analyser import in_language
from inranker_flow.tracking.runs import settings_of


@dataclass(frozen=True)
class LastRun:
    """``name`` of the run; ``summary`` of its ``evaluation``, the gate's ``decision``, and the folders that were measured."""

    name: str
    evaluation: Path
    summary: Mapping[str, Any]
    decision: Mapping[str, Any]
    collections: tuple[Path, ...]
    candidates: tuple[Path, ...]
    student: Path

    @property
    def registered(self) -> str:
        """The version that the run registered."""
        return f"models:/{self.decision['model']}/{self.decision['version']}"


def find(run_dir: Path) -> LastRun:
    """Return the last run in ``run_dir`` with a verdict; :class:`UserError` where there is none, or its artifacts are gone."""
    records = list(_newest_first(run_dir))
    for name, event in records:
        if event["stage"] != "promote" or event.get("error"):
            continue
        evaluation = event["inputs"]["evaluation"]
        # An evaluation that was found again has its record in an earlier run.
        measured = next((one for _, one in records if one.get("outputs", {}).get("evaluation") == evaluation), None)
        if measured is None:
            break
        collections, candidates = (
            tuple(map(_folder, measured["inputs"][each])) for each in ("collections", "candidates")
        )
        found, decision = _folder(evaluation), _folder(event["outputs"]["decision"])
        return LastRun(
            name,
            found,
            json.loads((found / "summary.json").read_text(encoding="utf-8")),
            json.loads((decision / "decision.json").read_text(encoding="utf-8")),
            collections,
            candidates,
            Path(event["inputs"]["student"]),
        )
    raise UserError(
        f"RUN_DIR: {run_dir} holds no run that came to a verdict; make run makes one, or give another RUN_DIR",
        code="run-unknown",
    )


def retrieval_of(run: LastRun, dataset: str) -> RetrieveConfig:
    """Return the settings of the run's first stage for a data set, in its language, as MLflow keeps them with the run."""
    settings = settings_of(run.name)
    collections = [settings.get("source", {}), *settings.get("targets", [])]
    language = next((each.get("language", "") for each in collections if each.get("name") == dataset), "")
    return in_language(parse(RetrieveConfig, settings.get("retrieval", {}), "retrieval"), language)


def _newest_first(run_dir: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    files = sorted(
        (run_dir / "artifacts" / "events").glob("*.jsonl"), key=lambda each: each.stat().st_mtime, reverse=True
    )
    for path in files:
        for event in reversed(console.read_events(path)):
            yield path.stem, event


def _folder(path: str) -> Path:
    folder = artifact_transfer.fetch(Path(path))
    check(folder)
    return folder
