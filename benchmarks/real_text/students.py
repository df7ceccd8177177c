"""Students of every variant and seed, by the product's own stages, and one evaluation of all of them.

The order is that of `workflow.pipelines.two_phases`. A stage that is done is found by its content, and a killed training
goes on after its last checkpoint, so the command is given again until it ends.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.real_text.domains import SOURCE
from benchmarks.real_text.queries import KINDS, starter
from benchmarks.real_text.served import served
from benchmarks.real_text.weights import MINILM
from inranker_flow.workflow.tasks import Run

log = logging.getLogger(__name__)

#: The targets of the tables: questions about reviews and health, phrases about electronics, questions of the web, entities.
TARGETS = ("squadshifts-amazon", "liveqa-med", "vaswani", "trec-dl-2019-pool", "dbpedia-entity-5k")
SEEDS = (1, 2, 3)
#: Queries of each target. The source has 6,000 questions for phase 1, and others for the comparison with more of it.
QUERIES = 400
RETRIEVAL = {"negatives": 5, "depth": 100, "test_depth": 30, "seed": 1}
#: A cross-encoder of three of the six layers: what it has to learn is to compare two texts. It sees each pair once, so it
#: goes without dropout.
TRAINING = {
    "learning_rate": 2e-4, "warmup_steps": 75, "batch_size": 32, "epochs": 1, "max_length": 96, "batching": "grouped",
    "standardise": "dataset", "dropout": 0.0, "evaluate_every": 150, "holdout": 0.03, "holdout_max_queries": 100,
}  # fmt: skip
#: Trained once and shared by all seeds, which draw phase 2: it has three times the pairs of phase 2.
PHASE1 = {**TRAINING, "layers": [3], "seed": 1, "evaluate_every": 300}
EVALUATION = {"measures": ["nDCG@10", "RR@10"], "latency_queries": 0, "shard_pairs": 5_000}


@dataclass(frozen=True)
class Variant:
    """A student: what phase 2 is changed by. ``kind`` of queries: written, crops, or source (more of it)."""

    name: str
    kind: str = "written"
    changes: Mapping[str, Any] = field(default_factory=dict)
    queries: int = QUERIES

    @property
    def slug(self) -> str:
        """Its name in paths."""
        return self.name.replace(" ", "-")


REPLAY = {"replay": 0.25}
#: What phase 2 is compared by: the same compute of more source, and queries that a language model wrote.
COMPARED = (Variant("more source", "source"), Variant("written", changes=REPLAY))
#: Each changes one thing of `written`.
CHANGED = (
    Variant("low rate", changes={**REPLAY, "learning_rate": 5e-5}),
    Variant("crops", "crops", changes=REPLAY),
    Variant("margin_mse", changes={**REPLAY, "loss": "margin_mse"}),
    Variant("kl", changes={**REPLAY, "loss": "kl"}),
    Variant("ranknet", changes={**REPLAY, "loss": "ranknet"}),
    Variant("no replay"),
    Variant("merged (mean)", changes={**REPLAY, "merge": "mean"}),
    Variant("merged (slerp)", changes={**REPLAY, "merge": "slerp"}),
    Variant("100 queries", changes=REPLAY, queries=100),
    Variant("200 queries", changes=REPLAY, queries=200),
    Variant("800 queries", changes=REPLAY, queries=800),
)


def make(root: Path, seeds: Sequence[int], names: Sequence[str]) -> None:
    """Train the variants ``names`` (none: all) with each of ``seeds`` and evaluate them, below ``root/students``."""
    start = starter(root)
    with served(root / MINILM) as address:
        world = _World(root, start, address, f"data-{'-'.join(map(str, seeds))}")
        for seed in seeds:
            if chosen := [each for each in COMPARED if not names or each.name in names]:
                world.compare(chosen, seed)
            for variant in CHANGED:
                if not names or variant.name in names:
                    world.change(variant, seed)


class _World:
    """The collections, their pairs and labels, and where students lie. ``data``: a folder of its own for commands that run
    side by side, which all find what is stored."""

    def __init__(self, root: Path, start: Any, address: str, data: str) -> None:
        self.root, self.start, self.data = root, start, data
        self._known: dict[tuple[str, str, int], tuple[Path, Path, Path]] = {}
        self.teacher = {
            "checkpoint": "all-MiniLM-L6-v2",
            "revision": "20 x cosine, 128 tokens",
            "backend": "server",
            "server": {"endpoint": address, "api": "tei", "request_pairs": 64, "concurrency": 2},
        }

    def _run(self, name: str) -> Run:
        return Run(self.root / "students" / name, self.start, f"real-text-{name}")

    # --- data ---------------------------------------------------------------------------------------------------------

    def pairs(self, name: str, kind: str, queries: int = QUERIES) -> tuple[Path, Path, Path]:
        """Return collection, candidates and labels of a target with its ``kind`` of queries, or of a part of the source."""
        asked = name, kind, queries
        if asked not in self._known:
            self._known[asked] = self._pairs(*asked)
        return self._known[asked]

    def _pairs(self, name: str, kind: str, queries: int) -> tuple[Path, Path, Path]:
        split = {"source": "train", "more": "more"}.get(kind)
        run = self._run(f"{self.data}/{name}-{kind}-{queries}")
        corpus = {"uri": str(self.root / "collections" / name), "name": name, "train_split": split or "train"}
        prepared = run(
            "prepare_corpus", name, outputs=("collection",),
            configs={"corpus": corpus, "config": {"on_problem": "repair"}},
        ).outputs["collection"]  # fmt: skip
        written = None if split else self._queries(run, name, kind, queries, prepared, corpus)
        found = run(
            "retrieve", name, configs={"config": RETRIEVAL}, inputs={"collection": prepared, "queries": written},
            outputs=("candidates",), earlier="", language="",
        ).outputs["candidates"]  # fmt: skip
        labels = run(
            "teacher_label", name, configs={"config": self.teacher}, outputs=("labels",),
            inputs={"collection": prepared, "candidates": found},
        ).outputs["labels"]  # fmt: skip
        return prepared, found, labels

    def _queries(self, run: Run, name: str, kind: str, queries: int, prepared: Path, corpus: Any) -> Path:
        # Of those that are written, the first so many documents': what is there is found.
        section = {**KINDS[kind](self.root), "documents": queries}
        return run(
            "generate_queries", name, outputs=("queries", "report"), inputs={"collection": prepared},
            configs={"config": section, "corpus": corpus, "retrieval": {}},
        ).outputs["queries"]  # fmt: skip

    # --- students -----------------------------------------------------------------------------------------------------

    def phase1(self) -> Path:
        """Train the student that phase 2 starts from."""
        config = {**PHASE1, "checkpoint": str(self.root / MINILM)}
        return self._run(f"{self.data}/phase1")(
            "distill_phase1", configs={"config": config}, outputs=("model",), champion="",
            inputs={"training_sets": [self.pairs(SOURCE, "source")[2]], "start": None, "replay": None},
        ).outputs["model"]  # fmt: skip

    def student(self, variant: Variant, seed: int) -> Path:
        """Train a variant with a seed, from phase 1's student."""
        if variant.kind == "source":
            sets = [self.pairs(SOURCE, "more")[2]]
        else:
            sets = [self.pairs(name, variant.kind, variant.queries)[2] for name in TARGETS]
        made = self._run(f"{variant.slug}-{seed}")(
            "distill_phase2", configs={"config": {**TRAINING, "seed": seed, **variant.changes}}, outputs=("model",),
            inputs={"training_sets": sets, "start": self.phase1(), "replay": self.pairs(SOURCE, "source")[2]}, champion="",
        )  # fmt: skip
        log.info("%s, seed %s: held-out loss %s", variant.name, seed, made.stats["heldout_loss"])
        return made.outputs["model"]

    def compare(self, variants: Sequence[Variant], seed: int) -> None:
        """Measure phase 1 and ``variants``; the first seed measures the teacher for all, because it is the same one."""
        students = {"phase 1": self.phase1(), **{each.name: self.student(each, seed) for each in variants}}
        self._evaluate(
            f"evaluation-{seed}", students, teacher=all(other == seed for other, _ in evaluations(self.root))
        )

    def change(self, variant: Variant, seed: int) -> None:
        """Measure a variant alone: one more costs no other's evaluation."""
        self._evaluate(f"evaluation-{seed}-{variant.slug}", {variant.name: self.student(variant, seed)}, teacher=False)

    def _evaluate(self, name: str, students: Mapping[str, Path], teacher: bool) -> None:
        """Measure ``students`` and the first stage on the test queries of source and targets."""
        data = [self.pairs(SOURCE, "source"), *(self.pairs(target, "written") for target in TARGETS)]
        made = self._run(name)(
            "evaluate", configs={"config": {**EVALUATION, "teacher": teacher}, "teacher": self.teacher},
            outputs=("evaluation", "report"), champion="",
            inputs={
                "collections": [each[0] for each in data], "candidates": [each[1] for each in data],
                "labels": [each[2] for each in data], "students": students,
            },
        )  # fmt: skip
        (self.root / f"{name}.json").write_text(json.dumps({"folder": str(made.outputs["evaluation"])}))


def evaluations(root: Path) -> Iterator[tuple[int, Path]]:
    """Yield (seed, evaluation folder) of what was measured."""
    for path in sorted(root.glob("evaluation-*.json")):
        yield int(path.stem.split("-")[1]), Path(json.loads(path.read_text())["folder"])
