"""How fast models are: measured here, or in the newest run with the same checkpoint and device, or by their size.

Speeds are those of one device: `tokens` of prompts a second when scoring, `queries` when generating, `pairs` when training.
"""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.sections import DistillConfig, GenerateConfig, Teacher
from inranker_flow.environment import changes, variables
from inranker_flow.errors import UserError
from inranker_flow.generation import prompts
from inranker_flow.generation.backends import load_backend
from inranker_flow.planning import models
from inranker_flow.rankers.devices import device_name
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.stages.distill import distill
from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained
from inranker_flow.tracking.runs import DEVICE

Work = Literal["score", "generate", "train", "embed"]

#: Device -> (10^12 floating point operations a second in dense bfloat16, 10^9 bytes of memory a second), from the
#: vendor's data sheets (T4 and V100: float16). The CPU's are of eight server cores.
DEVICES = {
    "T4": (65, 320), "V100": (112, 900), "L4": (121, 300), "A10": (125, 600), "A10G": (70, 600), "L40S": (362, 864),
    "A100": (312, 2039), "H100": (989, 3350), "H200": (989, 4800), "B200": (2250, 8000), "cpu": (1, 100),
}  # fmt: skip
#: Share of those that is reached; assumed. Generation is bound by memory: each step reads all weights once for a batch.
REACHED = {"score": 0.4, "embed": 0.4, "train": 0.3, "generate": 0.4}
#: What no GPU makes shorter, because the host is in the way: tokens scored a second, seconds of a training step and of one
#: generated token of a batch; assumed.
MOST_TOKENS, STEP_SECONDS, TOKEN_SECONDS = 1e6, 0.02, 0.03

#: Seconds that a measurement aims at; it is left out where its smallest form would take more than `TOO_LONG`.
AIM, TOO_LONG = 2.0, 20.0


@dataclass(frozen=True)
class Speed:
    """``each``: units of work a second on one device (0: not known), and in a few words how that is known."""

    each: float
    how: str
    #: Mean tokens of a generated query, where generation was measured.
    tokens: float = 0.0


@dataclass(frozen=True)
class Sample:
    """Texts to measure with, and the lengths in tokens that are planned with."""

    queries: Sequence[str]
    passages: Sequence[str]
    prompt_tokens: float
    new_tokens: float


# --- by size ----------------------------------------------------------------------------------------------------------


def by_size(work: Work, reference: str, device: str, sample: Sample, batch: int = 1) -> Speed:
    """From operations and memory: two operations for each weight that reads a token, and twice that for gradients."""
    weights, kind = models.parameters(reference), models.kind_of(reference)
    reading = models.READING[kind] * models.computing(reference)
    peak, memory = DEVICES[device]
    if not weights:
        return Speed(0.0, f"{reference}: not known, and its size neither")
    share = REACHED[work]
    speed = share * peak * 1e12
    size = f"{weights / 1e6:,.{1 if weights < 1e7 else 0}f}"
    of_kind = "" if kind == "monot5" or work == "generate" else f" ({kind})"
    how = f"{reference}: {size} million weights{of_kind} on {device}, {share:.0%} of {peak:,} TFLOP/s reached"
    if work in ("score", "embed"):
        return Speed(min(speed / (2 * reading), MOST_TOKENS), f"{how}, {MOST_TOKENS:,.0f} tokens/s at most")
    if work == "train":
        step = max(6 * reading * sample.prompt_tokens * batch / speed, STEP_SECONDS)
        return Speed(batch / step, f"{how}, {1000 * STEP_SECONDS:.0f} ms a step at least")
    token = max(2 * weights / (share * memory * 1e9), TOKEN_SECONDS)
    prompt = 2 * weights * (sample.prompt_tokens + sample.new_tokens) / speed
    how = f"{how} and {share:.0%} of {memory:,} GB/s, {1000 * TOKEN_SECONDS:.0f} ms a token at least"
    return Speed(1 / (prompt + sample.new_tokens * token / batch), how)


