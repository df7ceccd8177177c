"""monoT5 (arXiv 2003.06713): the logits of two words at the first decoder step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from inranker_flow.config import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.prompts import Renderer
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq

log = logging.getLogger(__name__)

#: Padded tokens in a batch: a CPU's caches want few, a GPU many (measured on t5-small).
CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS = 4_096, 32_768


class MonoT5Ranker:
    """Any T5-style sequence-to-sequence checkpoint with a word for true and one for false."""

    def __init__(self, reference: str, scoring: ScoringConfig, revision: str = "") -> None:
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, tokenizer = load_seq2seq(reference, revision, dtype=_dtype(scoring.dtype, self.device))
        self.reference = reference
        self.labels = label_token_ids(tokenizer, scoring.false_token, scoring.true_token, reference)
        self.renderer = Renderer(tokenizer, scoring.max_length, scoring.truncation)
        self.parameters: int = sum(weights.numel() for weights in model.parameters())
        self._model = model.eval().to(self.device)
        default = CUDA_BATCH_TOKENS if self.device.type == "cuda" else CPU_BATCH_TOKENS
        self.batch_tokens = scoring.batch_tokens or default

    def render(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Token ids of each pair; each distinct query and passage is tokenised once."""
        queries = list(dict.fromkeys(query for query, _ in pairs))
        passages = list(dict.fromkeys(passage for _, passage in pairs))
        query_ids = dict(zip(queries, self.renderer.encode_queries(queries), strict=True))
        passage_ids = dict(zip(passages, self.renderer.encode_documents(passages), strict=True))
        return [self.renderer.assemble(query_ids[query], passage_ids[passage]) for query, passage in pairs]

    def score(self, pairs: Sequence[tuple[str, str]], progress: Progress | None = None) -> np.ndarray:
        """Logits [false, true], shape (n, 2), float64, in the order of ``pairs``. Work is done longest first."""
        return self.score_ids(self.render(pairs), progress) if pairs else np.empty((0, 2))

    def score_ids(self, prompts: Sequence[Sequence[int]], progress: Progress | None = None) -> np.ndarray:
        """The same for prompts that are token ids already."""
        import torch

        scores = np.empty((len(prompts), 2), dtype=np.float64)
        progress = progress or Progress("scoring", sum(map(len, prompts)), "tokens")
        with torch.inference_mode():
            for rows in batches_by_length([len(prompt) for prompt in prompts], self.batch_tokens):
                scores[rows] = self._forward([prompts[row] for row in rows]).double().cpu().numpy()
                progress.advance(sum(len(prompts[row]) for row in rows))
        bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        if bad.size:
            raise UserError(
                f"{self.reference}: {bad.size} of {len(scores)} pairs have logits that are not finite; "
                "set dtype to float32 or bfloat16 (T5 overflows in float16), or check the checkpoint"
            )
        return scores

    def _forward(self, prompts: Sequence[Sequence[int]]) -> Any:
        import torch

        input_ids, mask = pad(prompts, self.renderer.tokenizer.pad_token_id)
        start = torch.full((len(prompts), 1), self._model.config.decoder_start_token_id, device=self.device)
        # transformers 5 infers a missing mask for decoder-only models alone: without it, padding would change T5's scores.
        logits = self._model(
            input_ids=torch.from_numpy(input_ids).to(self.device),
            attention_mask=torch.from_numpy(mask).to(self.device),
            decoder_input_ids=start,
            use_cache=False,
        ).logits
        return logits[:, 0, list(self.labels)]


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of at most ``batch_tokens`` padded tokens (at least one row), longest rows first."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        rows = max(batch_tokens // max(lengths[order[start]], 1), 1)
        yield order[start : start + rows]
        start += rows


def pad(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask), both int64 of shape (prompts, longest), padded on the right."""
    lengths = np.fromiter(map(len, prompts), dtype=np.int64, count=len(prompts))
    mask = (np.arange(lengths.max(initial=1)) < lengths[:, None]).astype(np.int64)
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask.astype(bool)] = np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in prompts])
    return ids, mask


def _dtype(name: str, device: Any) -> Any:
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, name)
