"""InRanker Flow: distil a large reranker into a small one, as a workflow (InRanker, arXiv 2401.06910)."""

__version__ = "0.1.0"
