"""What rerankers beside monoT5 share: texts tokenised once, put together at batch time, in batches of like length."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inranker_flow.config import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.prompts import Ragged
from inranker_flow.rankers.batches import BATCH_TOKENS, Batches
from inranker_flow.rankers.devices import limit_threads

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

#: Bytes of a number -> the multiple that batches are padded to: attention on a CPU is up to twice as slow on odd lengths.
PAD_TO = {4: 8, 2: 16}
#: Texts that are tokenised in one call: bounds the memory of Python lists.
_CHUNK = 4096
#: Tokens that query and document need at least.
_LEAST_ROOM = 8


@dataclass(frozen=True)
class Frame:
    """The ids around query and document: ``before`` query ``between`` document ``after``.

    What the tokenizer makes of query and ``between`` together is up to the ranker; ``between`` is needed by itself for a
    query that is cut. ``max_length`` bounds ``fixed`` (tokens in front of all of it), the frame and both texts.
    """

    before: Sequence[int]
    between: Sequence[int]
    after: Sequence[int]
    max_length: int
    fixed: int = 0

    def __post_init__(self) -> None:
        least = self.max_length - self.room + len(self.between) + _LEAST_ROOM
        if self.max_length < least:
            raise UserError(
                f"max_length: {self.max_length} leaves no room for a query and a document; use {least} or more"
            )

    @property
    def room(self) -> int:
        """Tokens for the query, what stands between, and the document."""
        return self.max_length - self.fixed - len(self.before) - len(self.after)

    def cut(self, head: list[int]) -> list[int]:
        """Ids of a query and what stands between, where they leave no room for a document: the query is cut."""
        return [*head[: self.room // 2 - len(self.between)], *self.between]


class PairRanker(ABC):
    """A loaded model that reads a query and a document in one input (`rankers.Ranker`)."""

    #: Where batches are padded.
    padding: Literal["left", "right"] = "right"
    frame: Frame

    def __init__(self, reference: str, model: Any, tokenizer: Any, scoring: ScoringConfig, device: Any) -> None:
        self.reference, self.model, self.tokenizer, self.device = reference, model, tokenizer, device
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self.batches = Batches(scoring.batch_tokens or BATCH_TOKENS[device.type], PAD_TO[model.dtype.itemsize])
        if scoring.truncation == "reference":
            raise UserError(f"{reference}: truncation 'reference' is the original monoT5 code's; set it to 'document'")
        positions = _positions(model)
        if scoring.max_length > positions:
            raise UserError(
                f"{reference}: max_length {scoring.max_length} is more than the checkpoint's {positions} positions; "
                f"set max_length to {positions} or less"
            )
        model.to(device)
        limit_threads(model)
        precision = str(model.dtype).removeprefix("torch.")
        log.info("%s: %.1fM parameters on %s in %s", reference, self.parameters / 1e6, device, precision)

    @abstractmethod
    def encode_queries(self, queries: list[str]) -> list[list[int]]:
        """Token ids of each query and what stands between it and the document."""

    @abstractmethod
    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """Token ids of each document."""

    @abstractmethod
    def forward(self, ids: np.ndarray, mask: np.ndarray, in_document: np.ndarray) -> Tensor:
        """Logits [false, true], float32 (n, 2), of padded inputs.

        ``ids``, ``mask`` and ``in_document`` (1 from the document's first token to the end): int64 (n, longest).
        """

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Logits [false, true], float64 (n, 2), in the order of ``pairs``."""
        queries = {text: number for number, text in enumerate(dict.fromkeys(query for query, _ in pairs))}
        documents = {text: number for number, text in enumerate(dict.fromkeys(document for _, document in pairs))}
        index = np.array([(queries[query], documents[document]) for query, document in pairs], np.int64).reshape(-1, 2)
        job = self.prepare(queries, documents, index)
        progress = Progress("scoring", int(job.lengths.sum()), "tokens")
        logits = job.score(np.arange(len(index)), progress)
        progress.finish()
        return logits

    def prepare(self, queries: Iterable[str], documents: Iterable[str], pairs: np.ndarray) -> PairJob:
        """Tokenise each text once; ``pairs``: int (n, 2) of positions in ``queries`` and ``documents``."""
        room, cut = self.frame.room, 0

        def heads(texts: list[str]) -> list[list[int]]:
            nonlocal cut
            encoded = self.encode_queries(texts)
            # A document keeps one token at least: what is cut of it then is what `truncation="only_second"` cuts.
            cut += sum(len(ids) >= room for ids in encoded)
            return [self.frame.cut(ids) if len(ids) >= room else ids for ids in encoded]

        encoded = self._encode(heads, queries)
        if cut:
            log.warning("%s queries leave no room for a passage and are cut", f"{cut:,}")
        # What lies beyond the room can never be part of an input.
        texts = self._encode(lambda chunk: [ids[:room] for ids in self.encode_documents(chunk)], documents)
        return PairJob(self, encoded, texts, pairs, cut)

    def _encode(self, encode: Callable[[list[str]], list[list[int]]], texts: Iterable[str]) -> Ragged:
        # Half the memory where the vocabulary allows.
        kind = np.uint16 if len(self.tokenizer) <= np.iinfo(np.uint16).max else np.int32
        parts = [Ragged.of([], kind)]
        texts = iter(texts)
        while chunk := list(islice(texts, _CHUNK)):
            parts.append(Ragged.of(encode(chunk), kind))
        return Ragged.joined(parts)

    def send(self, array: np.ndarray) -> Tensor:
        """To the device; a GPU fetches it while it is still busy with the batch before."""
        import torch

        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text and nothing else; as everywhere in transformers, a special token's name becomes it."""
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids


class PairJob:
    """Pairs over texts that were tokenised once (`rankers.Job`)."""

    def __init__(
        self, ranker: PairRanker, heads: Ragged, documents: Ragged, pairs: np.ndarray, cut_queries: int
    ) -> None:
        self._ranker, self._heads, self._documents, self._pairs = ranker, heads, documents, pairs
        self.cut_queries = cut_queries
        self._before, self._after = Ragged.of([ranker.frame.before]), Ragged.of([ranker.frame.after])
        self._head = heads.lengths(pairs[:, 0])
        self._document = np.minimum(documents.lengths(pairs[:, 1]), ranker.frame.room - self._head)
        #: Tokens that are computed for each pair.
        self.lengths = len(ranker.frame.before) + self._head + self._document + len(ranker.frame.after)

    def score(self, rows: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Logits [false, true] of the pairs ``rows``, float64 (len(rows), 2)."""
        batches, lengths = self._ranker.batches, self.lengths[rows]
        done: list[tuple[np.ndarray, Tensor]] = []
        for batch in batches.split(lengths):
            done += batches.run(batch, int(lengths[batch[0]]), partial(self._forward, rows))
            if progress:
                progress.advance(int(lengths[batch].sum()))
        # Read at the end: a GPU never waits for the host between two batches.
        logits = np.empty((len(rows), 2), np.float64)
        for batch, values in done:
            logits[batch] = values.double().cpu().numpy()
        return logits

    def _forward(self, rows: np.ndarray, batch: np.ndarray) -> Tensor:
        return self._ranker.forward(*self.inputs(rows[batch]))

    def inputs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What :meth:`PairRanker.forward` takes, for the pairs ``rows``."""
        head, document, lengths = (each[rows][:, None] for each in (self._head, self._document, self.lengths))
        width = self._ranker.batches.width(int(lengths.max(initial=1)))
        # Place in the input: negative, or beyond its length, where it is padded.
        place = np.arange(width) - (width - lengths if self._ranker.padding == "left" else 0)
        mask = (place >= 0) & (place < lengths)
        ids = np.full(mask.shape, self._ranker.tokenizer.pad_token_id or 0, np.int64)
        end = np.cumsum([np.full_like(head, len(self._ranker.frame.before)), head, document], axis=0)
        query, text = self._pairs[rows].T
        one = np.zeros_like(query)
        # Row by row a mask holds consecutive places, so the ids of all rows go in as one stream.
        ids[(place >= 0) & (place < end[0])] = self._before.first(one, end[0][:, 0])
        ids[(place >= end[0]) & (place < end[1])] = self._heads.first(query, head[:, 0])
        ids[(place >= end[1]) & (place < end[2])] = self._documents.first(text, document[:, 0])
        ids[(place >= end[2]) & mask] = self._after.first(one, one + len(self._ranker.frame.after))
        return ids, mask.astype(np.int64), (mask & (place >= end[1])).astype(np.int64)


def _positions(model: Any) -> float:
    """Tokens that the model can tell apart by place."""
    for name, module in model.named_modules():
        # RoBERTa and its kin begin to count after the padding's id.
        if name.endswith("embeddings.position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None) or float("inf")
