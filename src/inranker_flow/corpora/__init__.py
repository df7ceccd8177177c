"""Collections: where they come from, how they are checked, and the one form they take."""

from inranker_flow.corpora.prepare import PrepareStats, prepare_corpus
from inranker_flow.corpora.text import default_text

__all__ = ["PrepareStats", "default_text", "prepare_corpus"]
