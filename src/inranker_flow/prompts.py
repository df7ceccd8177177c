"""`render(query, document) -> token ids`: the only template and truncation code of the project.

The teacher, the students in training, evaluation and serving all read exactly these ids, so training and serving
cannot drift apart (in the original code they do: training has no `</s>`, and inference cuts ` Relevant:` off long
documents).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from inranker_flow.errors import UserError

#: Part of every label's identity: change it whenever the ids for some input change.
RENDERER_VERSION = "1"


@dataclass(frozen=True)
class Ragged:
    """Token ids of many texts in one flat array: row ``i`` is ``flat[offsets[i]:offsets[i + 1]]``.

    Ten million passages are two arrays, not ten million lists.
    """

    flat: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], dtype: Any = np.int32) -> Ragged:
        """From lists of ids."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        flat = np.fromiter(itertools.chain.from_iterable(rows), dtype=dtype, count=int(lengths.sum()))
        return cls(flat, np.concatenate([[0], np.cumsum(lengths)]))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of ``parts``, one after another."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.flat for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of each of ``rows``."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def first(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The first ``counts[i]`` ids of row ``rows[i]``, one row after another."""
        before = np.cumsum(counts) - counts
        return self.flat[np.repeat(self.offsets[rows] - before, counts) + np.arange(counts.sum())]


@dataclass
class Renderer:
    """monoT5's prompt ``Query: {query} Document: {document} Relevant:`` (arXiv 2003.06713, section 3) as token ids.

    ``truncation="document"`` (default): the document is cut so that `` Relevant:`` and ``</s>`` always survive; a query
    that leaves no room for a document is cut too. ``truncation="reference"``: the finished prompt is cut on the right
    and ``</s>`` added, which is what the original inference code does (InRanker, ``rankers.py``).

    Parts are tokenised once and joined, which gives the ids of the whole string wherever the tokenizer keeps to words (T5's
    do). A text whose tokens would be others beside its neighbour is *irregular*: the prompts it is in are tokenised whole.
    """

    tokenizer: Any
    max_length: int = 512
    truncation: Literal["document", "reference"] = "document"
    _suffix: list[int] = field(init=False, repr=False)
    _document: list[int] = field(init=False, repr=False)
    _eos: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._suffix, self._document = self._encode([" Relevant:"])[0], self._encode([" Document:"])[0]
        self._eos = self.tokenizer.eos_token_id
        if self.max_length < len(self._suffix) + 8:
            raise UserError(f"max_length: {self.max_length} leaves no room for a query and a document; use 16 or more")

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []  # transformers takes no empty list
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def encode_queries(self, queries: Sequence[str]) -> list[list[int]]:
        """Token ids of ``Query: {query}``, one list for each query."""
        return self.split_queries(queries)[0]

    def encode_documents(self, documents: Sequence[str]) -> list[list[int]]:
        """Token ids of ``Document: {document}``, one list for each document."""
        return self.split_documents(documents)[0]

    def split_queries(self, queries: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Token ids of ``Query: {query}``, and which of the queries are irregular (bool)."""
        end = len(self._document)
        encoded = self._encode([f"Query: {query} Document:" for query in queries])
        regular = np.array([ids[-end:] == self._document for ids in encoded], bool)
        return self._parts("Query: ", queries, [ids[:-end] for ids in encoded], regular)

    def split_documents(self, documents: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Token ids of ``Document: {document}``, and which of the documents are irregular (bool)."""
        start, end = len(self._document), len(self._suffix)
        encoded = self._encode([f"Document: {document} Relevant:" for document in documents])
        regular = np.array([ids[-end:] == self._suffix and ids[:start] == self._document for ids in encoded], bool)
        return self._parts("Document: ", documents, [ids[:-end] for ids in encoded], regular)

    def _parts(
        self, before: str, texts: Sequence[str], parts: list[list[int]], regular: np.ndarray
    ) -> tuple[list[list[int]], np.ndarray]:
        """``parts``, with irregular ones as they are without a neighbour."""
        places = np.flatnonzero(~regular).tolist()
        if places:
            for place, ids in zip(places, self._encode([before + texts[place] for place in places]), strict=True):
                parts[place] = ids
        return parts, ~regular

    def whole(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Ids of prompts that are tokenised as one string each; where one is too long, the rules of :meth:`assemble`."""
        prompts = self._encode([f"Query: {query} Document: {document} Relevant:" for query, document in pairs])
        return [self._cut(ids, *pair) for ids, pair in zip(prompts, pairs, strict=True)]

    def _cut(self, prompt: list[int], query: str, document: str) -> list[int]:
        if len(prompt) < self.max_length or self.truncation == "reference":
            return [*prompt[: self.max_length - 1], self._eos]
        parts = self.split_queries([query])[0][0], self.split_documents([document])[0][0]
        room = self.max_length - len(self._suffix) - 1
        if len(parts[0]) > room // 2 or prompt[-len(self._suffix) :] != self._suffix:
            return self.assemble(*parts)
        return [*prompt[:room], *self._suffix, self._eos]

    def assemble(self, query_ids: Sequence[int], document_ids: Sequence[int]) -> list[int]:
        """Ids of one prompt from parts that were tokenised once; at most ``max_length`` long, ``</s>`` included."""
        if self.truncation == "reference":
            prompt = [*query_ids, *document_ids, *self._suffix]
            return [*prompt[: self.max_length - 1], self._eos]
        room = self.max_length - len(self._suffix) - 1
        query_ids = query_ids[: max(room // 2, room - len(document_ids))]
        return [*query_ids, *document_ids[: room - len(query_ids)], *self._suffix, self._eos]

    def kept(
        self, query_lengths: np.ndarray, document_lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens that :meth:`assemble` keeps of each query, document and `` Relevant:``; ``</s>`` comes on top."""
        suffix = np.full_like(query_lengths, len(self._suffix))
        if self.truncation == "reference":
            query = np.minimum(query_lengths, self.max_length - 1)
            document = np.minimum(document_lengths, self.max_length - 1 - query)
            return query, document, np.minimum(suffix, self.max_length - 1 - query - document)
        room = self.max_length - len(self._suffix) - 1
        query = np.minimum(query_lengths, np.maximum(room // 2, room - document_lengths))
        return query, np.minimum(document_lengths, room - query), suffix

    def assemble_batch(
        self, queries: Ragged, query_rows: np.ndarray, documents: Ragged, document_rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`assemble` for many pairs at once.

        Returns (ids, attention mask), both int64 of shape (pairs, longest prompt), padded on the right.
        """
        query, document, suffix = self.kept(queries.lengths(query_rows), documents.lengths(document_rows))
        lengths = query + document + suffix + 1
        place = np.arange(lengths.max(initial=1))
        mask = place < lengths[:, None]
        ids = np.full(mask.shape, self.tokenizer.pad_token_id, dtype=np.int64)
        query, document, suffix = query[:, None], document[:, None], suffix[:, None]
        in_query, in_prompt = place < query, place < query + document
        ids[in_query] = queries.first(query_rows, query[:, 0])
        ids[in_prompt & ~in_query] = documents.first(document_rows, document[:, 0])
        suffixes = Ragged.of([self._suffix])
        ids[~in_prompt & (place < query + document + suffix)] = suffixes.first(np.zeros_like(query_rows), suffix[:, 0])
        ids[np.arange(len(ids)), lengths - 1] = self._eos
        return ids, mask.astype(np.int64)

    def render(self, query: str, document: str) -> list[int]:
        """Ids of one prompt."""
        (query_ids,), irregular_query = self.split_queries([query])
        (document_ids,), irregular_document = self.split_documents([document])
        if irregular_query[0] or irregular_document[0]:
            return self.whole([(query, document)])[0]
        return self.assemble(query_ids, document_ids)
