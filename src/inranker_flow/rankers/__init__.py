"""Rerankers behind one interface: (query, passage) pairs in, the logits of "false" and "true" out."""

from __future__ import annotations

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.rankers.base import Job, Prompts, Ranker, Reader
from inranker_flow.rankers.forms import settle

__all__ = ["Job", "Prompts", "Ranker", "Reader", "load_ranker", "load_reader"]


def load_ranker(reference: str, scoring: ScoringConfig, revision: str = "", tell: bool = True) -> Ranker:
    """Load the checkpoint ``reference`` (see `checkpoints.locate`) as a ranker of the kind that ``scoring`` says.

    One line of the log says what it was taken for (``tell``). Raises :class:`inranker_flow.errors.UserError` for a
    checkpoint that is not there, is of another kind or of none, or does not say which answers or labels mean relevant.
    """
    kind, scoring = settle(reference, scoring, revision, tell)
    if kind == "causal":
        from inranker_flow.rankers.causal import CausalRanker

        return CausalRanker(reference, scoring, revision)
    if kind == "encoder":
        from inranker_flow.rankers.encoder import EncoderRanker

        return EncoderRanker(reference, scoring, revision)
    from inranker_flow.rankers.monot5 import MonoT5Ranker

    return MonoT5Ranker(reference, scoring, revision)


def load_reader(reference: str, scoring: ScoringConfig, revision: str = "") -> Reader:
    """The reader alone of what :func:`load_ranker` loads: no weights are read."""
    from inranker_flow.rankers.checkpoints import load_tokenizer

    kind, scoring = settle(reference, scoring, revision)
    tokenizer = load_tokenizer(reference, revision)
    if kind == "causal":
        from inranker_flow.rankers.causal import CausalReader

        return CausalReader(reference, tokenizer, scoring)
    if kind == "encoder":
        from inranker_flow.rankers.encoder import EncoderReader

        return EncoderReader(reference, tokenizer, scoring)
    from inranker_flow.rankers.monot5 import MonoT5Reader

    return MonoT5Reader(tokenizer, scoring)
