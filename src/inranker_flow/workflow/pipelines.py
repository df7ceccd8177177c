"""The order of the stages, in plain Python. `pipelines/` says the same to KFP; a test holds that both give the same
artifacts.

Each call of ``run`` is one task: the stage, the collection that it works for, what the stage is given. It returns the
task's stats and outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inranker_flow.settings.profile import FIELDS, SECTIONS
from inranker_flow.workflow.tasks import Done, Run

#: What the largest task asks of a node, for preflight: nothing, for there is no cluster.
_NEED = {"stage": "", "cpu": "0", "memory": "0", "queue": ""}


def inranker(run: Run, values: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    """Check what the run needs, then distil in two phases. ``values`` are a profile's sections, ``keys`` its identities."""
    two_phases(run, _preflight(run, "inranker", values, keys))


def retrain(run: Run, values: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    """As :func:`inranker`, for the corpora that `discover` finds; ends where none of them is new."""
    asked = _preflight(run, "retrain", values, keys)
    found = run(
        "discover",
        configs={
            "config": asked["corpora"],
            **{name: asked[name] for name in ("corpus", "source", "targets", "phase2", "promotion")},
        },
        outputs=("report",),
        work_key=asked["work_key"],
        run_id=run.name,
    ).stats
    if found["go"] == "yes":
        two_phases(
            run, {**asked, **{name: found[name] for name in ("source", "targets", "champion", "start", "run_key")}}
        )


def tasks_of(pipeline: str, profile: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (stage, collection or "") of every task in order, as `two_phases` runs them; none of a pipeline that finds its
    collections itself. ``profile``: its sections by name, whole."""
    if pipeline != "inranker":
        return []
    found = _Listed()
    asked = {name: profile[name] for name in SECTIONS}
    two_phases(found, {**asked, **dict.fromkeys(("champion", "start", "run_key", "work_key"), "")})  # type: ignore[arg-type]
    return [("preflight", ""), *found.tasks]


class _Listed:
    """Takes the place of a `Run`, and only notes what is asked of it."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, str]] = []

    def __call__(self, stage: str, dataset: str = "", *, outputs: Sequence[str] = (), **_given: Any) -> Done:
        self.tasks.append((stage, dataset))
        return Done(dict.fromkeys(outputs, Path()), {})


def _preflight(run: Run, pipeline: str, values: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the checked sections, the keys and the champion."""
    given: dict[str, Any] = {"values": values, "need": _NEED, **keys, **dict.fromkeys(FIELDS, "")}
    found = run("preflight", outputs=("report",), pipeline=pipeline, **given).stats
    sections = {name: found["sections"].get(name, {}) for name in SECTIONS}
    return {**sections, **found["keys"], "champion": found["champion"], "start": found["start"]}


def two_phases(run: Run, asked: Mapping[str, Any]) -> None:
    """The figure of the paper and what it is judged by. ``asked``: sections by name, champion, start and the keys."""
    # Phase 1: supervised queries, the teacher's soft labels.
    source = asked["source"]
    supervised = _prepare(run, source, asked)
    source_pairs = _retrieve(run, source, supervised, None, asked)
    source_labels = _label(run, source, supervised, source_pairs, asked)
    phase1 = run(
        "distill_phase1",
        configs={"config": asked["phase1"]},
        inputs={"training_sets": [source_labels], "start": None, "replay": None},
        outputs=("model",),
        champion="",
    ).outputs["model"]

    # Phase 2: synthetic queries for each target corpus, the same teacher.
    collections, candidates, labels = [], [], []
    for target in asked["targets"]:
        prepared = _prepare(run, target, asked)
        synthetic = run(
            "generate_queries",
            target["name"],
            configs={"config": asked["generation"], "corpus": target, "retrieval": asked["retrieval"]},
            inputs={"collection": prepared},
            outputs=("queries", "report"),
        ).outputs["queries"]
        pairs = _retrieve(run, target, prepared, synthetic, asked)
        collections.append(prepared)
        candidates.append(pairs)
        labels.append(_label(run, target, prepared, pairs, asked))
    phase2 = run(
        "distill_phase2",
        configs={"config": asked["phase2"]},
        inputs={"training_sets": labels, "start": phase1, "replay": source_labels},
        outputs=("model",),
        champion=asked["start"],
    ).outputs["model"]

    # The evidence, and the decision.
    evaluation = run(
        "evaluate",
        configs={"config": asked["evaluation"], "teacher": asked["teacher"]},
        inputs={
            "collections": [supervised, *collections],
            "candidates": [source_pairs, *candidates],
            "labels": [source_labels, *labels],
            "students": {"phase1": phase1, "phase2": phase2},
        },
        outputs=("evaluation", "report"),
        champion=asked["champion"],
    ).outputs["evaluation"]
    exported = run(
        "export",
        configs={"config": asked["export"], "evaluation": asked["evaluation"]},
        inputs={
            "student": phase2,
            "collections": [supervised, *collections],
            "candidates": [source_pairs, *candidates],
        },
        outputs=("exported",),
    ).outputs["exported"]
    run(
        "promote",
        configs={"config": asked["promotion"], "targets": asked["targets"]},
        inputs={"student": phase2, "evaluation": evaluation, "exported": exported},
        outputs=("decision", "report"),
        **{name: asked[name] for name in ("champion", "run_key", "work_key")},
    )


def _prepare(run: Run, corpus: Mapping[str, Any], asked: Mapping[str, Any]) -> Path:
    configs = {"corpus": corpus, "config": asked["corpus"]}
    return run("prepare_corpus", corpus["name"], configs=configs, outputs=("collection",)).outputs["collection"]


def _retrieve(
    run: Run, corpus: Mapping[str, Any], collection: Path, queries: Path | None, asked: Mapping[str, Any]
) -> Path:
    return run(
        "retrieve",
        corpus["name"],
        configs={"config": asked["retrieval"]},
        inputs={"collection": collection, "queries": queries},
        outputs=("candidates",),
        earlier=corpus.get("earlier", ""),
        language=corpus.get("language", ""),
    ).outputs["candidates"]


def _label(run: Run, corpus: Mapping[str, Any], collection: Path, candidates: Path, asked: Mapping[str, Any]) -> Path:
    return run(
        "teacher_label",
        corpus["name"],
        configs={"config": asked["teacher"]},
        inputs={"collection": collection, "candidates": candidates},
        outputs=("labels",),
    ).outputs["labels"]