# --- by history -------------------------------------------------------------------------------------------------------


def by_history(work: Work, reference: str, device: str, database: Path) -> Speed | None:
    """From the newest run in MLflow (``MLFLOW_TRACKING_URI``, else the file ``database``) with this checkpoint and device.

    ``device`` "": any. None where there is none. Nothing is made: neither database nor experiment.
    """
    if work == "embed" or (not variables.tracking_uri() and not database.is_file()):
        return None
    folder = Path(reference).expanduser()
    recorded = str(folder.resolve()) if folder.is_dir() else reference  # as it is submitted
    stage, metric = {
        "score": ("teacher_label", "tokens_per_second"),
        "generate": ("generate_queries", "tokens_per_second"),
        "train": ("distill_phase1", "pairs_per_second"),
    }[work]
    with _database(database):
        client = connection.client()
        name = variables.experiment()
        with explained("read earlier runs"):
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                return None
            wanted = f"tags.`inranker.stage` = '{stage}' and params.`config.checkpoint` = '{recorded}'"
            found = client.search_runs(
                [experiment.experiment_id],
                f"{wanted} and metrics.{metric} > 0",
                order_by=["attributes.start_time DESC"],
                max_results=50,
            )
    runs = [run for run in found if not device or short_name(run.data.tags.get(DEVICE, "")) == device]
    if not runs:
        return None
    metrics = runs[0].data.metrics
    how = f"{reference}: as in MLflow's run {runs[0].info.run_id[:8]} on {device or 'this machine'}"
    if work != "generate":
        return Speed(metrics[metric], how)
    tokens = metrics["tokens"] / max(metrics["generated"], 1)
    return Speed(metrics[metric] / max(tokens, 1e-9), how, tokens) if tokens else None


def _database(path: Path) -> AbstractContextManager[None]:
    """Return the database of a local run where no server is named."""
    named = variables.tracking_uri()
    return changes.temporarily({} if named else {variables.TRACKING_URI: connection.database_uri(path)})


# --- by measurement ---------------------------------------------------------------------------------------------------


def is_here(reference: str) -> bool:
    """Return whether a checkpoint is on this machine, or made on it."""
    scheme = reference.partition(":")[0]
    return scheme in ("demo", "init") or Path(reference).expanduser().is_dir()


def this_device() -> str:
    """Return the device here, by its name in `DEVICES` where that knows it."""

    return short_name(device_name())


def short_name(device: str) -> str:
    """Return ``NVIDIA H100 80GB HBM3`` -> ``H100``."""
    return next((known for known in DEVICES if re.search(rf"\b{known}\b", device)), device)


def measure_scoring(config: Teacher, sample: Sample, anyway: bool) -> Speed | None:
    """Score a few hundred pairs; None where that would take long, unless ``anyway``."""
    pairs = _pairs(by_size("score", config.checkpoint, "cpu", sample).each / sample.prompt_tokens, anyway)
    if not pairs:
        return None

    with _quiet():
        ranker = load_ranker(config.checkpoint, config.scoring, config.revision)
        index = _index(pairs, sample)
        job = ranker.prepare(sample.queries, sample.passages, index)
        job.score(np.arange(min(16, pairs)))  # what is slow once
        start = time.monotonic()
        job.score(np.arange(pairs))
        seconds = time.monotonic() - start
    return Speed(
        float(job.lengths.sum()) / seconds, f"{config.checkpoint}: measured here, {pairs} pairs in {seconds:.1f} s"
    )


def measure_generation(config: GenerateConfig, sample: Sample, anyway: bool) -> Speed | None:
    """Write queries for a few passages; None too for an engine or a prompt that is not ready here in seconds."""

    template = prompts.load(config.prompt)
    if config.backend != "transformers" or template.examples:
        return None
    guess = by_size("generate", config.checkpoint, "cpu", sample, config.batch_size)
    documents = _pairs(guess.each / config.queries_per_document, anyway)
    if not documents:
        return None
    texts = [sample.passages[number % len(sample.passages)] for number in range(documents)]
    with _quiet():
        backend = load_backend(config, template)
        backend.generate(texts[:2], 0, lambda _: None)
        start = time.monotonic()
        written = backend.generate(texts, 0, lambda _: None)
        seconds = time.monotonic() - start
    queries = documents * config.queries_per_document
    how = f"{config.checkpoint}: measured here, {queries} queries in {seconds:.1f} s"
    return Speed(queries / seconds, how, written.tokens / queries)


