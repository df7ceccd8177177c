"""Prompts of many pairs in a few arrays: each text tokenised once, each prompt assembled when its batch is made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from inranker_flow.beginnings import chunks
from inranker_flow.rankers import arrays
from inranker_flow.rankers.monot5_prompt import Ragged, Renderer, common

log = logging.getLogger(__name__)

#: Texts that are token lists (Python objects) at a time.
CHUNK = 4096
#: Arrays of ids in a folder.
_TEXTS = ("queries", "documents", "whole")


class Plan:
    """The prompts of ``pairs``, int (n, 2): positions in ``queries`` and ``documents`` (`rankers.base.Prompts`).

    A few bytes for each token of a text and for each pair, so that ten million pairs are no matter. ``lengths`` (n,) are
    the prompts' tokens; ``cut_queries`` is the number of queries that are too long and cut in at least one prompt.
    ``odd`` are the pairs (ascending) whose parts cannot be joined, ``whole`` their prompts.
    """

    def __init__(
        self,
        renderer: Renderer,
        queries: Ragged,
        documents: Ragged,
        pairs: np.ndarray,
        lengths: np.ndarray,
        odd: np.ndarray,
        whole: Ragged,
        cut_queries: int = 0,
    ) -> None:
        self.renderer, self._queries, self._documents, self._pairs = renderer, queries, documents, pairs
        self.odd, self._whole = odd, whole
        self.lengths, self.cut_queries = lengths, cut_queries

    @classmethod
    def of(
        cls,
        renderer: Renderer,
        queries: Iterable[str],
        documents: Iterable[str],
        pairs: np.ndarray,
        folder: Path | None = None,
    ) -> Plan:
        """From texts, each of which is read and tokenised once. ``folder``: tokens go there, as :meth:`open` maps them."""
        kind = id_kind(renderer.tokenizer)
        ids = {name: arrays.Ids(kind, folder, name) for name in _TEXTS}
        irregular = _Irregular(pairs)
        queries, documents = renderer.begin_queries(queries), renderer.begin_documents(documents)
        _tokenise(renderer, ids["queries"], renderer.split_queries, queries, irregular.see_queries)
        _tokenise(renderer, ids["documents"], renderer.split_documents, documents, irregular.see_documents)
        odd, texts = (np.empty(0, np.int64), []) if renderer.parts_alone else irregular.pairs()
        _tokenise(renderer, ids["whole"], lambda chunk: (renderer.whole(chunk), np.empty(0, bool)), texts)
        plan = cls.over(renderer, ids["queries"].done(), ids["documents"].done(), pairs, odd, ids["whole"].done())
        if folder:
            arrays.save(folder, pairs=pairs, lengths=plan.lengths, odd=odd)
            arrays.join(folder, _TEXTS, kind)
            cut, plan = plan.cut_queries, cls.open(renderer, folder)
            plan.cut_queries = cut
        return plan

    @classmethod
    def over(
        cls, renderer: Renderer, queries: Ragged, documents: Ragged, pairs: np.ndarray, odd: np.ndarray, whole: Ragged
    ) -> Plan:
        """From tokens."""
        query = queries.lengths(pairs[:, 0])
        kept = renderer.kept(query, documents.lengths(pairs[:, 1]))
        cut_queries = len(np.unique(pairs[kept[0] < query, 0]))
        lengths = (np.sum(kept, axis=0) + renderer.closing).astype(np.int32)
        lengths[odd] = np.diff(whole.offsets)
        return cls(renderer, queries, documents, pairs, lengths, odd, whole, cut_queries)

    def select(self, rows: np.ndarray) -> Plan:
        """Return the prompts of the pairs ``rows`` alone, in that order; of cut queries the same are counted."""
        places, numbers = common(rows, self.odd)
        whole = self._whole.select(numbers)
        parts = self.renderer, self._queries, self._documents
        return Plan(*parts, self._pairs[rows], self.lengths[rows], places, whole, self.cut_queries)

    def save(self, folder: Path) -> None:
        """Write the arrays that :meth:`open` maps."""
        arrays.save(folder, pairs=self._pairs, lengths=self.lengths, odd=self.odd)
        arrays.save_ragged(folder, queries=self._queries, documents=self._documents, whole=self._whole)

    @classmethod
    def open(cls, renderer: Renderer, folder: Path) -> Plan:
        """Return a plan that was saved, mapped; it does not know any more how many queries were cut."""
        queries, documents, whole = arrays.mapped_ragged(folder, *_TEXTS)
        pairs, lengths, odd = (arrays.mapped(folder, each) for each in ("pairs", "lengths", "odd"))
        return cls(renderer, queries, documents, pairs, lengths, odd, whole)

    def inputs(self, rows: np.ndarray, pad_to: int = 1, known: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and attention mask of the pairs ``rows``, int64 (len(rows), padded length), padded on the right.

        No prompt has a ``known`` beginning: a T5 reads the whole input at once.
        """
        renderer = self.renderer
        query, document = self._pairs[rows].T
        ids, mask = renderer.assemble_batch(self._queries, query, self._documents, document)
        width = -(-int(self.lengths[rows].max(initial=1)) // pad_to) * pad_to
        if ids.shape[1] != width:
            more = (0, 0), (0, max(width - ids.shape[1], 0))
            ids = np.pad(ids, more, constant_values=renderer.tokenizer.pad_token_id)[:, :width]
            mask = np.pad(mask, more)[:, :width]
        if len(self.odd):
            for place, number in zip(*common(rows, self.odd), strict=True):
                start, end = self._whole.offsets[number : number + 2]
                ids[place], mask[place] = renderer.tokenizer.pad_token_id, 0
                ids[place, : end - start], mask[place, : end - start] = self._whole.flat[start:end], 1
        return ids, mask


def _tokenise(
    renderer: Renderer, ids: arrays.Ids, split: Callable, texts: Iterable, see: Callable | None = None
) -> None:
    """Add to ``ids`` those of ``texts``, without what lies beyond ``max_length`` and so can never be part of a prompt."""
    for chunk in chunks(texts, CHUNK):
        encoded, irregular = split(chunk)
        ids.add([each[: renderer.max_length] for each in encoded])
        if see:
            see(chunk, irregular)


def id_kind(tokenizer: Any) -> Any:
    """Return the type of a token's number: half the memory where the vocabulary allows."""
    return np.uint16 if len(tokenizer) <= np.iinfo(np.uint16).max else np.int32


class _Irregular:
    """Collects the texts of pairs whose prompts have to be tokenised whole (see `Renderer`): normally there are none."""

    def __init__(self, pairs: np.ndarray) -> None:
        self._pairs = pairs
        self._odd_queries, self._odd_documents = [np.empty(0, bool)], [np.empty(0, bool)]
        #: All of them, until the documents are known: a regular query may meet an irregular document.
        self._queries: list[pa.Array] = []
        self._documents: dict[int, str] = {}
        self._partners: np.ndarray | None = None

    def see_queries(self, texts: Sequence[str], irregular: np.ndarray) -> None:
        """The next of the queries."""
        self._queries.append(pa.array(texts, pa.large_string()))
        self._odd_queries.append(irregular)

    def see_documents(self, texts: Sequence[str], irregular: np.ndarray) -> None:
        """The next of the documents; all queries have been seen."""
        if self._partners is None:
            odd = np.concatenate(self._odd_queries)
            self._partners = np.unique(self._pairs[odd[self._pairs[:, 0]], 1])
        first = sum(map(len, self._odd_documents))
        wanted = irregular.copy()
        near = np.searchsorted(self._partners, (first, first + len(texts)))
        wanted[self._partners[slice(*near)] - first] = True
        self._odd_documents.append(irregular)
        self._documents |= {first + place: texts[place] for place in np.flatnonzero(wanted).tolist()}

    def pairs(self) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """Return the pairs (ascending) and their texts."""
        odd_query, odd_document = np.concatenate(self._odd_queries), np.concatenate(self._odd_documents)
        rows = np.flatnonzero(odd_query[self._pairs[:, 0]] | odd_document[self._pairs[:, 1]])
        if not rows.size:
            return rows, []
        queries = pa.chunked_array(self._queries)
        log.warning("%s prompts are tokenised as a whole: words there depend on their neighbours", f"{rows.size:,}")
        return rows, [(queries[int(q)].as_py(), self._documents[int(d)]) for q, d in self._pairs[rows]]
