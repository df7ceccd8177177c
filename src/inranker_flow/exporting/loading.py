"""A checkpoint becomes a graph, of whatever kind it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.config.values import Kind
from inranker_flow.exporting.causal import CausalGraph
from inranker_flow.exporting.encoder import EncoderGraph
from inranker_flow.exporting.graph import Graph
from inranker_flow.exporting.monot5 import MonoT5Graph
from inranker_flow.rankers.forms import settle

_GRAPHS: dict[Kind, Callable[[str, ScoringConfig], Graph]] = {
    "monot5": MonoT5Graph,
    "encoder": EncoderGraph,
    "causal": CausalGraph,
}


def graph_of(reference: str, scoring: ScoringConfig) -> Graph:
    """Return the graph of the checkpoint ``reference`` as ``scoring`` reads it (see `rankers.loading.load_ranker`)."""
    kind, settled = settle(reference, replace(scoring, dtype="float32"))
    return _GRAPHS[kind](reference, settled)
