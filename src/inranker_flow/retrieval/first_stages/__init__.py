"""The kinds of first stage by the name that `retrieval.first_stage` has for them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.retrieval.first_stage import FirstStage

#: Module and class of each; one that computes vectors needs torch, which the others' pods do without.
_KINDS = {
    "bm25": "sparse:Sparse",
    "dense": "dense:Dense",
    "hybrid": "hybrid:Hybrid",
    "run": "recorded:Recorded",
    "opensearch": "searched:Searched",
}


def open_first_stage(config: RetrieveConfig, collection: Path, queries: int) -> FirstStage:
    """Return the first stage that the settings name, ready to search; ``queries``: about how many will be asked."""
    module, _, name = _KINDS[config.first_stage].partition(":")
    made: FirstStage = getattr(import_module(f"{__name__}.{module}"), name)(config, collection, queries)
    return made


def describe(config: RetrieveConfig) -> str:
    """Return what the first stage is called in reports."""
    dense = config.dense.checkpoint.rstrip("/").rpartition("/")[2]
    names = {
        "bm25": "BM25",
        "dense": dense,
        "hybrid": f"BM25 and {dense}",
        "run": "the run files",
        "opensearch": f"the index {config.server.index}",
    }
    return names[config.first_stage]
