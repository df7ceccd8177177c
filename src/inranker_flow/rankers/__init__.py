"""Rerankers behind one interface: (query, passage) pairs in, the logits of "false" and "true" out."""

from __future__ import annotations

from dataclasses import replace

from inranker_flow.config import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers.base import Job, Prompts, Ranker, Reader
from inranker_flow.rankers.kinds import Kind

__all__ = ["Job", "Prompts", "Ranker", "Reader", "load_ranker", "load_reader"]

#: Answers (false, true) of each kind, where the configuration names none.
ANSWERS: dict[Kind, tuple[str, str]] = {"monot5": ("▁false", "▁true"), "causal": ("no", "yes"), "encoder": ("", "")}


def load_ranker(reference: str, scoring: ScoringConfig, revision: str = "") -> Ranker:
    """Load the checkpoint ``reference`` (see `checkpoints.locate`) as a ranker of the kind that ``scoring`` says.

    Raises :class:`inranker_flow.errors.UserError` for a checkpoint that is not there, is of another kind or of none, or
    has no label tokens.
    """
    kind, scoring = _settled(reference, scoring, revision)
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

    kind, scoring = _settled(reference, scoring, revision)
    tokenizer = load_tokenizer(reference, revision)
    if kind == "causal":
        from inranker_flow.rankers.causal import CausalReader

        return CausalReader(reference, tokenizer, scoring)
    if kind == "encoder":
        from inranker_flow.rankers.encoder import EncoderReader

        return EncoderReader(reference, tokenizer, scoring)
    from inranker_flow.rankers.monot5 import MonoT5Reader

    return MonoT5Reader(tokenizer, scoring)


def _settled(reference: str, scoring: ScoringConfig, revision: str) -> tuple[Kind, ScoringConfig]:
    """The kind, and ``scoring`` with its answers."""
    from inranker_flow.rankers.kinds import find_kind

    kind = find_kind(reference, revision) if scoring.kind == "auto" else scoring.kind
    if scoring.dtype == "int8" and kind != "monot5":
        raise UserError(f"{reference}: scoring.dtype int8 is for monoT5 teachers; set it to float32 or bfloat16")
    false, true = ANSWERS[kind]
    return kind, replace(scoring, false_token=scoring.false_token or false, true_token=scoring.true_token or true)
