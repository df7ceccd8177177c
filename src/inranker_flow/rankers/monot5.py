"""The monoT5 family: the logits of "false" and "true" at the first decoder step (arXiv 2003.06713)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from inranker_flow.config import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.prompts import Ragged, Renderer
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq
from inranker_flow.rankers.devices import limit_threads, pick_device, pick_dtype

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

#: Padded tokens in one batch. A CPU is fastest while activations fit its cache; a GPU wants large products.
BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}
#: Prompts are padded to a multiple of this: attention on a CPU is up to 1.5 times slower on odd lengths.
PAD_TO = 8
#: Texts that are tokenised in one call: bounds the memory of Python lists.
_CHUNK = 4096


class MonoT5Ranker:
    """A T5 checkpoint that answers ``Query: ... Document: ... Relevant:`` with true or false."""

    def __init__(self, reference: str, scoring: ScoringConfig, revision: str = "") -> None:
        self.device = pick_device()
        self.model, self.tokenizer = load_seq2seq(reference, revision, dtype=pick_dtype(scoring.dtype, self.device))
        labels = label_token_ids(self.tokenizer, scoring.false_token, scoring.true_token)
        self.renderer = Renderer(self.tokenizer, scoring.max_length, scoring.truncation)
        self.parameters = sum(weight.numel() for weight in self.model.parameters())
        self.batch_tokens = scoring.batch_tokens or BATCH_TOKENS[self.device.type]
        self.model.lm_head = _two_rows(self.model.get_output_embeddings(), labels)
        self.model.to(self.device)
        limit_threads(self.model)
        config = self.model.config
        self._start = (
            config.decoder_start_token_id if config.decoder_start_token_id is not None else config.pad_token_id
        )
        precision = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        log.info("%s: %.1fM parameters on %s in %s", reference, self.parameters / 1e6, self.device, precision)

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

    def prepare(self, queries: Iterable[str], documents: Iterable[str], pairs: np.ndarray) -> MonoT5Job:
        """Tokenise each text once; ``pairs``: int (n, 2) of positions in ``queries`` and ``documents``."""
        encoded = self._encode(self.renderer.encode_queries, queries)
        return MonoT5Job(self, encoded, self._encode(self.renderer.encode_documents, documents), pairs)

    def _encode(self, encode: Callable[[list[str]], list[list[int]]], texts: Iterable[str]) -> Ragged:
        """Token ids of ``texts``, without what lies beyond ``max_length`` and so can never be part of a prompt."""
        # Half the memory where the vocabulary allows.
        kind = np.uint16 if len(self.tokenizer) <= np.iinfo(np.uint16).max else np.int32
        parts = [Ragged.of([], kind)]
        texts = iter(texts)
        while chunk := list(islice(texts, _CHUNK)):
            parts.append(Ragged.of([ids[: self.renderer.max_length] for ids in encode(chunk)], kind))
        return Ragged.joined(parts)

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> Tensor:
        """Logits [false, true], float32 (n, 2), of padded prompts: ``ids`` and ``mask`` int64 (n, longest)."""
        import torch

        with torch.inference_mode():
            # The mask is never left out: transformers would attend to the padding, and scores depend on the batch.
            output = self.model(
                input_ids=torch.from_numpy(ids).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
                decoder_input_ids=torch.full((len(ids), 1), self._start, device=self.device),
                use_cache=False,
            )
            logits: Tensor = output.logits[:, 0]
        return logits


class MonoT5Job:
    """Pairs over texts that were tokenised once (`rankers.Job`)."""

    def __init__(self, ranker: MonoT5Ranker, queries: Ragged, documents: Ragged, pairs: np.ndarray) -> None:
        self._ranker, self._queries, self._documents, self._pairs = ranker, queries, documents, pairs
        kept = ranker.renderer.kept(queries.lengths(pairs[:, 0]), documents.lengths(pairs[:, 1]))
        self.lengths = np.sum(kept, axis=0) + 1

    def score(self, rows: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Logits [false, true] of the pairs ``rows``, float64 (len(rows), 2)."""
        logits = np.empty((len(rows), 2), np.float64)
        for batch in self._batches(rows):
            chosen = rows[batch]
            logits[batch] = self._ranker.forward(*self.prompts(chosen)).double().cpu().numpy()
            if progress:
                progress.advance(int(self.lengths[chosen].sum()))
        return logits

    def prompts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and attention mask of the pairs ``rows``, int64 (len(rows), longest), padded on the right."""
        query, document = self._pairs[rows].T
        ids, mask = self._ranker.renderer.assemble_batch(self._queries, query, self._documents, document)
        more = (0, 0), (0, -ids.shape[1] % PAD_TO)
        return np.pad(ids, more, constant_values=self._ranker.tokenizer.pad_token_id), np.pad(mask, more)

    def _batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Positions in ``rows``, longest first (what does not fit in memory fails at once), by padded tokens."""
        lengths = self.lengths[rows]
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            width = -(-int(lengths[order[start]]) // PAD_TO) * PAD_TO
            end = start + max(self._ranker.batch_tokens // width, 1)
            yield order[start:end]
            start = end


def _two_rows(head: Any, labels: tuple[int, int]) -> Any:
    """The output layer reduced to the two label tokens, computed in float32: bfloat16 would round logits to 3 digits.

    The model's own forward pass stays in front of it, so the scaling of tied checkpoints (T5 v1.0) is as it was.
    """
    import torch

    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        raise UserError(
            f"the output layer of this checkpoint is a {type(head).__name__}; only T5 models are understood"
        )

    class TwoRows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # A plain tensor, not a parameter: it stays in float32 and is not saved.
            self.register_buffer("rows", head.weight[list(labels)].detach().float().clone(), persistent=False)

        def forward(self, hidden: Tensor) -> Tensor:
            return torch.nn.functional.linear(hidden.float(), self.rows)

    return TwoRows()
