"""What rerankers beside monoT5 share: texts tokenised once, put together at batch time, in batches of like length."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inranker_flow.beginnings import Beginnings, chunks
from inranker_flow.config.sections import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers import arrays
from inranker_flow.rankers.base import CutQueries, Ranker
from inranker_flow.rankers.batches import Batches
from inranker_flow.rankers.devices import limit_threads
from inranker_flow.rankers.monot5_pairs import CHUNK, id_kind
from inranker_flow.rankers.monot5_prompt import Ragged, tokenizer_identity

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

#: Tokens that query and document need at least.
_LEAST_ROOM = 8


@dataclass(frozen=True)
class Frame:
    """The ids around query and document: ``before`` query ``between`` document ``after``.

    What the tokenizer makes of query and ``between`` together is up to the reader; ``between`` is needed by itself for a
    query that is cut. ``max_length`` bounds the frame and both texts.
    """

    before: Sequence[int]
    between: Sequence[int]
    after: Sequence[int]
    max_length: int

    def __post_init__(self) -> None:
        least = self.max_length - self.room + len(self.between) + _LEAST_ROOM
        if self.max_length < least:
            raise UserError(
                f"max_length: {self.max_length} leaves no room for a query and a document; use {least} or more",
                code="setting-value",
            )

    @property
    def room(self) -> int:
        """Tokens for the query, what stands between, and the document."""
        return self.max_length - len(self.before) - len(self.after)

    def cut(self, head: list[int]) -> list[int]:
        """Return ids of a query and what stands between, where they leave no room for a document: the query is cut."""
        return [*head[: self.room // 2 - len(self.between)], *self.between]


class PairReader(ABC):
    """Tokenizer and template of a model that reads a query and a document in one input (`rankers.base.Reader`)."""

    #: Where batches are padded.
    padding: Literal["left", "right"] = "right"
    #: What stands in front of a query and of a document, as far as it may change their first tokens.
    before_query = before_document = ""
    frame: Frame

    def __init__(self, reference: str, tokenizer: Any, scoring: ScoringConfig) -> None:
        self.tokenizer, self._scoring, self._cut = tokenizer, scoring, CutQueries()
        if scoring.truncation == "reference":
            raise UserError(
                f"{reference}: truncation 'reference' is the original monoT5 code's; set it to 'document'",
                code="setting-conflict",
            )

    @cached_property
    def identity(self) -> str:
        reads = self._scoring.max_length, self._scoring.prompt, self._scoring.instruction
        return json.dumps([type(self).__name__, *tokenizer_identity(self.tokenizer), *reads])

    @abstractmethod
    def encode_queries(self, queries: list[str]) -> list[list[int]]:
        """Return token ids of each query and what stands between it and the document."""

    @abstractmethod
    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """Return token ids of each document."""

    def prepare(
        self, queries: Iterable[str], documents: Iterable[str], pairs: np.ndarray, folder: Path | None = None
    ) -> PairPrompts:
        """Tokenise each text once; ``pairs``: int (n, 2) of positions in ``queries`` and ``documents``."""
        room, cut = self.frame.room, 0

        def heads(texts: list[str]) -> list[list[int]]:
            nonlocal cut
            encoded = self.encode_queries(texts)
            # A document keeps one token at least: what is cut of it then is what `truncation="only_second"` cuts.
            cut += sum(len(ids) >= room for ids in encoded)
            return [self.frame.cut(ids) if len(ids) >= room else ids for ids in encoded]

        queries = Beginnings(self.tokenizer, room, self.before_query).of(queries)
        documents = Beginnings(self.tokenizer, room, self.before_document).of(documents)
        kind = id_kind(self.tokenizer)
        encoded = _encoded(arrays.Ids(kind, folder, "heads"), heads, queries)
        self._cut.tell(cut)
        # What lies beyond the room can never be part of an input.
        texts = _encoded(
            arrays.Ids(kind, folder, "documents"),
            lambda chunk: [ids[:room] for ids in self.encode_documents(chunk)],
            documents,
        )
        if folder:
            arrays.save(folder, pairs=pairs)
            arrays.join(folder, ("heads", "documents"), kind)
            encoded, texts = arrays.mapped_ragged(folder, "heads", "documents")
        return PairPrompts(self, encoded, texts, pairs, cut)

    def open(self, folder: Path) -> PairPrompts:
        """Return prompts that were saved in ``folder``; how many queries were cut is not known any more."""
        heads, documents = arrays.mapped_ragged(folder, "heads", "documents")
        return PairPrompts(self, heads, documents, arrays.mapped(folder, "pairs"), 0)

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids of each text and nothing else; as everywhere in transformers, a special token's name becomes it."""
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids


