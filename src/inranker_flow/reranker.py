"""A reranker in two lines: load a checkpoint, rank passages. It scores exactly as labelling, evaluation and serving do."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.corpora.passage import default_text
from inranker_flow.errors import UserError
from inranker_flow.model_registry import registry
from inranker_flow.progress import Progress
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.rankers.devices import settled_dtype
from inranker_flow.reading import WHOLE, Passages, scoring_of

if TYPE_CHECKING:
    from inranker_flow.rankers.base import Ranker

#: A passage as text, or as a mapping with ``text`` and perhaps ``title``.
Passage = str | Mapping[str, Any]


@dataclass(frozen=True)
class Ranked:
    """One passage of a ranking.

    ``position`` is its place among the passages that were given, from 0. ``score`` is true_logit - false_logit: a higher
    one is better, and above 0 the model calls the passage relevant. ``passage`` is what was given.
    """

    position: int
    score: float
    passage: Passage


class Reranker:
    """A loaded reranker: a student of this project, or any checkpoint that can be a teacher.

    ``checkpoint``: a folder, a hub id, ``s3://...``, or ``models:/NAME@champion`` of the MLflow registry that
    ``MLFLOW_TRACKING_URI`` names. A student's folder says how its model reads; a registered version also says its passages
    and its precision. ``dtype``, ``batch_tokens`` (padded tokens in one batch; 0 picks a value) and ``passages`` replace
    that. Raises :class:`UserError` if the checkpoint is not there, is damaged, or is no reranker.
    """

    #: What it computes in: float32, bfloat16 or int8; "" where it was made of a ranker.
    dtype: str = ""

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        dtype: Literal["", "auto", "float32", "bfloat16", "int8"] = "",
        batch_tokens: int = 0,
        passages: Passages | None = None,
    ) -> None:
        from inranker_flow.rankers.loading import load_ranker

        _show_progress()
        reference = str(checkpoint)
        folder = locate(reference)
        scoring = ScoringConfig(batch_tokens=batch_tokens)
        self.passages = passages or WHOLE
        if reference.startswith("models:/"):
            served = registry.served(reference)
            self.passages = passages or served.passages
            scoring = replace(scoring, dtype=served.dtype)
        if folder:
            scoring = scoring_of(folder, scoring)
        if dtype:
            scoring = replace(scoring, dtype=dtype)
        self._ranker = load_ranker(str(folder or reference), scoring, tell=False)
        self.dtype = settled_dtype(scoring.dtype)

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one batch on this device."""
        return self._ranker.batches.tokens

    @classmethod
    def of(cls, ranker: Ranker, passages: Passages, dtype: str = "") -> Reranker:
        """Return one of a ranker that is loaded already, and that computes in ``dtype``."""
        made = cls.__new__(cls)
        made._ranker, made.passages, made.dtype = ranker, passages, dtype
        return made

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> np.ndarray:
        """Return the score of each (query, passage) pair, float64 (n,), in the order of ``pairs``.

        The score of a long text is that of its best passage, if the model was measured by passages.
        """
        texts = [(query, self.passages.cut(_text(passage))) for query, passage in pairs]
        cut = [(query, part) for query, parts in texts for part in parts]
        if not cut:
            return np.empty(0)
        job = self._ranker.prepare_pairs(cut)
        logits = job.score(np.arange(len(cut)), Progress("scoring", int(job.lengths.sum()), "tokens"))
        firsts = np.cumsum([0, *(len(parts) for _, parts in texts[:-1])])
        best: np.ndarray = np.maximum.reduceat(logits[:, 1] - logits[:, 0], firsts)
        return best

    def rank(self, query: str, passages: Sequence[Passage], *, top_k: int | None = None) -> list[Ranked]:
        """Return the best ``top_k`` of ``passages`` for ``query`` (all of them by default), the best first.

        Equal scores keep the order in which the passages were given. Raises :class:`UserError` if ``top_k`` is negative or
        a passage is no text.
        """
        if top_k is not None and top_k < 0:
            raise UserError(
                f"top_k: {top_k} is below 0; give the number of passages that are wanted", code="setting-value"
            )
        scores = self.score([(query, passage) for passage in passages])
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(each), float(scores[each]), passages[each]) for each in order]


def _text(passage: Passage) -> str:
    """Return the text that the model reads. Raises :class:`UserError` if there is none."""
    if isinstance(passage, str):
        return passage
    if isinstance(passage, Mapping) and isinstance(passage.get("text"), str):
        return default_text(str(passage.get("title") or ""), passage["text"])
    keys = f"the keys {', '.join(map(repr, passage))[:80]}" if isinstance(passage, Mapping) else repr(passage)[:80]
    raise UserError(
        f"passages: expected a text, or a mapping with text (and perhaps title), got {keys}", code="passage-form"
    )


def _show_progress() -> None:
    """Print this package's log lines on standard error, unless the program has set up logging itself."""
    logger = logging.getLogger("inranker_flow")
    if logging.getLogger().handlers or logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
