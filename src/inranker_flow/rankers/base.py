"""What every ranker is made of: a reader (texts to prompts, no weights), a model, and jobs: prompts that it scores."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from inranker_flow.progress import Progress
from inranker_flow.rankers.batches import Batches
from inranker_flow.rankers.texts import Texts

if TYPE_CHECKING:
    from torch import Tensor


log = logging.getLogger(__name__)


def forward_passes() -> tuple[Any, Any]:
    """Return the modules `t5_forward` and `bert_forward`, which import torch."""
    from inranker_flow.rankers import bert_forward, t5_forward

    return t5_forward, bert_forward


class CutQueries:
    """Tells of queries that are too long: in one line for a model, and in another only where there are more of them.

    (A model that is timed scores query by query.)
    """

    def __init__(self) -> None:
        self._told = 0

    def tell(self, count: int) -> None:
        if count > self._told:
            log.warning("%s queries leave no room for a passage and are cut", f"{count:,}")
            self._told = count


class Prompts(Protocol):
    """The prompts of many pairs over texts that were tokenised once."""

    #: Tokens of each pair's prompt, int (n,).
    lengths: np.ndarray
    #: Queries that are too long for a prompt and were cut to leave room for the passage.
    cut_queries: int

    def inputs(self, rows: np.ndarray, pad_to: int = 1, known: int = 0) -> tuple[np.ndarray, ...]:
        """Return the model's inputs for the pairs ``rows``: ids, mask, ..., int64 (len(rows), padded length).

        ``known``: tokens that all prompts begin with and that are left away.
        """
        ...

    def select(self, rows: np.ndarray) -> Prompts:
        """Return the prompts of the pairs ``rows`` alone, in that order."""
        ...

    def save(self, folder: Path) -> None:
        """Write the arrays that :meth:`Reader.open` maps."""
        ...


class Reader(Protocol):
    """Makes prompts of texts: tokenizer and template of a ranker, without its weights."""

    tokenizer: Any

    @property
    def identity(self) -> str:
        """Readers with the same one make the same prompts."""
        ...

    def prepare(
        self, queries: Iterable[str], documents: Iterable[str], pairs: np.ndarray, folder: Path | None = None
    ) -> Prompts:
        """Tokenise each text once. ``pairs``: int (n, 2), the positions of query and document of each pair.

        ``folder``: an empty one, where tokens go instead of into memory, as :meth:`open` maps them.
        """
        ...

    def open(self, folder: Path) -> Prompts:
        """Return prompts that were saved in ``folder``: mapped, not read, so that processes share them."""
        ...


class Ranker(ABC):
    """A loaded reranker."""

    #: Number of weights.
    parameters: int
    #: A torch device.
    device: Any
    reader: Reader
    batches: Batches
    #: Tokens at the beginning of every prompt that were computed once and for all.
    known: int = 0

    @abstractmethod
    def forward(self, *inputs: Any, **named: Any) -> Tensor | np.ndarray:
        """Return logits [false, true], float32 (n, 2), of padded prompts (see :meth:`Prompts.inputs`)."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return logits [false, true] of (query, passage) pairs, float64 (n, 2), in the order of ``pairs``."""
        job = self.prepare_pairs(pairs)
        progress = Progress("scoring", int(job.lengths.sum()), "tokens")
        logits = job.score(np.arange(len(pairs)), progress)
        progress.finish()
        return logits

    def prepare_pairs(self, pairs: Sequence[tuple[str, str]]) -> Job:
        """As :meth:`prepare`, of (query, passage) pairs; equal texts are tokenised once."""
        texts = Texts.of(pairs)
        return self.prepare(texts.queries, texts.documents, texts.index)

    def prepare(self, queries: Iterable[str], documents: Iterable[str], pairs: np.ndarray) -> Job:
        """Tokenise each text once (see :meth:`Reader.prepare`)."""
        return self.job(self.reader.prepare(queries, documents, pairs))

    def job(self, prompts: Prompts) -> Job:
        """Return the job of scoring ``prompts``, which :attr:`reader` has prepared."""
        return Job(self, prompts)

    def send(self, array: np.ndarray) -> Tensor:
        """To the device; a GPU fetches it while it is still busy with the batch before."""
        import torch

        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


class Counter(Protocol):
    """A receiver of the count of scored tokens (`progress.Progress`)."""

    def advance(self, amount: int) -> None: ...


class Job:
    """Prompts, and the ranker that scores them."""

    def __init__(self, ranker: Ranker, prompts: Prompts) -> None:
        self._ranker, self._prompts = ranker, prompts
        #: Tokens that are computed for each pair, int (n,): what scoring it costs.
        self.lengths = prompts.lengths - ranker.known if ranker.known else prompts.lengths
        #: Queries that are too long for a prompt and were cut to leave room for the passage.
        self.cut_queries = prompts.cut_queries

    def score(self, rows: np.ndarray, progress: Counter | None = None) -> np.ndarray:
        """Return logits [false, true] of the pairs ``rows`` (indices, any order), float64 (len(rows), 2), in that order.

        ``progress`` is advanced by the prompts' tokens.
        """
        batches, lengths = self._ranker.batches, self.lengths[rows]
        done: list[tuple[np.ndarray, Tensor | np.ndarray]] = []
        for batch in batches.split(lengths):
            done += batches.run(batch, int(lengths[batch[0]]), partial(self._forward, rows))
            if progress:
                progress.advance(int(lengths[batch].sum()))
        # Read at the end: a GPU never waits for the host between two batches.
        logits = np.empty((len(rows), 2), np.float64)
        for batch, values in done:
            logits[batch] = values if isinstance(values, np.ndarray) else values.double().cpu().numpy()
        return logits

    def inputs(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the model's inputs for the pairs ``rows``."""
        return self._prompts.inputs(rows, self._ranker.batches.pad_to, self._ranker.known)

    def _forward(self, rows: np.ndarray, batch: np.ndarray) -> Tensor | np.ndarray:
        return self._ranker.forward(*self.inputs(rows[batch]))
