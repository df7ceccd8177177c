"""What an evaluation adds to the bare scoring of the same pairs.

    PYTHONPATH=src:. .venv/bin/python benchmarks/evaluation.py [ROUNDS]

Five systems (BM25, two students, teacher, champion) over 100 test queries x 100 passages of 20 words. The models are T5s of
two layers and 0.1 million parameters with random weights (init:tiny). That is strict: what an evaluation adds does not depend
on the models, so with small ones on short passages it is the largest share. Bare scoring is `Ranker.score` of the same pairs
by the same loaded models. CPU time (process_time), so that other work on the machine does not count; the rounds alternate,
and each stage is compared with the bare scoring of its own round.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.sections import EvaluateConfig, ScoringConfig, TeacherConfig
from inranker_flow.evaluation import reranking
from inranker_flow.rankers.base import Job
from inranker_flow.rankers.checkpoints import load_seq2seq
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.stages.evaluate import evaluate

QUERIES, PASSAGES, WORDS = 100, 100, 20
SCORING = ScoringConfig(max_length=256)


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INRANKER_SCRATCH"] = f"{folder}/scratch"
        world = World(Path(folder))
        world.warm_up()
        found = [world.round() for _ in range(rounds)]
    print(f"| {rounds} rounds, median (least to most) | CPU seconds | of bare scoring |\n|---|---|---|")
    bare = [each["bare"] for each in found]
    for name, title in (
        ("bare", "bare scoring of 4 models"),
        ("untimed", "the stage, latency_queries: 0"),
        ("timed", "the stage, latency_queries: 20 (default)"),
    ):
        seconds = [each[name] for each in found]
        ratios = [value / base for value, base in zip(seconds, bare, strict=True)]
        print(f"| {title} | {_spread(seconds, '.2f')} | {_spread(ratios, '.3f')} |")


def _spread(values: list[float], digits: str) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{digits}} ({least:{digits}} to {most:{digits}})"


class World:
    """One test set, a training set, and four models of their own weights."""

    def __init__(self, folder: Path) -> None:
        self.folder, random = folder, Random(0)
        vocabulary = [
            "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(3, 8))) for _ in range(3000)
        ]

        def words(count: int) -> str:
            return " ".join(random.choices(vocabulary, k=count))

        docs = {f"d{n:05}": words(WORDS) for n in range(QUERIES * PASSAGES)}
        tests = {f"q{n:03}": words(7) for n in range(QUERIES)}
        trained = {f"t{n:04}": words(7) for n in range(1000)}
        names = list(docs)
        self.pairs = [
            (text, docs[names[n * PASSAGES + place]])
            for n, text in enumerate(tests.values())
            for place in range(PASSAGES)
        ]
        self.collection = self._folder("collection", {
            tables.CORPUS: {"doc_id": names, "title": [""] * len(docs), "text": list(docs.values())},
            tables.QUERIES: self._queries(tests, "test"),
            tables.QRELS: {"query_id": list(tests), "doc_id": [names[n * PASSAGES + n % 30] for n in range(QUERIES)],
                            "relevance": [1] * QUERIES},
        })  # fmt: skip
        rows = [(query, names[n * PASSAGES + place], place + 1, 100.0 - place) for n, query in enumerate(tests)
                for place in range(PASSAGES)]  # fmt: skip
        self.candidates = self._folder("candidates", {
            tables.RUN: dict(zip(tables.RUN.schema.names, map(list, zip(*rows, strict=True)), strict=True)),
        })  # fmt: skip
        self.labels = self._folder("labels", {
            tables.CORPUS: {"doc_id": ["x"], "title": [""], "text": ["y"]},
            tables.QUERIES: self._queries(trained, "synthetic"),
            tables.LABELS: {"query_id": list(trained), "doc_id": ["x"] * 1000, "false_logit": [0.0] * 1000,
                             "true_logit": [0.0] * 1000},
        })  # fmt: skip
        self.models = {name: self._model(name, seed) for seed, name in enumerate(("phase1", "phase2", "big", "served"))}
        self.rankers: dict[str, Any] = {str(path): load_ranker(str(path), SCORING) for path in self.models.values()}

    def _queries(self, texts: dict[str, str], origin: str) -> dict[str, list[Any]]:
        return {"query_id": list(texts), "text": list(texts.values()), "origin": [origin] * len(texts),
                "source_doc_id": [None] * len(texts)}  # fmt: skip

    def _folder(self, name: str, content: dict[Any, dict[str, list[Any]]]) -> Path:
        for table, columns in content.items():
            tables.write(table, self.folder / name / table.filename, columns)
        write_manifest(self.folder / name, dataset="bench", stage=name)
        return self.folder / name

    def _model(self, name: str, seed: int) -> Path:
        model, tokenizer = load_seq2seq(f"init:tiny?seed={seed}")
        for each in (model, tokenizer):
            each.save_pretrained(self.folder / name)
        return self.folder / name

    def evaluate(self, latency_queries: int) -> None:
        """The whole stage; models are loaded already, as they are for the bare scoring."""
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)
        students = {name: self.models[name] for name in ("phase1", "phase2")}
        with patch.object(reranking, "load_ranker", lambda reference, *_: self.rankers[reference]):
            evaluate(
                EvaluateConfig(latency_queries=latency_queries, scoring=SCORING),
                TeacherConfig(str(self.models["big"]), scoring=SCORING), [self.collection], [self.candidates], [self.labels],
                students, str(self.models["served"]), self.folder / "evaluation", self.folder / "report.html",
            )  # fmt: skip

    def warm_up(self) -> None:
        """Imports, and the first use of everything but the models."""
        with patch.object(Job, "score", lambda job, rows, progress=None: np.zeros((len(rows), 2))):
            self.evaluate(0)
        for ranker in self.rankers.values():
            ranker.score(self.pairs[:200])

    def bare(self) -> None:
        for ranker in self.rankers.values():
            ranker.score(self.pairs)

    def round(self) -> dict[str, float]:
        """CPU seconds of each."""
        return {
            "bare": _seconds(self.bare),
            "untimed": _seconds(lambda: self.evaluate(0)),
            "timed": _seconds(lambda: self.evaluate(20)),
        }


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