def _encoded(ids: arrays.Ids, encode: Callable[[list[str]], list[list[int]]], texts: Iterable[str]) -> Ragged:
    for chunk in chunks(texts, CHUNK):
        ids.add(encode(chunk))
    return ids.done()


class PairPrompts:
    """Inputs of many pairs over texts that were tokenised once (`rankers.base.Prompts`)."""

    def __init__(
        self, reader: PairReader, heads: Ragged, documents: Ragged, pairs: np.ndarray, cut_queries: int
    ) -> None:
        self._reader, self._heads, self._documents, self._pairs = reader, heads, documents, pairs
        self.cut_queries = cut_queries
        self._after = Ragged.of([reader.frame.after])
        head, document = self._lengths(slice(None))
        self.lengths = len(reader.frame.before) + head + document + len(reader.frame.after)

    def _lengths(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens of the pairs' queries (and what stands between) and documents in their inputs."""
        head = self._heads.lengths(self._pairs[rows, 0])
        return head, np.minimum(self._documents.lengths(self._pairs[rows, 1]), self._reader.frame.room - head)

    def select(self, rows: np.ndarray) -> PairPrompts:
        """Return the inputs of the pairs ``rows`` alone, in that order; of cut queries the same are counted."""
        return PairPrompts(self._reader, self._heads, self._documents, self._pairs[rows], self.cut_queries)

    def save(self, folder: Path) -> None:
        """Write the arrays that :meth:`PairReader.open` maps."""
        arrays.save(folder, pairs=self._pairs)
        arrays.save_ragged(folder, heads=self._heads, documents=self._documents)

    def inputs(self, rows: np.ndarray, pad_to: int = 1, known: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids, mask, and 1 from the document's first token to the end: int64 (len(rows), padded length).

        ``known`` is 0, or the length of the frame's beginning, which is left away then.
        """
        frame = self._reader.frame
        before = Ragged.of([frame.before[known:]])
        head, document = (each[:, None] for each in self._lengths(rows))
        lengths = self.lengths[rows][:, None] - known
        # Padding takes places too, and a model may have no more than `max_length`.
        width = min(-(-int(lengths.max(initial=1)) // pad_to) * pad_to, frame.max_length - known)
        # Place in the input: negative, or beyond its length, where it is padded.
        place = np.arange(width) - (width - lengths if self._reader.padding == "left" else 0)
        mask = (place >= 0) & (place < lengths)
        ids = np.full(mask.shape, self._reader.tokenizer.pad_token_id or 0, np.int64)
        end = np.cumsum([np.full_like(head, len(frame.before) - known), head, document], axis=0)
        query, text = self._pairs[rows].T
        one = np.zeros_like(query)
        # Row by row a mask holds consecutive places, so the ids of all rows go in as one stream.
        ids[(place >= 0) & (place < end[0])] = before.first(one, end[0][:, 0])
        ids[(place >= end[0]) & (place < end[1])] = self._heads.first(query, head[:, 0])
        ids[(place >= end[1]) & (place < end[2])] = self._documents.first(text, document[:, 0])
        ids[(place >= end[2]) & mask] = self._after.first(one, one + len(frame.after))
        return ids, mask.astype(np.int64), (mask & (place >= end[1])).astype(np.int64)


class PairRanker(Ranker):
    """A loaded model that reads a query and a document in one input."""

    reader: PairReader

    def __init__(self, reference: str, model: Any, reader: PairReader, scoring: ScoringConfig, device: Any) -> None:
        self.reference, self.model, self.reader, self.device = reference, model, reader, device
        self.tokenizer = reader.tokenizer
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self.batches = Batches.of(scoring, device, model.dtype)
        check_positions(reference, model, scoring.max_length)
        model.to(device)
        limit_threads(model)
        precision = str(model.dtype).removeprefix("torch.")
        log.info("%s: %.1fM parameters on %s in %s", reference, self.parameters / 1e6, device, precision)

    @abstractmethod
    def forward(self, ids: np.ndarray, mask: np.ndarray, in_document: np.ndarray) -> Tensor:
        """Return logits [false, true], float32 (n, 2), of padded inputs.

        ``ids``, ``mask`` and ``in_document`` (1 from the document's first token to the end): int64 (n, longest).
        """


def check_positions(reference: str, model: Any, max_length: int) -> None:
    """Raise :class:`UserError` where a model cannot read ``max_length`` tokens."""
    positions = _positions(model)
    if max_length > positions:
        raise UserError(
            f"{reference}: max_length {max_length} is more than the checkpoint's {positions} positions; set max_length to "
            f"{positions} or less",
            code="setting-value",
        )


def _positions(model: Any) -> float:
    """Return tokens that the model can tell apart by place."""
    for name, module in model.named_modules():
        # RoBERTa and its kin begin to count after the padding's id.
        if name.endswith("embeddings.position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None) or float("inf")
