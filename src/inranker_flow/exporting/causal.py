"""The graph of a causal language model: the whole prompt in, the logits of the two answers as its next token out."""

from __future__ import annotations

from typing import Any

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.exporting.graph import Graph
from inranker_flow.rankers.causal import CausalRanker, CausalReader
from inranker_flow.rankers.checkpoints import load_tokenizer


class CausalGraph(Graph):
    """Answers with the logits of the words for false and true, (n, 2)."""

    inputs = ("input_ids", "attention_mask", "position_ids")
    reader: CausalReader

    def __init__(self, reference: str, scoring: ScoringConfig) -> None:
        self._reference, self._scoring = reference, scoring
        self.reader = CausalReader(reference, load_tokenizer(reference), scoring)

    def feeds(self, *prompts: np.ndarray) -> tuple[np.ndarray, ...]:
        ids, mask, _ = prompts
        # The first token of a prompt is at 0, however much padding is in front of it.
        return ids, mask, np.maximum(np.cumsum(mask, axis=1) - 1, 0)

    def logits(self, found: np.ndarray) -> np.ndarray:
        one = self.reader.labels[0] == self.reader.labels[1]
        return found * np.array([-0.5, 0.5], np.float32) if one else found

    def module(self) -> Any:
        import torch

        model = CausalRanker(self._reference, self._scoring).model.cpu()

        class LastTwo(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.module = model

            def forward(self, ids: Any, mask: Any, positions: Any) -> Any:
                found = self.module(
                    input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
                )
                return found.logits[:, -1]

        return LastTwo().eval()
