"""A checkpoint becomes a ranker, of whatever kind it is."""

from __future__ import annotations

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.rankers.base import Ranker, Reader
from inranker_flow.rankers.causal import CausalRanker, CausalReader
from inranker_flow.rankers.checkpoints import load_tokenizer
from inranker_flow.rankers.encoder import EncoderRanker, EncoderReader
from inranker_flow.rankers.forms import settle
from inranker_flow.rankers.monot5 import MonoT5Ranker, MonoT5Reader


def load_ranker(reference: str, scoring: ScoringConfig, revision: str = "", tell: bool = True) -> Ranker:
    """Load the checkpoint ``reference`` (see `checkpoints.locate`) as a ranker of the kind that ``scoring`` says.

    One line of the log says what it was taken for (``tell``). Raises :class:`inranker_flow.errors.UserError` for a
    checkpoint that is not there, is of another kind or of none, or does not say which answers or labels mean relevant.
    """
    kind, scoring = settle(reference, scoring, revision, tell)
    if kind == "causal":
        return CausalRanker(reference, scoring, revision)
    if kind == "encoder":
        return EncoderRanker(reference, scoring, revision)

    return MonoT5Ranker(reference, scoring, revision)


def load_reader(reference: str, scoring: ScoringConfig, revision: str = "") -> Reader:
    """Return the reader alone of what :func:`load_ranker` loads: no weights are read."""
    kind, scoring = settle(reference, scoring, revision)
    tokenizer = load_tokenizer(reference, revision)
    if kind == "causal":
        return CausalReader(reference, tokenizer, scoring)
    if kind == "encoder":
        return EncoderReader(reference, tokenizer, scoring)

    return MonoT5Reader.of(tokenizer, scoring)
