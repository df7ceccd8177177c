"""First stage: what is retrieved is all that a reranker can put in order."""

from inranker_flow.retrieval.stage import RetrieveStats, retrieve

__all__ = ["RetrieveStats", "retrieve"]
