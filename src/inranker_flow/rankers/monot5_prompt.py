"""`render(query, document) -> token ids`: the only template and truncation code of the project.

The teacher, the students in training, evaluation and serving all read exactly these ids, so training and serving
cannot drift apart (in the original code they do: training has no `</s>`, and inference cuts ` Relevant:` off long
documents).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from inranker_flow.beginnings import Beginnings
from inranker_flow.errors import UserError

#: Part of every label's identity: change it whenever the ids for some input change.
RENDERER_VERSION = "1"
#: Tokens that the original training code keeps free for `` Relevant:`` and special tokens.
_REFERENCE_SPARE = 10


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
        """Return the rows of ``parts``, one after another."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.flat for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return tokens of each of ``rows``."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def select(self, rows: np.ndarray) -> Ragged:
        """Return the rows ``rows`` alone, in that order."""
        lengths = self.lengths(rows)
        return Ragged(self.first(rows, lengths), np.concatenate([[0], np.cumsum(lengths)]))

    def first(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the first ``counts[i]`` ids of row ``rows[i]``, one row after another."""
        return self.flat[_places(self.offsets[rows], counts)]

    def alternating(
        self, rows: np.ndarray, counts: np.ndarray, other: Ragged, other_rows: np.ndarray, other_counts: np.ndarray
    ) -> np.ndarray:
        """As :meth:`first`, with the ids of a row of ``other`` after those of each row; fastest where both share ``flat``.

        Counts may go beyond the end of a row: what is there instead is of no meaning.
        """
        starts, both = np.empty((2, 2 * len(rows)), np.int64)
        starts[::2], starts[1::2] = self.offsets[rows], other.offsets[other_rows]
        both[::2], both[1::2] = counts, other_counts
        places = _places(starts, both)
        if self.flat is other.flat:
            return self.flat.take(places, mode="clip")
        own = np.repeat(np.arange(len(both)) % 2 == 0, both)
        ids = np.empty(len(places), np.int64)
        for part, flat in ((own, self.flat), (~own, other.flat)):
            ids[part] = flat.take(places[part], mode="clip") if len(flat) else 0
        return ids


def common(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (places in ``values`` of those that ``known``, which ascends, holds, their places in ``known``)."""
    numbers = np.searchsorted(known, values)
    places = np.flatnonzero(known[np.minimum(numbers, len(known) - 1)] == values) if len(known) else np.empty(0, int)
    return places, numbers[places]


def tokenizer_identity(tokenizer: Any) -> list[str]:
    """Return what a tokenizer does: its kind, and a digest of its content."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return [type(tokenizer).__name__, blake2b(content.encode(), digest_size=16).hexdigest()]


def _places(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return ``counts[i]`` numbers from ``starts[i]`` on, one run after another."""
    ends = np.cumsum(counts)
    places = np.repeat(starts - (ends - counts), counts)
    places += np.arange(len(places))
    return places


@dataclass
class Renderer:
    """monoT5's prompt ``Query: {query} Document: {document} Relevant:`` (arXiv 2003.06713, section 3) as token ids.

    ``truncation="document"`` (default): the document is cut so that `` Relevant:`` and ``</s>`` always survive; a query
    that leaves no room for a document is cut too. ``truncation="reference"``: the finished prompt is cut on the right
    and ``</s>`` added, which is what the original inference code does (InRanker, ``rankers.py``).

    ``append_eos=False`` leaves ``</s>`` away. With ``truncation="reference"`` the ids are then those that the original
    trains on (InRanker, ``training/trainer.py``): the document is cut to ``max_length`` less 10 less the query, and no part
    sees its neighbour.

    Parts are tokenised once and joined, which gives the ids of the whole string wherever the tokenizer keeps to words (T5's
    do). A text whose tokens would be others beside its neighbour is *irregular*: the prompts it is in are tokenised whole.
    """

    tokenizer: Any
    max_length: int = 512
    truncation: Literal["document", "reference"] = "document"
    append_eos: bool = True
    _suffix: list[int] = field(init=False, repr=False)
    _document: list[int] = field(init=False, repr=False)
    _eos: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._suffix, self._document = self._encode([" Relevant:"])[0], self._encode([" Document:"])[0]
        self._eos = self.tokenizer.eos_token_id
        if self.max_length < len(self._suffix) + 8:
            raise UserError(
                f"max_length: {self.max_length} leaves no room for a query and a document; use 16 or more",
                code="setting-value",
            )

    @property
    def identity(self) -> list[Any]:
        """Return the settings and the tokenizer that decide the tokens of a text."""
        return [
            RENDERER_VERSION,
            *tokenizer_identity(self.tokenizer),
            self.max_length,
            self.truncation,
            self.append_eos,
        ]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []  # transformers takes no empty list
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def encode_queries(self, queries: Sequence[str]) -> list[list[int]]:
        """Return token ids of ``Query: {query}``, one list for each query."""
        return self.split_queries(queries)[0]

    def encode_documents(self, documents: Sequence[str]) -> list[list[int]]:
        """Return token ids of ``Document: {document}``, one list for each document."""
        return self.split_documents(documents)[0]

    def begin_queries(self, queries: Iterable[str]) -> Iterator[str]:
        """Return the beginnings of queries that a prompt can hold (see `beginnings`)."""
        return Beginnings(self.tokenizer, self.max_length, "Query: ").of(queries)

    def begin_documents(self, documents: Iterable[str]) -> Iterator[str]:
        """As :meth:`begin_queries`."""
        return Beginnings(self.tokenizer, self.max_length, "Document: ").of(documents)

    @property
    def parts_alone(self) -> bool:
        """Whether parts are what they are without a neighbour, even where they are irregular."""
        return self.truncation == "reference" and not self.append_eos

    def split_queries(self, queries: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Return token ids of ``Query: {query}``, and which of the queries are irregular (bool)."""
        end = len(self._document)
        encoded = self._encode([f"Query: {query} Document:" for query in queries])
        regular = np.array([ids[-end:] == self._document for ids in encoded], bool)
        return self._parts("Query: ", queries, [ids[:-end] for ids in encoded], regular)

    def split_documents(self, documents: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Return token ids of ``Document: {document}``, and which of the documents are irregular (bool)."""
        start, end = len(self._document), len(self._suffix)
        encoded = self._encode([f"Document: {document} Relevant:" for document in documents])
        regular = np.array([ids[-end:] == self._suffix and ids[:start] == self._document for ids in encoded], bool)
        return self._parts("Document: ", documents, [ids[:-end] for ids in encoded], regular)

    def _parts(
        self, before: str, texts: Sequence[str], parts: list[list[int]], regular: np.ndarray
    ) -> tuple[list[list[int]], np.ndarray]:
        """Return ``parts``, with irregular ones as they are without a neighbour."""
        places = np.flatnonzero(~regular).tolist()
        if places:
            for place, ids in zip(places, self._encode([before + texts[place] for place in places]), strict=True):
                parts[place] = ids
        return parts, ~regular

    def whole(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Return ids of prompts that are tokenised as one string each; where one is too long, the rules of :meth:`assemble`."""
        prompts = self._encode([f"Query: {query} Document: {document} Relevant:" for query, document in pairs])
        return [self._cut(ids, *pair) for ids, pair in zip(prompts, pairs, strict=True)]

    def _cut(self, prompt: list[int], query: str, document: str) -> list[int]:
        most = self.max_length - len(self._end)
        if len(prompt) <= most or self.truncation == "reference":
            return [*prompt[:most], *self._end]
        parts = self.split_queries([query])[0][0], self.split_documents([document])[0][0]
        room = most - len(self._suffix)
        if len(parts[0]) > room // 2 or prompt[-len(self._suffix) :] != self._suffix:
            return self.assemble(*parts)
        return [*prompt[:room], *self._suffix, *self._end]

    def assemble(self, query_ids: Sequence[int], document_ids: Sequence[int]) -> list[int]:
        """Return ids of one prompt from parts that were tokenised once; at most ``max_length`` long, ``</s>`` included."""
        lengths = np.array([len(query_ids)]), np.array([len(document_ids)])
        query, document, suffix = (int(each[0]) for each in self.kept(*lengths))
        return [*query_ids[:query], *document_ids[:document], *self._suffix[:suffix], *self._end]

    @property
    def _end(self) -> list[int]:
        return [self._eos] if self.append_eos else []

    def kept(
        self, query_lengths: np.ndarray, document_lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tokens that :meth:`assemble` keeps of each query, document and `` Relevant:``; ``</s>`` comes on top."""
        suffix = np.full_like(query_lengths, len(self._suffix))
        most = self.max_length - len(self._end)
        if self.truncation == "reference":
            if not self.append_eos:
                # Of a query of more than 502 tokens the original cuts the document at a negative place: from its end.
                left = self.max_length - _REFERENCE_SPARE - query_lengths
                document_lengths = np.where(
                    left < 0, np.maximum(document_lengths + left, 0), np.minimum(document_lengths, left)
                )
            query = np.minimum(query_lengths, most)
            document = np.minimum(document_lengths, most - query)
            return query, document, np.minimum(suffix, most - query - document)
        room = most - len(self._suffix)
        query = np.minimum(query_lengths, np.maximum(room // 2, room - document_lengths))
        return query, np.minimum(document_lengths, room - query), suffix

    @property
    def closing(self) -> int:
        """Tokens that a prompt has beside what :meth:`kept` says: ``</s>``, or none."""
        return len(self._end)

    def assemble_batch(
        self, queries: Ragged, query_rows: np.ndarray, documents: Ragged, document_rows: np.ndarray, pad_to: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`assemble` for many pairs at once.

        Returns (ids, attention mask), both int64 of shape (pairs, longest prompt), padded on the right to a multiple of
        ``pad_to``.
        """
        query, document, suffix = self.kept(queries.lengths(query_rows), documents.lengths(document_rows))
        middle = query + document
        lengths = middle + suffix + len(self._end)
        longest = int(lengths.max(initial=1))
        longest += -longest % pad_to
        mask = np.arange(longest) < lengths[:, None]
        ids = np.full(mask.shape, self.tokenizer.pad_token_id, dtype=np.int64)
        # As many ids of each document as the prompt goes on after the query; the end is put over them below.
        ids[mask] = queries.alternating(query_rows, query, documents, document_rows, lengths - query)
        tail = np.array([*self._suffix, *self._end])
        if self.truncation == "document" or (suffix == len(self._suffix)).all():
            ids[np.arange(len(ids))[:, None], middle[:, None] + np.arange(len(tail))] = tail
        else:
            for row, start, count in zip(ids, middle.tolist(), suffix.tolist(), strict=True):
                left = [*self._suffix[:count], *self._end]
                row[start : start + len(left)] = left
        return ids, mask.astype(np.int64)

    def render(self, query: str, document: str) -> list[int]:
        """Return ids of one prompt."""
        (query_ids,), irregular_query = self.split_queries([query])
        (document_ids,), irregular_document = self.split_documents([document])
        if (irregular_query[0] or irregular_document[0]) and not self.parts_alone:
            return self.whole([(query, document)])[0]
        return self.assemble(query_ids, document_ids)
