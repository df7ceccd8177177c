"""BM25 through bm25s (arXiv 2407.03618), with one thing added: equal scores have an order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from inranker_flow.config import RetrieveConfig
from inranker_flow.errors import UserError


class BM25:
    """bm25s' "lucene" variant: lower case, words of two or more characters, stop words, Snowball stemmer.

    Passages keep the order in which they came; hits of equal score are ordered by ``doc_ids``, also at the cut.
    """

    def __init__(self, passages: Iterable[tuple[Sequence[str], Iterable[str]]], config: RetrieveConfig) -> None:
        """Index batches of (doc ids, texts). Peak memory is about 2.7 kB a passage (bm25s' builder).

        Raises :class:`UserError` for stop words or a stemmer that do not exist.
        """
        import bm25s

        self._tokenizer = _tokenizer(config)
        doc_ids: list[str] = []
        tokens: list[list[int]] = []
        for batch_ids, texts in passages:
            doc_ids += batch_ids
            tokens += self._tokens(texts, grow=True)
        self.doc_ids = np.array(doc_ids, dtype=object)
        self._order = np.empty(len(doc_ids), np.int64)
        self._order[np.argsort(self.doc_ids, kind="stable")] = np.arange(len(doc_ids))
        self._terms = len(self._vocabulary()) if any(tokens) else 0
        self._index = bm25s.BM25(method="lucene", k1=config.k1, b=config.b)
        if self._terms:  # bm25s divides by the mean length
            self._index.index((tokens, dict(self._vocabulary())), create_empty_token=False, show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """BM25 of every passage, shape (passages,) float32; repeated words count as often as they occur."""
        # Ids at and beyond the index's are words that a query brought; the library would read out of bounds.
        known = [term for term in self._tokens([query], grow=False)[0] if term < self._terms]
        if not known:
            return np.zeros(len(self.doc_ids), np.float32)
        scores: np.ndarray = self._index.get_scores_from_ids(known)
        return scores

    def search(self, query: str, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """The best ``depth`` hits as (doc ids, scores); fewer where fewer passages share a word with the query."""
        scores = self.scores(query)
        hits = np.flatnonzero(scores > 0)  # of booleans: five times as fast as of floats
        values = scores[hits]
        if len(hits) > depth:
            # Everything that ties with the last place is kept until ties are resolved.
            hits = hits[values >= np.partition(values, -depth)[-depth]]
            values = scores[hits]
        best = np.lexsort((self._order[hits], -values))[:depth]
        return self.doc_ids[hits[best]], values[best]

    def _tokens(self, texts: Iterable[str], grow: bool) -> list[list[int]]:
        encoded = self._tokenizer.tokenize(
            list(texts), update_vocab=grow, return_as="ids", allow_empty=False, show_progress=False
        )
        # Snowball stems some words to nothing: an empty term is no term.
        empty = self._vocabulary().get("")
        return encoded if empty is None else [[each for each in ids if each != empty] for ids in encoded]

    def _vocabulary(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self._tokenizer.get_vocab_dict()
        return vocabulary


def check(config: RetrieveConfig) -> None:
    """:class:`UserError` for settings that BM25 cannot use, before anything is read."""
    _tokenizer(config)


def _tokenizer(config: RetrieveConfig):  # type: ignore[no-untyped-def]  # bm25s is imported late
    # It logs every index it builds, at a level of its own.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    import Stemmer
    from bm25s.tokenization import Tokenizer

    try:
        stemmer = Stemmer.Stemmer(config.stemmer) if config.stemmer else None
    except KeyError as error:
        known = ", ".join(Stemmer.algorithms())
        raise UserError(f"stemmer: {config.stemmer!r} is not one of {known} (empty for none)") from error
    try:
        return Tokenizer(stopwords=config.stopwords or None, stemmer=stemmer)
    except ValueError as error:
        raise UserError(
            f"stopwords: bm25s has no list {config.stopwords!r}; english, german, ... or empty for none"
        ) from error
