"""The stage `export`: the student in forms that runtimes without torch serve, each compared with its checkpoint."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inranker_flow import cpus, reading
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.export import ExportConfig
from inranker_flow.config.sections import EvaluateConfig, ScoringConfig
from inranker_flow.evaluation import judged_sets, serving_cost, unjudged
from inranker_flow.exporting import comparison
from inranker_flow.exporting.comparison import Sample
from inranker_flow.exporting.loading import graph_of
from inranker_flow.exporting.record import FILENAME
from inranker_flow.exporting.workshop import Workshop
from inranker_flow.rankers.base import Ranker
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.storage.local import atomic_write

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportStats:
    """``variants`` that were made and agree with the checkpoint, and those that were ``left_out``; compared on so many ``pairs``.

    ``metrics``: "spearman/VARIANT" and "p95_ms/VARIANT" (100 passages, all CPUs).
    """

    variants: int
    left_out: int
    pairs: int
    metrics: dict[str, float] = field(default_factory=dict)


def export(
    config: ExportConfig,
    evaluation: EvaluateConfig,
    student: Path,
    collections: Sequence[Path],
    candidates: Sequence[Path],
    exported: Path,
) -> ExportStats:
    """Write the variants of ``student`` that ``config`` asks for and that agree with its checkpoint into ``exported``.

    They are compared on judged queries of ``collections`` and their ``candidates``, read as the stage `evaluate` reads them.
    Beside them lies ``variants.json``: what was measured, and why a variant was left out.
    """
    shutil.rmtree(exported, ignore_errors=True)
    exported.mkdir(parents=True)
    record: dict[str, Any] = {"variants": {}, "left_out": {}}
    sets = _sets(evaluation, collections, candidates) if config.variants else []
    if config.variants and not sets:
        record["left_out"] = dict.fromkeys(config.variants, "no judged or held-out queries to compare it on")
    if sets:
        sample = comparison.sample(sets, config.pairs, evaluation.measures[0], config.latency_queries)
        record |= _compared(config, evaluation, student, sample, exported)
    for name, why in record["left_out"].items():
        log.warning("%s: left out: %s", name, why)
    with atomic_write(exported / FILENAME) as out:
        out.write(json.dumps(record, indent=1, allow_nan=False).encode())
    write_manifest(exported, dataset=read_manifest(student).dataset, stage="export")
    found = record["variants"]
    metrics = {f"spearman/{name}": each["spearman"] for name, each in found.items()}
    metrics |= {
        f"p95_ms/{name}": each["latency"]["all"]["p95_ms"] for name, each in found.items() if config.latency_queries
    }
    return ExportStats(len(found), len(record["left_out"]), record.get("pairs", 0), metrics)


def _sets(
    evaluation: EvaluateConfig, collections: Sequence[Path], candidates: Sequence[Path]
) -> list[judged_sets.JudgedSet]:
    """Return what variants are compared on: judged queries, or the held-out ones where nobody has judged any."""
    joined = judged_sets.join(collections, candidates)
    judged = [each for each in (judged_sets.load(*parts, evaluation) for parts in joined) if each]
    return judged or unjudged.load(joined, [], evaluation).sets


def _compared(
    config: ExportConfig, evaluation: EvaluateConfig, student: Path, sample: Sample, exported: Path
) -> dict[str, Any]:
    """Return the record of all variants; those that are left out leave no file."""
    scoring = replace(reading.scoring_of(student, evaluation.scoring), dtype="float32")
    threads = cpus.available()
    checkpoint, reference = _of_checkpoint(student, scoring, sample, threads)
    variants: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=exported) as folder:
        workshop = Workshop(graph_of(str(student), scoring), Path(folder), sample.pairs)
        for name in config.variants:
            if fault := workshop.fault(name):
                left_out[name] = fault
                continue
            scores = workshop.scores(name, threads)
            if isinstance(scores, str):
                left_out[name] = scores
                continue
            found: dict[str, Any] = {**comparison.agreement(scores, reference), "mean": sample.mean(scores)}
            if found["spearman"] < config.min_agreement:
                left_out[name] = (
                    f"its scores of {len(reference):,} pairs agree with the checkpoint's to {found['spearman']:.4f} (Spearman); "
                    f"export.min_agreement asks for {config.min_agreement:g}"
                )
                continue
            found["latency"] = comparison.latency(partial(workshop.ranker, name), sample.timed, threads)
            variants[name] = {**found, **workshop.take(name, exported)}
            log.info("%s: %.4f (Spearman), %.1f MB", name, found["spearman"], variants[name]["size_mb"])
    return {
        "measure": sample.measure,
        "queries": sample.queries,
        "pairs": len(reference),
        "passages": serving_cost.PASSAGES,
        "timed": max(len(sample.timed) - 1, 0),
        "threads": threads,
        "device": serving_cost.cpu_name(),
        "checkpoint": checkpoint,
        "variants": variants,
        "left_out": left_out,
    }


def _of_checkpoint(
    student: Path, scoring: ScoringConfig, sample: Sample, threads: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Return what the record says of the checkpoint, and its scores. On a GPU it is not timed: variants are for CPUs."""
    import torch

    ranker = load_ranker(str(student), scoring)
    reference = comparison.margins(ranker, sample.pairs)

    def on(count: int) -> Ranker:
        torch.set_num_threads(count)
        return ranker

    before = torch.get_num_threads()
    timed = sample.timed if ranker.device.type == "cpu" else []
    found = {
        "size_mb": serving_cost.size_mb(str(student)),
        "mean": sample.mean(reference),
        "latency": comparison.latency(on, timed, threads),
    }
    torch.set_num_threads(before)
    return found, reference