def measure_training(config: DistillConfig, sample: Sample, anyway: bool) -> Speed | None:
    """Train a few steps on made labels, in a temporary folder."""
    pairs = _pairs(by_size("train", config.checkpoint, "cpu", sample, config.batch_size).each, anyway)
    if not pairs:
        return None

    steps = max(3, round(pairs / config.batch_size))
    with (
        tempfile.TemporaryDirectory(prefix="inranker-plan-") as name,
        _quiet(),
        changes.temporarily({variables.SCRATCH: f"{name}/scratch", variables.STORE: "off"}),
    ):
        labels = _labels(Path(name) / "labels", sample, max(2 * config.batch_size, 64))

        def train(steps: int) -> Any:
            short = replace(
                config, max_steps=steps, epochs=10**6, holdout=0.0, warmup_steps=1, evaluate_every=0, save_every=0,
                processes=1, start="phase1",
            )  # fmt: skip
            return distill(short, [labels], None, Path(name) / f"model-{steps}")

        train(2)  # what is slow once
        stats = train(steps)
    pairs = steps * config.batch_size
    how = f"{config.checkpoint}: measured here, {pairs} pairs in {pairs / stats.pairs_per_second:.1f} s of training"
    return Speed(stats.pairs_per_second, how)


def _pairs(guess: float, anyway: bool) -> int:
    """Return the number of pairs to measure with; 0 if that would take too long. The guess is of eight cores: here it is a
    fifth."""
    here = guess / 5
    if here and 16 / here > TOO_LONG and not anyway:
        return 0
    return int(np.clip(AIM * here, 16, 4000))


def _index(pairs: int, sample: Sample) -> np.ndarray:
    numbers = np.arange(pairs)
    return np.stack([numbers % len(sample.queries), (numbers * 7) % len(sample.passages)], axis=1)


def _labels(folder: Path, sample: Sample, pairs: int) -> Path:
    """Return a training set with the sample's texts and random logits."""

    asked, read = sorted(set(sample.queries)), sorted(set(sample.passages))
    queries = {f"q{number}": text for number, text in enumerate(asked)}
    passages = {f"p{number}": text for number, text in enumerate(read)}
    most = min(pairs, len(queries) * len(passages))
    # Every query with as many passages as it takes.
    keys = [(query, passage) for passage in passages for query in queries][:most]
    logits = np.random.default_rng(0).normal(size=(2, len(keys)))
    tables.write(
        tables.QUERIES,
        folder / tables.QUERIES.filename,
        {
            "query_id": list(queries), "text": list(queries.values()), "origin": ["supervised"] * len(queries),
            "source_doc_id": [None] * len(queries),
        },
    )  # fmt: skip
    tables.write(
        tables.CORPUS,
        folder / tables.CORPUS.filename,
        {"doc_id": list(passages), "title": [""] * len(passages), "text": list(passages.values())},
    )
    columns: dict[str, Any] = {"query_id": [query for query, _ in keys], "doc_id": [passage for _, passage in keys]}
    columns |= {"false_logit": logits[0].tolist(), "true_logit": logits[1].tolist()}
    tables.write(tables.LABELS, folder / tables.LABELS.filename, columns)
    write_manifest(folder, dataset="plan", stage="teacher_label")
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines of stages that are not run for their own sake."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def check_device(name: str) -> None:
    """Raises :class:`UserError` for a device that is not in the table."""
    if name not in DEVICES:
        raise UserError(
            f"DEVICE: {name!r} is not in the table of devices; it knows {', '.join(DEVICES)}, and here",
            code="device-unknown",
        )
