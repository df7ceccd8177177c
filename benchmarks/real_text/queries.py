"""Queries for each target, by the stages `prepare_corpus` and `generate_queries` as a run would have them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_text.domains import TARGETS
from benchmarks.real_text.weights import SMOLLM
from inranker_flow.tracking import connection
from inranker_flow.workflow.tasks import Run

log = logging.getLogger(__name__)

#: Queries for a target; one where the corpus has fewer documents than these for each of its documents.
MOST = 2_500
#: As in the profile `small`: what is shorter or longer, or copied, is no query that people write.
_WRITTEN = {
    "prompt": "inpars-v1", "max_document_tokens": 128, "max_new_tokens": 32, "batch_size": 32, "dtype": "float32",
    "min_query_words": 3, "max_query_words": 32, "drop_copied": True,
}  # fmt: skip
_COMMON = {"documents": MOST, "min_document_words": 8, "shard_documents": 256, "seed": 1}


def written(root: Path) -> dict[str, Any]:
    """Return the section `generation` of queries that SmolLM2 writes, greedy."""
    return {"checkpoint": str(root / SMOLLM), **_WRITTEN, **_COMMON}


def crops(root: Path) -> dict[str, Any]:
    """Return the section `generation` of sentences of the documents."""
    return {"backend": "crop", "min_query_words": 3, "max_query_words": 64, **_COMMON}


#: Kind of queries -> its section, for a root.
KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {"written": written, "crops": crops}


def make(root: Path, names: Sequence[str], kinds: Sequence[str]) -> None:
    """Write the queries of each kind for each target of ``names`` (none: all), below ``root/KIND``.

    A task that was killed goes on after its last finished shard; one that is done is found by its content.
    """
    start = starter(root)
    for kind in kinds:
        run = Run(root / kind, start, f"real-text-{kind}")
        for name in names or [each.name for each in TARGETS]:
            corpus = {"uri": str(root / "collections" / name), "name": name}
            configs = {"corpus": corpus, "config": {"on_problem": "repair"}}
            done = run("prepare_corpus", name, configs=configs, outputs=("collection",))
            section = KINDS[kind](root)
            stats = run(
                "generate_queries",
                name,
                configs={"config": section, "corpus": corpus, "retrieval": {}},
                inputs={"collection": done.outputs["collection"]},
                outputs=("queries", "report"),
            ).stats
            log.info("%s: %s queries %s of %s", name, stats["queries"], kind, stats["generated"])


def starter(root: Path) -> Callable[[str, Sequence[str]], int]:
    """Return what runs a task to its end in a process of its own, with store, unfinished work and records below ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    database = connection.create_database(root / "mlflow.db")
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": database,
        "INRANKER_ARTIFACT_ROOT": (root / "mlartifacts").as_uri(), "INRANKER_STORE": str(root / "store"),
        "INRANKER_SCRATCH": str(root / "scratch"), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip

    def start(module: str, arguments: Sequence[str]) -> int:
        return subprocess.run([sys.executable, "-m", module, *arguments], env=environment).returncode

    return start
